//! C\[m, n\] = Σ_k A\[m, k\]·B\[n, k\] over row-scaled integers.
//!
//! The sum over k is exact in integers, is rounded once to 24 bits (nearest,
//! ties to even) and then scaled by 2^(eA + eB); below 2⁻¹⁰⁰ it is +0. Digits
//! combine with their weights 65,536, 256 and 1 before the rounding. Since the
//! sum is exact, tiles, threads and instruction sets cannot change a bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::pack::{CHUNK, PANEL, Packed, Triangle};
use super::simd::Simd;
use crate::arithmetic::{canon, magnitude};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile: half a panel, so that its sums stay in registers.
pub(crate) const TILE_ROWS: usize = 8;
/// Columns of a tile: two panels.
pub(crate) const TILE_COLUMNS: usize = 32;
/// Rows that one task computes at most: with more of them, each panel of columns is read less often.
const TASK_ROWS_MAX: usize = 64;
/// Tasks for each thread, if there are as many tiles of rows: the last ones to end wait for less.
const TASKS_PER_THREAD: usize = 4;

/// Exact sums of one tile.
#[repr(align(64))]
pub(crate) struct Tile(pub(crate) [[i32; TILE_COLUMNS]; TILE_ROWS]);

/// What a tile kernel reads: words of 8 left rows and of one or two right panels.
pub(crate) struct TileInput<'a> {
    /// Words of the tile's 8 rows, from the first row's first group.
    pub(crate) left: &'a [u32],
    /// Words from one left row to the next, and from one group to the next.
    pub(crate) row_stride: usize,
    pub(crate) group_stride: usize,
    /// `[group][16]` for each panel of columns.
    pub(crate) right: [&'a [u32]; 2],
    /// 1 or 2.
    pub(crate) panels: usize,
    pub(crate) groups: usize,
    /// Sums of the left rows' digits, for products of unsigned by signed digits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) left_sums: [i32; TILE_ROWS],
}

impl TileInput<'_> {
    /// Panics unless every word that a kernel reads is there.
    fn check(&self) {
        let last = (TILE_ROWS - 1) * self.row_stride + (self.groups - 1) * self.group_stride;
        assert!(self.groups > 0 && last < self.left.len());
        assert!(self.right.iter().all(|panel| panel.len() >= self.groups * PANEL));
    }
}

fn sum_tile(simd: Simd, input: &TileInput<'_>, tile: &mut Tile) {
    match simd {
        Simd::Portable => portable::sum_tile(input, tile),
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => avx2::sum_tile(input, tile),
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512Vnni => vnni::sum_tile(input, tile),
        #[cfg(target_arch = "aarch64")]
        Simd::NeonDot => neon::sum_tile(input, tile),
    }
}

/// What a product need not look at, its left operand or its result being a [`Triangle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Nothing.
    Full,
    /// The result's elements behind the diagonal, which stay as they are or become anything.
    Scores(Triangle),
    /// The left rows' elements behind the diagonal.
    Rows(Triangle),
    /// The left rows' elements before the diagonal: they are columns of a whole [`Triangle`], from number `first` on.
    Columns { first: usize },
}

impl Extent {
    /// Whether a tile has elements that are wanted.
    fn wants(self, row: usize, column: usize) -> bool {
        match self {
            Self::Scores(triangle) => column < triangle.first + row + TILE_ROWS,
            _ => true,
        }
    }

    /// Places of the contracted axis of length `k` at which left rows from `row` may not be zero.
    fn contracted(self, row: usize, k: usize) -> Range<usize> {
        match self {
            Self::Full | Self::Scores(_) => 0..k,
            Self::Rows(triangle) => 0..k.min(triangle.first + row + TILE_ROWS),
            Self::Columns { first } => first + row..k,
        }
    }
}

/// Computes all of C (row-major, rows `left.rows`, columns `right.rows`) on the
/// threads of the current pool; the largest magnitude in C.
pub(crate) fn product_parallel(simd: Simd, left: &Packed, right: &Packed, out: &mut [f32]) -> u32 {
    debug_assert_eq!(out.len(), left.rows * right.rows);
    let tiles = left.rows.div_ceil(TILE_ROWS) / (TASKS_PER_THREAD * rayon::current_num_threads());
    let task_rows = (tiles * TILE_ROWS).clamp(TILE_ROWS, TASK_ROWS_MAX);
    out.par_chunks_mut(task_rows * right.rows)
        .enumerate()
        .map(|(task, out)| {
            let first = task * task_rows;
            product(simd, left, first..(first + task_rows).min(left.rows), right, out, right.rows)
        })
        .reduce(|| 0, u32::max)
}

/// Computes `rows` of C, the first of which is one of a tile, into `out`, whose
/// rows are `stride` apart; the largest magnitude among them.
pub(crate) fn product(
    simd: Simd,
    left: &Packed,
    rows: Range<usize>,
    right: &Packed,
    out: &mut [f32],
    stride: usize,
) -> u32 {
    product_within(simd, left, rows, right, Extent::Full, (out, stride))
}

/// [`product`] as far as `extent` says; the largest magnitude in the tiles that count.
pub(crate) fn product_within(
    simd: Simd,
    left: &Packed,
    rows: Range<usize>,
    right: &Packed,
    extent: Extent,
    (out, stride): (&mut [f32], usize),
) -> u32 {
    assert_eq!(left.k, right.k, "operands must share the contracted axis");
    assert!(rows.start.is_multiple_of(TILE_ROWS) && rows.end <= left.rows, "rows {rows:?} of {}", left.rows);
    #[cfg(target_arch = "x86_64")]
    if simd == Simd::Avx512Vnni && left.chunks == 1 {
        return vnni::product(left, rows, right, extent, (out, stride));
    }
    let narrow = left.digits == 1 && right.digits == 1 && left.chunks == 1;
    let mut tile = Tile([[0; TILE_COLUMNS]; TILE_ROWS]);
    let mut peak = 0;
    let right_panels = right.rows.div_ceil(PANEL);
    for column_panel in (0..right_panels).step_by(2) {
        let column = column_panel * PANEL;
        let columns = (right.rows - column).min(TILE_COLUMNS);
        let column_scales = &right.scales[column..(column + TILE_COLUMNS).min(right.scales.len())];
        for row in rows.clone().step_by(TILE_ROWS) {
            if !extent.wants(row, column) {
                continue;
            }
            let tile_rows = (rows.end - row).min(TILE_ROWS);
            let target = Target { row_scales: &left.scales[row..row + tile_rows], column_scales, columns, stride };
            let out = &mut out[(row - rows.start) * stride + column..];
            let operands = Operands { simd, left, right, row, column_panel, extent };
            peak = peak.max(match operands.input(0, 0, 0) {
                Some(input) if narrow => {
                    sum_tile(simd, &input, &mut tile);
                    scale_narrow(simd, &tile, &target, out)
                }
                _ => scale_wide(simd, &operands.wide_sums(), &target, out),
            });
        }
    }
    peak
}

/// Where a tile's values go, and the powers of two that scale them.
pub(crate) struct Target<'a> {
    row_scales: &'a [f32],
    column_scales: &'a [f32],
    columns: usize,
    stride: usize,
}

/// A tile of the result, and what it is made of.
#[derive(Clone, Copy)]
struct Operands<'a> {
    simd: Simd,
    left: &'a Packed,
    right: &'a Packed,
    row: usize,
    column_panel: usize,
    extent: Extent,
}

impl<'a> Operands<'a> {
    /// The words of one digit of each operand and one chunk; none if nothing in it counts.
    #[inline]
    fn input(&self, left_digit: usize, right_digit: usize, chunk: usize) -> Option<TileInput<'a>> {
        let Self { simd, left, right, row, column_panel, extent } = *self;
        let wanted = extent.contracted(row, left.k);
        let (start, end) = (wanted.start.max(chunk * CHUNK), wanted.end.min((chunk + 1) * CHUNK));
        if start >= end {
            return None;
        }
        let (first, end) = (start / simd.group(), end.div_ceil(simd.group()));
        let panels = (right.rows.div_ceil(PANEL) - column_panel).min(2);
        let words = |panel: usize| {
            let plane = (panel * right.digits + right_digit) * right.groups;
            &right.words[(plane + first) * PANEL..(plane + end) * PANEL]
        };
        let (panel, lane) = (row / PANEL, row % PANEL);
        let sums_at = ((panel * left.digits + left_digit) * left.chunks + chunk) * PANEL + lane;
        let mut left_sums = [0; TILE_ROWS];
        left_sums.copy_from_slice(&left.sums[sums_at..sums_at + TILE_ROWS]);
        let (left_start, row_stride, group_stride) = if left.row_major {
            ((row * left.digits + left_digit) * left.groups + first, left.digits * left.groups, 1)
        } else {
            (((panel * left.digits + left_digit) * left.groups + first) * PANEL + lane, 1, PANEL)
        };
        Some(TileInput {
            left: &left.words[left_start..],
            row_stride,
            group_stride,
            right: [words(column_panel), words(column_panel + panels - 1)],
            panels,
            groups: end - first,
            left_sums,
        })
    }

    /// What the product of two digits counts: the last digit of an operand weighs 1, the one before it 256.
    fn digit_weight(&self, left_digit: usize, right_digit: usize) -> i64 {
        1 << (8 * (self.left.digits - 1 - left_digit + self.right.digits - 1 - right_digit))
    }

    /// Exact 64-bit sums over all digits and chunks.
    fn wide_sums(&self) -> [[i64; TILE_COLUMNS]; TILE_ROWS] {
        let mut sums = [[0i64; TILE_COLUMNS]; TILE_ROWS];
        let mut tile = Tile([[0; TILE_COLUMNS]; TILE_ROWS]);
        for left_digit in 0..self.left.digits {
            for right_digit in 0..self.right.digits {
                let weight = self.digit_weight(left_digit, right_digit);
                for input in (0..self.left.chunks).filter_map(|chunk| self.input(left_digit, right_digit, chunk)) {
                    sum_tile(self.simd, &input, &mut tile);
                    for (sums, tile) in sums.iter_mut().zip(&tile.0) {
                        for (sum, &part) in sums.iter_mut().zip(tile) {
                            *sum += i64::from(part) * weight;
                        }
                    }
                }
            }
        }
        sums
    }
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
