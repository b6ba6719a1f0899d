//! Causal grouped-query attention, one (sequence, head) after another on each thread.
//!
//! All products are row-scaled integer products per head. Probabilities are
//! computed again for the way back, which holds those of one head on each thread.
//! Tensors are `[sequence][head][position][head_dim]`.

use super::matmul::{Extent, product_within};
use super::pack::{Along, PANEL, Packed, Packing, Triangle, View};
use super::pool::Pool;
use super::quantize::Rounding;
use super::random::Key;
use super::reduce::add_assign;
use super::simd::Simd;
use super::softmax::{softmax_causal, softmax_causal_backward};
use rayon::prelude::*;

/// Rows of scores that the forward pass holds at a time.
const BLOCK_ROWS: usize = 64;

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

/// Keys for the stochastic rounding of the two gradients along their two axes.
#[derive(Clone, Copy)]
pub(crate) struct AttentionKeys {
    pub(crate) output_rows: Key,
    pub(crate) output_columns: Key,
    pub(crate) scores_rows: Key,
    pub(crate) scores_columns: Key,
}

/// Scratch memory of one thread: on the way back two score matrices, and their packed form.
#[derive(Default)]
pub(crate) struct AttentionScratch {
    left: Packed,
    right: Packed,
    values: Packed,
    probabilities: Vec<f32>,
    scores: Vec<f32>,
    head: Vec<f32>,
}

/// Queries, keys and values.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// Their gradients.
pub(crate) struct Gradients<'a> {
    pub(crate) queries: &'a mut [f32],
    pub(crate) keys: &'a mut [f32],
    pub(crate) values: &'a mut [f32],
}

impl Attention {
    fn head_len(&self) -> usize {
        self.length * self.head_dim
    }

    /// Scores are rows of a multiple of 32 elements.
    fn stride(&self) -> usize {
        self.length.div_ceil(32) * 32
    }

    /// Index of a head's keys for a (sequence, query head) number.
    fn key_head(&self, query_head: usize) -> usize {
        let (sequence, head) = (query_head / self.query_heads, query_head % self.query_heads);
        sequence * self.key_heads + head / (self.query_heads / self.key_heads)
    }

    fn matrix<'a>(&self, tensor: &'a [f32], head: usize) -> View<'a> {
        let values = &tensor[head * self.head_len()..][..self.head_len()];
        View { index: (head * self.head_len()) as u32, ..View::whole(values, self.length, self.head_dim) }
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
        }
    }

    fn product(&self, left: &Packed, right: &Packed, extent: Extent, out: &mut [f32], stride: usize) -> u32 {
        product_within(self.simd, left, 0..left.rows.div_ceil(PANEL), right, extent, (out, stride))
    }

    /// Probabilities of `count` rows from `first` on, of the head whose keys are
    /// packed in `keys`; the largest score that counts (those behind the diagonal
    /// are not looked at).
    fn probabilities(
        &self,
        (left, keys): (&mut Packed, &Packed),
        queries: &[f32],
        (head, first, count): (usize, usize, usize),
        out: &mut Vec<f32>,
    ) -> u32 {
        let all = self.matrix(queries, head);
        let rows = View { values: &all.values[first * self.head_dim..], rows: count, ..all };
        left.pack(self.simd, rows, Packing::left(Along::Rows, self.digits, Rounding::Nearest));
        out.resize(count * self.stride(), 0.0);
        self.product(left, keys, Extent::Scores(Triangle { first }), out, self.stride());
        softmax_causal(self.simd, out, self.stride(), self.scale, first)
    }

    /// Writes softmax(Q·Kᵀ·scale)·V; the largest magnitude met. Works through
    /// blocks of rows, so memory grows linearly with the length.
    pub(crate) fn forward(&self, pool: &Pool<AttentionScratch>, inputs: Inputs<'_>, out: &mut [f32]) -> u32 {
        out.par_chunks_exact_mut(self.head_len())
            .enumerate()
            .map(|(head, out)| {
                let AttentionScratch { left, right, values, probabilities, .. } = &mut *pool.scratch();
                let nearest = Rounding::Nearest;
                let key_head = self.key_head(head);
                right.pack(
                    self.simd,
                    self.matrix(inputs.keys, key_head),
                    Packing::right(Along::Rows, self.digits, nearest),
                );
                let view = self.matrix(inputs.values, key_head);
                values.pack(self.simd, view, Packing::right(Along::Columns, self.digits, nearest));
                let mut peak = 0;
                for (block, out) in out.chunks_mut(BLOCK_ROWS * self.head_dim).enumerate() {
                    let first = block * BLOCK_ROWS;
                    let rows = (head, first, out.len() / self.head_dim);
                    peak = peak.max(self.probabilities((left, right), inputs.queries, rows, probabilities));
                    let view = self.score_matrix(probabilities, head, first);
                    left.pack(self.simd, view, Packing::left(Along::Rows, self.digits, nearest));
                    let extent = Extent::Rows(Triangle { first });
                    peak = peak.max(self.product(left, values, extent, out, self.head_dim));
                }
                peak
            })
            .reduce(|| 0, u32::max)
    }

    /// Writes the gradients of queries, keys and values from that of the
    /// output; the largest magnitude met. The query heads that share a key head
    /// are added in their order.
    pub(crate) fn backward(
        &self,
        pool: &Pool<AttentionScratch>,
        inputs: Inputs<'_>,
        d_out: &[f32],
        keys: &AttentionKeys,
        out: Gradients<'_>,
    ) -> u32 {
        let group = self.query_heads / self.key_heads;
        let key_heads =
            out.keys.par_chunks_exact_mut(self.head_len()).zip(out.values.par_chunks_exact_mut(self.head_len()));
        out.queries
            .par_chunks_exact_mut(group * self.head_len())
            .zip(key_heads)
            .enumerate()
            .map(|(key_head, (dq, (dk, dv)))| {
                let scratch = &mut *pool.scratch();
                dk.fill(0.0);
                dv.fill(0.0);
                let mut peak = 0;
                for (member, dq) in dq.chunks_exact_mut(self.head_len()).enumerate() {
                    let head = key_head * group + member;
                    debug_assert_eq!(self.key_head(head), key_head);
                    peak = peak.max(self.backward_head(scratch, inputs, d_out, keys, head, [dq, dk, dv]));
                }
                peak
            })
            .reduce(|| 0, u32::max)
    }

    fn backward_head(
        &self,
        scratch: &mut AttentionScratch,
        inputs: Inputs<'_>,
        d_out: &[f32],
        keys: &AttentionKeys,
        head: usize,
        [dq, dk, dv]: [&mut [f32]; 3],
    ) -> u32 {
        let simd = self.simd;
        let key_head = self.key_head(head);
        let stochastic = |key| Rounding::Stochastic(key);
        let AttentionScratch { left, right, probabilities, scores, head: part, .. } = scratch;
        right.pack(
            simd,
            self.matrix(inputs.keys, key_head),
            Packing::right(Along::Rows, self.digits, Rounding::Nearest),
        );
        let all = (head, 0, self.length);
        let mut peak = self.probabilities((left, right), inputs.queries, all, probabilities);
        part.resize(self.head_len(), 0.0);
        scores.resize(self.length * self.stride(), 0.0);

        // dV[j, d] = Σ_i P[i, j]·dO[i, d]
        left.pack(
            simd,
            self.score_matrix(probabilities, head, 0),
            Packing::left(Along::Columns, self.digits, Rounding::Nearest),
        );
        right.pack(
            simd,
            self.matrix(d_out, head),
            Packing::right(Along::Columns, self.gradient_digits, stochastic(keys.output_columns)),
        );
        peak = peak.max(self.product(left, right, Extent::Columns, part, self.head_dim));
        peak = peak.max(add_assign(simd, dv, part));

        // dP[i, j] = Σ_d dO[i, d]·V[j, d]
        left.pack(
            simd,
            self.matrix(d_out, head),
            Packing::left(Along::Rows, self.gradient_digits, stochastic(keys.output_rows)),
        );
        right.pack(
            simd,
            self.matrix(inputs.values, key_head),
            Packing::right(Along::Rows, self.digits, Rounding::Nearest),
        );
        self.product(left, right, Extent::Scores(Triangle { first: 0 }), scores, self.stride());
        peak = peak.max(softmax_causal_backward(simd, probabilities, scores, self.stride(), self.scale));

        // dQ[i, d] = Σ_j dS[i, j]·K[j, d]
        left.pack(
            simd,
            self.score_matrix(scores, head, 0),
            Packing::left(Along::Rows, self.gradient_digits, stochastic(keys.scores_rows)),
        );
        right.pack(
            simd,
            self.matrix(inputs.keys, key_head),
            Packing::right(Along::Columns, self.digits, Rounding::Nearest),
        );
        peak = peak.max(self.product(left, right, Extent::Rows(Triangle { first: 0 }), dq, self.head_dim));

        // dK[j, d] = Σ_i dS[i, j]·Q[i, d]
        left.pack(
            simd,
            self.score_matrix(scores, head, 0),
            Packing::left(Along::Columns, self.gradient_digits, stochastic(keys.scores_columns)),
        );
        right.pack(
            simd,
            self.matrix(inputs.queries, head),
            Packing::right(Along::Columns, self.digits, Rounding::Nearest),
        );
        peak = peak.max(self.product(left, right, Extent::Columns, part, self.head_dim));
        peak.max(add_assign(simd, dk, part))
    }
}
