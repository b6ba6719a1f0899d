//! C\[m, n\] = Σ_k A\[m, k\]·B\[n, k\] over row-scaled integers.
//!
//! The sum over k is exact in integers, is rounded once to 24 bits (nearest,
//! ties to even) and then scaled by 2^(eA + eB); below 2⁻¹⁰⁰ it is +0. Digits
//! combine with their weights 65,536, 256 and 1 before the rounding. Since the
//! sum is exact, tiles, threads and instruction sets cannot change a bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::quantize::{CHUNK, PANEL, Packed};
use super::simd::Simd;
use crate::arithmetic::{canon, magnitude};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile: half a panel, so that its sums stay in registers.
pub(crate) const TILE_ROWS: usize = 8;
/// Columns of a tile: two panels.
pub(crate) const TILE_COLUMNS: usize = 32;
/// Rows that one task computes.
const TASK_PANELS: usize = 4;

/// Exact sums of one tile.
#[repr(align(64))]
pub(crate) struct Tile(pub(crate) [[i32; TILE_COLUMNS]; TILE_ROWS]);

/// What a tile kernel reads: words of 8 left rows and of one or two right panels.
pub(crate) struct TileInput<'a> {
    /// `[group][16]`, starting at the tile's first row; 8 words of each group are read.
    pub(crate) left: &'a [u32],
    /// `[group][16]` for each panel of columns.
    pub(crate) right: [&'a [u32]; 2],
    /// 1 or 2.
    pub(crate) panels: usize,
    pub(crate) groups: usize,
    /// Sums of the left rows' digits.
    pub(crate) left_sums: [i32; TILE_ROWS],
}

fn sum_tile(simd: Simd, input: &TileInput<'_>, tile: &mut Tile) {
    match simd {
        Simd::Portable => portable::sum_tile(input, tile),
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => avx2::sum_tile(input, tile),
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512Vnni => vnni::sum_tile(input, tile),
    }
}

/// Computes all of C (row-major, rows `left.rows`, columns `right.rows`) on the
/// threads of the current pool; the largest magnitude in C.
pub(crate) fn product_parallel(simd: Simd, left: &Packed, right: &Packed, out: &mut [f32]) -> u32 {
    debug_assert_eq!(out.len(), left.rows * right.rows);
    let task_rows = TASK_PANELS * PANEL;
    out.par_chunks_mut(task_rows * right.rows)
        .enumerate()
        .map(|(task, out)| {
            let first = task * TASK_PANELS;
            let panels = first..(first + TASK_PANELS).min(left.rows.div_ceil(PANEL));
            product(simd, left, panels, right, out, right.rows)
        })
        .reduce(|| 0, u32::max)
}

/// Computes the rows of C in `panels` of the left operand into `out`, whose
/// rows are `stride` apart; the largest magnitude among them.
pub(crate) fn product(
    simd: Simd,
    left: &Packed,
    panels: Range<usize>,
    right: &Packed,
    out: &mut [f32],
    stride: usize,
) -> u32 {
    assert_eq!(left.k, right.k, "operands must share the contracted axis");
    let narrow = left.digits == 1 && right.digits == 1 && left.chunks == 1;
    let mut tile = Tile([[0; TILE_COLUMNS]; TILE_ROWS]);
    let mut peak = 0;
    let right_panels = right.rows.div_ceil(PANEL);
    for column_panel in (0..right_panels).step_by(2) {
        let column = column_panel * PANEL;
        let columns = (right.rows - column).min(TILE_COLUMNS);
        let column_scales = &right.scales[column..(column + TILE_COLUMNS).min(right.scales.len())];
        for row in (panels.start * PANEL..(panels.end * PANEL).min(left.rows)).step_by(TILE_ROWS) {
            let rows = (left.rows - row).min(TILE_ROWS);
            let place = (row - panels.start * PANEL) * stride + column;
            let target = Target { row_scales: &left.scales[row..row + rows], column_scales, columns, stride };
            let out = &mut out[place..];
            peak = peak.max(if narrow {
                let input = tile_input(simd, left, right, (row, column_panel), (0, 0), 0);
                sum_tile(simd, &input, &mut tile);
                scale_narrow(simd, &tile, &target, out)
            } else {
                let sums = wide_sums(simd, left, right, (row, column_panel));
                scale_wide(simd, &sums, &target, out)
            });
        }
    }
    peak
}

struct Target<'a> {
    row_scales: &'a [f32],
    column_scales: &'a [f32],
    columns: usize,
    stride: usize,
}

fn tile_input<'a>(
    simd: Simd,
    left: &'a Packed,
    right: &'a Packed,
    (row, column_panel): (usize, usize),
    (left_digit, right_digit): (usize, usize),
    chunk: usize,
) -> TileInput<'a> {
    let first = chunk * CHUNK / simd.group();
    let groups = (left.groups - first).min(CHUNK / simd.group());
    let words = |packed: &'a Packed, panel: usize, digit: usize| {
        let start = ((panel * packed.digits + digit) * packed.groups + first) * PANEL;
        &packed.words[start..start + groups * PANEL]
    };
    let panels = (right.rows.div_ceil(PANEL) - column_panel).min(2);
    let left_panel = row / PANEL;
    let sums_at = ((left_panel * left.digits + left_digit) * left.chunks + chunk) * PANEL + row % PANEL;
    let mut left_sums = [0; TILE_ROWS];
    left_sums.copy_from_slice(&left.sums[sums_at..sums_at + TILE_ROWS]);
    TileInput {
        left: &words(left, left_panel, left_digit)[row % PANEL..],
        right: [words(right, column_panel, right_digit), words(right, column_panel + panels - 1, right_digit)],
        panels,
        groups,
        left_sums,
    }
}

/// Exact 64-bit sums over all digits and chunks.
fn wide_sums(
    simd: Simd,
    left: &Packed,
    right: &Packed,
    place: (usize, usize),
) -> [[i64; TILE_COLUMNS]; TILE_ROWS] {
    let mut sums = [[0i64; TILE_COLUMNS]; TILE_ROWS];
    let mut tile = Tile([[0; TILE_COLUMNS]; TILE_ROWS]);
    for left_digit in 0..left.digits {
        for right_digit in 0..right.digits {
            // The last digit of an operand weighs 1, the one before it 256.
            let shift = 8 * (left.digits - 1 - left_digit + right.digits - 1 - right_digit);
            for chunk in 0..left.chunks {
                let input = tile_input(simd, left, right, place, (left_digit, right_digit), chunk);
                sum_tile(simd, &input, &mut tile);
                for (sums, tile) in sums.iter_mut().zip(&tile.0) {
                    for (sum, &part) in sums.iter_mut().zip(tile) {
                        *sum += i64::from(part) << shift;
                    }
                }
            }
        }
    }
    sums
}

/// Rounded sum times 2^eA times 2^eB. The first product is exact (|e| ≤ 114), the
/// second is exact or under 2⁻¹²⁶, which `canon` makes +0.
#[inline(always)]
fn scaled(rounded: f32, row_scale: f32, column_scale: f32) -> f32 {
    canon((rounded * row_scale) * column_scale)
}

dispatch! {
    fn scale_narrow(tile: &Tile, target: &Target<'_>, out: &mut [f32]) -> u32 {
        let mut peak = 0;
        for (row, (sums, &row_scale)) in tile.0.iter().zip(target.row_scales).enumerate() {
            let out = &mut out[row * target.stride..][..target.columns];
            if let (Ok(out), Ok(scales)) =
                (<&mut [f32; TILE_COLUMNS]>::try_from(&mut *out), <&[f32; TILE_COLUMNS]>::try_from(target.column_scales))
            {
                for column in 0..TILE_COLUMNS {
                    out[column] = scaled(sums[column] as f32, row_scale, scales[column]);
                    peak = peak.max(magnitude(out[column]));
                }
            } else {
                for (column, out) in out.iter_mut().enumerate() {
                    *out = scaled(sums[column] as f32, row_scale, target.column_scales[column]);
                    peak = peak.max(magnitude(*out));
                }
            }
        }
        peak
    }
}

dispatch! {
    fn scale_wide(sums: &[[i64; TILE_COLUMNS]; TILE_ROWS], target: &Target<'_>, out: &mut [f32]) -> u32 {
        let mut peak = 0;
        for (row, (sums, &row_scale)) in sums.iter().zip(target.row_scales).enumerate() {
            let out = &mut out[row * target.stride..][..target.columns];
            for (column, out) in out.iter_mut().enumerate() {
                *out = scaled(sums[column] as f32, row_scale, target.column_scales[column]);
                peak = peak.max(magnitude(*out));
            }
        }
        peak
    }
}

#[cfg(test)]
mod tests;
