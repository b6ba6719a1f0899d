//! The small values that go in and out of a training step.

use crate::arithmetic::RANGE_LIMIT_BITS;
use crate::cpu::random::{Key, key_from};
use crate::error::EngineError;

/// Where a micro-batch stands in its run: the seed of all its random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatchKey {
    /// The run's seed.
    pub run_seed: [u8; 32],
    /// Optimiser step, from 0.
    pub step: u64,
    /// Index within the step, over all peers.
    pub micro_batch: u64,
}

/// Where an optimiser step stands: as the moments count, and in the learning-rate schedule.
///
/// They part where members do different numbers of steps: a member that came
/// late begins with moments of zero in the middle of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepNumbers {
    /// Steps taken since the moments were zero: the exponent of the bias corrections 1/(1 − β^(adam + 1)).
    pub adam: u64,
    /// The step, from 0, of [`crate::OptimizerConfig::learning_rate_at`].
    pub schedule: u64,
}

impl StepNumbers {
    /// Step `step` (from 0) of a run that takes all of its steps in order.
    pub fn in_order(step: u64) -> Self {
        Self { adam: step, schedule: step }
    }
}

/// Domain of the hash from a micro-batch's place to the keys of its ops.
const CONTEXT: &str = "manta arithmetic 1 stochastic rounding";

/// Derives the keys of the ops of one micro-batch.
pub(crate) struct OpKeys {
    micro_batch: [u8; 32],
}

/// Which gradient is rounded, along which axis; the numbers are part of the arithmetic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RoundingSite {
    DownRows = 0,
    DownColumns = 1,
    GateUpRows = 2,
    GateUpColumns = 3,
    OutputRows = 4,
    OutputColumns = 5,
    AttendedRows = 6,
    AttendedColumns = 7,
    ScoresRows = 8,
    ScoresColumns = 9,
    JointRows = 10,
    JointColumns = 11,
    LogitsRows = 12,
    LogitsColumns = 13,
}

/// Numbers from one layer's first site to the next layer's.
pub(crate) const LAYER_SITES: u32 = 16;

impl RoundingSite {
    pub(crate) const ALL: [Self; 14] = [
        Self::DownRows,
        Self::DownColumns,
        Self::GateUpRows,
        Self::GateUpColumns,
        Self::OutputRows,
        Self::OutputColumns,
        Self::AttendedRows,
        Self::AttendedColumns,
        Self::ScoresRows,
        Self::ScoresColumns,
        Self::JointRows,
        Self::JointColumns,
        Self::LogitsRows,
        Self::LogitsColumns,
    ];

    /// The number of this site in `layer` (the number of layers for the head).
    pub(crate) fn number(self, layer: usize) -> u32 {
        layer as u32 * LAYER_SITES + self as u32
    }
}

impl OpKeys {
    /// For the ops of the micro-batch at this place.
    pub(crate) fn new(key: &MicroBatchKey) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&key.run_seed).update(&key.step.to_le_bytes()).update(&key.micro_batch.to_le_bytes());
        Self { micro_batch: *hasher.finalize().as_bytes() }
    }

    /// The key of `site` in `layer` (the number of layers for the head).
    pub(crate) fn site(&self, layer: usize, site: RoundingSite) -> Key {
        let number = site.number(layer);
        let hash = blake3::keyed_hash(&self.micro_batch, &number.to_le_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
        key_from(&bytes)
    }
}

/// A sum of token losses that does not depend on the order of its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossSum {
    /// Σ loss in units of 2⁻²⁰ nats.
    pub fixed: i64,
    /// Number of tokens summed.
    pub tokens: u64,
}

impl LossSum {
    /// The mean loss; NaN if there are no tokens.
    pub fn nats_per_token(&self) -> f64 {
        self.fixed as f64 / 1_048_576.0 / self.tokens as f64
    }
}

impl std::ops::Add for LossSum {
    type Output = Self;

    /// Saturates, for sums reported by others may be anything.
    fn add(self, other: Self) -> Self {
        Self { fixed: self.fixed.saturating_add(other.fixed), tokens: self.tokens.saturating_add(other.tokens) }
    }
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for LossSum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |a, b| a + b)
    }
}

/// How well a model predicts tokens; does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// The losses, and how many tokens were predicted.
    pub loss: LossSum,
    /// Tokens whose logit was larger than every other one.
    pub hits: u64,
}

impl std::ops::Add for Evaluation {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { loss: self.loss + other.loss, hits: self.hits + other.hits }
    }
}

impl std::iter::Sum for Evaluation {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |a, b| a + b)
    }
}

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Euclidean norm of the mean gradient before clipping.
    pub gradient_norm: f32,
    /// The step's learning rate.
    pub learning_rate: f32,
}

/// Fails if an op met a magnitude outside of the range.
pub(crate) fn check_range(op: &'static str, layer: impl Into<Option<usize>>, peak: u32) -> Result<(), EngineError> {
    if peak < RANGE_LIMIT_BITS { Ok(()) } else { Err(EngineError::Range { op, layer: layer.into() }) }
}
