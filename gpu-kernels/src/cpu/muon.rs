//! The element-wise parts of Muon (Jordan et al., 2024) on canonical f32, and the products of its
//! Newton–Schulz iteration whose result is symmetric. Their order is in `model/muon.rs`.

use super::adamw::{NORM_BLOCK, State};
use super::matmul::{Extent, product_within};
use super::pack::{PANEL, Packed, Triangle};
use super::simd::Simd;
use crate::arithmetic::{add, canon, magnitude, mul, sub};
use rayon::prelude::*;

/// What of the momentum stays in a step, and what the gradient adds: bits of 0.95 and of 1 − 0.95.
pub(crate) const MOMENTUM: f32 = 0.95;
pub(crate) const ONE_MINUS_MOMENTUM: f32 = (1.0 - MOMENTUM as f64) as f32;

/// Added to the norm that a direction is divided by.
pub(crate) const NORM_EPSILON: f32 = 1e-7;

/// X becomes a·X + (b·A + c·A²)·X with A = X·Xᵀ: the odd quintic polynomial of Jordan et al., which
/// takes singular values of (0, 1] to about 0.7 … 1.2 in [`ITERATIONS`] applications.
pub(crate) const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];

/// How often the polynomial is applied.
pub(crate) const ITERATIONS: usize = 5;

/// Digits of all operands of the iteration.
pub(crate) const DIGITS: usize = 2;

/// A step of a matrix of so many elements a row and column has this part of their square root as the
/// root mean square of its elements: like AdamW's, so that its learning rates fit (Liu et al., 2025).
pub(crate) const STEP_SIZE: f64 = 0.2;

/// The step's scalars of one matrix, each rounded once to f32 on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalars {
    /// Turns the summed gradient into the clipped mean.
    pub(crate) gradient_scale: f32,
    /// Learning rate with the size of the step in it.
    pub(crate) learning_rate: f32,
    /// 1 − learning rate · weight decay.
    pub(crate) decay: f32,
}

/// μ·a + (1 − μ)·b
#[inline(always)]
fn mix(a: f32, b: f32) -> f32 {
    add(mul(MOMENTUM, a), mul(ONE_MINUS_MOMENTUM, b))
}

/// The clipped mean gradient of an element.
#[inline(always)]
fn mean(gradient: f32, scale: f32) -> f32 {
    mul(canon(gradient), scale)
}

dispatch! {
    fn directions_block(scale: f32, gradient: &[f32], momentum: &[f32], out: &mut [f32]) -> u32 {
        let mut peak = 0;
        for ((&gradient, &momentum), out) in gradient.iter().zip(momentum).zip(out) {
            let g = mean(gradient, scale);
            let momentum = mix(momentum, g);
            peak = peak.max(magnitude(momentum));
            *out = mix(momentum, g);
        }
        peak
    }
}

/// Writes the directions of a step (Nesterov's: the momentum that is to be, and the gradient once
/// more); the largest magnitude of that momentum.
pub(crate) fn directions(simd: Simd, scale: f32, gradient: &[f32], momentum: &[f32], out: &mut [f32]) -> u32 {
    let inputs = gradient.par_chunks(NORM_BLOCK).zip(momentum.par_chunks(NORM_BLOCK));
    inputs
        .zip(out.par_chunks_mut(NORM_BLOCK))
        .map(|((g, m), out)| directions_block(simd, scale, g, m, out))
        .reduce(|| 0, u32::max)
}

dispatch! {
    fn commit_block(scale: f32, gradient: &[f32], state: (&mut [f32], &mut [f32]), new: &[f32]) {
        let (parameters, momentum) = state;
        for (&gradient, momentum) in gradient.iter().zip(momentum) {
            *momentum = mix(*momentum, mean(gradient, scale));
        }
        parameters.copy_from_slice(new);
    }
}

/// Takes the step whose new parameters have been computed: the first moment is the momentum, and the second stays zero.
pub(crate) fn commit(simd: Simd, scale: f32, gradient: &[f32], state: State<'_>, new: &[f32]) {
    let vectors = state.parameters.par_chunks_mut(NORM_BLOCK).zip(state.first_moment.par_chunks_mut(NORM_BLOCK));
    gradient
        .par_chunks(NORM_BLOCK)
        .zip(vectors)
        .zip(new.par_chunks(NORM_BLOCK))
        .for_each(|((g, state), new)| commit_block(simd, scale, g, state, new));
}

dispatch! {
    fn scale_block(factor: f32, x: &mut [f32]) {
        for x in x {
            *x = mul(*x, factor);
        }
    }
}

/// x = x · factor
pub(crate) fn scale(simd: Simd, factor: f32, x: &mut [f32]) {
    x.par_chunks_mut(NORM_BLOCK).for_each(|x| scale_block(simd, factor, x));
}

dispatch! {
    fn add_scaled_block(own: f32, x: &mut [f32], y: &[f32]) -> u32 {
        let mut peak = 0;
        for (x, &y) in x.iter_mut().zip(y) {
            *x = add(mul(own, *x), y);
            peak = peak.max(magnitude(*x));
        }
        peak
    }
}

/// x = own · x + y; the largest magnitude of the result.
pub(crate) fn add_scaled(simd: Simd, own: f32, x: &mut [f32], y: &[f32]) -> u32 {
    x.par_chunks_mut(NORM_BLOCK)
        .zip(y.par_chunks(NORM_BLOCK))
        .map(|(x, y)| add_scaled_block(simd, own, x, y))
        .reduce(|| 0, u32::max)
}

dispatch! {
    fn parameters_block(scalars: &Scalars, parameters: &[f32], x: &mut [f32]) -> u32 {
        let mut peak = 0;
        for (&parameter, x) in parameters.iter().zip(x) {
            *x = sub(mul(parameter, scalars.decay), mul(scalars.learning_rate, *x));
            peak = peak.max(magnitude(*x));
        }
        peak
    }
}

/// Makes orthogonalised directions the parameters after a step along them; their largest magnitude.
pub(crate) fn step_parameters(simd: Simd, scalars: &Scalars, parameters: &[f32], x: &mut [f32]) -> u32 {
    x.par_chunks_mut(NORM_BLOCK)
        .zip(parameters.par_chunks(NORM_BLOCK))
        .map(|(x, p)| parameters_block(simd, scalars, p, x))
        .reduce(|| 0, u32::max)
}

/// Rows of a symmetric product that one task computes.
const TASK_ROWS: usize = 2 * PANEL;

/// Computes the lower left half, with the diagonal, of a product that is known to be symmetric; the
/// largest magnitude in it. What stands behind the diagonal is undefined.
pub(crate) fn symmetric_product(simd: Simd, left: &Packed, right: &Packed, out: &mut [f32]) -> u32 {
    let side = left.rows;
    debug_assert!(right.rows == side && out.len() == side * side);
    let half = Extent::Scores(Triangle { first: 0 });
    out.par_chunks_mut(TASK_ROWS * side)
        .enumerate()
        .map(|(task, out)| {
            let first = task * TASK_ROWS;
            product_within(simd, left, first..(first + TASK_ROWS).min(side), right, half, (out, side))
        })
        .reduce(|| 0, u32::max)
}

/// Elements of row and column in the lower left half: `[i][j]` for j ≤ i, else `[j][i]`. Tasks are
/// of as many rows as a cache line of a row of `half` has columns.
fn for_each_row_of_symmetric(
    half: &[f32],
    side: usize,
    out: &mut [f32],
    set: impl Fn(&mut f32, f32) -> u32 + Sync,
) -> u32 {
    out.par_chunks_mut(PANEL * side)
        .enumerate()
        .map(|(task, out)| {
            let first = task * PANEL;
            let mut peak = 0;
            for (place, row) in out.chunks_exact_mut(side).enumerate() {
                let at = (first + place) * side;
                for (out, &value) in row.iter_mut().zip(&half[at..=at + first + place]) {
                    peak = peak.max(set(out, value));
                }
            }
            for below in first + 1..side {
                let line = &half[below * side + first..][..PANEL.min(below - first)];
                for (place, &value) in line.iter().enumerate() {
                    peak = peak.max(set(&mut out[place * side + below], value));
                }
            }
            peak
        })
        .reduce(|| 0, u32::max)
}

/// Writes the whole of a symmetric matrix whose lower left half is known.
pub(crate) fn mirror(half: &[f32], side: usize, whole: &mut [f32]) {
    for_each_row_of_symmetric(half, side, whole, |out, value| {
        *out = value;
        0
    });
}

/// whole = b · whole + c · the symmetric matrix whose lower left half is `half`; the largest magnitude.
pub(crate) fn combine(half: &[f32], side: usize, [b, c]: [f32; 2], whole: &mut [f32]) -> u32 {
    for_each_row_of_symmetric(half, side, whole, |out, value| {
        *out = add(mul(b, *out), mul(c, value));
        magnitude(*out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pack::{Along, Packing, View};
    use crate::cpu::quantize::Rounding;
    use crate::cpu::simd::SimdPath;

    #[test]
    fn the_document_has_the_constants() {
        let document = include_str!("../../../docs/arithmetic.md");
        for constant in [MOMENTUM, ONE_MINUS_MOMENTUM, NORM_EPSILON].into_iter().chain(COEFFICIENTS) {
            let bits = format!("{:#010x}", constant.to_bits());
            assert!(document.contains(&bits), "{constant}: {bits}");
        }
    }

    /// Sides around those of panels and tasks, on garbage that must not show.
    #[test]
    fn half_of_a_symmetric_product_is_all_of_it() {
        for simd in SimdPath::available().into_iter().map(|path| path.resolve().unwrap()) {
            for (side, k) in [(1, 5), (15, 3), (16, 40), (31, 31), (33, 70), (65, 2), (97, 33)] {
                let x: Vec<f32> = (0..side * k).map(|at| ((at * 7919 % 1009) as f32 - 504.0) / 64.0).collect();
                let (mut left, mut right) = (Packed::default(), Packed::default());
                let view = View::whole(&x, side, k);
                left.pack(simd, view, Packing::left(Along::Rows, DIGITS, Rounding::Nearest));
                right.pack(simd, view, Packing::right(Along::Rows, DIGITS, Rounding::Nearest));
                let mut all = vec![0.0; side * side];
                crate::cpu::matmul::product_parallel(simd, &left, &right, &mut all);
                let (mut half, mut whole) = (vec![f32::NAN; side * side], vec![f32::NAN; side * side]);
                let peak = symmetric_product(simd, &left, &right, &mut half);
                mirror(&half, side, &mut whole);
                assert!(whole == all, "{simd:?}: side {side} of {k}");
                assert_eq!(peak, crate::arithmetic::peak(&all));
                let twice = combine(&half, side, [0.5, 1.5], &mut whole);
                assert!(whole.iter().zip(&all).all(|(&found, &one)| found == 2.0 * one) && twice == peak + (1 << 23));
            }
        }
    }
}
