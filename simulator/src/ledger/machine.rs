//! One machine: a real node that keeps a ledger, its clock, its disk, and what
//! waits for its driver.

use super::disk::Disk;
use crate::clock::LocalClock;
use crate::draws::Draws;
use crate::host::State;
use crate::seen::Seen;
use manta_protocol::trust::LedgerOptions;
use manta_protocol::wire::Identity;
use manta_protocol::{Config, Hash, Input, NetworkId, Node, PeerId, Seed, Time};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Gossip messages whose names a machine's transport remembers.
const SEEN_MAX: usize = 16_384;

/// What comes to a machine's driver.
pub(super) enum Incoming {
    /// An input as it is.
    Input(Input),
    /// A gossip message.
    Gossip { from: usize, id: Hash, bytes: Arc<Vec<u8>> },
    /// A direct message.
    Frame { serial: u64, from: usize, bytes: Arc<Vec<u8>> },
}

/// See the module.
pub(super) struct Machine {
    pub(super) node: Node,
    /// Its key's name; a twin has the same.
    pub(super) peer: PeerId,
    pub(super) identity: Identity,
    pub(super) clock: LocalClock,
    pub(super) state: State,
    /// How often it has started; what belongs to an earlier life means nothing any more.
    pub(super) life: u32,
    /// Whether it may be blamed, and need not make progress.
    pub(super) is_faulty: bool,
    /// Whether it returns wrong drill results.
    pub(super) lies: bool,
    pub(super) disk: Disk,
    /// When the wake-up that counts is due, in its own time.
    pub(super) wake: Option<Time>,
    /// Whether the driver waits for the disk.
    pub(super) syncing: bool,
    pub(super) inbox: VecDeque<Incoming>,
    /// Gossip that the node judges.
    pub(super) gossip: BTreeMap<u64, (usize, Hash, Arc<Vec<u8>>)>,
    pub(super) draws: Draws,
    transfers: u64,
    seen: Seen,
    network: NetworkId,
}

/// The identity of a key of a simulation.
pub(super) fn identity(seed: Seed, key: usize) -> Identity {
    Identity::from_secret(*seed.child("identity", key as u64).0.as_bytes())
}

impl Machine {
    pub(super) fn new(number: usize, key: usize, network: NetworkId, seed: Seed, skew_ms_max: u64, now: Time) -> Self {
        let mut draws = Draws::new(seed.child("machine", number as u64));
        let offset_ms = draws.up_to(2 * skew_ms_max) as i64 - skew_ms_max as i64;
        let clock = LocalClock { offset_ns: offset_ms * 1_000_000 };
        let identity = identity(seed, key);
        Self {
            node: Node::new(Config { network, identity: identity.clone() }, clock.local(now)),
            peer: identity.peer_id(),
            identity,
            clock,
            state: State::Up,
            life: 0,
            is_faulty: false,
            lies: false,
            disk: Disk::default(),
            wake: None,
            syncing: false,
            inbox: VecDeque::new(),
            gossip: BTreeMap::new(),
            draws,
            transfers: 0,
            seen: Seen::of_latest(SEEN_MAX),
            network,
        }
    }

    /// All that was in memory is gone; the disk keeps what it keeps.
    pub(super) fn stop(&mut self) {
        self.state = State::Gone;
        self.life += 1;
        self.disk.crash(&mut self.draws);
        self.wake = None;
        self.syncing = false;
        self.inbox.clear();
        self.gossip.clear();
        self.seen.clear();
    }

    /// The machine starts again, with a new mind.
    pub(super) fn start(&mut self, now: Time) {
        let config = Config { network: self.network, identity: self.identity.clone() };
        self.node = Node::new(config, self.clock.local(now));
        self.state = State::Up;
    }

    /// Whether its driver takes what comes now.
    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Up && !self.syncing
    }

    /// The height of the ledger in its memory.
    pub(super) fn height(&self) -> u64 {
        self.node.ledger().map_or(0, manta_protocol::ledger::State::height)
    }

    /// Whether others follow a recovery that it could follow, too.
    pub(super) fn waits_for_its_owner(&self) -> bool {
        !self.node.recovery_offers().is_empty()
    }

    /// A name for something that the node is to judge.
    pub(super) fn next_transfer(&mut self) -> u64 {
        self.transfers += 1;
        self.transfers
    }

    /// Whether a gossip message came here before.
    pub(super) fn knows(&self, id: &Hash) -> bool {
        self.seen.knows(id)
    }

    /// Whether a gossip message is new here; from now on it is not.
    pub(super) fn first_sight(&mut self, id: Hash) -> bool {
        self.seen.first_sight(id)
    }
}

/// How a machine takes part, with what its disk has kept.
pub(super) fn take_part(template: &LedgerOptions, disk: &Disk, forgetful: bool) -> LedgerOptions {
    LedgerOptions { kept: disk.kept(forgetful), ..template.clone() }
}
