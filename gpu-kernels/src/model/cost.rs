//! What a training step costs, told before any is taken.

use super::config::ModelConfig;
use super::layout::Layout;
use super::muon::Shape;
use crate::cpu::muon::{DIGITS, ITERATIONS};
use crate::spec::OptimizerKind;

/// Multiply-adds of training on one token: forward and backward, in sequences of `sequence_length` tokens.
///
/// A weight of a matrix takes one forward and two on the way back (gradients of its input and of itself); a tied
/// embedding counts once, as the head, for looking rows up multiplies nothing. Scores and weighted values take a
/// query's width each for half of the sequence, on average, and what lies behind the diagonal is left out. Digits
/// beyond the first are not counted.
pub fn multiply_adds_per_token(model: &ModelConfig, sequence_length: usize) -> u64 {
    let layout = Layout::new(model);
    let matrices = layout.tensors().iter().filter(|tensor| tensor.shape.len() == 2);
    let weights: usize = matrices.map(|tensor| tensor.len()).sum();
    let looked_up = if model.tie_word_embeddings { 0 } else { model.vocab_size * model.hidden_size };
    let attention = model.num_hidden_layers * model.query_width() * (sequence_length + 1);
    3 * (weights - looked_up + attention) as u64
}

/// Of them again where activations are not kept: the forward pass of all blocks but the last, without their last product.
pub fn recomputed_multiply_adds_per_token(model: &ModelConfig, sequence_length: usize) -> u64 {
    let (hidden, queries) = (model.hidden_size, model.query_width());
    let weights = hidden * (2 * queries + 2 * model.key_value_width() + 2 * model.intermediate_size);
    ((model.num_hidden_layers - 1) * (weights + queries * (sequence_length + 1))) as u64
}

/// Multiply-adds of 8-bit digits in the products of an optimiser's step, whatever the number of tokens: none of AdamW's.
///
/// An iteration of Muon's for a matrix of sides n ≤ m has X·Xᵀ and its square, of which half is computed, and the
/// product of X and an n × n matrix, all of two digits by two.
pub fn optimizer_multiply_adds(model: &ModelConfig, optimizer: OptimizerKind) -> u64 {
    let of_one = |shape: Shape| {
        let (n, m) = (shape.side() as u64, shape.length() as u64);
        (n * n * m + n * n * n) / 2 + n * n * m
    };
    let layout = Layout::new(model);
    let all: u64 = Shape::all(optimizer, &layout).map(|(_, shape)| of_one(shape)).sum();
    all * (ITERATIONS * DIGITS * DIGITS) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_product_three_times() {
        let model = ModelConfig {
            vocab_size: 100,
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            max_position_embeddings: 32,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        };
        // q and o 8 × 8, k and v 4 × 8, three of 16 × 8; the head 100 × 8; two products with 8 × (31 + 1) ÷ 2.
        let expected = 3 * (2 * (2 * 64 + 2 * 32 + 3 * 128) + 800 + 2 * 8 * 32);
        assert_eq!(multiply_adds_per_token(&model, 31), expected);
        // Of one of the two blocks all but one of the 16 × 8.
        let again = 2 * 64 + 2 * 32 + 2 * 128 + 8 * 32;
        assert_eq!(recomputed_multiply_adds_per_token(&model, 31), again);
        assert_eq!(optimizer_multiply_adds(&model, OptimizerKind::Adamw), 0);
        // In each block q and o, k and v, and three of 16 × 8, n²·m·3/2 + n³/2 each.
        let iterated = 2 * (2 * (768 + 256) + 2 * (192 + 32) + 3 * (1536 + 256));
        assert_eq!(optimizer_multiply_adds(&model, OptimizerKind::Muon), 5 * 4 * iterated);
        let untied = ModelConfig { tie_word_embeddings: false, ..model };
        assert_eq!(multiply_adds_per_token(&untied, 31), expected, "looking up multiplies nothing");
    }
}
