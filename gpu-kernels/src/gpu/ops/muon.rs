//! Launchers of `muon_direction`, `muon_norm`, `muon_scale`, `muon_combine`, `muon_preview` and `muon`.
//!
//! A matrix lies in `range` of the flat vectors. Its directions are first in a tensor of its own, and then,
//! on their way to being orthogonal, where its second moment is, which is zero between steps.

use super::adamw::State;
use super::{GROUP_ELEMENTS, elementwise, windows, word};
use crate::buffers::Buffer;
use crate::cpu::muon::{MOMENTUM, NORM_EPSILON, ONE_MINUS_MOMENTUM, Scalars};
use crate::gpu::kernel::Kernel;
use crate::gpu::program::{Dispatch, NO_SLOT};
use std::ops::Range;

/// The same elements of a flat vector, and of a tensor that begins where `range` does.
struct Window {
    flat: Range<usize>,
    own: Range<usize>,
}

fn both(tensor: &Buffer, range: Range<usize>) -> impl Iterator<Item = Window> + use<> {
    let start = range.start;
    let own = move |flat: &Range<usize>| flat.start - start..flat.end - start;
    windows(tensor, range, GROUP_ELEMENTS).map(move |flat| Window { own: own(&flat), flat })
}

fn dispatch(kernel: Kernel, count: usize, params: Vec<u32>, buffers: Vec<Buffer>) -> Dispatch {
    let params = [vec![word(count)], params].concat();
    Dispatch { kernel, params, buffers, groups: count.div_ceil(GROUP_ELEMENTS), operations: elementwise(count) }
}

/// Parameters of kernels that know the momentum.
fn update_params(offset: usize, own_offset: usize, scalars: &Scalars, slot: u32) -> Vec<u32> {
    let floats = [MOMENTUM, ONE_MINUS_MOMENTUM, scalars.learning_rate, scalars.decay];
    let mut params = vec![word(offset), word(own_offset)];
    params.extend(floats.map(f32::to_bits));
    params.push(slot);
    params
}

/// Writes the directions of `range` to the beginning of `directions`.
pub(crate) fn direction(state: &State, scalars: &Scalars, range: Range<usize>, directions: &Buffer) -> Vec<Dispatch> {
    assert!(range.len() <= directions.len);
    let launch = |Window { flat, own }: Window| {
        let [gradient, momentum] = [&state.gradient, &state.first_moment].map(|tensor| tensor.window(flat.clone()));
        let (directions, own_offset) = directions.window(own);
        let params = update_params(gradient.1, own_offset, scalars, NO_SLOT);
        let buffers = vec![gradient.0, state.scale.clone(), momentum.0, directions];
        dispatch(Kernel::MuonDirection, flat.len(), params, buffers)
    };
    both(&state.gradient, range).map(launch).collect()
}

/// `factor` = 1 / (the norm whose block sums these are + ε).
pub(crate) fn norm((sums, blocks): (&Buffer, usize), factor: &Buffer, slot: u32) -> Dispatch {
    assert!(blocks <= sums.len);
    let params = vec![1, word(blocks), NORM_EPSILON.to_bits(), slot];
    // One workgroup cannot be cut, so its work counts as none.
    Dispatch { kernel: Kernel::MuonNorm, params, buffers: vec![sums.clone(), factor.clone()], groups: 1, operations: 0 }
}

/// `x[range]` = directions · factor.
pub(crate) fn scale(directions: &Buffer, factor: &Buffer, x: &Buffer, range: Range<usize>) -> Vec<Dispatch> {
    assert!(range.len() <= directions.len && range.end <= x.len);
    let launch = |Window { flat, own }: Window| {
        let ((directions, own_offset), (x, offset)) = (directions.window(own), x.window(flat.clone()));
        let params = vec![word(own_offset), word(offset)];
        dispatch(Kernel::MuonScale, flat.len(), params, vec![directions, factor.clone(), x])
    };
    both(x, range).map(launch).collect()
}

/// `x[range]` = own · `x[range]` + other · y
pub(crate) fn combine(y: &Buffer, x: &Buffer, range: Range<usize>, [own, other]: [f32; 2], slot: u32) -> Vec<Dispatch> {
    assert!(range.len() <= y.len && range.end <= x.len);
    let launch = |window: Window| {
        let ((y, own_offset), (x, offset)) = (y.window(window.own), x.window(window.flat.clone()));
        let params = vec![word(own_offset), word(offset), own.to_bits(), other.to_bits(), slot];
        dispatch(Kernel::MuonCombine, window.flat.len(), params, vec![y, x])
    };
    both(x, range).map(launch).collect()
}

fn update(kernel: Kernel, state: &State, scalars: &Scalars, range: Range<usize>, slot: u32) -> Vec<Dispatch> {
    let launch = |flat: Range<usize>| {
        let tensors = [&state.gradient, &state.parameters, &state.first_moment, &state.second_moment];
        let [gradient, parameters, first, second] = tensors.map(|tensor| tensor.window(flat.clone()));
        // All begin at the same place of tensors that begin alike.
        let params = update_params(gradient.1, 0, scalars, slot);
        let buffers = vec![gradient.0, state.scale.clone(), parameters.0, first.0, second.0];
        dispatch(kernel, flat.len(), params, buffers)
    };
    windows(&state.parameters, range, GROUP_ELEMENTS).map(launch).collect()
}

/// Checks the magnitudes that the step would write in `range`.
pub(crate) fn preview(state: &State, scalars: &Scalars, range: Range<usize>, slot: u32) -> Vec<Dispatch> {
    update(Kernel::MuonPreview, state, scalars, range, slot)
}

/// Takes the step in `range`, unless any check has failed.
pub(crate) fn step(state: &State, scalars: &Scalars, range: Range<usize>) -> Vec<Dispatch> {
    update(Kernel::Muon, state, scalars, range, NO_SLOT)
}
