//! Launchers of `pack_rows`, `pack_columns` and `matmul`.

use super::word;
use crate::buffers::Buffer;
use crate::cpu::pack::Along;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// Sides of the tile that a workgroup computes.
pub(crate) const TILES: [usize; 2] = [32, 64];
/// Large tiles must be at least this many, or small ones keep more of a device busy.
const LARGE_TILES_MIN: usize = 128;
/// Columns that a workgroup of `pack_columns` packs.
const COLUMNS: usize = 16;

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
}

/// How elements become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    /// With this pair of words of the key tensor.
    Stochastic(usize),
}

/// Row-scaled digits: `[batch][row][digit][group]`.
#[derive(Clone)]
pub(crate) struct Packed {
    pub(crate) words: Buffer,
    pub(crate) scales: Buffer,
    pub(crate) rows: usize,
    pub(crate) groups: usize,
    pub(crate) digits: usize,
    pub(crate) batches: usize,
}

/// Words that packing such matrices takes.
pub(crate) fn packed_words(rows: usize, k: usize, digits: usize, batches: usize) -> usize {
    batches * rows * digits * k.div_ceil(4)
}

impl Packed {
    /// What packing `matrix` into these buffers gives.
    pub(crate) fn of(matrix: &Matrix, along: Along, digits: usize, words: &Buffer, scales: &Buffer) -> Self {
        let (rows, k) = match along {
            Along::Rows => (matrix.rows, matrix.columns),
            Along::Columns => (matrix.columns, matrix.rows),
        };
        assert!(packed_words(rows, k, digits, matrix.batches) <= words.len && matrix.batches * rows <= scales.len);
        let groups = k.div_ceil(4);
        Self { words: words.clone(), scales: scales.clone(), rows, groups, digits, batches: matrix.batches }
    }
}

/// Packs matrices along an axis.
pub(crate) fn pack(matrix: &Matrix, along: Along, rounding: Rounding, keys: &Buffer, into: &Packed) -> Dispatch {
    matrix.check();
    assert_eq!(into.batches, matrix.batches);
    let (stochastic, key) = match rounding {
        Rounding::Nearest => (false, 0),
        Rounding::Stochastic(key) => (true, key),
    };
    let digits = word(into.digits);
    let (kernel, groups) = match along {
        Along::Rows => (Kernel::PackRows { digits, stochastic }, matrix.batches * matrix.rows),
        Along::Columns => {
            let blocks = matrix.columns.div_ceil(COLUMNS);
            (Kernel::PackColumns { digits, stochastic }, matrix.batches * blocks)
        }
    };
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
    ];
    let buffers = vec![matrix.buffer.clone(), keys.clone(), into.words.clone(), into.scales.clone()];
    Dispatch { kernel, params, buffers, groups }
}

fn tiles(out: &Matrix, tile: usize) -> usize {
    out.batches * out.rows.div_ceil(tile) * out.columns.div_ceil(tile)
}

/// Writes the products of left batch i and right batch i / `right_share` to the matrices of `out`.
pub(crate) fn matmul(left: &Packed, right: &Packed, right_share: usize, out: &Matrix, slot: u32) -> Dispatch {
    let [small, large] = TILES;
    let narrow = out.rows.min(out.columns) <= small;
    let tile = if narrow || tiles(out, large) < LARGE_TILES_MIN { small } else { large };
    matmul_tiled(left, right, right_share, out, (slot, tile))
}

/// [`matmul`] with a given side of tiles, which changes no bit.
pub(crate) fn matmul_tiled(
    left: &Packed,
    right: &Packed,
    right_share: usize,
    out: &Matrix,
    (slot, tile): (u32, usize),
) -> Dispatch {
    out.check();
    assert_eq!(left.groups, right.groups, "operands must share the contracted axis");
    assert_eq!((left.rows, right.rows, left.batches), (out.rows, out.columns, out.batches));
    assert_eq!(right.batches * right_share, left.batches);
    let params = vec![
        word(out.rows),
        word(out.columns),
        word(left.groups),
        word(out.batches),
        word(right_share),
        word(out.offset),
        word(out.stride),
        word(out.batch_stride),
        slot,
    ];
    let buffers =
        vec![left.words.clone(), left.scales.clone(), right.words.clone(), right.scales.clone(), out.buffer.clone()];
    let kernel = Kernel::Matmul { left_digits: word(left.digits), right_digits: word(right.digits), tile: word(tile) };
    Dispatch { kernel, params, buffers, groups: tiles(out, tile) }
}
