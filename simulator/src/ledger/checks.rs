//! What must hold of a ledger, judged by a replica that follows what machines
//! make durable: it verifies each certificate, executes each block, and sees
//! whether two of one height differ. Each recovery that a machine follows begins
//! a chain of its own; whoever is not on the highest one has to know of it.

use super::report::Summary;
use manta_protocol::consensus::sync::Decision;
use manta_protocol::consensus::{Committee, Recovery};
use manta_protocol::ledger::{Block, FaultKind, Genesis, State};
use manta_protocol::trust::words::GENESIS_BYTES_MAX;
use manta_protocol::wire::codec;
use manta_protocol::wire::limits::ENVELOPE_BYTES_MAX;
use manta_protocol::{Hash, PeerId, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Complaints that are kept.
const VIOLATIONS_MAX: usize = 32;

/// States of a chain that are kept, for recoveries that continue it.
const STATES_MAX: usize = 64;

/// One ledger as the replica knows it, up to a recovery or from one on.
#[derive(Clone)]
struct Chain {
    state: State,
    /// The latest ones by height, if anybody may go on from there with a recovery.
    states: BTreeMap<u64, State>,
    /// Hash of each block, and root of the state after it.
    blocks: BTreeMap<u64, (Hash, Hash)>,
    /// Who decided on each height, and who will on the next.
    committees: BTreeMap<u64, Committee>,
    /// When the block of each height was durable first, and last, and on which machines.
    durable: BTreeMap<u64, (Time, Time, BTreeSet<usize>)>,
    rounds_lost: u64,
}

/// Where a machine's disk stands.
#[derive(Clone, Copy)]
struct Place {
    chain: Hash,
    height: u64,
    /// Whether it stopped since its last block: what it wrote then may be lost.
    stopped: bool,
}

/// When a proposal was made, and when the last machine heard of it.
struct Proposed {
    height: u64,
    round: u32,
    at: Time,
    heard: Time,
}

/// See the module.
pub(super) struct Checks {
    violations: Vec<String>,
    forks: u64,
    /// Keys that may be blamed.
    faulty: BTreeSet<PeerId>,
    chains: BTreeMap<Hash, Chain>,
    places: BTreeMap<usize, Place>,
    keeps_states: bool,
    recovered: u64,
    offered: BTreeSet<usize>,
    told_apart: BTreeSet<usize>,
    proposals: BTreeMap<Hash, Proposed>,
    /// Machine, ledger, chain and height of honest machines at the end.
    kept: Vec<(usize, Hash, Hash, u64)>,
    /// Proposed values, by the name of the gossip message.
    messages: BTreeMap<Hash, Hash>,
}

impl Checks {
    pub(super) fn new(faulty: BTreeSet<PeerId>, keeps_states: bool) -> Self {
        Self {
            violations: Vec::new(),
            forks: 0,
            faulty,
            chains: BTreeMap::new(),
            places: BTreeMap::new(),
            proposals: BTreeMap::new(),
            keeps_states,
            recovered: 0,
            offered: BTreeSet::new(),
            told_apart: BTreeSet::new(),
            kept: Vec::new(),
            messages: BTreeMap::new(),
        }
    }

    pub(super) fn violation(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX && !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    /// A machine keeps this ledger from here on.
    pub(super) fn begins(&mut self, machine: usize, genesis: &[u8]) {
        let state = codec::decode::<Genesis>(genesis, GENESIS_BYTES_MAX).map_err(|error| error.to_string());
        match state.and_then(|genesis| State::genesis(genesis).map_err(|error| error.to_string())) {
            Ok(state) => {
                let (ledger, root) = (state.ledger(), state.root());
                let blocks = BTreeMap::from([(0, (ledger, root))]);
                let committees = BTreeMap::from([(1, state.next_committee().clone())]);
                let states = BTreeMap::from([(0, state.clone())]);
                let chain = Chain { state, states, blocks, committees, durable: BTreeMap::new(), rounds_lost: 0 };
                self.chains.entry(ledger).or_insert(chain);
                self.places.insert(machine, Place { chain: ledger, height: 0, stopped: false });
            }
            Err(why) => self.violation(format!("machine {machine} begins a ledger that is none: {why}")),
        }
    }

    /// A machine follows a recovery from here on.
    pub(super) fn recovers(&mut self, machine: usize, recovery: &[u8]) {
        if let Err(why) = self.judge_recovery(machine, recovery) {
            self.violation(format!("machine {machine} follows a recovery: {why}"));
        }
    }

    fn judge_recovery(&mut self, machine: usize, recovery: &[u8]) -> Result<(), String> {
        let recovery: Recovery = codec::decode(recovery, ENVELOPE_BYTES_MAX).map_err(|error| error.to_string())?;
        let place = self.places.get_mut(&machine).ok_or("it keeps no ledger")?;
        let chain = self.chains.get(&place.chain).ok_or("of a ledger that nobody began")?;
        let state = chain.states.get(&place.height).ok_or("the state before it is not kept any more")?;
        let state = state.recover(&recovery).map_err(|error| error.to_string())?;
        let (name, height) = (state.chain(), state.height());
        let mut next = chain.clone();
        next.blocks.split_off(&(height + 1));
        next.durable.split_off(&(height + 1));
        next.states = BTreeMap::from([(height, state.clone())]);
        next.committees.insert(height + 1, state.next_committee().clone());
        next.state = state;
        self.chains.entry(name).or_insert(next);
        place.chain = name;
        self.recovered += 1;
        Ok(())
    }

    /// A machine's owner is shown a recovery.
    pub(super) fn offered(&mut self, machine: usize) {
        self.offered.insert(machine);
    }

    /// A machine's owner is told of another ledger.
    pub(super) fn told_apart(&mut self, machine: usize) {
        self.told_apart.insert(machine);
    }

    /// A machine stopped: what it was writing may be lost.
    pub(super) fn stopped(&mut self, machine: usize) {
        if let Some(place) = self.places.get_mut(&machine) {
            place.stopped = true;
        }
    }

    /// A machine has lost its disk, and with it what it promised in votes.
    pub(super) fn forgot(&mut self, machine: usize, peer: &PeerId) {
        self.places.remove(&machine);
        self.faulty.insert(*peer);
    }

    /// A machine makes a sealed block durable.
    pub(super) fn block(&mut self, machine: usize, height: u64, sealed: &[u8], now: Time) {
        if let Err(why) = self.judge(machine, height, sealed, now) {
            self.violation(format!("machine {machine} makes a block of height {height} durable: {why}"));
        }
    }

    fn judge(&mut self, machine: usize, height: u64, sealed: &[u8], now: Time) -> Result<(), String> {
        let sealed: Decision = codec::decode(sealed, ENVELOPE_BYTES_MAX).map_err(|error| error.to_string())?;
        let block = Block::decode(&sealed.bytes).map_err(|error| error.to_string())?;
        let place = self.places.get_mut(&machine).ok_or("it keeps no ledger")?;
        let chain = self.chains.get_mut(&place.chain).ok_or("of a ledger that nobody began")?;
        if block.header.ledger != chain.state.ledger() || block.header.height != height {
            return Err("of another ledger or height".into());
        }
        let follows = height == place.height + 1 || (place.stopped && height <= place.height);
        if !follows {
            return Err(format!("its last one was {}", place.height));
        }
        *place = Place { height, stopped: false, ..*place };
        let on = place.chain;
        let committee = chain.committees.get(&height).ok_or("the chain is not there yet")?;
        let (hash, certificate) = (block.hash(), &sealed.certificate);
        if certificate.value != hash || certificate.height != height {
            return Err("sealed by a certificate for another block".into());
        }
        certificate.verify(&chain.state.chain(), committee).map_err(|error| error.to_string())?;
        if height == chain.state.height() + 1 {
            let next = chain.state.execute(&block, u64::MAX).map_err(|error| error.to_string())?;
            chain.rounds_lost += u64::from(certificate.round);
            chain.blocks.insert(height, (hash, next.root()));
            chain.committees.insert(height + 1, next.next_committee().clone());
            chain.state = next;
            if self.keeps_states {
                chain.states.insert(height, chain.state.clone());
                while chain.states.len() > STATES_MAX {
                    chain.states.pop_first();
                }
            }
            sums(&chain.state)?;
            self.blame();
        }
        let chain = self.chains.get_mut(&on).ok_or("of a ledger that nobody began")?;
        let (_, last, machines) = chain.durable.entry(height).or_insert((now, now, BTreeSet::new()));
        (*last, _) = (now, machines.insert(machine));
        let (expected, root) = *chain.blocks.get(&height).ok_or("unknown")?;
        if hash != expected {
            self.forks += 1;
            return Err(format!("a fork: {hash:?}, another machine has {expected:?}"));
        }
        if block.header.state != root {
            return Err(format!("its state root is {:?}, executed it gives {root:?}", block.header.state));
        }
        Ok(())
    }

    /// Whom the ledger names must be somebody who did it.
    fn blame(&mut self) {
        let named: Vec<_> = self
            .chains
            .values()
            .flat_map(|chain| chain.state.faults())
            .filter(|fault| !matches!(fault.kind, FaultKind::Unrevealed) && !self.faulty.contains(&fault.peer))
            .map(|fault| {
                format!("the honest {:?} is named for {:?} at height {}", fault.peer, fault.kind, fault.height)
            })
            .collect();
        named.into_iter().for_each(|what| self.violation(what));
    }

    /// A machine says which state it has come to.
    pub(super) fn reports(&mut self, machine: usize, height: u64, root: Hash) {
        let known = self.places.get(&machine).and_then(|place| self.chains.get(&place.chain)?.blocks.get(&height));
        if known.is_none_or(|(_, expected)| *expected != root) {
            self.violation(format!(
                "machine {machine} is in state {root:?} at height {height}, the chain in {known:?}"
            ));
        }
    }

    /// The state in a machine's memory at the end.
    pub(super) fn agrees(&mut self, machine: usize, peer: &PeerId, state: &State, is_up: bool) {
        if is_up {
            self.kept.push((machine, state.ledger(), state.chain(), state.height()));
        }
        let known = self.chains.get(&state.chain()).and_then(|chain| chain.blocks.get(&state.height()));
        // A block that is decided and on its way to the disk is known nowhere yet.
        if known.is_some_and(|known| *known != (state.head(), state.root())) {
            self.violation(format!("{peer:?} ends in another state at height {}", state.height()));
        }
    }

    /// Somebody proposes a value in this gossip message.
    pub(super) fn proposed(&mut self, value: Hash, place: (u64, u32), message: Hash, now: Time) {
        let (height, round) = place;
        if !self.proposals.contains_key(&value) {
            self.messages.insert(message, value);
            self.proposals.insert(value, Proposed { height, round, at: now, heard: now });
        }
    }

    /// A machine hears a gossip message for the first time.
    pub(super) fn reached(&mut self, message: &Hash, now: Time) {
        if let Some(proposed) = self.messages.get(message).and_then(|value| self.proposals.get_mut(value)) {
            proposed.heard = now;
        }
    }

    /// Enters what was found.
    pub(super) fn tell(mut self, machines: usize, summary: &mut Summary) {
        let kept = std::mem::take(&mut self.kept);
        let ledgers: BTreeSet<_> = kept.iter().map(|(_, ledger, ..)| *ledger).collect();
        if ledgers.len() > 1 {
            self.violation(format!("the swarm fell into the ledgers {ledgers:?}"));
        }
        let highest = kept.iter().max_by_key(|(.., height)| *height).map(|(_, _, chain, _)| *chain);
        for (machine, _, chain, height) in kept.into_iter().filter(|(_, _, chain, _)| Some(*chain) != highest) {
            if !self.offered.contains(&machine) && !self.told_apart.contains(&machine) {
                self.violation(format!("machine {machine} is at height {height} of {chain:?}, and nobody told it"));
            }
        }
        summary.recovered = self.recovered;
        (summary.offered, summary.told_apart) = (self.offered.len(), self.told_apart.len());
        if let Some(chain) = self.chains.values().max_by_key(|chain| chain.state.height()) {
            chain.tell(summary);
            summary.finality_permille = chain.finality(machines, &self.proposals);
            let honest = |kind: FaultKind| !matches!(kind, FaultKind::Unrevealed | FaultKind::Equivocation);
            let faults = || chain.state.faults();
            let of = |kinds: &[FaultKind]| {
                faults()
                    .filter(|fault| kinds.contains(&fault.kind))
                    .map(|fault| fault.peer)
                    .collect::<BTreeSet<_>>()
                    .len()
            };
            summary.liars_named = of(&[FaultKind::WrongResult, FaultKind::Copied]);
            summary.equivocators_named = of(&[FaultKind::Equivocation]);
            let lost = faults().filter(|fault| honest(fault.kind) && !self.faulty.contains(&fault.peer));
            summary.honest_loss = lost.map(|fault| fault.lost.0).sum();
        }
        summary.forks = self.forks;
        summary.violations = self.violations;
    }
}

/// Credits are neither made nor lost, and no more is made than blocks and tasks give.
fn sums(state: &State) -> Result<(), String> {
    let (totals, parameters) = (state.totals(), state.parameters());
    let tasks = totals.tasks_agreed + totals.tasks_trusted;
    let most = state.height() * parameters.block_reward + tasks * parameters.drill_reward;
    if !state.is_sound() {
        return Err("its accounts do not hold what was minted".into());
    }
    if totals.minted > most {
        return Err(format!("{} minted, {most} at most", totals.minted));
    }
    Ok(())
}

impl Chain {
    fn tell(&self, summary: &mut Summary) {
        let (state, totals) = (&self.state, self.state.totals());
        summary.height = state.height();
        summary.state_root = state.root().to_string();
        summary.committee = state.next_committee().weights().len();
        summary.rounds_lost = self.rounds_lost;
        summary.tasks_agreed = totals.tasks_agreed;
        summary.tasks_trusted = totals.tasks_trusted;
        summary.tasks_disputed = totals.tasks_disputed;
        let reliability = state.registrations().filter_map(|(peer, _)| state.reliability(peer));
        summary.probes =
            reliability.fold((0, 0), |(answered, probed), of| (answered + of.answered_ever, probed + of.probed_ever));
        let firsts: Vec<Time> = self.durable.values().map(|(first, _, _)| *first).collect();
        let gaps = firsts.windows(2).map(|pair| pair[1].since(pair[0]).as_ms());
        summary.longest_gap_ms = gaps.max().unwrap_or(0);
    }

    /// The median, over heights decided in their first round, of the time to the last
    /// machine's durable block, in thousandths of the time that the proposal took to
    /// reach the last machine; 0 if nobody else was there.
    fn finality(&self, machines: usize, proposals: &BTreeMap<Hash, Proposed>) -> u64 {
        let of = |(height, (_, last, on)): (&u64, &(Time, Time, BTreeSet<usize>))| {
            let proposed = proposals.get(&self.blocks.get(height)?.0)?;
            let flood = proposed.heard.since(proposed.at).0;
            let whole = on.len() == machines && proposed.round == 0 && proposed.height == *height && flood > 0;
            whole.then(|| last.since(proposed.at).0 * 1_000 / flood)
        };
        let mut permille: Vec<u64> = self.durable.iter().filter_map(of).collect();
        permille.sort_unstable();
        permille.get(permille.len() / 2).copied().unwrap_or(0)
    }
}
