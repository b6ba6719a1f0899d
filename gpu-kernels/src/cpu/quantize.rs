//! Row-scaled integers: what an f32 becomes before it is multiplied.
//!
//! A row with largest magnitude M has the exponent e = floor(log2 M) − 6 for
//! one digit and − 13 for two (0 if the row is all zero), and q = x / 2^e
//! rounded to an integer. One digit is clamped to ±127; two have a bit to
//! spare, |q| ≤ 16,384, since a clamp would cost them eight bits where it acts.
//! Two digits are q = 256·hi + lo with hi = (q + 128) >> 8. Nearest rounding is to even;
//! stochastic rounding works on the magnitude in fixed point (24 or 16
//! fraction bits, cut off) and adds as many random bits before cutting.

use super::random::{Key, mix};
use crate::arithmetic::magnitude;
use crate::functions::ROUNDER;

/// How x / 2^e becomes an integer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rounding {
    /// Nearest, ties to even: weights and activations.
    Nearest,
    /// Up or down at random, so that the expectation is exact: gradients.
    Stochastic(Key),
}

/// 2^e and 2^−e for a row whose largest magnitude has the bits `peak`.
#[inline(always)]
pub(crate) fn scale_of(peak: u32, digits: usize) -> (f32, f32) {
    let below = if digits == 1 { 6 } else { 13 };
    let field = peak >> 23;
    if field == 0 {
        return (1.0, 1.0);
    }
    (f32::from_bits((field - below) << 23), f32::from_bits((254 + below - field) << 23))
}

/// The largest absolute value of q.
#[inline(always)]
const fn limit(digits: usize) -> i32 {
    if digits == 1 { 127 } else { 16_384 }
}

/// x · 2^−e to the nearest integer, ties to even. The product is exact unless it is far under ½.
#[inline(always)]
fn nearest(x: f32, inverse: f32, digits: usize) -> i32 {
    let shifted = x * inverse + ROUNDER;
    (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32).clamp(-limit(digits), limit(digits))
}

/// x · 2^−e up or down at random, in fixed point.
#[inline(always)]
fn stochastic(x: f32, inverse: f32, digits: usize, random: u32) -> i32 {
    // |x|·2^−e = mantissa · 2^(left − drop − fraction_bits), where `drop` is how far
    // x lies under the row's largest element in powers of two.
    let (fraction_bits, below, left) = if digits == 1 { (24, 6, 7) } else { (16, 13, 6) };
    let bits = magnitude(x);
    let mantissa = if bits == 0 { 0 } else { bits & 0x007f_ffff | 0x0080_0000 };
    let drop = (254 + below - (inverse.to_bits() >> 23)).wrapping_sub(bits >> 23);
    let fixed = (mantissa << left) >> drop.min(31);
    let rounded = (fixed.wrapping_add(random >> (32 - fraction_bits)) >> fraction_bits) as i32;
    let sign = x.to_bits() as i32 >> 31;
    (rounded.min(limit(digits)) ^ sign) - sign
}

/// Rounds neighbours of one row of the source; `inverse(i)` scales element i,
/// whose random bits are those of `index + i`.
#[inline(always)]
pub(crate) fn quantize_line(
    values: &[f32],
    inverse: impl Fn(usize) -> f32,
    (digits, rounding): (usize, Rounding),
    index: u32,
    out: &mut [i32],
) {
    let out = &mut out[..values.len()];
    // The loops have constants inside, so that they vectorise without a branch.
    match (digits, rounding) {
        (1, Rounding::Nearest) => {
            for at in 0..values.len() {
                out[at] = nearest(values[at], inverse(at), 1);
            }
        }
        (1, Rounding::Stochastic(key)) => {
            for at in 0..values.len() {
                out[at] = stochastic(values[at], inverse(at), 1, mix(key, index.wrapping_add(at as u32)));
            }
        }
        (_, Rounding::Nearest) => {
            for at in 0..values.len() {
                out[at] = nearest(values[at], inverse(at), 2);
            }
        }
        (_, Rounding::Stochastic(key)) => {
            for at in 0..values.len() {
                out[at] = stochastic(values[at], inverse(at), 2, mix(key, index.wrapping_add(at as u32)));
            }
        }
    }
}

/// Digit number `digit` (from the upper one) of q.
#[inline(always)]
pub(crate) fn digit_of(q: i32, digits: usize, digit: usize) -> i32 {
    let upper = (q + 128) >> 8;
    match (digits, digit) {
        (1, _) => q,
        (_, 0) => upper,
        _ => q - (upper << 8),
    }
}
