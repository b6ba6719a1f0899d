//! Products against an exact sum of 64-bit integers, with operands rounded by definition.

use super::*;
use crate::arithmetic::FLUSH_BITS;
use crate::cpu::pack::{Along, Packing, View};
use crate::cpu::quantize::Rounding;
use crate::cpu::random::mix;
use crate::cpu::simd::SimdPath;

/// A row's integers and exponent, by bit operations as `docs/arithmetic.md` has them.
fn quantize_by_definition(
    row: &[f32],
    digits: usize,
    rounding: Rounding,
    index: impl Fn(usize) -> u32,
) -> (Vec<i64>, i32) {
    let peak = row.iter().map(|&x| magnitude(x)).max().unwrap_or(0);
    if peak == 0 {
        return (vec![0; row.len()], 0);
    }
    let (below, limit, fraction_bits) = if digits == 1 { (6, 127, 24) } else { (13, 16_384, 16) };
    let top = peak >> 23;
    let integers = row.iter().enumerate().map(|(place, &x)| {
        let bits = magnitude(x);
        let mantissa = if bits == 0 { 0 } else { u64::from(bits & 0x7f_ffff | 0x80_0000) };
        let shift = 23 - below + (top - (bits >> 23).min(top));
        let rounded = match rounding {
            Rounding::Nearest if shift > 40 => 0,
            Rounding::Nearest => {
                let (floor, rest, half) = (mantissa >> shift, mantissa & ((1 << shift) - 1), 1 << (shift - 1));
                floor + u64::from(rest > half || rest == half && floor & 1 == 1)
            }
            Rounding::Stochastic(key) => {
                let fixed = if shift < 60 { (mantissa << fraction_bits) >> shift } else { 0 };
                (fixed + u64::from(mix(key, index(place)) >> (32 - fraction_bits))) >> fraction_bits
            }
        };
        let clamped = (rounded as i64).min(limit);
        if x < 0.0 { -clamped } else { clamped }
    });
    (integers.collect(), top as i32 - 127 - below as i32)
}

/// An exact integer, rounded once to 24 bits and scaled, by 128-bit integers.
fn round_by_definition(sum: i64, exponent: i32) -> f32 {
    let size = u128::from(sum.unsigned_abs());
    let excess = (128 - size.leading_zeros() as i32 - 24).max(0);
    let (floor, half) = (size >> excess, (1u128 << excess) / 2);
    let rest = size - (floor << excess);
    let rounded = floor + u128::from(excess > 0 && (rest > half || rest == half && floor & 1 == 1));
    let value = rounded as f64 * 2f64.powi(excess) * 2f64.powi(exponent);
    let value = if sum < 0 { -value } else { value };
    if value.abs() < 2f64.powi(-100) { 0.0 } else { value as f32 }
}

/// Values of wildly different size, with zero rows, extremes, and ties.
fn adversarial(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let (row, bits) = (index / columns, mix([seed, 1], index as u32));
        match (row + seed as usize) % 7 {
            0 => 0.0,
            1 => f32::from_bits((bits & 0x807f_ffff) | 0x3f00_0000),
            2 => (bits as i32 >> 24) as f32 * 0.5,
            3 => f32::from_bits(FLUSH_BITS | bits & 0x8000_0000),
            4 => f32::from_bits((bits & 0x8000_0000) | (166 << 23) | 0x7f_ffff),
            5 => f32::from_bits((bits & 0x807f_ffff) | ((100 + bits % 60) << 23)),
            _ => ((bits & 0xff) as f32 - 127.5) * 1e-20,
        }
    };
    (0..rows * columns).map(value).collect()
}

fn check(rows: usize, columns: usize, k: usize, digits: (usize, usize), rounding: Rounding, along: Along) {
    let (a, b) = (adversarial(rows, k, 5), adversarial(columns, k, 9));
    let transposed = |values: &[f32], rows: usize| -> Vec<f32> {
        (0..rows * k).map(|index| values[index % rows * k + index / rows]).collect()
    };
    let index = |row: usize, rows: usize| {
        move |place: usize| match along {
            Along::Rows => (row * k + place) as u32,
            Along::Columns => (place * rows + row) as u32,
        }
    };
    let integers = |values: &[f32], rows: usize, digits: usize, rounding: Rounding| -> Vec<(Vec<i64>, i32)> {
        values
            .chunks(k)
            .enumerate()
            .map(|(row, line)| quantize_by_definition(line, digits, rounding, index(row, rows)))
            .collect()
    };
    let (qa, qb) = (integers(&a, rows, digits.0, rounding), integers(&b, columns, digits.1, Rounding::Nearest));
    for path in SimdPath::available() {
        let simd = path.resolve().unwrap();
        let (mut left, mut right) = (Packed::default(), Packed::default());
        // A larger matrix before leaves its remains in the buffers.
        let large = vec![3.0; (rows + 20) * (k + 9)];
        left.pack(simd, View::whole(&large, rows + 20, k + 9), Packing::left(Along::Rows, digits.0, Rounding::Nearest));
        match along {
            Along::Rows => {
                left.pack(simd, View::whole(&a, rows, k), Packing::left(Along::Rows, digits.0, rounding));
                right.pack(simd, View::whole(&b, columns, k), Packing::right(Along::Rows, digits.1, Rounding::Nearest));
            }
            Along::Columns => {
                left.pack(
                    simd,
                    View::whole(&transposed(&a, rows), k, rows),
                    Packing::left(Along::Columns, digits.0, rounding),
                );
                right.pack(
                    simd,
                    View::whole(&transposed(&b, columns), k, columns),
                    Packing::right(Along::Columns, digits.1, Rounding::Nearest),
                );
            }
        }
        let mut out = vec![f32::NAN; rows * columns];
        let peak = product_parallel(simd, &left, &right, &mut out);
        assert_eq!(peak, out.iter().map(|&x| magnitude(x)).max().unwrap());
        for (place, &found) in out.iter().enumerate() {
            let ((x, ex), (y, ey)) = (&qa[place / columns], &qb[place % columns]);
            let sum: i64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            let expected = round_by_definition(sum, ex + ey);
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{path:?} {rows}x{columns}x{k} {digits:?} {rounding:?} {along:?} at {place}: {found} {expected}"
            );
        }
    }
}

#[test]
fn products_are_exact_sums_rounded_once() {
    let sizes = [(1, 1, 1), (3, 5, 2), (16, 16, 4), (17, 33, 7), (8, 31, 64), (70, 49, 129), (33, 65, 600)];
    for (rows, columns, k) in sizes {
        for digits in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            for rounding in [Rounding::Nearest, Rounding::Stochastic([17, 99])] {
                for along in [Along::Rows, Along::Columns] {
                    check(rows, columns, k, digits, rounding, along);
                }
            }
        }
    }
}

#[test]
fn sums_longer_than_32_bits_hold_stay_exact() {
    for digits in [(1, 1), (2, 2)] {
        for along in [Along::Rows, Along::Columns] {
            check(9, 18, 2 * CHUNK + 5, digits, Rounding::Nearest, along);
        }
    }
    // All digits at their extremes, at the largest k of one chunk.
    let ones = vec![1.999_999_9; CHUNK];
    for path in SimdPath::available() {
        let simd = path.resolve().unwrap();
        let (mut left, mut right, mut out) = (Packed::default(), Packed::default(), [0.0]);
        left.pack(simd, View::whole(&ones, 1, CHUNK), Packing::left(Along::Rows, 1, Rounding::Nearest));
        right.pack(simd, View::whole(&ones, 1, CHUNK), Packing::right(Along::Rows, 1, Rounding::Nearest));
        product_parallel(simd, &left, &right, &mut out);
        assert_eq!(out[0], (127.0 * 127.0 * CHUNK as f32) / 4096.0, "{path:?}");
    }
}

#[test]
fn stochastic_rounding_is_unbiased() {
    let count = 1 << 15;
    for (digits, unit) in [(1, 64.0f32), (2, 8_192.0)] {
        for fraction in [0.001f32, 0.25, 0.5, 0.9] {
            // One large element fixes the scale; all others are `fraction` of its last bit.
            let mut row = vec![fraction / unit; count + 1];
            row[0] = 1.0;
            let ones = vec![1.0; count + 1];
            let simd = SimdPath::Auto.resolve().unwrap();
            let (mut left, mut right, mut out) = (Packed::default(), Packed::default(), [0.0]);
            let rounding = Rounding::Stochastic([1, 2]);
            left.pack(simd, View::whole(&row, 1, count + 1), Packing::left(Along::Rows, digits, rounding));
            right.pack(simd, View::whole(&ones, 1, count + 1), Packing::right(Along::Rows, 1, Rounding::Nearest));
            product_parallel(simd, &left, &right, &mut out);
            let mean = (f64::from(out[0]) - 1.0) * f64::from(unit) / count as f64;
            let deviation = (f64::from(fraction * (1.0 - fraction)) / count as f64).sqrt();
            assert!((mean - f64::from(fraction)).abs() < 5.0 * deviation, "{digits} digits, {fraction}: {mean}");
        }
    }
}
