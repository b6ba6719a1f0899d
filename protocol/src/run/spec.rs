//! The declarative spec of a run: data, never code.
//!
//! Real numbers travel as the bits of an IEEE 754 binary32 ([`F32Bits`]), for
//! the wire has no floats and equal specs must have equal hashes.

use crate::ids::Hash;
use crate::seed::Seed;
use crate::wire::codec;
use crate::wire::limits::{CHUNK_BYTES_MAX, CHUNKS_MAX, MEMBERS_MAX, PARAMETERS_MAX};
use serde::{Deserialize, Serialize};

/// An f32 by its bits; finite and not negative in every valid spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct F32Bits(pub u32);

impl From<f32> for F32Bits {
    fn from(value: f32) -> Self {
        Self(value.to_bits())
    }
}

impl F32Bits {
    /// The number.
    pub fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// The architecture: a Llama-family decoder. Fields as in `config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Distinct tokens.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the SwiGLU inner layer.
    pub intermediate_size: u32,
    /// Decoder blocks.
    pub num_hidden_layers: u32,
    /// Query heads.
    pub num_attention_heads: u32,
    /// Key/value heads.
    pub num_key_value_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: u32,
    /// Base of the rotary angles.
    pub rope_theta: F32Bits,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: F32Bits,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial values.
    pub initializer_range: F32Bits,
    /// How rotary angles are stretched; absent on the wire if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScalingSpec>,
}

/// A kind of `rope_scaling` as in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RopeScalingSpec {
    /// Positions are divided.
    Linear {
        /// By this.
        factor: F32Bits,
    },
    /// Slow frequencies are divided, fast ones stay (Llama 3.1).
    Llama3 {
        /// By this.
        factor: F32Bits,
        /// Turns within the original length up to which a frequency is slow.
        low_freq_factor: F32Bits,
        /// Turns from which it is fast.
        high_freq_factor: F32Bits,
        /// Tokens.
        original_max_position_embeddings: u32,
    },
}

/// How the learning rate falls from the highest to the last; a schedule of decay alone (cosine)
/// is one whose decay starts where warm-up ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecaySpec {
    /// A straight line.
    #[default]
    Linear,
    /// Half a period of a cosine.
    Cosine,
    /// 1 − √ of the share of the decay that is done.
    OneMinusSqrt,
}

impl DecaySpec {
    /// Whether it is a straight line, of which the wire says nothing.
    pub fn is_linear(&self) -> bool {
        *self == Self::Linear
    }
}

/// Which rule turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerKindSpec {
    /// AdamW for all parameters.
    #[default]
    Adamw,
    /// Muon for the matrices of the blocks (Jordan et al. 2024), AdamW for the rest.
    Muon,
}

impl OptimizerKindSpec {
    /// Whether it is AdamW for all, of which the wire says nothing.
    pub fn is_adamw(&self) -> bool {
        *self == Self::Adamw
    }
}

/// The optimiser, with linear warm-up, a constant stretch and decay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// Highest learning rate.
    pub learning_rate: F32Bits,
    /// Decay of AdamW's first moment.
    pub beta1: F32Bits,
    /// Decay of AdamW's second moment.
    pub beta2: F32Bits,
    /// Added to the root of the second moment.
    pub epsilon: F32Bits,
    /// Decoupled weight decay of matrices.
    pub weight_decay: F32Bits,
    /// Largest global norm of the gradient.
    pub gradient_clip_norm: F32Bits,
    /// Steps until the learning rate is at its highest.
    pub warmup_steps: u32,
    /// Step at which the decay begins; the number of steps if there is none.
    pub decay_start_step: u32,
    /// Learning rate after the last step, as a share of the highest.
    pub final_fraction: F32Bits,
    /// The shape of the decay; absent on the wire if it is linear.
    #[serde(default, skip_serializing_if = "DecaySpec::is_linear")]
    pub decay: DecaySpec,
    /// The rule; absent on the wire if it is AdamW for all parameters.
    #[serde(default, skip_serializing_if = "OptimizerKindSpec::is_adamw")]
    pub kind: OptimizerKindSpec,
}

/// The outer optimiser of local training: Nesterov momentum on the mean of what
/// the members' parameters moved by (DiLoCo, Douillard et al. 2023).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterSpec {
    /// Learning rate.
    pub learning_rate: F32Bits,
    /// Momentum.
    pub momentum: F32Bits,
}

/// Digits (of 8 bits) for each class of integer operand: 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigitsSpec {
    /// Activations.
    pub activations: u8,
    /// Weights.
    pub weights: u8,
    /// Gradients.
    pub gradients: u8,
    /// The gradient of the logits.
    pub logit_gradient: u8,
    /// Attention's own operands.
    pub attention: u8,
}

/// Everything that fixes the bits of a run, given who takes part when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Version of the arithmetic (`docs/arithmetic.md`).
    pub arithmetic_version: u32,
    /// Digits of the integer products.
    pub digits: DigitsSpec,
    /// The architecture.
    pub model: ModelSpec,
    /// The optimiser.
    pub optimizer: OptimizerSpec,
    /// Initial values, batches and rounding are drawn from this.
    pub seed: Seed,
    /// Hash of the data set's manifest.
    pub data_root: Hash,
    /// Bytes of the data set, so that members can judge it before fetching.
    pub data_bytes: u64,
    /// Tokens of one sequence.
    pub sequence_length: u32,
    /// Sequences of one micro-batch.
    pub micro_batch_sequences: u32,
    /// Micro-batches of one member in one step.
    pub micro_batches: u32,
    /// Rounds of the run, if the members that it starts with stay; members
    /// compare their parameters after each.
    pub rounds: u32,
    /// Optimiser steps of one round.
    pub steps_per_round: u32,
    /// `None`: gradients are averaged at every step. Otherwise each member makes
    /// the steps of a round by itself, and then what they moved is averaged.
    pub outer: Option<OuterSpec>,
    /// Elements of one chunk of the all-reduce.
    pub chunk_elements: u32,
    /// Whether the last of two members goes on alone.
    pub solo: bool,
    /// Root of the parameters that the run starts from; absent on the wire if these
    /// are the initial values of the seed. Members have them from where the data is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Hash>,
}

impl RopeScalingSpec {
    fn validate(&self) -> Result<(), String> {
        let factor = |field: &str, bits: F32Bits, low: f32| match bits.value() {
            value if (low..=1e6).contains(&value) => Ok(()),
            value => Err(format!("rope_scaling {field} = {value}, accepted is {low} to 1e6")),
        };
        match *self {
            Self::Linear { factor: by } => factor("factor", by, 1.0),
            Self::Llama3 { factor: by, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                factor("factor", by, 1.0)?;
                factor("low_freq_factor", low_freq_factor, 1e-3)?;
                // More than the other: a share of their difference is taken.
                factor("high_freq_factor", high_freq_factor, low_freq_factor.value().next_up())?;
                in_range("original_max_position_embeddings", original_max_position_embeddings, 2, 1 << 20)
            }
        }
    }
}

impl ModelSpec {
    /// Number of parameters; `None` if it does not fit 64 bits.
    pub fn parameters(&self) -> Option<u64> {
        let [vocab, hidden, inner, layers, heads, kv_heads, width] = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
        ]
        .map(u128::from);
        let embedding = vocab * hidden;
        let attention = 2 * hidden * heads * width + 2 * hidden * kv_heads * width;
        let block = attention + 3 * hidden * inner + 2 * hidden;
        let heads_total = if self.tie_word_embeddings { embedding } else { 2 * embedding };
        // Five factors of 32 bits can pass 128 bits: saturate through checked arithmetic.
        let total = block.checked_mul(layers)?.checked_add(heads_total)?.checked_add(hidden)?;
        u64::try_from(total).ok()
    }

    /// Whether the shape is one that can be computed and fits the limits.
    ///
    /// # Errors
    /// Names the field, its value and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        let ranges = [
            ("vocab_size", self.vocab_size, 2, 1 << 20),
            ("hidden_size", self.hidden_size, 8, 1 << 14),
            ("intermediate_size", self.intermediate_size, 8, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1, 256),
            ("num_attention_heads", self.num_attention_heads, 1, 256),
            ("num_key_value_heads", self.num_key_value_heads, 1, 256),
            ("head_dim", self.head_dim, 2, 512),
            ("max_position_embeddings", self.max_position_embeddings, 2, 1 << 17),
        ];
        ranges.into_iter().try_for_each(|(field, value, low, high)| in_range(field, value, low, high))?;
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) || !self.head_dim.is_multiple_of(2) {
            return Err("num_key_value_heads must divide num_attention_heads, and head_dim must be even".into());
        }
        let reals = [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("initializer_range", self.initializer_range),
        ];
        reals.into_iter().try_for_each(|(field, bits)| finite(field, bits))?;
        self.rope_scaling.iter().try_for_each(RopeScalingSpec::validate)?;
        match self.parameters() {
            Some(count) if count <= PARAMETERS_MAX => Ok(()),
            _ => Err(format!("the model has more than {PARAMETERS_MAX} parameters")),
        }
    }
}

impl RunSpec {
    /// A run of the smallest model that still has every part (408 parameters), of
    /// one batch: for trials and simulations, where the work is not the point.
    /// Change what matters of it.
    pub fn miniature(seed: Seed, data_root: Hash) -> Self {
        Self {
            arithmetic_version: 1,
            digits: DigitsSpec { activations: 1, weights: 1, gradients: 1, logit_gradient: 2, attention: 2 },
            model: ModelSpec {
                vocab_size: 16,
                hidden_size: 8,
                intermediate_size: 8,
                num_hidden_layers: 1,
                num_attention_heads: 1,
                num_key_value_heads: 1,
                head_dim: 2,
                max_position_embeddings: 16,
                rope_theta: F32Bits::from(10_000.0),
                rms_norm_eps: F32Bits::from(1e-5),
                tie_word_embeddings: true,
                initializer_range: F32Bits::from(0.02),
                rope_scaling: None,
            },
            optimizer: OptimizerSpec {
                learning_rate: F32Bits::from(0.01),
                beta1: F32Bits::from(0.9),
                beta2: F32Bits::from(0.95),
                epsilon: F32Bits::from(1e-8),
                weight_decay: F32Bits::from(0.1),
                gradient_clip_norm: F32Bits::from(1.0),
                warmup_steps: 1,
                decay_start_step: 1,
                final_fraction: F32Bits::from(0.1),
                decay: DecaySpec::Linear,
                kind: OptimizerKindSpec::Adamw,
            },
            seed,
            data_root,
            data_bytes: 1_000_000,
            sequence_length: 16,
            micro_batch_sequences: 1,
            micro_batches: 1,
            rounds: 1,
            steps_per_round: 1,
            outer: None,
            chunk_elements: 64,
            solo: true,
            initial: None,
        }
    }

    /// The spec's name: blake3, in key-derivation mode, of its canonical bytes.
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key("manta 2026-11 run spec v1", &codec::encode(self)))
    }

    /// Optimiser steps of the whole run.
    pub fn steps(&self) -> u64 {
        u64::from(self.rounds) * u64::from(self.steps_per_round)
    }

    /// Exchanges (all-reduces) of one round.
    pub fn exchanges_per_round(&self) -> u32 {
        if self.outer.is_some() { 1 } else { self.steps_per_round }
    }

    /// Micro-batches that a member does for one exchange.
    pub fn batches_per_exchange(&self) -> u32 {
        let steps = if self.outer.is_some() { self.steps_per_round } else { 1 };
        self.micro_batches.saturating_mul(steps)
    }

    /// Micro-batches of the whole run, started by `members`.
    pub fn batches(&self, members: usize) -> u64 {
        self.steps().saturating_mul(u64::from(self.micro_batches)).saturating_mul(members as u64)
    }

    /// Where the learning-rate schedule stands, in steps of the whole run, when
    /// `done` of `target` batches count.
    pub fn schedule_step(&self, done: u64, target: u64) -> u64 {
        (u128::from(done) * u128::from(self.steps()) / u128::from(target.max(1))) as u64
    }

    /// Tokens that one member is trained on in one step.
    pub fn tokens_per_member_step(&self) -> u64 {
        u64::from(self.sequence_length) * u64::from(self.micro_batch_sequences) * u64::from(self.micro_batches)
    }

    /// How the gradient is cut for `ranks` members; `None` if it would be too many chunks.
    pub fn chunk_plan(&self, ranks: usize) -> Option<super::ChunkPlan> {
        super::ChunkPlan::new(self.model.parameters()?, ranks, self.chunk_elements)
    }

    /// Checks every field against its limits.
    ///
    /// # Errors
    /// Names the field, its value and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        self.model.validate()?;
        let digits = [
            self.digits.activations,
            self.digits.weights,
            self.digits.gradients,
            self.digits.logit_gradient,
            self.digits.attention,
        ];
        digits.into_iter().try_for_each(|digits| in_range("digits", u32::from(digits), 1, 2))?;
        in_range("sequence_length", self.sequence_length, 2, self.model.max_position_embeddings)?;
        in_range("micro_batch_sequences", self.micro_batch_sequences, 1, 1 << 12)?;
        in_range("micro_batches", self.micro_batches, 1, 1 << 12)?;
        in_range("rounds", self.rounds, 1, 1 << 24)?;
        in_range("steps_per_round", self.steps_per_round, 1, 1 << 12)?;
        in_range("chunk_elements", self.chunk_elements, 1, (CHUNK_BYTES_MAX / size_of::<f32>()) as u32)?;
        // Each member's part may end in one more chunk that is not full: this
        // bound holds for every number of members.
        let chunks = self.model.parameters().map(|count| count.div_ceil(u64::from(self.chunk_elements)));
        if chunks.is_none_or(|chunks| chunks + MEMBERS_MAX as u64 > CHUNKS_MAX as u64) {
            return Err(format!("chunk_elements = {} cuts the gradient too finely", self.chunk_elements));
        }
        let optimizer = &self.optimizer;
        let reals = [
            ("learning_rate", optimizer.learning_rate),
            ("beta1", optimizer.beta1),
            ("beta2", optimizer.beta2),
            ("epsilon", optimizer.epsilon),
            ("weight_decay", optimizer.weight_decay),
            ("gradient_clip_norm", optimizer.gradient_clip_norm),
            ("final_fraction", optimizer.final_fraction),
        ];
        reals.into_iter().try_for_each(|(field, bits)| finite(field, bits))?;
        self.validate_schedule()?;
        let Some(outer) = &self.outer else { return Ok(()) };
        let reals = [("outer learning_rate", outer.learning_rate), ("outer momentum", outer.momentum)];
        reals.into_iter().try_for_each(|(field, bits)| finite(field, bits))
    }

    /// Warm-up, then the decay, all within the run; nothing rises again.
    fn validate_schedule(&self) -> Result<(), String> {
        let OptimizerSpec { warmup_steps, decay_start_step, final_fraction, .. } = self.optimizer;
        let steps = u32::try_from(self.steps()).unwrap_or(u32::MAX);
        in_range("warmup_steps", warmup_steps, 0, steps)?;
        in_range("decay_start_step", decay_start_step, warmup_steps, steps)?;
        match final_fraction.value() {
            share if (0.0..=1.0).contains(&share) => Ok(()),
            share => Err(format!("final_fraction = {share}, accepted is 0 to 1")),
        }
    }
}

fn in_range(field: &str, value: u32, low: u32, high: u32) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{field} = {value}, accepted is {low} to {high}")) }
}

fn finite(field: &str, bits: F32Bits) -> Result<(), String> {
    let value = bits.value();
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(format!("{field} = {value}, accepted is a finite number ≥ 0"))
    }
}
