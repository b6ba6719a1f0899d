//! What fixes the bits of a run besides the model: arithmetic and optimiser.

use crate::arithmetic::from_host;
use crate::error::EngineError;
use crate::model::config::ModelConfig;
use crate::model::layout::Tensor;
use crate::schedule::DecayShape;
use serde::{Deserialize, Serialize};

/// The version of ops, their order and constants that this crate computes
/// (`docs/arithmetic.md`).
pub const ARITHMETIC_VERSION: u32 = 1;

/// The exact arithmetic of a run. Two runs with equal specifications, models,
/// data and seeds have equal bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArithmeticSpec {
    /// Must be [`ARITHMETIC_VERSION`].
    pub version: u32,
    /// 8-bit digits (1 or 2) of the inputs of linear layers.
    pub activation_digits: u8,
    /// Digits of weights.
    pub weight_digits: u8,
    /// Digits of gradients, except that of the logits.
    pub gradient_digits: u8,
    /// Digits of the gradient of the logits.
    pub logit_gradient_digits: u8,
    /// Digits of queries, keys, values and attention probabilities.
    pub attention_digits: u8,
    /// Sequences in a micro-batch: gradients of one micro-batch share scales.
    pub micro_batch_sequences: usize,
    /// Tokens of a training sequence (one less than the tokens it is cut from).
    pub sequence_length: usize,
}

impl Default for ArithmeticSpec {
    fn default() -> Self {
        Self {
            version: ARITHMETIC_VERSION,
            activation_digits: 1,
            weight_digits: 1,
            gradient_digits: 1,
            logit_gradient_digits: 2,
            attention_digits: 1,
            micro_batch_sequences: 8,
            sequence_length: 128,
        }
    }
}

fn fail<T>(field: &'static str, problem: String) -> Result<T, EngineError> {
    Err(EngineError::Spec { field, problem })
}

impl ArithmeticSpec {
    /// Tokens in a full micro-batch.
    pub fn micro_batch_tokens(&self) -> usize {
        self.micro_batch_sequences * self.sequence_length
    }

    /// Checks every field, also against the model.
    ///
    /// # Errors
    /// Names the first field that is out of range and says what is accepted.
    pub fn validate(&self, model: &ModelConfig) -> Result<(), EngineError> {
        if self.version != ARITHMETIC_VERSION {
            return fail("version", format!("{} is not {ARITHMETIC_VERSION}, the one computed here", self.version));
        }
        let digits = [
            ("activation_digits", self.activation_digits),
            ("weight_digits", self.weight_digits),
            ("gradient_digits", self.gradient_digits),
            ("logit_gradient_digits", self.logit_gradient_digits),
            ("attention_digits", self.attention_digits),
        ];
        for (field, value) in digits {
            if !(1..=2).contains(&value) {
                return fail(field, format!("{value} is neither 1 nor 2"));
            }
        }
        let longest = model.max_position_embeddings;
        if !(1..=longest).contains(&self.sequence_length) {
            return fail("sequence_length", format!("{} is not in 1..={longest}", self.sequence_length));
        }
        if !(1..=4096).contains(&self.micro_batch_sequences) {
            return fail("micro_batch_sequences", format!("{} is not in 1..=4096", self.micro_batch_sequences));
        }
        if self.micro_batch_tokens() > 1 << 17 {
            let found = self.micro_batch_tokens();
            return fail("micro_batch_sequences", format!("a micro-batch has {found} tokens, more than {}", 1 << 17));
        }
        Ok(())
    }
}

/// Which rule turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov and Hutter, 2019) for all parameters.
    #[default]
    Adamw,
    /// Muon (Jordan et al., 2024; Liu et al., arXiv:2502.16982) for the matrices of the blocks:
    /// momentum, made orthogonal. AdamW for embedding, head and norms.
    Muon,
}

impl OptimizerKind {
    /// Whether all parameters are AdamW's.
    pub fn is_adamw(&self) -> bool {
        *self == Self::Adamw
    }

    /// Whether the steps of this tensor are made orthogonal.
    pub fn orthogonalizes(self, tensor: &Tensor) -> bool {
        self == Self::Muon && tensor.is_block_matrix()
    }
}

/// The optimiser, gradient clipping, and a schedule of linear warm-up, a constant
/// stretch and decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which rule it follows; AdamW where nothing is said.
    #[serde(default, skip_serializing_if = "OptimizerKind::is_adamw")]
    pub kind: OptimizerKind,
    /// The largest learning rate.
    pub learning_rate: f32,
    /// Decay of AdamW's first moment.
    pub beta1: f32,
    /// Decay of AdamW's second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled decay of matrices (embedding included), per unit of learning rate.
    pub weight_decay: f32,
    /// Gradients with a larger Euclidean norm are scaled down to it.
    pub gradient_clip_norm: f32,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Step from which it falls; `total_steps` if it never does.
    pub decay_start_step: u64,
    /// Step at which it has fallen to `final_fraction`.
    pub total_steps: u64,
    /// What is left of the learning rate at the end.
    pub final_fraction: f32,
    /// How it falls; a straight line where nothing is said.
    #[serde(default, skip_serializing_if = "DecayShape::is_linear")]
    pub decay: DecayShape,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 3e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_clip_norm: 1.0,
            warmup_steps: 20,
            decay_start_step: 160,
            total_steps: 200,
            final_fraction: 0.1,
            decay: DecayShape::Linear,
        }
    }
}

impl OptimizerConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that is out of range and says what is accepted.
    pub fn validate(&self) -> Result<(), EngineError> {
        let ranges = [
            ("learning_rate", self.learning_rate, 0.0, 1.0),
            ("beta1", self.beta1, 0.0, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999),
            ("epsilon", self.epsilon, 1e-12, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
            ("gradient_clip_norm", self.gradient_clip_norm, 1e-6, 1e6),
            ("final_fraction", self.final_fraction, 0.0, 1.0),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return fail(field, format!("{value} is not in {low}..={high}"));
            }
        }
        if self.total_steps > 1 << 40 {
            return fail("total_steps", format!("{} is more than 2^40", self.total_steps));
        }
        let (warmup, start, total) = (self.warmup_steps, self.decay_start_step, self.total_steps);
        if start < warmup || start > total {
            return fail(
                "decay_start_step",
                format!("{start} is not in {warmup}..={total}, after warm-up and in the run"),
            );
        }
        Ok(())
    }

    /// The learning rate of `step` (from 0), from f64 basic operations, rounded once.
    pub fn learning_rate_at(&self, step: u64) -> f32 {
        let rate = f64::from(self.learning_rate);
        if step < self.warmup_steps {
            return from_host(rate * ((step + 1) as f64 / self.warmup_steps as f64));
        }
        if step < self.decay_start_step {
            return from_host(rate);
        }
        let last = f64::from(self.final_fraction);
        if step >= self.total_steps {
            return from_host(rate * last);
        }
        let done = (step - self.decay_start_step) as f64 / (self.total_steps - self.decay_start_step) as f64;
        from_host(rate * (1.0 - (1.0 - last) * self.decay.fallen(done)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::learning_rate_at;

    #[test]
    fn schedule_rises_stays_and_falls() {
        let config = OptimizerConfig {
            learning_rate: 1.0,
            warmup_steps: 4,
            decay_start_step: 10,
            total_steps: 20,
            final_fraction: 0.5,
            ..Default::default()
        };
        let rates: Vec<f32> = [0, 1, 3, 4, 9, 10, 15, 19, 20, 1000].map(|step| config.learning_rate_at(step)).into();
        assert_eq!(rates, [0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.55, 0.5, 0.5]);
    }

    #[test]
    fn every_schedule_is_the_reference_s_rounded_once() {
        for decay in [DecayShape::Linear, DecayShape::Cosine, DecayShape::OneMinusSqrt] {
            let config = OptimizerConfig { decay, decay_start_step: 30, total_steps: 1_000, ..Default::default() };
            for step in 0..=1_000 {
                let (found, expected) = (f64::from(config.learning_rate_at(step)), learning_rate_at(&config, step));
                // Half a unit in the last place of an f32, and what the f64s differ by.
                assert!(
                    (found - expected).abs() <= expected * (f64::from(f32::EPSILON) / 2.0 + 1e-14),
                    "{decay:?} {step}"
                );
            }
        }
    }

    /// Computed by another program, from `docs/arithmetic.md`: a schedule with a constant stretch, a
    /// cosine without, and a root.
    #[test]
    fn learning_rates_have_golden_bits() {
        let of = |decay, decay_start_step| {
            let config = OptimizerConfig { decay, decay_start_step, total_steps: 97, ..Default::default() };
            config.validate().unwrap();
            [0, 19, 20, 50, 77, 96, 97].map(|step| config.learning_rate_at(step).to_bits())
        };
        let start = [0x391d_4952, 0x3b44_9ba6, 0x3b44_9ba6];
        let golden = |rest: [u32; 3]| [&start[..], &rest, &[0x399d_4952]].concat();
        assert_eq!(of(DecayShape::Linear, 64).to_vec(), golden([0x3b44_9ba6, 0x3afd_cd95, 0x39c8_2ec5]));
        assert_eq!(of(DecayShape::Cosine, 20).to_vec(), golden([0x3b0a_34a4, 0x3a3e_11de, 0x399d_e01c]));
        assert_eq!(of(DecayShape::OneMinusSqrt, 64).to_vec(), golden([0x3b44_9ba6, 0x3aab_187b, 0x39b2_e649]));
    }

    #[test]
    fn the_kind_is_told_only_if_it_is_not_adamw_and_others_are_refused_by_name() {
        let config = OptimizerConfig::default();
        let plain = serde_json::to_string(&config).unwrap();
        assert!(!plain.contains("kind") && !plain.contains("adamw"), "{plain}");
        let muon = OptimizerConfig { kind: OptimizerKind::Muon, ..config.clone() };
        let text = serde_json::to_string(&muon).unwrap();
        assert_eq!(text, plain.replacen('{', r#"{"kind":"muon","#, 1));
        assert_eq!(serde_json::from_str::<OptimizerConfig>(&text).unwrap(), muon);
        assert_eq!(serde_json::from_str::<OptimizerConfig>(&plain).unwrap(), config);
        let unknown = serde_json::from_str::<OptimizerConfig>(&text.replace("muon", "sgd")).unwrap_err().to_string();
        assert!(unknown.contains("unknown variant `sgd`, expected `adamw` or `muon`"), "{unknown}");
    }

    #[test]
    fn every_bad_field_is_named() {
        type Change = fn(&mut OptimizerConfig);
        let cases: [(&str, Change); 8] = [
            ("learning_rate", |c| c.learning_rate = f32::NAN),
            ("beta1", |c| c.beta1 = 1.0),
            ("epsilon", |c| c.epsilon = 0.0),
            ("gradient_clip_norm", |c| c.gradient_clip_norm = f32::INFINITY),
            ("final_fraction", |c| c.final_fraction = -0.1),
            ("total_steps", |c| c.total_steps = 1 << 41),
            ("decay_start_step", |c| c.warmup_steps = 161),
            ("decay_start_step", |c| c.total_steps = 159),
        ];
        assert_eq!(OptimizerConfig::default().validate(), Ok(()));
        for (name, change) in cases {
            let mut config = OptimizerConfig::default();
            change(&mut config);
            match config.validate() {
                Err(EngineError::Spec { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
