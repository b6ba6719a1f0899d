//! Tile sums in plain Rust, over words of two 16-bit integers.

use super::super::pack::PANEL;
use super::{TILE_ROWS, Tile, TileInput};

pub(super) fn sum_tile(input: &TileInput<'_>, tile: &mut Tile) {
    for panel in 0..input.panels {
        for row in 0..TILE_ROWS {
            let mut sums = [0i32; PANEL];
            let words = input.right[panel].chunks_exact(PANEL);
            for (group, right) in words.enumerate() {
                let left = input.left[row * input.row_stride + group * input.group_stride];
                let (left_low, left_high) = halves(left);
                for lane in 0..PANEL {
                    let (low, high) = halves(right[lane]);
                    sums[lane] += left_low * low + left_high * high;
                }
            }
            tile.0[row][panel * PANEL..][..PANEL].copy_from_slice(&sums);
        }
    }
}

/// The two signed 16-bit integers of a word.
#[inline(always)]
fn halves(word: u32) -> (i32, i32) {
    ((word << 16) as i32 >> 16, word as i32 >> 16)
}
