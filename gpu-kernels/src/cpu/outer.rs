//! The element-wise ops of the outer optimiser: Nesterov momentum on pseudo-gradients.

use super::reduce::{sum_of_squares, tree_sum};
use super::simd::Simd;
use crate::arithmetic::{add, canon, magnitude, mul, sub};
use crate::cpu::adamw::NORM_BLOCK;
use crate::functions::sqrt;

/// The outer step's scalars, each rounded once to f32 on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalars {
    /// Turns the sum of the weighted deltas into their mean: 1/batches.
    pub(crate) mean_scale: f32,
    pub(crate) momentum: f32,
    pub(crate) learning_rate: f32,
}

/// New momentum and parameter of one element.
#[inline(always)]
fn element(scalars: &Scalars, sum: f32, anchor: f32, momentum: f32) -> (f32, f32) {
    let mean = mul(canon(sum), scalars.mean_scale);
    let momentum = add(mul(scalars.momentum, momentum), mean);
    let direction = add(mean, mul(scalars.momentum, momentum));
    (momentum, sub(anchor, mul(scalars.learning_rate, direction)))
}

/// Euclidean norm, by the tree of AdamW's but on the calling thread: it is done once a round.
pub(crate) fn norm(simd: Simd, values: &[f32]) -> f32 {
    let blocks: Vec<f32> = values.chunks(NORM_BLOCK).map(|block| sum_of_squares(simd, block)).collect();
    sqrt(tree_sum(&blocks))
}

dispatch! {
    /// `out = (anchor − local) · weight`; the largest magnitude of the result.
    pub(crate) fn delta(anchor: &[f32], local: &[f32], weight: f32, out: &mut [f32]) -> u32 {
        let mut peak = 0;
        for ((&anchor, &local), out) in anchor.iter().zip(local).zip(out) {
            *out = mul(sub(anchor, canon(local)), weight);
            peak = peak.max(magnitude(*out));
        }
        peak
    }
}

dispatch! {
    /// The largest magnitude that [`step`] would write, so that it can be refused before it begins.
    pub(crate) fn preview(scalars: &Scalars, sum: &[f32], anchor: &[f32], momentum: &[f32]) -> u32 {
        let mut peak = 0;
        for ((&sum, &anchor), &momentum) in sum.iter().zip(anchor).zip(momentum) {
            let (momentum, anchor) = element(scalars, sum, anchor, momentum);
            peak = peak.max(magnitude(momentum)).max(magnitude(anchor));
        }
        peak
    }
}

dispatch! {
    /// Takes the outer step.
    pub(crate) fn step(scalars: &Scalars, sum: &[f32], anchor: &mut [f32], momentum: &mut [f32]) {
        for ((&sum, anchor), momentum) in sum.iter().zip(anchor).zip(momentum) {
            (*momentum, *anchor) = element(scalars, sum, *anchor, *momentum);
        }
    }
}
