//! The loop: events from the schedule to the machines, until all have reached
//! the height that was asked for.

use super::checks::Checks;
use super::disk::Disk;
use super::machine::{Incoming, Machine, identity, take_part};
use super::options::{Break, Options, Setup};
use super::report::Summary;
use crate::clock::{EPOCH, elapsed};
use crate::draws::Draws;
use crate::faults::Cut;
use crate::host::State;
use crate::network::Network;
use crate::report::Trace;
use crate::schedule::Schedule;
use manta_protocol::ledger::{Founder, Genesis, Parameters};
use manta_protocol::memory::remembering;
use manta_protocol::power::MicroPower;
use manta_protocol::trust::LedgerOptions;
use manta_protocol::wire::codec;
use manta_protocol::{Command, Duration, EffectId, Hash, Input, NetworkId, PeerId, Seed, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

/// The network of all simulated machines.
pub(super) const NETWORK: &str = "simulated ledger";
/// How often it is looked whether all is over.
const LOOK_INTERVAL: Duration = Duration::from_ms(250);
/// Within this time after the last fault, and so much for each height in all,
/// every honest machine reaches the height asked for.
const PATIENCE: Duration = Duration::from_s(120);
const PATIENCE_PER_HEIGHT: Duration = Duration::from_s(5);
/// Heights after the last fault that every honest machine has to see.
const HEIGHTS_AFTER_FAULTS: u64 = 2;
/// Verifications that are remembered for all machines: those of a few heights.
const REMEMBERED_MAX: usize = 65_536;
/// What each founder begins with.
const FOUNDER_POWER: MicroPower = MicroPower(100_000);

/// One thing that happens.
pub(super) enum Happening {
    Wake { machine: usize, due: Time },
    Gossip { to: usize, from: usize, id: Hash, bytes: Arc<Vec<u8>> },
    Frame { serial: u64, from: usize, to: usize, to_life: u32, bytes: Arc<Vec<u8>> },
    FrameKnown { serial: u64, delivered: bool },
    Tell { machine: usize, life: u32, input: Box<Input> },
    Synced { machine: usize, life: u32 },
    Fault { index: usize },
    CutEnds { index: usize },
    Thaw { machine: usize },
    Restart { machine: usize },
    Recover { index: usize },
    Look,
}

/// A frame whose sender does not know yet what became of it.
pub(super) struct Outstanding {
    pub(super) machine: usize,
    pub(super) life: u32,
    pub(super) id: EffectId,
}

pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) schedule: Schedule<Happening>,
    pub(super) network: Network,
    pub(super) machines: Vec<Machine>,
    /// Machines that run a key: two for a twin.
    pub(super) index: BTreeMap<PeerId, Vec<usize>>,
    pub(super) outstanding: BTreeMap<u64, Outstanding>,
    pub(super) serial: u64,
    pub(super) cuts: Vec<Cut>,
    /// Faults that are still to come or to end.
    pub(super) pending: usize,
    pub(super) last_fault: Time,
    pub(super) target: u64,
    pub(super) draws: Draws,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) summary: Summary,
    pub(super) options: LedgerOptions,
    /// Machines that are stopped for a while.
    pub(super) returning: BTreeSet<usize>,
}

/// Simulates one history; its trace goes to `out` if there is one.
///
/// # Errors
/// The options do not go together, or the trace cannot be written.
pub fn simulate(options: &Options, out: Option<Box<dyn Write>>) -> Result<Summary, String> {
    let setup = options.resolve()?;
    let history = || {
        let mut world = World::new(setup, options.replay(), Trace::new(out));
        world.begin();
        world.run();
        world.end()
    };
    if options.verify_all { history() } else { remembering(REMEMBERED_MAX, history) }
}

/// Rules that fit a history of a few dozen heights.
fn parameters() -> Parameters {
    Parameters { tasks_per_1000_owners: 100, trust_after: 3, trust_max: 10, ..Parameters::demo() }
}

/// The document that the first founders have made together.
fn genesis(setup: &Setup, seed: Seed, name: &str) -> Option<Vec<u8>> {
    let founder = |key| {
        let identity = identity(seed, key);
        Founder { peer: identity.peer_id(), vrf: identity.vrf().public(), class: 0, power: FOUNDER_POWER }
    };
    let mut founders: Vec<_> = (0..setup.founders).map(founder).collect();
    founders.sort_unstable_by_key(|founder| founder.peer);
    let network = NetworkId::from_name(NETWORK);
    let genesis =
        Genesis { network, name: name.into(), time_ms: EPOCH.as_unix_ms(), founders, parameters: parameters() };
    (setup.founders > 0).then(|| codec::encode(&genesis))
}

impl World {
    fn new(setup: Setup, replay: String, trace: Trace) -> Self {
        let seed = Seed::from_number(setup.seed).child("ledger", 1);
        let network = NetworkId::from_name(NETWORK);
        let skew_ms = setup.conditions.skew_ms_max;
        let document = genesis(&setup, seed, "simulation");
        let mut machines: Vec<_> = (0..setup.machines())
            .map(|number| {
                let key = setup.key_of(number);
                let mut machine = Machine::new(number, key, network, seed, skew_ms, EPOCH);
                machine.is_faulty = setup.is_twin(key);
                machine.lies = setup.is_liar(key);
                machine.disk = document.clone().map_or_else(Disk::default, Disk::with_genesis);
                machine
            })
            .collect();
        if let Some(other) = genesis(&setup, seed, "another").filter(|_| setup.broken == Some(Break::OtherGenesis)) {
            machines[1].disk = Disk::with_genesis(other);
        }
        let mut index: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        for (number, machine) in machines.iter().enumerate() {
            index.entry(machine.peer).or_default().push(number);
        }
        let options = LedgerOptions {
            parameters: parameters(),
            name: "simulation".into(),
            found_after_ms: 3_000,
            operations_per_s: 10_000_000_000,
            takes_part: true,
            kept: None,
        };
        let faulty = machines.iter().filter(|machine| machine.is_faulty || machine.lies).map(|machine| machine.peer);
        Self {
            schedule: Schedule::new(EPOCH),
            network: Network::new(machines.len(), setup.conditions, seed),
            checks: Checks::new(faulty.collect(), !setup.recoveries.is_empty()),
            index,
            outstanding: BTreeMap::new(),
            serial: 0,
            cuts: Vec::new(),
            pending: setup.faults.len() + setup.recoveries.len(),
            last_fault: EPOCH,
            target: setup.heights,
            draws: Draws::new(seed.child("world", 0)),
            trace,
            summary: Summary::new(&setup, replay),
            options,
            returning: BTreeSet::new(),
            machines,
            setup,
        }
    }

    fn begin(&mut self) {
        for machine in 0..self.machines.len() {
            if let Some(kept) = self.machines[machine].disk.kept(false) {
                self.checks.begins(machine, &kept.genesis);
            }
            self.keep_ledger(machine, false);
            for other in 0..self.machines.len() {
                if self.machines[other].peer != self.machines[machine].peer {
                    let peer = self.machines[other].peer;
                    let at = self.network.arrival(other, machine, EPOCH);
                    self.tell(machine, at, Input::PeerConnected { peer });
                }
            }
        }
        self.plan_faults();
        self.after(LOOK_INTERVAL, Happening::Look);
    }

    /// The program starts on a machine, with what the disk has kept.
    pub(super) fn keep_ledger(&mut self, machine: usize, forgetful: bool) {
        let options = take_part(&self.options, &self.machines[machine].disk, forgetful);
        self.deliver(machine, Incoming::Input(Input::Command(Command::KeepLedger(Box::new(options)))));
    }

    fn run(&mut self) {
        while let Some(happening) = self.schedule.pop() {
            self.summary.events += 1;
            if matches!(happening, Happening::Look) {
                if self.is_over() {
                    break;
                }
                self.after(LOOK_INTERVAL, Happening::Look);
            }
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { machine, due } => {
                if self.machines[machine].wake == Some(due) && self.machines[machine].is_ready() {
                    self.machines[machine].wake = None;
                    self.deliver(machine, Incoming::Input(Input::Tick));
                }
            }
            Happening::Gossip { to, from, id, bytes } => {
                if !self.machines[to].knows(&id) {
                    self.deliver(to, Incoming::Gossip { from, id, bytes });
                }
            }
            Happening::Frame { serial, from, to, to_life, bytes } => {
                self.frame_arrives(serial, from, (to, to_life), bytes);
            }
            Happening::FrameKnown { serial, delivered } => self.frame_known(serial, delivered),
            Happening::Tell { machine, life, input } => {
                if self.machines[machine].life == life {
                    self.deliver(machine, Incoming::Input(*input));
                }
            }
            Happening::Synced { machine, life } => self.synced(machine, life),
            Happening::Fault { index } => self.fault_begins(index),
            Happening::CutEnds { index } => self.cut_ends(index),
            Happening::Thaw { machine } => self.thaw(machine),
            Happening::Restart { machine } => self.restart(machine),
            Happening::Recover { index } => self.recover(index),
            Happening::Look => {}
        }
    }

    /// Whether every honest machine is where it should be, or time is up.
    fn is_over(&mut self) -> bool {
        if self.pending > 0 {
            return false;
        }
        // Whose owner has not said whether to follow a recovery waits for that.
        let honest = || self.machines.iter().filter(|machine| !machine.is_faulty && !machine.waits_for_its_owner());
        let lowest = honest().filter(|machine| machine.state == State::Up).map(Machine::height).min().unwrap_or(0);
        // Who begins without one common ledger comes to one in time.
        if lowest >= self.target && (self.is_on_one_ledger() || self.setup.broken.is_some()) {
            return true;
        }
        let quiet = self.schedule.now().since(self.last_fault);
        if quiet < PATIENCE + PATIENCE_PER_HEIGHT.times(self.target) {
            return false;
        }
        let heights: Vec<_> = self.machines.iter().map(|machine| (machine.height(), machine.state)).collect();
        let progress = self.machines.iter().find(|machine| machine.height() == lowest && !machine.is_faulty);
        let progress = progress.and_then(|machine| machine.node.ledger_progress());
        let quiet_ms = quiet.as_ms();
        self.checks.violation(format!(
            "no progress to height {} for {quiet_ms} ms after the last fault: {heights:?}; the lowest says {progress:?}",
            self.target
        ));
        true
    }

    /// Whether all honest machines that are up keep the same ledger.
    fn is_on_one_ledger(&self) -> bool {
        let up = self.machines.iter().filter(|machine| !machine.is_faulty && machine.state == State::Up);
        let ledgers: BTreeSet<_> = up.filter_map(|machine| Some(machine.node.ledger()?.ledger())).collect();
        ledgers.len() <= 1
    }

    /// A fault has come or ended: there has to be progress after it.
    pub(super) fn disturbed(&mut self) {
        self.last_fault = self.schedule.now();
        let highest = self.machines.iter().map(Machine::height).max().unwrap_or(0);
        self.target = self.target.max(highest + HEIGHTS_AFTER_FAULTS);
    }

    fn end(mut self) -> Result<Summary, String> {
        for (number, machine) in self.machines.iter().enumerate().filter(|(_, machine)| !machine.is_faulty) {
            if let Some(state) = machine.node.ledger() {
                let is_up = machine.state == State::Up;
                self.checks.agrees(number, &machine.peer, state, is_up);
            }
        }
        let mut summary = self.summary;
        summary.virtual_ms = elapsed(self.schedule.now()).as_ms();
        self.checks.tell(self.machines.len(), &mut summary);
        summary.trace_hash = self.trace.finish().map_err(|error| format!("the trace cannot be written: {error}"))?;
        summary.ok = summary.violations.is_empty();
        Ok(summary)
    }

    pub(super) fn after(&mut self, span: Duration, happening: Happening) {
        let at = self.schedule.now() + span;
        self.schedule.at(at, happening);
    }

    pub(super) fn tell(&mut self, machine: usize, at: Time, input: Input) {
        let life = self.machines[machine].life;
        self.schedule.at(at, Happening::Tell { machine, life, input: Box::new(input) });
    }
}
