//! Softmax over the causal prefix of each row, forward and backward, in place.
//!
//! Rows are `stride` long, a multiple of 32; row i of a sequence has i + 1
//! valid scores, and everything behind them becomes +0.

use super::reduce::{row_maximum, tree_dot, tree_sum};
use crate::arithmetic::{magnitude, mul, sub};
use crate::functions::{exp, reciprocal};

dispatch! {
    /// scores → probabilities: p = e^(s·scale − max) / Σ, for rows from number
    /// `first` of a sequence. The largest |score · scale| is returned.
    pub(crate) fn softmax_causal(scores: &mut [f32], stride: usize, scale: f32, first: usize) -> u32 {
        let mut peak = 0;
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let length = first + row + 1;
            let padded = length.div_ceil(32) * 32;
            for score in &mut scores[..length] {
                *score = mul(*score, scale);
                peak = peak.max(magnitude(*score));
            }
            let maximum = row_maximum(&scores[..length]);
            let (valid, rest) = scores.split_at_mut(padded);
            for (column, score) in valid.iter_mut().enumerate() {
                let e = exp(sub(*score, maximum));
                *score = if column < length { e } else { 0.0 };
            }
            rest.fill(0.0);
            let inverse = reciprocal(tree_sum(valid));
            for p in valid {
                *p = mul(*p, inverse);
            }
        }
        peak
    }
}

dispatch! {
    /// dp → ds = p · (dp − Σ p·dp) · scale; +0 behind the diagonal. The largest |ds| is returned.
    pub(crate) fn softmax_causal_backward(p: &[f32], dp: &mut [f32], stride: usize, scale: f32) -> u32 {
        let mut peak = 0;
        for (row, (p, dp)) in p.chunks_exact(stride).zip(dp.chunks_exact_mut(stride)).enumerate() {
            let length = row + 1;
            let padded = length.div_ceil(32) * 32;
            dp[length..].fill(0.0);
            let (p, dp) = (&p[..padded], &mut dp[..padded]);
            let mean = tree_dot(p, dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = mul(mul(p, sub(*dp, mean)), scale);
                peak = peak.max(magnitude(*dp));
            }
        }
        peak
    }
}
