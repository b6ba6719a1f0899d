//! Cryptographic sortition: how many seats a key's VRF output wins.
//!
//! As in Algorand (Gilad, Hemo, Micali, Vlachos, Zeldovich, SOSP 2017, §5.1):
//! each unit of weight is a trial that wins with probability p = expected seats
//! ÷ total weight, and the output picks the number of wins by the inverse of
//! the binomial distribution. Because B(v, p) + B(w, p) = B(v + w, p), a weight
//! that is split among many keys wins as many seats as it does in one.
//!
//! All in integers (`real.rs`), so that every machine elects alike. With n
//! trials, the distance of each P(seats ≤ k) from the true one is below
//! (3n + 5k + 5) · 2⁻¹²⁷: under 2⁻⁸⁵ for n ≤ 2⁴⁰.

use super::real::Real;
use super::vrf::VrfOutput;

/// Most seats that are expected in one election, in thousandths; more counts as this.
pub const EXPECTED_MILLI_MAX: u64 = 1_024_000;

/// Seats that `output` wins for a key of `weight` among keys of weight `total`
/// in all, if `expected_milli` thousandths of a seat are expected.
///
/// A `weight` above `total` counts as `total`. If a seat or more is expected
/// for each unit of `total`, each unit of `weight` wins one. The greater the
/// output (its first 16 bytes, big-endian), the more seats; no weight, no seat.
pub fn seats(output: &VrfOutput, weight: u64, total: u64, expected_milli: u64) -> u32 {
    let weight = weight.min(total);
    if weight == 0 || expected_milli == 0 {
        return 0;
    }
    let all = u128::from(total) * 1000;
    if u128::from(expected_milli) >= all {
        return u32::try_from(weight).unwrap_or(u32::MAX);
    }
    let win = u128::from(expected_milli.min(EXPECTED_MILLI_MAX));
    let odds = Real::ratio(win, all - win);
    // The probability of exactly `count` seats, and of at most so many.
    let mut mass = Real::ratio(all - win, all).power(weight);
    let mut at_most = 0u128;
    let point = leading_bits(output);
    for count in 0.. {
        let share = mass.fixed();
        at_most = at_most.saturating_add(share);
        // What rounding leaves between the sum and one goes to the last count
        // that there is, or that can be told from the next.
        let is_last = u64::from(count) == weight || (share == 0 && u128::from(count) * all > u128::from(weight) * win);
        if point < at_most || is_last {
            return count;
        }
        let ratio = Real::ratio(u128::from(weight - u64::from(count)), u128::from(count) + 1);
        mass = mass.times(odds).times(ratio);
    }
    unreachable!("masses beyond the mean fall to nothing long before 2³² seats")
}

fn leading_bits(output: &VrfOutput) -> u128 {
    let mut leading = [0; 16];
    leading.copy_from_slice(&output.as_bytes()[..16]);
    u128::from_be_bytes(leading)
}
