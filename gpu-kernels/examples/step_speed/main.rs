//! Times whole training steps of one model on the processor, and says where the time goes.
//!
//! `cargo run --release -p manta-gpu-kernels --example step_speed [model] [vocabulary] [threads] [steps] [path] [optimizer]`
//! with model `small` (about 10M parameters) or `medium` (about 24M), path `auto`,
//! `portable`, `avx2` or `avx512_vnni`, and optimizer `adamw` or `muon`. Threads 0 means one for each processor.
//! `processor ms` is the processor's time over all threads, which other programs on the
//! machine disturb less than the time on the clock.

use manta_gpu_kernels::benchmark::{BenchmarkModel, StepBenchmark, median, processor_ms};
use manta_gpu_kernels::{EngineOptions, OpClass, OptimizerKind, SimdPath};

/// Steps that are not timed.
const WARM_UP: usize = 2;

fn median_ms(values_ns: impl Iterator<Item = u64>) -> f64 {
    median(&values_ns.map(|value_ns| value_ns as f64 / 1e6).collect::<Vec<_>>())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |place: usize, default: &str| arguments.get(place).cloned().unwrap_or_else(|| default.into());
    let model: BenchmarkModel = serde_json::from_value(word(0, "small").into())?;
    let (threads, steps): (usize, usize) = (word(2, "1").parse()?, word(3, "5").parse()?);
    let simd: SimdPath = serde_json::from_value(word(4, "auto").into())?;
    let kind: OptimizerKind = serde_json::from_value(word(5, "adamw").into())?;
    let options = EngineOptions { threads, simd, ..Default::default() };
    let mut benchmark = StepBenchmark::with_optimizer(model, word(1, "8192").parse()?, kind, options)?;
    let mut samples = Vec::new();
    for number in 0..WARM_UP + steps {
        let before_ms = processor_ms();
        let time = benchmark.run()?;
        if number >= WARM_UP {
            samples.push((processor_ms() - before_ms, time));
        }
    }
    let tokens = benchmark.tokens();
    println!("{} parameters, {tokens} tokens a micro-batch, one a step", benchmark.parameters());
    let step_ms = median_ms(samples.iter().map(|(_, time)| time.step_ns));
    let gradient_ms = median_ms(samples.iter().map(|(_, time)| time.gradient_ns));
    let busy_ms: Vec<f64> = samples.iter().map(|&(busy_ms, _)| busy_ms).collect();
    println!("{:.1} processor ms a step", median(&busy_ms));
    println!("{step_ms:.1} ms a step on the clock, {gradient_ms:.1} without the optimiser");
    println!("{:.0} tokens/s", tokens as f64 / step_ms * 1e3);
    for class in OpClass::ALL {
        let spent_ns = samples.iter().map(|(_, time)| time.profile.spent_ns.get(&class).copied().unwrap_or(0));
        println!("{:>9.2} ms  {}", median_ms(spent_ns), class.name());
    }
    Ok(())
}
