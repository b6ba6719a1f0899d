//! The shape of a Llama-family decoder.
//!
//! Field names are those of Hugging Face's `LlamaConfig`, so that the same
//! struct is read from and written to `config.json`.

use serde::{Deserialize, Serialize};

/// The architecture of one model: everything that fixes the parameter shapes
/// and the forward function, and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Number of distinct tokens (256 for the byte-level tokenizer, plus specials).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU inner layer.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even, for rotary pairs.
    pub head_dim: usize,
    /// Longest sequence the model is trained on, in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary angles.
    pub rope_theta: f32,
    /// How the angles are stretched for longer sequences, if they are.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial Gaussian.
    pub initializer_range: f32,
}

/// How rotary frequencies differ from powers of `rope_theta`: the kinds of
/// Hugging Face's `rope_scaling` that depend on nothing but the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Positions are divided by `factor` (Chen et al., 2023).
    Linear {
        /// At least 1.
        factor: f32,
    },
    /// Llama 3.1: frequencies that turn less than `low_freq_factor` times within
    /// the original length are divided by `factor`, those that turn more than
    /// `high_freq_factor` times stay, and between them it goes over linearly.
    Llama3 {
        /// At least 1.
        factor: f32,
        /// Turns up to which frequencies are divided.
        low_freq_factor: f32,
        /// Turns from which they stay; more than `low_freq_factor`.
        high_freq_factor: f32,
        /// The length that the model was first trained on, in tokens.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// What is wrong with it, if anything.
    fn problem(&self) -> Option<String> {
        let outside = |name: &str, value: f32, low: f32, high: f32| {
            (!(low..=high).contains(&value)).then(|| format!("`{name}` = {value} is not in {low}..={high}"))
        };
        match *self {
            Self::Linear { factor } => outside("factor", factor, 1.0, 1e6),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings: length } => {
                outside("factor", factor, 1.0, 1e6)
                    .or_else(|| outside("low_freq_factor", low_freq_factor, 1e-3, 1e6))
                    .or_else(|| outside("high_freq_factor", high_freq_factor, 1e-3, 1e6))
                    .or_else(|| {
                        (high_freq_factor <= low_freq_factor).then(|| {
                            format!("`high_freq_factor` = {high_freq_factor} is not more than `low_freq_factor` = {low_freq_factor}")
                        })
                    })
                    .or_else(|| {
                        (!(2..=1 << 20).contains(&length)).then(|| {
                            format!("`original_max_position_embeddings` = {length} is not in 2..={}", 1 << 20)
                        })
                    })
            }
        }
    }
}

/// Why a [`ModelConfig`] cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config field `{field}`: {problem}")]
pub struct ConfigError {
    /// The offending field, as spelled in `config.json`.
    pub field: &'static str,
    /// What was wrong and what is accepted.
    pub problem: String,
}

impl ModelConfig {
    /// Checks every field against the limits of the exact arithmetic.
    ///
    /// # Errors
    /// Names the first field that is out of range and says what is accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, problem: String| Err(ConfigError { field, problem });
        let in_range = |field, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError { field, problem: format!("{value} is not in {low}..={high}") })
            }
        };
        in_range("vocab_size", self.vocab_size, 2, 1 << 20)?;
        // The longest contracted axis must keep i32 sums of 127² exact.
        in_range("hidden_size", self.hidden_size, 8, 1 << 14)?;
        in_range("intermediate_size", self.intermediate_size, 8, 1 << 16)?;
        in_range("num_hidden_layers", self.num_hidden_layers, 1, 256)?;
        in_range("num_attention_heads", self.num_attention_heads, 1, 256)?;
        in_range("num_key_value_heads", self.num_key_value_heads, 1, 256)?;
        in_range("head_dim", self.head_dim, 2, 512)?;
        in_range("max_position_embeddings", self.max_position_embeddings, 2, 1 << 17)?;
        if !self.head_dim.is_multiple_of(2) {
            return fail("head_dim", format!("{} is odd; rotary pairs need an even width", self.head_dim));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return fail(
                "num_key_value_heads",
                format!(
                    "{} does not divide num_attention_heads = {}",
                    self.num_key_value_heads, self.num_attention_heads
                ),
            );
        }
        if !(self.rope_theta.is_finite() && (1.0..=1e9).contains(&self.rope_theta)) {
            return fail("rope_theta", format!("{} is not in 1..=1e9", self.rope_theta));
        }
        if let Some(problem) = self.rope_scaling.and_then(|scaling| scaling.problem()) {
            return fail("rope_scaling", problem);
        }
        if !(self.rms_norm_eps.is_finite() && (1e-12..=1e-1).contains(&self.rms_norm_eps)) {
            return fail("rms_norm_eps", format!("{} is not in 1e-12..=0.1", self.rms_norm_eps));
        }
        if !(self.initializer_range.is_finite() && (1e-6..=1.0).contains(&self.initializer_range)) {
            return fail("initializer_range", format!("{} is not in 1e-6..=1", self.initializer_range));
        }
        Ok(())
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
