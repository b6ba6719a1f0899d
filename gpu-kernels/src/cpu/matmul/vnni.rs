//! Tile sums with AVX-512 VNNI, over words of four 8-bit integers.
//!
//! `vpdpbusd` wants one unsigned operand: the right one is packed larger by 128,
//! which is taken back through the sums of the left rows. Its 32-bit sums wrap, and
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
    target.check(out);
    assert!(target.columns.div_ceil(PANEL) == input.panels);
    // SAFETY: the dispatcher has detected the instruction sets, and the lengths were checked.
    unsafe {
        match input.panels {
            1 => scale_and_store::<1>(input, target, out),
            _ => scale_and_store::<2>(input, target, out),
        }
    }
}

impl Target<'_> {
    /// Panics unless every scale that a kernel reads and every element that it writes is there.
    fn check(&self, out: &[f32]) {
        let rows = self.row_scales.len();
        assert!((1..=TILE_ROWS).contains(&rows) && (rows - 1) * self.stride + self.columns <= out.len());
        let panels = self.columns.div_ceil(PANEL);
        assert!((1..=2).contains(&panels) && self.column_scales.len() >= panels * PANEL);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn sums<const PANELS: usize>(input: &TileInput<'_>) -> [[__m512i; PANELS]; TILE_ROWS] {
    let left = input.left.as_ptr();
    let mut sums = [[_mm512_setzero_si512(); PANELS]; TILE_ROWS];
    for (sums, &left_sum) in sums.iter_mut().zip(&input.left_sums) {
        *sums = [_mm512_set1_epi32(left_sum.wrapping_mul(-128)); PANELS];
    }
    for group in 0..input.groups {
        let mut columns = [_mm512_setzero_si512(); PANELS];
        for (columns, panel) in columns.iter_mut().zip(&input.right) {
            // SAFETY: group < groups, so 16 words lie ahead (`check`).
            *columns = unsafe { _mm512_loadu_si512(panel.as_ptr().add(group * PANEL).cast()) };
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

/// Exact sums of a tile over several pairs of digits, as integers in f64: 65,536
/// products of digits weighing up to 2¹⁶ stay under 2⁴⁶.
pub(super) struct WideSums([[[__m512d; 2]; 2]; TILE_ROWS]);

impl Default for WideSums {
    fn default() -> Self {
        // SAFETY: all bits zero are sixteen zeros.
        Self(unsafe { std::mem::zeroed() })
    }
}

impl WideSums {
    /// Adds the sums of one pair of digits that weighs `weight`. Only called where
    /// AVX-512 F, BW and VNNI were detected.
    pub(super) fn add(&mut self, input: &TileInput<'_>, weight: f64) {
        input.check();
        // SAFETY: the dispatcher has detected the instruction sets, and the lengths were checked.
        unsafe {
            match input.panels {
                1 => self.add_panels::<1>(input, weight),
                _ => self.add_panels::<2>(input, weight),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_panels<const PANELS: usize>(&mut self, input: &TileInput<'_>, weight: f64) {
        // SAFETY: as for the caller.
        let sums = unsafe { sums::<PANELS>(input) };
        let weight = _mm512_set1_pd(weight);
        for (total, sums) in self.0.iter_mut().zip(&sums) {
            for (total, &sum) in total.iter_mut().zip(sums) {
                let low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sum));
                let high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(sum, 1));
                total[0] = _mm512_fmadd_pd(low, weight, total[0]);
                total[1] = _mm512_fmadd_pd(high, weight, total[1]);
            }
        }
    }

    /// Rounds once, scales and stores the tile; the largest magnitude in it.
    pub(super) fn store(&self, target: &Target<'_>, out: &mut [f32]) -> u32 {
        target.check(out);
        // SAFETY: a tile was summed, so the instruction sets are there; the lengths were checked.
        unsafe { self.scale_and_store(target, out) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn scale_and_store(&self, target: &Target<'_>, out: &mut [f32]) -> u32 {
        let mut peak = _mm512_setzero_si512();
        for (row, total) in self.0.iter().enumerate().take(target.row_scales.len()) {
            for (panel, total) in total.iter().enumerate().take(target.columns.div_ceil(PANEL)) {
                let low = _mm512_castps256_ps512(_mm512_cvtpd_ps(total[0]));
                let low = _mm512_castps_pd(low);
                let high = _mm256_castps_pd(_mm512_cvtpd_ps(total[1]));
                let rounded = _mm512_castpd_ps(_mm512_insertf64x4(low, high, 1));
                // SAFETY: as for the caller.
                peak = _mm512_max_epu32(peak, unsafe { store_scaled(rounded, (row, panel), target, out) });
            }
        }
        _mm512_reduce_max_epu32(peak)
    }
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
    let mut peak = _mm512_setzero_si512();
    for (row, sums) in sums.iter().enumerate().take(target.row_scales.len()) {
        for (panel, &sum) in sums.iter().enumerate() {
            // SAFETY: as for the caller.
            let magnitudes = unsafe { store_scaled(_mm512_cvtepi32_ps(sum), (row, panel), target, out) };
            peak = _mm512_max_epu32(peak, magnitudes);
        }
    }
    _mm512_reduce_max_epu32(peak)
}

/// Scales, flushes and stores rounded sums of one row and panel of a tile; their magnitudes.
/// `target` and `out` were checked.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn store_scaled(rounded: __m512, (row, panel): (usize, usize), target: &Target<'_>, out: &mut [f32]) -> __m512i {
    let columns = (target.columns - panel * PANEL).min(PANEL);
    let mask = ((1u32 << columns) - 1) as u16;
    // SAFETY: the scales have 16 elements for each panel, and a row has a scale (`Target::check`).
    let (row_scale, column_scale) = unsafe {
        let columns = target.column_scales.as_ptr().add(panel * PANEL);
        (_mm512_set1_ps(*target.row_scales.get_unchecked(row)), _mm512_loadu_ps(columns))
    };
    let bits = _mm512_castps_si512(_mm512_mul_ps(_mm512_mul_ps(rounded, row_scale), column_scale));
    let magnitudes = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
    let kept = mask & _mm512_cmpge_epu32_mask(magnitudes, _mm512_set1_epi32(FLUSH_BITS as i32));
    // SAFETY: `columns` elements lie ahead in this row (`Target::check`).
    unsafe {
        let to = out.as_mut_ptr().add(row * target.stride + panel * PANEL);
        _mm512_mask_storeu_epi32(to.cast(), mask, _mm512_maskz_mov_epi32(kept, bits));
    }
    _mm512_maskz_mov_epi32(kept, magnitudes)
}
