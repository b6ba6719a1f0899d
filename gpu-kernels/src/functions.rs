//! Elementary functions in canonical f32: only + − ×, comparisons and bit operations.
//!
//! Constants are written as decimal numbers whose nearest f32 is meant;
//! `docs/arithmetic.md` lists their bits. Error bounds are checked in the tests
//! below against f64.

use crate::arithmetic::{add, canon, mul, sub};

/// 1.5·2²³: adding it to |x| < 2²² leaves the nearest integer (ties to even) in the low bits.
pub(crate) const ROUNDER: f32 = 12_582_912.0;
/// The head of ln 2, short enough that its product with an exponent is exact.
const LN2_HEAD: f32 = 0.693_359_4;
/// ln 2 − LN2_HEAD.
const LN2_TAIL: f32 = -2.121_944_4e-4;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Arguments under this give e^x = 0.
const EXP_ZERO_BELOW: f32 = -64.0;
/// e^r ≈ 1 + r + r²·P(r) for |r| ≤ ln 2 / 2, highest power first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
/// ln(1 + f) ≈ f − f²/2 + f³·P(f) for √½ ≤ 1 + f < √2, highest power first.
const LOG: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_9e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_8e-1,
    2.000_071_5e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];
/// Bits of √½, the start of the interval to which `log` reduces its argument.
const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
const RECIPROCAL_GUESS: u32 = 0x7ef3_11c7;
const RSQRT_GUESS: u32 = 0x5f37_59df;

#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut value = coefficients[0];
    for &coefficient in &coefficients[1..] {
        value = add(mul(value, x), coefficient);
    }
    value
}

/// e^x for x ≤ 0; 0 for x < −64. Relative error under 2⁻²².
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let shifted = add(mul(x, LOG2_E), ROUNDER);
    let n = sub(shifted, ROUNDER);
    let r = sub(sub(x, mul(n, LN2_HEAD)), mul(n, LN2_TAIL));
    let y = add(add(mul(polynomial(r, EXP), mul(r, r)), r), 1.0);
    // 2^n by adding n to the exponent field.
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) << 23;
    let scaled = f32::from_bits(y.to_bits().wrapping_add(exponent));
    if x < EXP_ZERO_BELOW { 0.0 } else { scaled }
}

/// Natural logarithm of a canonical x > 0. Error under 2⁻²³ plus 2⁻²² of the value.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let offset = x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32;
    let exponent = offset >> 23;
    let f = sub(f32::from_bits(x.to_bits().wrapping_sub((exponent as u32) << 23)), 1.0);
    let e = sub(f32::from_bits(ROUNDER.to_bits().wrapping_add(exponent as u32)), ROUNDER);
    let z = mul(f, f);
    let y = mul(mul(polynomial(f, LOG), z), f);
    let y = add(y, mul(e, LN2_TAIL));
    let y = sub(y, mul(0.5, z));
    add(add(f, y), mul(e, LN2_HEAD))
}

/// 1/x for 2⁻⁶⁰ ≤ x ≤ 2⁶⁰, three Newton steps. Relative error under 2⁻²².
#[inline(always)]
pub fn reciprocal(x: f32) -> f32 {
    let mut y = f32::from_bits(RECIPROCAL_GUESS.wrapping_sub(x.to_bits()));
    for _ in 0..3 {
        y = mul(y, sub(2.0, mul(x, y)));
    }
    y
}

/// 1/√x for 2⁻⁹⁹ ≤ x ≤ 2⁹⁹, three Newton steps. Relative error under 2⁻²¹.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    let half = mul(0.5, x);
    let mut y = f32::from_bits(RSQRT_GUESS.wrapping_sub(x.to_bits() >> 1));
    for _ in 0..3 {
        y = mul(y, sub(1.5, mul(mul(half, y), y)));
    }
    y
}

/// √x for x = 0 and 2⁻⁹⁹ ≤ x ≤ 2⁹⁹; 0 below. Relative error under 2⁻²¹.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    let root = mul(x, rsqrt(x));
    if x < f32::from_bits(28 << 23) { 0.0 } else { root }
}

/// 1/(1 + e^−x). Relative error under 2⁻²⁰; 0 for x < −64.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(f32::from_bits(x.to_bits() | 1 << 31));
    let r = reciprocal(add(1.0, e));
    canon(if x < 0.0 { mul(e, r) } else { r })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `stride`-th f32 from `low` to `high`, both positive.
    fn floats(low: f32, high: f32, stride: u32) -> impl Iterator<Item = f32> {
        (low.to_bits()..=high.to_bits()).step_by(stride as usize).map(f32::from_bits)
    }

    fn worst_relative_error(inputs: impl Iterator<Item = f32>, own: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        inputs.fold(0.0, |worst: f64, x| {
            let (found, expected) = (f64::from(own(x)), exact(f64::from(x)));
            let error = ((found - expected) / expected).abs();
            assert!(error.is_finite(), "{x}: {found} for {expected}");
            worst.max(error)
        })
    }

    #[test]
    fn exp_is_within_its_bound() {
        let inputs = floats(1e-20, 64.0, 211).map(|x| -x);
        let worst = worst_relative_error(inputs, exp, f64::exp);
        assert!(worst < 2f64.powi(-22), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-64.00001), 0.0);
        assert_eq!(exp(-1e12), 0.0);
    }

    #[test]
    fn log_is_within_its_bound() {
        assert_eq!(log(1.0).to_bits(), 0);
        for x in floats(2f32.powi(-100), 2f32.powi(100), 797).chain(floats(0.9, 1.2, 3)) {
            let expected = f64::from(x).ln();
            let error = (f64::from(log(x)) - expected).abs();
            assert!(error <= 2f64.powi(-23) + expected.abs() * 2f64.powi(-22), "{x}: {} {expected}", log(x));
            assert!(x < 1.0 || log(x) >= 0.0, "{x}");
        }
    }

    #[test]
    fn reciprocal_rsqrt_and_sqrt_are_within_their_bounds() {
        let (low, high) = (2f32.powi(-60), 2f32.powi(60));
        let worst = worst_relative_error(floats(low, high, 499), reciprocal, |x| 1.0 / x);
        assert!(worst < 2f64.powi(-22), "{worst:e}");
        let worst = worst_relative_error(floats(1.0, 2.0, 3), reciprocal, |x| 1.0 / x);
        assert!(worst < 2f64.powi(-22), "{worst:e}");
        let (low, high) = (2f32.powi(-99), 2f32.powi(99));
        let worst = worst_relative_error(floats(low, high, 809), rsqrt, |x| 1.0 / x.sqrt());
        assert!(worst < 2f64.powi(-21), "{worst:e}");
        let worst = worst_relative_error(floats(low, high, 809), sqrt, f64::sqrt);
        assert!(worst < 2f64.powi(-21), "{worst:e}");
        assert_eq!(sqrt(0.0), 0.0);
        assert_eq!(sqrt(2f32.powi(-100)), 0.0);
    }

    #[test]
    fn sigmoid_is_within_its_bound() {
        let inputs = floats(1e-12, 63.0, 409).flat_map(|x| [x, -x]);
        let worst = worst_relative_error(inputs, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        assert!(worst < 2f64.powi(-20), "{worst:e}");
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(-1e11), 0.0);
        assert_eq!(sigmoid(1e11), 1.0);
    }
}
