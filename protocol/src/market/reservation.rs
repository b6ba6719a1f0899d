//! Holding a machine for a run: the trainer's side, and the messages.
//!
//! A machine is held by at most one user at a time. A reservation frees itself
//! when it expires; only `Confirm` turns it into a run. Everything here can be
//! said twice without harm.

use super::demand::Demand;
use super::listing::{Contact, validate_addresses};
use crate::ids::{Hash, PeerId, RunId};
use crate::run::spec::RunSpec;
use crate::time::{Duration, Time};
use crate::wire::limits::{CLOCK_SKEW_MAX, FRAME_LIFETIME_MAX, MEMBERS_MAX, WORDS_MAX};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest time that a machine is held without a run.
pub const RESERVATION_MAX: Duration = Duration::from_s(30);

/// Asks to hold the machine for `hold_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// Hash of the run's spec, as in the demand.
    pub spec: Hash,
    /// Memory that the run needs, in bytes.
    pub memory_bytes: u64,
    /// How long the run is expected to take, in seconds.
    pub duration_s: u64,
    /// How long the hold lasts unless a run follows, in milliseconds, counted
    /// from when the machine hears of it: the two clocks need not agree.
    pub hold_ms: u32,
}

/// The answer to [`Reserve`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveReply {
    /// The spec that was asked for.
    pub spec: Hash,
    /// The `seq` of the request that this answers: an earlier one may have been
    /// given up since.
    pub request: u64,
    /// Whether the machine is held.
    pub answer: Answer,
}

/// Held, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The machine is held for the asked time.
    Accepted,
    /// Somebody else holds it.
    Busy,
    /// The owner has withdrawn it.
    NotOffered,
    /// The run is longer or larger than the owner accepts.
    BeyondTerms,
    /// The asked time is none or too long.
    BadHold,
}

/// Starts the run on all members, or takes one more into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// What to do.
    pub spec: RunSpec,
    /// What the run asks of its members, and how many it takes.
    pub demand: Demand,
    /// Who ordered the run.
    pub owner: PeerId,
    /// Milliseconds since the Unix epoch; tells two runs of one spec apart.
    pub issued_at_ms: u64,
    /// Everyone who takes part, ascending by id.
    pub members: Vec<Contact>,
    /// Whether the run goes on already: the addressee is not among `members`, and
    /// the author is one of them, perhaps not the owner.
    pub late: bool,
}

/// Ends a hold that no run followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The spec that the hold was for.
    pub spec: Hash,
}

impl Body for Reserve {}

impl Body for ReserveReply {}

impl Body for Release {}

impl Confirm {
    /// The name of the run.
    pub fn run_id(&self) -> RunId {
        run_id(self.owner, self.spec.hash(), self.issued_at_ms)
    }
}

/// The name of the run of this spec that `owner` ordered at this time.
pub(crate) fn run_id(owner: PeerId, spec: Hash, issued_at_ms: u64) -> RunId {
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 run id v1");
    hasher.update(owner.as_bytes());
    hasher.update(spec.as_bytes());
    hasher.update(&issued_at_ms.to_le_bytes());
    RunId(*hasher.finalize().as_bytes())
}

impl Body for Confirm {
    fn validate(&self) -> Result<(), String> {
        self.spec.validate()?;
        self.demand.validate()?;
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return Err(format!("{} members, 1 to {MEMBERS_MAX} are accepted", self.members.len()));
        }
        if !self.members.is_sorted_by(|a, b| a.peer < b.peer) {
            return Err("members are not in ascending order of their ids".into());
        }
        self.members.iter().try_for_each(|member| validate_addresses(&member.addresses))
    }
}

/// Who holds this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nobody.
    #[default]
    Free,
    /// A user, for a run that may follow.
    Reserved { by: PeerId, spec: Hash, until: Time },
    /// A run that goes on.
    Running(RunId),
}

/// What the owner of the machine accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) memory_bytes: u64,
    pub(crate) duration_max_s: u64,
}

impl Hold {
    /// Answers a request by `user`; `terms` is `None` while nothing is offered.
    pub(crate) fn reserve(&mut self, user: PeerId, request: &Reserve, terms: Option<Terms>, now: Time) -> Answer {
        self.expire(now);
        let Some(terms) = terms else { return Answer::NotOffered };
        if request.memory_bytes > terms.memory_bytes || request.duration_s > terms.duration_max_s {
            return Answer::BeyondTerms;
        }
        let hold = Duration::from_ms(u64::from(request.hold_ms));
        if hold == Duration(0) || hold > RESERVATION_MAX {
            return Answer::BadHold;
        }
        match self {
            Self::Running(_) => return Answer::Busy,
            Self::Reserved { by, spec, .. } if *by != user || *spec != request.spec => return Answer::Busy,
            Self::Free | Self::Reserved { .. } => {}
        }
        *self = Self::Reserved { by: user, spec: request.spec, until: now + hold };
        Answer::Accepted
    }

    /// Whether `user` may start a run of `spec` now.
    pub(crate) fn is_for(&self, user: PeerId, spec: Hash, now: Time) -> bool {
        matches!(self, Self::Reserved { by, spec: held, until } if *by == user && *held == spec && *until > now)
    }

    pub(crate) fn release(&mut self, user: PeerId, spec: Hash) {
        if matches!(self, Self::Reserved { by, spec: held, .. } if *by == user && *held == spec) {
            *self = Self::Free;
        }
    }

    /// `user` holds nothing any more, whatever for.
    pub(crate) fn dismiss(&mut self, user: &PeerId) {
        if matches!(self, Self::Reserved { by, .. } if by == user) {
            *self = Self::Free;
        }
    }

    pub(crate) fn expire(&mut self, now: Time) {
        if matches!(self, Self::Reserved { until, .. } if *until <= now) {
            *self = Self::Free;
        }
    }

    pub(crate) fn timeout(&self) -> Option<Time> {
        match self {
            Self::Reserved { until, .. } => Some(*until),
            Self::Free | Self::Running(_) => None,
        }
    }
}

/// The latest word of each user on each spec. Frames overtake each other: what
/// is older than what was heard already is not acted upon.
#[derive(Clone, Debug, Default)]
pub(crate) struct WordOrder {
    latest: BTreeMap<(PeerId, Hash), (u64, Time)>,
}

impl WordOrder {
    /// Whether nothing later of `user` on `spec` was heard than `seq`.
    pub(crate) fn is_latest(&mut self, user: PeerId, spec: Hash, seq: u64, now: Time) -> bool {
        if self.latest.get(&(user, spec)).is_some_and(|(known, _)| *known > seq) {
            return false;
        }
        self.latest.insert((user, spec), (seq, now));
        if self.latest.len() > WORDS_MAX {
            let oldest = self.latest.iter().min_by_key(|(key, (_, heard_at))| (*heard_at, **key)).map(|(key, _)| *key);
            oldest.and_then(|key| self.latest.remove(&key));
        }
        true
    }

    /// Forgets what no frame that still passes can be older than.
    pub(crate) fn expire(&mut self, now: Time) {
        let kept = FRAME_LIFETIME_MAX + CLOCK_SKEW_MAX.times(2);
        self.latest.retain(|_, (_, heard_at)| now.since(*heard_at) < kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bounded_and_forgotten() {
        let mut words = WordOrder::default();
        let user = PeerId([1; 32]);
        for number in 0..2 * WORDS_MAX as u64 {
            assert!(words.is_latest(user, Hash::of(&number.to_le_bytes()), 5, Time(number)));
        }
        assert_eq!(words.latest.len(), WORDS_MAX);
        let last = Hash::of(&(2 * WORDS_MAX as u64 - 1).to_le_bytes());
        assert!(!words.is_latest(user, last, 4, Time(0)) && words.is_latest(user, last, 5, Time(0)));
        words.expire(Time(0) + Duration::from_s(600));
        assert!(words.latest.is_empty());
    }
}
