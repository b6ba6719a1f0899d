//! Products on a device by one tiling after another, beside the product as one would write it first.

use super::samples::median;
use crate::admission::AdmittedDevice;
use crate::buffers::{Buffer, bits, floats};
use crate::cpu::pack::Along;
use crate::device::{Device, DeviceError};
use crate::error::EngineError;
use crate::gpu::kernel::Kernel;
use crate::gpu::ops::matmul::{Matrix, Packed, Rounding, Way, matmul, pack, packed_words};
use crate::gpu::program::{Commands, Dispatch, NO_SLOT, Program};
use crate::gpu::tiling::{ProductShape, Tiling};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Words for sums of parts of the contracted axis: as a small pass has them in its scores.
const SUM_WORDS: usize = 1 << 20;

/// The extents of a measured product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductExtent {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// The contracted axis.
    pub depth: usize,
}

/// What one way to compute a product took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductTiming {
    /// The tiling, or `naive`.
    pub name: String,
    /// Whether training takes it for this shape.
    pub chosen: bool,
    /// Whether the bits are those of the first one measured.
    pub equal: bool,
    /// The median, in microseconds.
    pub median_us: f64,
    /// All measurements, in microseconds.
    pub samples_us: Vec<f64>,
    /// Multiply-adds per second at the median.
    pub multiply_adds_per_s: f64,
}

/// Operands of random 8-bit integers, a result, and space for sums of parts.
struct Operands {
    left: Packed,
    right: Packed,
    out: Buffer,
    sums: Buffer,
}

impl Operands {
    fn new(device: &Device, extent: ProductExtent, sum_words: usize) -> Result<Self, DeviceError> {
        let operand = |rows: usize, seed: u32| -> Result<Packed, DeviceError> {
            let count = packed_words(rows, extent.depth, 1, 1);
            // A full last piece: operands of this benchmark have no rest.
            let word = |index| crate::cpu::random::mix([seed, 7], index) & 0x7f7f_7f7f;
            let words: Vec<u32> = (0..count as u32).map(word).collect();
            Ok(Packed {
                words: device.upload("a benchmark's operand", &words)?,
                scales: device.upload("a benchmark's scales", &vec![127; rows])?,
                rows,
                k: extent.depth,
                digits: 1,
                batches: 1,
            })
        };
        Ok(Self {
            left: operand(extent.rows, 1)?,
            right: operand(extent.columns, 2)?,
            out: device.allocate("a benchmark's product", extent.rows * extent.columns)?,
            sums: device.allocate("a benchmark's sums", sum_words)?,
        })
    }

    fn tiled(&self, tiling: Tiling) -> Vec<Dispatch> {
        let out = Matrix::whole(&self.out, 0, self.left.rows, self.right.rows);
        matmul(&self.left, &self.right, 1, &out, (NO_SLOT, Way { tiling, sums: Some(&self.sums) }))
    }

    fn naive(&self) -> Vec<Dispatch> {
        let count = self.left.rows * self.right.rows;
        let params = [count, self.right.rows, 4 * self.left.pieces()].map(|number| number as u32);
        let buffers = [&self.left.words, &self.left.scales, &self.right.words, &self.right.scales, &self.out];
        vec![Dispatch {
            kernel: Kernel::MatmulNaive,
            params: [&params[..], &[NO_SLOT]].concat(),
            buffers: buffers.map(Buffer::clone).into(),
            groups: count.div_ceil(256),
            // Never cut into parts.
            operations: 0,
        }]
    }
}

/// One product on a device as training computes it, to be timed beside others.
pub struct DeviceProductBenchmark {
    device: Device,
    flags: Buffer,
    product: Buffer,
    tiling: Tiling,
    multiplying: Program,
    packing: Program,
}

impl DeviceProductBenchmark {
    /// A product of `left`, `[rows][depth]`, and `right`, `[columns][depth]`, of one digit each.
    ///
    /// # Errors
    /// Operands of other lengths, or a device that is lost or out of memory.
    pub fn new(
        device: &AdmittedDevice,
        extent: ProductExtent,
        [left, right]: [&[f32]; 2],
    ) -> Result<Self, EngineError> {
        let ProductExtent { rows, columns, depth } = extent;
        for (what, rows, values) in [("left operand", rows, left), ("right operand", columns, right)] {
            if values.len() != rows * depth || values.is_empty() {
                let expected = format!("{rows} rows of {depth}, and not none");
                return Err(EngineError::Length { what, expected, found: values.len() });
            }
        }
        let mut pipelines = device.pipelines();
        let device = device.device().clone();
        let flags = device.allocate("check flags", 2)?;
        let keys = device.upload("rounding keys", &[0; 2])?;
        let mut dispatches = Vec::new();
        let mut operand = |values: &[f32], rows| -> Result<Packed, DeviceError> {
            let matrix = Matrix::whole(&device.upload("a benchmark's operand", &bits(values))?, 0, rows, depth);
            let words = device.allocate("a benchmark's packed operand", packed_words(rows, depth, 1, 1))?;
            let scales = device.allocate("a benchmark's scales", rows)?;
            let packed = Packed::of(&matrix, Along::Rows, 1, &words, &scales);
            dispatches.extend(pack(&matrix, Along::Rows, Rounding::Nearest, &keys, &packed));
            Ok(packed)
        };
        let (left, right) = (operand(left, rows)?, operand(right, columns)?);
        let packing = Program::new(&mut pipelines, &flags, &dispatches)?;
        let product = device.allocate("a benchmark's product", rows * columns)?;
        let sums = device.allocate("a benchmark's sums", SUM_WORDS)?;
        let tiling = pipelines.tiling(&ProductShape::of(&left, &right), SUM_WORDS);
        let out = Matrix::whole(&product, 0, rows, columns);
        let way = Way { tiling, sums: Some(&sums) };
        let multiplying = Program::new(&mut pipelines, &flags, &matmul(&left, &right, 1, &out, (NO_SLOT, way)))?;
        Ok(Self { device, flags, product, tiling, multiplying, packing })
    }

    /// The tiling, in words.
    pub fn tiling(&self) -> String {
        self.tiling.to_string()
    }

    /// Packs both operands and multiplies; the result, `[rows][columns]`.
    ///
    /// # Errors
    /// The device is lost or out of memory.
    pub fn result(&self) -> Result<Vec<f32>, EngineError> {
        self.run(1, true)?;
        Ok(floats(&self.device.read(&self.product)?))
    }

    /// Multiplies `times` times, the operands packed before or each time, and waits for the last.
    ///
    /// # Errors
    /// The device is lost or out of memory.
    pub fn run(&self, times: usize, packing: bool) -> Result<(), EngineError> {
        let mut commands = Commands::new(&self.device);
        for _ in 0..times {
            if packing {
                commands.run(&self.packing);
            }
            commands.run(&self.multiplying);
        }
        commands.submit_and_read(&[(&self.flags, 1)])?;
        Ok(())
    }
}

/// Times the naive product and all tilings that may be used on `device`, in turns, `rounds` times.
///
/// # Errors
/// The depth is no multiple of 16, or the device is lost or out of memory.
pub fn time_products(
    device: &AdmittedDevice,
    extent: ProductExtent,
    rounds: usize,
) -> Result<Vec<ProductTiming>, EngineError> {
    if extent.depth == 0 || !extent.depth.is_multiple_of(16) {
        let expected = "a multiple of 16".to_owned();
        return Err(EngineError::Length { what: "depth of a product", expected, found: extent.depth });
    }
    let mut pipelines = device.pipelines();
    let device = device.device();
    let flags = device.allocate("check flags", 2)?;
    let mut tilings = pipelines.tilings();
    let sum_words = |tiling: &Tiling| tiling.sum_words(extent.rows * extent.columns);
    tilings.retain(|tiling| sum_words(tiling) <= device.report().binding_words_max());
    let sum_words = tilings.iter().map(sum_words).max().unwrap_or(0);
    let operands = Operands::new(device, extent, sum_words)?;
    let shape = ProductShape::of(&operands.left, &operands.right);
    tilings.retain(|tiling| shape.may_split(tiling, sum_words));
    let chosen = pipelines.tiling(&shape, sum_words);
    let mut entries = vec![("naive".to_owned(), false, operands.naive())];
    entries.extend(tilings.iter().map(|&tiling| (tiling.to_string(), tiling == chosen, operands.tiled(tiling))));
    let mut programs = Vec::new();
    let mut results = Vec::new();
    for (_, _, dispatches) in &entries {
        let program = Program::new(&mut pipelines, &flags, dispatches)?;
        // The first run pays for what is set up lazily.
        program.time(device)?;
        results.push(blake3::hash(
            &device.read(&operands.out)?.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>(),
        ));
        programs.push(program);
    }
    let mut samples = vec![Vec::new(); entries.len()];
    for _ in 0..rounds.max(1) {
        for (program, samples) in programs.iter().zip(&mut samples) {
            let time: Duration = program.time(device)?.iter().map(|(_, time)| time).sum();
            samples.push(time.as_secs_f64() * 1e6);
        }
    }
    let multiply_adds = extent.rows as f64 * extent.columns as f64 * extent.depth as f64;
    let timing = |((name, chosen, _), (samples_us, result)): ((String, bool, _), (Vec<f64>, blake3::Hash))| {
        let median_us = median(&samples_us);
        ProductTiming {
            name,
            chosen,
            equal: result == results[0],
            median_us,
            samples_us,
            multiply_adds_per_s: multiply_adds / (median_us * 1e-6).max(1e-12),
        }
    };
    Ok(entries.into_iter().zip(samples.into_iter().zip(results.iter().copied())).map(timing).collect())
}
