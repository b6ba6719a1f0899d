//! Trains a model of 124 million parameters (the preset `base`) for a few steps on the processor:
//! memory foretold and taken, and time.
//!
//! `cargo run --release -p manta-gpu-kernels --example step_memory [auto|always|never] [vocabulary]
//! [sequences] [length] [steps] [threads]`, where the first says whether activations are computed
//! again, and sequences and length are those of a micro-batch, of which a step has two. Prints one JSON
//! object. The peak is that of the process, so each way needs a run of its own.

use manta_gpu_kernels::benchmark::{median, processor_ms};
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, MemoryPlan, MicroBatchKey, ModelConfig, OptimizerConfig, OptimizerKind,
    Recompute, StepNumbers,
};
use std::time::Instant;

/// Micro-batches of a step, so that their gradients are added up.
const MICRO_BATCHES: u64 = 2;
const RUN_SEED: [u8; 32] = [1; 32];

/// A line of the process's status as the system tells it, in bytes.
fn status_bytes(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
}

fn base(vocab_size: usize, length: usize) -> ModelConfig {
    ModelConfig {
        vocab_size,
        hidden_size: 768,
        intermediate_size: 2048,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        num_key_value_heads: 12,
        head_dim: 64,
        max_position_embeddings: length,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |place: usize, default: &str| arguments.get(place).cloned().unwrap_or_else(|| default.into());
    let recompute: Recompute = word(0, "auto").parse()?;
    let (vocab_size, sequences): (usize, usize) = (word(1, "50000").parse()?, word(2, "4").parse()?);
    let (length, steps): (usize, u64) = (word(3, "512").parse()?, word(4, "3").parse()?);
    let options = EngineOptions { threads: word(5, "0").parse()?, recompute, ..EngineOptions::default() };
    let spec = ArithmeticSpec { micro_batch_sequences: sequences, sequence_length: length, ..Default::default() };
    let model = base(vocab_size, length);
    let plan = MemoryPlan::of(&model, &spec, OptimizerKind::Adamw, &options);
    let before_bytes = status_bytes("VmRSS:");
    let mut engine = Engine::new(model, OptimizerConfig::default(), spec, options)?;
    engine.initialize(RUN_SEED);
    let (mut step_ms, mut busy_ms, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..steps {
        let (begun, busy_before_ms) = (Instant::now(), processor_ms());
        for micro_batch in 0..MICRO_BATCHES {
            let first = step * MICRO_BATCHES + micro_batch;
            let places = (0..(sequences * (length + 1)) as u64).map(|place| place + first * 7919);
            let tokens: Vec<u32> = places.map(|p| ((p * p / 3 + p / 5) % vocab_size as u64) as u32).collect();
            let key = MicroBatchKey { run_seed: RUN_SEED, step, micro_batch };
            losses.push(engine.accumulate_gradient(&tokens, sequences, &key)?.nats_per_token());
        }
        engine.apply_own_gradient(MICRO_BATCHES as u32, StepNumbers::in_order(step))?;
        // The first one takes memory from the system, too.
        if step > 0 {
            step_ms.push(begun.elapsed().as_secs_f64() * 1e3);
            busy_ms.push(processor_ms() - busy_before_ms);
        }
    }
    let tokens = MICRO_BATCHES * (sequences * length) as u64;
    let report = serde_json::json!({
        "parameters": engine.layout().len(),
        "micro_batch": [sequences, length],
        "tokens_a_step": tokens,
        "recomputes": engine.recomputes(),
        "foretold_bytes": plan.bytes(),
        "resident_bytes_before": before_bytes,
        "peak_resident_bytes": status_bytes("VmHWM:"),
        "step_ms": step_ms,
        "processor_ms": busy_ms,
        "tokens_per_s": tokens as f64 / median(&step_ms) * 1e3,
        "losses": losses,
        "parameter_hash": engine.parameter_hash().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    });
    println!("{report:#}");
    Ok(())
}
