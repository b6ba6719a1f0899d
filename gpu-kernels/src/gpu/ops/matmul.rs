//! Launchers of `pack_rows`, `pack_columns` and `matmul`. A matrix that no binding holds is
//! packed, or computed, window by window of its rows.

use super::{GROUP_ROWS, elementwise, word};
use crate::buffers::Buffer;
use crate::cpu::pack::Along;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;
use crate::gpu::tiling::{PIECE, Product, Tiling, is_wide};
use std::ops::Range;

/// Equal row-major matrices inside one tensor.
#[derive(Clone)]
pub(crate) struct Matrix {
    pub(crate) buffer: Buffer,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    pub(crate) batches: usize,
    /// Elements from one matrix to the next.
    pub(crate) batch_stride: usize,
    /// Of the first element in the buffer.
    pub(crate) offset: usize,
    /// Of the first element in the tensor whose elements key the random bits.
    pub(crate) index: u32,
}

impl Matrix {
    /// One matrix without gaps from `offset` on.
    pub(crate) fn whole(buffer: &Buffer, offset: usize, rows: usize, columns: usize) -> Self {
        Self {
            buffer: buffer.clone(),
            rows,
            columns,
            stride: columns,
            batches: 1,
            batch_stride: rows * columns,
            offset,
            index: 0,
        }
    }

    fn check(&self) {
        let last = self.offset + (self.batches - 1) * self.batch_stride + (self.rows - 1) * self.stride + self.columns;
        assert!(last <= self.buffer.len, "a matrix ends at {last} in a tensor of {}", self.buffer.len);
    }

    /// The elements of all batches, from the first to the last.
    fn extent(&self) -> Range<usize> {
        let last = (self.batches - 1) * self.batch_stride + (self.rows - 1) * self.stride + self.columns;
        self.offset..self.offset + last
    }

    /// Windows of as many rows as can be bound, each but the last a multiple of `step`; without
    /// need, the whole.
    fn windows(&self, step: usize) -> Vec<(Range<usize>, Self)> {
        if self.extent().len() <= self.buffer.elements_max(1) {
            let (buffer, offset) = self.buffer.window(self.extent());
            return vec![(0..self.rows, Self { buffer, offset, ..self.clone() })];
        }
        assert_eq!(self.batches, 1, "batches are made to fit");
        let rows = (self.buffer.elements_max(1) / self.stride / step).max(1) * step;
        let window = |first: usize| {
            let range = first..(first + rows).min(self.rows);
            let start = first * self.stride;
            let part = Self { rows: range.len(), offset: self.offset + start, ..self.clone() };
            let (buffer, offset) = self.buffer.window(part.extent());
            (range, Self { buffer, offset, index: self.index.wrapping_add(start as u32), ..part })
        };
        (0..self.rows).step_by(rows).map(window).collect()
    }
}

/// How elements become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    /// With this pair of words of the key tensor.
    Stochastic(usize),
}

/// Row-scaled digits: `[batch][row][digit][piece][word]`, 4 digits a word, 4 words a piece.
#[derive(Clone)]
pub(crate) struct Packed {
    pub(crate) words: Buffer,
    pub(crate) scales: Buffer,
    pub(crate) rows: usize,
    /// Elements of a row.
    pub(crate) k: usize,
    pub(crate) digits: usize,
    pub(crate) batches: usize,
}

/// Words that packing such matrices takes.
pub(crate) fn packed_words(rows: usize, k: usize, digits: usize, batches: usize) -> usize {
    batches * rows * digits * k.div_ceil(PIECE) * PIECE / 4
}

impl Packed {
    /// What packing `matrix` into these buffers gives.
    pub(crate) fn of(matrix: &Matrix, along: Along, digits: usize, words: &Buffer, scales: &Buffer) -> Self {
        let (rows, k) = match along {
            Along::Rows => (matrix.rows, matrix.columns),
            Along::Columns => (matrix.columns, matrix.rows),
        };
        assert!(packed_words(rows, k, digits, matrix.batches) <= words.len && matrix.batches * rows <= scales.len);
        Self { words: words.clone(), scales: scales.clone(), rows, k, digits, batches: matrix.batches }
    }

    /// Pieces of one digit of a row.
    pub(crate) fn pieces(&self) -> usize {
        self.k.div_ceil(PIECE)
    }
}

/// What `pack` does with a window: phases of `shaders/parts/pack.wgsl`.
#[derive(Clone, Copy)]
enum Phase {
    Whole,
    FirstPeaks,
    MorePeaks,
    Words,
    LastWords,
}

/// Packs matrices along an axis.
pub(crate) fn pack(matrix: &Matrix, along: Along, rounding: Rounding, keys: &Buffer, into: &Packed) -> Vec<Dispatch> {
    matrix.check();
    assert_eq!(into.batches, matrix.batches);
    let windows = matrix.windows(PIECE);
    let launch = |(rows, window): &(Range<usize>, Matrix), phase| {
        pack_window(window, along, rounding, keys, into, (rows.start, phase))
    };
    if along == Along::Rows || windows.len() == 1 {
        return windows.iter().map(|window| launch(window, Phase::Whole)).collect();
    }
    let last = windows.len() - 1;
    let peaks = |number| if number == 0 { Phase::FirstPeaks } else { Phase::MorePeaks };
    let words = |number| if number == last { Phase::LastWords } else { Phase::Words };
    let first = windows.iter().enumerate().map(|(number, window)| launch(window, peaks(number)));
    first.chain(windows.iter().enumerate().map(|(number, window)| launch(window, words(number)))).collect()
}

fn pack_window(
    matrix: &Matrix,
    along: Along,
    rounding: Rounding,
    keys: &Buffer,
    into: &Packed,
    (first_row, phase): (usize, Phase),
) -> Dispatch {
    let (stochastic, key) = match rounding {
        Rounding::Nearest => (false, 0),
        Rounding::Stochastic(key) => (true, key),
    };
    let digits = word(into.digits);
    let (kernel, lines, first_line, first_piece) = match along {
        Along::Rows => (Kernel::PackRows { digits, stochastic }, matrix.rows, first_row, 0),
        Along::Columns => (Kernel::PackColumns { digits, stochastic }, matrix.columns, 0, first_row / PIECE),
    };
    let groups = (matrix.batches * lines).div_ceil(GROUP_ROWS);
    let params = vec![
        word(matrix.rows),
        word(matrix.columns),
        word(matrix.stride),
        word(matrix.batches),
        word(matrix.batch_stride),
        word(matrix.offset),
        // The shader adds the place of an element to this, as it does to `offset`.
        matrix.index,
        word(key),
        word(first_line),
        word(first_piece),
        word(into.pieces()),
        phase as u32,
    ];
    let buffers = vec![matrix.buffer.clone(), keys.clone(), into.words.clone(), into.scales.clone()];
    let operations = 2 * elementwise(matrix.batches * matrix.rows * matrix.columns);
    Dispatch { kernel, params, buffers, groups, operations }
}

/// Writes the products of left batch i and right batch i / `right_share` to the matrices of
/// `out`. The tiling changes no bit.
pub(crate) fn matmul(
    left: &Packed,
    right: &Packed,
    right_share: usize,
    out: &Matrix,
    (slot, tiling): (u32, Tiling),
) -> Vec<Dispatch> {
    out.check();
    assert_eq!(left.k, right.k, "operands must share the contracted axis");
    assert_eq!((left.rows, right.rows, left.batches), (out.rows, out.columns, out.batches));
    assert_eq!(right.batches * right_share, left.batches);
    let [tile_rows, _] = tiling.tile();
    let product = Product {
        left_digits: left.digits as u8,
        right_digits: right.digits as u8,
        wide: is_wide(left.digits, right.digits, left.k),
        tiling,
    };
    let launch = |(rows, out): (Range<usize>, Matrix)| {
        let params = vec![
            word(out.rows),
            word(out.columns),
            word(left.pieces()),
            word(out.batches),
            word(right_share),
            word(rows.start),
            word(out.offset),
            word(out.stride),
            word(out.batch_stride),
            slot,
        ];
        let operands = [&left.words, &left.scales, &right.words, &right.scales].map(Buffer::clone);
        let buffers = operands.into_iter().chain([out.buffer.clone()]).collect();
        let groups = tiling.groups(out.rows, out.columns, out.batches);
        let pairs = left.digits * right.digits;
        let operations = (out.batches * out.rows * pairs) as u64 * (out.columns * left.k) as u64;
        Dispatch { kernel: Kernel::Matmul(product), params, buffers, groups, operations }
    };
    out.windows(tile_rows).into_iter().map(launch).collect()
}
