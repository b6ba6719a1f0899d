//! A small model, for tests and fuzzing.

use super::CheckpointError;
use super::write::{Foreign, Model, write};
use crate::data::tokenizer::Tokenizer;
use manta_gpu_kernels::model::config::ModelConfig;
use manta_gpu_kernels::model::layout::Layout;
use serde_json::json;
use std::path::Path;

/// One layer, tied, with grouped queries.
pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 256,
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        max_position_embeddings: 64,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

/// Parameters of a model of this shape: each differs from the one before.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<f32> {
    (0..Layout::new(config).len()).map(|i| (i as f32 - 1000.0) * 1e-3).collect()
}

/// Writes the model to `folder`.
pub(crate) fn write_model(folder: &Path, foreign: Foreign) -> Result<(), CheckpointError> {
    let config = config();
    let (parameters, run) = (parameters(&config), json!({ "rounds": 3 }));
    let model = Model { config: &config, parameters: &parameters, tokenizer: &Tokenizer::Bytes, run: &run };
    write(folder, foreign, model)
}
