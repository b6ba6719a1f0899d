//! Memory of one pass, kept from call to call.

use super::config::ModelConfig;
use crate::cpu::embedding::Segments;
use crate::cpu::pack::Packed;

/// What the way back needs of one block's way forward.
#[derive(Default)]
pub(crate) struct BlockSaved {
    /// Input of the block, and of its second half.
    pub(crate) input: Vec<f32>,
    pub(crate) middle: Vec<f32>,
    /// Reciprocal roots of the two norms.
    pub(crate) input_inverse: Vec<f32>,
    pub(crate) middle_inverse: Vec<f32>,
    /// `[sequence][head][position][head_dim]`, turned.
    pub(crate) queries: Vec<f32>,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    pub(crate) gate_up: Vec<f32>,
    /// Inputs of the four linear maps, packed along the tokens.
    pub(crate) normed_input: Packed,
    pub(crate) attended: Packed,
    pub(crate) normed_middle: Packed,
    pub(crate) inner: Packed,
}

/// The tokens of a pass.
#[derive(Default)]
pub(crate) struct TokenRows {
    pub(crate) inputs: Vec<u32>,
    /// The token after each input.
    pub(crate) targets: Vec<u32>,
}

impl TokenRows {
    /// Takes all but the last token of each row of `length + 1`, and all but the first.
    pub(crate) fn split(&mut self, tokens: &[u32], length: usize) {
        self.inputs.clear();
        self.targets.clear();
        for row in tokens.chunks_exact(length + 1) {
            self.inputs.extend_from_slice(&row[..length]);
            self.targets.extend_from_slice(&row[1..]);
        }
    }
}

/// Tensors of the pass that is under way. `tokens` rows each unless noted.
#[derive(Default)]
pub(crate) struct Workspace {
    /// The residual stream; on the way back, its gradient.
    pub(crate) stream: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) normed_inverse: Vec<f32>,
    /// Rows of \[q, k, v\], or their gradient.
    pub(crate) joint: Vec<f32>,
    pub(crate) heads: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    /// Result of a product with the width of the stream.
    pub(crate) branch: Vec<f32>,
    pub(crate) gate_up: Vec<f32>,
    pub(crate) inner: Vec<f32>,
    pub(crate) logits: Vec<f32>,
    /// Gradients of queries, keys and values by head.
    pub(crate) d_queries: Vec<f32>,
    pub(crate) d_keys: Vec<f32>,
    pub(crate) d_values: Vec<f32>,
    /// The operands of the product at hand.
    pub(crate) left: Packed,
    /// The final norm's output along the tokens.
    pub(crate) final_normed: Packed,
    /// One per block when gradients are wanted, else one for all.
    pub(crate) blocks: Vec<BlockSaved>,
    pub(crate) segments: Segments,
    pub(crate) rows: TokenRows,
}

impl Workspace {
    /// Sizes every tensor for a pass over `tokens` tokens with logits for `logit_rows` of them.
    pub(crate) fn resize(&mut self, config: &ModelConfig, tokens: usize, logit_rows: usize, training: bool) {
        let (queries, keys) = (tokens * config.query_width(), tokens * config.key_value_width());
        let (stream, inner) = (tokens * config.hidden_size, tokens * config.intermediate_size);
        let size = |tensor: &mut Vec<f32>, length: usize| tensor.resize(length, 0.0);
        size(&mut self.stream, stream);
        size(&mut self.normed, stream);
        size(&mut self.normed_inverse, tokens);
        size(&mut self.joint, queries + 2 * keys);
        size(&mut self.heads, queries);
        size(&mut self.attended, queries);
        size(&mut self.branch, stream);
        size(&mut self.inner, inner);
        size(&mut self.logits, logit_rows * config.vocab_size);
        if training {
            size(&mut self.gate_up, 2 * inner);
            size(&mut self.d_queries, queries);
            size(&mut self.d_keys, keys);
            size(&mut self.d_values, keys);
        }
        let saved_blocks = if training { config.num_hidden_layers } else { 1 };
        if self.blocks.len() < saved_blocks {
            self.blocks.resize_with(saved_blocks, BlockSaved::default);
        }
        for block in &mut self.blocks[..saved_blocks] {
            size(&mut block.input, stream);
            size(&mut block.middle, stream);
            size(&mut block.input_inverse, tokens);
            size(&mut block.middle_inverse, tokens);
            size(&mut block.queries, queries);
            size(&mut block.keys, keys);
            size(&mut block.values, keys);
            size(&mut block.gate_up, 2 * inner);
        }
    }

    /// Bytes that a training pass over `tokens` tokens takes, about, without the attention's scratch.
    pub(crate) fn bytes(config: &ModelConfig, tokens: u64, digits: u64) -> u64 {
        let width = |value: usize| value as u64;
        let (hidden, inner) = (width(config.hidden_size), width(config.intermediate_size));
        let (queries, keys) = (width(config.query_width()), width(config.key_value_width()));
        let floats_per_block = 2 * hidden + queries + 2 * keys + 2 * inner;
        let digits_per_block = 2 * hidden + queries + inner;
        let shared = 4 * hidden + 4 * queries + 4 * keys + 3 * inner + width(config.vocab_size);
        let widest = (2 * inner).max(width(config.vocab_size)).max(queries + 2 * keys);
        // Packed words hold one or two bytes a digit.
        let per_token = 4 * (floats_per_block * width(config.num_hidden_layers) + shared)
            + 2 * digits * (digits_per_block * width(config.num_hidden_layers) + hidden + widest);
        tokens * per_token
    }
}
