//! Positive real numbers in integers: a significand of 128 bits and an exponent.
//!
//! Every operation rounds toward zero, with a relative error below 2⁻¹²⁷, and
//! gives the same bits on every machine. Made for [`super::sortition`], which
//! bounds the exponents: |log₂| of all its values is below 2¹⁸.

/// The number `significand` · 2^`exponent`, with 2¹²⁷ ≤ `significand`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Real {
    significand: u128,
    exponent: i32,
}

impl Real {
    /// `numerator` ÷ `denominator`, neither of which is zero.
    pub(super) fn ratio(numerator: u128, denominator: u128) -> Self {
        debug_assert!(numerator > 0 && denominator > 0, "a ratio of nothing has no significand");
        let (up, down) = (numerator.leading_zeros().cast_signed(), denominator.leading_zeros().cast_signed());
        let (mut remainder, divisor) = (numerator << up, denominator << down);
        // The quotient of the normalised numbers lies in (½, 2): its first bit
        // is worth 1 or ½, and 128 bits from there on are kept.
        let (mut significand, bits) = if remainder >= divisor { (1, 127) } else { (0, 128) };
        remainder -= significand * divisor;
        for _ in 0..bits {
            let carry = remainder >> 127 == 1;
            remainder <<= 1;
            let bit = carry || remainder >= divisor;
            if bit {
                remainder = remainder.wrapping_sub(divisor);
            }
            significand = significand << 1 | u128::from(bit);
        }
        Self { significand, exponent: down - up - bits }
    }

    /// The product.
    pub(super) fn times(self, other: Self) -> Self {
        let (low, high) = self.significand.carrying_mul(other.significand, 0);
        let exponent = self.exponent + other.exponent + 128;
        if high >> 127 == 1 {
            Self { significand: high, exponent }
        } else {
            Self { significand: high << 1 | low >> 127, exponent: exponent - 1 }
        }
    }

    /// The `count`-th power of this number for a `count` above zero: for each bit
    /// of `count` after its highest, square, and multiply if the bit is set.
    pub(super) fn power(self, count: u64) -> Self {
        debug_assert!(count > 0, "the zeroth power is not needed");
        let bits = count.checked_ilog2().unwrap_or(0);
        (0..bits).rev().fold(self, |power, bit| {
            let square = power.times(power);
            if count >> bit & 1 == 1 { square.times(self) } else { square }
        })
    }

    /// ⌊this · 2¹²⁸⌋ of a number below one.
    pub(super) fn fixed(self) -> u128 {
        debug_assert!(self.exponent <= -128, "only numbers below one have a fixed point here");
        u32::try_from(-128 - self.exponent).ok().and_then(|shift| self.significand.checked_shr(shift)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_products_and_powers_have_exactly_these_bits() {
        assert_eq!(Real::ratio(1, 2).fixed(), 1 << 127);
        assert_eq!(Real::ratio(1, 3).fixed(), u128::MAX / 3);
        assert_eq!(Real::ratio(u128::MAX - 1, u128::MAX).fixed(), u128::MAX - 1);
        assert_eq!(Real::ratio(3, 1).times(Real::ratio(1, 4)).fixed(), 3 << 126);
        assert_eq!(Real::ratio(1, 2).power(100).fixed(), 1 << 28);
        assert_eq!(Real::ratio(3, 4).power(5).fixed(), 243 << 118);
        assert_eq!(Real::ratio(1, 2).power(129).fixed(), 0);
        // Towards zero: 3 · ⅓ stays below one.
        assert_eq!(Real::ratio(3, 1).times(Real::ratio(1, 3)).fixed(), u128::MAX);
    }
}
