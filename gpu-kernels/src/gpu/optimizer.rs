//! The optimiser step on the device. Twin of `model/optimizer.rs`.

use super::muon::Orthogonalizer;
use super::ops::adamw::{State, gradient_scale, sum_of_squares};
use super::ops::muon;
use super::pass::SLOTS;
use super::program::Dispatch;
use crate::buffers::Buffer;
use crate::cpu::adamw::{NORM_BLOCK, Scalars};
use crate::error::EngineError;
use crate::model::layout::Layout;
use crate::model::muon::{OP, Shape};
use crate::model::optimizer::{mean_scale, muon_scalars, scalars};
use crate::model::step::StepNumbers;
use crate::spec::{OptimizerConfig, OptimizerKind};
use std::ops::Range;

/// Neighbouring tensors of AdamW's that decay alike, as one range.
fn runs(kind: OptimizerKind, layout: &Layout) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for tensor in layout.tensors().iter().filter(|tensor| !kind.orthogonalizes(tensor)) {
        let (range, decays) = (tensor.range(), tensor.shape.len() == 2);
        match runs.last_mut() {
            Some((last, same)) if *same == decays && last.end == range.start => last.end = range.end,
            _ => runs.push((range, decays)),
        }
    }
    runs
}

/// Slots of the checks of norm and step: those of passes begin at the other end.
const NORM_SLOT: usize = SLOTS - 3;
const ADAMW_SLOT: usize = SLOTS - 2;
const MUON_SLOT: usize = SLOTS - 1;

/// The check of an optimiser step that has failed, if one has; `flags` has all slots.
pub(crate) fn failed_check(flags: &[u32]) -> Option<EngineError> {
    let failed = |slot: usize| flags[slot] != 0;
    let checks = [(NORM_SLOT, "gradient norm"), (ADAMW_SLOT, "adamw"), (MUON_SLOT, OP)];
    let (_, op) = checks.into_iter().find(|&(slot, _)| failed(slot))?;
    Some(EngineError::Range { op, layer: None })
}

/// What a step uses besides the state.
pub(crate) struct StepMemory<'a> {
    pub(crate) norm_sums: &'a Buffer,
    /// Of random bits, which are not drawn here, but bound.
    pub(crate) keys: &'a Buffer,
    /// There if the optimiser has matrices to make orthogonal.
    pub(crate) orthogonalizer: Option<&'a Orthogonalizer>,
}

/// The dispatches of a step, which reports its norm in `state.scale`.
pub(crate) fn record(
    config: &OptimizerConfig,
    layout: &Layout,
    state: &State,
    memory: StepMemory<'_>,
    (micro_batches, numbers): (u32, StepNumbers),
) -> Vec<Dispatch> {
    let (norm_slot, adamw_slot, muon_slot) = (NORM_SLOT as u32, ADAMW_SLOT as u32, MUON_SLOT as u32);
    let blocks = layout.len().div_ceil(NORM_BLOCK);
    let mut dispatches = sum_of_squares(&state.gradient, layout.len(), memory.norm_sums);
    let (mean_scale, clip) = (mean_scale(micro_batches), config.gradient_clip_norm);
    dispatches.push(gradient_scale((memory.norm_sums, blocks), mean_scale, clip, &state.scale, norm_slot));
    // The device computes the scale of the gradient itself.
    let scalars = |decays| -> Scalars { scalars(config, numbers, 0.0, decays) };
    let runs = runs(config.kind, layout);
    dispatches
        .extend(runs.iter().flat_map(|(range, decays)| state.preview(&scalars(*decays), range.clone(), adamw_slot)));
    let mut commits: Vec<Dispatch> =
        runs.iter().flat_map(|(range, decays)| state.step(&scalars(*decays), range.clone())).collect();
    for (range, shape) in Shape::all(config.kind, layout) {
        let Some(orthogonalizer) = memory.orthogonalizer else { unreachable!("there are matrices to make orthogonal") };
        let scalars = muon_scalars(config, numbers, 0.0, shape);
        let (place, memory) = ((range.clone(), shape), (memory.keys, memory.norm_sums));
        dispatches.extend(orthogonalizer.record(state, place, &scalars, memory, muon_slot));
        dispatches.extend(muon::preview(state, &scalars, range.clone(), muon_slot));
        commits.extend(muon::step(state, &scalars, range));
    }
    dispatches.extend(commits);
    dispatches
}
