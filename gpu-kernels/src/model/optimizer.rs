//! The host's side of an optimiser step: scalars, and which tensors decay.

use super::layout::{Layout, Tensor};
use super::muon::{Shape, Workspace};
use super::step::{StepNumbers, StepReport, check_range};
use crate::arithmetic::{RANGE_LIMIT_BITS, canon, from_host, mul};
use crate::cpu::adamw::{
    Peaks, Scalars as AdamwScalars, State, larger_peaks, largest, norm, preview, stays_in_range, step, step_in_place,
};
use crate::cpu::muon;
use crate::cpu::simd::Simd;
use crate::error::EngineError;
use crate::functions::reciprocal;
use crate::reduce::check;
use crate::spec::OptimizerConfig;

/// base^exponent by squaring, from the lowest bit of the exponent up.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= square;
        }
        square *= square;
        exponent >>= 1;
    }
    result
}

/// 1/(1 − β^(steps before + 1))
fn correction(beta: f32, steps_before: u64) -> f32 {
    from_host(1.0 / (1.0 - power(f64::from(beta), steps_before.saturating_add(1))))
}

/// Turns the norm of the summed gradient into that of the mean, given 1/micro-batches.
pub(crate) fn mean_scale(micro_batches: u32) -> f32 {
    from_host(1.0 / f64::from(micro_batches))
}

/// The factor from the summed gradient to the clipped mean.
pub(crate) fn clipped_scale(gradient_norm: f32, mean_scale: f32, clip: f32) -> f32 {
    if gradient_norm > clip { mul(mean_scale, mul(clip, reciprocal(gradient_norm))) } else { mean_scale }
}

/// The scalars of a step for tensors that decay or not.
pub(crate) fn scalars(config: &OptimizerConfig, step: StepNumbers, gradient_scale: f32, decays: bool) -> AdamwScalars {
    let learning_rate = config.learning_rate_at(step.schedule);
    let one_minus = |beta: f32| from_host(1.0 - f64::from(beta));
    AdamwScalars {
        gradient_scale,
        beta1: canon(config.beta1),
        one_minus_beta1: one_minus(config.beta1),
        beta2: canon(config.beta2),
        one_minus_beta2: one_minus(config.beta2),
        correction1: correction(config.beta1, step.adam),
        correction2: correction(config.beta2, step.adam),
        epsilon: config.epsilon,
        learning_rate,
        decay: if decays { from_host(1.0 - f64::from(learning_rate) * f64::from(config.weight_decay)) } else { 1.0 },
    }
}

/// The scalars of a step of a matrix that Muon makes orthogonal.
pub(crate) fn muon_scalars(
    config: &OptimizerConfig,
    step: StepNumbers,
    gradient_scale: f32,
    shape: Shape,
) -> muon::Scalars {
    let AdamwScalars { learning_rate, decay, .. } = scalars(config, step, gradient_scale, true);
    let size = muon::STEP_SIZE * (shape.length() as f64).sqrt();
    muon::Scalars { gradient_scale, learning_rate: from_host(f64::from(learning_rate) * size), decay }
}

/// Memory of a step: for as many values as there are parameters, and for Muon.
pub(crate) struct Scratch<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) muon: &'a mut Workspace,
}

/// One step under way.
struct Step<'a> {
    simd: Simd,
    config: &'a OptimizerConfig,
    layout: &'a Layout,
    gradient_sum: &'a [f32],
    numbers: StepNumbers,
    gradient_scale: f32,
    /// AdamW's, of tensors that decay not, and of those that do.
    scalars: [AdamwScalars; 2],
}

/// Takes one step, or fails and changes nothing but `scratch`. `peaks` are those of the state
/// before the step, and after it.
pub(crate) fn apply(
    simd: Simd,
    config: &OptimizerConfig,
    layout: &Layout,
    gradient_sum: &[f32],
    (micro_batches, numbers): (u32, StepNumbers),
    (mut state, peaks): (State<'_>, &mut Peaks),
    mut scratch: Scratch<'_>,
) -> Result<StepReport, EngineError> {
    let mean_scale = mean_scale(micro_batches);
    let (sum_norm, gradient_peak) = norm(simd, gradient_sum, scratch.values);
    if gradient_peak >= RANGE_LIMIT_BITS {
        check("gradient_sum", gradient_sum)?;
    }
    let gradient_norm = mul(sum_norm, mean_scale);
    check_range("gradient norm", None, gradient_norm.to_bits())?;
    let gradient_scale = clipped_scale(gradient_norm, mean_scale, config.gradient_clip_norm);
    let scalars = [false, true].map(|decays| scalars(config, numbers, gradient_scale, decays));
    let one_pass = scalars.iter().all(|scalars| stays_in_range(scalars, gradient_peak, *peaks));
    let step = Step { simd, config, layout, gradient_sum, numbers, gradient_scale, scalars };
    let mut new_peaks = Peaks::default();
    if !one_pass {
        new_peaks = step.preview_adamw(&mut state, scratch.values)?;
    }
    new_peaks = larger_peaks(new_peaks, step.compute_muon(&mut state, &mut scratch)?);
    // Nothing fails from here on.
    for tensor in layout.tensors() {
        let written = step.take(tensor, &mut state, scratch.values, one_pass);
        new_peaks = larger_peaks(new_peaks, written);
    }
    debug_assert!(new_peaks.iter().all(|&peak| peak < RANGE_LIMIT_BITS));
    *peaks = new_peaks;
    Ok(StepReport { gradient_norm, learning_rate: config.learning_rate_at(numbers.schedule) })
}

impl Step<'_> {
    fn scalars_of(&self, tensor: &Tensor) -> &AdamwScalars {
        &self.scalars[usize::from(tensor.shape.len() == 2)]
    }

    /// Computes AdamW's new parameters into `new`.
    fn preview_adamw(&self, state: &mut State<'_>, new: &mut [f32]) -> Result<Peaks, EngineError> {
        let mut peaks = Peaks::default();
        for tensor in self.layout.tensors().iter().filter(|tensor| !self.config.kind.orthogonalizes(tensor)) {
            let range = tensor.range();
            let (gradient, new) = (&self.gradient_sum[range.clone()], &mut new[range.clone()]);
            peaks = larger_peaks(peaks, preview(self.simd, self.scalars_of(tensor), gradient, &state.part(range), new));
        }
        check_range("adamw", None, largest(peaks))?;
        Ok(peaks)
    }

    /// Computes Muon's new parameters into `scratch.values`.
    fn compute_muon(&self, state: &mut State<'_>, scratch: &mut Scratch<'_>) -> Result<Peaks, EngineError> {
        let mut peaks = Peaks::default();
        for (range, shape) in Shape::all(self.config.kind, self.layout) {
            let scalars = muon_scalars(self.config, self.numbers, self.gradient_scale, shape);
            let part = state.part(range.clone());
            let inputs = [&self.gradient_sum[range.clone()], &*part.first_moment, &*part.parameters];
            let new = &mut scratch.values[range];
            let [parameters, momentum] = scratch.muon.step(self.simd, &scalars, shape, inputs, new)?;
            peaks = larger_peaks(peaks, [parameters, momentum, 0]);
        }
        Ok(peaks)
    }

    /// Takes the step of a tensor: as it was computed into `new`, or, in one pass, AdamW's without that.
    fn take(&self, tensor: &Tensor, state: &mut State<'_>, new: &[f32], one_pass: bool) -> Peaks {
        let range = tensor.range();
        let (gradient, new) = (&self.gradient_sum[range.clone()], &new[range.clone()]);
        let part = state.part(range);
        if self.config.kind.orthogonalizes(tensor) {
            muon::commit(self.simd, self.gradient_scale, gradient, part, new);
        } else if one_pass {
            return step_in_place(self.simd, self.scalars_of(tensor), gradient, part);
        } else {
            step(self.simd, self.scalars_of(tensor), gradient, part, new);
        }
        Peaks::default()
    }
}
