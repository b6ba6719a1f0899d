//! Tile sums with AVX2, over words of two 16-bit integers.

use super::super::pack::PANEL;
use super::{TILE_ROWS, Tile, TileInput};
use std::arch::x86_64::*;

/// Rows whose sums are in registers at once.
const ROWS: usize = 4;

/// Only called where AVX2 was detected.
pub(super) fn sum_tile(input: &TileInput<'_>, tile: &mut Tile) {
    input.check();
    for panel in 0..input.panels {
        for first in (0..TILE_ROWS).step_by(ROWS) {
            // SAFETY: the dispatcher has detected AVX2, and the lengths were checked above.
            unsafe { sum_rows(input, first, panel, tile) };
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn sum_rows(input: &TileInput<'_>, first: usize, panel: usize, tile: &mut Tile) {
    let left = input.left.as_ptr();
    let right = input.right[panel].as_ptr();
    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
    for group in 0..input.groups {
        // SAFETY: group < groups, so 16 words of the panel lie ahead (`check`).
        let (low, high) = unsafe {
            let at = right.add(group * PANEL).cast::<__m256i>();
            (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: first + row < 8, so this word exists (`check`).
            let word =
                _mm256_set1_epi32(
                    unsafe { *left.add((first + row) * input.row_stride + group * input.group_stride) } as i32
                );
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, word));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, word));
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let out = tile.0[first + row][panel * PANEL..][..PANEL].as_mut_ptr().cast::<__m256i>();
        // SAFETY: `out` points to 16 integers.
        unsafe {
            _mm256_storeu_si256(out, sums[0]);
            _mm256_storeu_si256(out.add(1), sums[1]);
        }
    }
}
