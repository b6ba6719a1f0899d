//! Canonical f32: the rules that every element-wise operation follows.
//!
//! A canonical value is +0 or has 2⁻¹⁰⁰ ≤ |x|, and every operation maps
//! canonical values to canonical values: it is done in IEEE single precision,
//! rounded to nearest even, and then [`canon`] acts on the bits. Flushing
//! starts far above the subnormals, so hardware that flushes those agrees, and
//! the bit operations keep a compiler from fusing a product with the sum after
//! it. Outputs of operations stay under [`RANGE_LIMIT`]; a step that would
//! leave it fails, so that no intermediate value can overflow.

/// Magnitudes (bits without the sign) under these of 2⁻¹⁰⁰ are flushed to +0.
pub const FLUSH_BITS: u32 = 27 << 23;

/// Bits of [`RANGE_LIMIT`].
pub const RANGE_LIMIT_BITS: u32 = (127 + 40) << 23;

/// Every tensor element is smaller than this, 2⁴⁰, in magnitude.
pub const RANGE_LIMIT: f32 = f32::from_bits(RANGE_LIMIT_BITS);

/// The bits of |x|. Their order as integers is the order of magnitudes, with
/// infinity and NaN above every number.
#[inline(always)]
pub const fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Whether `x` is a number that tensors may hold (before flushing).
#[inline(always)]
pub const fn in_range(x: f32) -> bool {
    magnitude(x) < RANGE_LIMIT_BITS
}

/// Flushes |x| < 2⁻¹⁰⁰ (and −0) to +0.
#[inline(always)]
pub const fn canon(x: f32) -> f32 {
    if magnitude(x) < FLUSH_BITS { 0.0 } else { x }
}

/// Canonical sum.
#[inline(always)]
pub fn add(a: f32, b: f32) -> f32 {
    canon(a + b)
}

/// Canonical difference.
#[inline(always)]
pub fn sub(a: f32, b: f32) -> f32 {
    canon(a - b)
}

/// Canonical product.
#[inline(always)]
pub fn mul(a: f32, b: f32) -> f32 {
    canon(a * b)
}

/// The larger of two canonical numbers, by comparison.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest magnitude in `values`; 0 if there are none.
#[inline(always)]
pub fn peak(values: &[f32]) -> u32 {
    values.iter().fold(0, |peak, &value| peak.max(magnitude(value)))
}

/// Rounds a host scalar once to canonical f32. Host scalars come from IEEE
/// basic operations (+ − × ÷ √) in f64, which every machine computes alike.
pub fn from_host(x: f64) -> f32 {
    canon(x as f32)
}

/// `loss · 2²⁰` as an integer, to nearest even; none unless 0 ≤ loss < 2¹¹.
pub fn loss_to_fixed(loss: f32) -> Option<u32> {
    if loss.is_sign_negative() || magnitude(loss) >= (127 + 11) << 23 {
        return None;
    }
    let (bits, field) = (loss.to_bits(), loss.to_bits() >> 23);
    if field == 0 {
        return Some(0);
    }
    let mantissa = bits & 0x007f_ffff | 0x0080_0000;
    // value · 2²⁰ = mantissa · 2^(field − 150 + 20)
    if field >= 130 {
        return Some(mantissa << (field - 130));
    }
    let shift = (130 - field).min(31);
    let half_below = (1u32 << (shift - 1)) - 1 + (mantissa >> shift & 1);
    Some((mantissa + half_below) >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canon_flushes_exactly_below_two_to_minus_100() {
        let edge = f32::from_bits(FLUSH_BITS);
        assert_eq!(edge, 2f32.powi(-100));
        assert_eq!(canon(edge), edge);
        assert_eq!(canon(-edge), -edge);
        assert_eq!(canon(f32::from_bits(FLUSH_BITS - 1)).to_bits(), 0);
        assert_eq!(canon(f32::from_bits((FLUSH_BITS - 1) | 1 << 31)).to_bits(), 0);
        assert_eq!(canon(-0.0).to_bits(), 0);
        assert_eq!(mul(1e-20, 1e-20).to_bits(), 0);
        assert!(!in_range(f32::NAN) && !in_range(f32::INFINITY) && !in_range(RANGE_LIMIT));
        assert!(in_range(-f32::from_bits(RANGE_LIMIT_BITS - 1)));
    }

    #[test]
    fn loss_is_rounded_to_nearest_even() {
        let step = 1.0 / 1_048_576.0f32;
        let cases = [
            (0.0, Some(0)),
            (step, Some(1)),
            (step * 0.5, Some(0)),
            (step * 1.5, Some(2)),
            (step * 2.5, Some(2)),
            (step * 2.500001, Some(3)),
            (1.0, Some(1 << 20)),
            (2047.9999, Some((2047.9999f32 as f64 * 1_048_576.0) as u32)),
            (2048.0, None),
            (-1.0, None),
            (f32::NAN, None),
            (f32::INFINITY, None),
        ];
        for (loss, expected) in cases {
            assert_eq!(loss_to_fixed(loss), expected, "{loss}");
        }
        for index in 0..100_000u32 {
            let loss = f32::from_bits(0x3000_0000 + index * 4_001);
            if loss < 2048.0 {
                let expected = (f64::from(loss) * 1_048_576.0).round_ties_even() as u32;
                assert_eq!(loss_to_fixed(loss), Some(expected), "{loss}");
            }
        }
    }
}
