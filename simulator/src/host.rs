//! One simulated machine: a real protocol node, its clock, its transport's
//! bookkeeping and its trainer, which does one thing after another.

use crate::clock::LocalClock;
use crate::network::Draws;
use crate::workload::{Break, Training};
use manta_protocol::wire::Identity;
use manta_protocol::{Config, Duration, Hash, NetworkId, Node, PeerId, RunId, Seed, Time};
use std::collections::{BTreeSet, VecDeque};

/// Gossip messages whose names a host's transport remembers.
const SEEN_MAX: usize = 4_096;

/// Whether a host takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Up,
    /// It does nothing any more, but its transport still takes messages.
    Frozen,
    /// It is gone, and its connections with it.
    Gone,
}

/// What a trainer is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Build the model.
    Prepare,
    /// Compute the gradient of a step.
    Gradient {
        /// The step.
        step: u64,
    },
    /// Add up a chunk.
    Reduce {
        /// The step.
        step: u64,
        /// The chunk.
        chunk: u32,
    },
    /// Make the optimiser's step.
    Apply {
        /// The step.
        step: u64,
    },
    /// Hash the parameters.
    Hash {
        /// The round.
        round: u32,
    },
    /// Evaluate and save.
    Save,
}

impl Work {
    /// How long it takes on a machine of ordinary speed, in microseconds.
    fn cost_us(self) -> u64 {
        match self {
            Self::Prepare => 300_000,
            Self::Gradient { .. } => 80_000,
            Self::Reduce { .. } => 200,
            Self::Apply { .. } => 5_000,
            Self::Hash { .. } => 2_000,
            Self::Save => 400_000,
        }
    }
}

/// One machine.
pub struct Host {
    /// The machine's mind.
    pub node: Node,
    /// Its name.
    pub peer: PeerId,
    /// Its clock.
    pub clock: LocalClock,
    /// Whether it takes part.
    pub state: State,
    /// How it breaks the rules, if it does.
    pub broken: Option<Break>,
    /// Multiply-adds a second that it claims; its trainer is as fast.
    pub speed: u64,
    /// Whether it has lost the chunk that it is to lose.
    pub lost_chunk: bool,
    /// The run that it trains.
    pub training: Option<Training>,
    /// When the wake-up that counts is due, in its own time.
    pub wake: Option<Time>,
    seen: BTreeSet<Hash>,
    seen_order: VecDeque<Hash>,
    trainer_free: Time,
    draws: Draws,
}

impl Host {
    /// The machine of this number; `skew_ms_max` bounds its clock's offset.
    pub fn new(index: usize, network: NetworkId, seed: Seed, skew_ms_max: u64, now: Time) -> Self {
        let own = seed.child("host", index as u64);
        let mut draws = Draws::new(own.child("trainer", 0));
        let offset_ms = draws.up_to(2 * skew_ms_max) as i64 - skew_ms_max as i64;
        let clock = LocalClock { offset_ns: offset_ms * 1_000_000 };
        let identity = Identity::from_secret(*own.child("identity", 0).0.as_bytes());
        let peer = identity.peer_id();
        Self {
            node: Node::new(Config { network, identity }, clock.local(now)),
            peer,
            clock,
            state: State::Up,
            broken: None,
            speed: 500_000_000 + draws.up_to(1_500_000_000),
            lost_chunk: false,
            training: None,
            wake: None,
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
            trainer_free: now,
            draws,
        }
    }

    /// Whether a gossip message is new here; from now on it is not.
    pub fn first_sight(&mut self, id: Hash) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        self.seen_order.push_back(id);
        if self.seen_order.len() > SEEN_MAX
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    /// Queues `work` on the trainer and says when it will be done.
    pub fn plan(&mut self, work: Work, now: Time) -> Time {
        let cost_us = work.cost_us() + self.draws.up_to(work.cost_us() / 2);
        let ns = u128::from(cost_us) * 1_000 * 1_000_000_000 / u128::from(self.speed);
        self.trainer_free = self.trainer_free.max(now) + Duration(u64::try_from(ns).unwrap_or(u64::MAX));
        self.trainer_free
    }

    /// The training of `run`, if that is what the machine does.
    pub fn training_of(&mut self, run: RunId) -> Option<&mut Training> {
        self.training.as_mut().filter(|training| training.start().run == run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_messages_are_bounded_and_the_trainer_does_one_thing_after_another() {
        let network = NetworkId::from_name("test");
        let mut host = Host::new(0, network, Seed::from_number(1), 10, Time(0));
        for index in 0..3 * SEEN_MAX as u64 {
            let id = Hash::of(&index.to_le_bytes());
            assert!(host.first_sight(id) && !host.first_sight(id));
        }
        assert_eq!((host.seen.len(), host.seen_order.len()), (SEEN_MAX, SEEN_MAX));
        let first = host.plan(Work::Save, Time(0));
        assert!(host.plan(Work::Prepare, Time(0)) > first);
    }
}
