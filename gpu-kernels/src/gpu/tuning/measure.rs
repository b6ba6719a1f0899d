//! Times tilings on a product of a class.

use super::ProductClass;
use crate::buffers::Buffer;
use crate::device::{Device, DeviceError};
use crate::gpu::compile::Pipelines;
use crate::gpu::ops::matmul::{Matrix, Packed, Way, matmul, packed_words};
use crate::gpu::program::{NO_SLOT, Program};
use crate::gpu::tiling::Tiling;
use std::time::{Duration, Instant};

/// Multiply-adds of the first, smallest product.
const MULTIPLY_ADDS: u64 = 1 << 22;
/// Products that take less are made larger, up to the size of the class: clocks and the filling
/// of a device need so much.
const TIME_MIN: Duration = Duration::from_micros(500);
/// Rounds at most, in which tilings take turns. The least time counts: a device that others use,
/// too, has only been slower for a while.
const ROUNDS_MAX: usize = 16;
/// Time after which rounds end.
const TIME_MAX: Duration = Duration::from_millis(200);
/// A least time counts once another one was at most so many percent longer.
const SPREAD_MAX: u32 = 25;

/// Times of one tiling.
#[derive(Clone, Copy)]
struct Times {
    least: Duration,
    second: Duration,
}

impl Times {
    const NONE: Self = Self { least: Duration::MAX, second: Duration::MAX };

    fn add(&mut self, time: Duration) {
        (self.least, self.second) =
            if time < self.least { (time, self.least) } else { (self.least, time.min(self.second)) };
    }

    /// Whether the least time was nearly seen twice.
    fn is_settled(&self) -> bool {
        self.second != Duration::MAX && self.second <= self.least.saturating_mul(100 + SPREAD_MAX) / 100
    }
}

/// What was measured.
pub(super) struct Found {
    pub(super) multiply_adds: u64,
    /// The fastest first.
    pub(super) times: Vec<(Tiling, Duration)>,
}

/// A product of the class's proportions, of any numbers.
struct Specimen {
    left: Packed,
    right: Packed,
    out: Matrix,
    sums: Buffer,
}

impl Specimen {
    /// Of at most so many multiply-adds if that is possible: batches, then rows and columns are halved.
    fn new(
        device: &Device,
        class: ProductClass,
        [left_digits, right_digits]: [usize; 2],
        (multiply_adds, tilings): (u64, &[Tiling]),
    ) -> Result<Self, DeviceError> {
        let ProductClass { mut rows, mut columns, depth, mut batches, .. } = class;
        let size = |rows: usize, columns: usize, batches: usize| (rows * columns) as u64 * (depth * batches) as u64;
        while size(rows, columns, batches) > multiply_adds && batches > 1 {
            batches /= 2;
        }
        while size(rows, columns, batches) > multiply_adds && rows.max(columns) > 64 {
            *(if rows >= columns { &mut rows } else { &mut columns }) /= 2;
        }
        let operand = |rows, digits| -> Result<Packed, DeviceError> {
            let words = device.allocate("a specimen's operand", packed_words(rows, depth, digits, batches))?;
            let scales = device.allocate("a specimen's scales", rows * batches)?;
            Ok(Packed { words, scales, rows, k: depth, digits, batches })
        };
        let out = device.allocate("a specimen's product", rows * columns * batches)?;
        let out = Matrix { batches, ..Matrix::whole(&out, 0, rows, columns) };
        let sum_words = tilings.iter().map(|tiling| tiling.sum_words(rows * columns)).max().unwrap_or(0);
        let sums = device.allocate("a specimen's sums", sum_words)?;
        Ok(Self { left: operand(rows, left_digits)?, right: operand(columns, right_digits)?, out, sums })
    }

    fn multiply_adds(&self) -> u64 {
        (self.out.rows * self.out.columns) as u64 * (self.left.k * self.out.batches) as u64
    }

    fn program(&self, pipelines: &mut Pipelines, tiling: Tiling) -> Result<Program, DeviceError> {
        let flags = pipelines.device.allocate("check flags", 1)?;
        let way = Way { tiling, sums: Some(&self.sums) };
        let dispatches = matmul(&self.left, &self.right, 1, &self.out, (NO_SLOT, way));
        Program::new(pipelines, &flags, &dispatches)
    }
}

fn time(pipelines: &Pipelines, program: &Program) -> Result<Duration, DeviceError> {
    Ok(program.time(&pipelines.device)?.into_iter().map(|(_, time)| time).sum())
}

/// Times `tilings` on a product of the class. Parts of the contracted axis are worth their sums where a
/// result is too small to fill a device, so they are only timed on a product of the class's own size.
pub(super) fn measure(
    pipelines: &mut Pipelines,
    class: ProductClass,
    digits: [usize; 2],
    tilings: &[Tiling],
) -> Result<Found, DeviceError> {
    let device = pipelines.device.clone();
    let mut limit = MULTIPLY_ADDS;
    let specimen = loop {
        let specimen = Specimen::new(&device, class, digits, (limit, tilings))?;
        let program = specimen.program(pipelines, Tiling::DEFAULT)?;
        time(pipelines, &program)?;
        if time(pipelines, &program)? >= TIME_MIN || specimen.multiply_adds() < limit {
            break specimen;
        }
        limit *= 4;
    };
    let own_size = specimen.multiply_adds() == class.multiply_adds();
    let tilings: Vec<Tiling> = tilings.iter().copied().filter(|tiling| tiling.splits == 1 || own_size).collect();
    let programs = tilings.iter().map(|&tiling| specimen.program(pipelines, tiling));
    let programs = programs.collect::<Result<Vec<_>, _>>()?;
    // The first run pays for what is set up lazily.
    for program in &programs {
        time(pipelines, program)?;
    }
    let (mut all, start) = (vec![Times::NONE; tilings.len()], Instant::now());
    for round in 0..ROUNDS_MAX {
        for (program, times) in programs.iter().zip(&mut all) {
            if !times.is_settled() {
                times.add(time(pipelines, program)?);
            }
        }
        if all.iter().all(Times::is_settled) || (round > 0 && start.elapsed() > TIME_MAX) {
            break;
        }
    }
    let mut times: Vec<_> = tilings.iter().copied().zip(all.iter().map(|times| times.least)).collect();
    times.sort_by_key(|&(_, time)| time);
    Ok(Found { multiply_adds: specimen.multiply_adds(), times })
}
