//! Model sizes by name, with the batch and learning rate that suit them.

use crate::digits;
use manta_gpu_kernels::model::config::ModelConfig;
use manta_protocol::run::spec::DigitsSpec;

/// Of the outer optimiser of local training, for models of every size (DiLoCo's own values).
pub(crate) const OUTER_LEARNING_RATE: f32 = 0.7;
/// As above.
pub(crate) const OUTER_MOMENTUM: f32 = 0.9;

/// A named model with its training recipe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) key_value_heads: usize,
    pub(crate) sequence_length: usize,
    /// Sequences of one micro-batch.
    pub(crate) micro_batch_sequences: u32,
    /// Micro-batches of one member in one step.
    pub(crate) micro_batches: u32,
    pub(crate) learning_rate: f32,
}

/// All presets, smallest first.
pub(crate) const PRESETS: [Preset; 7] = [
    Preset {
        name: "nano",
        about: "about 0.1M parameters: a quick check",
        hidden_size: 64,
        intermediate_size: 176,
        layers: 2,
        heads: 4,
        key_value_heads: 2,
        sequence_length: 64,
        micro_batch_sequences: 4,
        micro_batches: 1,
        learning_rate: 4e-3,
    },
    Preset {
        name: "tiny",
        about: "about 0.8M parameters: learns in minutes on a laptop",
        hidden_size: 128,
        intermediate_size: 344,
        layers: 4,
        heads: 4,
        key_value_heads: 2,
        sequence_length: 128,
        micro_batch_sequences: 8,
        micro_batches: 1,
        learning_rate: 3e-3,
    },
    Preset {
        name: "small",
        about: "about 10M parameters: hours on a few machines",
        hidden_size: 384,
        intermediate_size: 1024,
        layers: 6,
        heads: 6,
        key_value_heads: 3,
        sequence_length: 256,
        micro_batch_sequences: 4,
        micro_batches: 4,
        learning_rate: 1e-3,
    },
    Preset {
        name: "medium",
        about: "about 24M parameters: a day on a few machines",
        hidden_size: 512,
        intermediate_size: 1408,
        layers: 8,
        heads: 8,
        key_value_heads: 4,
        sequence_length: 512,
        micro_batch_sequences: 2,
        micro_batches: 4,
        learning_rate: 8e-4,
    },
    Preset {
        name: "base",
        about: "about 85M parameters, 124M with a vocabulary of 50,000: wants graphics cards",
        hidden_size: 768,
        intermediate_size: 2048,
        layers: 12,
        heads: 12,
        key_value_heads: 12,
        sequence_length: 512,
        micro_batch_sequences: 2,
        micro_batches: 8,
        learning_rate: 6e-4,
    },
    Preset {
        name: "large",
        about: "about 290M parameters: wants several graphics cards",
        hidden_size: 1024,
        intermediate_size: 2816,
        layers: 24,
        heads: 16,
        key_value_heads: 8,
        sequence_length: 1024,
        micro_batch_sequences: 1,
        micro_batches: 16,
        learning_rate: 3e-4,
    },
    Preset {
        name: "1b",
        about: "about 970M parameters: wants many graphics cards, and 69 GB of memory on each machine",
        hidden_size: 2048,
        intermediate_size: 5632,
        layers: 22,
        heads: 32,
        key_value_heads: 4,
        sequence_length: 1024,
        micro_batch_sequences: 1,
        micro_batches: 32,
        learning_rate: 2e-4,
    },
];

/// What is trained, in which steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Course {
    pub(crate) model: ModelConfig,
    pub(crate) sequence_length: usize,
    /// Sequences of one micro-batch.
    pub(crate) micro_batch_sequences: u32,
    /// Micro-batches of one member in one step.
    pub(crate) micro_batches: u32,
    pub(crate) learning_rate: f32,
    /// Of integer products.
    pub(crate) digits: DigitsSpec,
}

impl Course {
    /// Goes on with a trained model.
    pub(crate) fn fine_tuning(model: ModelConfig) -> Self {
        Self {
            sequence_length: model.max_position_embeddings.min(512),
            micro_batch_sequences: 2,
            micro_batches: 4,
            // A tenth of what presets of this width take from the beginning.
            learning_rate: 0.04 / model.hidden_size as f32,
            digits: digits::of_any_model(),
            model,
        }
    }
}

impl Preset {
    /// Training from the beginning, with a vocabulary of this size.
    pub(crate) fn course(&self, vocab_size: usize) -> Course {
        Course {
            model: self.model(vocab_size),
            sequence_length: self.sequence_length,
            micro_batch_sequences: self.micro_batch_sequences,
            micro_batches: self.micro_batches,
            learning_rate: self.learning_rate,
            digits: digits::of_training(),
        }
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// Names the presets that there are.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let names = || PRESETS.map(|preset| preset.name).join(", ");
        PRESETS
            .into_iter()
            .find(|preset| preset.name == name)
            .ok_or_else(|| format!("no preset `{name}`; there are: {}", names()))
    }

    /// The architecture, for a vocabulary of this size.
    pub(crate) fn model(&self, vocab_size: usize) -> ModelConfig {
        ModelConfig {
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.key_value_heads,
            head_dim: self.hidden_size / self.heads,
            max_position_embeddings: self.sequence_length,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manta_gpu_kernels::{ArithmeticSpec, Layout};

    /// Millions of parameters that a text promises: the first number before an M.
    fn promised(about: &str) -> f64 {
        let (number, _) = about.split_once('M').expect("a number of millions");
        number.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    #[test]
    fn presets_are_what_they_say_and_can_be_trained() {
        for preset in PRESETS {
            let model = preset.model(256);
            let millions = Layout::new(&model).len() as f64 / 1e6;
            let said = promised(preset.about);
            assert!(
                (millions / said - 1.0).abs() < 0.07 || (millions - said).abs() < 0.05,
                "{}: {millions}",
                preset.name
            );
            model.validate().expect(preset.name);
            let course = preset.course(256);
            let arithmetic = ArithmeticSpec {
                micro_batch_sequences: course.micro_batch_sequences as usize,
                sequence_length: course.sequence_length,
                ..ArithmeticSpec::default()
            };
            arithmetic.validate(&model).expect(preset.name);
        }
        let base = Preset::find("base").expect("it is there").model(50_000);
        assert_eq!(Layout::new(&base).len() / 1_000_000, 123);
        assert!(Preset::find("huge").is_err_and(|error| error.contains("nano, tiny")));
    }
}
