//! Effective power: a daily average with a half-life of a week.
//!
//! The formula is BOINC's `update_average` (lib/util.cpp): over Δ since the
//! last update, the average A falls to A·2^(−Δ/H), and new work W, taken as
//! done evenly over Δ, adds (1 − 2^(−Δ/H))·W/Δ, whose limit for Δ → 0 is
//! W·ln 2/H. BOINC computes it in floating point; here it is in integers of
//! 2⁻³² millionths, and powers of two are exact to 2⁻⁵⁶.
//!
//! An average begins at zero when its owner is registered, where BOINC's begins
//! with the rate of the first piece of work: otherwise one quick unit would
//! make a newcomer strong.

use super::MicroPower;
use serde::{Deserialize, Serialize};

/// The time in which an average without new work falls to half: 7 days.
pub const HALF_LIFE_MS: u64 = 7 * DAY_MS;

const DAY_MS: u64 = 86_400_000;
/// One, in units of 2⁻⁶⁴.
const ONE: u128 = 1 << 64;
/// ⌊2⁶⁴ · ln 2 ÷ 7⌋: how much of new work a daily average gains at once.
const AT_ONCE: u64 = 1_826_615_520_743_236_522;
/// `ROOTS[i]` = 2^(−2^−(i+1)) in units of 2⁻⁶⁴, each the rounded-down square
/// root of the one before it, and so less than three units too small.
const ROOTS: [u64; 64] = roots();

const fn roots() -> [u64; 64] {
    let mut roots = [0; 64];
    let mut square: u128 = 1 << 63;
    let mut place = 0;
    while place < 64 {
        square = (square << 64).isqrt();
        roots[place] = square as u64;
        place += 1;
    }
    roots
}

/// An average of work a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Average {
    /// The average when it was last updated: whole millionths of power a day.
    micro: u64,
    /// What it is above that, in 2⁻³² of a millionth.
    fraction: u32,
    /// When it was last updated, in Unix milliseconds.
    at_ms: u64,
}

impl Average {
    /// An average that begins at `now_ms` with `power` a day.
    pub fn starting(power: MicroPower, now_ms: u64) -> Self {
        Self { micro: power.0, fraction: 0, at_ms: now_ms }
    }

    /// The average at `now_ms`, if no work is added until then. A time before
    /// the last update counts as that of the update.
    pub fn at(&self, now_ms: u64) -> MicroPower {
        MicroPower((self.decayed(now_ms) >> 32) as u64)
    }

    /// Adds work that was done between the last update and `now_ms`.
    pub fn add(&mut self, work: MicroPower, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let gain = (u128::from(work.0) * u128::from(gain(elapsed_ms))) >> 32;
        self.set(self.decayed(now_ms) + gain, now_ms);
    }

    /// Takes from the average what `work` would have added if done this moment.
    pub fn take(&mut self, work: MicroPower, now_ms: u64) {
        let loss = (u128::from(work.0) * u128::from(AT_ONCE)) >> 32;
        self.set(self.decayed(now_ms).saturating_sub(loss), now_ms);
    }

    /// When it was last updated, in Unix milliseconds.
    pub fn updated_ms(&self) -> u64 {
        self.at_ms
    }

    /// The average at `now_ms` in units of 2⁻³² of a millionth; below 2⁹⁶.
    fn decayed(&self, now_ms: u64) -> u128 {
        let factor = half_to_the(now_ms.saturating_sub(self.at_ms));
        ((u128::from(self.micro) * factor) >> 32) + ((u128::from(self.fraction) * factor) >> 64)
    }

    fn set(&mut self, value: u128, now_ms: u64) {
        let value = value.min((1 << 96) - 1);
        (self.micro, self.fraction) = ((value >> 32) as u64, value as u32);
        self.at_ms = self.at_ms.max(now_ms);
    }
}

/// What a daily average gains of work that was done over `elapsed_ms`, in units
/// of 2⁻⁶⁴: (1 − 2^(−Δ/H)) ÷ (Δ in days).
fn gain(elapsed_ms: u64) -> u64 {
    if elapsed_ms == 0 {
        return AT_ONCE;
    }
    let lost = ONE - half_to_the(elapsed_ms);
    // Rounding must not lift the gain above its limit at zero.
    u64::try_from(lost * u128::from(DAY_MS) / u128::from(elapsed_ms)).map_or(AT_ONCE, |gain| gain.min(AT_ONCE))
}

/// 2^(−`elapsed_ms` ÷ half-life) in units of 2⁻⁶⁴, less than 2⁻⁵⁶ too small:
/// the product, rounded down each time, of a root for each bit of the exponent.
fn half_to_the(elapsed_ms: u64) -> u128 {
    let (halvings, rest_ms) = (elapsed_ms / HALF_LIFE_MS, elapsed_ms % HALF_LIFE_MS);
    let exponent = ((u128::from(rest_ms) << 64) / u128::from(HALF_LIFE_MS)) as u64;
    let power =
        (0..64).fold(
            ONE,
            |power, place| {
                if exponent << place >> 63 == 1 { (power * u128::from(ROOTS[place])) >> 64 } else { power }
            },
        );
    u32::try_from(halvings).ok().and_then(|halvings| power.checked_shr(halvings)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_one_half_are_within_the_stated_error() {
        let bound = (-56f64).exp2();
        let spans = (0..2_000u64).map(|i| i * i * 977).chain([1, 2, HALF_LIFE_MS - 1, HALF_LIFE_MS, HALF_LIFE_MS + 1]);
        for elapsed_ms in spans {
            let exact = (-(elapsed_ms as f64) / HALF_LIFE_MS as f64).exp2();
            let found = half_to_the(elapsed_ms) as f64 / ONE as f64;
            // An f64 near one is itself exact to 2⁻⁵³ only.
            assert!((found - exact).abs() <= bound + 4.0 * f64::EPSILON, "{elapsed_ms} ms: {found} and {exact}");
        }
        assert_eq!((half_to_the(0), half_to_the(HALF_LIFE_MS), half_to_the(3 * HALF_LIFE_MS)), (ONE, ONE / 2, ONE / 8));
        assert_eq!((half_to_the(200 * HALF_LIFE_MS), half_to_the(u64::MAX)), (0, 0));
    }
}
