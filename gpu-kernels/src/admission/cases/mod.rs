//! The known-answer tests of each kernel: odd sizes, ordinary numbers, ties,
//! numbers around the flushing threshold, and outputs at the edge of the range.

mod muon;
mod products;
mod rows;
mod sums;

pub(crate) use products::{AXIS_LONG, AXIS_SHORT, long_axis, tiled_products};

use super::bench::{Bench, Outcome};
use crate::error::EngineError;

pub(crate) type Cases = Result<Vec<Outcome>, EngineError>;

/// The tests of one kernel.
pub(crate) struct Suite {
    /// The kernel's name.
    pub(crate) op: &'static str,
    pub(crate) run: fn(&mut Bench) -> Cases,
}

/// All kernels, each with its tests.
pub(crate) const SUITES: &[Suite] = &[
    Suite { op: "pack_rows", run: products::pack_rows },
    Suite { op: "pack_columns", run: products::pack_columns },
    Suite { op: "matmul", run: products::matmul },
    Suite { op: "rms_norm", run: rows::rms_norm },
    Suite { op: "rms_norm_backward", run: rows::rms_norm_backward },
    Suite { op: "rms_norm_weight_gradient", run: rows::rms_norm_weight_gradient },
    Suite { op: "rope", run: rows::rope },
    Suite { op: "softmax_causal", run: rows::softmax_causal },
    Suite { op: "softmax_causal_backward", run: rows::softmax_causal_backward },
    Suite { op: "group_sum", run: rows::group_sum },
    Suite { op: "swiglu", run: rows::swiglu },
    Suite { op: "swiglu_backward", run: rows::swiglu_backward },
    Suite { op: "cross_entropy", run: rows::cross_entropy },
    Suite { op: "embedding", run: rows::embedding },
    Suite { op: "embedding_gradient", run: rows::embedding_gradient },
    Suite { op: "add", run: sums::add },
    Suite { op: "sum_peak", run: sums::sum_peak },
    Suite { op: "accumulate", run: sums::accumulate },
    Suite { op: "sum_of_squares", run: sums::sum_of_squares },
    Suite { op: "gradient_scale", run: sums::gradient_scale },
    Suite { op: "adamw_preview", run: sums::adamw_preview },
    Suite { op: "adamw", run: sums::adamw },
    Suite { op: "muon_direction", run: muon::direction },
    Suite { op: "muon_norm", run: muon::norm },
    Suite { op: "muon_scale", run: muon::scale },
    Suite { op: "muon_combine", run: muon::combine },
    Suite { op: "muon_preview", run: muon::preview },
    Suite { op: "muon", run: muon::step },
    Suite { op: "gemm_operand", run: products::gemm_operand },
    Suite { op: "gemm_fold", run: products::gemm_fold },
];
