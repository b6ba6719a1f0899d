//! The optimiser step on the device. Twin of `model/optimizer.rs`.

use super::forward::Check;
use super::ops::adamw::{State, gradient_scale, sum_of_squares};
use super::program::Dispatch;
use crate::buffers::Buffer;
use crate::cpu::adamw::{NORM_BLOCK, Scalars};
use crate::model::layout::Layout;
use crate::model::optimizer::{mean_scale, scalars};
use crate::model::step::StepNumbers;
use crate::spec::OptimizerConfig;
use std::ops::Range;

/// Neighbouring tensors that decay alike, as one range.
fn runs(layout: &Layout) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for tensor in layout.tensors() {
        let (range, decays) = (tensor.range(), tensor.shape.len() == 2);
        match runs.last_mut() {
            Some((last, same)) if *same == decays && last.end == range.start => last.end = range.end,
            _ => runs.push((range, decays)),
        }
    }
    runs
}

/// The dispatches of a step, which reports its norm in `state.scale`, and their checks.
pub(crate) fn record(
    config: &OptimizerConfig,
    layout: &Layout,
    state: &State,
    norm_sums: &Buffer,
    (micro_batches, numbers): (u32, StepNumbers),
) -> (Vec<Dispatch>, Vec<Check>) {
    let checks = vec![("gradient norm", None), ("adamw", None)];
    let (norm_slot, step_slot) = (1, 2);
    let blocks = layout.len().div_ceil(NORM_BLOCK);
    let mut dispatches = sum_of_squares(&state.gradient, layout.len(), norm_sums);
    let (mean_scale, clip) = (mean_scale(micro_batches), config.gradient_clip_norm);
    dispatches.push(gradient_scale((norm_sums, blocks), mean_scale, clip, &state.scale, norm_slot));
    // The device computes the scale of the gradient itself.
    let scalars = |decays| -> Scalars { scalars(config, numbers, 0.0, decays) };
    let runs = runs(layout);
    dispatches.extend(runs.iter().flat_map(|(range, decays)| state.preview(&scalars(*decays), range.clone(), step_slot)));
    dispatches.extend(runs.iter().flat_map(|(range, decays)| state.step(&scalars(*decays), range.clone())));
    (dispatches, checks)
}
