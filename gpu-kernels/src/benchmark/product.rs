//! One exact product of matrices, as a training step makes it, to be timed.

use crate::cpu::matmul::product_parallel;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::pool::Pool;
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::{Simd, SimdPath};
use crate::error::EngineError;

/// C\[rows, columns\] = A\[rows, k\] · B\[columns, k\]ᵀ with one digit each; B is packed beforehand, as weights are.
pub struct ProductBenchmark {
    simd: Simd,
    pool: Pool<()>,
    shape: [usize; 3],
    a: Vec<f32>,
    left: Packed,
    right: Packed,
    out: Vec<f32>,
}

impl ProductBenchmark {
    /// Matrices of the shape \[rows, columns, k\] with values that look random, on `threads` threads (0: all processors).
    ///
    /// # Errors
    /// The threads cannot be started, or the machine lacks the path.
    pub fn new(shape: [usize; 3], path: SimdPath, threads: usize) -> Result<Self, EngineError> {
        let [rows, columns, k] = shape;
        let values = |count: usize| (0..count).map(|i| (i * 7919 % 255) as f32 - 127.0).collect::<Vec<f32>>();
        let mut benchmark = Self {
            simd: path.resolve()?,
            pool: Pool::new(threads)?,
            shape,
            a: values(rows * k),
            left: Packed::default(),
            right: Packed::default(),
            out: vec![0.0; rows * columns],
        };
        let Self { simd, pool, right, .. } = &mut benchmark;
        let b = values(columns * k);
        let packing = Packing::right(Along::Rows, 1, Rounding::Nearest);
        pool.install(|| right.pack_parallel(*simd, View::whole(&b, columns, k), packing));
        benchmark.pack();
        Ok(benchmark)
    }

    /// Multiply-adds of a product.
    pub fn multiply_adds(&self) -> u64 {
        self.shape.iter().map(|&side| side as u64).product()
    }

    /// Rounds and packs A from f32.
    pub fn pack(&mut self) {
        let Self { simd, pool, shape: [rows, _, k], a, left, .. } = self;
        let packing = Packing::left(Along::Rows, 1, Rounding::Nearest);
        pool.install(|| left.pack_parallel(*simd, View::whole(a, *rows, *k), packing));
    }

    /// Multiplies the packed matrices: exact sums, rounded and scaled to f32.
    pub fn multiply(&mut self) {
        let Self { simd, pool, left, right, out, .. } = self;
        pool.install(|| product_parallel(*simd, left, right, out));
    }

    /// The product, row by row.
    pub fn result(&self) -> &[f32] {
        &self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_what_it_says() {
        let mut benchmark = ProductBenchmark::new([3, 5, 40], SimdPath::Auto, 1).unwrap();
        benchmark.multiply();
        let value = |i: usize| f64::from((i * 7919 % 255) as u32) - 127.0;
        for row in 0..3 {
            for column in 0..5 {
                let exact: f64 = (0..40).map(|j| value(row * 40 + j) * value(column * 40 + j)).sum();
                let found = f64::from(benchmark.result()[row * 5 + column]);
                // The values are integers up to 127: a row's scale is 1, and nothing is rounded.
                assert_eq!(found, exact, "{row} {column}");
            }
        }
        assert_eq!(benchmark.multiply_adds(), 600);
    }
}
