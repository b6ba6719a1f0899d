//! Muon's steps on the device: what of them comes before anything is changed. Twin of `model/muon.rs`.

use super::compile::Pipelines;
use super::ops::adamw::{State, sum_of_squares};
use super::ops::matmul::{Matrix, Packed, Rounding, Way, matmul, pack, packed_words};
use super::ops::muon;
use super::program::Dispatch;
use super::tiling::{ProductShape, Tiling};
use super::workspace::PackedBuffers;
use crate::buffers::Buffer;
use crate::cpu::adamw::NORM_BLOCK;
use crate::cpu::muon::{COEFFICIENTS, DIGITS, ITERATIONS, Scalars};
use crate::cpu::pack::Along;
use crate::device::{Device, DeviceError};
use crate::model::muon::Shape;
use std::collections::HashMap;
use std::ops::Range;

/// Sizes of what all matrices use in turn, in words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Of a matrix.
    pub(crate) matrix: usize,
    /// Of a square one.
    pub(crate) square: usize,
    /// Of digits and of exponents.
    pub(crate) packed_matrix: [usize; 2],
    pub(crate) packed_square: [usize; 2],
}

impl Extent {
    /// Enough for all of these.
    pub(crate) fn of(shapes: impl Iterator<Item = Shape>) -> Self {
        let mut extent = Self::default();
        for shape in shapes {
            let (side, length) = (shape.side(), shape.length());
            let words = packed_words(side, length, DIGITS, 1).max(packed_words(length, side, DIGITS, 1));
            let larger = |a: [usize; 2], b: [usize; 2]| [a[0].max(b[0]), a[1].max(b[1])];
            extent.matrix = extent.matrix.max(side * length);
            extent.square = extent.square.max(side * side);
            extent.packed_matrix = larger(extent.packed_matrix, [words, length]);
            extent.packed_square = larger(extent.packed_square, [packed_words(side, side, DIGITS, 1), side]);
        }
        extent
    }
}

/// Memory and tilings for making matrices orthogonal one after another.
pub(crate) struct Orthogonalizer {
    /// Directions, and products as wide as a matrix.
    matrix: Buffer,
    /// X·Xᵀ, then the polynomial of it that X is multiplied by; and the square of the former.
    polynomial: Buffer,
    square: Buffer,
    packed_matrix: PackedBuffers,
    packed_square: PackedBuffers,
    factor: Buffer,
    /// Of the three products of each shape. Chosen once, for what is known of tilings grows.
    tilings: HashMap<Shape, [Tiling; 3]>,
}

impl Orthogonalizer {
    /// For matrices of these shapes; none if there are none.
    pub(crate) fn new(
        device: &Device,
        pipelines: &mut Pipelines,
        shapes: impl Iterator<Item = Shape> + Clone,
    ) -> Result<Option<Self>, DeviceError> {
        let extent = Extent::of(shapes.clone());
        if extent == Extent::default() {
            return Ok(None);
        }
        let packed = |[words, scales]: [usize; 2]| PackedBuffers::new(device, words, scales);
        let tilings = shapes.map(|shape| (shape, tilings(pipelines, shape))).collect();
        Ok(Some(Self {
            matrix: device.allocate_large("directions", extent.matrix)?,
            polynomial: device.allocate_large("square of directions", extent.square)?,
            square: device.allocate_large("square of directions", extent.square)?,
            packed_matrix: packed(extent.packed_matrix)?,
            packed_square: packed(extent.packed_square)?,
            factor: device.allocate("scale of directions", 1)?,
            tilings,
        }))
    }

    /// Makes the directions of the matrix in `range` orthogonal, where its second moment is.
    pub(crate) fn record(
        &self,
        state: &State,
        (range, shape): (Range<usize>, Shape),
        scalars: &Scalars,
        (keys, norm_sums): (&Buffer, &Buffer),
        slot: u32,
    ) -> Vec<Dispatch> {
        let (count, x) = (range.len(), &state.second_moment);
        let mut dispatches = muon::direction(state, scalars, range.clone(), &self.matrix);
        dispatches.extend(sum_of_squares(&self.matrix, count, norm_sums));
        dispatches.push(muon::norm((norm_sums, count.div_ceil(NORM_BLOCK)), &self.factor, slot));
        dispatches.extend(muon::scale(&self.matrix, &self.factor, x, range.clone()));
        let mut recorder = Recorder { keys, slot, dispatches };
        for _ in 0..ITERATIONS {
            self.iterate(&mut recorder, x, (range.clone(), shape));
        }
        recorder.dispatches
    }

    fn iterate(&self, recorder: &mut Recorder<'_>, x: &Buffer, (range, shape): (Range<usize>, Shape)) {
        let [a, b, c] = COEFFICIENTS;
        let (side, tilings) = (shape.side(), &self.tilings[&shape]);
        let matrix = Matrix::whole(x, range.start, shape.rows, shape.columns);
        let [polynomial, square] = [&self.polynomial, &self.square].map(|buffer| Matrix::whole(buffer, 0, side, side));
        let lines = recorder.pack(&matrix, shape.along(), &self.packed_matrix);
        recorder.product([&lines, &lines], &polynomial, tilings[0]);
        let lines = recorder.pack(&polynomial, Along::Rows, &self.packed_square);
        recorder.product([&lines, &lines], &square, tilings[1]);
        recorder.combine(&self.square, &self.polynomial, 0..side * side, [b, c]);
        let lines = recorder.pack(&polynomial, Along::Rows, &self.packed_square);
        let across = if shape.along() == Along::Rows { Along::Columns } else { Along::Rows };
        let others = recorder.pack(&matrix, across, &self.packed_matrix);
        let operands = if shape.along() == Along::Rows { [&lines, &others] } else { [&others, &lines] };
        let out = Matrix::whole(&self.matrix, 0, shape.rows, shape.columns);
        recorder.product(operands, &out, tilings[2]);
        recorder.combine(&self.matrix, x, range, [a, 1.0]);
    }
}

/// The tilings of X·Xᵀ, of its square, and of what X is multiplied by.
fn tilings(pipelines: &mut Pipelines, shape: Shape) -> [Tiling; 3] {
    let (side, length) = (shape.side(), shape.length());
    let last = if shape.along() == Along::Rows { (side, length) } else { (length, side) };
    [(side, side, length), (side, side, side), (last.0, last.1, side)].map(|(rows, columns, k)| {
        // Sums of products of two digits on either side are too wide for parts.
        pipelines.tiling(&ProductShape { rows, columns, k, batches: 1, digits: [DIGITS, DIGITS] }, 0)
    })
}

/// Dispatches under way.
struct Recorder<'a> {
    keys: &'a Buffer,
    slot: u32,
    dispatches: Vec<Dispatch>,
}

impl Recorder<'_> {
    fn pack(&mut self, matrix: &Matrix, along: Along, space: &PackedBuffers) -> Packed {
        let packed = Packed::of(matrix, along, DIGITS, &space.words, &space.scales);
        self.dispatches.extend(pack(matrix, along, Rounding::Nearest, self.keys, &packed));
        packed
    }

    fn product(&mut self, [left, right]: [&Packed; 2], out: &Matrix, tiling: Tiling) {
        self.dispatches.extend(matmul(left, right, 1, out, (self.slot, Way { tiling, sums: None })));
    }

    fn combine(&mut self, y: &Buffer, x: &Buffer, range: Range<usize>, factors: [f32; 2]) {
        self.dispatches.extend(muon::combine(y, x, range, factors, self.slot));
    }
}
