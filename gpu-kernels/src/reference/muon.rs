//! Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for everything else.

use super::adamw::{AdamW, clipping, learning_rate_at};
use super::real::Real;
use crate::model::layout::{Layout, Tensor};
use crate::model::step::StepNumbers;
use crate::spec::OptimizerConfig;

/// What of the momentum stays in a step.
const MOMENTUM: f64 = 0.95;
/// Added to norms that are divided by.
const EPSILON: f64 = 1e-7;
/// Root mean square of the elements of a step, per unit of learning rate (Liu et al. 2025).
const STEP_SIZE: f64 = 0.2;

/// Applies a·X + b·X·Xᵀ·X + c·(X·Xᵀ)²·X five times to a matrix of `rows` rows.
pub fn newton_schulz<R: Real>(matrix: &[R], rows: usize) -> Vec<R> {
    let columns = matrix.len() / rows;
    if rows > columns {
        return transposed(&newton_schulz(&transposed(matrix, rows), columns), columns);
    }
    let [a, b, c] = [3.4445, -4.775, 2.0315].map(R::from_f64);
    let mut x = matrix.to_vec();
    for _ in 0..5 {
        let gram = product(&x, &transposed(&x, rows), rows);
        let square = product(&gram, &gram, rows);
        let polynomial: Vec<R> = gram.iter().zip(&square).map(|(&g, &s)| b * g + c * s).collect();
        let added = product(&polynomial, &x, rows);
        x = x.iter().zip(&added).map(|(&x, &y)| a * x + y).collect();
    }
    x
}

fn transposed<R: Real>(matrix: &[R], rows: usize) -> Vec<R> {
    let columns = matrix.len() / rows;
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

fn product<R: Real>(left: &[R], right: &[R], rows: usize) -> Vec<R> {
    let inner = left.len() / rows;
    let right = transposed(right, inner);
    let dot = |a: &[R], b: &[R]| a.iter().zip(b).map(|(&a, &b)| a * b).sum::<R>();
    left.chunks_exact(inner).flat_map(|a| right.chunks_exact(inner).map(move |b| dot(a, b))).collect()
}

/// The optimiser's settings and state.
#[derive(Clone, Debug)]
pub struct Muon<R> {
    config: OptimizerConfig,
    matrices: Vec<Tensor>,
    momentum: Vec<R>,
    /// Of all other parameters.
    adamw: AdamW<R>,
}

impl<R: Real> Muon<R> {
    /// An optimiser whose state is zero.
    pub fn new(config: &OptimizerConfig, layout: &Layout) -> Self {
        let matrices = layout.tensors().iter().filter(|tensor| tensor.is_block_matrix()).cloned().collect();
        let (momentum, adamw) = (vec![R::ZERO; layout.len()], AdamW::new(config, layout));
        Self { config: config.clone(), matrices, momentum, adamw }
    }

    /// Makes the step of these numbers along the mean `gradient`; returns its L2 norm before clipping.
    ///
    /// # Panics
    /// If `parameters` or `gradient` has another length than the layout.
    pub fn step(&mut self, parameters: &mut [R], gradient: &[R], step: StepNumbers) -> R {
        let before = parameters.to_vec();
        let norm = self.adamw.step(parameters, gradient, step);
        let (_, clip) = clipping(&self.config, gradient);
        let (mu, rate) = (R::from_f64(MOMENTUM), learning_rate_at(&self.config, step.schedule));
        let decay = R::from_f64(1.0 - rate * f64::from(self.config.weight_decay));
        for tensor in &self.matrices {
            let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
            let mut direction = Vec::with_capacity(tensor.len());
            for place in tensor.range() {
                let g = gradient[place] * clip;
                self.momentum[place] = mu * self.momentum[place] + (R::ONE - mu) * g;
                direction.push(mu * self.momentum[place] + (R::ONE - mu) * g);
            }
            let length = direction.iter().map(|&x| x * x).sum::<R>().sqrt() + R::from_f64(EPSILON);
            direction.iter_mut().for_each(|x| *x = *x / length);
            let size = R::from_f64(rate * STEP_SIZE * (rows.max(columns) as f64).sqrt());
            for (place, x) in tensor.range().zip(newton_schulz(&direction, rows)) {
                parameters[place] = before[place] * decay - size * x;
            }
        }
        norm
    }
}
