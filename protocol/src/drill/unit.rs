//! Units of work: data that says exactly what to compute, so that everyone who
//! computes it gets the same digest.
//!
//! Three kinds: a gemm measures power, [`SegmentUnit`] re-executes a part of
//! a run, [`EvaluateUnit`] judges a model on text that it was not trained on. A unit
//! is worth its [operations](Unit::operations), which follow from the unit alone. No
//! unit holds the answer: who did not compute has nothing to copy.

use super::class::GemmClass;
use crate::ids::{Hash, RunId};
use crate::run::RunSpec;
use crate::run::ledger::Span;
use crate::run::report::LossSum;
use crate::seed::Seed;
use crate::wire::codec;
use crate::wire::limits::MEMBERS_MAX;
use serde::{Deserialize, Serialize};

/// Operations on 8-bit integers that count as one Whetstone operation, unless a
/// genesis says otherwise. A processor core with 256-bit vectors (AVX2) does about
/// 19 in the time of one Whetstone operation, one with VNNI about 47.
pub const OPERATIONS_PER_WHETSTONE: u64 = 32;
/// Power 1: a day of a core that does this many Whetstone operations a second.
pub const WHETSTONE_PER_S: u64 = 1_000_000_000;
/// What every unit may take, whatever its size, in milliseconds.
pub const DEADLINE_BASE_MS: u64 = 2_000;
/// Longest deadline of any unit, in milliseconds: a day.
pub const DEADLINE_MAX_MS: u64 = 86_400_000;
/// Most exchanges in a segment.
pub const SEGMENT_EXCHANGES_MAX: usize = 64;
/// Most spans of batches in a segment.
pub const SEGMENT_SPANS_MAX: usize = 1024;
/// Most batches in a segment.
pub const SEGMENT_BATCHES_MAX: u64 = 1 << 20;
/// Most windows of held-out text in one evaluation.
pub const WINDOWS_MAX: u32 = 1 << 20;
/// Longest encoded unit, in bytes: a segment of the most spans.
pub const UNIT_BYTES_MAX: usize = 48 * 1024;

/// A part of a run that is to be computed again.
///
/// Who executes it fetches spec, data and states by their hashes, sets a model to
/// the state `from`, and does the exchanges one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentUnit {
    /// The run.
    pub run: RunId,
    /// [`RunSpec::hash`] of its spec.
    pub spec: Hash,
    /// Floating-point operations of one batch of this spec: [`batch_operations`].
    pub batch_operations: u64,
    /// The first exchange that is done.
    pub first: u64,
    /// Hash of the manifest of the state before exchange `first`.
    pub from: Hash,
    /// Exchanges `first`, `first + 1` and so on.
    pub exchanges: Vec<Exchange>,
    /// Where members take steps of their own: what each held before the first exchange,
    /// in the order of `contributors`. Empty where gradients are averaged.
    pub members: Vec<Own>,
}

/// One exchange of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Where the learning-rate schedule stands, in optimiser steps.
    pub schedule_step: u64,
    /// The batches of each member that contributed, in rank order, for sums of floats
    /// depend on their order. Where members take steps of their own, everyone in
    /// `members` has its place, with no batches if it did not contribute.
    pub contributors: Vec<Vec<Span>>,
}

/// What a member that takes steps of its own held beside the shared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Steps since its moments were zero.
    pub steps: u64,
    /// Hash of the manifest of its moments; none if they were zero.
    pub moments: Option<Hash>,
}

/// Loss and accuracy of a model on held-out text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateUnit {
    /// The run that the model comes from.
    pub run: RunId,
    /// [`RunSpec::hash`] of its spec, which names the data whose validation part is used.
    pub spec: Hash,
    /// Floating-point operations of one window: [`window_operations`].
    pub window_operations: u64,
    /// Hash of the manifest of the state whose parameters are judged.
    pub state: Hash,
    /// How many windows of the validation part are judged at most, evenly spaced.
    pub windows: u32,
}

/// A unit of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// An exact integer product that follows from a seed: measures power.
    Gemm {
        /// How large.
        class: GemmClass,
        /// What the operands are drawn from; nobody may know it before the task is drawn.
        seed: Seed,
    },
    /// Re-executes a part of a run.
    Segment {
        /// Which.
        unit: Box<SegmentUnit>,
    },
    /// Judges a model.
    Evaluate {
        /// Which, on what.
        unit: EvaluateUnit,
    },
}

/// Floating-point operations of a window of `spec` forwards: two for each parameter
/// and token, and attention's (Chowdhery et al. 2022, appendix B). Saturating.
pub fn window_operations(spec: &RunSpec) -> u64 {
    let model = &spec.model;
    let length = u128::from(spec.sequence_length);
    let parameters = u128::from(model.parameters().unwrap_or(u64::MAX));
    let width = u128::from(model.num_attention_heads) * u128::from(model.head_dim);
    let attention = 4 * u128::from(model.num_hidden_layers) * width * length;
    u64::try_from(length.saturating_mul(2 * parameters + attention)).unwrap_or(u64::MAX)
}

/// Floating-point operations of a batch of `spec`, forwards and backwards: three
/// times those of its windows forwards. Saturating.
pub fn batch_operations(spec: &RunSpec) -> u64 {
    window_operations(spec).saturating_mul(3).saturating_mul(u64::from(spec.micro_batch_sequences))
}

/// What re-executing a segment came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentResult {
    /// Hash of the manifest of the state after the last exchange.
    pub state: Hash,
    /// Loss of each batch, in the order in which they were computed: what the run's
    /// members have not told anybody.
    pub losses: Vec<LossSum>,
}

/// What an evaluation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Sum of the losses, and tokens that were predicted.
    pub loss: LossSum,
    /// Tokens to which the model gave a larger probability than to any other.
    pub hits: u64,
}

impl Evaluation {
    /// The sum of both, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { loss: self.loss.plus(other.loss), hits: self.hits.saturating_add(other.hits) }
    }

    /// Share of the tokens that were predicted; `None` without tokens.
    pub fn accuracy(&self) -> Option<f64> {
        (self.loss.tokens > 0).then(|| self.hits as f64 / self.loss.tokens as f64)
    }
}

impl SegmentUnit {
    /// Batches of all exchanges and members, saturating.
    pub fn batches(&self) -> u64 {
        self.spans().fold(0, |sum: u64, span| sum.saturating_add(span.count))
    }

    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.exchanges.iter().flat_map(|exchange| exchange.contributors.iter().flatten())
    }

    /// The digest of re-executing it: blake3, in key-derivation mode, of the unit's
    /// hash, the state's root, and each loss as two 64-bit words, little-endian.
    pub fn digest(&self, result: &SegmentResult) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 segment digest v1");
        hasher.update(Unit::Segment { unit: Box::new(self.clone()) }.hash().as_bytes());
        hasher.update(result.state.as_bytes());
        for loss in &result.losses {
            hasher.update(&loss.fixed.to_le_bytes()).update(&loss.tokens.to_le_bytes());
        }
        Hash(*hasher.finalize().as_bytes())
    }

    fn validate(&self) -> Result<(), String> {
        let exchanges = self.exchanges.len();
        if !(1..=SEGMENT_EXCHANGES_MAX).contains(&exchanges) {
            return Err(format!("a segment of {exchanges} exchanges, accepted is 1 to {SEGMENT_EXCHANGES_MAX}"));
        }
        if self.first.checked_add(exchanges as u64).is_none() {
            return Err(format!("a segment from exchange {} on", self.first));
        }
        if self.members.len() > MEMBERS_MAX {
            return Err(format!("{} members, at most {MEMBERS_MAX}", self.members.len()));
        }
        let beyond = |exchange: &&Exchange| {
            let contributors = exchange.contributors.len();
            let places = if self.members.is_empty() { contributors } else { self.members.len() };
            contributors != places || !(1..=MEMBERS_MAX).contains(&contributors)
        };
        if let Some(exchange) = self.exchanges.iter().find(beyond) {
            let (found, own) = (exchange.contributors.len(), self.members.len());
            return Err(format!("{found} contributors with {own} members' moments, at most {MEMBERS_MAX}"));
        }
        let spans = self.spans().count();
        if spans > SEGMENT_SPANS_MAX {
            return Err(format!("{spans} spans of batches, at most {SEGMENT_SPANS_MAX}"));
        }
        if let Some(span) = self.spans().find(|span| span.count == 0 || span.first.checked_add(span.count).is_none()) {
            return Err(format!("{} batches from {} on", span.count, span.first));
        }
        match self.batches() {
            batches if batches > SEGMENT_BATCHES_MAX => {
                Err(format!("{batches} batches, at most {SEGMENT_BATCHES_MAX}"))
            }
            _ => Ok(()),
        }
    }
}

impl EvaluateUnit {
    /// The digest of an evaluation: blake3, in key-derivation mode, of the unit's
    /// hash and loss, tokens and hits as 64-bit words, little-endian.
    pub fn digest(&self, evaluation: &Evaluation) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 evaluate digest v1");
        hasher.update(Unit::Evaluate { unit: *self }.hash().as_bytes());
        hasher.update(&evaluation.loss.fixed.to_le_bytes());
        hasher.update(&evaluation.loss.tokens.to_le_bytes());
        hasher.update(&evaluation.hits.to_le_bytes());
        Hash(*hasher.finalize().as_bytes())
    }
}

impl Unit {
    /// The unit's name: blake3, in key-derivation mode, of its canonical bytes.
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key("manta 2026-11 work unit v1", &codec::encode(self)))
    }

    /// How much work it is: operations on integers or floats, saturating.
    pub fn operations(&self) -> u64 {
        match self {
            Self::Gemm { class, .. } => class.operations(),
            Self::Segment { unit } => unit.batch_operations.saturating_mul(unit.batches()),
            Self::Evaluate { unit } => unit.window_operations.saturating_mul(u64::from(unit.windows)),
        }
    }

    /// How long it may take at a speed that the slowest accepted device reaches: a
    /// base that is the same for all, and its operations at that speed.
    pub fn deadline_ms(&self, operations_per_s_min: u64) -> u64 {
        let ms = u128::from(self.operations()) * 1_000 / u128::from(operations_per_s_min.max(1));
        u64::try_from(ms).unwrap_or(u64::MAX).saturating_add(DEADLINE_BASE_MS).min(DEADLINE_MAX_MS)
    }

    /// Whether the unit is one of a run of `spec`; a gemm unit belongs to none.
    ///
    /// # Errors
    /// What of the unit does not follow from the spec.
    pub fn check_spec(&self, spec: &RunSpec) -> Result<(), String> {
        let (hash, found, expected) = match self {
            Self::Gemm { .. } => return Err("a gemm unit has no spec".into()),
            Self::Segment { unit } => (unit.spec, unit.batch_operations, batch_operations(spec)),
            Self::Evaluate { unit } => (unit.spec, unit.window_operations, window_operations(spec)),
        };
        if hash != spec.hash() {
            return Err(format!("the unit is of spec {}, not {}", hash.short(), spec.hash().short()));
        }
        if found != expected {
            return Err(format!("the unit says {found} operations a batch or window; its spec needs {expected}"));
        }
        match self {
            Self::Segment { unit } if spec.outer.is_some() == unit.members.is_empty() => {
                Err(format!("{} members' moments, which this spec does not go with", unit.members.len()))
            }
            _ => Ok(()),
        }
    }

    /// Checks every field against its limits.
    ///
    /// # Errors
    /// What is out of bounds, and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            // A class that does not exist is not even decoded.
            Self::Gemm { .. } => Ok(()),
            Self::Segment { unit } => unit.validate(),
            Self::Evaluate { unit } if (1..=WINDOWS_MAX).contains(&unit.windows) => Ok(()),
            Self::Evaluate { unit } => Err(format!("{} windows, accepted is 1 to {WINDOWS_MAX}", unit.windows)),
        }
    }

    /// Reads a unit that a stranger sent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let unit: Self = codec::decode(bytes, UNIT_BYTES_MAX).map_err(|error| format!("work unit: {error}"))?;
        unit.validate()?;
        Ok(unit)
    }
}

#[cfg(test)]
mod tests;
