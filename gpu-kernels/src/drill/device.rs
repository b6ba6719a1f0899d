//! Gemm units on a graphics device: operands are drawn there, and only the folds
//! of the rows are read back.

use super::{Block, GEMM_DEPTH_MAX, GemmShape, Keys};
use crate::admission::AdmittedDevice;
use crate::buffers::Buffer;
use crate::device::{Device, DeviceError};
use crate::gpu::compile::Pipelines;
use crate::gpu::ops::gemm::{draw, fold};
use crate::gpu::ops::matmul::{Matrix, Packed, Way, matmul, packed_words};
use crate::gpu::program::{Commands, NO_SLOT, Program};
use crate::gpu::tiling::ProductShape;

/// Elements of the part of the product that is held at a time: 32 MiB.
const PRODUCT_ELEMENTS: usize = 1 << 23;
/// Most rows of such a part.
const PART_ROWS_MAX: usize = 1 << 13;
/// Most such parts in one submission.
const PARTS_MAX: usize = 64;
/// The exponent field of 1: operands are not scaled.
const UNSCALED: u32 = 127;

pub(super) struct DeviceGemm {
    device: Device,
    pipelines: Pipelines,
    flags: Buffer,
    /// Of the shape that was begun last.
    held: Option<Held>,
}

/// The tensors of one shape.
struct Held {
    left: Packed,
    right: Packed,
    product: Buffer,
    folds: Buffer,
    /// Rows of the product that are held at a time.
    rows: usize,
}

impl DeviceGemm {
    pub(super) fn new(device: &AdmittedDevice) -> Result<Self, DeviceError> {
        let pipelines = device.pipelines();
        let device = device.device().clone();
        Ok(Self { flags: device.allocate("check flags", 1)?, pipelines, device, held: None })
    }

    /// Draws the right operand.
    pub(super) fn begin(&mut self, shape: &GemmShape, keys: &Keys) -> Result<(), DeviceError> {
        debug_assert!(shape.depth <= GEMM_DEPTH_MAX);
        let fits = |held: &Held| held.right.rows == shape.columns && held.right.k == shape.depth;
        let held = match self.held.take().filter(fits) {
            Some(held) => held,
            None => self.allocate(shape)?,
        };
        let right = &self.held.insert(held).right;
        let program = Program::new(&mut self.pipelines, &self.flags, &[draw(keys.right, 0, right, right.rows)])?;
        let mut commands = Commands::new(&self.device);
        commands.run(&program);
        commands.submit();
        Ok(())
    }

    fn allocate(&self, shape: &GemmShape) -> Result<Held, DeviceError> {
        let device = &self.device;
        let limit = device.report().binding_bytes_max / 4;
        let elements = PRODUCT_ELEMENTS.min(usize::try_from(limit).unwrap_or(PRODUCT_ELEMENTS));
        let rows = (elements / shape.columns).clamp(1, PART_ROWS_MAX);
        let operand = |tensor, rows| -> Result<Packed, DeviceError> {
            Ok(Packed {
                words: device.allocate(tensor, packed_words(rows, shape.depth, 1, 1))?,
                scales: device.upload(tensor, &vec![UNSCALED; rows])?,
                rows,
                k: shape.depth,
                digits: 1,
                batches: 1,
            })
        };
        Ok(Held {
            left: operand("the left operand of a gemm unit", rows)?,
            right: operand("the right operand of a gemm unit", shape.columns)?,
            product: device.allocate("the product of a gemm unit", rows * shape.columns)?,
            folds: device.allocate("the folds of a gemm unit", rows * PARTS_MAX)?,
            rows,
        })
    }

    /// The folds of a block's rows, or of as many of them as one submission takes.
    pub(super) fn block(&mut self, shape: &GemmShape, keys: &Keys, block: Block) -> Result<Vec<u32>, DeviceError> {
        let Some(held) = &self.held else { unreachable!("a unit is begun before its blocks") };
        let rows = block.rows.min(held.rows * PARTS_MAX);
        let mut dispatches = Vec::new();
        for offset in (0..rows).step_by(held.rows) {
            let part = (rows - offset).min(held.rows);
            let left = Packed { rows: part, ..held.left.clone() };
            let out = Matrix::whole(&held.product, 0, part, shape.columns);
            dispatches.push(draw(keys.left, block.first + offset, &left, part));
            let tiling = self.pipelines.tiling(&ProductShape::of(&left, &held.right), 0);
            let way = Way { tiling, sums: None };
            dispatches.extend(matmul(&left, &held.right, 1, &out, (NO_SLOT, way)));
            dispatches.push(fold(keys.fold, (&held.product, part, shape.columns), (&held.folds, offset)));
        }
        let program = Program::new(&mut self.pipelines, &self.flags, &dispatches)?;
        let mut commands = Commands::new(&self.device);
        commands.run(&program);
        let mut contents = commands.submit_and_read(&[(&held.folds, rows)])?;
        Ok(contents.pop().unwrap_or_default())
    }
}
