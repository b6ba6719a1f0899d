//! The way back, which computes the probabilities again.
//!
//! First come blocks of rows: probabilities P, the gradients dS of the scores, and those of the queries. When a head has
//! all of them, blocks of columns give its part of the gradients of keys and values. Query heads that share a key head are
//! added in their order.

use super::{Attention, BlockScratch, HeadScratch, Inputs, Memory, Operands};
use crate::cpu::matmul::Extent;
use crate::cpu::pack::{Along, BLOCK, Packed, Packing, Triangle, View};
use crate::cpu::pool::Pool;
use crate::cpu::quantize::Rounding;
use crate::cpu::random::Key;
use crate::cpu::reduce::add_assign;
use crate::cpu::softmax::softmax_causal_backward;
use rayon::prelude::*;

/// Keys for the stochastic rounding of the two gradients along their two axes.
#[derive(Clone, Copy)]
pub(crate) struct AttentionKeys {
    pub(crate) output_rows: Key,
    pub(crate) output_columns: Key,
    pub(crate) scores_rows: Key,
    pub(crate) scores_columns: Key,
}

/// Gradients of queries, keys and values.
pub(crate) struct Gradients<'a> {
    pub(crate) queries: &'a mut [f32],
    pub(crate) keys: &'a mut [f32],
    pub(crate) values: &'a mut [f32],
}

/// A query head on its way back.
struct Head<'a> {
    attention: &'a Attention,
    inputs: Inputs<'a>,
    d_out: &'a [f32],
    keys: &'a AttentionKeys,
    /// (sequence, query head)
    number: usize,
}

impl Attention {
    /// Writes the gradients of queries, keys and values from that of the output; the largest magnitude met.
    pub(crate) fn backward(
        &self,
        memory: Memory<'_>,
        inputs: Inputs<'_>,
        d_out: &[f32],
        keys: &AttentionKeys,
        out: Gradients<'_>,
    ) -> u32 {
        let Memory { pool, heads } = memory;
        let wave_heads = heads.len();
        let waves = out.queries.chunks_mut(wave_heads * self.head_len()).enumerate().map(|(wave, dq)| {
            let first = wave * wave_heads;
            let heads = &mut heads[..dq.len() / self.head_len()];
            let tasks = heads.par_iter_mut().zip(dq.par_chunks_exact_mut(self.head_len())).enumerate();
            let peaks = tasks.map(|(place, (scratch, dq))| {
                Head { attention: self, inputs, d_out, keys, number: first + place }.backward(pool, scratch, dq)
            });
            let peak = peaks.reduce(|| 0, u32::max);
            peak.max(self.add_parts(first, heads, &mut *out.keys, &mut *out.values))
        });
        waves.fold(0, u32::max)
    }

    /// Adds the parts of the query heads from number `first` on to the gradients of their keys and values, which the first
    /// one of those that share them sets; the largest magnitude of a sum.
    fn add_parts(&self, first: usize, heads: &[HeadScratch], d_keys: &mut [f32], d_values: &mut [f32]) -> u32 {
        let key_heads = self.key_head(first)..self.key_head(first + heads.len() - 1) + 1;
        let elements = key_heads.start * self.head_len()..key_heads.end * self.head_len();
        let add = |sum: &mut [f32], part: &[f32], number: usize| {
            if number.is_multiple_of(self.group()) {
                sum.copy_from_slice(part);
                return 0;
            }
            add_assign(self.simd, sum, part)
        };
        let targets = d_keys[elements.clone()].par_chunks_exact_mut(self.head_len());
        let targets = targets.zip(d_values[elements].par_chunks_exact_mut(self.head_len())).zip(key_heads);
        let peaks = targets.map(|((d_keys, d_values), key_head)| {
            let members = (first..).zip(heads).filter(|&(number, _)| self.key_head(number) == key_head);
            members.fold(0, |peak: u32, (number, part)| {
                peak.max(add(d_keys, &part.d_keys, number)).max(add(d_values, &part.d_values, number))
            })
        });
        peaks.reduce(|| 0, u32::max)
    }
}

impl Head<'_> {
    fn backward(&self, pool: &Pool<BlockScratch>, scratch: &mut HeadScratch, dq: &mut [f32]) -> u32 {
        let (length, head_dim, stride) = (self.attention.length, self.attention.head_dim, self.attention.stride());
        let HeadScratch { operands, probabilities, d_scores, d_keys, d_values } = scratch;
        self.pack(operands);
        let operands = &*operands;
        probabilities.resize(length * stride, 0.0);
        d_scores.resize(length * stride, 0.0);
        d_keys.resize(length * head_dim, 0.0);
        d_values.resize(length * head_dim, 0.0);

        let (score_rows, rows) = (BLOCK * stride, BLOCK * head_dim);
        let blocks = probabilities.par_chunks_mut(score_rows).zip(d_scores.par_chunks_mut(score_rows));
        let blocks = blocks.zip(dq.par_chunks_mut(rows)).enumerate();
        let peaks = blocks.map(|(block, ((probabilities, d_scores), dq))| {
            self.rows(&mut pool.scratch().left, operands, block * BLOCK, [probabilities, d_scores, dq])
        });
        let peak = peaks.reduce(|| 0, u32::max);

        let scores = [probabilities, d_scores].map(|scores| self.attention.score_matrix(scores, self.number, 0));
        let blocks = d_keys.par_chunks_mut(rows).zip(d_values.par_chunks_mut(rows)).enumerate();
        let peaks = blocks.map(|(block, (d_keys, d_values))| {
            self.columns(&mut pool.scratch().left, operands, block, scores, [d_keys, d_values])
        });
        peak.max(peaks.reduce(|| 0, u32::max))
    }

    /// Packs the right operands of all products.
    fn pack(&self, operands: &mut Operands) {
        let (attention, simd) = (self.attention, self.attention.simd);
        let key_head = attention.key_head(self.number);
        let (keys, values) = (attention.head(self.inputs.keys, key_head), attention.head(self.inputs.values, key_head));
        operands.keys.pack(simd, keys, attention.right(Along::Rows));
        operands.values.pack(simd, values, attention.right(Along::Rows));
        operands.key_columns.pack(simd, keys, attention.right(Along::Columns));
        let queries = attention.head(self.inputs.queries, self.number);
        operands.query_columns.pack(simd, queries, attention.right(Along::Columns));
        let rounding = Rounding::Stochastic(self.keys.output_columns);
        let packing = Packing::right(Along::Columns, attention.gradient_digits, rounding);
        operands.d_out_columns.pack(simd, attention.head(self.d_out, self.number), packing);
    }

    /// Writes P, dS and dQ of the block of rows from `first` on; the largest magnitude met.
    fn rows(
        &self,
        left: &mut Packed,
        operands: &Operands,
        first: usize,
        [probabilities, d_scores, dq]: [&mut [f32]; 3],
    ) -> u32 {
        let (attention, stride) = (self.attention, self.attention.stride());
        let gradient = |key| Packing::left(Along::Rows, attention.gradient_digits, Rounding::Stochastic(key));
        let triangle = Triangle { first };
        let place = (self.number, first);
        let mut peak = attention.probabilities((left, &operands.keys), self.inputs.queries, place, probabilities);

        // dP[i, j] = Σ_d dO[i, d]·V[j, d]
        let d_out = attention.matrix(self.d_out, self.number, attention.block(first));
        left.pack(attention.simd, d_out, gradient(self.keys.output_rows));
        attention.product(left, &operands.values, Extent::Scores(triangle), d_scores, stride);
        let scale = attention.scale;
        peak = peak.max(softmax_causal_backward(attention.simd, probabilities, d_scores, stride, scale, first));

        // dQ[i, d] = Σ_j dS[i, j]·K[j, d]
        let d_scores = attention.score_matrix(d_scores, self.number, first);
        left.pack(attention.simd, d_scores, gradient(self.keys.scores_rows));
        peak.max(attention.product(left, &operands.key_columns, Extent::Rows(triangle), dq, attention.head_dim))
    }

    /// Writes this head's part of dK and dV for block `block` of positions; the largest magnitude met.
    fn columns(
        &self,
        left: &mut Packed,
        operands: &Operands,
        block: usize,
        [probabilities, d_scores]: [View<'_>; 2],
        [d_keys, d_values]: [&mut [f32]; 2],
    ) -> u32 {
        let (attention, simd) = (self.attention, self.attention.simd);
        let packing = |digits, rounding| Packing::left(Along::Columns, digits, rounding);
        let extent = Extent::Columns { first: block * BLOCK };

        // dV[j, d] = Σ_i P[i, j]·dO[i, d]
        left.pack_columns_of(simd, probabilities, block, packing(attention.digits, Rounding::Nearest));
        let peak = attention.product(left, &operands.d_out_columns, extent, d_values, attention.head_dim);

        // dK[j, d] = Σ_i dS[i, j]·Q[i, d]
        let rounding = Rounding::Stochastic(self.keys.scores_columns);
        left.pack_columns_of(simd, d_scores, block, packing(attention.gradient_digits, rounding));
        peak.max(attention.product(left, &operands.query_columns, extent, d_keys, attention.head_dim))
    }
}
