//! The host's side of an optimiser step: scalars, and which tensors decay.

use super::layout::{Layout, Tensor};
use super::step::{StepNumbers, StepReport, check_range};
use crate::arithmetic::{RANGE_LIMIT_BITS, canon, from_host, mul};
use crate::cpu::adamw::{
    Peaks, Scalars, State, larger_peaks, largest, norm, preview, stays_in_range, step, step_in_place,
};
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
pub(crate) fn scalars(config: &OptimizerConfig, step: StepNumbers, gradient_scale: f32, decays: bool) -> Scalars {
    let learning_rate = config.learning_rate_at(step.schedule);
    let one_minus = |beta: f32| from_host(1.0 - f64::from(beta));
    Scalars {
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

/// Takes one step, or fails and changes nothing but `scratch`, which is as
/// long as the parameters. `peaks` are those of the state before the step, and after it.
pub(crate) fn apply(
    simd: Simd,
    config: &OptimizerConfig,
    layout: &Layout,
    gradient_sum: &[f32],
    (micro_batches, numbers): (u32, StepNumbers),
    (mut state, peaks): (State<'_>, &mut Peaks),
    scratch: &mut [f32],
) -> Result<StepReport, EngineError> {
    let mean_scale = mean_scale(micro_batches);
    let (sum_norm, gradient_peak) = norm(simd, gradient_sum, scratch);
    if gradient_peak >= RANGE_LIMIT_BITS {
        check("gradient_sum", gradient_sum)?;
    }
    let gradient_norm = mul(sum_norm, mean_scale);
    check_range("gradient norm", None, gradient_norm.to_bits())?;
    let gradient_scale = clipped_scale(gradient_norm, mean_scale, config.gradient_clip_norm);
    let scalars = [false, true].map(|decays| scalars(config, numbers, gradient_scale, decays));
    let scalars_of = |tensor: &Tensor| &scalars[usize::from(tensor.shape.len() == 2)];
    let one_pass = scalars.iter().all(|scalars| stays_in_range(scalars, gradient_peak, *peaks));
    let mut new_peaks = Peaks::default();
    if one_pass {
        for tensor in layout.tensors() {
            let range = tensor.range();
            let part = state.part(range.clone());
            let written = step_in_place(simd, scalars_of(tensor), &gradient_sum[range], part);
            new_peaks = larger_peaks(new_peaks, written);
        }
        debug_assert!(new_peaks.iter().all(|&peak| peak < RANGE_LIMIT_BITS));
    } else {
        for tensor in layout.tensors() {
            let range = tensor.range();
            let (gradient, new) = (&gradient_sum[range.clone()], &mut scratch[range.clone()]);
            new_peaks = larger_peaks(new_peaks, preview(simd, scalars_of(tensor), gradient, &state.part(range), new));
        }
        check_range("adamw", None, largest(new_peaks))?;
        for tensor in layout.tensors() {
            let range = tensor.range();
            let part = state.part(range.clone());
            step(simd, scalars_of(tensor), &gradient_sum[range.clone()], part, &scratch[range]);
        }
    }
    *peaks = new_peaks;
    Ok(StepReport { gradient_norm, learning_rate: config.learning_rate_at(numbers.schedule) })
}
