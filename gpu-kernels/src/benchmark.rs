//! A short measurement of this machine, for its listing. Nothing that is
//! computed depends on it.

use crate::cpu::matmul::product_parallel;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::pool::Pool;
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::SimdPath;
use crate::error::EngineError;
use std::time::{Duration, Instant};

/// Side of the square matrices multiplied: their packed forms fit a second-level cache.
const SIDE: usize = 512;

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

#[cfg(test)]
mod tests {
    #[test]
    fn measures_something_plausible() {
        let rate = super::measure_multiply_adds_per_s(20, 1).unwrap();
        assert!((1_000_000..100_000_000_000_000).contains(&rate), "{rate}");
    }
}
