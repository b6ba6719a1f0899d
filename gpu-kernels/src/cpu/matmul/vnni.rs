//! Tile sums with AVX-512 VNNI, over words of four 8-bit integers.
//!
//! `vpdpbusd` wants one unsigned operand: the right one is offset by 128, which
//! is taken back through the sums of the left rows. Its 32-bit sums wrap, and
//! the final value fits, so wrapping in between does no harm.

use super::super::pack::PANEL;
use super::{TILE_ROWS, Target, Tile, TileInput};
use crate::arithmetic::FLUSH_BITS;
use std::arch::x86_64::*;

/// Exact sums of a tile. Only called where AVX-512 F, BW and VNNI were detected.
pub(super) fn sum_tile(input: &TileInput<'_>, tile: &mut Tile) {
    input.check();
    // SAFETY: the dispatcher has detected the instruction sets, and the lengths were checked.
    unsafe {
        match input.panels {
            1 => store_sums::<1>(input, tile),
            _ => store_sums::<2>(input, tile),
        }
    }
}

/// A tile of C; the largest magnitude in it. Only called where AVX-512 F, BW and
/// VNNI were detected.
pub(super) fn product_tile(input: &TileInput<'_>, target: &Target<'_>, out: &mut [f32]) -> u32 {
    input.check();
    let rows = target.row_scales.len();
    assert!(rows <= TILE_ROWS && (rows - 1) * target.stride + target.columns <= out.len());
    assert!(target.column_scales.len() >= input.panels * PANEL && target.columns > (input.panels - 1) * PANEL);
    // SAFETY: the dispatcher has detected the instruction sets, and the lengths were checked.
    unsafe {
        match input.panels {
            1 => scale_and_store::<1>(input, target, out),
            _ => scale_and_store::<2>(input, target, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn sums<const PANELS: usize>(input: &TileInput<'_>) -> [[__m512i; PANELS]; TILE_ROWS] {
    let offset = _mm512_set1_epi32(0x8080_8080u32 as i32);
    let left = input.left.as_ptr();
    let mut sums = [[_mm512_setzero_si512(); PANELS]; TILE_ROWS];
    for (sums, &left_sum) in sums.iter_mut().zip(&input.left_sums) {
        *sums = [_mm512_set1_epi32(left_sum.wrapping_mul(-128)); PANELS];
    }
    for group in 0..input.groups {
        let mut columns = [offset; PANELS];
        for (columns, panel) in columns.iter_mut().zip(&input.right) {
            // SAFETY: group < groups, so 16 words lie ahead (`check`).
            let words = unsafe { _mm512_loadu_si512(panel.as_ptr().add(group * PANEL).cast()) };
            *columns = _mm512_xor_si512(words, offset);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row < 8, so this word exists (`check`).
            let word = unsafe { *left.add(row * input.row_stride + group * input.group_stride) };
            let word = _mm512_set1_epi32(word as i32);
            for (sum, &columns) in sums.iter_mut().zip(&columns) {
                *sum = _mm512_dpbusd_epi32(*sum, columns, word);
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn store_sums<const PANELS: usize>(input: &TileInput<'_>, tile: &mut Tile) {
    // SAFETY: as for the caller.
    let sums = unsafe { sums::<PANELS>(input) };
    for (row, sums) in sums.iter().enumerate() {
        for (panel, &sum) in sums.iter().enumerate() {
            let out = tile.0[row][panel * PANEL..][..PANEL].as_mut_ptr();
            // SAFETY: `out` points to 16 integers.
            unsafe { _mm512_storeu_si512(out.cast(), sum) };
        }
    }
}

/// As `scale_narrow`, without a way through memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn scale_and_store<const PANELS: usize>(input: &TileInput<'_>, target: &Target<'_>, out: &mut [f32]) -> u32 {
    // SAFETY: as for the caller.
    let sums = unsafe { sums::<PANELS>(input) };
    let (magnitude, flush) = (_mm512_set1_epi32(0x7fff_ffff), _mm512_set1_epi32(FLUSH_BITS as i32));
    let mut peak = _mm512_setzero_si512();
    for (row, sums) in sums.iter().enumerate().take(target.row_scales.len()) {
        let row_scale = _mm512_set1_ps(target.row_scales[row]);
        for (panel, &sum) in sums.iter().enumerate() {
            let columns = (target.columns - panel * PANEL).min(PANEL);
            let mask = ((1u32 << columns) - 1) as u16;
            // SAFETY: the scales have 16 elements for each panel (asserted by the caller).
            let column_scale = unsafe { _mm512_loadu_ps(target.column_scales.as_ptr().add(panel * PANEL)) };
            let value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), row_scale), column_scale);
            let bits = _mm512_castps_si512(value);
            let kept = _mm512_cmpge_epu32_mask(_mm512_and_si512(bits, magnitude), flush);
            let bits = _mm512_maskz_mov_epi32(kept & mask, bits);
            peak = _mm512_max_epu32(peak, _mm512_and_si512(bits, magnitude));
            // SAFETY: `columns` elements lie ahead in this row (asserted by the caller).
            unsafe {
                let to = out.as_mut_ptr().add(row * target.stride + panel * PANEL);
                _mm512_mask_storeu_epi32(to.cast(), mask, bits);
            }
        }
    }
    _mm512_reduce_max_epu32(peak)
}
