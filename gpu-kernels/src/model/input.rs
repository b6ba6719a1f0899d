//! What a pass is given: checked before anything is computed.

use super::config::ModelConfig;
use super::forward::Batch;
use super::workspace::TokenRows;
use crate::error::EngineError;
use crate::spec::ArithmeticSpec;

/// Refuses tokens outside of the vocabulary.
fn check_tokens(config: &ModelConfig, tokens: &[u32]) -> Result<(), EngineError> {
    let vocab_size = config.vocab_size;
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(place) => Err(EngineError::Token { place, token: tokens[place], vocab_size }),
        None => Ok(()),
    }
}

/// Refuses contexts that are empty, too long, or hold tokens outside of the vocabulary.
pub(crate) fn check_context(config: &ModelConfig, context: &[u32]) -> Result<(), EngineError> {
    let longest = config.max_position_embeddings;
    if !(1..=longest).contains(&context.len()) {
        let expected = format!("1 to {longest} tokens");
        return Err(EngineError::Length { what: "context", expected, found: context.len() });
    }
    check_tokens(config, context)
}

/// Refuses more sequences than a micro-batch has, or none.
pub(crate) fn check_sequences(spec: &ArithmeticSpec, sequences: usize) -> Result<(), EngineError> {
    if (1..=spec.micro_batch_sequences).contains(&sequences) {
        return Ok(());
    }
    let expected = format!("1 to {}", spec.micro_batch_sequences);
    Err(EngineError::Length { what: "sequences", expected, found: sequences })
}

/// The shape of `sequences` rows of tokens, each one longer than the sequence length.
pub(crate) fn checked_batch(
    config: &ModelConfig,
    spec: &ArithmeticSpec,
    tokens: &[u32],
    sequences: usize,
) -> Result<Batch, EngineError> {
    let length = spec.sequence_length;
    let expected = sequences.checked_mul(length + 1);
    if sequences == 0 || expected != Some(tokens.len()) {
        let expected = format!("{sequences} sequences (at least 1) of {} tokens", length + 1);
        return Err(EngineError::Length { what: "tokens", expected, found: tokens.len() });
    }
    check_tokens(config, tokens)?;
    Ok(Batch { sequences, length })
}

/// Rows of `length + 1` tokens → all but the last of each, and all but the first.
pub(crate) fn split_targets(tokens: &[u32], length: usize) -> (Vec<u32>, Vec<u32>) {
    let mut rows = TokenRows::default();
    rows.split(tokens, length);
    (rows.inputs, rows.targets)
}
