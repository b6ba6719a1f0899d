//! Cross-entropy of the softmax of each row of logits against its target token.
//!
//! The loss of a token is (max − logit\[target\]) + ln Σ e^(logit − max), rounded to
//! multiples of 2⁻²⁰ nats so that sums of losses do not depend on their order. A
//! token is a hit if its logit is larger than every other one.

use super::reduce::row_maximum;
use super::simd::Simd;
use super::softmax::exponentials;
use crate::arithmetic::{add, canon, loss_to_fixed, mul, sub};
use crate::functions::{log, reciprocal};
use rayon::prelude::*;

/// Rows that one task computes.
const TASK_ROWS: usize = 16;

/// What rows of logits say about their targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Sum of the losses in units of 2⁻²⁰ nats.
    pub(crate) fixed: i64,
    /// Number of hits.
    pub(crate) hits: u64,
}

impl Judged {
    fn plus(self, other: Self) -> Self {
        Self { fixed: self.fixed + other.fixed, hits: self.hits + other.hits }
    }
}

/// Returns losses and hits, none if a loss is 2,048 nats or more, and replaces
/// the logits by `scale` · (softmax − one-hot) if a scale is given (else their
/// content is undefined afterwards).
pub(crate) fn cross_entropy(simd: Simd, logits: &mut [f32], targets: &[u32], scale: Option<f32>) -> Option<Judged> {
    let width = logits.len() / targets.len();
    logits
        .par_chunks_mut(TASK_ROWS * width)
        .zip(targets.par_chunks(TASK_ROWS))
        .map(|(logits, targets)| rows(simd, logits, targets, width, scale))
        .reduce(|| Some(Judged::default()), |a, b| Some(a?.plus(b?)))
}

dispatch! {
    fn rows(logits: &mut [f32], targets: &[u32], width: usize, scale: Option<f32>) -> Option<Judged> {
        let mut total = Judged::default();
        for (logits, &target) in logits.chunks_exact_mut(width).zip(targets) {
            let target = target as usize;
            let maximum = row_maximum(logits);
            let distance = sub(maximum, logits[target]);
            if logits[target] == maximum {
                let rivals = logits.iter().filter(|&&logit| logit == maximum).count() - 1;
                total.hits += u64::from(rivals == 0);
            }
            let sum = exponentials(logits, maximum);
            total.fixed += i64::from(loss_to_fixed(add(distance, log(sum)))?);
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
