//! Device memory of one pass, kept from call to call. Twin of `model/workspace.rs`.

use super::ops::matmul::packed_words;
use crate::buffers::{Buffer, WINDOW_STEP};
use crate::device::{Device, DeviceError};
use crate::model::config::ModelConfig;
use crate::spec::ArithmeticSpec;

/// Bytes of one score matrix tensor that attention aims to stay under, if a device binds as much:
/// it works through as many heads at a time as fit.
const SCORE_BYTES: u64 = 64 << 20;

/// A buffer of packed words and one of exponents.
#[derive(Clone)]
pub(crate) struct PackedBuffers {
    pub(crate) words: Buffer,
    pub(crate) scales: Buffer,
}

impl PackedBuffers {
    pub(crate) fn new(device: &Device, words: usize, scales: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            words: device.allocate_large("packed digits", words)?,
            scales: device.allocate_large("packed exponents", scales)?,
        })
    }
}

/// What the way back needs of one block's way forward.
pub(crate) struct BlockSaved {
    pub(crate) input_inverse: Buffer,
    pub(crate) middle_inverse: Buffer,
    pub(crate) queries: Buffer,
    pub(crate) keys: Buffer,
    pub(crate) values: Buffer,
    pub(crate) gate_up: Buffer,
    /// Inputs of the four linear maps packed along the tokens, where a way back follows.
    pub(crate) packed: Option<SavedInputs>,
}

/// Inputs of a block's linear maps, packed along the tokens.
pub(crate) struct SavedInputs {
    pub(crate) normed_input: PackedBuffers,
    pub(crate) attended: PackedBuffers,
    pub(crate) normed_middle: PackedBuffers,
    pub(crate) inner: PackedBuffers,
}

/// Tensors that only a way back needs.
pub(crate) struct BackwardBuffers {
    pub(crate) final_normed: PackedBuffers,
    /// Gradient of the residual stream.
    pub(crate) d_stream: Buffer,
    pub(crate) d_gate_up: Buffer,
    pub(crate) d_queries: Buffer,
    pub(crate) d_keys: Buffer,
    pub(crate) d_values: Buffer,
    pub(crate) d_scores: Buffer,
    /// A query head's part of the gradient of its keys or values.
    pub(crate) parts: Buffer,
    pub(crate) segments: Buffer,
    pub(crate) places: Buffer,
}

/// What a pass computes: fixes every size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Extent {
    pub(crate) sequences: usize,
    pub(crate) length: usize,
    pub(crate) logit_rows: usize,
    pub(crate) training: bool,
    /// Whether the way back computes the activations of blocks again; only in training.
    pub(crate) recomputes: bool,
    /// Words that the device binds at once.
    pub(crate) binding_words_max: usize,
}

impl Extent {
    pub(crate) fn tokens(&self) -> usize {
        self.sequences * self.length
    }

    /// Elements from one row of scores to the next.
    pub(crate) fn score_stride(&self) -> usize {
        self.length.next_multiple_of(32)
    }

    /// Key heads, over all sequences, that attention works on at a time.
    pub(crate) fn key_heads_at_once(&self, config: &ModelConfig) -> usize {
        let group = config.num_attention_heads / config.num_key_value_heads;
        // Windows of some heads may begin behind the place where a binding does.
        let words_max = (self.binding_words_max - WINDOW_STEP).min((SCORE_BYTES / 4) as usize);
        let fitting = words_max / (group * self.words_of_head(config));
        fitting.clamp(1, self.sequences * config.num_key_value_heads)
    }

    /// Words of the largest tensor of attention for each query head: its scores but for short sequences.
    pub(crate) fn words_of_head(&self, config: &ModelConfig) -> usize {
        let (length, head) = (self.length, config.head_dim);
        let packed = packed_words(length, head, 2, 1).max(packed_words(head, length, 2, 1));
        packed.max(length * self.score_stride()).max(length * head)
    }

    /// The query heads that belong to them.
    pub(crate) fn query_heads_at_once(&self, config: &ModelConfig) -> usize {
        self.key_heads_at_once(config) * (config.num_attention_heads / config.num_key_value_heads)
    }

    /// How many residual streams, and the activations of how many blocks, are held.
    pub(crate) fn kept(&self, layers: usize) -> (usize, usize) {
        match (self.training, self.recomputes) {
            (false, _) => (2, 1),
            (true, false) => (2 * layers + 1, layers),
            (true, true) => (layers + 2, 1),
        }
    }
}

/// All tensors of a pass.
pub(crate) struct Workspace {
    /// The residual stream before and after each half of a block. Without a way back two take
    /// turns; where activations are computed again, those between the halves share the last one.
    streams: Vec<Buffer>,
    /// One per block for a way back that computes nothing again, else one for all.
    blocks: Vec<BlockSaved>,
    recomputes: bool,
    pub(crate) normed: Buffer,
    pub(crate) final_inverse: Buffer,
    pub(crate) joint: Buffer,
    pub(crate) heads: Buffer,
    pub(crate) attended: Buffer,
    pub(crate) branch: Buffer,
    pub(crate) inner: Buffer,
    pub(crate) logits: Buffer,
    pub(crate) losses: Buffer,
    pub(crate) scores: Buffer,
    pub(crate) left: PackedBuffers,
    pub(crate) right: PackedBuffers,
    pub(crate) tokens: Buffer,
    pub(crate) targets: Buffer,
    pub(crate) backward: Option<BackwardBuffers>,
}

impl Workspace {
    pub(crate) fn new(
        device: &Device,
        config: &ModelConfig,
        spec: &ArithmeticSpec,
        extent: &Extent,
    ) -> Result<Self, DeviceError> {
        let tokens = extent.tokens();
        let (queries, keys) = (tokens * config.query_width(), tokens * config.key_value_width());
        let (stream, inner) = (tokens * config.hidden_size, tokens * config.intermediate_size);
        let (stream_count, block_count) = extent.kept(config.num_hidden_layers);
        let streams = (0..stream_count).map(|_| device.allocate("residual stream", stream));
        let blocks = (0..block_count).map(|_| BlockSaved::new(device, config, spec, extent));
        let query_heads = extent.query_heads_at_once(config);
        let scores = query_heads * extent.length * extent.score_stride();
        let (left_words, left_scales) = left_extent(config, spec, extent);
        let (right_words, right_scales) = right_extent(config, spec, extent);
        let backward = if extent.training {
            Some(BackwardBuffers {
                final_normed: saved_input(device, spec, config.hidden_size, tokens)?,
                d_stream: device.allocate("gradient of the residual stream", stream)?,
                d_gate_up: device.allocate("gradient of gate and up", 2 * inner)?,
                d_queries: device.allocate("gradient of queries", queries)?,
                d_keys: device.allocate("gradient of keys", keys)?,
                d_values: device.allocate("gradient of values", keys)?,
                d_scores: device.allocate("gradient of attention scores", scores)?,
                parts: device.allocate("parts of key gradients", query_heads * extent.length * config.head_dim)?,
                segments: device.allocate("token segments", config.vocab_size + 1)?,
                places: device.allocate("token places", tokens)?,
            })
        } else {
            None
        };
        Ok(Self {
            streams: streams.collect::<Result<_, _>>()?,
            blocks: blocks.collect::<Result<_, _>>()?,
            recomputes: extent.recomputes,
            normed: device.allocate("normalised stream", stream)?,
            final_inverse: device.allocate("reciprocal roots", tokens)?,
            joint: device.allocate("queries, keys and values", queries + 2 * keys)?,
            heads: device.allocate("attention heads", queries)?,
            attended: device.allocate("attention output", queries)?,
            branch: device.allocate("residual branch", stream)?,
            inner: device.allocate("SwiGLU output", inner)?,
            logits: device.allocate_large("logits", extent.logit_rows * config.vocab_size)?,
            losses: device.allocate("losses", tokens)?,
            scores: device.allocate("attention scores", scores)?,
            left: PackedBuffers::new(device, left_words, left_scales)?,
            right: PackedBuffers::new(device, right_words, right_scales)?,
            tokens: device.allocate("tokens", tokens)?,
            targets: device.allocate("targets", tokens)?,
            backward,
        })
    }

    /// The residual stream after `halves` halves of blocks.
    pub(crate) fn stream(&self, halves: usize) -> &Buffer {
        let count = self.streams.len();
        &self.streams[match (self.recomputes, halves % 2) {
            (false, _) => halves % count,
            (true, 0) => halves / 2,
            (true, _) => count - 1,
        }]
    }

    /// Where the activations of a block are, and the inputs of its linear maps if a way back
    /// follows and they are to be kept.
    pub(crate) fn block(&self, layer: usize, keep: bool) -> (&BlockSaved, Option<&SavedInputs>) {
        let saved = &self.blocks[layer % self.blocks.len()];
        (saved, saved.packed.as_ref().filter(|_| keep))
    }
}

/// Space for `width` columns packed along `tokens` rows.
fn saved_input(
    device: &Device,
    spec: &ArithmeticSpec,
    width: usize,
    tokens: usize,
) -> Result<PackedBuffers, DeviceError> {
    PackedBuffers::new(device, packed_words(width, tokens, spec.activation_digits.into(), 1), width)
}

impl BlockSaved {
    fn new(device: &Device, config: &ModelConfig, spec: &ArithmeticSpec, extent: &Extent) -> Result<Self, DeviceError> {
        let tokens = extent.tokens();
        let (queries, keys) = (tokens * config.query_width(), tokens * config.key_value_width());
        let saved = |width| saved_input(device, spec, width, tokens);
        let packed = if extent.training {
            Some(SavedInputs {
                normed_input: saved(config.hidden_size)?,
                attended: saved(config.query_width())?,
                normed_middle: saved(config.hidden_size)?,
                inner: saved(config.intermediate_size)?,
            })
        } else {
            None
        };
        Ok(Self {
            input_inverse: device.allocate("reciprocal roots", tokens)?,
            middle_inverse: device.allocate("reciprocal roots", tokens)?,
            queries: device.allocate("queries", queries)?,
            keys: device.allocate("keys", keys)?,
            values: device.allocate("values", keys)?,
            gate_up: device.allocate("gate and up", 2 * tokens * config.intermediate_size)?,
            packed,
        })
    }
}

/// Words and rows of the largest right operand of attention's products.
pub(crate) fn right_extent(config: &ModelConfig, spec: &ArithmeticSpec, extent: &Extent) -> (usize, usize) {
    let (length, head, heads) = (extent.length, config.head_dim, extent.query_heads_at_once(config));
    let digits = usize::from(spec.attention_digits.max(spec.gradient_digits));
    let words = packed_words(length, head, digits, heads).max(packed_words(head, length, digits, heads));
    (words, heads * length.max(head))
}

/// Words and rows of the largest left operand of a pass.
pub(crate) fn left_extent(config: &ModelConfig, spec: &ArithmeticSpec, extent: &Extent) -> (usize, usize) {
    let tokens = extent.tokens();
    let activations = usize::from(spec.activation_digits);
    let joint = config.query_width() + 2 * config.key_value_width();
    // (rows, contracted axis, digits, batches)
    let mut operands: Vec<(usize, usize, usize, usize)> =
        [config.hidden_size, config.query_width(), config.intermediate_size]
            .map(|width| (tokens, width, activations, 1))
            .into();
    let query_heads = extent.query_heads_at_once(config);
    let attention = usize::from(spec.attention_digits.max(spec.gradient_digits));
    operands.push((extent.length, config.head_dim, attention, query_heads));
    operands.push((extent.length, extent.length, attention, query_heads));
    if extent.training {
        let gradients = usize::from(spec.gradient_digits);
        let mut both = |width, digits| {
            operands.push((tokens, width, digits, 1));
            operands.push((width, tokens, digits, 1));
        };
        both(config.hidden_size, gradients);
        both(2 * config.intermediate_size, gradients);
        both(joint, gradients);
        both(config.vocab_size, spec.logit_gradient_digits.into());
    }
    let words = operands.iter().map(|&(rows, k, digits, batches)| packed_words(rows, k, digits, batches)).max();
    let scales = operands.iter().map(|&(rows, _, _, batches)| rows * batches).max();
    (words.unwrap_or(0), scales.unwrap_or(0))
}
