//! How fast a graphics device computes: products by each tiling beside a naive kernel, and where
//! the time of a training step goes. Prints one JSON object; measurements that are compared are
//! taken in turns.
//!
//! `cargo run --release -p manta-gpu-kernels --example gpu_bench -- [software|hardware|NAME] [FOLDER]`
//!
//! The folder keeps admission and tilings for the next run.

use manta_gpu_kernels::admission::{AdmittedDevice, Forms, TunedClass};
use manta_gpu_kernels::device::{Device, DeviceChoice};
use manta_gpu_kernels::{
    ArithmeticSpec, EngineError, GpuEngine, LocalStep, MicroBatch, MicroBatchKey, ModelConfig, OptimizerConfig,
    ProductExtent, ProductTiming, StepNumbers, time_products,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rounds in which everything takes turns.
const ROUNDS: usize = 7;
/// Steps of a replay.
const STEPS: usize = 4;
const RUN_SEED: [u8; 32] = [1; 32];

#[derive(Serialize)]
struct Report {
    device: String,
    driver: String,
    rounds: usize,
    products: Vec<ProductReport>,
    step: StepReport,
    tuned: Vec<TunedClass>,
}

#[derive(Serialize)]
struct ProductReport {
    extent: ProductExtent,
    /// The time of the naive kernel divided by that of what training takes.
    speedup: f64,
    timings: Vec<ProductTiming>,
}

#[derive(Serialize)]
struct StepReport {
    parameters: usize,
    tokens: usize,
    /// Compiling and tuning, with the first micro-batch.
    first_ms: f64,
    /// Micro-batch and optimiser step, each waited for.
    waited_ms: Vec<f64>,
    waited_tokens_per_s: f64,
    /// The same without waiting, in replays of several steps.
    replayed_ms: Vec<f64>,
    replayed_tokens_per_s: f64,
    submissions_per_replayed_step: f64,
    /// What dispatches take by themselves, the longest first.
    dispatches: Vec<DispatchReport>,
}

#[derive(Serialize)]
struct DispatchReport {
    kernel: String,
    count: usize,
    ms: f64,
    percent: f64,
}

/// A model of 0.9 million parameters, whose products have the shapes of a small training run.
fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 256,
        hidden_size: 128,
        intermediate_size: 352,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 128,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        rope_scaling: None,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn products(device: &AdmittedDevice) -> Result<Vec<ProductReport>, EngineError> {
    // A square, a forward product, its way back, a weight gradient, and a product of more depth.
    let extents = [(512, 512, 512), (1024, 704, 128), (1024, 128, 704), (704, 128, 1024), (256, 256, 2048)];
    let report = |(rows, columns, depth)| {
        let extent = ProductExtent { rows, columns, depth };
        let timings = time_products(device, extent, ROUNDS)?;
        let naive_us = timings[0].median_us;
        let chosen_us = timings.iter().find(|timing| timing.chosen).map_or(f64::NAN, |timing| timing.median_us);
        Ok(ProductReport { extent, speedup: naive_us / chosen_us, timings })
    };
    extents.into_iter().map(report).collect()
}

fn step(device: &AdmittedDevice) -> Result<StepReport, EngineError> {
    let spec = ArithmeticSpec { micro_batch_sequences: 8, sequence_length: 128, ..ArithmeticSpec::default() };
    let (sequences, count) = (spec.micro_batch_sequences, spec.micro_batch_tokens());
    let tokens: Vec<u32> = (0..(sequences * 129) as u32).map(|i| i * i % 251).collect();
    let key = |step| MicroBatchKey { run_seed: RUN_SEED, step, micro_batch: 0 };
    let start = Instant::now();
    let mut engine = GpuEngine::new(model(), OptimizerConfig::default(), spec, device)?;
    engine.initialize(RUN_SEED)?;
    engine.accumulate_gradient(&tokens, sequences, &key(0))?;
    engine.apply_own_gradient(1, StepNumbers::in_order(0))?;
    let first_ms = milliseconds(start.elapsed());
    let (mut waited_ms, mut replayed_ms, mut submissions) = (Vec::new(), Vec::new(), 0);
    let mut number = 1;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..STEPS {
            engine.accumulate_gradient(&tokens, sequences, &key(number))?;
            engine.apply_own_gradient(1, StepNumbers::in_order(number))?;
            number += 1;
        }
        waited_ms.push(milliseconds(start.elapsed()) / STEPS as f64);
        let batches: Vec<[MicroBatch<'_>; 1]> =
            (number..).take(STEPS).map(|step| [MicroBatch { tokens: &tokens, sequences, key: key(step) }]).collect();
        let numbered = (number..).map(StepNumbers::in_order);
        let steps: Vec<LocalStep<'_>> =
            batches.iter().zip(numbered).map(|(micro_batches, numbers)| LocalStep { micro_batches, numbers }).collect();
        let before = engine.device().activity().submissions;
        let start = Instant::now();
        engine.train_steps(&steps)?;
        replayed_ms.push(milliseconds(start.elapsed()) / STEPS as f64);
        submissions += engine.device().activity().submissions - before;
        number += STEPS as u64;
    }
    let tokens_per_s = |samples: &[f64]| count as f64 / median(samples) * 1e3;
    Ok(StepReport {
        parameters: engine.layout().len(),
        tokens: count,
        first_ms,
        waited_tokens_per_s: tokens_per_s(&waited_ms),
        waited_ms,
        replayed_tokens_per_s: tokens_per_s(&replayed_ms),
        replayed_ms,
        submissions_per_replayed_step: submissions as f64 / (ROUNDS * STEPS) as f64,
        dispatches: dispatches(engine.profile(&tokens, sequences, &key(number))?),
    })
}

fn dispatches(times: Vec<(String, Duration)>) -> Vec<DispatchReport> {
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let mut kernels: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    for (kernel, time) in times {
        let entry = kernels.entry(kernel).or_default();
        *entry = (entry.0 + 1, entry.1 + time);
    }
    let percent = |time: Duration| 100.0 * time.as_secs_f64() / total.as_secs_f64();
    let mut reports: Vec<DispatchReport> = kernels
        .into_iter()
        .map(|(kernel, (count, time))| DispatchReport { kernel, count, ms: milliseconds(time), percent: percent(time) })
        .collect();
    reports.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    reports
}

fn main() -> Result<(), Box<dyn Error>> {
    let choice = match std::env::args().nth(1).as_deref() {
        None | Some("software") => DeviceChoice::Software,
        Some("hardware") => DeviceChoice::Hardware,
        Some(name) => DeviceChoice::Named(name.into()),
    };
    let folder = std::env::args().nth(2);
    let device = AdmittedDevice::admit(Device::open(&choice)?, Forms::default(), folder.as_deref().map(Path::new))?;
    let found = device.report().device.clone();
    let (step, products) = (step(&device)?, products(&device)?);
    let tuned = device.tuned_classes();
    let report = Report { device: found.name, driver: found.driver, rounds: ROUNDS, products, step, tuned };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
