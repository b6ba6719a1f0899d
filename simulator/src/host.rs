//! One simulated machine: a real protocol node, its clock, its disk, its
//! transport's bookkeeping and its trainer, which does one thing after another.

use crate::clock::LocalClock;
use crate::disk::Disk;
use crate::draws::Draws;
use crate::seen::Seen;
use crate::tamper::Break;
use crate::training::{State as TrainerState, Training, Values};
use crate::transport::{ChunkParcel, FrameParcel};
use manta_protocol::run::ledger::{Span, count};
use manta_protocol::wire::Identity;
use manta_protocol::{Config, Duration, Hash, Input, NetworkId, Node, PeerId, RunId, Seed, Time};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Gossip messages whose names a host's transport remembers.
const SEEN_MAX: usize = 4_096;
/// What a transport holds for a node that is stopped or waits for its disk.
pub const INBOX_MAX: usize = 16_384;

/// Whether a host takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Up,
    /// It does nothing, but its transport still takes messages.
    Frozen,
    /// It is gone (or not there yet), and its connections with it.
    Gone,
}

/// What comes to a machine's driver.
pub enum Incoming {
    /// An input as it is.
    Input(Input),
    /// A gossip message.
    Gossip {
        /// The neighbour that it came from.
        from: usize,
        /// Its name.
        id: Hash,
        /// Its bytes.
        bytes: Arc<Vec<u8>>,
    },
    /// A direct message.
    Frame(Box<FrameParcel>),
    /// A chunk.
    Chunk(Box<ChunkParcel>),
    /// The trainer is done.
    Trained {
        /// Of which run.
        run: RunId,
        /// With what.
        work: Box<Work>,
    },
}

/// What a trainer is asked to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// Fetch the data and build the model.
    Prepare {
        /// Attempts before this one.
        attempts: u32,
    },
    /// Compute batches.
    Compute {
        /// The exchange.
        exchange: u64,
        /// The plan.
        plan: u32,
        /// Which.
        batches: Vec<Span>,
    },
    /// Add up a chunk.
    Reduce {
        /// The exchange.
        exchange: u64,
        /// The view.
        view: u32,
        /// The chunk.
        chunk: u32,
        /// Whose values.
        contributors: Vec<PeerId>,
        /// The values.
        parts: Vec<Values>,
    },
    /// Make the optimiser's step.
    Apply {
        /// The exchange.
        exchange: u64,
        /// All sums.
        sum: Vec<f32>,
        /// Batches that they are of.
        batches: u64,
    },
    /// Hash the parameters.
    Hash {
        /// The exchange that comes next.
        exchange: u64,
    },
    /// Keep the state for newcomers.
    Snapshot {
        /// The exchange that comes next.
        exchange: u64,
    },
    /// Load a fetched state.
    Load {
        /// The state.
        state: TrainerState,
    },
    /// Write the state to the disk.
    Checkpoint {
        /// The exchange that comes next.
        exchange: u64,
    },
    /// Evaluate and save.
    Save,
}

impl Work {
    /// How long it takes on a machine of ordinary speed, in microseconds.
    fn cost_us(&self) -> u64 {
        match self {
            Self::Prepare { .. } => 300_000,
            Self::Compute { batches, .. } => 10_000 + 40_000 * count(batches).min(1_000),
            Self::Reduce { .. } => 200,
            Self::Apply { .. } | Self::Snapshot { .. } => 5_000,
            Self::Hash { .. } => 2_000,
            Self::Load { .. } | Self::Checkpoint { .. } => 10_000,
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
    /// Its secret key.
    pub identity: Identity,
    /// Its clock.
    pub clock: LocalClock,
    /// Whether it takes part.
    pub state: State,
    /// How often it has started; what belongs to an earlier life means nothing any more.
    pub life: u32,
    /// How it breaks the rules, if it does.
    pub broken: Option<Break>,
    /// Multiply-adds a second that it claims; its trainer is as fast.
    pub speed: u64,
    /// Whether it has lost the chunk that it is to lose.
    pub lost_chunk: bool,
    /// The run that it trains.
    pub training: Option<Training>,
    /// What it has written.
    pub disk: Disk,
    /// When the wake-up that counts is due, in its own time.
    pub wake: Option<Time>,
    /// The run whose record is being made durable; the driver waits for it.
    pub syncing: Option<RunId>,
    /// What waits for the driver.
    pub inbox: VecDeque<Incoming>,
    /// Gossip that the node judges.
    pub gossip: BTreeMap<u64, (usize, Hash, Arc<Vec<u8>>)>,
    /// Chunks that the node judges.
    pub chunks: BTreeMap<u64, Box<ChunkParcel>>,
    /// Chance on this machine.
    pub draws: Draws,
    transfers: u64,
    seen: Seen,
    trainer_free: Time,
    network: NetworkId,
}

impl Host {
    /// The machine of this number; `skew_ms_max` bounds its clock's offset.
    pub fn new(index: usize, network: NetworkId, seed: Seed, skew_ms_max: u64, now: Time) -> Self {
        let own = seed.child("host", index as u64);
        let mut draws = Draws::new(own.child("trainer", 0));
        let offset_ms = draws.up_to(2 * skew_ms_max) as i64 - skew_ms_max as i64;
        let clock = LocalClock { offset_ns: offset_ms * 1_000_000 };
        let identity = Identity::from_secret(*own.child("identity", 0).0.as_bytes());
        Self {
            node: Node::new(Config { network, identity: identity.clone() }, clock.local(now)),
            peer: identity.peer_id(),
            identity,
            clock,
            state: State::Up,
            life: 0,
            broken: None,
            speed: 500_000_000 + draws.up_to(1_500_000_000),
            lost_chunk: false,
            training: None,
            disk: Disk::default(),
            wake: None,
            syncing: None,
            inbox: VecDeque::new(),
            gossip: BTreeMap::new(),
            chunks: BTreeMap::new(),
            draws,
            transfers: 0,
            seen: Seen::of_latest(SEEN_MAX),
            trainer_free: now,
            network,
        }
    }

    /// All that was in memory is gone; the disk keeps what it keeps.
    pub fn stop(&mut self) {
        self.state = State::Gone;
        self.life += 1;
        self.disk.crash(&mut self.draws);
        self.training = None;
        self.wake = None;
        self.syncing = None;
        self.inbox.clear();
        self.gossip.clear();
        self.chunks.clear();
        self.seen.clear();
    }

    /// The machine starts again, with a new mind.
    pub fn start(&mut self, now: Time) {
        let config = Config { network: self.network, identity: self.identity.clone() };
        self.node = Node::new(config, self.clock.local(now));
        self.state = State::Up;
        self.trainer_free = now;
    }

    /// Whether its driver takes what comes now.
    pub fn is_ready(&self) -> bool {
        self.state == State::Up && self.syncing.is_none()
    }

    /// A name for something that the node is to judge.
    pub fn next_transfer(&mut self) -> u64 {
        self.transfers += 1;
        self.transfers
    }

    /// Whether a gossip message is new here; from now on it is not.
    pub fn first_sight(&mut self, id: Hash) -> bool {
        self.seen.first_sight(id)
    }

    /// Queues `work` on the trainer and says when it will be done.
    pub fn plan(&mut self, work: &Work, now: Time) -> Time {
        let cost_us = work.cost_us() + self.draws.up_to(work.cost_us() / 2);
        let ns = u128::from(cost_us) * 1_000 * 1_000_000_000 / u128::from(self.speed);
        self.trainer_free = self.trainer_free.max(now) + Duration(u64::try_from(ns).unwrap_or(u64::MAX));
        self.trainer_free
    }

    /// The training of `run`, if that is what the machine does.
    pub fn training_of(&self, run: RunId) -> Option<&Training> {
        self.training.as_ref().filter(|training| training.start().run == run)
    }

    /// The same, to change it.
    pub fn training_mut(&mut self, run: RunId) -> Option<&mut Training> {
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
        assert_eq!(host.seen.len(), SEEN_MAX);
        let first = host.plan(&Work::Save, Time(0));
        assert!(host.plan(&Work::Prepare { attempts: 0 }, Time(0)) > first);
        host.stop();
        assert!(!host.is_ready() && host.life == 1);
        host.start(Time(5));
        assert!(host.is_ready());
    }
}
