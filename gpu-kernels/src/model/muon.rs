//! Muon's step of one matrix: its direction, made orthogonal by a Newton–Schulz iteration.
//!
//! The iteration works on the shorter axis: with rows ≤ columns A = X·Xᵀ and X ← a·X + B·X, otherwise
//! A = Xᵀ·X and X ← a·X + X·B, which is the same for the transposed matrix. Nothing is transposed
//! in memory, for operands of products are packed along either axis, and A and B are symmetric to the bit.

use super::layout::Layout;
use super::step::check_range;
use super::workspace::{packed_bytes, reserve, reserve_exact};
use crate::arithmetic::add;
use crate::cpu::adamw::{NORM_BLOCK, norm};
use crate::cpu::matmul::product_parallel;
use crate::cpu::muon::{
    COEFFICIENTS, DIGITS, ITERATIONS, NORM_EPSILON, Scalars, add_scaled, combine, directions, mirror, scale,
    step_parameters, symmetric_product,
};
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::Simd;
use crate::error::EngineError;
use crate::functions::reciprocal;
use crate::spec::OptimizerKind;
use std::ops::Range;

/// What a step that leaves the range is called.
pub(crate) const OP: &str = "muon";

/// A matrix whose steps are made orthogonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Shape {
    /// Length of the shorter axis: the side of the square matrices.
    pub(crate) fn side(self) -> usize {
        self.rows.min(self.columns)
    }

    /// Length of the longer axis.
    pub(crate) fn length(self) -> usize {
        self.rows.max(self.columns)
    }

    /// The lines that are multiplied with each other.
    pub(crate) fn along(self) -> Along {
        if self.rows <= self.columns { Along::Rows } else { Along::Columns }
    }

    /// Those of this rule and their places, in the order of the flat vector.
    pub(crate) fn all(kind: OptimizerKind, layout: &Layout) -> impl Iterator<Item = (Range<usize>, Self)> + Clone {
        let tensors = layout.tensors().iter().filter(move |tensor| kind.orthogonalizes(tensor));
        tensors.map(|tensor| (tensor.range(), Self { rows: tensor.shape[0], columns: tensor.shape[1] }))
    }
}

/// Memory of the iteration, kept from step to step.
#[derive(Default)]
pub(crate) struct Workspace {
    /// A product with as many elements as the matrix.
    product: Vec<f32>,
    /// The lower left half of a symmetric product.
    half: Vec<f32>,
    /// All of one.
    square: Vec<f32>,
    /// Sums of squares.
    sums: Vec<f32>,
    left: Packed,
    right: Packed,
}

/// Rows, contracted axis and digits of what is packed for a matrix.
fn operands(shape: Shape) -> [(usize, usize, u8); 3] {
    let (side, length, digits) = (shape.side(), shape.length(), DIGITS as u8);
    [(side, length, digits), (length, side, digits), (side, side, digits)]
}

impl Workspace {
    /// With room for every one of these matrices.
    pub(crate) fn new(simd: Simd, shapes: impl Iterator<Item = Shape>) -> Self {
        let mut workspace = Self::default();
        for shape in shapes {
            let (count, square) = (shape.rows * shape.columns, shape.side() * shape.side());
            reserve_exact(&mut workspace.product, count);
            reserve_exact(&mut workspace.half, square);
            reserve_exact(&mut workspace.square, square);
            reserve_exact(&mut workspace.sums, count.div_ceil(NORM_BLOCK));
            reserve(&mut workspace.left, simd, operands(shape).into_iter());
            reserve(&mut workspace.right, simd, operands(shape).into_iter());
        }
        workspace
    }

    /// Bytes of all that [`Workspace::new`] reserves.
    pub(crate) fn bytes(simd: Simd, shapes: impl Iterator<Item = Shape>) -> u64 {
        let (mut floats, mut squares, mut packed) = (0, 0, 0);
        for shape in shapes {
            let count = shape.rows * shape.columns;
            floats = floats.max(count + count.div_ceil(NORM_BLOCK));
            squares = squares.max(2 * shape.side() * shape.side());
            let operands = operands(shape).map(|(rows, k, digits)| packed_bytes(simd, rows, k, digits));
            packed = operands.into_iter().fold(packed, u64::max);
        }
        4 * (floats + squares) as u64 + 2 * packed
    }

    /// Makes all singular values of `x` about 1, given that none is larger; the largest magnitude
    /// that was met. If it is out of range, `x` is of no use.
    fn orthogonalize(&mut self, simd: Simd, x: &mut [f32], shape: Shape) -> u32 {
        let side = shape.side();
        self.product.resize(x.len(), 0.0);
        self.half.resize(side * side, 0.0);
        self.square.resize(side * side, 0.0);
        let mut peak = 0;
        for _ in 0..ITERATIONS {
            peak = peak.max(self.iterate(simd, x, shape));
            if check_range(OP, None, peak).is_err() {
                break;
            }
        }
        peak
    }

    fn iterate(&mut self, simd: Simd, x: &mut [f32], shape: Shape) -> u32 {
        let Self { product, half, square, left, right, .. } = self;
        let (side, along) = (shape.side(), shape.along());
        let [a, b, c] = COEFFICIENTS;
        let to_left = |along| Packing::left(along, DIGITS, Rounding::Nearest);
        let to_right = |along| Packing::right(along, DIGITS, Rounding::Nearest);
        let matrix = View::whole(x, shape.rows, shape.columns);
        left.pack_parallel(simd, matrix, to_left(along));
        right.pack_parallel(simd, matrix, to_right(along));
        let mut peak = symmetric_product(simd, left, right, half);
        mirror(half, side, square);
        left.pack_parallel(simd, View::whole(square, side, side), to_left(Along::Rows));
        right.pack_parallel(simd, View::whole(square, side, side), to_right(Along::Rows));
        peak = peak.max(symmetric_product(simd, left, right, half));
        peak = peak.max(combine(half, side, [b, c], square));
        let polynomial = View::whole(square, side, side);
        if along == Along::Rows {
            left.pack_parallel(simd, polynomial, to_left(Along::Rows));
            right.pack_parallel(simd, matrix, to_right(Along::Columns));
        } else {
            left.pack_parallel(simd, matrix, to_left(Along::Rows));
            right.pack_parallel(simd, polynomial, to_right(Along::Rows));
        }
        peak = peak.max(product_parallel(simd, left, right, product));
        peak.max(add_scaled(simd, a, x, product))
    }

    /// Computes into `new` the parameters after a step, from gradient, momentum and parameters before it; the
    /// largest magnitudes of parameters and momentum.
    ///
    /// # Errors
    /// Something leaves the range.
    pub(crate) fn step(
        &mut self,
        simd: Simd,
        scalars: &Scalars,
        shape: Shape,
        [gradient, momentum, parameters]: [&[f32]; 3],
        new: &mut [f32],
    ) -> Result<[u32; 2], EngineError> {
        let momentum_peak = directions(simd, scalars.gradient_scale, gradient, momentum, new);
        self.sums.resize(new.len().div_ceil(NORM_BLOCK), 0.0);
        let (direction_norm, _) = norm(simd, new, &mut self.sums);
        check_range(OP, None, momentum_peak.max(direction_norm.to_bits()))?;
        scale(simd, reciprocal(add(direction_norm, NORM_EPSILON)), new);
        check_range(OP, None, self.orthogonalize(simd, new, shape))?;
        let parameter_peak = step_parameters(simd, scalars, parameters, new);
        check_range(OP, None, parameter_peak)?;
        Ok([parameter_peak, momentum_peak])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::{canon, mul};
    use crate::cpu::random::mix;
    use crate::cpu::simd::SimdPath;
    use crate::reference::newton_schulz;

    /// Wide, tall, square, lines, and more rows than a task of a product has.
    const SHAPES: [Shape; 10] = [
        Shape { rows: 1, columns: 1 },
        Shape { rows: 1, columns: 7 },
        Shape { rows: 9, columns: 1 },
        Shape { rows: 5, columns: 3 },
        Shape { rows: 17, columns: 33 },
        Shape { rows: 33, columns: 33 },
        Shape { rows: 70, columns: 41 },
        Shape { rows: 64, columns: 64 },
        Shape { rows: 33, columns: 130 },
        Shape { rows: 150, columns: 72 },
    ];

    /// Nearly Gaussian values of a Frobenius norm of 1.
    fn matrix(shape: Shape, seed: u32) -> Vec<f32> {
        let uniform = |index: u32| f64::from(mix([seed, 7], index)) / 4_294_967_296.0 - 0.5;
        let gaussian = |index: u32| (0..12).map(|draw| uniform(12 * index + draw)).sum::<f64>();
        let values: Vec<f64> = (0..(shape.rows * shape.columns) as u32).map(gaussian).collect();
        let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
        values.iter().map(|x| canon((x / norm) as f32)).collect()
    }

    fn orthogonal(simd: Simd, x: &[f32], shape: Shape) -> Vec<f32> {
        let mut found = x.to_vec();
        let peak = Workspace::default().orthogonalize(simd, &mut found, shape);
        assert!(peak >= crate::arithmetic::peak(&found));
        found
    }

    /// Row-scaled integers and what they are scaled by, as `docs/arithmetic.md` has it.
    fn integers(row: &[f32]) -> (Vec<i64>, i32) {
        let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let exponent = if largest == 0.0 { 0 } else { (largest.to_bits() >> 23) as i32 - 127 - 13 };
        let integer = |x: &f32| (f64::from(*x) / 2f64.powi(exponent)).round_ties_even() as i64;
        (row.iter().map(integer).collect(), exponent)
    }

    /// Rows times rows.
    fn product(left: &[f32], right: &[f32], k: usize) -> Vec<f32> {
        let right: Vec<_> = right.chunks_exact(k).map(integers).collect();
        let mut out = Vec::new();
        for (left, left_exponent) in left.chunks_exact(k).map(integers) {
            for (right, right_exponent) in &right {
                let sum: i64 = left.iter().zip(right).map(|(a, b)| a * b).sum();
                out.push(canon((f64::from(sum as f32) * 2f64.powi(left_exponent + right_exponent)) as f32));
            }
        }
        out
    }

    fn transposed(x: &[f32], rows: usize) -> Vec<f32> {
        let columns = x.len() / rows;
        (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect()
    }

    /// The definition: one thread, no tiles, everything transposed in memory.
    fn definition(x: &[f32], shape: Shape) -> Vec<f32> {
        if shape.rows > shape.columns {
            let turned = Shape { rows: shape.columns, columns: shape.rows };
            return transposed(&definition(&transposed(x, shape.rows), turned), shape.columns);
        }
        let (a, b, c) = (3.4445, -4.775, 2.0315);
        let mut x = x.to_vec();
        for _ in 0..5 {
            let gram = product(&x, &x, shape.columns);
            let square = product(&gram, &gram, shape.rows);
            let polynomial: Vec<f32> = gram.iter().zip(&square).map(|(&g, &s)| add(mul(b, g), mul(c, s))).collect();
            let added = product(&polynomial, &transposed(&x, shape.rows), shape.rows);
            x = x.iter().zip(&added).map(|(&x, &y)| add(mul(a, x), y)).collect();
        }
        x
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn every_path_gives_the_bits_of_the_definition() {
        for (seed, shape) in (0..).zip(SHAPES) {
            let mut x = matrix(shape, seed);
            // Rows of other sizes, a row of zeros, and what is nearly flushed.
            x.iter_mut().take(shape.columns).for_each(|x| *x = canon(*x * 1e-4));
            if shape.rows > 4 {
                x[3 * shape.columns..4 * shape.columns].fill(0.0);
                x[4 * shape.columns] = 1e-30;
            }
            let expected = definition(&x, shape);
            for path in SimdPath::available() {
                let found = orthogonal(path.resolve().unwrap(), &x, shape);
                assert_eq!(bits(&found), bits(&expected), "{shape:?} on {path:?}");
            }
        }
    }

    /// By Jacobi rotations of pairs of rows (Hestenes, 1958).
    fn singular_values(x: &[f32], shape: Shape) -> Vec<f64> {
        let turned = if shape.rows > shape.columns { transposed(x, shape.rows) } else { x.to_vec() };
        let mut rows: Vec<Vec<f64>> =
            turned.chunks_exact(shape.length()).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for _ in 0..12 {
            for first in 0..rows.len() {
                for second in first + 1..rows.len() {
                    let (p, q) = (dot(&rows[first], &rows[first]), dot(&rows[second], &rows[second]));
                    let angle = 0.5 * (2.0 * dot(&rows[first], &rows[second])).atan2(p - q);
                    let (sine, cosine) = angle.sin_cos();
                    let (above, below) = rows.split_at_mut(second);
                    for (a, b) in above[first].iter_mut().zip(&mut below[0]) {
                        (*a, *b) = (cosine * *a + sine * *b, cosine * *b - sine * *a);
                    }
                }
            }
        }
        rows.iter().map(|row| dot(row, row).sqrt()).collect()
    }

    /// The polynomial has its maximum 1.2024 at 0.5546 and its minimum 0.6820 at 1.0501, and takes the
    /// interval between these two values into itself. What is rounded off moves singular values by less than 0.01:
    /// see the next test.
    #[test]
    fn singular_values_are_about_one() {
        let simd = SimdPath::Auto.resolve().unwrap();
        for shape in [Shape { rows: 24, columns: 96 }, Shape { rows: 130, columns: 33 }, Shape { rows: 1, columns: 50 }]
        {
            let values = singular_values(&orthogonal(simd, &matrix(shape, 3), shape), shape);
            assert_eq!(values.len(), shape.side());
            assert!(values.iter().all(|value| (0.672..1.213).contains(value)), "{shape:?}: {values:?}");
        }
    }

    /// What a row's elements lose has a root mean square of at most 2⁻¹³/√12 = 2⁻¹⁴·⁸ of its largest one, which is
    /// at most 4 times that of a row of X, and √side times that of A and B once A is nearly 1. There X ← a·X + B·X,
    /// |B| ≤ 2.75, loses 2.75 · (4 + √side) of these in its last product, and 2c · √side ≤ 4.1 · √side in A². The relative
    /// error of a singular value x grows by |x·p'(x)/p(x)| ≤ 5 in an iteration where it is about 1, and not at all
    /// where it is small: two of the five, the last and the one before, make 1 + 5 times that.
    #[test]
    fn it_is_newton_schulz_within_what_is_rounded_off() {
        let simd = SimdPath::Auto.resolve().unwrap();
        for (seed, shape) in (0..).zip(SHAPES) {
            let x = matrix(shape, seed);
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let expected = newton_schulz(&wide, shape.rows);
            let found = orthogonal(simd, &x, shape);
            let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
            let error = squares(&mut found.iter().zip(&expected).map(|(&a, b)| f64::from(a) - b));
            let error = (error / squares(&mut expected.iter().copied())).sqrt();
            let root = (shape.side() as f64).sqrt();
            let bound = 6.0 * (2.75 * (4.0 + root) + 4.1 * root) * 2f64.powf(-14.8);
            println!("{shape:?}: {error:.2e}, bound {bound:.2e}");
            assert!(error < bound, "{shape:?}: {error:e} of {bound:e}");
        }
    }
}
