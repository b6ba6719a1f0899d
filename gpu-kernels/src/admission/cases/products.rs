//! Known answers of `pack_rows`, `pack_columns` and `matmul`.

use super::super::bench::{Bench, GARBAGE, Outcome, SLOT, expect};
use super::super::vectors::{faint, ordinary, spread, ties};
use super::Cases;
use crate::cpu;
use crate::cpu::pack::{Along, Packing, View};
use crate::cpu::quantize::{self, digit_of, quantize_line, scale_of};
use crate::error::EngineError;
use crate::gpu::ops;
use crate::gpu::ops::matmul::{Matrix, Packed, Rounding, Way, packed_words};
use crate::gpu::tiling::{PIECE, Tiling};

pub(super) fn pack_rows(bench: &mut Bench) -> Cases {
    pack(bench, Along::Rows)
}

pub(super) fn pack_columns(bench: &mut Bench) -> Cases {
    pack(bench, Along::Columns)
}

/// An axis that every admitted device must manage, in any number of digits.
pub(crate) const AXIS_SHORT: usize = 1 << 15;
/// The longest axis of any model: the largest vocabulary.
pub(crate) const AXIS_LONG: usize = 1 << 20;

/// Two matrices inside a larger tensor, packed along one axis in every way: of odd sizes, and such
/// that rows are read in fours.
fn pack(bench: &mut Bench, along: Along) -> Cases {
    let mut outcomes = pack_matrices(bench, along, (21, 24, 5, 3))?;
    if along == Along::Rows {
        outcomes.extend(pack_matrices(bench, along, (52, 56, 8, 4))?);
    }
    Ok(outcomes)
}

fn pack_matrices(
    bench: &mut Bench,
    along: Along,
    (columns, stride, offset, gap): (usize, usize, usize, usize),
) -> Cases {
    let mut outcomes = Vec::new();
    let (rows, batches, index) = (35, 2, 1000);
    let batch_stride = rows * stride + gap;
    let len = offset + batches * batch_stride;
    for values in [ordinary(len, 1), ties(len, 2), faint(len, 3), spread(len, 4, -100, 39), vec![0.0; len]] {
        let matrix =
            Matrix { buffer: bench.floats(&values)?, rows, columns, stride, batches, batch_stride, offset, index };
        for digits in [1, 2] {
            for rounding in [Rounding::Nearest, Rounding::Stochastic(1)] {
                let (lines, k) = if along == Along::Rows { (rows, columns) } else { (columns, rows) };
                let words = bench.garbage(packed_words(lines, k, digits, batches))?;
                let scales = bench.garbage(batches * lines)?;
                let packed = Packed::of(&matrix, along, digits, &words, &scales);
                let dispatches = ops::matmul::pack(&matrix, along, rounding, &bench.keys, &packed);
                let found = bench.run(&dispatches, &[&words, &scales])?;
                let native = match rounding {
                    Rounding::Nearest => quantize::Rounding::Nearest,
                    Rounding::Stochastic(key) => quantize::Rounding::Stochastic(bench.key_pairs[key]),
                };
                let expected = pack_native(&matrix, &values, along, (digits, native));
                outcomes.push(Outcome { found, expected });
            }
        }
    }
    Ok(outcomes)
}

/// Words and exponent fields in the device's order, from the native rounding of single elements.
fn pack_native(
    matrix: &Matrix,
    values: &[f32],
    along: Along,
    (digits, rounding): (usize, quantize::Rounding),
) -> Vec<u32> {
    let (lines, k) = match along {
        Along::Rows => (matrix.rows, matrix.columns),
        Along::Columns => (matrix.columns, matrix.rows),
    };
    let groups = k.div_ceil(PIECE) * PIECE / 4;
    let mut words = vec![0u32; packed_words(lines, k, digits, matrix.batches)];
    let mut fields = Vec::new();
    for batch in 0..matrix.batches {
        for line in 0..lines {
            let place = |at: usize| {
                let (row, column) = if along == Along::Rows { (line, at) } else { (at, line) };
                batch * matrix.batch_stride + row * matrix.stride + column
            };
            let element = |at: usize| values[matrix.offset + place(at)];
            let peak = (0..k).map(|at| crate::arithmetic::magnitude(element(at))).max().unwrap_or(0);
            let (scale, inverse) = scale_of(peak, digits);
            fields.push(scale.to_bits() >> 23);
            for at in 0..k {
                let mut q = [0];
                let index = matrix.index.wrapping_add(place(at) as u32);
                quantize_line(&[element(at)], |_| inverse, (digits, rounding), index, &mut q);
                for digit in 0..digits {
                    let word = &mut words[((batch * lines + line) * digits + digit) * groups + at / 4];
                    *word |= (digit_of(q[0], digits, digit) as u32 & 0xff) << (8 * (at % 4));
                }
            }
        }
    }
    words.extend(fields);
    words.push(0);
    words
}

/// Products of packed operands, whole path, in every number of digits, by the tiling that
/// needs no measurement.
pub(super) fn matmul(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for digits in [[1, 1], [2, 1], [1, 2], [2, 2]] {
        outcomes.extend(tiled_products(bench, &[Tiling::DEFAULT], digits)?);
    }
    Ok(outcomes)
}

/// Products of operands of so many digits by each of these tilings.
pub(crate) fn tiled_products(bench: &mut Bench, tilings: &[Tiling], digits: [usize; 2]) -> Cases {
    let mut outcomes = Vec::new();
    // The last has the longest axis that every admitted device must manage, but for one: rows that
    // are not read in fours take the most turns of a loop.
    let shapes = [(1, 1, 1), (67, 45, 37), (5, 130, 300), (2, 3, AXIS_SHORT - 1)];
    for (m, n, k) in shapes {
        let regimes: [fn(usize, u32) -> Vec<f32>; 5] = [
            ordinary,
            |count, seed| spread(count, seed, -1, 0),
            // Products around the flushing threshold, and around the range limit.
            |count, seed| spread(count, seed, -51, -48),
            |count, seed| spread(count, seed, 16, 19),
            |count, _| vec![-1.984_375; count],
        ];
        for (number, values) in regimes.into_iter().enumerate() {
            let (a, b) = (values(m * k, 2 * number as u32), values(n * k, 2 * number as u32 + 1));
            if k < AXIS_SHORT - 1 || number == 4 {
                outcomes.extend(product_outcomes(bench, (m, n, k), (&a, &b), (digits, tilings))?);
            }
        }
    }
    Ok(outcomes)
}

/// The longest contracted axis there is, whose sums need more than 32 bits, and
/// whose loops some software drivers cut short.
pub(crate) fn long_axis(bench: &mut Bench) -> Cases {
    let (m, n, k) = (1, 2, AXIS_LONG - 1);
    let (a, b) = (vec![-1.984_375; m * k], vec![1.984_375; n * k]);
    let mut outcomes = Vec::new();
    for digits in [[2, 1], [1, 1]] {
        outcomes.extend(product_outcomes(bench, (m, n, k), (&a, &b), (digits, &[Tiling::DEFAULT]))?);
    }
    Ok(outcomes)
}

/// One product by each of these tilings.
fn product_outcomes(
    bench: &mut Bench,
    (m, n, k): (usize, usize, usize),
    (a, b): (&[f32], &[f32]),
    ([left_digits, right_digits], tilings): ([usize; 2], &[Tiling]),
) -> Cases {
    let operand = |values: &[f32], rows: usize, digits: usize| -> Result<_, EngineError> {
        let matrix = Matrix::whole(&bench.floats(values)?, 0, rows, k);
        let words = bench.garbage(packed_words(rows, k, digits, 1))?;
        let packed = Packed::of(&matrix, Along::Rows, digits, &words, &bench.garbage(rows)?);
        let pack = ops::matmul::pack(&matrix, Along::Rows, Rounding::Nearest, &bench.keys, &packed);
        Ok((packed, pack))
    };
    let (left, pack_left) = operand(a, m, left_digits)?;
    let (right, pack_right) = operand(b, n, right_digits)?;
    let (mut native_left, mut native_right) = (cpu::pack::Packed::default(), cpu::pack::Packed::default());
    let nearest = quantize::Rounding::Nearest;
    native_left.pack(bench.simd, View::whole(a, m, k), Packing::left(Along::Rows, left_digits, nearest));
    native_right.pack(bench.simd, View::whole(b, n, k), Packing::right(Along::Rows, right_digits, nearest));
    let mut c = vec![0.0; m * n];
    let peak = cpu::matmul::product(bench.simd, &native_left, 0..m, &native_right, &mut c, n);
    bench.run(&[pack_left, pack_right].concat(), &[])?;
    let mut outcomes = Vec::new();
    for &tiling in tilings {
        let out = Matrix::whole(&bench.garbage(m * n)?, 0, m, n);
        let sums = bench.garbage(tiling.sum_words(m * n).max(1))?;
        let way = Way { tiling, sums: Some(&sums) };
        let product = ops::matmul::matmul(&left, &right, 1, &out, (SLOT, way));
        let found = bench.run(&product, &[&out.buffer])?;
        outcomes.push(Outcome { found, expected: expect(&[&c], peak) });
    }
    Ok(outcomes)
}

/// Words of operands, at the start, in the middle and at the end of their count.
pub(super) fn gemm_operand(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let (rows, k) = (285, 28);
    let (width, stride) = (k / 4, packed_words(1, k, 1, 1));
    // About one byte in 256 is −128, which becomes −127.
    for (key, first) in [([1, 2], 0), ([0xdead_beef, 0x0bad_cafe], 1_763), ([7, 7], (1 << 31) / width - 2 * rows)] {
        let words = bench.garbage(rows * stride + 1)?;
        let operand = Packed { words: words.clone(), scales: words.clone(), rows, k, digits: 1, batches: 1 };
        let found = bench.run(&[ops::gemm::draw(key, first, &operand, rows)], &[&words])?;
        let mut integers = vec![0.0; rows * k];
        cpu::gemm::draw(bench.simd, key, (first * width) as u32, &mut integers);
        let pack = |four: &[f32]| u32::from_le_bytes([0, 1, 2, 3].map(|at| four[at] as i32 as u8));
        let mut expected = Vec::new();
        for row in integers.chunks_exact(k) {
            expected.extend(row.chunks_exact(4).map(pack));
            // Rows are filled up with zeros.
            expected.resize(expected.len() + stride - width, 0);
        }
        // The word after them is left alone.
        expected.extend([GARBAGE, 0]);
        outcomes.push(Outcome { found, expected });
    }
    Ok(outcomes)
}

/// Folds of the largest and smallest integers, of odd numbers of columns.
pub(super) fn gemm_fold(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (rows, columns) in [(1, 1), (3, 255), (2, 1027), (70, 64)] {
        let largest = (127 * 127 * 1024) as f32;
        let integers: Vec<f32> = (0..rows * columns)
            .map(|at| match at % 5 {
                0 => 0.0,
                1 => largest - (at / 5) as f32,
                2 => (at / 5) as f32 - largest,
                3 => -1.0,
                _ => (cpu::random::mix([3, 4], at as u32) as i32 >> 12) as f32,
            })
            .collect();
        let (product, folds) = (bench.floats(&integers)?, bench.garbage(rows + 2)?);
        let found = bench.run(&[ops::gemm::fold(0x0f01_d000, (&product, rows, columns), (&folds, 2))], &[&folds])?;
        let mut expected = vec![GARBAGE; 2];
        expected.extend(integers.chunks(columns).map(|row| cpu::gemm::fold(bench.simd, 0x0f01_d000, row)));
        expected.push(0);
        outcomes.push(Outcome { found, expected });
    }
    Ok(outcomes)
}
