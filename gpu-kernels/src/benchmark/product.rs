//! One exact product of matrices, as a training step makes it, to be timed.

use crate::cpu::matmul::product_parallel;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::pool::Pool;
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::{Simd, SimdPath};
use crate::error::EngineError;

/// What a product does in a step, which decides how its operands lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductRole {
    /// Y = X · Wᵀ: both operands are rows along the contracted axis.
    Forward,
    /// dW = dYᵀ · X: both are columns along the contracted axis, which is that of the tokens.
    WeightGradient,
}

impl ProductRole {
    fn along(self) -> Along {
        match self {
            Self::Forward => Along::Rows,
            Self::WeightGradient => Along::Columns,
        }
    }

    /// `values` as the matrix whose `lines` are contracted over `k`.
    fn view(self, values: &[f32], lines: usize, k: usize) -> View<'_> {
        match self {
            Self::Forward => View::whole(values, lines, k),
            Self::WeightGradient => View::whole(values, k, lines),
        }
    }
}

/// C\[rows, columns\] = A\[rows, k\] · B\[columns, k\]ᵀ with one digit each; B is packed beforehand, as weights are.
pub struct ProductBenchmark {
    simd: Simd,
    pool: Pool<()>,
    role: ProductRole,
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
    pub fn new(shape: [usize; 3], role: ProductRole, path: SimdPath, threads: usize) -> Result<Self, EngineError> {
        let [rows, columns, k] = shape;
        let values = |count: usize| (0..count).map(|i| (i * 7919 % 255) as f32 - 127.0).collect::<Vec<f32>>();
        let mut benchmark = Self {
            simd: path.resolve()?,
            pool: Pool::new(threads)?,
            role,
            shape,
            a: values(rows * k),
            left: Packed::default(),
            right: Packed::default(),
            out: vec![0.0; rows * columns],
        };
        let Self { simd, pool, right, .. } = &mut benchmark;
        let b = values(columns * k);
        let packing = Packing::right(role.along(), 1, Rounding::Nearest);
        pool.install(|| right.pack_parallel(*simd, role.view(&b, columns, k), packing));
        benchmark.pack();
        Ok(benchmark)
    }

    /// Multiply-adds of a product.
    pub fn multiply_adds(&self) -> u64 {
        self.shape.iter().map(|&side| side as u64).product()
    }

    /// Rounds and packs A from f32.
    pub fn pack(&mut self) {
        let Self { simd, pool, role, shape: [rows, _, k], a, left, .. } = self;
        let packing = Packing::left(role.along(), 1, Rounding::Nearest);
        pool.install(|| left.pack_parallel(*simd, role.view(a, *rows, *k), packing));
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
        const ROWS: usize = 3;
        const COLUMNS: usize = 5;
        const K: usize = 40;
        let value = |i: usize| f64::from((i * 7919 % 255) as u32) - 127.0;
        for role in [ProductRole::Forward, ProductRole::WeightGradient] {
            let mut benchmark = ProductBenchmark::new([ROWS, COLUMNS, K], role, SimdPath::Auto, 1).unwrap();
            benchmark.multiply();
            let at = |line: usize, lines: usize, j: usize| match role {
                ProductRole::Forward => value(line * K + j),
                ProductRole::WeightGradient => value(j * lines + line),
            };
            for row in 0..ROWS {
                for column in 0..COLUMNS {
                    let exact: f64 = (0..K).map(|j| at(row, ROWS, j) * at(column, COLUMNS, j)).sum();
                    let found = f64::from(benchmark.result()[row * COLUMNS + column]);
                    // The values are integers up to 127: a line's scale is at most 1, and nothing is rounded.
                    assert_eq!(found, exact, "{role:?} {row} {column}");
                }
            }
            assert_eq!(benchmark.multiply_adds(), 600);
        }
    }
}
