//! Causal grouped-query attention, forward and backward.
//!
//! All products are row-scaled integer products per head. Tensors are `[sequence][head][position][head_dim]`.
//!
//! Heads are taken in waves of as many as there is memory for, one for each thread, and each head's scores in blocks of
//! 64 rows or columns: these are the tasks, so there are more of them the longer the sequences, and never more heads under
//! way than planned for. Probabilities are computed again for the way back.

mod backward;
mod forward;

pub(crate) use backward::{AttentionKeys, Gradients};

use super::matmul::{Extent, product_within};
use super::pack::{Along, BLOCK, Packed, Packing, Triangle, View};
use super::pool::Pool;
use super::quantize::Rounding;
use super::simd::Simd;
use super::softmax::softmax_causal;
use std::ops::Range;

/// The fixed part of an attention op.
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) simd: Simd,
    pub(crate) length: usize,
    pub(crate) head_dim: usize,
    pub(crate) query_heads: usize,
    pub(crate) key_heads: usize,
    /// 1/√head_dim, rounded once.
    pub(crate) scale: f32,
    /// Digits of queries, keys, values and probabilities.
    pub(crate) digits: usize,
    /// Digits of the gradients of outputs and scores.
    pub(crate) gradient_digits: usize,
}

/// What one thread needs for a block of 64 rows or columns.
#[derive(Default)]
pub(crate) struct BlockScratch {
    left: Packed,
    scores: Vec<f32>,
}

/// Right operands of one head's products.
#[derive(Default)]
struct Operands {
    keys: Packed,
    /// Along the positions forward, along their rows on the way back.
    values: Packed,
    /// Keys, queries and the gradient of the output along the positions; only for the way back.
    key_columns: Packed,
    query_columns: Packed,
    d_out_columns: Packed,
}

/// What one head under way needs; forward, only operands.
#[derive(Default)]
pub(crate) struct HeadScratch {
    operands: Operands,
    /// `[row][stride]`, as are the gradients of the scores.
    probabilities: Vec<f32>,
    d_scores: Vec<f32>,
    /// This query head's part of the gradients of its keys and values.
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
}

/// Memory for the blocks of all threads, and for a wave of heads.
pub(crate) struct Memory<'a> {
    pub(crate) pool: &'a Pool<BlockScratch>,
    /// At least one.
    pub(crate) heads: &'a mut [HeadScratch],
}

/// Queries, keys and values.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

impl Attention {
    fn head_len(&self) -> usize {
        self.length * self.head_dim
    }

    /// Scores are rows of a multiple of 32 elements.
    fn stride(&self) -> usize {
        self.length.next_multiple_of(32)
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.query_heads / self.key_heads
    }

    /// Index of a head's keys for a (sequence, query head) number.
    fn key_head(&self, query_head: usize) -> usize {
        let (sequence, head) = (query_head / self.query_heads, query_head % self.query_heads);
        sequence * self.key_heads + head / self.group()
    }

    /// Positions of the block that begins at `first`.
    fn block(&self, first: usize) -> Range<usize> {
        first..(first + BLOCK).min(self.length)
    }

    /// Some positions of one head.
    fn matrix<'a>(&self, tensor: &'a [f32], head: usize, rows: Range<usize>) -> View<'a> {
        let (start, length) = (head * self.head_len() + rows.start * self.head_dim, rows.len());
        let values = &tensor[start..start + length * self.head_dim];
        View { index: start as u32, ..View::whole(values, length, self.head_dim) }
    }

    /// All positions of one head.
    fn head<'a>(&self, tensor: &'a [f32], head: usize) -> View<'a> {
        self.matrix(tensor, head, 0..self.length)
    }

    /// Rows of scores or probabilities from number `first` on.
    fn score_matrix<'a>(&self, scores: &'a [f32], head: usize, first: usize) -> View<'a> {
        // Indices are those of the [head][position][stride] tensor.
        let index = (head as u32).wrapping_mul((self.length * self.stride()) as u32);
        View {
            values: scores,
            rows: scores.len() / self.stride(),
            columns: self.length,
            stride: self.stride(),
            index: index.wrapping_add((first * self.stride()) as u32),
            triangle: Some(Triangle { first }),
            peaks: None,
        }
    }

    /// Activations on the left, along their rows.
    fn left(&self) -> Packing {
        Packing::left(Along::Rows, self.digits, Rounding::Nearest)
    }

    /// Activations on the right.
    fn right(&self, along: Along) -> Packing {
        Packing::right(along, self.digits, Rounding::Nearest)
    }

    fn product(&self, left: &Packed, right: &Packed, extent: Extent, out: &mut [f32], stride: usize) -> u32 {
        product_within(self.simd, left, 0..left.rows, right, extent, (out, stride))
    }

    /// Probabilities of the block of rows from `first` on, of the head whose keys are packed in `keys`; the largest
    /// score that counts (those behind the diagonal are not looked at).
    fn probabilities(
        &self,
        (left, keys): (&mut Packed, &Packed),
        queries: &[f32],
        (head, first): (usize, usize),
        out: &mut [f32],
    ) -> u32 {
        left.pack(self.simd, self.matrix(queries, head, self.block(first)), self.left());
        self.product(left, keys, Extent::Scores(Triangle { first }), out, self.stride());
        softmax_causal(self.simd, out, self.stride(), self.scale, first)
    }
}
