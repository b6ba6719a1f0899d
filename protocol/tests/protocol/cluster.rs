//! Several nodes in one run on virtual time, with a trainer that knows what it
//! adds up: state is a hash, a sum names the state and the members it is of.
//! Whoever applies sums of unequal members, or to another state, is caught.

use crate::samples::{NOW, contact, demand, identity, listing, network, peer, spec};
use manta_protocol::effect::{Entry, RunFailure, RunStart};
use manta_protocol::input::{Command, Done};
use manta_protocol::market::reservation::{Confirm, Reserve};
use manta_protocol::run::ledger::{Ledger, Span};
use manta_protocol::run::report::LossSum;
use manta_protocol::run::view::View;
use manta_protocol::run::{Phase, RunSpec};
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{Config, Duration, Effect, EffectId, Event, Hash, Input, Node, PeerId, RunId, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const LATENCY: Duration = Duration::from_ms(5);
const COMPUTE: Duration = Duration::from_ms(40);

/// What a chunk is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Values { state: Hash, batches: Vec<Span> },
    Sum { state: Hash, of: Vec<PeerId> },
}

enum Happening {
    Input(usize, Input, Option<Content>),
    Frame { to: usize, from: usize, bytes: Vec<u8>, id: EffectId },
    Wake(usize),
}

/// Exchange, half, chunk, and who sent it.
type ChunkKey = (u64, Phase, u32, PeerId);

/// One machine.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) peer: PeerId,
    pub(crate) up: bool,
    pub(crate) frozen: bool,
    held_back: Vec<Happening>,
    start: Option<Arc<RunStart>>,
    state: Hash,
    exchange: u64,
    values: BTreeMap<(u64, u32, PeerId), Content>,
    own: BTreeMap<u64, Content>,
    sums: BTreeMap<(u64, u32), Content>,
    waiting: BTreeMap<u64, (ChunkKey, Content)>,
    snapshot: Option<(u64, Hash)>,
    saved: Option<(u64, Hash)>,
    pub(crate) journal: Option<Vec<u8>>,
    wake: Option<Time>,
    pub(crate) done: Vec<(u64, Vec<PeerId>, Ledger)>,
    pub(crate) views: Vec<Arc<View>>,
    pub(crate) closed: Option<Option<RunFailure>>,
    pub(crate) fetched: Option<Hash>,
    pub(crate) saved_result: Option<bool>,
    /// The result, as long as it is kept here.
    pub(crate) keeps: Option<Hash>,
    /// Trainer answers that never come.
    pub(crate) hangs: bool,
    /// How long a batch takes, if not as usual.
    pub(crate) batch_ms: Option<u64>,
}

pub(crate) struct Cluster {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pub(crate) run: RunId,
    schedule: BTreeMap<(Time, u64), Happening>,
    order: u64,
    transfers: u64,
    cut: BTreeSet<(usize, usize)>,
    states: BTreeMap<(u64, u32), Hash>,
    pub(crate) log: VecDeque<String>,
}

impl Host {
    fn new(number: u8, now: Time) -> Self {
        let node = Node::new(Config { network: network(), identity: identity(number) }, now);
        Self {
            peer: node.peer_id(),
            node,
            up: true,
            frozen: false,
            held_back: Vec::new(),
            start: None,
            state: Hash::of(b"initial"),
            exchange: 0,
            values: BTreeMap::new(),
            own: BTreeMap::new(),
            sums: BTreeMap::new(),
            waiting: BTreeMap::new(),
            snapshot: None,
            saved: None,
            journal: None,
            wake: None,
            done: Vec::new(),
            views: Vec::new(),
            closed: None,
            fetched: None,
            saved_result: None,
            keeps: None,
            hangs: false,
            batch_ms: None,
        }
    }

    pub(crate) fn batches_done(&self) -> u64 {
        self.done.last().map_or(0, |(_, _, ledger)| ledger.done())
    }
}

pub(crate) fn long_spec() -> RunSpec {
    RunSpec { rounds: 60, ..spec() }
}

impl Cluster {
    /// `members` of `hosts` machines begin a run of `spec`, which takes up to `members_max`; host 0 owns it.
    pub(crate) fn new(hosts: u8, members: u8, members_max: u16, spec: RunSpec) -> Self {
        let demand = manta_protocol::market::demand::Demand { spec: spec.hash(), members_max, ..demand() };
        let mut contacts: Vec<_> = (1..=members).map(contact).collect();
        contacts.sort_by_key(|contact| contact.peer);
        let owner = peer(1);
        let confirm = Confirm { spec, demand, owner, issued_at_ms: NOW.as_unix_ms(), members: contacts, late: false };
        let run = confirm.run_id();
        let mut cluster = Self {
            now: NOW,
            hosts: (1..=hosts).map(|number| Host::new(number, NOW)).collect(),
            run,
            schedule: BTreeMap::new(),
            order: 0,
            transfers: 0,
            cut: BTreeSet::new(),
            states: BTreeMap::new(),
            log: VecDeque::new(),
        };
        for host in 0..usize::from(hosts) {
            cluster.input(host, Input::Command(Command::Offer(Box::new(listing()))), None);
        }
        for host in 0..usize::from(members) {
            let reserve = Reserve { spec: confirm.spec.hash(), memory_bytes: 1, duration_s: 1, hold_ms: 20_000 };
            for message in [Message::Reserve(reserve), Message::Confirm(confirm.clone())] {
                let seq = NOW.as_unix_ms() - 1_000;
                let bytes = identity(1).seal(network(), seq, NOW + Duration::from_s(30), &message);
                cluster.input(host, Input::Frame { from: owner, bytes }, None);
            }
        }
        cluster
    }

    fn index(&self, peer: &PeerId) -> usize {
        self.hosts.iter().position(|host| host.peer == *peer).expect("a host")
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.schedule.insert((self.now + after, self.order), happening);
    }

    pub(crate) fn input(&mut self, index: usize, input: Input, content: Option<Content>) {
        if self.hosts[index].frozen {
            return self.hosts[index].held_back.push(Happening::Input(index, input, content));
        }
        if !self.hosts[index].up {
            return;
        }
        if self.log.len() > 60_000 {
            self.log.pop_front();
        }
        let mut text = format!("{input:?}");
        text.truncate(180);
        self.log.push_back(format!("{} {index} < {text}", (self.now.0 - NOW.0) / 1_000_000));
        let key = match &input {
            Input::ChunkArrived { transfer, exchange, phase, chunk, from, .. } => {
                Some((*transfer, (*exchange, *phase, *chunk, *from)))
            }
            _ => None,
        };
        if let (Some((transfer, key)), Some(content)) = (key, content) {
            self.hosts[index].waiting.insert(transfer, (key, content));
        }
        self.hosts[index].node.handle(input, self.now);
        while let Some(effect) = self.hosts[index].node.poll_effect() {
            self.perform(index, effect);
        }
        let due = self.hosts[index].node.poll_timeout();
        assert!(due > self.now, "a timer is due in the past");
        if self.hosts[index].wake != Some(due) {
            self.hosts[index].wake = Some(due);
            self.at(due.since(self.now), Happening::Wake(index));
        }
    }

    fn done(&mut self, index: usize, after: Duration, done: Done) {
        let run = self.run;
        if !self.hosts[index].hangs {
            self.at(after, Happening::Input(index, Input::Trainer { run, done }, None));
        }
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        if !matches!(effect, Effect::SendFrame { .. } | Effect::Journal { .. } | Effect::Publish { .. }) {
            let mut text = format!("{effect:?}");
            text.truncate(180);
            self.log.push_back(format!("{} {index} > {text}", (self.now.0 - NOW.0) / 1_000_000));
        }
        let tick = Duration::from_ms(1);
        match effect {
            Effect::Publish { bytes } => {
                for other in (0..self.hosts.len()).filter(|other| *other != index) {
                    let gossip = Input::Gossip { message: 0, bytes: bytes.clone() };
                    self.at(LATENCY, Happening::Input(other, gossip, None));
                }
            }
            Effect::SendFrame { id, to, bytes } => {
                let envelope = Envelope::open(&bytes, network()).expect("a node sends what can be opened");
                let mut text = format!("{:?}", envelope.message);
                text.truncate(160);
                self.log.push_back(format!(
                    "{} {index} > to {} {text}",
                    (self.now.0 - NOW.0) / 1_000_000,
                    self.index(&to)
                ));
                let to = self.index(&to);
                self.at(LATENCY, Happening::Frame { to, from: index, bytes, id });
            }
            Effect::Prepare(start) => {
                let again = matches!(start.entry, Entry::Again { .. });
                let host = &mut self.hosts[index];
                if let Entry::Again { checkpoint } = start.entry {
                    let loaded = host.saved.filter(|(exchange, _)| Some(*exchange) == checkpoint);
                    (host.exchange, host.state) = loaded.unwrap_or((0, Hash::of(b"initial")));
                }
                host.start = Some(start);
                let _ = again;
                self.done(index, COMPUTE, Done::Prepared { parameter_hash: Hash::of(b"initial") });
            }
            Effect::Compute { exchange, plan, batches, .. } => {
                let host = &mut self.hosts[index];
                assert_eq!(host.exchange, exchange, "computed from the state before the exchange");
                let count = manta_protocol::run::ledger::count(&batches);
                let compute_ms = host.batch_ms.map_or(COMPUTE.as_ms(), |ms| ms * count);
                let content = Content::Values { state: host.state, batches };
                host.own.insert(exchange, content);
                let loss = LossSum { fixed: 1, tokens: 1 };
                self.done(index, Duration::from_ms(compute_ms), Done::Computed { exchange, plan, loss, compute_ms });
            }
            Effect::ChunkVerdict { transfer, keep } => {
                let Some(((exchange, phase, chunk, from), content)) = self.hosts[index].waiting.remove(&transfer)
                else {
                    return;
                };
                if keep {
                    match phase {
                        Phase::Contribution => drop(self.hosts[index].values.insert((exchange, chunk, from), content)),
                        Phase::Sum => drop(self.hosts[index].sums.insert((exchange, chunk), content)),
                    }
                }
            }
            Effect::SendChunk { run, to, view, exchange, phase, chunk } => {
                let (host, target) = (&self.hosts[index], self.index(&to));
                let content = match phase {
                    Phase::Contribution => host.own.get(&exchange),
                    Phase::Sum => host.sums.get(&(exchange, chunk)),
                };
                let content = content.unwrap_or_else(|| panic!("{phase:?} {chunk} of {exchange} is not there")).clone();
                self.transfers += 1;
                let (transfer, from) = (self.transfers, host.peer);
                let elements = self.elements(index, view, exchange, chunk);
                let arrived = Input::ChunkArrived { transfer, from, run, view, exchange, phase, chunk, elements };
                let dead = !self.hosts[target].up;
                if dead || self.cut.contains(&(index, target)) {
                    let failed = Input::BulkFailed { run, peer: to, exchange, phase, chunk };
                    let after = if dead { LATENCY } else { Duration::from_s(5) };
                    return self.at(after, Happening::Input(index, failed, None));
                }
                self.at(LATENCY, Happening::Input(target, arrived, Some(content)));
            }
            Effect::Reduce { exchange, view, chunk, contributors, .. } => {
                let host = &mut self.hosts[index];
                for of in &contributors {
                    let key = (exchange, chunk, *of);
                    let values = if *of == host.peer { host.own.get(&exchange) } else { host.values.get(&key) };
                    let Some(Content::Values { state, .. }) = values else { panic!("values of {of:?} are not there") };
                    assert_eq!(*state, host.state, "values from another state than the reducer's");
                }
                host.sums.insert((exchange, chunk), Content::Sum { state: host.state, of: contributors });
                self.done(index, tick, Done::Reduced { exchange, view, chunk });
            }
            Effect::DropSums { exchange, .. } => self.hosts[index].sums.retain(|(of, _), _| *of != exchange),
            Effect::DropExchange { exchange, .. } => {
                let host = &mut self.hosts[index];
                host.sums.retain(|(of, _), _| *of < exchange);
                host.values.retain(|(of, _, _), _| *of < exchange);
                host.own.retain(|of, _| *of < exchange);
            }
            Effect::Apply { exchange, .. } => {
                let host = &mut self.hosts[index];
                assert_eq!(host.exchange, exchange, "applied in order");
                let sums: BTreeSet<_> =
                    host.sums.range((exchange, 0)..=(exchange, u32::MAX)).map(|(_, sum)| format!("{sum:?}")).collect();
                assert_eq!(sums.len(), 1, "all sums are of the same members and state: {sums:?}");
                let Some(Content::Sum { state, .. }) = host.sums.get(&(exchange, 0)) else { panic!("no sum") };
                assert_eq!(*state, host.state, "sums of our own state");
                host.state = Hash::of(format!("{:?} {sums:?}", host.state).as_bytes());
                host.exchange += 1;
                host.sums.retain(|(of, _), _| *of >= exchange);
                host.values.retain(|(of, _, _), _| *of > exchange);
                host.own.retain(|of, _| *of > exchange);
                self.done(index, tick, Done::Applied { exchange });
            }
            Effect::HashParameters { exchange, .. } => {
                let parameter_hash = self.hosts[index].state;
                self.done(index, tick, Done::Hashed { exchange, parameter_hash });
            }
            Effect::Snapshot { exchange, .. } => {
                let host = &mut self.hosts[index];
                assert_eq!(host.exchange, exchange, "the state before the exchange");
                host.snapshot = Some((exchange, host.state));
                let root = host.state;
                self.done(index, tick, Done::Snapshot { exchange, root });
            }
            Effect::FetchState { exchange, root, donors, .. } => {
                let has = |peer: &PeerId| {
                    let donor = &self.hosts[self.index(peer)];
                    donor.up && donor.snapshot == Some((exchange, root))
                };
                if donors.iter().any(has) {
                    let host = &mut self.hosts[index];
                    (host.exchange, host.state) = (exchange, root);
                    return self.done(index, Duration::from_ms(60), Done::StateLoaded { exchange });
                }
                self.done(index, Duration::from_ms(60), Done::StateNotLoaded { exchange });
            }
            Effect::Checkpoint { exchange, .. } => {
                let host = &mut self.hosts[index];
                assert_eq!(host.exchange, exchange, "the state before the exchange");
                host.saved = Some((exchange, host.state));
                self.done(index, tick, Done::Checkpointed { exchange });
            }
            Effect::Journal { record, .. } => self.hosts[index].journal = record,
            Effect::Save { for_owner, .. } => {
                let root = self.hosts[index].state;
                self.hosts[index].saved_result = Some(for_owner);
                self.hosts[index].keeps = Some(root);
                self.done(index, COMPUTE, Done::Saved { root, kept: true });
            }
            Effect::FetchResult { root, from, .. } => {
                let donor = self.index(&from);
                let there = self.hosts[donor].up && !self.cut.contains(&(donor, index));
                assert!(self.hosts[donor].keeps == Some(root), "{donor} keeps what it says it does");
                if there {
                    self.hosts[index].fetched = Some(root);
                    return self.done(index, COMPUTE, Done::Saved { root, kept: true });
                }
                self.done(index, COMPUTE, Done::ResultNotFetched);
            }
            Effect::KeepResult { root, owner, .. } => {
                assert_eq!((self.hosts[index].keeps, owner), (Some(root), self.hosts[0].peer), "it was kept before");
            }
            Effect::DropResult { .. } => self.hosts[index].keeps = None,
            Effect::Close { failure, .. } => self.hosts[index].closed = Some(failure),
            Effect::Misbehaviour { peer, what } => panic!("{index} blames {peer:?}: {what}"),
            Effect::Notify(Event::ViewChanged { view, .. }) => self.hosts[index].views.push(view),
            Effect::Notify(Event::ExchangeDone { exchange, contributors, ledger, .. }) => {
                let state = self.hosts[index].state;
                let lineage =
                    self.hosts[index].views.iter().filter(|view| view.fate == manta_protocol::run::view::Fate::Fresh);
                let known = *self.states.entry((exchange, lineage.count() as u32)).or_insert(state);
                assert_eq!(known, state, "members hold the same after exchange {exchange}");
                self.hosts[index].done.push((exchange, contributors, ledger));
            }
            // A block may take a transaction before its gossip has come everywhere.
            Effect::Notify(Event::Refused { why }) if why.starts_with("a transaction of") => {}
            Effect::Notify(Event::Refused { why }) => panic!("{index} refuses: {why}"),
            _ => {}
        }
    }

    /// Length of a chunk under the plan that the sender follows.
    fn elements(&self, index: usize, view: u32, exchange: u64, chunk: u32) -> u64 {
        let host = &self.hosts[index];
        let start = host.start.as_ref().expect("started");
        let newest =
            host.views.iter().rev().find(|of| of.number <= view && of.from <= exchange && of.plan == of.number);
        let ranks = newest.map_or(start.members.len(), |view| view.full().count());
        let plan = start.spec.chunk_plan(ranks).expect("a plan");
        plan.elements(chunk).map_or(0, |range| range.end - range.start)
    }

    /// Lets time pass until `done` or `limit_s` have passed; whether it came to be.
    pub(crate) fn until(&mut self, limit_s: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + Duration::from_s(limit_s);
        while !done(self) {
            let Some(entry) = self.schedule.first_entry().filter(|entry| entry.key().0 <= end) else {
                self.now = end;
                return false;
            };
            let (at, _) = *entry.key();
            let happening = entry.remove();
            self.now = at;
            self.happen(happening);
        }
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input(index, input, content) => self.input(index, input, content),
            Happening::Wake(index) => {
                let due = self.hosts[index].wake.is_some_and(|wake| wake <= self.now);
                if due && self.hosts[index].up && !self.hosts[index].frozen {
                    self.hosts[index].wake = None;
                    self.input(index, Input::Tick, None);
                }
            }
            Happening::Frame { to, from, bytes, id } => {
                let sender = self.hosts[from].peer;
                if !self.hosts[to].up {
                    return self.at(LATENCY, Happening::Input(from, Input::FrameFailed { id }, None));
                }
                if self.cut.contains(&(from, to)) {
                    return self.at(Duration::from_s(5), Happening::Input(from, Input::FrameFailed { id }, None));
                }
                self.at(LATENCY, Happening::Input(from, Input::FrameDelivered { id }, None));
                self.input(to, Input::Frame { from: sender, bytes }, None);
            }
        }
    }

    // ---- faults ----

    pub(crate) fn kill(&mut self, index: usize) {
        self.hosts[index].up = false;
        let peer = self.hosts[index].peer;
        for other in (0..self.hosts.len()).filter(|other| *other != index) {
            self.at(LATENCY, Happening::Input(other, Input::PeerDisconnected { peer }, None));
        }
    }

    /// Starts a killed machine again, with what its disk holds.
    pub(crate) fn restart(&mut self, index: usize) {
        let number = index as u8 + 1;
        let old = std::mem::replace(&mut self.hosts[index], Host::new(number, self.now));
        let host = &mut self.hosts[index];
        (host.journal, host.saved, host.views) = (old.journal.clone(), old.saved, old.views);
        (host.keeps, host.closed) = (old.keeps, old.closed);
        if let Some(record) = old.journal {
            self.input(index, Input::Command(Command::Resume { record }), None);
        }
        self.input(index, Input::Command(Command::Offer(Box::new(listing()))), None);
    }

    pub(crate) fn freeze(&mut self, index: usize) {
        self.hosts[index].frozen = true;
    }

    pub(crate) fn thaw(&mut self, index: usize) {
        self.hosts[index].frozen = false;
        self.hosts[index].wake = None;
        for happening in std::mem::take(&mut self.hosts[index].held_back) {
            self.happen(happening);
        }
        self.input(index, Input::Tick, None);
    }

    /// Nothing passes between the two sides any more.
    pub(crate) fn part(&mut self, left: &[usize], right: &[usize]) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.cut.extend([(a, b), (b, a)]);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Whether everyone of these has ended the run well.
    pub(crate) fn finished(&self, hosts: &[usize]) -> bool {
        hosts.iter().all(|host| self.hosts[*host].closed == Some(None))
    }

    /// Prints the last of what happened, for a test that fails.
    pub(crate) fn show(&self, lines: usize) -> String {
        self.log.iter().rev().take(lines).rev().cloned().collect::<Vec<_>>().join("\n")
    }
}
