//! Memory of one pass, kept from call to call.

use super::config::ModelConfig;
use super::forward::Purpose;
use crate::cpu::attention::HeadScratch;
use crate::cpu::embedding::Segments;
use crate::cpu::pack::{BLOCK, CHUNK, PANEL, Packed};
use crate::cpu::simd::Simd;
use crate::spec::ArithmeticSpec;

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
    /// One per block when gradients are wanted and nothing is computed again, else one for all.
    pub(crate) blocks: Vec<BlockSaved>,
    /// The input of each block but the last, where what is saved of blocks is computed again.
    pub(crate) inputs: Vec<Vec<f32>>,
    /// Whether it is.
    pub(crate) recomputes: bool,
    /// A head for each thread, or all of them.
    pub(crate) attention: Vec<HeadScratch>,
    pub(crate) segments: Segments,
    pub(crate) rows: TokenRows,
}

/// Rows, contracted axis and digits of a packed operand.
type Operand = (usize, usize, u8);

/// Bytes of `rows` rows packed for `simd`, of `k` elements each.
pub(crate) fn packed_bytes(simd: Simd, rows: usize, k: usize, digits: u8) -> u64 {
    let (padded, digits) = (rows.next_multiple_of(PANEL), usize::from(digits));
    let words = padded * digits * k.div_ceil(simd.group());
    let sums = padded * digits * k.div_ceil(CHUNK);
    4 * (words + padded + sums) as u64
}

/// Makes room for the largest of `operands`, and no more.
pub(crate) fn reserve(packed: &mut Packed, simd: Simd, operands: impl Iterator<Item = Operand>) {
    for (rows, k, digits) in operands {
        let (padded, digits) = (rows.next_multiple_of(PANEL), usize::from(digits));
        packed.words.reserve_exact(padded * digits * k.div_ceil(simd.group()));
        reserve_exact(&mut packed.scales, padded);
        reserve_exact(&mut packed.sums, padded * digits * k.div_ceil(CHUNK));
    }
}

pub(crate) fn reserve_exact<T>(vector: &mut Vec<T>, length: usize) {
    vector.reserve_exact(length.saturating_sub(vector.len()));
}

/// All that the left operand of a product of a linear map holds in turn.
fn left_operands(
    config: &ModelConfig,
    spec: &ArithmeticSpec,
    (tokens, logit_rows): (usize, usize),
    training: bool,
) -> impl Iterator<Item = Operand> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let joint = config.query_width() + 2 * config.key_value_width();
    let digits = spec.activation_digits;
    let inputs = [(tokens, hidden, digits), (tokens, config.query_width(), digits), (tokens, inner, digits)];
    let gradient = |width, digits| [(tokens, width, digits), (width, tokens, digits)];
    let gradients = [
        gradient(hidden, spec.gradient_digits),
        gradient(joint, spec.gradient_digits),
        gradient(2 * inner, spec.gradient_digits),
        gradient(config.vocab_size, spec.logit_gradient_digits),
    ];
    let gradients = training.then_some(gradients).into_iter().flatten().flatten();
    inputs.into_iter().chain([(logit_rows, hidden, digits)]).chain(gradients)
}

impl Workspace {
    /// An empty one; with `recomputes`, activations of one block are kept at a time.
    pub(crate) fn new(recomputes: bool) -> Self {
        Self { recomputes, ..Self::default() }
    }

    /// Where among `blocks` a pass saves block `layer`.
    pub(crate) fn slot(&self, layer: usize, purpose: Purpose) -> usize {
        if purpose == Purpose::Train && !self.recomputes { layer } else { 0 }
    }

    /// Sizes every tensor for a pass over `tokens` tokens with logits for `logit_rows` of them.
    pub(crate) fn resize(
        &mut self,
        (simd, config, spec): (Simd, &ModelConfig, &ArithmeticSpec),
        tokens: usize,
        logit_rows: usize,
        purpose: Purpose,
    ) {
        let training = purpose == Purpose::Train;
        let (queries, keys) = (tokens * config.query_width(), tokens * config.key_value_width());
        let (stream, inner) = (tokens * config.hidden_size, tokens * config.intermediate_size);
        let size = |tensor: &mut Vec<f32>, length: usize| {
            reserve_exact(tensor, length);
            tensor.resize(length, 0.0);
        };
        size(&mut self.stream, stream);
        size(&mut self.normed, stream);
        size(&mut self.normed_inverse, tokens);
        size(&mut self.joint, queries + 2 * keys);
        size(&mut self.heads, queries);
        size(&mut self.attended, queries);
        size(&mut self.branch, stream);
        size(&mut self.inner, inner);
        size(&mut self.logits, logit_rows * config.vocab_size);
        reserve(&mut self.left, simd, left_operands(config, spec, (tokens, logit_rows), training));
        if training {
            size(&mut self.gate_up, 2 * inner);
            size(&mut self.d_queries, queries);
            size(&mut self.d_keys, keys);
            size(&mut self.d_values, keys);
        }
        let layers = config.num_hidden_layers;
        if training && self.recomputes {
            self.inputs.resize_with(layers - 1, Vec::new);
            self.inputs.iter_mut().for_each(|input| size(input, stream));
        }
        let saved_blocks = if training && !self.recomputes { layers } else { 1 };
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

    /// Bytes of a whole micro-batch in training, without the attention's scratch.
    pub(crate) fn bytes(simd: Simd, config: &ModelConfig, spec: &ArithmeticSpec, recomputes: bool) -> u64 {
        let tokens = spec.micro_batch_tokens();
        let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (queries, keys) = (config.query_width(), config.key_value_width());
        let kept = |width| packed_bytes(simd, width, tokens, spec.activation_digits);
        let floats = |width: usize| 4 * (tokens * width) as u64;
        let block = floats(2 * hidden + 2 + queries + 2 * keys + 2 * inner)
            + kept(hidden)
            + kept(queries)
            + kept(hidden)
            + kept(inner);
        let layers = config.num_hidden_layers as u64;
        let blocks = if recomputes { block + (layers - 1) * floats(hidden) } else { layers * block };
        let streams = floats(3 * hidden + 1) + kept(hidden);
        let attention = floats(queries + 2 * keys) + floats(2 * queries) + floats(queries + 2 * keys);
        let operands = left_operands(config, spec, (tokens, tokens), true);
        let left = operands.map(|(rows, k, digits)| packed_bytes(simd, rows, k, digits)).max().unwrap_or(0);
        // Inputs, targets, and the places of the tokens.
        let tokens_bytes = floats(3) + 4 * (vocab + 1) as u64;
        blocks + streams + attention + floats(3 * inner) + floats(vocab) + left + tokens_bytes
    }
}

/// Heads that `threads` threads have under way at a time in `sequences` sequences.
pub(crate) fn heads_under_way(config: &ModelConfig, sequences: usize, threads: usize) -> usize {
    threads.min(sequences * config.num_attention_heads)
}

/// Bytes of the attention's scratch on all threads.
pub(crate) fn scratch_bytes(simd: Simd, config: &ModelConfig, spec: &ArithmeticSpec, threads: usize) -> u64 {
    let (length, head) = (spec.sequence_length, config.head_dim);
    let (digits, widest) = (spec.attention_digits, spec.attention_digits.max(spec.gradient_digits));
    let stride = length.next_multiple_of(32);
    let block = length.min(BLOCK);
    let of_thread = packed_bytes(simd, block, length.max(head), widest) + 4 * (block * stride) as u64;
    let rows = packed_bytes(simd, length, head, digits);
    let columns = |digits| packed_bytes(simd, head, length, digits);
    let operands = rows + rows.max(columns(digits)) + 2 * columns(digits) + columns(spec.gradient_digits);
    let of_head = operands + 4 * (2 * length * stride + 2 * length * head) as u64;
    let heads = heads_under_way(config, spec.micro_batch_sequences, threads);
    threads as u64 * of_thread + heads as u64 * of_head
}
