//! Small models and batches that the tests share.

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, SimdPath, StepNumbers,
};

/// Two layers, odd sizes, grouped queries, an untied head.
pub(crate) fn tiny_model() -> ModelConfig {
    ModelConfig {
        vocab_size: 29,
        hidden_size: 36,
        intermediate_size: 51,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 10,
        max_position_embeddings: 64,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        initializer_range: 0.05,
    }
}

/// Sequences of odd length, few in a micro-batch.
pub(crate) fn spec() -> ArithmeticSpec {
    ArithmeticSpec { micro_batch_sequences: 3, sequence_length: 21, ..Default::default() }
}

/// A schedule that reaches its decay within 20 steps.
pub(crate) fn optimizer() -> OptimizerConfig {
    OptimizerConfig {
        learning_rate: 1e-2,
        warmup_steps: 3,
        decay_start_step: 100,
        total_steps: 200,
        ..Default::default()
    }
}

/// An engine that is not initialised yet.
pub(crate) fn engine(model: ModelConfig, spec: ArithmeticSpec, threads: usize, simd: SimdPath) -> Engine {
    let options = EngineOptions { threads, simd, ..Default::default() };
    Engine::new(model, optimizer(), spec, options).expect("the test's model is valid")
}

/// Rows of text-like tokens under 29.
pub(crate) fn micro_batch(sequences: usize, number: u32) -> Vec<u32> {
    let row = spec().sequence_length + 1;
    (0..(sequences * row) as u32).map(|place| (place * place / 3 + place / 5 + number * 11) % 29).collect()
}

/// Trains a few steps of two micro-batches; the hashes of parameters and optimiser state.
pub(crate) fn train_with(
    model: ModelConfig,
    spec: ArithmeticSpec,
    threads: usize,
    simd: SimdPath,
    steps: u64,
) -> ([u8; 32], [u8; 32]) {
    let mut engine = engine(model, spec.clone(), threads, simd);
    engine.initialize([42; 32]);
    let row = spec.sequence_length + 1;
    for step in 0..steps {
        for micro_batch in 0..2 {
            let key = MicroBatchKey { run_seed: [42; 32], step, micro_batch };
            let vocab = engine.config().vocab_size as u64;
            let tokens: Vec<u32> = (0..(spec.micro_batch_sequences * row) as u64)
                .map(|place| ((place * place / 3 + place / 5 + (2 * step + micro_batch) * 11) % vocab) as u32)
                .collect();
            engine.accumulate_gradient(&tokens, spec.micro_batch_sequences, &key).expect("a healthy step");
        }
        engine.apply_own_gradient(2, StepNumbers::in_order(step)).expect("a healthy step");
    }
    (engine.parameter_hash(), engine.optimizer_hash())
}

/// [`train_with`] on the tiny model.
pub(crate) fn train(threads: usize, simd: SimdPath) -> ([u8; 32], [u8; 32]) {
    train_with(tiny_model(), spec(), threads, simd, 5)
}

/// Token `place` of micro-batch `number` of the run: some tokens are frequent, so there is something to learn.
pub(crate) fn golden_token(place: u64, number: u64, vocab_size: usize) -> u32 {
    let noise = place * place / 3 + place / 5 + number * 11;
    let vocab_size = vocab_size as u64;
    (if noise.is_multiple_of(4) { noise % vocab_size } else { noise % vocab_size.min(5) }) as u32
}

/// Bytes as the golden files write them.
pub(crate) fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
