//! Root-mean-square normalisation (Zhang and Sennrich, 2019): y = x · rsqrt(mean(x²) + ε) · w.

use super::reduce::{LANES, tree_dot};
use super::rows::{RowPeaks, TASK_ROWS, Written};
use super::simd::Simd;
use crate::arithmetic::{add, from_host, magnitude, mul, sub};
use crate::functions::rsqrt;
use rayon::prelude::*;

/// Columns that one task of the weight gradient computes at most: four cache lines of each row, and 8 KiB of sums.
const TASK_COLUMNS_MAX: usize = 64;
/// And at least: one cache line.
const TASK_COLUMNS_MIN: usize = 16;

/// What both directions need: the row width is that of `weight`.
#[derive(Clone, Copy)]
pub(crate) struct RmsNorm<'a> {
    pub(crate) simd: Simd,
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f32,
}

impl RmsNorm<'_> {
    /// 1/width, rounded once.
    fn reciprocal_width(&self) -> f32 {
        from_host(1.0 / self.weight.len() as f64)
    }

    /// Writes y and the reciprocal root of every row; tells the largest magnitudes in y.
    pub(crate) fn forward<'a>(self, x: &'a [f32], y: &'a mut [f32], inverse: &'a mut [f32]) -> impl Written<'a> {
        let width = self.weight.len();
        let task = TASK_ROWS * width;
        let rows = x.par_chunks(task).zip(y.par_chunks_mut(task)).zip(inverse.par_chunks_mut(TASK_ROWS));
        let scalars = [self.reciprocal_width(), self.epsilon];
        rows.map(move |((x, y), inverse)| {
            let peaks = forward_rows(self.simd, x, self.weight, scalars, y, inverse);
            (&*y, peaks, ())
        })
    }

    /// Adds the gradient of x to `dx`; the largest magnitude in `dx`.
    pub(crate) fn backward(&self, dy: &[f32], x: &[f32], inverse: &[f32], dx: &mut [f32]) -> u32 {
        let width = self.weight.len();
        let task = TASK_ROWS * width;
        let rows = dy.par_chunks(task).zip(x.par_chunks(task)).zip(inverse.par_chunks(TASK_ROWS));
        let scale = self.reciprocal_width();
        rows.zip(dx.par_chunks_mut(task))
            .map(|(((dy, x), inverse), dx)| backward_rows(self.simd, (dy, x), inverse, (self.weight, scale), dx))
            .reduce(|| 0, u32::max)
    }

    /// [`RmsNorm::weight_gradient`] into `dw`, beside [`RmsNorm::backward`] into `dx`.
    pub(crate) fn both_gradients(
        &self,
        dy: &[f32],
        x: &[f32],
        inverse: &[f32],
        dw: &mut [f32],
        dx: &mut [f32],
    ) -> (u32, u32) {
        rayon::join(|| self.weight_gradient(dy, x, inverse, dw), || self.backward(dy, x, inverse, dx))
    }

    /// Writes the gradient of the weight, Σ over rows of dy · x · inverse, by
    /// the tree of 32 lanes along the rows; its largest magnitude.
    pub(crate) fn weight_gradient(&self, dy: &[f32], x: &[f32], inverse: &[f32], dw: &mut [f32]) -> u32 {
        let width = self.weight.len();
        // Two tasks for each thread, if there are as many cache lines.
        let columns = (width / (2 * rayon::current_num_threads())).next_multiple_of(TASK_COLUMNS_MIN);
        let columns = columns.clamp(TASK_COLUMNS_MIN, TASK_COLUMNS_MAX);
        dw.par_chunks_mut(columns)
            .enumerate()
            .map(|(task, dw)| weight_columns(self.simd, (dy, x), inverse, (width, task * columns), dw))
            .reduce(|| 0, u32::max)
    }
}

dispatch! {
    fn forward_rows(x: &[f32], weight: &[f32], scalars: [f32; 2], y: &mut [f32], inverse: &mut [f32]) -> RowPeaks {
        let width = weight.len();
        let mut peaks = RowPeaks::default();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(inverse);
        for (((x, y), inverse), row_peak) in rows.zip(&mut peaks) {
            let mut peak = 0;
            *inverse = rsqrt(add(mul(tree_dot(x, x), scalars[0]), scalars[1]));
            for ((y, &x), &weight) in y.iter_mut().zip(x).zip(weight) {
                *y = mul(mul(x, *inverse), weight);
                peak = peak.max(magnitude(*y));
            }
            *row_peak = peak;
        }
        peaks
    }
}

dispatch! {
    fn backward_rows(
        inputs: (&[f32], &[f32]),
        inverse: &[f32],
        constants: (&[f32], f32),
        dx: &mut [f32],
    ) -> u32 {
        let ((dy, x), (weight, reciprocal_width)) = (inputs, constants);
        let width = weight.len();
        let mut peak = 0;
        let rows = dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(inverse);
        for (((dy, x), &inverse), dx) in rows.zip(dx.chunks_exact_mut(width)) {
            // Σ (dy·w)·(x·inverse), by the tree.
            let mut lanes = [0.0; LANES];
            let mut at = 0;
            while at < width {
                let count = (width - at).min(LANES);
                let (dy, x, weight) = (&dy[at..at + count], &x[at..at + count], &weight[at..at + count]);
                for (((lane, &dy), &x), &weight) in lanes.iter_mut().zip(dy).zip(x).zip(weight) {
                    *lane = add(*lane, mul(mul(dy, weight), mul(x, inverse)));
                }
                at += count;
            }
            let mean = mul(super::reduce::tree_sum(&lanes), reciprocal_width);
            for (((dx, &dy), &x), &weight) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
                let inner = sub(mul(dy, weight), mul(mul(x, inverse), mean));
                *dx = add(*dx, mul(inverse, inner));
                peak = peak.max(magnitude(*dx));
            }
        }
        peak
    }
}

dispatch! {
    fn weight_columns(
        inputs: (&[f32], &[f32]),
        inverse: &[f32],
        place: (usize, usize),
        dw: &mut [f32],
    ) -> u32 {
        let ((dy, x), (width, first)) = (inputs, place);
        let mut lanes = [[0.0; TASK_COLUMNS_MAX]; LANES];
        let columns = dw.len();
        for (row, &inverse) in inverse.iter().enumerate() {
            let start = row * width + first;
            let (dy, x) = (&dy[start..start + columns], &x[start..start + columns]);
            for ((lane, &dy), &x) in lanes[row % LANES].iter_mut().zip(dy).zip(x) {
                *lane = add(*lane, mul(dy, mul(x, inverse)));
            }
        }
        let mut stride = LANES / 2;
        while stride > 0 {
            let (lower, upper) = lanes.split_at_mut(stride);
            for (lower, upper) in lower.iter_mut().zip(upper) {
                for (sum, &other) in lower.iter_mut().zip(upper.iter()) {
                    *sum = add(*sum, other);
                }
            }
            stride /= 2;
        }
        dw.copy_from_slice(&lanes[0][..columns]);
        crate::arithmetic::peak(dw)
    }
}
