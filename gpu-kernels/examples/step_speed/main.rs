//! Times whole training steps of one model on the processor, and says where the time goes.
//!
//! `cargo run --release -p manta-gpu-kernels --example step_speed [model] [vocabulary] [threads] [micro-batches] [path]`
//! with model `small` (about 11M parameters) or `medium` (about 25M), and path `auto`,
//! `portable`, `avx2` or `avx512_vnni`. Threads 0 means one for each processor.
//! `processor ms` is the processor's time over all threads, which other programs on the
//! machine disturb less than the time on the clock.

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, MicroBatchKey, ModelConfig, OpClass, OptimizerConfig, SimdPath, StepNumbers,
};
use std::time::Instant;

/// Micro-batches that are not timed.
const WARM_UP: u64 = 2;

fn model(name: &str, vocab_size: usize) -> Result<ModelConfig, String> {
    let (hidden_size, intermediate_size, num_hidden_layers, heads, key_heads) = match name {
        "small" => (384, 1024, 6, 6, 3),
        "medium" => (512, 1408, 8, 8, 4),
        _ => return Err(format!("model `{name}` is not known; there are small and medium")),
    };
    Ok(ModelConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: key_heads,
        head_dim: 64,
        max_position_embeddings: 256,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        initializer_range: 0.02,
    })
}

/// Processor time of all threads of this process so far, in nanoseconds.
fn processor_ns() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let of_task = |path: std::path::PathBuf| -> Option<u64> {
        std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    tasks.filter_map(|task| of_task(task.ok()?.path())).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |place: usize, default: &str| arguments.get(place).cloned().unwrap_or_else(|| default.into());
    let config = model(&word(0, "small"), word(1, "8192").parse()?)?;
    let (threads, count): (usize, u64) = (word(2, "1").parse()?, word(3, "5").parse()?);
    let simd: SimdPath = serde_json::from_value(word(4, "auto").into())?;
    let spec = ArithmeticSpec { micro_batch_sequences: 4, sequence_length: 256, ..Default::default() };
    let options = EngineOptions { threads, simd, ..Default::default() };
    let mut engine = Engine::new(config.clone(), OptimizerConfig::default(), spec.clone(), options)?;
    engine.initialize([1; 32]);
    let row = spec.sequence_length + 1;
    let token = |place: u64| (place * place / 3 + place / 5) % config.vocab_size as u64;
    let mut samples = Vec::new();
    let mut profiles = Vec::new();
    for number in 0..WARM_UP + count {
        let places = number * 7919..number * 7919 + (spec.micro_batch_sequences * row) as u64;
        let tokens: Vec<u32> = places.map(|place| token(place) as u32).collect();
        let key = MicroBatchKey { run_seed: [1; 32], step: number, micro_batch: 0 };
        engine.take_profile();
        let (start, processor) = (Instant::now(), processor_ns());
        engine.accumulate_gradient(&tokens, spec.micro_batch_sequences, &key)?;
        let middle = (start.elapsed(), processor_ns() - processor);
        engine.apply_own_gradient(1, StepNumbers::in_order(number))?;
        let end = (start.elapsed(), processor_ns() - processor);
        if number >= WARM_UP {
            profiles.push(engine.take_profile());
            samples.push([middle.1, end.1 - middle.1, end.1, end.0.as_nanos() as u64]);
        }
    }
    let median = |part: usize| {
        let mut values: Vec<u64> = samples.iter().map(|sample| sample[part]).collect();
        values.sort_unstable();
        values[values.len() / 2] as f64 / 1e6
    };
    let tokens = spec.micro_batch_tokens() as f64;
    println!("{} parameters, {tokens} tokens a micro-batch, one a step", engine.layout().len());
    println!("gradient {:.1}, optimiser {:.1}, step {:.1} processor ms", median(0), median(1), median(2));
    println!("step {:.1} ms on the clock, {:.0} tokens/s", median(3), tokens / median(3) * 1e3);
    for class in OpClass::ALL {
        let mut spent_ns: Vec<u64> =
            profiles.iter().map(|profile| profile.spent_ns.get(&class).copied().unwrap_or(0)).collect();
        spent_ns.sort_unstable();
        println!("{:>8.2} ms  {class:?}", spent_ns[spent_ns.len() / 2] as f64 / 1e6);
    }
    Ok(())
}
