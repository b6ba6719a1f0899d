//! AdamW (Loshchilov & Hutter 2019) with clipping and a learning-rate schedule.

use super::real::Real;
use crate::model::layout::Layout;

/// How the learning rate goes after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls linearly and would be zero at step `total_steps`.
    LinearDecay {
        /// Number of steps of the run, warm-up included.
        total_steps: u64,
    },
}

/// Everything that fixes an AdamW step but the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Number of steps over which the rate rises linearly; the first step
    /// takes `learning_rate / warmup_steps`.
    pub warmup_steps: u64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate; matrices only.
    pub weight_decay: f64,
    /// A gradient of a larger L2 norm is scaled down to this norm.
    pub max_gradient_norm: f64,
}

impl AdamWSettings {
    /// The learning rate of `step`, counted from 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::LinearDecay { total_steps } => {
                let left = total_steps.saturating_sub(step) as f64;
                let span = total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
                self.learning_rate * (left / span).min(1.0)
            }
        }
    }
}

/// The optimiser's settings and moments.
#[derive(Clone, Debug)]
pub struct AdamW<R> {
    settings: AdamWSettings,
    /// The weight decay of each parameter.
    decay: Vec<R>,
    first_moment: Vec<R>,
    second_moment: Vec<R>,
    steps_done: u64,
}

impl<R: Real> AdamW<R> {
    /// An optimiser that has made no step yet.
    pub fn new(settings: AdamWSettings, layout: &Layout) -> Self {
        let zeros = vec![R::ZERO; layout.len()];
        let mut decay = zeros.clone();
        for tensor in layout.tensors().iter().filter(|tensor| tensor.shape.len() == 2) {
            decay[tensor.range()].fill(R::from_f64(settings.weight_decay));
        }
        Self { settings, decay, first_moment: zeros.clone(), second_moment: zeros, steps_done: 0 }
    }

    /// Makes one step along the mean `gradient` and returns its L2 norm before clipping.
    ///
    /// # Panics
    /// If `parameters` or `gradient` has another length than the layout.
    pub fn step(&mut self, parameters: &mut [R], gradient: &[R]) -> R {
        assert_eq!(parameters.len(), self.decay.len(), "number of parameters");
        assert_eq!(gradient.len(), self.decay.len(), "length of the gradient");
        let settings = &self.settings;
        let rate = R::from_f64(settings.learning_rate_at(self.steps_done));
        self.steps_done += 1;
        let norm = gradient.iter().map(|&g| g * g).sum::<R>().sqrt();
        let limit = R::from_f64(settings.max_gradient_norm);
        let clip = if norm > limit { limit / norm } else { R::ONE };
        let (beta1, beta2) = (R::from_f64(settings.beta1), R::from_f64(settings.beta2));
        // 1 − β^t: what the moments, started at zero, lack to be means.
        let correction = |beta: f64| R::from_f64(1.0 - beta.powf(self.steps_done as f64));
        let (correction1, correction2) = (correction(settings.beta1), correction(settings.beta2));
        let epsilon = R::from_f64(settings.epsilon);
        for i in 0..parameters.len() {
            let g = gradient[i] * clip;
            self.first_moment[i] = beta1 * self.first_moment[i] + (R::ONE - beta1) * g;
            self.second_moment[i] = beta2 * self.second_moment[i] + (R::ONE - beta2) * g * g;
            let mean = self.first_moment[i] / correction1;
            let deviation = (self.second_moment[i] / correction2).sqrt();
            let step = mean / (deviation + epsilon) + self.decay[i] * parameters[i];
            parameters[i] = parameters[i] - rate * step;
        }
        norm
    }
}
