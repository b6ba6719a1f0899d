//! The way forward: softmax(Q·Kᵀ·scale)·V.

use super::{Attention, BlockScratch, HeadScratch, Inputs, Memory, Operands};
use crate::cpu::matmul::Extent;
use crate::cpu::pack::{Along, BLOCK, Triangle};
use rayon::prelude::*;

impl Attention {
    /// Writes softmax(Q·Kᵀ·scale)·V; the largest magnitude met. Memory grows linearly with the length.
    pub(crate) fn forward(&self, memory: Memory<'_>, inputs: Inputs<'_>, out: &mut [f32]) -> u32 {
        let Memory { pool, heads } = memory;
        let group_len = self.group() * self.head_len();
        let waves = out.chunks_mut(heads.len() * group_len).enumerate().map(|(wave, out)| {
            let first = wave * heads.len();
            let key_heads = heads.par_iter_mut().zip(out.par_chunks_exact_mut(group_len)).enumerate();
            let peaks = key_heads.map(|(place, (HeadScratch { operands, .. }, out))| {
                let key_head = first + place;
                operands.keys.pack(self.simd, self.head(inputs.keys, key_head), self.right(Along::Rows));
                operands.values.pack(self.simd, self.head(inputs.values, key_head), self.right(Along::Columns));
                let operands = &*operands;
                let members = out.par_chunks_exact_mut(self.head_len()).enumerate();
                let peaks = members.map(|(member, out)| {
                    let head = key_head * self.group() + member;
                    debug_assert_eq!(self.key_head(head), key_head);
                    let blocks = out.par_chunks_mut(BLOCK * self.head_dim).enumerate();
                    let peaks = blocks.map(|(block, out)| {
                        let place = (head, block * BLOCK);
                        self.forward_rows(&mut pool.scratch(), operands, inputs.queries, place, out)
                    });
                    peaks.reduce(|| 0, u32::max)
                });
                peaks.reduce(|| 0, u32::max)
            });
            peaks.reduce(|| 0, u32::max)
        });
        waves.fold(0, u32::max)
    }

    /// The outputs of a block of rows.
    fn forward_rows(
        &self,
        BlockScratch { left, scores }: &mut BlockScratch,
        operands: &Operands,
        queries: &[f32],
        (head, first): (usize, usize),
        out: &mut [f32],
    ) -> u32 {
        scores.resize(self.block(first).len() * self.stride(), 0.0);
        let peak = self.probabilities((left, &operands.keys), queries, (head, first), scores);
        left.pack(self.simd, self.score_matrix(scores, head, first), self.left());
        peak.max(self.product(left, &operands.values, Extent::Rows(Triangle { first }), out, self.head_dim))
    }
}
