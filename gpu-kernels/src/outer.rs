//! The outer optimiser of training by local steps: Nesterov momentum on
//! pseudo-gradients (DiLoCo, Douillard et al. 2023).
//!
//! In a round every member starts from the same parameters, the *anchor*, and
//! takes steps of its own. Then it gives its *delta*, how far it went against
//! the anchor, times the number of micro-batches that it did. The sum of all
//! deltas moves the anchor, alike on all members, and they start again from it.
//!
//! Deltas and sums go through the host anyway, on their way to other peers, so
//! this is computed natively whatever the engine computes on:
//! [`crate::TrainingEngine::set_parameters`] then hands it the new anchor.

use crate::arithmetic::{canon, from_host, mul};
use crate::cpu::outer::{Scalars, delta, norm, preview, step};
use crate::cpu::simd::{Simd, SimdPath};
use crate::error::EngineError;
use crate::model::engine::{PARAMETER_CONTEXT, hash_vectors};
use crate::model::optimizer::mean_scale;
use crate::model::step::check_range;
use crate::reduce::check;
use serde::{Deserialize, Serialize};

/// Domain of the hash of the outer momentum.
const MOMENTUM_CONTEXT: &str = "manta arithmetic 1 outer momentum";

/// How the outer optimiser steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OuterConfig {
    /// Part of the way along the direction that the anchor goes, 0 to 2.
    pub learning_rate: f32,
    /// How much of the earlier direction is kept, 0 to 0.999; 0 with a learning
    /// rate of 1 is plain averaging.
    pub momentum: f32,
}

impl Default for OuterConfig {
    fn default() -> Self {
        Self { learning_rate: 0.7, momentum: 0.9 }
    }
}

impl OuterConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that is out of range and says what is accepted.
    pub fn validate(&self) -> Result<(), EngineError> {
        for (field, value, high) in [("learning_rate", self.learning_rate, 2.0), ("momentum", self.momentum, 0.999)] {
            if !(0.0..=high).contains(&value) {
                return Err(EngineError::Spec { field, problem: format!("{value} is not in 0..={high}") });
            }
        }
        Ok(())
    }
}

/// What one outer step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OuterReport {
    /// Euclidean norm of the mean delta: how far the members went, on average, together.
    pub delta_norm: f32,
}

/// All that the outer optimiser remembers, each vector flat in the order of [`crate::Layout`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OuterState {
    /// The parameters at the round's start.
    pub anchor: Vec<f32>,
    /// The decayed sum of mean deltas.
    pub momentum: Vec<f32>,
}

/// The outer optimiser of one run. Calls that fail change nothing, and all
/// instruction sets give the same bits.
pub struct OuterOptimizer {
    config: OuterConfig,
    state: OuterState,
    simd: Simd,
}

impl OuterOptimizer {
    /// The optimiser of a run that starts from the parameters `anchor`
    /// (canonised), without momentum.
    ///
    /// # Errors
    /// A field out of range, or an element that is not a number under 2⁴⁰.
    pub fn new(config: OuterConfig, anchor: Vec<f32>) -> Result<Self, EngineError> {
        Self::with_path(config, anchor, SimdPath::Auto)
    }

    /// [`OuterOptimizer::new`] on this instruction set.
    ///
    /// # Errors
    /// As there, or an instruction set that the machine lacks.
    pub fn with_path(config: OuterConfig, anchor: Vec<f32>, path: SimdPath) -> Result<Self, EngineError> {
        config.validate()?;
        let momentum = vec![0.0; anchor.len()];
        let state = checked(OuterState { anchor, momentum })?;
        Ok(Self { config, state, simd: path.resolve()? })
    }

    /// The parameters at the round's start.
    pub fn anchor(&self) -> &[f32] {
        &self.state.anchor
    }

    /// The decayed sum of mean deltas.
    pub fn momentum(&self) -> &[f32] {
        &self.state.momentum
    }

    /// A copy of anchor and momentum.
    pub fn state(&self) -> OuterState {
        self.state.clone()
    }

    /// Goes on from `state`, which an optimiser of the same model gave.
    ///
    /// # Errors
    /// A wrong length, or an element that is not a number under 2⁴⁰.
    pub fn load_state(&mut self, state: OuterState) -> Result<(), EngineError> {
        self.check_length("anchor", state.anchor.len())?;
        self.check_length("momentum", state.momentum.len())?;
        self.state = checked(state)?;
        Ok(())
    }

    /// blake3 of the anchor, as an engine's hash of its parameters: equal on
    /// all members after every round.
    pub fn parameter_hash(&self) -> [u8; 32] {
        hash_vectors(PARAMETER_CONTEXT, &[&self.state.anchor])
    }

    /// blake3 of the momentum: equal on all members after every round.
    pub fn momentum_hash(&self) -> [u8; 32] {
        hash_vectors(MOMENTUM_CONTEXT, &[&self.state.momentum])
    }

    /// What a member that came from the anchor to `local` in `batches`
    /// micro-batches adds to the round: anchor minus local, weighted by its
    /// work, so that a slower member counts less.
    ///
    /// # Errors
    /// A wrong length, an element that is not a number under 2⁴⁰, or a
    /// weighted difference that leaves the range.
    pub fn delta(&self, local: &[f32], batches: u32) -> Result<Vec<f32>, EngineError> {
        self.check_length("local parameters", local.len())?;
        check("local parameters", local)?;
        let mut out = vec![0.0; local.len()];
        let peak = delta(self.simd, &self.state.anchor, local, from_host(f64::from(batches)), &mut out);
        check_range("outer delta", None, peak)?;
        Ok(out)
    }

    /// Takes one outer step with the sum of the members' deltas, in rank order
    /// ([`crate::reduce::accumulate`]), of `batches` micro-batches together.
    ///
    /// # Errors
    /// A wrong length, an element that is not a number under 2⁴⁰, no
    /// micro-batches, or an update that leaves the range.
    pub fn apply(&mut self, delta_sum: &[f32], batches: u32) -> Result<OuterReport, EngineError> {
        self.check_length("delta_sum", delta_sum.len())?;
        check("delta_sum", delta_sum)?;
        if batches == 0 {
            return Err(EngineError::Length { what: "batches", expected: "at least 1".into(), found: 0 });
        }
        let scalars = Scalars {
            mean_scale: mean_scale(batches),
            momentum: canon(self.config.momentum),
            learning_rate: canon(self.config.learning_rate),
        };
        let delta_norm = mul(norm(self.simd, delta_sum), scalars.mean_scale);
        check_range("outer delta norm", None, delta_norm.to_bits())?;
        let OuterState { anchor, momentum } = &mut self.state;
        check_range("outer step", None, preview(self.simd, &scalars, delta_sum, anchor, momentum))?;
        step(self.simd, &scalars, delta_sum, anchor, momentum);
        Ok(OuterReport { delta_norm })
    }

    fn check_length(&self, what: &'static str, found: usize) -> Result<(), EngineError> {
        let expected = self.state.anchor.len();
        if found == expected {
            return Ok(());
        }
        Err(EngineError::Length { what, expected: expected.to_string(), found })
    }
}

/// Refuses values that no step leaves behind, and canonises the others.
fn checked(mut state: OuterState) -> Result<OuterState, EngineError> {
    for (what, vector) in [("anchor", &mut state.anchor), ("momentum", &mut state.momentum)] {
        check(what, vector)?;
        vector.iter_mut().for_each(|value| *value = canon(*value));
    }
    Ok(state)
}
