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
//! [`crate::TrainingEngine::set_parameters`] then hands it the new anchor. It is
//! done once a round and bound by memory, so one thread of plain loops is enough.

use crate::arithmetic::{add, canon, from_host, magnitude, mul, peak, sub};
use crate::cpu::adamw::NORM_BLOCK;
use crate::cpu::reduce::{tree_dot, tree_sum};
use crate::error::EngineError;
use crate::functions::sqrt;
use crate::model::optimizer::mean_scale;
use crate::model::state::{PARAMETER_CONTEXT, hash_vectors};
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
    /// The most robust of those that the example `local_rounds` tries, for 30 to
    /// 100 rounds of 4 to 50 steps. The paper's momentum of 0.9 is too much for
    /// so few rounds, unless they are long.
    fn default() -> Self {
        Self { learning_rate: 0.7, momentum: 0.5 }
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

/// The outer optimiser of one run. Calls that fail change nothing.
pub struct OuterOptimizer {
    config: OuterConfig,
    state: OuterState,
}

impl OuterOptimizer {
    /// The optimiser of a run that starts from the parameters `anchor`
    /// (canonised), without momentum.
    ///
    /// # Errors
    /// A field out of range, or an element that is not a number under 2⁴⁰.
    pub fn new(config: OuterConfig, anchor: Vec<f32>) -> Result<Self, EngineError> {
        config.validate()?;
        let momentum = vec![0.0; anchor.len()];
        Ok(Self { config, state: checked(OuterState { anchor, momentum })? })
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
        let weight = from_host(f64::from(batches));
        let pairs = self.state.anchor.iter().zip(local);
        let delta: Vec<f32> = pairs.map(|(&anchor, &local)| mul(sub(anchor, canon(local)), weight)).collect();
        check_range("outer delta", None, peak(&delta))?;
        Ok(delta)
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
        let delta_norm = mul(norm(delta_sum), scalars.mean_scale);
        check_range("outer delta norm", None, delta_norm.to_bits())?;
        let OuterState { anchor, momentum } = &mut self.state;
        check_range("outer step", None, scalars.preview(delta_sum, anchor, momentum))?;
        scalars.step(delta_sum, anchor, momentum);
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

/// The step's scalars, each rounded once to f32 on the host.
struct Scalars {
    /// Turns the sum of the deltas into their mean: 1/batches.
    mean_scale: f32,
    momentum: f32,
    learning_rate: f32,
}

impl Scalars {
    /// New anchor and momentum of one element.
    #[inline(always)]
    fn element(&self, sum: f32, anchor: f32, momentum: f32) -> (f32, f32) {
        let mean = mul(canon(sum), self.mean_scale);
        let momentum = add(mul(self.momentum, momentum), mean);
        let direction = add(mean, mul(self.momentum, momentum));
        (sub(anchor, mul(self.learning_rate, direction)), momentum)
    }

    /// The largest magnitude that [`Scalars::step`] would write, so that it can be refused before it begins.
    fn preview(&self, sum: &[f32], anchor: &[f32], momentum: &[f32]) -> u32 {
        let mut peak = 0;
        for ((&sum, &anchor), &momentum) in sum.iter().zip(anchor).zip(momentum) {
            let (anchor, momentum) = self.element(sum, anchor, momentum);
            peak = peak.max(magnitude(anchor)).max(magnitude(momentum));
        }
        peak
    }

    fn step(&self, sum: &[f32], anchor: &mut [f32], momentum: &mut [f32]) {
        for ((&sum, anchor), momentum) in sum.iter().zip(anchor).zip(momentum) {
            (*anchor, *momentum) = self.element(sum, *anchor, *momentum);
        }
    }
}

/// Euclidean norm, by the trees of AdamW's gradient norm.
fn norm(values: &[f32]) -> f32 {
    let blocks: Vec<f32> = values.chunks(NORM_BLOCK).map(|block| tree_dot(block, block)).collect();
    sqrt(tree_sum(&blocks))
}

/// Refuses values that no step leaves behind, and canonises the others.
fn checked(mut state: OuterState) -> Result<OuterState, EngineError> {
    for (what, vector) in [("anchor", &mut state.anchor), ("momentum", &mut state.momentum)] {
        check(what, vector)?;
        vector.iter_mut().for_each(|value| *value = canon(*value));
    }
    Ok(state)
}
