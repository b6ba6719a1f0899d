//! The tiny training run whose parameters are pinned.

use crate::device::Device;
use crate::error::EngineError;
use crate::gpu::compile::Pipelines;
use crate::gpu::engine::GpuEngine;
use crate::gpu::kernel::Form;
use crate::model::config::ModelConfig;
use crate::model::options::Recompute;
use crate::model::step::{MicroBatchKey, StepNumbers};
use crate::spec::{ArithmeticSpec, OptimizerConfig};
use crate::training::TrainingEngine;

/// blake3 of parameters and moments after the run: those of arithmetic version 1.
pub(super) const PINNED: &str = "38b74065850dad4e1509a239f9f01a16954cd678bfb84b59d1487b48b065756c";

const RUN_SEED: [u8; 32] = [0x5a; 32];
const STEPS: u64 = 3;

/// Odd sizes, grouped queries, an untied head, and one or two digits.
pub(super) fn shape() -> (ModelConfig, ArithmeticSpec, OptimizerConfig) {
    let model = ModelConfig {
        vocab_size: 23,
        hidden_size: 20,
        intermediate_size: 27,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 16,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        initializer_range: 0.05,
    };
    let arithmetic = ArithmeticSpec {
        gradient_digits: 2,
        attention_digits: 2,
        micro_batch_sequences: 2,
        sequence_length: 11,
        ..ArithmeticSpec::default()
    };
    let optimizer = OptimizerConfig { learning_rate: 1e-2, warmup_steps: 1, ..OptimizerConfig::default() };
    (model, arithmetic, optimizer)
}

/// Trains any engine of [`shape`]; the hash of what it ends with.
pub(super) fn run(engine: &mut dyn TrainingEngine) -> Result<String, EngineError> {
    engine.initialize(RUN_SEED)?;
    let (sequences, row) = (engine.arithmetic().micro_batch_sequences, engine.arithmetic().sequence_length + 1);
    let vocab_size = engine.config().vocab_size as u64;
    for step in 0..STEPS {
        let place = |at: u64| (at * at / 3 + at / 5 + step * 7) % vocab_size;
        let tokens: Vec<u32> = (0..(sequences * row) as u64).map(|at| place(at) as u32).collect();
        engine.accumulate_gradient(&tokens, sequences, &MicroBatchKey { run_seed: RUN_SEED, step, micro_batch: 0 })?;
        engine.apply_own_gradient(1, StepNumbers::in_order(step))?;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&engine.parameter_hash()?).update(&engine.optimizer_hash()?);
    Ok(hasher.finalize().to_hex().to_string())
}

/// [`run`] with kernels of these forms.
pub(super) fn run_on_device(
    device: &Device,
    form: Form,
    soft_kernels: Vec<&'static str>,
) -> Result<String, EngineError> {
    let (model, arithmetic, optimizer) = shape();
    let pipelines = Pipelines::new(device.clone(), form, soft_kernels, None);
    run(&mut GpuEngine::with_pipelines(model, optimizer, arithmetic, pipelines, Recompute::Auto)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, EngineOptions, SimdPath};

    #[test]
    fn the_pinned_run_is_the_native_one() {
        for simd in SimdPath::available() {
            let (model, arithmetic, optimizer) = shape();
            let options = EngineOptions { threads: 1, simd, ..EngineOptions::default() };
            let mut native = Engine::new(model, optimizer, arithmetic, options).unwrap();
            assert_eq!(run(&mut native).unwrap(), PINNED, "{simd:?}");
        }
    }
}
