//! Elementary functions in canonical f32: only + − ×, comparisons and bit operations.
//!
//! By definition every operation is a canonical one. In here `canon` is left out
//! wherever it could change nothing: what it would flush is added to something at
//! least 2²⁵ times as large, or cannot be that small. The tests below compare
//! with the definition over many bit patterns. (Rust does not fuse operations.)
//!
//! Constants are written as decimal numbers whose nearest f32 is meant;
//! `docs/arithmetic.md` lists their bits. Error bounds are checked in the tests
//! below against f64.

use crate::arithmetic::canon;

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
        value = value * x + coefficient;
    }
    value
}

/// e^x for x ≤ 0; 0 for x < −64. Relative error under 2⁻²².
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let shifted = x * LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (x - n * LN2_HEAD) - n * LN2_TAIL;
    let y = (polynomial(r, EXP) * (r * r) + r) + 1.0;
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
    let f = f32::from_bits(x.to_bits().wrapping_sub((exponent as u32) << 23)) - 1.0;
    let e = f32::from_bits(ROUNDER.to_bits().wrapping_add(exponent as u32)) - ROUNDER;
    let z = f * f;
    let y = polynomial(f, LOG) * z * f + e * LN2_TAIL - 0.5 * z;
    canon((f + y) + e * LN2_HEAD)
}

/// 1/x for 2⁻⁶⁰ ≤ x ≤ 2⁶⁰, three Newton steps, the last one as a correction, so
/// that 1/1 = 1. Relative error under 2⁻²³.
#[inline(always)]
pub fn reciprocal(x: f32) -> f32 {
    let mut y = f32::from_bits(RECIPROCAL_GUESS.wrapping_sub(x.to_bits()));
    for _ in 0..2 {
        y *= 2.0 - x * y;
    }
    y + y * (1.0 - x * y)
}

/// 1/√x for 2⁻⁹⁹ ≤ x ≤ 2⁹⁹, three Newton steps. Relative error under 2⁻²¹.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    let half = 0.5 * x;
    let mut y = f32::from_bits(RSQRT_GUESS.wrapping_sub(x.to_bits() >> 1));
    for _ in 0..3 {
        y *= 1.5 - half * y * y;
    }
    y
}

/// √x for x = 0 and 2⁻⁹⁹ ≤ x ≤ 2⁹⁹; 0 below. Relative error under 2⁻²¹.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    let root = x * rsqrt(x);
    if x < f32::from_bits(28 << 23) { 0.0 } else { root }
}

/// 1/(1 + e^−x). Relative error under 2⁻²⁰; 0 for x < −64.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(f32::from_bits(x.to_bits() | 1 << 31));
    let r = reciprocal(1.0 + e);
    if x < 0.0 { e * r } else { r }
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

    /// The functions as `docs/arithmetic.md` defines them.
    mod definition {
        use super::super::{
            EXP, EXP_ZERO_BELOW, LN2_HEAD, LN2_TAIL, LOG, LOG2_E, RECIPROCAL_GUESS, ROUNDER, RSQRT_GUESS,
            SQRT_HALF_BITS,
        };
        use crate::arithmetic::{add, mul, sub};

        fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
            coefficients[1..].iter().fold(coefficients[0], |value, &next| add(mul(value, x), next))
        }

        pub(super) fn exp(x: f32) -> f32 {
            let s = add(mul(x, LOG2_E), ROUNDER);
            let n = sub(s, ROUNDER);
            let r = sub(sub(x, mul(n, LN2_HEAD)), mul(n, LN2_TAIL));
            let y = add(add(mul(polynomial(r, &EXP), mul(r, r)), r), 1.0);
            let scaled = y.to_bits().wrapping_add(s.to_bits().wrapping_sub(ROUNDER.to_bits()) << 23);
            if x < EXP_ZERO_BELOW { 0.0 } else { f32::from_bits(scaled) }
        }

        pub(super) fn log(x: f32) -> f32 {
            let k = x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32 >> 23;
            let f = sub(f32::from_bits(x.to_bits().wrapping_sub((k as u32) << 23)), 1.0);
            let e = sub(f32::from_bits(ROUNDER.to_bits().wrapping_add(k as u32)), ROUNDER);
            let z = mul(f, f);
            let y = add(mul(mul(polynomial(f, &LOG), z), f), mul(e, LN2_TAIL));
            add(add(f, sub(y, mul(0.5, z))), mul(e, LN2_HEAD))
        }

        pub(super) fn reciprocal(x: f32) -> f32 {
            let mut y = f32::from_bits(RECIPROCAL_GUESS.wrapping_sub(x.to_bits()));
            for _ in 0..2 {
                y = mul(y, sub(2.0, mul(x, y)));
            }
            add(y, mul(y, sub(1.0, mul(x, y))))
        }

        pub(super) fn rsqrt(x: f32) -> f32 {
            let half = mul(0.5, x);
            let mut y = f32::from_bits(RSQRT_GUESS.wrapping_sub(x.to_bits() >> 1));
            for _ in 0..3 {
                y = mul(y, sub(1.5, mul(mul(half, y), y)));
            }
            y
        }

        pub(super) fn sqrt(x: f32) -> f32 {
            if x < 2f32.powi(-99) { 0.0 } else { mul(x, rsqrt(x)) }
        }

        pub(super) fn sigmoid(x: f32) -> f32 {
            let e = exp(-x.abs());
            let r = reciprocal(add(1.0, e));
            if x < 0.0 { mul(e, r) } else { r }
        }
    }

    #[test]
    fn leaving_out_canon_changes_nothing() {
        type Function = fn(f32) -> f32;
        let same = |name: &str, own: Function, definition: Function, inputs: &mut dyn Iterator<Item = f32>| {
            for x in inputs {
                assert_eq!(own(x).to_bits(), definition(x).to_bits(), "{name}({x:e})");
            }
        };
        let power = |exponent| 2f32.powi(exponent);
        let all = || std::iter::once(0.0).chain(floats(power(-100), power(40), 577));
        same("exp", exp, definition::exp, &mut all().map(|x| canon(-x)));
        same("exp", exp, definition::exp, &mut floats(1e-3, 70.0, 13).map(|x| -x));
        same("log", log, definition::log, &mut floats(power(-100), power(100), 797).chain(floats(0.5, 2.0, 3)));
        same("reciprocal", reciprocal, definition::reciprocal, &mut floats(power(-60), power(60), 499));
        same("reciprocal", reciprocal, definition::reciprocal, &mut floats(1.0, 2.0, 3));
        same("rsqrt", rsqrt, definition::rsqrt, &mut floats(power(-99), power(99), 809));
        same("sqrt", sqrt, definition::sqrt, &mut std::iter::once(0.0).chain(floats(power(-100), power(99), 809)));
        same("sigmoid", sigmoid, definition::sigmoid, &mut all().flat_map(|x| [x, canon(-x)]));
    }

    #[test]
    fn the_document_has_the_constants() {
        let document = include_str!("../../docs/arithmetic.md");
        let single = [LN2_HEAD, LN2_TAIL, LOG2_E, ROUNDER];
        let bits = single.iter().chain(&EXP).chain(&LOG).map(|constant| constant.to_bits());
        for bits in bits.chain([SQRT_HALF_BITS, RECIPROCAL_GUESS, RSQRT_GUESS]) {
            assert!(document.contains(&format!("{bits:#010x}")), "{bits:#010x}");
        }
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
        assert!(worst < 2f64.powi(-23), "{worst:e}");
        assert_eq!(reciprocal(1.0), 1.0);
        let worst = worst_relative_error(floats(1.0, 2.0, 3), reciprocal, |x| 1.0 / x);
        assert!(worst < 2f64.powi(-23), "{worst:e}");
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
        assert_eq!(sigmoid(-1e11), 0.0);
        for (x, expected) in [(0.0, 0.5), (1e11, 1.0)] {
            assert!((sigmoid(x) - expected).abs() < 2f32.powi(-22), "{x}: {}", sigmoid(x));
        }
    }
}
