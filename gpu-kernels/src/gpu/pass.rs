//! One pass over a micro-batch: its memory, its program and its checks, kept for the next of equal shape.

use super::compile::Pipelines;
use super::forward::{Check, Recorder};
use super::model::Model;
use super::ops;
use super::program::Program;
use super::workspace::{Extent, Workspace};
use crate::buffers::Buffer;
use crate::device::DeviceError;
use crate::error::EngineError;
use crate::model::forward::Purpose;

/// Slots for checks: 256 layers have at most 26 each.
pub(crate) const SLOTS: usize = 8192;
/// Passes of other shapes that are kept.
const PASSES_MAX: usize = 4;

/// A pass ready to run.
pub(crate) struct Pass {
    extent: Extent,
    purpose: Purpose,
    pub(crate) workspace: Workspace,
    pub(crate) program: Program,
    pub(crate) checks: Vec<Check>,
}

/// Where a training pass leaves its gradient, and what it is added to.
pub(crate) struct GradientBuffers<'a> {
    pub(crate) micro: &'a Buffer,
    pub(crate) sum: &'a Buffer,
}

/// Passes of the last few shapes.
#[derive(Default)]
pub(crate) struct Passes(Vec<Pass>);

impl Passes {
    /// The pass that was asked for last.
    pub(crate) fn last(&self) -> Option<&Pass> {
        self.0.last()
    }

    /// Makes the pass of this shape the last one, recorded if it is new.
    pub(crate) fn prepare(
        &mut self,
        model: &Model,
        pipelines: &mut Pipelines,
        flags: &Buffer,
        gradient: &GradientBuffers<'_>,
        (extent, purpose): (Extent, Purpose),
    ) -> Result<(), DeviceError> {
        let known = self.0.iter().position(|pass| (pass.extent, pass.purpose) == (extent, purpose));
        let pass = match known {
            Some(place) => self.0.remove(place),
            None => {
                // The one that was used longest ago makes room before memory is asked for.
                if self.0.len() == PASSES_MAX {
                    self.0.remove(0);
                }
                match record(model, pipelines, flags, gradient, (extent, purpose)) {
                    Err(DeviceError::OutOfMemory { .. }) if !self.0.is_empty() => {
                        // Passes of other shapes can be recorded again.
                        self.0.clear();
                        pipelines.device.collect_garbage()?;
                        record(model, pipelines, flags, gradient, (extent, purpose))?
                    }
                    outcome => outcome?,
                }
            }
        };
        self.0.push(pass);
        Ok(())
    }
}

fn record(
    model: &Model,
    pipelines: &mut Pipelines,
    flags: &Buffer,
    gradient: &GradientBuffers<'_>,
    (extent, purpose): (Extent, Purpose),
) -> Result<Pass, DeviceError> {
    let workspace = Workspace::new(&pipelines.device, &model.config, &model.spec, &extent)?;
    let mut recorder = Recorder::new(model, &workspace, extent, pipelines);
    recorder.forward();
    if purpose != Purpose::NextToken {
        recorder.cross_entropy();
    }
    if purpose == Purpose::Train {
        recorder.backward(gradient.micro);
        let slot = recorder.check("gradient sum", None);
        let count = gradient.sum.len;
        recorder.push_all(ops::sum::sum_peak([gradient.sum, gradient.micro], count, slot));
        recorder.push_all(ops::sum::accumulate(gradient.micro, count, gradient.sum));
    }
    let Recorder { dispatches, checks, .. } = recorder;
    // The last three are the optimiser's.
    assert!(checks.len() < SLOTS - 3);
    let program = Program::new(pipelines, flags, &dispatches)?;
    Ok(Pass { extent, purpose, workspace, program, checks })
}

/// The first check that has failed, if one has. `flags` has slot 0 and at least one slot for each check.
pub(crate) fn failed_check(flags: &[u32], checks: &[Check]) -> Option<EngineError> {
    let (_, &(op, layer)) = flags[1..].iter().zip(checks).find(|(flag, _)| **flag != 0)?;
    Some(EngineError::Range { op, layer })
}
