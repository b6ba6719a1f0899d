//! Cross-entropy of the softmax of each row of logits against its target token.
//!
//! The loss of a token is (max − logit\[target\]) + ln Σ e^(logit − max), rounded to
//! multiples of 2⁻²⁰ nats so that sums of losses do not depend on their order. A
//! token is a hit if its logit is larger than every other one.

use super::reduce::row_maximum;
use super::rows::{RowPeaks, TASK_ROWS, Written};
use super::simd::Simd;
use super::softmax::exponentials;
use crate::arithmetic::{add, loss_to_fixed, magnitude, mul, sub};
use crate::functions::{log, reciprocal};
use rayon::prelude::*;

/// What rows of logits say about their targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Sum of the losses in units of 2⁻²⁰ nats.
    pub(crate) fixed: i64,
    /// Number of hits.
    pub(crate) hits: u64,
}

impl Judged {
    /// What all rows say, none if some say nothing.
    pub(crate) fn sum(parts: impl ParallelIterator<Item = Option<Self>>) -> Option<Self> {
        let plus = |a: Self, b: Self| Self { fixed: a.fixed + b.fixed, hits: a.hits + b.hits };
        parts.reduce(|| Some(Self::default()), |a, b| Some(plus(a?, b?)))
    }
}

/// Tells losses and hits, none if a loss is 2,048 nats or more, and replaces the logits by
/// `scale` · (softmax − one-hot) if a scale is given (else their content is undefined afterwards).
pub(crate) fn cross_entropy<'a>(
    simd: Simd,
    logits: &'a mut [f32],
    targets: &'a [u32],
    scale: Option<f32>,
) -> impl Written<'a, Option<Judged>> {
    let width = logits.len() / targets.len();
    let tasks = logits.par_chunks_mut(TASK_ROWS * width).zip(targets.par_chunks(TASK_ROWS));
    tasks.map(move |(logits, targets)| {
        let mut peaks = RowPeaks::default();
        let judged = rows(simd, logits, targets, scale, &mut peaks);
        (&*logits, peaks, judged)
    })
}

/// [`cross_entropy`] without a gradient.
pub(crate) fn judge(simd: Simd, logits: &mut [f32], targets: &[u32]) -> Option<Judged> {
    Judged::sum(cross_entropy(simd, logits, targets, None).map(|(_, _, judged)| judged))
}

dispatch! {
    fn rows(logits: &mut [f32], targets: &[u32], scale: Option<f32>, peaks: &mut RowPeaks) -> Option<Judged> {
        let width = logits.len() / targets.len();
        let mut total = Judged::default();
        for ((logits, &target), row_peak) in logits.chunks_exact_mut(width).zip(targets).zip(peaks) {
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
                logits[target] = 0.0;
                let mut peak = magnitude(at_target);
                for e in &mut *logits {
                    *e = mul(mul(*e, inverse), scale);
                    peak = peak.max(magnitude(*e));
                }
                logits[target] = at_target;
                *row_peak = peak;
            }
        }
        Some(total)
    }
}
