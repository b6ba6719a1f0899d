//! Sortition against independent oracles: exact fractions, and floating point.

use crate::output;
use manta_protocol::election::seats;
use manta_protocol::election::sortition::EXPECTED_MILLI_MAX;
use proptest::prelude::*;

/// P(seats ≤ `count`) · 2¹²⁸, as the function under test has it: the least
/// point that wins more. `None` if no point does.
fn at_most(weight: u64, total: u64, expected_milli: u64, count: u32) -> Option<u128> {
    let wins_more = |point| seats(&output(point), weight, total, expected_milli) > count;
    if !wins_more(u128::MAX) {
        return None;
    }
    let (mut low, mut high) = (0, u128::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        (low, high) = if wins_more(middle) { (low, middle) } else { (middle + 1, high) };
    }
    Some(low)
}

/// ⌊`numerator` · 2¹²⁸ ÷ `denominator`⌋ of a fraction below one, bit by bit.
fn fixed(numerator: u128, denominator: u128) -> u128 {
    assert!(numerator < denominator && denominator < 1 << 127);
    let (mut rest, mut quotient) = (numerator, 0);
    for _ in 0..128 {
        rest *= 2;
        quotient = quotient << 1 | u128::from(rest >= denominator);
        if rest >= denominator {
            rest -= denominator;
        }
    }
    quotient
}

/// The stated bound of the error of P(seats ≤ `count`), in units of 2⁻¹²⁸.
fn error_bound(weight: u64, count: u32) -> u128 {
    2 * (3 * u128::from(weight) + 5 * u128::from(count) + 5)
}

#[test]
fn small_distributions_are_exact_to_the_stated_bound() {
    let mut compared = 0;
    for total in 1..=8u64 {
        for weight in 1..=total.min(6) {
            for expected_milli in [1, 137, 500, 999, 1_500, 3_001, 7_777] {
                let (win, all) = (u128::from(expected_milli), u128::from(total) * 1000);
                if win >= all {
                    continue;
                }
                let (mut sum, mut ways) = (0, 1u128);
                for count in 0..weight as u32 {
                    let lose = weight as u32 - count;
                    sum += ways * win.pow(count) * (all - win).pow(lose);
                    ways = ways * u128::from(lose) / u128::from(count + 1);
                    let exact = fixed(sum, all.pow(weight as u32));
                    let found = at_most(weight, total, expected_milli, count).expect("more seats can be won");
                    let error = exact.checked_sub(found).expect("all roundings go down");
                    assert!(error <= error_bound(weight, count), "{weight}/{total} {expected_milli} {count}: {error}");
                    compared += 1;
                }
                assert_eq!(at_most(weight, total, expected_milli, weight as u32), None);
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

/// ln P(seats = count), by logarithms.
fn log_mass(weight: u64, p: f64, count: u32) -> f64 {
    let ways: f64 = (0..count).map(|i| ((weight - u64::from(i)) as f64 / f64::from(i + 1)).ln()).sum();
    ways + f64::from(count) * p.ln() + (weight - u64::from(count)) as f64 * (-p).ln_1p()
}

fn as_fraction(point: u128) -> f64 {
    point as f64 / 128f64.exp2()
}

#[test]
fn large_distributions_agree_with_floating_point() {
    let cases = [
        (1 << 40, 1 << 40, 64_000),
        (1 << 40, 1 << 43, 64_000),
        (1 << 30, 1 << 40, 3_000),
        (100_000, 100_000_000, 3_000),
        (123_456_789, 987_654_321, 1),
        (65, 65, 64_000),
        (500, 1_000, 7_000),
        (1 << 40, 1 << 40, EXPECTED_MILLI_MAX),
        (u64::MAX, u64::MAX, 64_000),
    ];
    for (weight, total, expected_milli) in cases {
        let p = expected_milli as f64 / 1000.0 / total as f64;
        let mean = weight as f64 * p;
        let (mut sum, end) = (0.0, (mean + 6.0 * mean.sqrt() + 4.0).min(weight as f64) as u32);
        for count in 0..end {
            sum += log_mass(weight, p, count).exp();
            // A thousand additions of logarithms of up to a million cost some digits.
            if f64::from(count) > mean - 6.0 * mean.sqrt() && (count % 64 == 0 || end < 64) {
                let found = at_most(weight, total, expected_milli, count).map_or(1.0, as_fraction);
                assert!((found - sum).abs() < 1e-9, "{weight}/{total} {expected_milli}, {count}: {found} and {sum}");
            }
        }
    }
}

/// P(seats = count) for count from 0 to where nothing is left of it.
fn masses(weight: u64, total: u64, expected_milli: u64) -> Vec<f64> {
    let mut sums = (0..).map_while(|count| at_most(weight, total, expected_milli, count)).collect::<Vec<_>>();
    sums.push(u128::MAX);
    let mut before = 0;
    sums.into_iter().map(|sum| as_fraction(sum - std::mem::replace(&mut before, sum))).collect()
}

fn sum_distribution(one: &[f64], two: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; one.len() + two.len() - 1];
    for (i, a) in one.iter().enumerate() {
        for (j, b) in two.iter().enumerate() {
            sum[i + j] += a * b;
        }
    }
    sum
}

#[test]
fn splitting_a_weight_gains_nothing() {
    let total = 1_000_000;
    for (weight, expected_milli) in [(300_000, 3_000), (1_000_000, 5_000), (10, 900), (999_999, 64)] {
        let whole = masses(weight, total, expected_milli);
        for part in [1, weight / 10, weight / 3, weight / 2] {
            let split =
                sum_distribution(&masses(part, total, expected_milli), &masses(weight - part, total, expected_milli));
            for count in 0..whole.len().max(split.len()) {
                let mass = |masses: &[f64]| masses.get(count).copied().unwrap_or(0.0);
                let (one, two) = (mass(&whole), mass(&split));
                assert!((one - two).abs() < 1e-13, "{weight} as {part} and the rest, {count} seats: {one} and {two}");
            }
        }
    }
    // Into ten: the tenfold sum of the tenth.
    let (whole, tenth) = (masses(500_000, total, 3_000), masses(50_000, total, 3_000));
    let split = (1..10).fold(tenth.clone(), |sum, _| sum_distribution(&sum, &tenth));
    for (one, two) in whole.iter().zip(&split) {
        assert!((one - two).abs() < 1e-13, "{one} and {two}");
    }
}

#[test]
fn the_extremes_are_defined() {
    for point in [0, 1, u128::MAX / 2, u128::MAX] {
        let seats = |weight, total, expected| seats(&output(point), weight, total, expected);
        assert_eq!(seats(0, 10, 3_000), 0, "no weight");
        assert_eq!(seats(0, 0, u64::MAX), 0, "nobody has weight");
        assert_eq!(seats(5, 10, 0), 0, "nobody is wanted");
        assert_eq!(seats(5, 10, 10_000), 5, "each unit is wanted");
        assert_eq!(seats(5, 10, u64::MAX), 5, "more are wanted than there are");
        assert_eq!(seats(50, 10, u64::MAX), 10, "no weight is above the sum");
        assert_eq!(seats(1 << 40, 1 << 40, u64::MAX), u32::MAX, "as many as can be counted");
        let most = seats(1 << 40, 1 << 50, EXPECTED_MILLI_MAX);
        assert_eq!(seats(1 << 40, 1 << 50, 2 * EXPECTED_MILLI_MAX), most, "more than the most counts as the most");
    }
    assert_eq!(seats(&output(0), 5, 10, 3_000), 0, "the lowest point wins nothing");
    assert_eq!(seats(&output(u128::MAX), 5, 10, 3_000), 5, "the highest point wins all of a small weight");
    assert!(seats(&output(u128::MAX), 1 << 40, 1 << 40, 64_000) < 300, "and of a great one what has any probability");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn never_more_than_the_weight_and_total_for_all_arguments(
        point: u128, weight: u64, total: u64, expected_milli: u64, shift in 0u32..64,
    ) {
        let (weight, total) = (weight >> shift, total >> shift);
        let won = seats(&output(point), weight, total, expected_milli >> shift);
        prop_assert!(u64::from(won) <= weight.min(total));
    }

    #[test]
    fn a_greater_output_or_expectation_never_wins_less(
        points: (u128, u128), weight in 0u64..1 << 40, others in 0u64..1 << 41, expected in (0u64..70_000, 0u64..70_000),
    ) {
        let total = weight + others;
        let (low, high) = (points.0.min(points.1), points.0.max(points.1));
        let (less, more) = (expected.0.min(expected.1), expected.0.max(expected.1));
        let won = |point, expected| seats(&output(point), weight, total, expected);
        prop_assert!(won(low, less) <= won(high, less));
        prop_assert!(won(low, less) <= won(low, more), "a doubled expectation takes no seat away");
    }

    #[test]
    fn only_the_leading_bits_count(point: u128, weight in 0u64..1 << 40, expected in 0u64..70_000) {
        let mut other = output(point);
        other.0[16..].fill(0);
        prop_assert_eq!(seats(&output(point), weight, 1 << 40, expected), seats(&other, weight, 1 << 40, expected));
    }
}
