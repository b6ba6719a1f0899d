//! The proof that the known answers tell wrong arithmetic from right: deliberately
//! wrong forms of the kernels must fail them.

use super::bench::Bench;
use super::cases::SUITES;
use crate::device::Device;
use crate::error::EngineError;
use crate::gpu::kernel::{Flaw, Form};
use serde::{Deserialize, Serialize};

/// What the known answers made of one kind of wrong arithmetic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlawReport {
    /// What was wrong.
    pub flaw: String,
    /// Kernels that it changes, and whose known answers showed it.
    pub caught: Vec<String>,
    /// Kernels whose known answers did not: this must stay empty.
    pub missed: Vec<String>,
}

/// Whether wrong arithmetic of this kind can change what a kernel gives.
pub(super) fn matters(flaw: Flaw, op: &str) -> bool {
    // Integers throughout, or copies.
    let integers = ["pack_rows", "pack_columns", "matmul", "embedding", "gemm_operand", "gemm_fold"];
    let never_rounds = ["embedding", "gemm_operand", "gemm_fold"];
    // Single sums, or sums in an order of their own.
    let sums = ["group_sum", "embedding_gradient", "add", "sum_peak", "accumulate"];
    let without_tree = ["rope", "swiglu", "swiglu_backward", "adamw", "adamw_preview"];
    // Nothing is added up but what has one place.
    let without_tree = |op| without_tree.contains(&op) || (op.starts_with("muon") && op != "muon_norm");
    match flaw {
        // A product, and nothing else.
        Flaw::Fused if op == "muon_scale" => false,
        Flaw::Fused => !integers.contains(&op) && !sums.contains(&op),
        Flaw::Reassociated => !integers.contains(&op) && !sums.contains(&op) && !without_tree(op),
        // Nothing that faint can reach the limit, which is all these two tell.
        Flaw::FlushesSubnormals | Flaw::FlushesEarly if ["sum_peak", "adamw_preview", "muon_preview"].contains(&op) => {
            false
        }
        // ε is added to what they change.
        Flaw::FlushesSubnormals | Flaw::FlushesEarly if op == "muon_norm" => false,
        // The norm of such faint gradients is 0 either way.
        Flaw::FlushesSubnormals if op == "gradient_scale" => false,
        // The product ends in `canon`.
        Flaw::FlushesSubnormals | Flaw::FlushesEarly => op == "matmul" || !integers.contains(&op),
        Flaw::Truncates => !never_rounds.contains(&op),
        // A tie at the limit goes there, whether to even or away from zero.
        Flaw::TiesAway => op != "sum_peak" && !never_rounds.contains(&op),
    }
}

/// Runs deliberately wrong kernels on `device`: fused, reassociated, flushing
/// elsewhere, and rounding otherwise.
///
/// # Errors
/// The device is lost or out of memory.
pub fn prove_vectors(device: &Device) -> Result<Vec<FlawReport>, EngineError> {
    let mut reports = Vec::new();
    for flaw in Flaw::ALL {
        let mut bench = Bench::new(device, Form { flaw: Some(flaw), ..Form::default() })?;
        let mut report = FlawReport { flaw: format!("{flaw:?}"), caught: Vec::new(), missed: Vec::new() };
        for suite in SUITES.iter().filter(|suite| matters(flaw, suite.op)) {
            let outcomes = (suite.run)(&mut bench)?;
            let caught = outcomes.iter().any(|outcome| outcome.found != outcome.expected);
            let list = if caught { &mut report.caught } else { &mut report.missed };
            list.push(suite.op.to_owned());
        }
        reports.push(report);
    }
    Ok(reports)
}
