//! Row-scaled integers in the order in which the product kernels read them.
//!
//! A 32-bit word holds a group of the contracted axis: four consecutive i8, or
//! two i16 where the kernel wants those. Rows stand in panels of 16: digit after
//! digit and group after group, one word for each row of the panel. Only left
//! operands that are packed along their rows keep each row's words together,
//! which spares a transposition. The order in memory is no part of the arithmetic.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod words;

use super::quantize::{Rounding, digit_of, quantize_line, scale_of};
use super::rows::{Written, largest};
use super::simd::Simd;
use super::softmax::REACH;
use crate::arithmetic::magnitude;
use rayon::prelude::*;
use words::Words;

/// Rows in a panel.
pub(crate) const PANEL: usize = 16;

/// Elements of the contracted axis after which 32-bit sums are spilled.
pub(crate) const CHUNK: usize = 1 << 16;

/// Panels that are packed together when columns become rows.
const BLOCK_PANELS: usize = 4;
/// Rows in such a block.
pub(crate) const BLOCK: usize = BLOCK_PANELS * PANEL;
/// Tasks for each thread, if there are as many panels.
const TASKS_PER_THREAD: usize = 2;
/// Elements of a row that are rounded at once; divides [`CHUNK`].
const PIECE: usize = 512;

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
    /// If given, row r is known to be zero behind column `first + r` as far as [`REACH`] says, and to be
    /// multiplied only by products of the same [`Triangle`], which do not look further.
    pub(crate) triangle: Option<Triangle>,
    /// The largest magnitude in each row, where it is known.
    pub(crate) peaks: Option<&'a [u32]>,
}

/// The lower left part of a matrix of scores, or of some of its rows: row r is
/// valid up to column `first + r`. `first` is a multiple of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Triangle {
    pub(crate) first: usize,
}

impl<'a> View<'a> {
    /// A whole row-major matrix.
    pub(crate) fn whole(values: &'a [f32], rows: usize, columns: usize) -> Self {
        debug_assert_eq!(values.len(), rows * columns);
        Self { values, rows, columns, stride: columns, index: 0, triangle: None, peaks: None }
    }

    /// How many columns of `row` need to be packed: what may be looked at.
    fn reach(&self, row: usize) -> usize {
        let reach = |triangle: Triangle| (triangle.first + row + 1).next_multiple_of(REACH).min(self.columns);
        self.triangle.map_or(self.columns, reach)
    }

    /// The first row that needs to be packed of columns from `column`, a multiple of 64.
    fn begin(&self, column: usize) -> usize {
        self.triangle.map_or(0, |triangle| column.saturating_sub(triangle.first))
    }

    /// `columns` elements of `row` from `first`, and the index of the first of them.
    #[inline(always)]
    fn line(&self, row: usize, first: usize, columns: usize) -> (&'a [f32], u32) {
        let start = row * self.stride + first;
        (&self.values[start..start + columns], self.index.wrapping_add(start as u32))
    }
}

/// Which lines of the source become rows of the packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    Rows,
    Columns,
}

/// Which operand of a product the matrix becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// How to pack: everything but the matrix itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    pub(crate) side: Side,
    pub(crate) along: Along,
    /// 1 or 2.
    pub(crate) digits: usize,
    pub(crate) rounding: Rounding,
}

impl Packing {
    pub(crate) fn left(along: Along, digits: usize, rounding: Rounding) -> Self {
        Self { side: Side::Left, along, digits, rounding }
    }

    pub(crate) fn right(along: Along, digits: usize, rounding: Rounding) -> Self {
        Self { side: Side::Right, along, digits, rounding }
    }

    /// Whether the words of a row stand together.
    fn row_major(&self) -> bool {
        (self.side, self.along) == (Side::Left, Along::Rows)
    }

    /// Whether bytes are stored larger by 128, as the unsigned operand of a dot product.
    #[cfg(target_arch = "x86_64")]
    fn offset(&self) -> bool {
        self.side == Side::Right
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
    /// Whether `words` are `[row][digit][group]` instead of `[panel][digit][group][row in panel]`.
    pub(crate) row_major: bool,
    pub(crate) words: Words,
    /// 2^e of each row; 1 in padding.
    pub(crate) scales: Vec<f32>,
    /// `[panel][digit][chunk][row in panel]`: sums of digits, for kernels that offset one operand.
    pub(crate) sums: Vec<i32>,
}

/// Some whole panels of a [`Packed`].
struct Panels<'a> {
    words: &'a mut [u32],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Packed {
    /// Takes the shape that packing `view` needs; the length of a panel's words and sums.
    fn reshape(&mut self, simd: Simd, view: &View<'_>, packing: &Packing) -> (usize, usize) {
        let digits = packing.digits;
        let (rows, k) = match packing.along {
            Along::Rows => (view.rows, view.columns),
            Along::Columns => (view.columns, view.rows),
        };
        let panels = rows.div_ceil(PANEL);
        self.rows = rows;
        self.k = k;
        self.groups = k.div_ceil(simd.group());
        self.chunks = k.div_ceil(CHUNK);
        self.digits = digits;
        self.row_major = packing.row_major();
        let (words, sums) = (digits * self.groups * PANEL, digits * self.chunks * PANEL);
        self.words.resize(panels * words);
        self.scales.resize(panels * PANEL, 1.0);
        self.sums.resize(panels * sums, 0);
        (words, sums)
    }

    /// Whether words, scales and sums are as many as the shape says.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_whole(&self) -> bool {
        let panels = self.rows.div_ceil(PANEL);
        self.digits > 0
            && self.words.len() >= panels * self.digits * self.groups * PANEL
            && self.sums.len() >= panels * self.digits * self.chunks * PANEL
            && self.scales.len() >= panels * PANEL
    }

    /// Packs 64 columns of `view` from number 64·`block` on: this becomes a matrix of as many rows.
    pub(crate) fn pack_columns_of(&mut self, simd: Simd, view: View<'_>, block: usize, packing: Packing) {
        debug_assert_eq!(packing.along, Along::Columns);
        let first = block * BLOCK;
        self.reshape(simd, &View { columns: (view.columns - first).min(BLOCK), ..view }, &packing);
        let Self { words, scales, sums, .. } = self;
        pack_block(simd, &view, first, &packing, Panels { words, scales, sums });
    }

    /// Packs `view` on the calling thread.
    pub(crate) fn pack(&mut self, simd: Simd, view: View<'_>, packing: Packing) {
        let (words, sums) = self.reshape(simd, &view, &packing);
        let words = self.words.chunks_mut(BLOCK_PANELS * words);
        let blocks = words.zip(self.scales.chunks_mut(BLOCK)).zip(self.sums.chunks_mut(BLOCK_PANELS * sums));
        for (block, ((words, scales), sums)) in blocks.enumerate() {
            pack_block(simd, &view, block * BLOCK, &packing, Panels { words, scales, sums });
        }
    }

    /// Packs `rows` rows of `columns` elements along their rows, each panel when a task has written it; the largest
    /// magnitudes, and what else the tasks tell.
    pub(crate) fn pack_written<'a, 'b, T: Send>(
        &'a mut self,
        simd: Simd,
        (rows, columns): (usize, usize),
        packing: Packing,
        written: impl Written<'b, T> + 'a,
    ) -> impl ParallelIterator<Item = (u32, T)> {
        debug_assert_eq!(packing.along, Along::Rows);
        let shape = View { values: &[], rows, columns, stride: columns, index: 0, triangle: None, peaks: None };
        let (words, sums) = self.reshape(simd, &shape, &packing);
        let panels = self.words.par_chunks_mut(words).zip(self.scales.par_chunks_mut(PANEL));
        let panels = panels.zip(self.sums.par_chunks_mut(sums));
        written.zip_eq(panels).enumerate().map(move |(panel, ((values, peaks, told), ((words, scales), sums)))| {
            let index = (panel * PANEL * columns) as u32;
            let view = View { index, peaks: Some(&peaks), ..View::whole(values, values.len() / columns, columns) };
            pack_block(simd, &view, 0, &packing, Panels { words, scales, sums });
            (largest(&peaks), told)
        })
    }

    /// [`Packed::pack`] on all threads of the current pool.
    pub(crate) fn pack_parallel(&mut self, simd: Simd, view: View<'_>, packing: Packing) {
        let (words, sums) = self.reshape(simd, &view, &packing);
        // Smaller tasks where there would be too few: a panel of columns is still a cache line of each row.
        let panels = self.rows.div_ceil(PANEL) / (TASKS_PER_THREAD * rayon::current_num_threads());
        let panels = panels.clamp(1, BLOCK_PANELS);
        let words = self.words.par_chunks_mut(panels * words);
        let tasks = words.zip(self.scales.par_chunks_mut(panels * PANEL)).zip(self.sums.par_chunks_mut(panels * sums));
        tasks.enumerate().for_each(|(task, ((words, scales), sums))| {
            pack_block(simd, &view, task * panels * PANEL, &packing, Panels { words, scales, sums });
        });
    }
}

/// Packs as many rows or columns from number `first` on as there are scales for, 64 at most.
fn pack_block(simd: Simd, view: &View<'_>, first: usize, packing: &Packing, into: Panels<'_>) {
    match (simd, packing.along) {
        #[cfg(target_arch = "x86_64")]
        (Simd::Avx512Vnni, _) => avx512::pack_block(view, first, packing, into),
        #[cfg(target_arch = "aarch64")]
        (Simd::NeonDot, Along::Rows) => pack_rows::<4>(view, first, packing, into),
        #[cfg(target_arch = "aarch64")]
        (Simd::NeonDot, Along::Columns) => pack_columns::<4>(view, first, packing, into),
        (_, Along::Rows) => rows_by_two(simd, view, first, packing, into),
        (_, Along::Columns) => columns_by_two(simd, view, first, packing, into),
    }
}

dispatch! {
    fn rows_by_two(view: &View<'_>, first: usize, packing: &Packing, into: Panels<'_>) {
        pack_rows::<2>(view, first, packing, into);
    }
}

dispatch! {
    fn columns_by_two(view: &View<'_>, first: usize, packing: &Packing, into: Panels<'_>) {
        pack_columns::<2>(view, first, packing, into);
    }
}

/// The digits of a group in one word, the first in the lowest bits.
#[inline(always)]
fn word<const GROUP: usize>(digits: &[i32]) -> u32 {
    let bits = 32 / GROUP;
    let mask = u32::MAX >> (32 - bits);
    (0..GROUP).fold(0, |word, place| word | (digits[place] as u32 & mask) << (place * bits))
}

/// Narrows the digits of a run to the words of its groups.
#[inline(always)]
fn write_words<const GROUP: usize>(digits: &[i32], words: &mut [u32]) {
    for (to, group) in words.iter_mut().zip(digits.chunks_exact(GROUP)) {
        *to = word::<GROUP>(group);
    }
}

#[inline(always)]
fn pack_rows<const GROUP: usize>(view: &View<'_>, first: usize, packing: &Packing, into: Panels<'_>) {
    let digits = packing.digits;
    let (groups, chunks) = (view.columns.div_ceil(GROUP), view.columns.div_ceil(CHUNK));
    let rows = (view.rows - first).min(into.scales.len());
    if rows < into.scales.len() {
        // Padding rows are all zero; buffers may hold another matrix's remains.
        let panel_words = digits * groups * PANEL;
        into.words[rows / PANEL * panel_words..].fill(0);
        into.scales[rows..].fill(1.0);
    }
    into.sums.fill(0);
    let (mut integers, mut one_digit) = ([0i32; PIECE], [0i32; PIECE]);
    let mut words = [0u32; PIECE];
    for row in 0..rows {
        let (line, index) = view.line(first + row, 0, view.reach(first + row));
        let peak = view.peaks.map_or_else(|| crate::arithmetic::peak(line), |peaks| peaks[first + row]);
        let (scale, inverse) = scale_of(peak, digits);
        into.scales[row] = scale;
        let (panel, lane) = (row / PANEL, row % PANEL);
        for (number, values) in line.chunks(PIECE).enumerate() {
            let piece_index = index.wrapping_add((number * PIECE) as u32);
            quantize_line(values, |_| inverse, (digits, packing.rounding), piece_index, &mut integers);
            let length = values.len().div_ceil(GROUP) * GROUP;
            integers[values.len()..length].fill(0);
            for digit in 0..digits {
                let mut sum = 0;
                for (out, &q) in one_digit[..length].iter_mut().zip(&integers[..length]) {
                    *out = digit_of(q, digits, digit);
                    sum += *out;
                }
                let plane = panel * digits + digit;
                into.sums[(plane * chunks + number * PIECE / CHUNK) * PANEL + lane] += sum;
                let group = number * PIECE / GROUP;
                if packing.row_major() {
                    let start = (row * digits + digit) * groups + group;
                    write_words::<GROUP>(&one_digit[..length], &mut into.words[start..start + length / GROUP]);
                } else {
                    write_words::<GROUP>(&one_digit[..length], &mut words);
                    let to = into.words[(plane * groups + group) * PANEL..].chunks_exact_mut(PANEL);
                    for (to, &word) in to.zip(&words[..length / GROUP]) {
                        to[lane] = word;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pack_columns<const GROUP: usize>(view: &View<'_>, first: usize, packing: &Packing, into: Panels<'_>) {
    let (digits, how) = (packing.digits, (packing.digits, packing.rounding));
    let (groups, chunks) = (view.rows.div_ceil(GROUP), view.rows.div_ceil(CHUNK));
    let columns = (view.columns - first).min(into.scales.len());
    let padded = into.scales.len();
    let mut peaks = [0u32; BLOCK];
    for row in view.begin(first)..view.rows {
        let (line, _) = view.line(row, first, columns);
        for (peak, &x) in peaks.iter_mut().zip(line) {
            *peak = (*peak).max(magnitude(x));
        }
    }
    let mut inverses = [1.0; BLOCK];
    for (lane, scale) in into.scales.iter_mut().enumerate() {
        (*scale, inverses[lane]) = scale_of(peaks[lane], digits);
    }
    let mut integers = [[0i32; BLOCK]; GROUP];
    let mut totals = [[0i32; BLOCK]; 2];
    let mut words = [0u32; BLOCK];
    for group in view.begin(first) / GROUP..groups {
        for (place, integers) in integers.iter_mut().enumerate() {
            let row = group * GROUP + place;
            if row < view.rows {
                let (line, index) = view.line(row, first, columns);
                quantize_line(line, |lane| inverses[lane], how, index, integers);
            } else {
                integers.fill(0);
            }
        }
        let end = ((group + 1) * GROUP).min(view.rows);
        for digit in 0..digits {
            for lane in 0..padded.min(BLOCK) {
                let each: [i32; GROUP] = std::array::from_fn(|place| digit_of(integers[place][lane], digits, digit));
                words[lane] = word::<GROUP>(&each);
                totals[digit][lane] += each.iter().sum::<i32>();
            }
            for (panel, words) in words[..padded].chunks_exact(PANEL).enumerate() {
                let at = ((panel * digits + digit) * groups + group) * PANEL;
                into.words[at..at + PANEL].copy_from_slice(words);
            }
            if end.is_multiple_of(CHUNK) || end == view.rows {
                for (panel, totals) in totals[digit][..padded].chunks_exact_mut(PANEL).enumerate() {
                    let at = ((panel * digits + digit) * chunks + (end - 1) / CHUNK) * PANEL;
                    into.sums[at..at + PANEL].copy_from_slice(totals);
                    totals.fill(0);
                }
            }
        }
    }
}
