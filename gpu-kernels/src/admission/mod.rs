//! Rule 0 of the exact arithmetic: nothing a driver does is taken on trust.
//!
//! A device is admitted after every kernel has given the bits of its native
//! twin on vectors that tell rounding, fusion, order of sums and flushing
//! apart, and a tiny training run has ended with the pinned parameters. Kernels
//! that fail use f32 sums and products made of integers; if those fail too, the
//! device is refused. [`GpuEngine`](crate::GpuEngine) takes admitted devices only.

mod bench;
pub(crate) mod cache;
mod cases;
mod flaws;
mod parity;
mod probe;
mod vectors;

pub use crate::gpu::tuning::{ProductClass, TilingTime, TunedClass};
pub use flaws::{FlawReport, prove_vectors};
pub use parity::{ParityReport, RunReport, parity_suite};

use crate::device::{Device, DeviceError, DeviceReport};
use crate::error::EngineError;
use crate::gpu::compile::Pipelines;
use crate::gpu::kernel::{Form, Kernel};
use crate::gpu::tiling::Tiling;
use crate::gpu::tuning::{SharedTuning, forget, kept};
use crate::model::config::ModelConfig;
use crate::spec::{ARITHMETIC_VERSION, ArithmeticSpec};
use bench::Bench;
use cases::{AXIS_LONG, AXIS_SHORT, SUITES, Suite, long_axis, tiled_products};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

/// Forms that kernels are made to take although the device might do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forms {
    /// f32 sums and products in integers.
    pub soft_float: bool,
    /// Dot products of 8-bit integers without the built-in.
    pub portable_dot: bool,
}

/// What became of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpForm {
    /// The device's own f32 sums and products.
    Native,
    /// f32 sums and products in integers.
    SoftFloat,
    /// No form gives the right bits.
    Refused,
}

/// The outcome of one kernel's known-answer tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpReport {
    /// The kernel's name.
    pub op: String,
    /// The form in which it is used.
    pub form: OpForm,
    /// Number of known answers.
    pub cases: usize,
    /// Why a form was given up, if one was.
    pub problem: Option<String>,
}

/// What the tests of a device found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionReport {
    /// The device.
    pub device: DeviceReport,
    /// [`ARITHMETIC_VERSION`] at the time.
    pub arithmetic_version: u32,
    /// blake3 of all shader texts, in hexadecimal.
    pub shader_hash: String,
    /// What was forced.
    pub forced: Forms,
    /// Whether 8-bit dot products do without the built-in.
    pub portable_dot: bool,
    /// Whether threads of a row pass values on through shared memory instead of by shuffles.
    pub shared_exchange: bool,
    /// Elements that loops may run over: some software drivers cut longer ones short.
    pub axis_max: usize,
    /// Every kernel.
    pub ops: Vec<OpReport>,
    /// Whether the tiny training run ended with the pinned parameters.
    pub whole_step: bool,
    /// Why the device is refused; none if it is admitted.
    pub refused: Option<String>,
    /// How long the tests took.
    pub elapsed_ms: u64,
    /// Whether this was read from the cache.
    #[serde(skip)]
    pub from_cache: bool,
}

impl AdmissionReport {
    /// Whether the device may be used.
    pub fn admitted(&self) -> bool {
        self.refused.is_none()
    }

    /// How kernels are compiled that need no integer floats.
    fn form(&self) -> Form {
        Form {
            soft: self.forced.soft_float,
            portable_dot: self.portable_dot,
            shared_exchange: self.shared_exchange,
            flaw: None,
        }
    }
}

/// A device whose kernels were found to compute the exact arithmetic, each in some form.
#[derive(Clone)]
pub struct AdmittedDevice {
    device: Device,
    form: Form,
    soft_kernels: Vec<&'static str>,
    tuning: SharedTuning,
    report: AdmissionReport,
}

impl AdmittedDevice {
    /// Admits `device`, by the report in `cache_directory` if there is one for
    /// its name, driver, shaders and arithmetic version, else by tests, whose
    /// report is then kept there. Tests take seconds; without a directory they
    /// are always run.
    ///
    /// # Errors
    /// The device fails its tests, is lost, or runs out of memory.
    pub fn admit(device: Device, forced: Forms, cache_directory: Option<&Path>) -> Result<Self, EngineError> {
        let known = cache_directory.and_then(|directory| cache::load(directory, device.report(), forced));
        let report = match known {
            Some(report) => report,
            None => check_and_keep(&device, forced, cache_directory)?,
        };
        Ok(Self::from_report(device, report, cache_directory)?)
    }

    /// The device in the forms that its tests found to be right.
    fn from_report(
        device: Device,
        report: AdmissionReport,
        cache_directory: Option<&Path>,
    ) -> Result<Self, DeviceError> {
        if let Some(problem) = report.refused {
            return Err(DeviceError::NotAdmitted { device: report.device.name, problem });
        }
        let soft_kernels = soft_kernels(&report.ops);
        let form = report.form();
        let tuning = SharedTuning::new(&device, product_form(form, &soft_kernels), cache_directory);
        Ok(Self { device, form, soft_kernels, tuning, report })
    }

    /// The same device with a lower limit of what kernels bind at once, as if it were a smaller one.
    ///
    /// # Errors
    /// The limit is under 64 KiB, or above the device's own.
    pub fn with_binding_limit(self, binding_bytes_max: u64) -> Result<Self, DeviceError> {
        Ok(Self { device: self.device.with_binding_limit(binding_bytes_max)?, ..self })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What its tests found.
    pub fn report(&self) -> &AdmissionReport {
        &self.report
    }

    /// Refuses models with an axis that is too long for this device's loops.
    pub(crate) fn check_axes(&self, model: &ModelConfig, arithmetic: &ArithmeticSpec) -> Result<(), DeviceError> {
        let joint = model.query_width() + 2 * model.key_value_width();
        let axes = [
            ("vocab_size", model.vocab_size),
            ("hidden_size", model.hidden_size),
            ("gate and up", 2 * model.intermediate_size),
            ("queries, keys and values", joint),
            ("max_position_embeddings", model.max_position_embeddings),
            ("micro-batch of tokens", arithmetic.micro_batch_tokens()),
        ];
        let limit = self.report.axis_max;
        match axes.into_iter().find(|&(_, length)| length > limit) {
            Some((axis, length)) => {
                Err(DeviceError::Axis { device: self.report.device.name.clone(), axis, length, limit })
            }
            None => Ok(()),
        }
    }

    /// The tilings that products of this device take, as far as they have been measured.
    pub fn tuned_classes(&self) -> Vec<TunedClass> {
        self.tuning.classes()
    }

    /// Why tilings that were kept are measured again, if they are.
    pub fn tuning_warning(&self) -> Option<String> {
        self.tuning.warning()
    }

    /// Its kernels in the forms that were found to be right.
    pub(crate) fn pipelines(&self) -> Pipelines {
        let tuning = Some(self.tuning.clone());
        Pipelines::new(self.device.clone(), self.form, self.soft_kernels.clone(), tuning)
    }
}

/// The form in which products are compiled.
fn product_form(form: Form, soft_kernels: &[&str]) -> Form {
    Form { soft: form.soft || soft_kernels.contains(&"matmul"), ..form }
}

/// The tilings that are kept for products of this device, which a report of its tests belongs to.
pub fn kept_tunings(directory: &Path, report: &AdmissionReport) -> Vec<TunedClass> {
    let form = report.form();
    kept(directory, &report.device, product_form(form, &soft_kernels(&report.ops)))
}

/// The report that [`AdmittedDevice::admit`] or [`check_and_keep`] has kept of
/// this device with its present driver, shaders and arithmetic version.
pub fn kept_report(directory: &Path, device: &DeviceReport, forced: Forms) -> Option<AdmissionReport> {
    cache::load(directory, device, forced)
}

/// [`check_device`]; the report replaces the one in `cache_directory`, and tilings kept there are forgotten.
///
/// # Errors
/// As [`check_device`].
pub fn check_and_keep(
    device: &Device,
    forced: Forms,
    cache_directory: Option<&Path>,
) -> Result<AdmissionReport, EngineError> {
    let report = check_device(device, forced)?;
    if let Some(directory) = cache_directory {
        cache::store(directory, &report);
        forget(directory, &report.device, product_form(report.form(), &soft_kernels(&report.ops)));
    }
    Ok(report)
}

/// blake3 of all shader texts in their own form, in hexadecimal.
pub(crate) fn shader_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut hasher = blake3::Hasher::new_derive_key("manta shader texts");
        for kernel in Kernel::all() {
            hasher.update(kernel.text(Form::default()).as_bytes()).update(&[0]);
        }
        hasher.finalize().to_hex().to_string()
    })
}

/// Whether a tiling gives the known answers for operands of so many digits.
///
/// # Errors
/// The device is lost or out of memory; a tiling that the driver does not compile is just wrong.
pub(crate) fn known_answers_hold(
    device: &Device,
    form: Form,
    tiling: Tiling,
    digits: [usize; 2],
) -> Result<bool, EngineError> {
    let mut bench = Bench::new(device, form)?;
    match tiled_products(&mut bench, &[tiling], digits) {
        Ok(outcomes) => Ok(outcomes.iter().all(|outcome| outcome.found == outcome.expected)),
        Err(EngineError::Device(DeviceError::Kernel { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs all known-answer tests and the tiny training run on `device`.
///
/// # Errors
/// The device is lost or out of memory. Wrong answers, and kernels that the
/// driver does not compile, are no errors but in the report.
pub fn check_device(device: &Device, forced: Forms) -> Result<AdmissionReport, EngineError> {
    let form = Form { soft: forced.soft_float, portable_dot: forced.portable_dot, ..Form::default() };
    check_forms(device, forced, form, Form { soft: true, ..form })
}

/// [`check_device`] with kernels of the form `form`, and `fallback` for those that fail.
fn check_forms(device: &Device, forced: Forms, mut form: Form, fallback: Form) -> Result<AdmissionReport, EngineError> {
    let start = Instant::now();
    if !form.portable_dot {
        form.portable_dot = problem_of("matmul", device, form)?.is_some();
    }
    // Shuffles are only relied on where they pass on what they should.
    form.shared_exchange |= !device.extras.subgroups || problem_of("pack_rows", device, form)?.is_some();
    let mut own = Bench::new(device, form)?;
    let mut soft = Bench::new(
        device,
        Form { portable_dot: form.portable_dot, shared_exchange: form.shared_exchange, ..fallback },
    )?;
    let mut ops = Vec::new();
    for suite in SUITES {
        ops.push(check_op(suite, &mut own, &mut soft, forced.soft_float)?);
    }
    let long = long_axis(&mut own)?.iter().all(|outcome| outcome.found == outcome.expected);
    let mut report = AdmissionReport {
        axis_max: if long { AXIS_LONG } else { AXIS_SHORT },
        device: device.report().clone(),
        arithmetic_version: ARITHMETIC_VERSION,
        shader_hash: shader_hash().to_owned(),
        forced,
        portable_dot: form.portable_dot,
        shared_exchange: form.shared_exchange,
        refused: refusal(&ops),
        ops,
        whole_step: false,
        elapsed_ms: 0,
        from_cache: false,
    };
    if report.admitted() {
        report.whole_step = probe::run_on_device(device, form, soft_kernels(&report.ops))? == probe::PINNED;
        if !report.whole_step {
            let problem = "every kernel passed, but a tiny training run ended with other parameters";
            report.refused = Some(problem.into());
        }
    }
    report.elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Names of the kernels that use integer floats.
fn soft_kernels(ops: &[OpReport]) -> Vec<&'static str> {
    let is_soft = |op: &&str| ops.iter().any(|found| found.op == *op && found.form == OpForm::SoftFloat);
    SUITES.iter().map(|suite| suite.op).filter(is_soft).collect()
}

/// What is wrong with a kernel in this form, if something is.
fn problem_of(op: &str, device: &Device, form: Form) -> Result<Option<String>, EngineError> {
    let mut bench = Bench::new(device, form)?;
    match SUITES.iter().find(|suite| suite.op == op) {
        Some(suite) => Ok(run_suite(suite, &mut bench)?.err()),
        None => Ok(None),
    }
}

fn check_op(suite: &Suite, own: &mut Bench, soft: &mut Bench, forced: bool) -> Result<OpReport, EngineError> {
    let op = suite.op.to_owned();
    let first = if forced { OpForm::SoftFloat } else { OpForm::Native };
    let problem = match run_suite(suite, own)? {
        Ok(cases) => return Ok(OpReport { op, form: first, cases, problem: None }),
        Err(problem) => problem,
    };
    if !forced && let Ok(cases) = run_suite(suite, soft)? {
        return Ok(OpReport { op, form: OpForm::SoftFloat, cases, problem: Some(problem) });
    }
    Ok(OpReport { op, form: OpForm::Refused, cases: 0, problem: Some(problem) })
}

/// The number of right answers, or the first wrong one.
fn run_suite(suite: &Suite, bench: &mut Bench) -> Result<Result<usize, String>, EngineError> {
    let outcomes = match (suite.run)(bench) {
        Ok(outcomes) => outcomes,
        Err(EngineError::Device(DeviceError::Kernel { problem, .. })) => return Ok(Err(problem)),
        Err(error) => return Err(error),
    };
    for (case, outcome) in outcomes.iter().enumerate() {
        if outcome.found != outcome.expected {
            let place = outcome.found.iter().zip(&outcome.expected).position(|(found, expected)| found != expected);
            return Ok(Err(match place {
                Some(at) => format!(
                    "case {case}, word {at}: {:#010x} instead of {:#010x}",
                    outcome.found[at], outcome.expected[at]
                ),
                None => format!("case {case}: {} words instead of {}", outcome.found.len(), outcome.expected.len()),
            }));
        }
    }
    Ok(Ok(outcomes.len()))
}

fn refusal(ops: &[OpReport]) -> Option<String> {
    let refused = ops.iter().find(|op| op.form == OpForm::Refused)?;
    Some(format!("`{}` is wrong in every form ({})", refused.op, refused.problem.as_deref().unwrap_or("no reason")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::software_adapter;
    use crate::gpu::kernel::Flaw;

    #[test]
    fn a_device_that_fuses_is_admitted_with_integer_floats() {
        let Some(device) = software_adapter() else { return };
        let fusing = Form { flaw: Some(Flaw::Fused), ..Form::default() };
        let report = check_forms(&device, Forms::default(), fusing, Form { soft: true, ..fusing }).unwrap();
        assert!(report.admitted() && report.whole_step, "{report:?}");
        for op in &report.ops {
            let expected = if flaws::matters(Flaw::Fused, &op.op) { OpForm::SoftFloat } else { OpForm::Native };
            assert_eq!(op.form, expected, "{op:?}");
            assert_eq!(op.problem.is_some(), expected == OpForm::SoftFloat, "{op:?}");
        }
        let admitted = AdmittedDevice::from_report(device, report, None).unwrap();
        assert!(admitted.soft_kernels.contains(&"rms_norm") && !admitted.soft_kernels.contains(&"matmul"));
    }

    /// Those for graphics hardware, too, which a software adapter never chooses.
    #[test]
    fn sums_in_parts_give_the_known_answers() {
        let Some(device) = software_adapter() else { return };
        let mut tilings = Tiling::all();
        tilings.retain(|tiling| tiling.splits > 1);
        assert!(tilings.len() >= 4);
        for tiling in tilings {
            assert_eq!(known_answers_hold(&device, Form::default(), tiling, [1, 1]), Ok(true), "{tiling}");
        }
    }

    #[test]
    fn a_device_that_is_wrong_in_every_form_is_refused() {
        let Some(device) = software_adapter() else { return };
        let flushing = Form { flaw: Some(Flaw::FlushesEarly), ..Form::default() };
        let report = check_forms(&device, Forms::default(), flushing, flushing).unwrap();
        assert!(!report.admitted() && !report.whole_step);
        assert!(matches!(
            AdmittedDevice::from_report(device, report, None),
            Err(DeviceError::NotAdmitted { problem, .. }) if problem.contains("wrong in every form")
        ));
    }
}
