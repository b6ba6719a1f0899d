//! Tile sums with AVX-512 VNNI, over words of four 8-bit integers.
//!
//! `vpdpbusd` wants one unsigned operand: the right one is offset by 128, which
//! is taken back through the sums of the left rows. Its 32-bit sums wrap, and
//! the final value fits, so wrapping in between does no harm.

use super::super::quantize::PANEL;
use super::{TILE_ROWS, Tile, TileInput};
use std::arch::x86_64::*;

/// Only called where AVX-512 F, BW and VNNI were detected.
pub(super) fn sum_tile(input: &TileInput<'_>, tile: &mut Tile) {
    assert!(input.groups > 0 && input.left.len() >= (input.groups - 1) * PANEL + TILE_ROWS);
    assert!(input.right.iter().all(|panel| panel.len() >= input.groups * PANEL));
    // SAFETY: the dispatcher has detected the instruction sets, and the lengths were checked above.
    unsafe {
        match input.panels {
            1 => sum_panels::<1>(input, tile),
            _ => sum_panels::<2>(input, tile),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sum_panels<const PANELS: usize>(input: &TileInput<'_>, tile: &mut Tile) {
    let offset = _mm512_set1_epi32(0x8080_8080u32 as i32);
    let left = input.left.as_ptr();
    let mut sums = [[_mm512_setzero_si512(); PANELS]; TILE_ROWS];
    for (sums, &left_sum) in sums.iter_mut().zip(&input.left_sums) {
        *sums = [_mm512_set1_epi32(left_sum.wrapping_mul(-128)); PANELS];
    }
    for group in 0..input.groups {
        let mut columns = [offset; PANELS];
        for (columns, panel) in columns.iter_mut().zip(&input.right) {
            // SAFETY: group < groups, so 16 words lie ahead.
            let words = unsafe { _mm512_loadu_si512(panel.as_ptr().add(group * PANEL).cast()) };
            *columns = _mm512_xor_si512(words, offset);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: 8 words of the left rows lie ahead.
            let word = _mm512_set1_epi32(unsafe { *left.add(group * PANEL + row) } as i32);
            for (sum, &columns) in sums.iter_mut().zip(&columns) {
                *sum = _mm512_dpbusd_epi32(*sum, columns, word);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (panel, &sum) in sums.iter().enumerate() {
            let out = tile.0[row][panel * PANEL..][..PANEL].as_mut_ptr();
            // SAFETY: `out` points to 16 integers.
            unsafe { _mm512_storeu_si512(out.cast(), sum) };
        }
    }
}
