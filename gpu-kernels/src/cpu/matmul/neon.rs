//! Tile sums with Arm's dot products, over words of four 8-bit integers.

use super::super::pack::PANEL;
use super::{TILE_ROWS, Tile, TileInput};
use std::arch::aarch64::*;
use std::arch::asm;

/// Rows whose sums are in registers at once.
const ROWS: usize = 4;
/// Vectors of four columns in a panel.
const QUARTERS: usize = PANEL / 4;

/// Only called where dot products were detected.
pub(super) fn sum_tile(input: &TileInput<'_>, tile: &mut Tile) {
    input.check();
    for panel in 0..input.panels {
        for first in (0..TILE_ROWS).step_by(ROWS) {
            // SAFETY: the dispatcher has detected dot products, and the lengths were checked above.
            unsafe { sum_rows(input, first, panel, tile) };
        }
    }
}

/// `sums` and, in each of its four elements, the products of four neighbours.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(crate) fn dot(mut sums: int32x4_t, columns: uint32x4_t, word: uint32x4_t) -> int32x4_t {
    // SAFETY: the instruction is there, and changes nothing but `sums`. (Its intrinsic is not stable yet.)
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {columns:v}.16b, {word:v}.16b",
            sums = inout(vreg) sums,
            columns = in(vreg) columns,
            word = in(vreg) word,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn sum_rows(input: &TileInput<'_>, first: usize, panel: usize, tile: &mut Tile) {
    let left = input.left.as_ptr();
    let right = input.right[panel].as_ptr();
    let mut sums = [[vdupq_n_s32(0); QUARTERS]; ROWS];
    for group in 0..input.groups {
        // SAFETY: group < groups, so 16 words of the panel lie ahead (`check`).
        let columns: [uint32x4_t; QUARTERS] =
            std::array::from_fn(|quarter| unsafe { vld1q_u32(right.add(group * PANEL + quarter * 4)) });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: first + row < 8, so this word exists (`check`).
            let word =
                unsafe { vld1q_dup_u32(left.add((first + row) * input.row_stride + group * input.group_stride)) };
            for (sums, columns) in sums.iter_mut().zip(columns) {
                *sums = dot(*sums, columns, word);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (&sums, out) in sums.iter().zip(tile.0[first + row][panel * PANEL..].chunks_exact_mut(4)) {
            // SAFETY: `out` has 4 integers.
            unsafe { vst1q_s32(out.as_mut_ptr(), sums) };
        }
    }
}
