//! AdamW (Loshchilov & Hutter 2019) with clipping and a learning-rate schedule.

use super::real::Real;
use crate::model::layout::Layout;
use crate::model::step::StepNumbers;
use crate::schedule::DecayShape;
use crate::spec::OptimizerConfig;
use std::f64::consts::PI;

/// The learning rate of `step`, counted from 0: a linear rise that reaches the
/// full rate at the last step of the warm-up, a constant stretch, a fall.
pub fn learning_rate_at(config: &OptimizerConfig, step: u64) -> f64 {
    let full = f64::from(config.learning_rate);
    let last = full * f64::from(config.final_fraction);
    if step < config.warmup_steps {
        full * (step + 1) as f64 / config.warmup_steps as f64
    } else if step < config.decay_start_step {
        full
    } else if step < config.total_steps {
        let left = (config.total_steps - step) as f64 / (config.total_steps - config.decay_start_step) as f64;
        let share = match config.decay {
            DecayShape::Linear => left,
            DecayShape::Cosine => 0.5 * (1.0 + (PI * (1.0 - left)).cos()),
            DecayShape::OneMinusSqrt => 1.0 - (1.0 - left).sqrt(),
        };
        last + (full - last) * share
    } else {
        last
    }
}

/// The L2 norm of a gradient, and the factor that clips it.
pub(super) fn clipping<R: Real>(config: &OptimizerConfig, gradient: &[R]) -> (R, R) {
    let norm = gradient.iter().map(|&g| g * g).sum::<R>().sqrt();
    let limit = R::from_f64(f64::from(config.gradient_clip_norm));
    (norm, if norm > limit { limit / norm } else { R::ONE })
}

/// The optimiser's settings and moments.
#[derive(Clone, Debug)]
pub struct AdamW<R> {
    config: OptimizerConfig,
    /// The weight decay of each parameter: that of the settings in matrices, none elsewhere.
    decay: Vec<R>,
    first_moment: Vec<R>,
    second_moment: Vec<R>,
}

impl<R: Real> AdamW<R> {
    /// An optimiser whose moments are zero.
    pub fn new(config: &OptimizerConfig, layout: &Layout) -> Self {
        let zeros = vec![R::ZERO; layout.len()];
        let mut decay = zeros.clone();
        for tensor in layout.tensors().iter().filter(|tensor| tensor.shape.len() == 2) {
            decay[tensor.range()].fill(R::from_f64(f64::from(config.weight_decay)));
        }
        Self { config: config.clone(), decay, first_moment: zeros.clone(), second_moment: zeros }
    }

    /// Makes the step of these numbers along the mean `gradient`; returns its L2 norm before clipping.
    ///
    /// # Panics
    /// If `parameters` or `gradient` has another length than the layout.
    pub fn step(&mut self, parameters: &mut [R], gradient: &[R], step: StepNumbers) -> R {
        assert_eq!(parameters.len(), self.decay.len(), "number of parameters");
        assert_eq!(gradient.len(), self.decay.len(), "length of the gradient");
        let config = &self.config;
        let real = |setting: f32| R::from_f64(f64::from(setting));
        let rate = R::from_f64(learning_rate_at(config, step.schedule));
        let (norm, clip) = clipping(config, gradient);
        let (beta1, beta2, epsilon) = (real(config.beta1), real(config.beta2), real(config.epsilon));
        // 1 − β^t: what the moments, started at zero, lack to be means.
        let correction = |beta: f32| R::from_f64(1.0 - f64::from(beta).powf(step.adam as f64 + 1.0));
        let (correction1, correction2) = (correction(config.beta1), correction(config.beta2));
        for i in 0..parameters.len() {
            let g = gradient[i] * clip;
            self.first_moment[i] = beta1 * self.first_moment[i] + (R::ONE - beta1) * g;
            self.second_moment[i] = beta2 * self.second_moment[i] + (R::ONE - beta2) * g * g;
            let mean = self.first_moment[i] / correction1;
            let deviation = (self.second_moment[i] / correction2).sqrt();
            let direction = mean / (deviation + epsilon) + self.decay[i] * parameters[i];
            parameters[i] = parameters[i] - rate * direction;
        }
        norm
    }
}
