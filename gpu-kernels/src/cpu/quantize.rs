//! Row-scaled integers: f32 rows become digits of 8 bits and a power of two.
//!
//! A row with largest magnitude M has the exponent e = floor(log2 M) − 6 for
//! one digit and − 14 for two (0 if the row is all zero), and q = x / 2^e
//! rounded to an integer, clamped to ±127 or ±32,639. Two digits are
//! q = 256·hi + lo with hi = (q + 128) >> 8. Nearest rounding is to even;
//! stochastic rounding works on the magnitude in fixed point (24 or 16
//! fraction bits, cut off) and adds as many random bits before cutting.
//!
//! In memory, rows stand in panels of 16. A panel holds, digit after digit and
//! group after group of the contracted axis, one 32-bit word for each of its
//! rows: four consecutive i8, or two i16 where the kernel wants those.

use super::random::{Key, mix};
use super::simd::Simd;
use crate::arithmetic::magnitude;
use crate::functions::ROUNDER;
use rayon::prelude::*;

/// Rows in a panel.
pub(crate) const PANEL: usize = 16;

/// Elements of the contracted axis after which 32-bit sums are spilled.
pub(crate) const CHUNK: usize = 1 << 16;

/// How x / 2^e becomes an integer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rounding {
    /// Nearest, ties to even: weights and activations.
    Nearest,
    /// Up or down at random, so that the expectation is exact: gradients.
    Stochastic(Key),
}

/// A row-major matrix inside a larger one.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// Index of the first element in the tensor whose elements key the random bits.
    pub(crate) index: u32,
}

impl<'a> View<'a> {
    /// A whole row-major matrix.
    pub(crate) fn whole(values: &'a [f32], rows: usize, columns: usize) -> Self {
        debug_assert_eq!(values.len(), rows * columns);
        Self { values, rows, columns, stride: columns, index: 0 }
    }
}

/// A matrix as row-scaled digits, packed for the product kernels.
#[derive(Default)]
pub(crate) struct Packed {
    pub(crate) rows: usize,
    /// Length of the contracted axis.
    pub(crate) k: usize,
    pub(crate) groups: usize,
    pub(crate) chunks: usize,
    pub(crate) digits: usize,
    /// `[panel][digit][group][row in panel]`
    pub(crate) words: Vec<u32>,
    /// 2^e of each row; 1 in padding.
    pub(crate) scales: Vec<f32>,
    /// `[panel][digit][chunk][row in panel]`: sums of digits, for kernels that offset one operand.
    pub(crate) sums: Vec<i32>,
}

impl Packed {
    fn reshape(&mut self, simd: Simd, rows: usize, k: usize, digits: usize) {
        let panels = rows.div_ceil(PANEL);
        self.rows = rows;
        self.k = k;
        self.groups = k.div_ceil(simd.group());
        self.chunks = k.div_ceil(CHUNK);
        self.digits = digits;
        self.words.resize(panels * self.panel_words(), 0);
        self.scales.resize(panels * PANEL, 1.0);
        self.sums.resize(panels * digits * self.chunks * PANEL, 0);
    }

    fn panel_words(&self) -> usize {
        self.digits * self.groups * PANEL
    }

    /// Packs the rows of `view` (contracted along its columns), one panel after another.
    pub(crate) fn pack_rows(&mut self, simd: Simd, view: View<'_>, digits: usize, rounding: Rounding) {
        self.reshape(simd, view.rows, view.columns, digits);
        let sizes = (self.panel_words(), digits * self.chunks * PANEL);
        let words = self.words.chunks_exact_mut(sizes.0);
        let panels = words.zip(self.scales.chunks_exact_mut(PANEL)).zip(self.sums.chunks_exact_mut(sizes.1));
        for (panel, ((words, scales), sums)) in panels.enumerate() {
            pack_panel(simd, &view, Along::Rows, panel, PanelMut { words, scales, sums, digits, rounding });
        }
    }

    /// Packs the columns of `view` (contracted along its rows), one panel after another.
    pub(crate) fn pack_columns(&mut self, simd: Simd, view: View<'_>, digits: usize, rounding: Rounding) {
        self.reshape(simd, view.columns, view.rows, digits);
        let sizes = (self.panel_words(), digits * self.chunks * PANEL);
        let words = self.words.chunks_exact_mut(sizes.0);
        let panels = words.zip(self.scales.chunks_exact_mut(PANEL)).zip(self.sums.chunks_exact_mut(sizes.1));
        for (panel, ((words, scales), sums)) in panels.enumerate() {
            pack_panel(simd, &view, Along::Columns, panel, PanelMut { words, scales, sums, digits, rounding });
        }
    }

    /// [`Packed::pack_rows`] or [`Packed::pack_columns`] on all threads of the current pool.
    pub(crate) fn pack_parallel(
        &mut self,
        simd: Simd,
        view: View<'_>,
        along: Along,
        digits: usize,
        rounding: Rounding,
    ) {
        let (rows, k) = match along {
            Along::Rows => (view.rows, view.columns),
            Along::Columns => (view.columns, view.rows),
        };
        self.reshape(simd, rows, k, digits);
        let sizes = (self.panel_words(), digits * self.chunks * PANEL);
        let words = self.words.par_chunks_exact_mut(sizes.0);
        let panels = words.zip(self.scales.par_chunks_exact_mut(PANEL)).zip(self.sums.par_chunks_exact_mut(sizes.1));
        panels.enumerate().for_each(|(panel, ((words, scales), sums))| {
            pack_panel(simd, &view, along, panel, PanelMut { words, scales, sums, digits, rounding });
        });
    }
}

/// Which lines of the source become rows of the packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    Rows,
    Columns,
}

struct PanelMut<'a> {
    words: &'a mut [u32],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    digits: usize,
    rounding: Rounding,
}

/// 2^e and 2^−e for a row whose largest magnitude has the bits `peak`.
#[inline(always)]
fn scale_of(peak: u32, digits: usize) -> (f32, f32) {
    let below = if digits == 1 { 6 } else { 14 };
    let field = peak >> 23;
    if field == 0 {
        return (1.0, 1.0);
    }
    (f32::from_bits((field - below) << 23), f32::from_bits((254 + below - field) << 23))
}

/// The digits' largest absolute value of q.
#[inline(always)]
const fn limit(digits: usize) -> i32 {
    if digits == 1 { 127 } else { 32_639 }
}

/// x · 2^−e to the nearest integer, ties to even. The product is exact unless it is far under ½.
#[inline(always)]
fn nearest(x: f32, inverse: f32, digits: usize) -> i32 {
    let shifted = x * inverse + ROUNDER;
    (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32).clamp(-limit(digits), limit(digits))
}

/// x · 2^−e up or down at random. The conversion cuts off; all products are exact or under its last bit.
#[inline(always)]
fn stochastic(x: f32, inverse: f32, digits: usize, random: u32) -> i32 {
    let fraction_bits = if digits == 1 { 24 } else { 16 };
    let unit = f32::from_bits((127 + fraction_bits) << 23);
    let fixed = ((f32::from_bits(magnitude(x)) * inverse) * unit) as i32 as u32;
    let rounded = (fixed.wrapping_add(random >> (32 - fraction_bits)) >> fraction_bits) as i32;
    let sign = x.to_bits() as i32 >> 31;
    (rounded.min(limit(digits)) ^ sign) - sign
}

#[inline(always)]
fn quantize(x: f32, inverse: f32, digits: usize, rounding: Rounding, index: u32) -> i32 {
    match rounding {
        Rounding::Nearest => nearest(x, inverse, digits),
        Rounding::Stochastic(key) => stochastic(x, inverse, digits, mix(key, index)),
    }
}

/// The upper digit of a two-digit q; the lower one is q − 256·upper, in −128..=127.
#[inline(always)]
fn upper(q: i32) -> i32 {
    (q + 128) >> 8
}

#[inline(always)]
fn word<const GROUP: usize>(digits: [i32; GROUP]) -> u32 {
    let width = 32 / GROUP;
    let mut word = 0;
    for (place, &digit) in digits.iter().enumerate() {
        word |= (digit as u32 & (u32::MAX >> (32 - width))) << (place * width);
    }
    word
}

fn pack_panel(simd: Simd, view: &View<'_>, along: Along, panel: usize, into: PanelMut<'_>) {
    match (along, simd.group()) {
        (Along::Rows, 4) => pack_rows_panel::<4>(simd, view, panel, into),
        (Along::Rows, _) => pack_rows_panel::<2>(simd, view, panel, into),
        (Along::Columns, 4) => pack_columns_by_four(simd, view, panel, into),
        (Along::Columns, _) => pack_columns_by_two(simd, view, panel, into),
    }
}

fn pack_rows_panel<const GROUP: usize>(simd: Simd, view: &View<'_>, panel: usize, into: PanelMut<'_>) {
    let PanelMut { words, scales, sums, digits, rounding } = into;
    let groups = view.columns.div_ceil(GROUP);
    let chunks = view.columns.div_ceil(CHUNK);
    let rows = (view.rows - panel * PANEL).min(PANEL);
    if rows < PANEL {
        words.fill(0);
        scales.fill(1.0);
        sums.fill(0);
    }
    // Digits of a piece of a row; pieces divide chunks and are divided by groups.
    const PIECE: usize = 512;
    let mut piece = [0i32; PIECE];
    for (row, scale_out) in scales.iter_mut().enumerate().take(rows) {
        let start = (panel * PANEL + row) * view.stride;
        let source = &view.values[start..start + view.columns];
        let (scale, inverse) = scale_of(row_peak(simd, source), digits);
        *scale_out = scale;
        for digit in 0..digits {
            for chunk in 0..chunks {
                sums[(digit * chunks + chunk) * PANEL + row] = 0;
            }
        }
        for (number, values) in source.chunks(PIECE).enumerate() {
            let index = view.index.wrapping_add((start + number * PIECE) as u32);
            quantize_run(simd, values, inverse, digits, rounding, index, &mut piece);
            piece[values.len()..].fill(0);
            let length = values.len().div_ceil(GROUP) * GROUP;
            let first = number * PIECE / GROUP;
            for digit in 0..digits {
                let sum = &mut sums[(digit * chunks + number * PIECE / CHUNK) * PANEL + row];
                let to = &mut words[(digit * groups + first) * PANEL..];
                *sum += write_words::<GROUP>(simd, &piece[..length], (digits, digit), row, to);
            }
        }
    }
}

dispatch! {
    fn row_peak(values: &[f32]) -> u32 {
        crate::arithmetic::peak(values)
    }
}

dispatch! {
    fn quantize_run(values: &[f32], inverse: f32, digits: usize, rounding: Rounding, index: u32, out: &mut [i32; 512]) {
        // Constants for the inner loops, so that they vectorise without a branch.
        match (digits, rounding) {
            (1, Rounding::Nearest) => {
                for (q, &x) in out.iter_mut().zip(values) {
                    *q = nearest(x, inverse, 1);
                }
            }
            (1, Rounding::Stochastic(key)) => {
                for (at, (q, &x)) in out.iter_mut().zip(values).enumerate() {
                    *q = stochastic(x, inverse, 1, mix(key, index.wrapping_add(at as u32)));
                }
            }
            (_, rounding) => {
                for (at, (q, &x)) in out.iter_mut().zip(values).enumerate() {
                    *q = quantize(x, inverse, 2, rounding, index.wrapping_add(at as u32));
                }
            }
        }
    }
}

/// Writes one digit of a run of integers as words of row `row`; the sum of those digits.
#[inline(always)]
fn write_words<const GROUP: usize>(
    simd: Simd,
    run: &[i32],
    (digits, digit): (usize, usize),
    row: usize,
    to: &mut [u32],
) -> i32 {
    let mut digit_run = [0i32; 512];
    let sum = take_digit(simd, run, (digits, digit), &mut digit_run);
    for (group, values) in digit_run[..run.len()].chunks_exact(GROUP).enumerate() {
        let mut each = [0; GROUP];
        each.copy_from_slice(values);
        to[group * PANEL + row] = word(each);
    }
    sum
}

dispatch! {
    fn take_digit(run: &[i32], which: (usize, usize), out: &mut [i32; 512]) -> i32 {
        let mut sum = 0;
        for (digit, &q) in out.iter_mut().zip(run) {
            *digit = match which {
                (1, _) => q,
                (_, 0) => upper(q),
                _ => q - (upper(q) << 8),
            };
            sum += *digit;
        }
        sum
    }
}

dispatch! {
    fn pack_columns_by_four(view: &View<'_>, panel: usize, into: PanelMut<'_>) {
        pack_columns_panel::<4>(view, panel, into);
    }
}

dispatch! {
    fn pack_columns_by_two(view: &View<'_>, panel: usize, into: PanelMut<'_>) {
        pack_columns_panel::<2>(view, panel, into);
    }
}

#[inline(always)]
fn pack_columns_panel<const GROUP: usize>(view: &View<'_>, panel: usize, into: PanelMut<'_>) {
    let PanelMut { words, scales, sums, digits, rounding } = into;
    let first = panel * PANEL;
    let columns = (view.columns - first).min(PANEL);
    let mut peaks = [0u32; PANEL];
    for row in 0..view.rows {
        let line = load_line(view, row, first, columns);
        for lane in 0..PANEL {
            peaks[lane] = peaks[lane].max(magnitude(line[lane]));
        }
    }
    let mut inverses = [1.0; PANEL];
    for lane in 0..PANEL {
        (scales[lane], inverses[lane]) = scale_of(peaks[lane], digits);
    }
    sums.fill(0);
    match (digits, rounding) {
        (1, Rounding::Nearest) => pack_lines::<GROUP, 1>(view, first, columns, words, sums, |x, lane, _| {
            nearest(x, inverses[lane], 1)
        }),
        (1, Rounding::Stochastic(key)) => pack_lines::<GROUP, 1>(view, first, columns, words, sums, |x, lane, index| {
            stochastic(x, inverses[lane], 1, mix(key, index))
        }),
        (_, rounding) => pack_lines::<GROUP, 2>(view, first, columns, words, sums, |x, lane, index| {
            quantize(x, inverses[lane], 2, rounding, index)
        }),
    }
}

#[inline(always)]
fn load_line(view: &View<'_>, row: usize, first: usize, columns: usize) -> [f32; PANEL] {
    let mut line = [0.0; PANEL];
    let start = row * view.stride + first;
    if columns == PANEL {
        line.copy_from_slice(&view.values[start..start + PANEL]);
    } else {
        line[..columns].copy_from_slice(&view.values[start..start + columns]);
    }
    line
}

#[inline(always)]
fn pack_lines<const GROUP: usize, const DIGITS: usize>(
    view: &View<'_>,
    first: usize,
    columns: usize,
    words: &mut [u32],
    sums: &mut [i32],
    to_integer: impl Fn(f32, usize, u32) -> i32,
) {
    let groups = view.rows.div_ceil(GROUP);
    let chunks = view.rows.div_ceil(CHUNK);
    let mut totals = [[0i32; PANEL]; DIGITS];
    for group in 0..groups {
        let mut out = [[0u32; PANEL]; DIGITS];
        for place in 0..GROUP.min(view.rows - group * GROUP) {
            let row = group * GROUP + place;
            let line = load_line(view, row, first, columns);
            let index = view.index.wrapping_add((row * view.stride + first) as u32);
            for lane in 0..PANEL {
                let q = to_integer(line[lane], lane, index.wrapping_add(lane as u32));
                let hi = if DIGITS == 1 { q } else { upper(q) };
                let digits = [hi, q - (hi << 8)];
                for digit in 0..DIGITS {
                    let mut each = [0; GROUP];
                    each[place] = digits[digit];
                    out[digit][lane] |= word(each);
                    totals[digit][lane] += digits[digit];
                }
            }
        }
        for digit in 0..DIGITS {
            words[(digit * groups + group) * PANEL..][..PANEL].copy_from_slice(&out[digit]);
        }
        let end = ((group + 1) * GROUP).min(view.rows);
        if end.is_multiple_of(CHUNK) || end == view.rows {
            for digit in 0..DIGITS {
                let at = (digit * chunks + (end - 1) / CHUNK) * PANEL;
                sums[at..at + PANEL].copy_from_slice(&totals[digit]);
                totals[digit] = [0; PANEL];
            }
        }
    }
}
