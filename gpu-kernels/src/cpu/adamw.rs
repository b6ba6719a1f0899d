//! AdamW (Loshchilov and Hutter, 2019) on canonical f32, with the gradient's global norm.

use super::reduce::{tree_dot, tree_sum};
use super::simd::Simd;
use crate::arithmetic::{RANGE_LIMIT, RANGE_LIMIT_BITS, add, canon, magnitude, mul, peak, sub};
use crate::functions::{reciprocal, sqrt};
use rayon::prelude::*;
use std::ops::Range;

/// Elements whose squares make one first-level sum of the norm.
pub(crate) const NORM_BLOCK: usize = 4096;

/// The step's scalars, each rounded once to f32 on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalars {
    /// Turns the summed gradient into the clipped mean.
    pub(crate) gradient_scale: f32,
    pub(crate) beta1: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    /// 1/(1 − β₁^t)
    pub(crate) correction1: f32,
    /// 1/(1 − β₂^t)
    pub(crate) correction2: f32,
    pub(crate) epsilon: f32,
    pub(crate) learning_rate: f32,
    /// 1 − learning rate · weight decay, or 1 where nothing decays.
    pub(crate) decay: f32,
}

/// Euclidean norm: trees over blocks of 4,096 elements, then one over the blocks'
/// sums, which are kept in `blocks`; and the largest magnitude.
pub(crate) fn norm(simd: Simd, values: &[f32], blocks: &mut [f32]) -> (f32, u32) {
    let blocks = &mut blocks[..values.len().div_ceil(NORM_BLOCK)];
    let sums = values.par_chunks(NORM_BLOCK).zip(blocks.par_iter_mut());
    let peak = sums.map(|(values, sum)| squares_and_peak(simd, values, sum)).reduce(|| 0, u32::max);
    (sqrt(tree_sum(blocks)), peak)
}

/// The largest magnitudes in parameters, first and second moments.
pub(crate) type Peaks = [u32; 3];

/// Magnitudes of vectors that nobody has looked at.
pub(crate) const UNKNOWN_PEAKS: Peaks = [u32::MAX; 3];

/// The larger one of each.
pub(crate) fn larger_peaks(a: Peaks, b: Peaks) -> Peaks {
    [a[0].max(b[0]), a[1].max(b[1]), a[2].max(b[2])]
}

/// The largest of all.
pub(crate) fn largest(peaks: Peaks) -> u32 {
    peaks.into_iter().fold(0, u32::max)
}

/// Whether no element can leave the range in a step from vectors with these peaks:
/// then [`preview`] need not be asked. Bounds are taken in f64, with a margin for rounding.
pub(crate) fn stays_in_range(scalars: &Scalars, gradient_peak: u32, peaks: Peaks) -> bool {
    if peaks.into_iter().chain([gradient_peak]).any(|peak| peak >= RANGE_LIMIT_BITS) {
        return false;
    }
    let wide = |x: f32| f64::from(x);
    let [parameter, first, second] = peaks.map(|peak| wide(f32::from_bits(peak)));
    let gradient = wide(f32::from_bits(gradient_peak)) * wide(scalars.gradient_scale);
    let first = wide(scalars.beta1) * first + wide(scalars.one_minus_beta1) * gradient;
    let second = wide(scalars.beta2) * second + wide(scalars.one_minus_beta2) * gradient * gradient;
    let direction = first * wide(scalars.correction1) / wide(scalars.epsilon);
    let parameter = parameter * wide(scalars.decay).abs() + wide(scalars.learning_rate) * direction;
    let limit = 0.5 * wide(RANGE_LIMIT);
    // What lies between is bounded by the same numbers under the limits of `docs/arithmetic.md`, section 1.
    [gradient, first, second, parameter].into_iter().all(|bound| bound < limit)
}

/// The three vectors that a step changes, over the same elements.
pub(crate) struct State<'a> {
    pub(crate) parameters: &'a mut [f32],
    pub(crate) first_moment: &'a mut [f32],
    pub(crate) second_moment: &'a mut [f32],
}

impl State<'_> {
    /// The same vectors over the elements of `range`.
    pub(crate) fn part(&mut self, range: Range<usize>) -> State<'_> {
        State {
            parameters: &mut self.parameters[range.clone()],
            first_moment: &mut self.first_moment[range.clone()],
            second_moment: &mut self.second_moment[range],
        }
    }
}

/// New moments of one element.
#[inline(always)]
fn moments(scalars: &Scalars, gradient: f32, first: f32, second: f32) -> (f32, f32) {
    let g = mul(canon(gradient), scalars.gradient_scale);
    let first = add(mul(scalars.beta1, first), mul(scalars.one_minus_beta1, g));
    let second = add(mul(scalars.beta2, second), mul(scalars.one_minus_beta2, mul(g, g)));
    (first, second)
}

/// New parameter of one element from its new moments.
#[inline(always)]
fn parameter(scalars: &Scalars, old: f32, first: f32, second: f32) -> f32 {
    let denominator = add(sqrt(mul(second, scalars.correction2)), scalars.epsilon);
    let direction = mul(mul(first, scalars.correction1), reciprocal(denominator));
    sub(mul(old, scalars.decay), mul(scalars.learning_rate, direction))
}

/// Computes the new parameters into `new` and returns the largest magnitudes
/// that the step would write, so that it can be refused before it begins.
pub(crate) fn preview(simd: Simd, scalars: &Scalars, gradient: &[f32], state: &State<'_>, new: &mut [f32]) -> Peaks {
    let moments = state.first_moment.par_chunks(NORM_BLOCK).zip(state.second_moment.par_chunks(NORM_BLOCK));
    let vectors = gradient.par_chunks(NORM_BLOCK).zip(state.parameters.par_chunks(NORM_BLOCK)).zip(moments);
    vectors
        .zip(new.par_chunks_mut(NORM_BLOCK))
        .map(|(((g, p), (m, v)), new)| preview_block(simd, scalars, (g, p), (m, v), new))
        .reduce(Peaks::default, larger_peaks)
}

/// Takes the step in one pass; the largest magnitudes written. Only where
/// [`stays_in_range`] says that nothing can go wrong on the way.
pub(crate) fn step_in_place(simd: Simd, scalars: &Scalars, gradient: &[f32], state: State<'_>) -> Peaks {
    let moments = state.first_moment.par_chunks_mut(NORM_BLOCK).zip(state.second_moment.par_chunks_mut(NORM_BLOCK));
    let vectors = gradient.par_chunks(NORM_BLOCK).zip(state.parameters.par_chunks_mut(NORM_BLOCK)).zip(moments);
    vectors.map(|((g, p), (m, v))| step_block(simd, scalars, g, (p, m, v))).reduce(Peaks::default, larger_peaks)
}

/// Takes the step whose new parameters [`preview`] has computed.
pub(crate) fn step(simd: Simd, scalars: &Scalars, gradient: &[f32], state: State<'_>, new: &[f32]) {
    let moments = state.first_moment.par_chunks_mut(NORM_BLOCK).zip(state.second_moment.par_chunks_mut(NORM_BLOCK));
    gradient.par_chunks(NORM_BLOCK).zip(moments).for_each(|(g, (m, v))| step_moments(simd, scalars, g, m, v));
    state.parameters.copy_from_slice(new);
}

dispatch! {
    fn squares_and_peak(values: &[f32], sum: &mut f32) -> u32 {
        // A block is small enough to be in the cache the second time.
        *sum = tree_dot(values, values);
        peak(values)
    }
}

dispatch! {
    fn preview_block(scalars: &Scalars, inputs: (&[f32], &[f32]), state: (&[f32], &[f32]), new: &mut [f32]) -> Peaks {
        let ((g, p), (m, v)) = (inputs, state);
        let mut peaks = Peaks::default();
        for (((&g, &p), (&m, &v)), new) in g.iter().zip(p).zip(m.iter().zip(v)).zip(new) {
            let (m, v) = moments(scalars, g, m, v);
            *new = parameter(scalars, p, m, v);
            peaks = larger_peaks(peaks, [magnitude(*new), magnitude(m), magnitude(v)]);
        }
        peaks
    }
}

dispatch! {
    fn step_block(scalars: &Scalars, g: &[f32], state: (&mut [f32], &mut [f32], &mut [f32])) -> Peaks {
        let (p, m, v) = state;
        let mut peaks = Peaks::default();
        for (((&g, p), m), v) in g.iter().zip(p).zip(m).zip(v) {
            (*m, *v) = moments(scalars, g, *m, *v);
            *p = parameter(scalars, *p, *m, *v);
            peaks = larger_peaks(peaks, [magnitude(*p), magnitude(*m), magnitude(*v)]);
        }
        peaks
    }
}

dispatch! {
    fn step_moments(scalars: &Scalars, g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for ((&g, m), v) in g.iter().zip(m).zip(v) {
            (*m, *v) = moments(scalars, g, *m, *v);
        }
    }
}
