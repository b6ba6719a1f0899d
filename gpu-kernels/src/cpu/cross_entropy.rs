//! Cross-entropy of the softmax of each row of logits against its target token.
//!
//! The loss of a token is (max − logit\[target\]) + ln Σ e^(logit − max), rounded to
//! multiples of 2⁻²⁰ nats so that sums of losses do not depend on their order.

use super::reduce::{row_maximum, tree_sum};
use super::simd::Simd;
use crate::arithmetic::{add, canon, loss_to_fixed, mul, sub};
use crate::functions::{exp, log, reciprocal};
use rayon::prelude::*;

/// Rows that one task computes.
const TASK_ROWS: usize = 16;

/// Returns the summed fixed-point loss, none if one is 2,048 nats or more, and
/// replaces the logits by `scale` · (softmax − one-hot) if a scale is given
/// (else their content is undefined afterwards).
pub(crate) fn cross_entropy(simd: Simd, logits: &mut [f32], targets: &[u32], scale: Option<f32>) -> Option<i64> {
    let width = logits.len() / targets.len();
    logits
        .par_chunks_mut(TASK_ROWS * width)
        .zip(targets.par_chunks(TASK_ROWS))
        .map(|(logits, targets)| rows(simd, logits, targets, width, scale))
        .reduce(|| Some(0), |a, b| Some(a? + b?))
}

dispatch! {
    fn rows(logits: &mut [f32], targets: &[u32], width: usize, scale: Option<f32>) -> Option<i64> {
        let mut total = 0;
        for (logits, &target) in logits.chunks_exact_mut(width).zip(targets) {
            let target = target as usize;
            let maximum = row_maximum(logits);
            let distance = sub(maximum, logits[target]);
            for logit in &mut *logits {
                *logit = exp(sub(*logit, maximum));
            }
            let sum = tree_sum(logits);
            total += i64::from(loss_to_fixed(add(distance, log(sum)))?);
            if let Some(scale) = scale {
                let inverse = reciprocal(sum);
                let at_target = mul(sub(mul(logits[target], inverse), 1.0), scale);
                for e in &mut *logits {
                    *e = mul(mul(*e, inverse), scale);
                }
                logits[target] = canon(at_target);
            }
        }
        Some(total)
    }
}
