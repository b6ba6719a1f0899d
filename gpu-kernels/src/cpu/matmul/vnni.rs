//! Products with AVX-512 VNNI, over words of four 8-bit integers.
//!
//! `vpdpbusd` wants one unsigned operand: the right one is packed larger by 128,
//! which is taken back through the sums of the left rows. Its 32-bit sums wrap, and
//! the final value fits, so wrapping in between does no harm.
//!
//! Only reached where the dispatcher has detected AVX-512 F, BW and VNNI.

use super::super::pack::{PANEL, Packed};
use super::{Extent, TILE_COLUMNS, TILE_ROWS, Tile, TileInput};
use crate::arithmetic::FLUSH_BITS;
use std::arch::x86_64::*;
use std::ops::Range;

/// Different weights of products of digits: 65,536, 256 and 1.
const WEIGHTS_MAX: usize = 3;

/// Sums of a tile, in registers.
type Sums<const PANELS: usize> = [[__m512i; PANELS]; TILE_ROWS];

/// Exact sums of a tile.
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

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn store_sums<const PANELS: usize>(input: &TileInput<'_>, tile: &mut Tile) {
    let mut sums = [[_mm512_setzero_si512(); PANELS]; TILE_ROWS];
    // SAFETY: every word of the groups is there (`TileInput::check`).
    unsafe {
        let rows = std::array::from_fn(|row| input.left.as_ptr().add(row * input.row_stride));
        let right = std::array::from_fn(|panel| input.right[panel].as_ptr());
        if input.group_stride == 1 {
            add_groups::<PANELS, 1>(&mut sums, rows, right, input.groups);
        } else {
            add_groups::<PANELS, PANEL>(&mut sums, rows, right, input.groups);
        }
    }
    for ((sums, &left_sum), tile) in sums.iter().zip(&input.left_sums).zip(&mut tile.0) {
        for (&sum, out) in sums.iter().zip(tile.chunks_exact_mut(PANEL)) {
            let sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(left_sum.wrapping_mul(128)));
            // SAFETY: `out` has 16 integers.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
        }
    }
}

/// Adds the products of `groups` words of 8 rows and of one or two panels.
///
/// # Safety
/// Words of a row are `STRIDE` apart, and those of a panel 16 a group; all are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn add_groups<const PANELS: usize, const STRIDE: usize>(
    sums: &mut Sums<PANELS>,
    rows: [*const u32; TILE_ROWS],
    right: [*const u32; PANELS],
    groups: usize,
) {
    for group in 0..groups {
        // SAFETY: group < groups.
        let columns = right.map(|panel| unsafe { _mm512_loadu_si512(panel.add(group * PANEL).cast()) });
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: group < groups.
            let word = _mm512_set1_epi32(unsafe { *row.add(group * STRIDE) } as i32);
            for (sum, columns) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbusd_epi32(*sum, columns, word);
            }
        }
    }
}

/// A product of operands of one chunk; the largest magnitude in the tiles that count.
pub(super) fn product(
    left: &Packed,
    rows: Range<usize>,
    right: &Packed,
    extent: Extent,
    (out, stride): (&mut [f32], usize),
) -> u32 {
    if rows.is_empty() || right.rows == 0 {
        return 0;
    }
    assert!(left.chunks == 1 && right.chunks == 1 && left.groups == right.groups && left.groups == left.k.div_ceil(4));
    assert!(left.is_whole() && right.is_whole() && left.digits + right.digits <= WEIGHTS_MAX + 1);
    assert!(right.rows <= stride && (rows.len() - 1) * stride + right.rows <= out.len());
    let sweep = Sweep { left, right, rows, extent, out: out.as_mut_ptr(), stride };
    // SAFETY: the dispatcher has detected the instruction sets; operands and `out` are as long as their shapes say.
    unsafe {
        match (left.digits + right.digits == 2, left.row_major) {
            (true, true) => sweep.run::<false, 1>(),
            (true, false) => sweep.run::<false, PANEL>(),
            (false, true) => sweep.run::<true, 1>(),
            (false, false) => sweep.run::<true, PANEL>(),
        }
    }
}

/// All tiles of some rows of a product.
struct Sweep<'a> {
    left: &'a Packed,
    right: &'a Packed,
    rows: Range<usize>,
    extent: Extent,
    /// The first element of the first row.
    out: *mut f32,
    stride: usize,
}

/// Where a tile lies.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
}

impl Sweep<'_> {
    /// # Safety
    /// Operands and `out` are as long as their shapes say; words of a left row are `STRIDE` apart.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run<const WIDE: bool, const STRIDE: usize>(&self) -> u32 {
        let mut peak = _mm512_setzero_si512();
        for column in (0..self.right.rows).step_by(TILE_COLUMNS) {
            let columns = (self.right.rows - column).min(TILE_COLUMNS);
            for row in self.rows.clone().step_by(TILE_ROWS) {
                let place = Place { row, column, rows: (self.rows.end - row).min(TILE_ROWS), columns };
                if self.extent.wants(row, column) {
                    // SAFETY: the tile lies within operands and result.
                    peak = _mm512_max_epu32(peak, unsafe {
                        if columns > PANEL {
                            self.tile::<WIDE, STRIDE, 2>(place)
                        } else {
                            self.tile::<WIDE, STRIDE, 1>(place)
                        }
                    });
                }
            }
        }
        _mm512_reduce_max_epu32(peak)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    unsafe fn tile<const WIDE: bool, const STRIDE: usize, const PANELS: usize>(&self, place: Place) -> __m512i {
        // SAFETY: as for the caller.
        unsafe {
            self.fetch::<PANELS>(place);
            if WIDE {
                let mut parts = [[[_mm512_setzero_si512(); PANELS]; TILE_ROWS]; WEIGHTS_MAX];
                let weights = self.left.digits + self.right.digits - 1;
                for (weight, sums) in parts.iter_mut().enumerate().take(weights) {
                    let first = (weight + 1).saturating_sub(self.right.digits);
                    let last = weight.min(self.left.digits - 1);
                    for left_digit in first..=last {
                        *sums = self.add::<STRIDE, PANELS>(*sums, place, left_digit, weight - left_digit);
                    }
                }
                self.store::<PANELS>(place, |row, panel| rounded(&parts[..weights], row, panel))
            } else {
                let sums = self.add::<STRIDE, PANELS>([[_mm512_setzero_si512(); PANELS]; TILE_ROWS], place, 0, 0);
                self.store::<PANELS>(place, |row, panel| _mm512_cvtepi32_ps(sums[row][panel]))
            }
        }
    }

    /// Fetches the tile's place in the result while it is summed: it is too far
    /// from the last one for the processor to guess.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    unsafe fn fetch<const PANELS: usize>(&self, place: Place) {
        let out = self.out.wrapping_add((place.row - self.rows.start) * self.stride + place.column);
        for row in 0..TILE_ROWS {
            for panel in 0..=PANELS {
                _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(row * self.stride + panel * PANEL).cast());
            }
        }
    }

    /// `sums` and those of one pair of digits. Sums of equal weight fit 32 bits: k is at
    /// most 2¹⁶, an upper digit at most 2⁶, a lower one at most 2⁷, a single one under 2⁷.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    unsafe fn add<const STRIDE: usize, const PANELS: usize>(
        &self,
        mut sums: Sums<PANELS>,
        place: Place,
        left_digit: usize,
        right_digit: usize,
    ) -> Sums<PANELS> {
        let Self { left, right, .. } = self;
        let wanted = self.extent.contracted(place.row, left.k);
        let (first, end) = (wanted.start / 4, wanted.end.div_ceil(4));
        let (panel, lane) = (place.row / PANEL, place.row % PANEL);
        let plane = panel * left.digits + left_digit;
        let (start, row_stride) = match STRIDE {
            1 => ((place.row * left.digits + left_digit) * left.groups + first, left.digits * left.groups),
            _ => ((plane * left.groups + first) * PANEL + lane, 1),
        };
        // SAFETY: as for the caller: rows, panels, digits and groups are those of the operands.
        unsafe {
            let left_sums = left.sums.as_ptr().add(plane * PANEL + lane);
            for (row, sums) in sums.iter_mut().enumerate() {
                let offset = _mm512_set1_epi32((*left_sums.add(row)).wrapping_mul(128));
                *sums = sums.map(|sum| _mm512_sub_epi32(sum, offset));
            }
            let rows = std::array::from_fn(|row| left.words.as_ptr().add(start + row * row_stride));
            let right = std::array::from_fn(|panel| {
                let plane = (place.column / PANEL + panel) * right.digits + right_digit;
                right.words.as_ptr().add((plane * right.groups + first) * PANEL)
            });
            add_groups::<PANELS, STRIDE>(&mut sums, rows, right, end.saturating_sub(first));
        }
        sums
    }

    /// Scales, flushes and stores the tile; the magnitudes in it, the largest of each lane.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    unsafe fn store<const PANELS: usize>(&self, place: Place, rounded: impl Fn(usize, usize) -> __m512) -> __m512i {
        let mut peak = _mm512_setzero_si512();
        // SAFETY: scales are padded to whole panels; the masks leave out what is not the tile's.
        unsafe {
            let scales: [__m512; PANELS] = std::array::from_fn(|panel| {
                _mm512_loadu_ps(self.right.scales.as_ptr().add(place.column + panel * PANEL))
            });
            let out = self.out.add((place.row - self.rows.start) * self.stride + place.column);
            for row in 0..TILE_ROWS {
                if row >= place.rows {
                    break;
                }
                let row_scale = _mm512_set1_ps(*self.left.scales.as_ptr().add(place.row + row));
                for (panel, &scale) in scales.iter().enumerate() {
                    let columns = (place.columns - panel * PANEL).min(PANEL);
                    let mask = ((1u32 << columns) - 1) as u16;
                    let scaled = _mm512_mul_ps(_mm512_mul_ps(rounded(row, panel), row_scale), scale);
                    let bits = _mm512_castps_si512(scaled);
                    let magnitudes = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
                    let limit = _mm512_set1_epi32(FLUSH_BITS as i32);
                    let kept = _mm512_mask_cmpge_epu32_mask(mask, magnitudes, limit);
                    let to = out.add(row * self.stride + panel * PANEL);
                    _mm512_mask_storeu_epi32(to.cast(), mask, _mm512_maskz_mov_epi32(kept, bits));
                    peak = _mm512_mask_max_epu32(peak, kept, peak, magnitudes);
                }
            }
        }
        peak
    }
}

/// Sums of several weights as one exact integer, rounded once: 65,536 products of
/// digits weighing up to 2¹⁶ stay under 2⁴⁶, which f64 holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn rounded<const PANELS: usize>(parts: &[Sums<PANELS>], row: usize, panel: usize) -> __m512 {
    let step = _mm512_set1_pd(256.0);
    let mut totals = [_mm512_setzero_pd(); 2];
    for part in parts {
        let sums = part[row][panel];
        let low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sums));
        let high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(sums, 1));
        totals = [_mm512_fmadd_pd(totals[0], step, low), _mm512_fmadd_pd(totals[1], step, high)];
    }
    let low = _mm512_castps_pd(_mm512_castps256_ps512(_mm512_cvtpd_ps(totals[0])));
    let high = _mm256_castps_pd(_mm512_cvtpd_ps(totals[1]));
    _mm512_castpd_ps(_mm512_insertf64x4(low, high, 1))
}
