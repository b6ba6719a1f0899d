//! The optimiser step on the device. Twin of `model/optimizer.rs`.

use super::ops::adamw::{State, gradient_scale, sum_of_squares};
use super::pass::SLOTS;
use super::program::Dispatch;
use crate::buffers::Buffer;
use crate::cpu::adamw::{NORM_BLOCK, Scalars};
use crate::error::EngineError;
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

/// Slots of the checks of norm and step: those of passes begin at the other end.
const NORM_SLOT: usize = SLOTS - 2;
const STEP_SLOT: usize = SLOTS - 1;

/// The check of an optimiser step that has failed, if one has; `flags` has all slots.
pub(crate) fn failed_check(flags: &[u32]) -> Option<EngineError> {
    let failed = |slot: usize| flags[slot] != 0;
    let op = [(NORM_SLOT, "gradient norm"), (STEP_SLOT, "adamw")].into_iter().find(|&(slot, _)| failed(slot))?.1;
    Some(EngineError::Range { op, layer: None })
}

/// The dispatches of a step, which reports its norm in `state.scale`.
pub(crate) fn record(
    config: &OptimizerConfig,
    layout: &Layout,
    state: &State,
    norm_sums: &Buffer,
    (micro_batches, numbers): (u32, StepNumbers),
) -> Vec<Dispatch> {
    let (norm_slot, step_slot) = (NORM_SLOT as u32, STEP_SLOT as u32);
    let blocks = layout.len().div_ceil(NORM_BLOCK);
    let mut dispatches = sum_of_squares(&state.gradient, layout.len(), norm_sums);
    let (mean_scale, clip) = (mean_scale(micro_batches), config.gradient_clip_norm);
    dispatches.push(gradient_scale((norm_sums, blocks), mean_scale, clip, &state.scale, norm_slot));
    // The device computes the scale of the gradient itself.
    let scalars = |decays| -> Scalars { scalars(config, numbers, 0.0, decays) };
    let runs = runs(layout);
    dispatches
        .extend(runs.iter().flat_map(|(range, decays)| state.preview(&scalars(*decays), range.clone(), step_slot)));
    dispatches.extend(runs.iter().flat_map(|(range, decays)| state.step(&scalars(*decays), range.clone())));
    dispatches
}
