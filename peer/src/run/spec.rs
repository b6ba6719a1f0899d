//! Between the run spec on the wire and the engine's own types.

use crate::api::OrderRequest;
use crate::optimizer::kind;
use crate::preset::{Course, OUTER_LEARNING_RATE, OUTER_MOMENTUM};
use manta_gpu_kernels::{
    ARITHMETIC_VERSION, ArithmeticSpec, DecayShape, ModelConfig, OptimizerConfig, OuterConfig, RopeScaling,
};
use manta_protocol::run::RunSpec;
use manta_protocol::run::spec::{DecaySpec, F32Bits, ModelSpec, OptimizerSpec, OuterSpec, RopeScalingSpec};
use manta_protocol::{Hash, Seed};

/// Elements of one chunk of the all-reduce: 256 KiB, small enough that a link
/// of 100 Mbit/s is busy with several at a time, large enough that their count
/// does not matter.
const CHUNK_ELEMENTS: u32 = 64 * 1024;

/// The spec of an order over the data set of `data_root`, which starts from the
/// parameters of the root `initial`, or from the initial values of its seed.
///
/// # Errors
/// The schedule does not fit the number of steps; names the option.
pub(crate) fn run_spec(
    request: &OrderRequest,
    course: &Course,
    data_root: Hash,
    data_bytes: u64,
    initial: Option<Hash>,
) -> Result<RunSpec, String> {
    let steps = u64::from(request.rounds) * u64::from(request.steps_per_round);
    let steps = u32::try_from(steps).unwrap_or(u32::MAX);
    let schedule = request.basis.schedule.place(steps)?;
    let optimizer = OptimizerConfig::default();
    Ok(RunSpec {
        arithmetic_version: ARITHMETIC_VERSION,
        digits: request.basis.digits.over(course.digits),
        model: model_spec(&course.model),
        optimizer: OptimizerSpec {
            learning_rate: course.learning_rate.into(),
            beta1: optimizer.beta1.into(),
            beta2: optimizer.beta2.into(),
            epsilon: optimizer.epsilon.into(),
            weight_decay: optimizer.weight_decay.into(),
            gradient_clip_norm: optimizer.gradient_clip_norm.into(),
            warmup_steps: schedule.warmup_steps,
            decay_start_step: schedule.decay_start_step,
            final_fraction: schedule.final_fraction.into(),
            decay: schedule.decay,
            kind: request.basis.optimizer.into(),
        },
        seed: Seed::from_number(request.seed),
        data_root,
        data_bytes,
        sequence_length: wire(course.sequence_length),
        micro_batch_sequences: course.micro_batch_sequences,
        micro_batches: course.micro_batches,
        rounds: request.rounds,
        steps_per_round: request.steps_per_round,
        outer: request
            .local
            .then(|| OuterSpec { learning_rate: OUTER_LEARNING_RATE.into(), momentum: OUTER_MOMENTUM.into() }),
        chunk_elements: CHUNK_ELEMENTS,
        solo: request.solo,
        initial,
    })
}

/// The architecture as the engine takes it.
pub(crate) fn model_config(model: &ModelSpec) -> ModelConfig {
    ModelConfig {
        vocab_size: model.vocab_size as usize,
        hidden_size: model.hidden_size as usize,
        intermediate_size: model.intermediate_size as usize,
        num_hidden_layers: model.num_hidden_layers as usize,
        num_attention_heads: model.num_attention_heads as usize,
        num_key_value_heads: model.num_key_value_heads as usize,
        head_dim: model.head_dim as usize,
        max_position_embeddings: model.max_position_embeddings as usize,
        rope_theta: model.rope_theta.value(),
        rms_norm_eps: model.rms_norm_eps.value(),
        tie_word_embeddings: model.tie_word_embeddings,
        initializer_range: model.initializer_range.value(),
        rope_scaling: model.rope_scaling.map(|scaling| match scaling {
            RopeScalingSpec::Linear { factor } => RopeScaling::Linear { factor: factor.value() },
            RopeScalingSpec::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                RopeScaling::Llama3 {
                    factor: factor.value(),
                    low_freq_factor: low_freq_factor.value(),
                    high_freq_factor: high_freq_factor.value(),
                    original_max_position_embeddings: original_max_position_embeddings as usize,
                }
            }
        }),
    }
}

/// The arithmetic as the engine takes it.
pub(crate) fn arithmetic(spec: &RunSpec) -> ArithmeticSpec {
    ArithmeticSpec {
        version: spec.arithmetic_version,
        activation_digits: spec.digits.activations,
        weight_digits: spec.digits.weights,
        gradient_digits: spec.digits.gradients,
        logit_gradient_digits: spec.digits.logit_gradient,
        attention_digits: spec.digits.attention,
        micro_batch_sequences: spec.micro_batch_sequences as usize,
        sequence_length: spec.sequence_length as usize,
    }
}

/// The optimiser as the engine takes it.
pub(crate) fn optimizer(spec: &RunSpec) -> OptimizerConfig {
    OptimizerConfig {
        kind: kind(spec.optimizer.kind),
        learning_rate: spec.optimizer.learning_rate.value(),
        beta1: spec.optimizer.beta1.value(),
        beta2: spec.optimizer.beta2.value(),
        epsilon: spec.optimizer.epsilon.value(),
        weight_decay: spec.optimizer.weight_decay.value(),
        gradient_clip_norm: spec.optimizer.gradient_clip_norm.value(),
        warmup_steps: u64::from(spec.optimizer.warmup_steps),
        decay_start_step: u64::from(spec.optimizer.decay_start_step),
        total_steps: spec.steps(),
        final_fraction: spec.optimizer.final_fraction.value(),
        decay: match spec.optimizer.decay {
            DecaySpec::Linear => DecayShape::Linear,
            DecaySpec::Cosine => DecayShape::Cosine,
            DecaySpec::OneMinusSqrt => DecayShape::OneMinusSqrt,
        },
    }
}

/// The outer optimiser as the kernels take it; `None` where gradients are averaged.
pub(crate) fn outer(spec: &RunSpec) -> Option<OuterConfig> {
    let outer = spec.outer.as_ref()?;
    Some(OuterConfig { learning_rate: outer.learning_rate.value(), momentum: outer.momentum.value() })
}

fn model_spec(model: &ModelConfig) -> ModelSpec {
    ModelSpec {
        vocab_size: wire(model.vocab_size),
        hidden_size: wire(model.hidden_size),
        intermediate_size: wire(model.intermediate_size),
        num_hidden_layers: wire(model.num_hidden_layers),
        num_attention_heads: wire(model.num_attention_heads),
        num_key_value_heads: wire(model.num_key_value_heads),
        head_dim: wire(model.head_dim),
        max_position_embeddings: wire(model.max_position_embeddings),
        rope_theta: F32Bits::from(model.rope_theta),
        rms_norm_eps: F32Bits::from(model.rms_norm_eps),
        tie_word_embeddings: model.tie_word_embeddings,
        initializer_range: F32Bits::from(model.initializer_range),
        rope_scaling: model.rope_scaling.map(|scaling| match scaling {
            RopeScaling::Linear { factor } => RopeScalingSpec::Linear { factor: factor.into() },
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                RopeScalingSpec::Llama3 {
                    factor: factor.into(),
                    low_freq_factor: low_freq_factor.into(),
                    high_freq_factor: high_freq_factor.into(),
                    original_max_position_embeddings: wire(original_max_position_embeddings),
                }
            }
        }),
    }
}

/// A size on the wire; one beyond 32 bits becomes one that validation refuses.
fn wire(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
