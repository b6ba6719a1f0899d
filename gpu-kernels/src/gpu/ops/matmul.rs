//! Launchers of `pack_rows`, `pack_columns`, `matmul` and `matmul_sum`. What no binding holds, matrices and
//! packed operands, is packed and multiplied window by window.

use super::{GROUP_ELEMENTS, GROUP_ROWS, elementwise, word};
use crate::buffers::Buffer;
use crate::cpu::pack::Along;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::{Dispatch, NO_SLOT};
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

    /// Whether each row consists of fours of elements that a device can read at once.
    fn has_fours(&self) -> bool {
        [self.offset, self.columns, self.stride, self.batch_stride].iter().all(|number| number.is_multiple_of(4))
    }

    /// Rows that can be bound at once; all of them if the whole can.
    fn rows_max(&self) -> usize {
        if self.buffer.binds(&self.extent()) {
            return self.rows;
        }
        assert_eq!(self.batches, 1, "batches are made to fit");
        self.buffer.elements_max(1) / self.stride
    }

    /// These rows and columns of each batch, in as small a window of the tensor as holds them.
    fn part(&self, rows: &Range<usize>, columns: &Range<usize>) -> Self {
        let start = rows.start * self.stride + columns.start;
        let part = Self { rows: rows.len(), columns: columns.len(), offset: self.offset + start, ..self.clone() };
        let (buffer, offset) = self.buffer.window(part.extent());
        Self { buffer, offset, index: self.index.wrapping_add(start as u32), ..part }
    }
}

/// `total` in pieces of at most `max`, each but the last a multiple of `step` if that is possible.
fn pieces(total: usize, max: usize, step: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    assert!(max > 0, "the memory plan makes sure that something fits");
    let length = if max >= total || max < step { max } else { max / step * step };
    (0..total).step_by(length).map(move |first| first..(first + length).min(total))
}

/// How elements become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    /// With this pair of words of the key tensor.
    Stochastic(usize),
}

/// Packed rows between places where every device lets a binding of words or scales begin.
const WINDOW_ROWS: usize = 64;

/// Words that a device must bind at once to work with rows of so many elements and digits.
pub(crate) fn window_words_min(k: usize, digits: usize) -> usize {
    packed_words(WINDOW_ROWS, k, digits, 1)
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

    fn row_words(&self) -> usize {
        packed_words(1, self.k, self.digits, 1)
    }

    /// Rows of each batch that can be bound at once, from a multiple of [`WINDOW_ROWS`] on; all if
    /// the whole can, else such a multiple.
    fn rows_max(&self) -> usize {
        let fitting = (self.words.window_max / self.row_words()).min(self.scales.window_max);
        if self.batches * self.rows <= fitting {
            return self.rows;
        }
        assert_eq!(self.batches, 1, "batches are made to fit");
        fitting / WINDOW_ROWS * WINDOW_ROWS
    }

    /// The rows in pieces of at most `max` that can be bound, multiples of `step` if that is possible.
    fn windows(&self, max: usize, step: usize) -> impl Iterator<Item = Range<usize>> + Clone {
        let own_max = self.rows_max();
        match max.min(own_max) {
            max if own_max == self.rows => pieces(self.rows, max, step),
            max if max < WINDOW_ROWS => pieces(self.rows, max.min(own_max + 1 - WINDOW_ROWS), 1),
            max => pieces(self.rows, max / WINDOW_ROWS * WINDOW_ROWS, step.max(WINDOW_ROWS)),
        }
    }

    /// These rows and up to [`WINDOW_ROWS`] before them, and where they begin; of several batches, all.
    fn part(&self, rows: &Range<usize>) -> (Self, usize) {
        assert!(self.batches == 1 || rows.len() == self.rows);
        let start = rows.start / WINDOW_ROWS * WINDOW_ROWS;
        let end = rows.start + self.batches * rows.len();
        let (words, first_word) = self.words.window(start * self.row_words()..end * self.row_words());
        let (scales, first_scale) = self.scales.window(start..end);
        assert_eq!((first_word, first_scale), (0, 0), "packed operands begin where a binding can");
        (Self { words, scales, ..self.clone() }, rows.start - start)
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
    let packed_rows = if along == Along::Rows { matrix.rows } else { matrix.columns };
    assert_eq!((into.batches, into.rows), (matrix.batches, packed_rows));
    let (all_rows, all_columns) = (0..matrix.rows, 0..matrix.columns);
    let launch = |rows: &Range<usize>, columns: &Range<usize>, phase| {
        pack_window(matrix, (rows, columns), (along, rounding, keys), into, phase)
    };
    if along == Along::Rows {
        let windows = into.windows(matrix.rows_max(), WINDOW_ROWS);
        return windows.map(|rows| launch(&rows, &all_columns, Phase::Whole)).collect();
    }
    let mut dispatches = Vec::new();
    for columns in into.windows(matrix.columns, WINDOW_ROWS) {
        let rows_max = matrix.rows_max();
        if rows_max >= matrix.rows {
            dispatches.push(launch(&all_rows, &columns, Phase::Whole));
            continue;
        }
        assert!(rows_max >= PIECE, "the memory plan makes sure that a piece of each column fits");
        let windows = pieces(matrix.rows, rows_max, PIECE);
        let peaks = |first| if first == 0 { Phase::FirstPeaks } else { Phase::MorePeaks };
        let words = |end| if end == matrix.rows { Phase::LastWords } else { Phase::Words };
        dispatches.extend(windows.clone().map(|rows| launch(&rows, &columns, peaks(rows.start))));
        dispatches.extend(windows.map(|rows| launch(&rows, &columns, words(rows.end))));
    }
    dispatches
}

fn pack_window(
    matrix: &Matrix,
    (rows, columns): (&Range<usize>, &Range<usize>),
    (along, rounding, keys): (Along, Rounding, &Buffer),
    into: &Packed,
    phase: Phase,
) -> Dispatch {
    let (stochastic, key) = match rounding {
        Rounding::Nearest => (false, 0),
        Rounding::Stochastic(key) => (true, key),
    };
    let digits = word(into.digits);
    let window = matrix.part(rows, columns);
    let (kernel, lines, first_piece) = match along {
        Along::Rows => (Kernel::PackRows { digits, stochastic, fours: window.has_fours() }, rows, 0),
        Along::Columns => (Kernel::PackColumns { digits, stochastic }, columns, rows.start / PIECE),
    };
    let (into, first_line) = into.part(lines);
    let groups = (window.batches * lines.len()).div_ceil(GROUP_ROWS);
    let params = vec![
        word(window.rows),
        word(window.columns),
        word(window.stride),
        word(window.batches),
        word(window.batch_stride),
        word(window.offset),
        // The shader adds the place of an element to this, as it does to `offset`.
        window.index,
        word(key),
        word(first_line),
        word(first_piece),
        word(into.pieces()),
        phase as u32,
    ];
    let operations = 2 * elementwise(window.batches * window.rows * window.columns);
    let buffers = vec![window.buffer, keys.clone(), into.words, into.scales];
    Dispatch { kernel, params, buffers, groups, operations }
}

/// How a product is computed; no bit depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) tiling: Tiling,
    /// Space for the sums of parts, where the tiling has several.
    pub(crate) sums: Option<&'a Buffer>,
}

/// Writes the products of left batch i and right batch i / `right_share` to the matrices of `out`.
pub(crate) fn matmul(
    left: &Packed,
    right: &Packed,
    right_share: usize,
    out: &Matrix,
    (slot, way): (u32, Way<'_>),
) -> Vec<Dispatch> {
    out.check();
    assert_eq!(left.k, right.k, "operands must share the contracted axis");
    assert_eq!((left.rows, right.rows, left.batches), (out.rows, out.columns, out.batches));
    assert_eq!(right.batches * right_share, left.batches);
    let digits = [left.digits, right.digits];
    let product = Product::new(digits, is_wide(digits[0], digits[1], left.k), way.tiling);
    let [tile_rows, tile_columns] = product.tiling.tile();
    let columns = right.windows(out.columns, tile_columns);
    left.windows(out.rows_max(), tile_rows)
        .flat_map(|rows| columns.clone().map(move |columns| (rows.clone(), columns)))
        .flat_map(|(rows, columns)| {
            let (left, first_row) = left.part(&rows);
            let (right, first_column) = right.part(&columns);
            assert_eq!(first_column, 0, "right operands are cut where a binding can begin");
            window_of_product((left, first_row), right, right_share, out.part(&rows, &columns), (slot, product, way))
        })
        .collect()
}

/// The product of operands that are bound at once, of the left one from `first_row` on.
fn window_of_product(
    (left, first_row): (Packed, usize),
    right: Packed,
    right_share: usize,
    out: Matrix,
    (slot, product, way): (u32, Product, Way<'_>),
) -> Vec<Dispatch> {
    let (tiling, elements) = (product.tiling, out.rows * out.columns);
    let sums = (tiling.splits > 1).then(|| {
        assert_eq!(out.batches, 1, "only single products are split");
        let space = way.sums.expect("who splits has space for the sums");
        space.window(0..tiling.sum_words(elements)).0
    });
    let (offset, stride, own_slot) =
        if sums.is_some() { (0, out.columns, NO_SLOT) } else { (out.offset, out.stride, slot) };
    let params = vec![
        word(out.rows),
        word(out.columns),
        word(left.pieces()),
        word(out.batches),
        word(right_share),
        word(first_row),
        word(offset),
        word(stride),
        word(out.batch_stride),
        own_slot,
    ];
    let into = sums.as_ref().unwrap_or(&out.buffer).clone();
    let scales = [left.scales.clone(), right.scales.clone()];
    let buffers = vec![left.words.clone(), left.scales, right.words, right.scales, into];
    let pairs = left.digits * right.digits;
    let operations = (out.batches * out.rows * pairs) as u64 * (out.columns * left.k) as u64;
    let groups = tiling.groups(out.rows, out.columns, out.batches);
    let mut dispatches = vec![Dispatch { kernel: Kernel::Matmul(product), params, buffers, groups, operations }];
    dispatches.extend(sums.map(|sums| {
        let parts = usize::from(tiling.splits);
        let extents = [elements, out.columns, parts, first_row, out.offset, out.stride];
        let params = extents.into_iter().map(word).chain([slot]).collect();
        let [left_scales, right_scales] = scales;
        let buffers = vec![sums, left_scales, right_scales, out.buffer];
        let (groups, operations) = (elements.div_ceil(GROUP_ELEMENTS), elementwise(elements));
        Dispatch { kernel: Kernel::MatmulSum, params, buffers, groups, operations }
    }));
    dispatches
}
