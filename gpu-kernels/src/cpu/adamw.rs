//! AdamW (Loshchilov and Hutter, 2019) on canonical f32, with the gradient's global norm.

use super::reduce::{sum_of_squares, tree_sum};
use super::simd::Simd;
use crate::arithmetic::{add, canon, magnitude, mul, sub};
use crate::functions::{reciprocal, sqrt};
use rayon::prelude::*;

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

/// Euclidean norm: trees over blocks of 4,096 elements, then one over the blocks' sums.
pub(crate) fn norm(simd: Simd, values: &[f32]) -> f32 {
    let blocks: Vec<f32> = values.par_chunks(NORM_BLOCK).map(|block| sum_of_squares(simd, block)).collect();
    sqrt(tree_sum(&blocks))
}

/// The three vectors that a step changes, over the same elements.
pub(crate) struct State<'a> {
    pub(crate) parameters: &'a mut [f32],
    pub(crate) first_moment: &'a mut [f32],
    pub(crate) second_moment: &'a mut [f32],
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

/// Computes the new parameters into `new` and returns the largest magnitude
/// that the step would write, so that it can be refused before it begins.
pub(crate) fn preview(simd: Simd, scalars: &Scalars, gradient: &[f32], state: &State<'_>, new: &mut [f32]) -> u32 {
    let moments = state.first_moment.par_chunks(NORM_BLOCK).zip(state.second_moment.par_chunks(NORM_BLOCK));
    let vectors = gradient.par_chunks(NORM_BLOCK).zip(state.parameters.par_chunks(NORM_BLOCK)).zip(moments);
    vectors
        .zip(new.par_chunks_mut(NORM_BLOCK))
        .map(|(((g, p), (m, v)), new)| preview_block(simd, scalars, (g, p), (m, v), new))
        .reduce(|| 0, u32::max)
}

/// Takes the step whose new parameters [`preview`] has computed.
pub(crate) fn step(simd: Simd, scalars: &Scalars, gradient: &[f32], state: State<'_>, new: &[f32]) {
    let moments = state.first_moment.par_chunks_mut(NORM_BLOCK).zip(state.second_moment.par_chunks_mut(NORM_BLOCK));
    gradient.par_chunks(NORM_BLOCK).zip(moments).for_each(|(g, (m, v))| step_moments(simd, scalars, g, m, v));
    state.parameters.copy_from_slice(new);
}

dispatch! {
    fn preview_block(scalars: &Scalars, inputs: (&[f32], &[f32]), state: (&[f32], &[f32]), new: &mut [f32]) -> u32 {
        let ((g, p), (m, v)) = (inputs, state);
        let mut peak = 0;
        for (((&g, &p), (&m, &v)), new) in g.iter().zip(p).zip(m.iter().zip(v)).zip(new) {
            let (m, v) = moments(scalars, g, m, v);
            *new = parameter(scalars, p, m, v);
            peak = peak.max(magnitude(*new).max(magnitude(m)).max(magnitude(v)));
        }
        peak
    }
}

dispatch! {
    fn step_moments(scalars: &Scalars, g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for ((&g, m), v) in g.iter().zip(m).zip(v) {
            (*m, *v) = moments(scalars, g, *m, *v);
        }
    }
}
