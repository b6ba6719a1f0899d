//! How fast a graphics device computes: products by each tiling beside a naive kernel, and where
//! the time of a training step goes. Prints rows of `docs/benchmarks`, and details as it goes;
//! what is compared is measured in turns.
//!
//! `cargo run --release -p manta-gpu-kernels --example gpu_bench -- [software|hardware|NAME] [FOLDER]`
//!
//! The folder keeps admission and tilings for the next run.

use manta_gpu_kernels::admission::{AdmittedDevice, Forms};
use manta_gpu_kernels::benchmark::median;
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

/// One comparison, as `docs/benchmarks/README.md` has it.
#[derive(Serialize)]
struct Row {
    name: String,
    peer: &'static str,
    unit: &'static str,
    better: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    /// Median of ours by median of theirs.
    ratio: f64,
    detail: String,
    versions: String,
    hardware: String,
}

/// Where measurements are taken.
struct Place {
    versions: String,
    hardware: String,
}

impl Place {
    fn of(device: &AdmittedDevice) -> Self {
        let found = &device.report().device;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        Self {
            versions: format!("manta {}, {} {}", env!("CARGO_PKG_VERSION"), found.backend, found.driver),
            hardware: format!("{}, {cores} processors, load {load}", found.name),
        }
    }

    fn row(&self, (name, peer, detail): (String, &'static str, String), ours: Vec<f64>, theirs: Vec<f64>) -> Row {
        Row {
            name,
            peer,
            unit: if detail.contains("multiply") { "multiply-adds/s" } else { "tokens/s" },
            better: "higher",
            ratio: median(&ours) / median(&theirs),
            ours,
            theirs,
            detail,
            versions: self.versions.clone(),
            hardware: self.hardware.clone(),
        }
    }
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

/// Products by the tiling that training takes, beside the naive kernel.
fn products(device: &AdmittedDevice, place: &Place) -> Result<Vec<Row>, EngineError> {
    // A square, a forward product, its way back, a weight gradient, and a product of more depth.
    let extents = [(512, 512, 512), (1024, 704, 128), (1024, 128, 704), (704, 128, 1024), (256, 256, 2048)];
    let row = |(rows, columns, depth)| {
        let timings = time_products(device, ProductExtent { rows, columns, depth }, ROUNDS)?;
        assert!(timings.iter().all(|timing| timing.equal), "every tiling gives the same bits");
        let rates = |timing: &ProductTiming| -> Vec<f64> {
            let multiply_adds = rows as f64 * columns as f64 * depth as f64;
            timing.samples_us.iter().map(|us| multiply_adds / us * 1e6).collect()
        };
        for timing in &timings {
            let (mark, rate) = (if timing.chosen { "*" } else { " " }, timing.multiply_adds_per_s * 1e-9);
            eprintln!("{mark} {rows} x {columns} over {depth}: {rate:7.2} billion/s, {}", timing.name);
        }
        let chosen = timings.iter().find(|timing| timing.chosen).unwrap_or(&timings[0]);
        let name = format!("8-bit product, {rows} x {columns} over {depth}");
        let detail = format!("multiply-adds, {}", chosen.name);
        Ok(place.row((name, "naive WGSL, one thread an output", detail), rates(chosen), rates(&timings[0])))
    };
    extents.into_iter().map(row).collect()
}

/// Steps replayed without waiting, beside the same ones waited for.
fn step(device: &AdmittedDevice, place: &Place) -> Result<Row, EngineError> {
    let spec = ArithmeticSpec { micro_batch_sequences: 8, sequence_length: 128, ..ArithmeticSpec::default() };
    let (sequences, count) = (spec.micro_batch_sequences, spec.micro_batch_tokens());
    let tokens: Vec<u32> = (0..(sequences * 129) as u32).map(|i| i * i % 251).collect();
    let key = |step| MicroBatchKey { run_seed: RUN_SEED, step, micro_batch: 0 };
    let start = Instant::now();
    let mut engine = GpuEngine::new(model(), OptimizerConfig::default(), spec, device)?;
    engine.initialize(RUN_SEED)?;
    engine.accumulate_gradient(&tokens, sequences, &key(0))?;
    engine.apply_own_gradient(1, StepNumbers::in_order(0))?;
    eprintln!("compiling, tuning and the first step: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let rate = |start: Instant| (STEPS * count) as f64 / start.elapsed().as_secs_f64();
    let (mut waited, mut replayed, mut submissions) = (Vec::new(), Vec::new(), 0);
    let mut number = 1;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..STEPS {
            engine.accumulate_gradient(&tokens, sequences, &key(number))?;
            engine.apply_own_gradient(1, StepNumbers::in_order(number))?;
            number += 1;
        }
        waited.push(rate(start));
        let batches: Vec<[MicroBatch<'_>; 1]> =
            (number..).take(STEPS).map(|step| [MicroBatch { tokens: &tokens, sequences, key: key(step) }]).collect();
        let numbered = (number..).map(StepNumbers::in_order).zip(&batches);
        let steps: Vec<LocalStep<'_>> =
            numbered.map(|(numbers, micro_batches)| LocalStep { micro_batches, numbers }).collect();
        let before = engine.device().activity().submissions;
        let start = Instant::now();
        engine.train_steps(&steps)?;
        replayed.push(rate(start));
        submissions += engine.device().activity().submissions - before;
        number += STEPS as u64;
    }
    dispatches(engine.profile(&tokens, sequences, &key(number))?);
    let name = format!("training step, {} parameters, {count} tokens", engine.layout().len());
    let submissions = submissions as f64 / (ROUNDS * STEPS) as f64;
    let detail = format!("replayed, {submissions:.1} submissions a step");
    Ok(place.row((name, "the same steps, each waited for", detail), replayed, waited))
}

/// Prints what dispatches take by themselves, the longest first.
fn dispatches(times: Vec<(String, Duration)>) {
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let mut kernels: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    for (kernel, time) in times {
        let entry = kernels.entry(kernel).or_default();
        *entry = (entry.0 + 1, entry.1 + time);
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|(_, (_, time))| std::cmp::Reverse(*time));
    for (kernel, (count, time)) in kernels {
        let percent = 100.0 * time.as_secs_f64() / total.as_secs_f64();
        eprintln!("{percent:5.1} % {:8.2} ms {count:4} x {kernel}", time.as_secs_f64() * 1e3);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let choice = match std::env::args().nth(1).as_deref() {
        None | Some("software") => DeviceChoice::Software,
        Some("hardware") => DeviceChoice::Hardware,
        Some(name) => DeviceChoice::Named(name.into()),
    };
    let folder = std::env::args().nth(2);
    let device = AdmittedDevice::admit(Device::open(&choice)?, Forms::default(), folder.as_deref().map(Path::new))?;
    let place = Place::of(&device);
    let mut rows = vec![step(&device, &place)?];
    rows.extend(products(&device, &place)?);
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}
