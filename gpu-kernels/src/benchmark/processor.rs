//! What the processor can do, and how much of it training gets.

use super::peak::{Peak, measure_peak};
use super::product::{ProductBenchmark, ProductRole};
use super::step::{BenchmarkModel, StepBenchmark};
use crate::cpu::simd::SimdPath;
use crate::error::EngineError;
use crate::model::options::EngineOptions;
use crate::model::profile::Profile;
use serde::Serialize;
use std::time::Instant;

/// How long a peak is measured, in milliseconds.
const PEAK_MS: u64 = 100;
/// Samples of each product and of the step; medians are reported.
const SAMPLES: usize = 5;
const VOCAB_SIZE: usize = 8192;

/// Products of the step that is timed: name, role and \[rows, columns, k\].
pub const TRAINING_PRODUCTS: [(&str, ProductRole, [usize; 3]); 5] = [
    ("query_key_value", ProductRole::Forward, [1024, 768, 384]),
    ("gate_up", ProductRole::Forward, [1024, 2048, 384]),
    ("down", ProductRole::Forward, [1024, 384, 1024]),
    ("gate_up weight gradient", ProductRole::WeightGradient, [2048, 384, 1024]),
    ("logits", ProductRole::Forward, [1024, VOCAB_SIZE, 384]),
];

/// The speed of a product of one digit each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProductSpeed {
    /// What it is in a step.
    pub name: &'static str,
    /// \[rows, columns, k\].
    pub shape: [usize; 3],
    /// Of packed operands.
    pub multiply_adds_per_s: u64,
    /// Of the measured peak.
    pub fraction_of_peak: Option<f64>,
    /// Rounding and packing the left operand, in nanoseconds an element.
    pub pack_ns_per_element: f64,
}

/// The speed of whole training steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepSpeed {
    /// Which model.
    pub model: BenchmarkModel,
    /// Its number of parameters.
    pub parameters: usize,
    /// Tokens a second, the optimiser's step after each micro-batch included.
    pub tokens_per_s: f64,
    /// One step, by class of operation.
    pub profile: Profile,
}

/// What [`measure_processor`] finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessorReport {
    /// The instruction set that kernels use.
    pub path: SimdPath,
    /// Number of threads (0: one for each processor).
    pub threads: usize,
    /// Integers and floats from registers alone; none on the portable path.
    pub peak: Option<Peak>,
    /// Products at the shapes of a training step.
    pub products: Vec<ProductSpeed>,
    /// Whole training steps.
    pub step: StepSpeed,
}

/// Peaks, products at training shapes, and whole steps of a model of 16M parameters: some seconds.
///
/// # Errors
/// The machine lacks the path, or the memory for the model.
pub fn measure_processor(path: SimdPath, threads: usize) -> Result<ProcessorReport, EngineError> {
    let path = match path {
        SimdPath::Auto => SimdPath::available().into_iter().next_back().unwrap_or(SimdPath::Portable),
        path => path,
    };
    let peak = measure_peak(path, threads, PEAK_MS)?;
    let products = TRAINING_PRODUCTS
        .into_iter()
        .map(|(name, role, shape)| {
            let mut benchmark = ProductBenchmark::new(shape, role, path, threads)?;
            let [rows, _, k] = shape;
            let pack_ns = median_ns(|| benchmark.pack());
            let multiply_ns = median_ns(|| benchmark.multiply());
            let rate = benchmark.multiply_adds() as f64 / multiply_ns as f64 * 1e9;
            Ok(ProductSpeed {
                name,
                shape,
                multiply_adds_per_s: rate as u64,
                fraction_of_peak: peak.map(|peak| rate / peak.integer_multiply_adds_per_s as f64),
                pack_ns_per_element: pack_ns as f64 / (rows * k) as f64,
            })
        })
        .collect::<Result<_, EngineError>>()?;
    let options = EngineOptions { threads, simd: path, ..Default::default() };
    let mut benchmark = StepBenchmark::new(BenchmarkModel::Small, VOCAB_SIZE, options)?;
    let mut times = (0..SAMPLES + 2).map(|_| benchmark.run()).collect::<Result<Vec<_>, EngineError>>()?.split_off(2);
    times.sort_by_key(|time| time.step_ns);
    let median = times.swap_remove(SAMPLES / 2);
    let step = StepSpeed {
        model: BenchmarkModel::Small,
        parameters: benchmark.parameters(),
        tokens_per_s: benchmark.tokens() as f64 / median.step_ns as f64 * 1e9,
        profile: median.profile,
    };
    Ok(ProcessorReport { path, threads, peak, products, step })
}

fn median_ns(mut work: impl FnMut()) -> u64 {
    work();
    let mut samples: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            work();
            (start.elapsed().as_nanos() as u64).max(1)
        })
        .collect();
    samples.sort_unstable();
    samples[SAMPLES / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_complete_and_names_what_it_is() {
        let report = measure_processor(SimdPath::Auto, 1).unwrap();
        assert_ne!(report.path, SimdPath::Auto);
        assert_eq!(report.products.len(), TRAINING_PRODUCTS.len());
        for product in &report.products {
            assert!(product.multiply_adds_per_s > 10_000_000 && product.pack_ns_per_element > 0.0, "{product:?}");
        }
        let step = &report.step;
        assert!(step.parameters > 10_000_000 && step.tokens_per_s > 1.0);
        // One micro-batch a step: nothing is added up.
        let missing = crate::OpClass::ALL.into_iter().filter(|class| !step.profile.spent_ns.contains_key(class));
        assert!(missing.eq([crate::OpClass::GradientSums]) || step.profile.spent_ns.len() == crate::OpClass::ALL.len());
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains("\"pack_gradients\""), "{text}");
    }
}
