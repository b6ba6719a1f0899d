//! What the members of a run tell each other.

use crate::ids::{Hash, PeerId, RunId};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// The data is here, the model is built: this member can start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The run.
    pub run: RunId,
    /// Hash of the initial parameters, which all members must share.
    pub parameter_hash: Hash,
}

/// Sum of token losses: exact, so that sums do not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossSum {
    /// Sum of the losses in units of 2⁻²⁰ nats.
    pub fixed: i64,
    /// Tokens that were summed over.
    pub tokens: u64,
}

impl LossSum {
    /// Mean loss in nats a token; `None` without tokens.
    pub fn nats_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.fixed as f64 / f64::from(1u32 << 20) / self.tokens as f64)
    }

    /// The sum of both, saturating: the parts come from strangers.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { fixed: self.fixed.saturating_add(other.fixed), tokens: self.tokens.saturating_add(other.tokens) }
    }
}

/// What a member did in a round and holds after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundReport {
    /// The run.
    pub run: RunId,
    /// The round, from 0.
    pub round: u32,
    /// Number of the view whose plan its last exchange followed.
    pub plan: u32,
    /// Hash of all parameters after the round.
    pub parameter_hash: Hash,
    /// Training loss over this member's own batches of the round.
    pub loss: LossSum,
    /// Batches that this member did in the round.
    pub batches: u32,
    /// Time that this member computed in the round, in milliseconds.
    pub compute_ms: u64,
    /// Time that this member waited for and reduced gradients, in milliseconds.
    pub reduce_ms: u64,
}

/// Why a member leaves a run, or a run ends, before the last round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AbortReason {
    /// A user stopped it.
    Stopped,
    /// The member cannot compute it (data, device, disk); its own log says more.
    CannotCompute,
    /// A member went away or fell silent.
    MemberLost,
    /// A member's parameters differ from the others'.
    ParametersDiffer,
    /// A member sent a gradient that is not a number, out of range or of the wrong length.
    BadGradient,
    /// The members were not ready in time.
    NotReady,
    /// A member says that it is alive, but what it owes does not come.
    Stalled,
    /// Parameters differ, and no majority of the members holds the same: who is
    /// wrong cannot be told, so the culprit is only one of those who differ.
    NoMajority,
    /// The member may not see the run's data any more: its permission has ended.
    NotAllowed,
}

impl AbortReason {
    /// Whether the named culprit is known to have caused it.
    pub fn is_decided(self) -> bool {
        self != Self::NoMajority
    }

    /// Whether the word of a member that left for it stands for its vote, where
    /// only one other is left: not if it may never have begun, or if the others'
    /// parameters are no better than its own.
    pub fn leaves_the_vote(self) -> bool {
        !matches!(self, Self::NotReady | Self::NoMajority)
    }

    /// Whether a member that left for it may come back to the same run.
    pub fn may_return(self) -> bool {
        matches!(self, Self::MemberLost | Self::Stalled | Self::NotReady | Self::CannotCompute)
    }
}

impl AbortReason {
    /// The reason in words, for a log line about `culprit`.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Stopped => "stopped by its user",
            Self::CannotCompute => "a member cannot compute it",
            Self::MemberLost => "a member was lost",
            Self::ParametersDiffer => "a member's parameters differ",
            Self::BadGradient => "a member sent a bad gradient",
            Self::NotReady => "a member was not ready in time",
            Self::Stalled => "a member is alive but delivers nothing",
            Self::NotAllowed => "a member may not see the data any more",
            Self::NoMajority => "members' parameters differ, and no majority of them agrees",
        }
    }
}

/// The author leaves the run and says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// The run.
    pub run: RunId,
    /// Why.
    pub reason: AbortReason,
    /// Whose doing it is in the author's eyes.
    pub culprit: PeerId,
    /// The last view that the author has had a part in: it has not agreed to any
    /// after it, and never will.
    pub view: u32,
}

/// Says that the author is alive and in the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The run.
    pub run: RunId,
    /// The number of the view that it is in.
    pub view: u32,
}

impl Body for Ready {}
impl Body for Abort {}
impl Body for Heartbeat {}

impl Body for RoundReport {
    fn validate(&self) -> Result<(), String> {
        // More tokens than i64 units of loss could carry is a lie.
        if self.loss.tokens > 1 << 40 {
            return Err(format!("{} tokens in one round", self.loss.tokens));
        }
        Ok(())
    }
}
