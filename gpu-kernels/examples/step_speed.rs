//! Prints tokens per second of training steps on one thread, for each instruction set.
//!
//! `cargo run --release -p manta-gpu-kernels --example step_speed [seconds] [threads] [path]`

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, SimdPath,
    StepNumbers,
};
use std::time::Instant;

fn main() -> Result<(), EngineError> {
    let argument = |place| std::env::args().nth(place).and_then(|text| text.parse::<usize>().ok());
    let (seconds, threads) = (argument(1).unwrap_or(3), argument(2).unwrap_or(1));
    let model = ModelConfig {
        vocab_size: 260,
        hidden_size: 128,
        intermediate_size: 352,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 256,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    };
    let spec = ArithmeticSpec::default();
    let rate = manta_gpu_kernels::measure_multiply_adds_per_s(300, threads)?;
    println!("8-bit product: {:.1} billion multiply-adds a second", rate as f64 / 1e9);
    let wanted = std::env::args().nth(3);
    for simd in SimdPath::available() {
        if wanted.as_ref().is_some_and(|wanted| *wanted != format!("{simd:?}")) {
            continue;
        }
        let options = EngineOptions { threads, simd, ..Default::default() };
        let mut engine = Engine::new(model.clone(), OptimizerConfig::default(), spec.clone(), options)?;
        engine.initialize([1; 32]);
        let count = spec.micro_batch_sequences * (spec.sequence_length + 1);
        let tokens: Vec<u32> = (0..count as u32).map(|i| (i * i / 7 + i) % 260).collect();
        let mut step = 0;
        let (start, mut gradient_s, mut trained) = (Instant::now(), 0.0, 0);
        while start.elapsed().as_secs() < seconds as u64 {
            let key = MicroBatchKey { run_seed: [1; 32], step, micro_batch: 0 };
            let begin = Instant::now();
            trained += engine.accumulate_gradient(&tokens, spec.micro_batch_sequences, &key)?.tokens;
            gradient_s += begin.elapsed().as_secs_f64();
            engine.apply_own_gradient(1, StepNumbers::in_order(step))?;
            step += 1;
        }
        let total_s = start.elapsed().as_secs_f64();
        let begin = Instant::now();
        engine.evaluate(&tokens, spec.micro_batch_sequences)?;
        println!(
            "{simd:?}: {:.0} tokens/s forward and backward, {:.0} with the optimiser, {:.0} forward only; {} parameters",
            trained as f64 / gradient_s,
            trained as f64 / total_s,
            spec.micro_batch_tokens() as f64 / begin.elapsed().as_secs_f64(),
            engine.layout().len(),
        );
    }
    Ok(())
}
