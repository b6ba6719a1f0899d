//! The simulation itself: takes events from the schedule, hands them to the
//! nodes and carries out what the nodes ask for.
//!
//! - `driver`: a machine's loop, one input and all its effects at a time;
//! - `carrier`: gossip, frames and chunks between machines;
//! - `trainer`: what trainers do, and states that members fetch;
//! - `trouble`: faults as they come and go;
//! - `users`: orders, what nodes tell, and how it all ends;
//! - `forgery`: broken rules that need more than a machine's own mistake.

mod carrier;
mod driver;
mod forgery;
mod trainer;
mod trouble;
mod users;

use crate::checkers::Checkers;
use crate::clock::{EPOCH, elapsed};
use crate::draws::Draws;
use crate::faults::Cut;
use crate::host::{Host, Incoming, State, Work};
use crate::network::Network;
use crate::options::{Options, Setup};
use crate::report::{Summary, Trace};
use crate::schedule::Schedule;
use crate::transport::{ChunkName, ChunkParcel, FrameParcel, Outstanding};
use crate::workload;
use manta_protocol::{Duration, Hash, Input, NetworkId, PeerId, RunId, Seed, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use users::OrderState;

/// Events that may wait at once, for each machine.
const WAITING_MAX_PER_HOST: usize = 16_384;
/// How often it is looked whether all is over.
const LOOK_INTERVAL: Duration = Duration::from_s(1);
/// The network of all simulated machines.
const NETWORK: &str = "simulation";

/// One thing that happens.
enum Happening {
    Offer { host: usize },
    Order { order: usize },
    Wake { host: usize, due: Time },
    Gossip { to: usize, from: usize, id: Hash, bytes: Arc<Vec<u8>> },
    Frame(Box<FrameParcel>),
    FrameKnown { serial: u64, delivered: bool },
    Chunk(Box<ChunkParcel>),
    ChunkLost { host: usize, life: u32, to: PeerId, name: ChunkName },
    ChunkUnanswered { parcel: Box<ChunkParcel> },
    Tell { host: usize, life: u32, input: Box<Input> },
    Trained { host: usize, life: u32, run: RunId, work: Box<Work> },
    Synced { host: usize, life: u32, run: RunId },
    CheckpointSynced { host: usize, life: u32, run: RunId, exchange: u64 },
    StateArrives { host: usize, life: u32, run: RunId, exchange: u64, root: Hash, donor: usize },
    ResultArrives { host: usize, life: u32, run: RunId, root: Hash, donor: usize, attempts: u32 },
    Fault { index: usize },
    CutEnds { index: usize },
    Thaw { host: usize },
    Restart { host: usize },
    Forge { host: usize, run: RunId },
    Look,
}

struct World {
    setup: Setup,
    schedule: Schedule<Happening>,
    network: Network,
    hosts: Vec<Host>,
    index: BTreeMap<PeerId, usize>,
    orders: Vec<OrderState>,
    outstanding: BTreeMap<u64, Outstanding>,
    /// Chunks that lie unread at a stopped machine.
    unread: BTreeSet<u64>,
    serial: u64,
    cuts: Vec<Cut>,
    /// Faults that wait for an exchange of a run.
    waiting_faults: BTreeSet<usize>,
    /// Machines that will go on or start again.
    returning: BTreeSet<usize>,
    /// Whom a fault has hit, or cut from somebody.
    hit: BTreeSet<usize>,
    /// Faults that no survivor has made progress after: which, when, and the exchange until then.
    unrecovered: Vec<(usize, Time, u64)>,
    last_fault: Time,
    draws: Draws,
    checkers: Checkers,
    trace: Trace,
    summary: Summary,
    over_at: Option<Time>,
}

/// Runs a simulation to its end; the trace goes to `trace` if there is one.
///
/// # Errors
/// The options do not go together, or the trace could not be written.
pub fn simulate(options: &Options, trace: Option<Box<dyn Write>>) -> Result<Summary, String> {
    let setup = options.resolve()?;
    World::new(setup, options.replay(), trace).run().map_err(|error| format!("the trace cannot be written: {error}"))
}

impl World {
    fn new(setup: Setup, replay: String, trace: Option<Box<dyn Write>>) -> Self {
        let seed = Seed::from_number(setup.seed);
        let conditions = setup.conditions;
        let network = NetworkId::from_name(NETWORK);
        let new_host = |index| Host::new(index, network, seed, conditions.skew_ms_max, EPOCH);
        let mut hosts: Vec<_> = (0..setup.hosts()).map(new_host).collect();
        hosts.iter_mut().skip(setup.peers).for_each(|host| host.state = State::Gone);
        if let Some(host) = hosts.get_mut(1) {
            host.broken = setup.broken;
        }
        let order = |order| OrderState::new(order, workload::spec(&setup, seed.child("run", order as u64)));
        let orders = (0..setup.orders).map(order).collect();
        Self {
            schedule: Schedule::new(EPOCH),
            network: Network::new(hosts.len(), conditions, seed.child("network", 0)),
            index: hosts.iter().enumerate().map(|(index, host)| (host.peer, index)).collect(),
            orders,
            outstanding: BTreeMap::new(),
            unread: BTreeSet::new(),
            serial: 0,
            cuts: Vec::new(),
            waiting_faults: BTreeSet::new(),
            returning: BTreeSet::new(),
            hit: BTreeSet::new(),
            unrecovered: Vec::new(),
            last_fault: EPOCH,
            draws: Draws::new(seed.child("world", 0)),
            checkers: Checkers::default(),
            trace: Trace::new(trace),
            summary: Summary::new(&setup, replay, setup.broken.and(hosts.get(1)).map(|host| host.peer)),
            over_at: None,
            setup,
            hosts,
        }
    }

    fn run(mut self) -> std::io::Result<Summary> {
        for host in 0..self.setup.peers {
            let after = Duration::from_ms(self.draws.up_to(500));
            self.schedule.at(EPOCH + after, Happening::Offer { host });
        }
        for order in 0..self.orders.len() {
            let after = Duration::from_ms(self.draws.up_to(1_500));
            self.schedule.at(EPOCH + after, Happening::Order { order });
        }
        self.plan_faults();
        self.schedule.at(EPOCH + LOOK_INTERVAL, Happening::Look);
        let waiting_max = WAITING_MAX_PER_HOST * self.hosts.len();
        while let Some(happening) = self.schedule.pop() {
            if self.over_at.is_some_and(|at| self.schedule.now() >= at) || !self.checkers.violations().is_empty() {
                break;
            }
            self.summary.events += 1;
            self.happen(happening);
            self.checkers.bound("events waiting", self.schedule.longest(), waiting_max);
        }
        self.conclude();
        self.summary.virtual_ms = elapsed(self.schedule.now()).as_ms();
        self.summary.events_waiting_max = self.schedule.longest();
        self.summary.trace_hash = self.trace.finish()?;
        Ok(self.summary)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Offer { host } => self.offer(host),
            Happening::Order { order } => self.place(order),
            Happening::Wake { host, due } => {
                if self.hosts[host].wake == Some(due) && self.hosts[host].is_ready() {
                    self.hosts[host].wake = None;
                    self.input(host, Input::Tick);
                }
            }
            Happening::Gossip { to, from, id, bytes } => self.deliver(to, Incoming::Gossip { from, id, bytes }),
            Happening::Frame(parcel) => self.frame_arrives(parcel),
            Happening::FrameKnown { serial, delivered } => self.frame_known(serial, delivered),
            Happening::Chunk(parcel) => self.chunk_arrives(parcel),
            Happening::ChunkLost { host, life, to, name } => self.chunk_lost(host, life, to, name),
            Happening::ChunkUnanswered { parcel } => {
                if self.unread.contains(&parcel.serial) {
                    let to = self.hosts[parcel.to].peer;
                    self.chunk_lost(parcel.from, parcel.from_life, to, parcel.name);
                }
            }
            Happening::Tell { host, life, input } => {
                if self.hosts[host].life == life {
                    self.deliver(host, Incoming::Input(*input));
                }
            }
            Happening::Trained { host, life, run, work } => {
                if self.hosts[host].life == life {
                    self.deliver(host, Incoming::Trained { run, work });
                }
            }
            Happening::Synced { host, life, run } => self.synced(host, life, run),
            Happening::CheckpointSynced { host, life, run, exchange } => {
                self.checkpoint_synced(host, life, run, exchange);
            }
            Happening::StateArrives { host, life, run, exchange, root, donor } => {
                self.state_arrives(host, life, run, (exchange, root), donor);
            }
            Happening::ResultArrives { host, life, run, root, donor, attempts } => {
                self.result_arrives(host, life, run, root, donor, attempts);
            }
            Happening::Fault { index } => self.fault_begins(index),
            Happening::CutEnds { index } => self.cut_ends(index),
            Happening::Thaw { host } => self.thaw(host),
            Happening::Restart { host } => self.restart(host),
            Happening::Forge { host, run } => self.forge(host, run),
            Happening::Look => self.look(),
        }
    }

    /// Plans something for later.
    fn after(&mut self, delay: Duration, happening: Happening) {
        self.schedule.at(self.schedule.now() + delay, happening);
    }

    /// Tells a host's node something later, if it still lives the same life.
    fn tell(&mut self, host: usize, at: Time, input: Input) {
        let life = self.hosts[host].life;
        self.schedule.at(at, Happening::Tell { host, life, input: Box::new(input) });
    }
}
