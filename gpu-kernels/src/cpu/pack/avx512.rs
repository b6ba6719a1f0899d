//! Packing with AVX-512: rounding, narrowing and interleaving in registers, 64 elements at a time.
//!
//! Only reached where the dispatcher has detected AVX-512 F, BW, VL, DQ and VNNI.

use super::super::quantize::{Rounding, scale_of};
use super::{Along, BLOCK, BLOCK_PANELS, CHUNK, PANEL, Packing, Panels, View};
use crate::cpu::random::Key;
use crate::functions::ROUNDER;
use std::arch::x86_64::*;

/// Elements of one vector.
const WIDTH: usize = 16;
/// Elements that make one vector of words.
const RUN: usize = 4 * WIDTH;
/// Rows between the one that is looked at and the one that is fetched.
const AHEAD: usize = 12;
/// Turns signed bytes into unsigned ones that are larger by 128.
const OFFSET: i32 = 0x8080_8080u32 as i32;

/// A line behind the last one.
const NO_LINE: [f32; BLOCK] = [0.0; BLOCK];

/// What rounds 16 elements: constants of the whole matrix.
#[derive(Clone, Copy)]
struct Rounder<const DIGITS: usize, const STOCHASTIC: bool> {
    key: Key,
}

impl<const DIGITS: usize, const STOCHASTIC: bool> Rounder<DIGITS, STOCHASTIC> {
    /// What element `index` and the 15 behind it add to the hash.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn counters(self, index: u32) -> __m512i {
        let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        _mm512_add_epi32(lanes, _mm512_set1_epi32(index.wrapping_add(self.key[0]) as i32))
    }

    /// 16 elements as integers, not clamped yet; `counters` are theirs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn round(self, x: __m512, inverse: __m512, counters: __m512i) -> __m512i {
        if !STOCHASTIC {
            let shifted = _mm512_add_ps(_mm512_mul_ps(x, inverse), _mm512_set1_ps(ROUNDER));
            return _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(ROUNDER.to_bits() as i32));
        }
        let constant = |value: u32| _mm512_set1_epi32(value as i32);
        let mut random = _mm512_xor_si512(counters, _mm512_srli_epi32(counters, 16));
        random = _mm512_add_epi32(_mm512_mullo_epi32(random, constant(0x7feb_352d)), constant(self.key[1]));
        random = _mm512_xor_si512(random, _mm512_srli_epi32(random, 15));
        random = _mm512_mullo_epi32(random, constant(0x846c_a68b));
        random = _mm512_xor_si512(random, _mm512_srli_epi32(random, 16));

        // The magnitude in fixed point, cut off: both products are exact, being by powers of two, unless the result is
        // far under the last fraction bit; it is under 2³¹ with one digit, 2³⁰ with two.
        let unit = if DIGITS == 1 { 16_777_216.0 } else { 65_536.0 };
        let scaled = _mm512_mul_ps(_mm512_mul_ps(_mm512_abs_ps(x), inverse), _mm512_set1_ps(unit));
        let fixed = _mm512_cvttps_epi32(scaled);
        let rounded = if DIGITS == 1 {
            _mm512_srli_epi32(_mm512_add_epi32(fixed, _mm512_srli_epi32(random, 8)), 24)
        } else {
            _mm512_srli_epi32(_mm512_add_epi32(fixed, _mm512_srli_epi32(random, 16)), 16)
        };
        let negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
        _mm512_mask_sub_epi32(rounded, negative, _mm512_setzero_si512(), rounded)
    }

    /// Digit number `digit` of each integer; one digit is clamped where bytes are made of it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn digits(self, mut q: [__m512i; 4], digit: usize) -> [__m512i; 4] {
        if DIGITS == 1 {
            return q;
        }
        for q in &mut q {
            let upper = _mm512_srai_epi32(_mm512_add_epi32(*q, _mm512_set1_epi32(128)), 8);
            *q = if digit == 0 { upper } else { _mm512_sub_epi32(*q, _mm512_slli_epi32(upper, 8)) };
        }
        q
    }

    /// Four vectors of digits as one of words: byte i of word j is element j of vector i.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn interleave(self, q: [__m512i; 4]) -> __m512i {
        let halves = [_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3])];
        let bytes = self.clamp(_mm512_packs_epi16(halves[0], halves[1]));
        let order = _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
        _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(order))
    }

    /// Four vectors of digits as the bytes of 64 neighbours.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn concatenate(self, q: [__m512i; 4]) -> __m512i {
        let halves = [_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3])];
        let bytes = self.clamp(_mm512_packs_epi16(halves[0], halves[1]));
        // Every 128 bits hold four bytes of each vector.
        let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
        _mm512_permutexvar_epi32(order, bytes)
    }

    /// One digit is never −128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn clamp(self, bytes: __m512i) -> __m512i {
        if DIGITS == 1 { _mm512_max_epi8(bytes, _mm512_set1_epi8(-127)) } else { bytes }
    }
}

/// Packs a block of rows, or of columns, in groups of four.
pub(super) fn pack_block(view: &View<'_>, first: usize, packing: &Packing, into: Panels<'_>) {
    match (packing.digits, packing.rounding) {
        (1, Rounding::Nearest) => with(Rounder::<1, false> { key: [0; 2] }, view, first, packing, into),
        (1, Rounding::Stochastic(key)) => with(Rounder::<1, true> { key }, view, first, packing, into),
        (_, Rounding::Nearest) => with(Rounder::<2, false> { key: [0; 2] }, view, first, packing, into),
        (_, Rounding::Stochastic(key)) => with(Rounder::<2, true> { key }, view, first, packing, into),
    }
}

fn with<const DIGITS: usize, const STOCHASTIC: bool>(
    rounder: Rounder<DIGITS, STOCHASTIC>,
    view: &View<'_>,
    first: usize,
    packing: &Packing,
    into: Panels<'_>,
) {
    // SAFETY: the dispatcher has detected the instruction sets.
    unsafe {
        if packing.along == Along::Rows {
            rows(rounder, view, first, packing, into);
        } else {
            columns(rounder, view, first, packing, into);
        }
    }
}

/// Which elements of vector `part` of a line are there.
#[inline(always)]
fn mask_of(length: usize, part: usize) -> u16 {
    match length.saturating_sub(part * WIDTH) {
        WIDTH.. => u16::MAX,
        length => (1 << length) - 1,
    }
}

/// Vector `part` of a line, zero behind its end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load_part(line: &[f32], part: usize) -> __m512 {
    // SAFETY: the mask leaves out everything behind the line.
    unsafe { _mm512_maskz_loadu_ps(mask_of(line.len(), part), line.as_ptr().wrapping_add(part * WIDTH)) }
}

/// A line of at most 64 elements, zero behind its end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load_run(line: &[f32]) -> [__m512; 4] {
    let Ok(line) = <&[f32; RUN]>::try_from(line) else {
        return [load_part(line, 0), load_part(line, 1), load_part(line, 2), load_part(line, 3)];
    };
    let start = line.as_ptr();
    // SAFETY: all 64 are there.
    unsafe {
        [
            _mm512_loadu_ps(start),
            _mm512_loadu_ps(start.add(WIDTH)),
            _mm512_loadu_ps(start.add(2 * WIDTH)),
            _mm512_loadu_ps(start.add(3 * WIDTH)),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn magnitudes(x: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff))
}

/// The largest magnitude in a line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn line_peak(line: &[f32]) -> u32 {
    let mut peaks = [_mm512_setzero_si512(); 4];
    for run in line.chunks(RUN) {
        for (peak, x) in peaks.iter_mut().zip(load_run(run)) {
            *peak = _mm512_max_epu32(*peak, magnitudes(x));
        }
    }
    let peak = _mm512_max_epu32(_mm512_max_epu32(peaks[0], peaks[1]), _mm512_max_epu32(peaks[2], peaks[3]));
    _mm512_reduce_max_epu32(peak)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn words_of(vector: __m512i) -> [u32; WIDTH] {
    let mut words = [0u32; WIDTH];
    // SAFETY: 16 words have 64 bytes.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
    words
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows<const DIGITS: usize, const STOCHASTIC: bool>(
    rounder: Rounder<DIGITS, STOCHASTIC>,
    view: &View<'_>,
    first: usize,
    packing: &Packing,
    into: Panels<'_>,
) {
    let (groups, chunks) = (view.columns.div_ceil(4), view.columns.div_ceil(CHUNK));
    let rows = (view.rows - first).min(into.scales.len());
    if rows < into.scales.len() {
        // Padding rows are all zero; buffers may hold another matrix's remains.
        into.words[rows / PANEL * DIGITS * groups * PANEL..].fill(0);
        into.scales[rows..].fill(1.0);
        into.sums.fill(0);
    }
    let ones = _mm512_set1_epi8(1);
    let offset = _mm512_set1_epi32(if packing.offset() { OFFSET } else { 0 });
    for row in 0..rows {
        let (line, index) = view.line(first + row, 0, view.reach(first + row));
        let peak = match view.peaks {
            Some(peaks) => peaks[first + row],
            None => line_peak(line),
        };
        let (scale, inverse) = scale_of(peak, DIGITS);
        into.scales[row] = scale;
        let inverse = _mm512_set1_ps(inverse);
        let (panel, lane) = (row / PANEL, row % PANEL);
        for (chunk, line) in line.chunks(CHUNK).enumerate() {
            let mut sums = [_mm512_setzero_si512(); DIGITS];
            for (number, run) in line.chunks(RUN).enumerate() {
                let place = chunk * CHUNK + number * RUN;
                let mut counters = rounder.counters(index.wrapping_add(place as u32));
                let mut q = [_mm512_setzero_si512(); 4];
                for (q, x) in q.iter_mut().zip(load_run(run)) {
                    *q = rounder.round(x, inverse, counters);
                    counters = _mm512_add_epi32(counters, _mm512_set1_epi32(WIDTH as i32));
                }
                let (group, length) = (place / 4, run.len().div_ceil(4));
                for (digit, sum) in sums.iter_mut().enumerate() {
                    let words = rounder.concatenate(rounder.digits(q, digit));
                    *sum = _mm512_dpbusd_epi32(*sum, ones, words);
                    let words = words_of(_mm512_xor_si512(words, offset));
                    if packing.row_major() {
                        let start = (row * DIGITS + digit) * groups + group;
                        if length == WIDTH {
                            into.words[start..start + WIDTH].copy_from_slice(&words);
                        } else {
                            into.words[start..start + length].copy_from_slice(&words[..length]);
                        }
                    } else {
                        let start = ((panel * DIGITS + digit) * groups + group) * PANEL;
                        let to = into.words[start..start + length * PANEL].chunks_exact_mut(PANEL);
                        for (to, word) in to.zip(words) {
                            to[lane] = word;
                        }
                    }
                }
            }
            for (digit, &sum) in sums.iter().enumerate() {
                into.sums[((panel * DIGITS + digit) * chunks + chunk) * PANEL + lane] = _mm512_reduce_add_epi32(sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns<const DIGITS: usize, const STOCHASTIC: bool>(
    rounder: Rounder<DIGITS, STOCHASTIC>,
    view: &View<'_>,
    first: usize,
    packing: &Packing,
    into: Panels<'_>,
) {
    let (groups, chunks) = (view.rows.div_ceil(4), view.rows.div_ceil(CHUNK));
    let columns = (view.columns - first).min(into.scales.len());
    let panels = into.scales.len() / PANEL;
    let mut peaks = [_mm512_setzero_si512(); BLOCK_PANELS];
    for row in view.begin(first)..view.rows {
        let (line, _) = view.line(row, first, columns);
        // Lines of a block lie too far apart for the processor to guess the next ones.
        let ahead = line.as_ptr().wrapping_add(AHEAD * view.stride);
        for part in 0..panels {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(part * WIDTH).cast());
        }
        if columns == BLOCK {
            for (peak, x) in peaks.iter_mut().zip(load_run(line)) {
                *peak = _mm512_max_epu32(*peak, magnitudes(x));
            }
        } else {
            for (part, peak) in peaks.iter_mut().enumerate().take(panels) {
                *peak = _mm512_max_epu32(*peak, magnitudes(load_part(line, part)));
            }
        }
    }
    let mut inverses = [_mm512_set1_ps(1.0); BLOCK_PANELS];
    for (panel, scales) in into.scales.chunks_exact_mut(PANEL).enumerate() {
        let mut panel_inverses = [1.0; PANEL];
        for ((scale, inverse), peak) in scales.iter_mut().zip(&mut panel_inverses).zip(words_of(peaks[panel])) {
            (*scale, *inverse) = scale_of(peak, DIGITS);
        }
        inverses[panel] = load_part(&panel_inverses, 0);
    }
    let masks = [0, 1, 2, 3].map(|part| mask_of(columns, part));
    let ones = _mm512_set1_epi8(1);
    let offset = _mm512_set1_epi32(if packing.offset() { OFFSET } else { 0 });
    let mut sums = [[_mm512_setzero_si512(); DIGITS]; BLOCK_PANELS];
    for group in view.begin(first) / 4..groups {
        let mut lines = [(&NO_LINE[..columns], 0); 4];
        for (row, line) in (group * 4..view.rows).zip(&mut lines) {
            *line = view.line(row, first, columns);
        }
        let end = ((group + 1) * 4).min(view.rows);
        for (panel, sums) in sums.iter_mut().enumerate().take(panels) {
            let mut q = [_mm512_setzero_si512(); 4];
            for (q, (line, index)) in q.iter_mut().zip(lines) {
                let counters = rounder.counters(index.wrapping_add((panel * WIDTH) as u32));
                // SAFETY: every line has `columns` elements, and the mask leaves out everything behind them.
                let x = unsafe { _mm512_maskz_loadu_ps(masks[panel], line.as_ptr().wrapping_add(panel * WIDTH)) };
                *q = rounder.round(x, inverses[panel], counters);
            }
            for (digit, sum) in sums.iter_mut().enumerate() {
                let words = rounder.interleave(rounder.digits(q, digit));
                *sum = _mm512_dpbusd_epi32(*sum, ones, words);
                let plane = panel * DIGITS + digit;
                let at = (plane * groups + group) * PANEL;
                into.words[at..at + PANEL].copy_from_slice(&words_of(_mm512_xor_si512(words, offset)));
                if end.is_multiple_of(CHUNK) || end == view.rows {
                    let at = (plane * chunks + (end - 1) / CHUNK) * PANEL;
                    for (to, sum) in into.sums[at..at + PANEL].iter_mut().zip(words_of(*sum)) {
                        *to = sum as i32;
                    }
                    *sum = _mm512_setzero_si512();
                }
            }
        }
    }
}
