//! Measurements of this machine, short ones for its listing and longer ones for
//! people. Nothing that is computed depends on them.

mod device_product;
mod peak;
mod processor;
mod product;
mod samples;
mod step;

pub use device_product::{DeviceProductBenchmark, ProductExtent, ProductTiming, time_products};
pub use peak::{Peak, measure_peak};
pub use processor::{ProcessorReport, ProductSpeed, StepSpeed, TRAINING_PRODUCTS, measure_processor};
pub use product::{ProductBenchmark, ProductRole};
pub use samples::{median, processor_ms};
pub use step::{BenchmarkModel, StepBenchmark, StepTime};

use crate::admission::AdmittedDevice;
use crate::cpu::matmul::product_parallel;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::pool::Pool;
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::SimdPath;
use crate::error::EngineError;
use crate::gpu::ops::matmul::{Matrix, Packed as DevicePacked, Way, matmul, packed_words};
use crate::gpu::program::{Commands, NO_SLOT, Program};
use crate::gpu::tiling::ProductShape;
use std::time::{Duration, Instant};

/// Side of the square matrices multiplied: their packed forms fit a second-level cache.
const SIDE: usize = 512;
/// Rows of the largest left matrix for a device: enough to fill any.
const ROWS_MAX: usize = 128 * SIDE;

/// Multiply-adds per second of the 8-bit product on `threads` threads (0: all
/// processors), measured for about `duration_ms`.
///
/// # Errors
/// The threads cannot be started.
pub fn measure_multiply_adds_per_s(duration_ms: u64, threads: usize) -> Result<u64, EngineError> {
    let simd = SimdPath::Auto.resolve()?;
    let pool = Pool::<()>::new(threads)?;
    let values: Vec<f32> = (0..SIDE * SIDE).map(|i| (i * 31 % 255) as f32 - 127.0).collect();
    let mut out = vec![0.0; SIDE * SIDE];
    let (mut left, mut right) = (Packed::default(), Packed::default());
    Ok(pool.install(|| {
        let view = View::whole(&values, SIDE, SIDE);
        left.pack_parallel(simd, view, Packing::left(Along::Rows, 1, Rounding::Nearest));
        right.pack_parallel(simd, view, Packing::right(Along::Columns, 1, Rounding::Nearest));
        product_parallel(simd, &left, &right, &mut out);
        let (start, limit) = (Instant::now(), Duration::from_millis(duration_ms));
        let mut products = 0u64;
        loop {
            product_parallel(simd, &left, &right, &mut out);
            products += 1;
            let elapsed = start.elapsed();
            if elapsed >= limit {
                let multiply_adds = products as f64 * (SIDE * SIDE * SIDE) as f64;
                return (multiply_adds / elapsed.as_secs_f64().max(1e-9)) as u64;
            }
        }
    }))
}

/// Multiply-adds per second of the 8-bit product on a device, as it computes
/// products in training, measured for at least `duration_ms` if it is not too fast.
///
/// # Errors
/// The device is lost or out of memory.
pub fn measure_device_multiply_adds_per_s(device: &AdmittedDevice, duration_ms: u64) -> Result<u64, EngineError> {
    let mut pipelines = device.pipelines();
    let device = device.device();
    let flags = device.allocate("check flags", 2)?;
    let operand = |rows| -> Result<DevicePacked, EngineError> {
        let words = device.allocate("a benchmark's operand", packed_words(rows, SIDE, 1, 1))?;
        let scales = device.allocate("a benchmark's scales", rows)?;
        Ok(DevicePacked { words, scales, rows, k: SIDE, digits: 1, batches: 1 })
    };
    let right = operand(SIDE)?;
    let limit = Duration::from_millis(duration_ms);
    let mut rows = SIDE;
    loop {
        let left = operand(rows)?;
        let out = Matrix::whole(&device.allocate("a benchmark's product", rows * SIDE)?, 0, rows, SIDE);
        let way = Way { tiling: pipelines.tiling(&ProductShape::of(&left, &right), 0), sums: None };
        let program = Program::new(&mut pipelines, &flags, &matmul(&left, &right, 1, &out, (NO_SLOT, way)))?;
        let mut elapsed = Duration::MAX;
        // The first round pays for what is set up lazily.
        for _ in 0..2 {
            let start = Instant::now();
            let mut commands = Commands::new(device);
            commands.run(&program);
            commands.submit_and_read(&[(&flags, 1)])?;
            elapsed = elapsed.min(start.elapsed());
        }
        if elapsed >= limit || rows >= ROWS_MAX {
            let multiply_adds = (rows * SIDE * SIDE) as f64;
            return Ok((multiply_adds / elapsed.as_secs_f64().max(1e-9)) as u64);
        }
        rows *= 2;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn measures_something_plausible() {
        let rate = super::measure_multiply_adds_per_s(20, 1).unwrap();
        assert!((1_000_000..100_000_000_000_000).contains(&rate), "{rate}");
    }
}
