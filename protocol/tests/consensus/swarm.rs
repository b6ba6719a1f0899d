//! Virtual hosts around real engines: a clock, links, disks, and a toy ledger
//! whose blocks chain by parent and height.
//!
//! Whatever honest hosts say is written down: two different statements for one
//! step, or two different blocks of one height, fail the test at once.

use manta_protocol::consensus::{
    Blocks, BlocksAsk, Certificate, Committee, Config, Decision, Engine, Evidence, Input, NIL, Output, Proposal,
    ProposalAsk, Start, Statement, Step, Sync, Timeouts, Vote, Votes,
};
use manta_protocol::election::Beacon;
use manta_protocol::wire::Identity;
use manta_protocol::{Duration, Hash, PeerId, Seed, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// When virtual time begins.
pub(crate) const GENESIS_MS: u64 = 1_790_000_000_000;

/// How a swarm is made.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    /// The weight of each member.
    pub(crate) weights: Vec<u64>,
    /// Hosts without weight that follow.
    pub(crate) onlookers: usize,
    pub(crate) epoch_ms: u64,
    /// One-way delays, at least and at most.
    pub(crate) delay_ms: (u64, u64),
    pub(crate) loss_permille: u64,
    pub(crate) duplicate_permille: u64,
}

impl Setup {
    pub(crate) fn new(seed: u64, members: usize) -> Self {
        Self {
            seed,
            weights: vec![1; members],
            onlookers: 0,
            epoch_ms: 1_000,
            delay_ms: (20, 80),
            loss_permille: 0,
            duplicate_permille: 0,
        }
    }
}

/// How a host behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Says one thing to one half of the others and another to the rest; what
    /// it told the others reaches each half later, for gossip floods.
    TwoFaced,
    /// The same, and the halves never compare what they heard.
    TwoFacedInSecret,
}

pub(crate) struct Host {
    pub(crate) identity: Identity,
    pub(crate) manner: Manner,
    /// `None` while the machine is down.
    pub(crate) engine: Option<Engine>,
    /// Durable: the records of the height under way.
    pub(crate) log: Vec<Vec<u8>>,
    /// Durable: what was decided.
    pub(crate) chain: Vec<Block>,
    pub(crate) sync: Sync,
    /// The ledger's name and committee, until a recovery names others.
    pub(crate) chain_id: Hash,
    pub(crate) committee: Arc<Committee>,
    /// Hosts of other sides do not hear each other.
    pub(crate) side: u8,
    /// Outputs carried out so far, and the number after which the machine dies.
    pub(crate) outputs_done: u64,
    pub(crate) dies_after: Option<u64>,
    pub(crate) evidence: Vec<Evidence>,
}

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    pub(crate) certificate: Certificate,
    pub(crate) decided_at: Time,
}

enum Event {
    Wake,
    Proposal(Box<Proposal>),
    Votes(Votes),
    Input(Input),
    /// Somebody asks for a proposal.
    Want {
        from: usize,
        ask: ProposalAsk,
    },
    /// Somebody tells how far it is.
    Status {
        from: usize,
        height: u64,
    },
    /// Somebody asks for blocks.
    Ask {
        from: usize,
        ask: BlocksAsk,
    },
    Blocks {
        from: usize,
        blocks: Box<Blocks>,
    },
    Restart,
}

pub(crate) struct Swarm {
    pub(crate) setup: Setup,
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    seed: Seed,
    draws: u64,
    queue: BTreeMap<(Time, u64), (usize, Event)>,
    queued: u64,
    /// The block of each height that someone honest decided on.
    pub(crate) decided: BTreeMap<u64, Hash>,
    /// What honest hosts signed.
    said: BTreeMap<(PeerId, Hash, u64, u32, Step), Statement>,
    pub(crate) messages: u64,
    /// The values that liars propose to the other half.
    twins: BTreeMap<Hash, Hash>,
    /// When the block of each height was first proposed.
    pub(crate) proposed_at: BTreeMap<u64, Time>,
    /// Whether each record is tried: the log must make the same engine again.
    pub(crate) check_replay: bool,
    /// Whether nothing is durable but decided blocks, which is not allowed.
    pub(crate) disks_forget: bool,
}

pub(crate) fn chain_id() -> Hash {
    Hash::of(b"a toy ledger")
}

/// Blocks: height, parent, a number, who built it.
fn block(height: u64, parent: &Hash, number: u64, builder: &PeerId) -> Vec<u8> {
    [&height.to_le_bytes()[..], parent.as_bytes(), &number.to_le_bytes(), builder.as_bytes()].concat()
}

/// 80 bytes, or the same without a builder.
pub(crate) fn identify(bytes: &[u8], builder: Option<&PeerId>) -> Option<Hash> {
    let built = |builder: &PeerId| bytes.len() == 48 || bytes[48..] == builder.0;
    let fits = matches!(bytes.len(), 48 | 80) && builder.is_none_or(built);
    fits.then(|| Hash::of(bytes))
}

impl Swarm {
    pub(crate) fn new(setup: Setup) -> Self {
        let count = setup.weights.len() + setup.onlookers;
        let seed = Seed::from_number(setup.seed);
        let identities: Vec<_> =
            (0..count as u64).map(|n| Identity::from_secret(seed.child("identity", n).0.0)).collect();
        let weights = identities.iter().map(Identity::peer_id).zip(setup.weights.iter().copied()).collect();
        let committee = Arc::new(Committee::new(weights).unwrap());
        let host = |identity| Host {
            identity,
            manner: Manner::Honest,
            engine: None,
            log: Vec::new(),
            chain: Vec::new(),
            sync: Sync::default(),
            chain_id: chain_id(),
            committee: committee.clone(),
            side: 0,
            outputs_done: 0,
            dies_after: None,
            evidence: Vec::new(),
        };
        let mut swarm = Self {
            now: Time(GENESIS_MS * 1_000_000),
            hosts: identities.into_iter().map(host).collect(),
            seed,
            draws: 0,
            queue: BTreeMap::new(),
            queued: 0,
            decided: BTreeMap::new(),
            said: BTreeMap::new(),
            messages: 0,
            twins: BTreeMap::new(),
            proposed_at: BTreeMap::new(),
            check_replay: false,
            disks_forget: false,
            setup,
        };
        for place in 0..count {
            swarm.start(place);
            let first = swarm.now + Duration::from_ms(swarm.below(STATUS_MS));
            swarm.at(first, place, Event::Wake);
        }
        swarm
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draws += 1;
        self.seed.below("swarm", self.draws, bound.max(1))
    }

    fn at(&mut self, time: Time, host: usize, event: Event) {
        self.queued += 1;
        self.queue.insert((time, self.queued), (host, event));
    }

    pub(crate) fn config(&self, place: usize) -> Config {
        let timeouts = Timeouts { propose_ms: 500, vote_ms: 250, growth_ms: 250, max_ms: 10_000, repeat_ms: 600 };
        Config { identity: self.hosts[place].identity.clone(), epoch_ms: self.setup.epoch_ms, timeouts, identify }
    }

    /// What the host's next height begins with.
    pub(crate) fn start_of(&self, place: usize) -> Start {
        let Host { chain, chain_id, committee, .. } = &self.hosts[place];
        let height = chain.len() as u64 + 1;
        let parent = chain.last().map_or(crate::swarm::chain_id(), |block| Hash::of(&block.bytes));
        // The toy ledger's clock: blocks are an epoch apart from the moment they are decided.
        let parent_time_ms =
            chain.last().map_or(GENESIS_MS - self.setup.epoch_ms, |block| block.decided_at.as_unix_ms());
        Start {
            chain: *chain_id,
            height,
            committee: committee.clone(),
            beacon: Beacon(Hash::of(&[parent.as_bytes(), &b"beacon"[..]].concat())),
            parent_time_ms,
        }
    }

    /// Switches the machine on, with what is durable.
    pub(crate) fn start(&mut self, place: usize) {
        let start = self.start_of(place);
        let engine = Engine::new(self.config(place), start, &self.hosts[place].log, self.now).unwrap();
        self.hosts[place].engine = Some(engine);
        self.drain(place);
    }

    pub(crate) fn crash(&mut self, place: usize) {
        self.hosts[place].engine = None;
    }

    pub(crate) fn restart_at(&mut self, time: Time, place: usize) {
        self.at(time, place, Event::Restart);
    }

    /// Runs until all hosts that are up have decided this height.
    pub(crate) fn run_to_height(&mut self, height: u64, limit: Duration) -> bool {
        let until = self.now + limit;
        while !self.all_reached(height) {
            if !self.step(until) {
                return false;
            }
        }
        true
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
        self.now = until;
    }

    pub(crate) fn all_reached(&self, height: u64) -> bool {
        let up = self.hosts.iter().filter(|host| host.engine.is_some() && host.manner == Manner::Honest);
        up.map(|host| host.chain.len() as u64).all(|reached| reached >= height)
    }

    /// The next event before `until`.
    fn step(&mut self, until: Time) -> bool {
        let queued = self.queue.first_key_value().map(|((time, _), _)| *time);
        let timers = self.hosts.iter().map(|host| host.engine.as_ref()?.timeout());
        let due = timers.enumerate().filter_map(|(place, at)| Some((at?, place))).min();
        let next = [queued, due.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else { return false };
        // A host that was off may have a timer in the past.
        self.now = self.now.max(next);
        match due.filter(|(at, _)| queued.is_none_or(|queued| *at <= queued)) {
            Some((_, place)) => {
                let now = self.now;
                let engine = self.hosts[place].engine.as_mut().unwrap();
                engine.tick(now);
                assert!(engine.timeout().is_none_or(|at| at > now), "a timer in the past: the driver would spin");
                self.drain(place);
            }
            None => {
                let (_, (place, event)) = self.queue.pop_first().unwrap();
                self.perform(place, event);
            }
        }
        true
    }

    fn perform(&mut self, place: usize, event: Event) {
        if self.hosts[place].engine.is_none() {
            match event {
                Event::Restart => self.start(place),
                Event::Wake => self.at(self.now + Duration::from_ms(STATUS_MS), place, Event::Wake),
                _ => {}
            }
            return;
        }
        match event {
            Event::Proposal(proposal) => self.input(place, Input::Proposal(proposal)),
            Event::Votes(votes) => self.input(place, Input::Votes(votes)),
            Event::Input(input) => self.input(place, input),
            Event::Want { from, ask } => {
                let proposal = self.hosts[place].engine.as_ref().unwrap().proposal(&ask).cloned();
                if let Some(proposal) = proposal {
                    self.send(place, from, || Event::Proposal(Box::new(proposal.clone())));
                }
            }
            Event::Wake => {
                let height = self.hosts[place].chain.len() as u64;
                for to in 0..self.hosts.len() {
                    self.send(place, to, || Event::Status { from: place, height });
                }
                self.at(self.now + Duration::from_ms(STATUS_MS), place, Event::Wake);
            }
            Event::Status { from, height } => {
                let peer = self.hosts[from].identity.peer_id();
                self.hosts[place].sync.hear(peer, height);
                self.ask_for_blocks(place);
            }
            Event::Ask { from, ask } => {
                let chain = self.hosts[place].chain.iter().skip(ask.from as usize - 1).take(ask.count as usize);
                let decision =
                    |block: &Block| Decision { bytes: block.bytes.clone(), certificate: block.certificate.clone() };
                let blocks = Blocks { from: ask.from, blocks: chain.map(decision).collect() };
                self.send(place, from, || Event::Blocks { from: place, blocks: Box::new(blocks.clone()) });
            }
            Event::Blocks { from, blocks } => self.follow(place, from, *blocks),
            Event::Restart => {}
        }
    }

    pub(crate) fn input(&mut self, place: usize, input: Input) {
        let now = self.now;
        let Some(engine) = self.hosts[place].engine.as_mut() else { return };
        let worth = engine.handle(input, now);
        assert!(worth.is_ok(), "an honest message was refused: {worth:?}");
        self.drain(place);
    }

    fn ask_for_blocks(&mut self, place: usize) {
        let (now, host) = (self.now, &mut self.hosts[place]);
        let Some((peer, ask)) = host.sync.ask(host.chain_id, host.chain.len() as u64, now) else { return };
        let to = self.place_of(&peer);
        self.send(place, to, || Event::Ask { from: place, ask });
    }

    /// Blocks that others decided while this host was away.
    fn follow(&mut self, place: usize, from: usize, blocks: Blocks) {
        let peer = self.hosts[from].identity.peer_id();
        if !self.hosts[place].sync.answered(&peer, &blocks, self.now) {
            return;
        }
        for (height, decision) in (blocks.from..).zip(blocks.blocks) {
            let host = &self.hosts[place];
            // The machine may die of what it does on the way.
            if host.engine.is_some() && height == host.chain.len() as u64 + 1 {
                decision.verify(&host.chain_id, height, &host.committee, identify).unwrap();
                let Decision { bytes, certificate } = decision;
                self.append(place, Block { bytes, certificate, decided_at: self.now });
                self.drain(place);
            }
        }
        self.ask_for_blocks(place);
    }

    /// Where everyone is, for a failure's message.
    pub(crate) fn describe(&self) -> String {
        let host = |host: &Host| match &host.engine {
            Some(engine) => format!("\n{:?} {:?}: {:?}", host.identity, host.manner, engine.progress()),
            None => format!("\n{:?} is off", host.identity),
        };
        self.hosts.iter().map(host).collect()
    }

    pub(crate) fn place_of(&self, peer: &PeerId) -> usize {
        self.hosts.iter().position(|host| host.identity.peer_id() == *peer).unwrap()
    }

    fn append(&mut self, place: usize, block: Block) {
        let height = self.hosts[place].chain.len() as u64 + 1;
        let value = Hash::of(&block.bytes);
        assert_eq!(block.certificate.height, height);
        let first = *self.decided.entry(height).or_insert(value);
        assert_eq!(first, value, "FORK at height {height}, seed {}", self.setup.seed);
        self.hosts[place].chain.push(block);
        self.hosts[place].log.clear();
        let start = self.start_of(place);
        let now = self.now;
        self.hosts[place].engine.as_mut().unwrap().advance(start, now);
    }

    /// Carries out what the engine wants, until it wants no more or the machine dies.
    pub(crate) fn drain(&mut self, place: usize) {
        let mut recorded = false;
        while let Some(output) = self.hosts[place].engine.as_mut().and_then(Engine::poll) {
            recorded = match output {
                Output::Journal(_) => true,
                Output::Decided { .. } => false,
                _ => recorded,
            };
            self.carry_out(place, output);
            self.hosts[place].outputs_done += 1;
            if self.hosts[place].dies_after == Some(self.hosts[place].outputs_done) {
                self.hosts[place].dies_after = None;
                self.crash(place);
                let later = self.now + Duration::from_ms(1 + self.below(2_000));
                self.restart_at(later, place);
            }
        }
        if recorded && self.check_replay {
            self.assert_replays(place);
        }
    }

    /// The log makes the engine again as it is.
    fn assert_replays(&self, place: usize) {
        let host = &self.hosts[place];
        let Some(engine) = &host.engine else { return };
        let again = Engine::new(self.config(place), self.start_of(place), &host.log, self.now).unwrap();
        let state = |engine: &Engine| {
            let progress = engine.progress();
            (progress.height, progress.round, progress.step, progress.locked)
        };
        assert_eq!(state(&again), state(engine), "seed {}", self.setup.seed);
    }

    fn carry_out(&mut self, place: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Journal(_) if self.disks_forget => {}
            Output::Journal(record) => self.hosts[place].log.push(record),
            Output::GossipProposal(proposal) => self.gossip_proposal(place, *proposal),
            Output::GossipVotes(votes) => self.gossip_votes(place, &votes),
            Output::BuildValue { height, round } => {
                let parent = self.hosts[place].chain.last().map_or(chain_id(), |block| Hash::of(&block.bytes));
                let builder = self.hosts[place].identity.peer_id();
                let bytes = block(height, &parent, self.below(u64::MAX), &builder);
                self.at(now, place, Event::Input(Input::ValueBuilt { height, round, bytes }));
            }
            Output::CheckValue { height, value, bytes } => {
                let parent = self.hosts[place].chain.last().map_or(chain_id(), |block| Hash::of(&block.bytes));
                let valid = bytes[..40] == block(height, &parent, 0, &PeerId([0; 32]))[..40];
                self.at(now, place, Event::Input(Input::ValueChecked { value, valid }));
            }
            Output::WantProposal { ask, holders } => {
                let holder = holders[self.below(holders.len() as u64) as usize];
                let to = self.hosts.iter().position(|host| host.identity.peer_id() == holder).unwrap();
                self.send(place, to, || Event::Want { from: place, ask });
            }
            Output::Decided { certificate, bytes } => {
                certificate.verify(&self.hosts[place].chain_id, &self.hosts[place].committee).unwrap();
                assert_eq!(certificate.value, Hash::of(&bytes));
                self.append(place, Block { bytes, certificate, decided_at: now });
            }
            Output::Evidence(evidence) => {
                evidence.verify(&self.hosts[place].chain_id).unwrap();
                self.hosts[place].evidence.push(*evidence);
            }
        }
    }

    fn gossip_proposal(&mut self, place: usize, proposal: Proposal) {
        self.proposed_at.entry(proposal.height).or_insert(self.now);
        self.write_down(place, &proposal.author, proposal.statement(&self.hosts[place].chain_id));
        let lies = self.hosts[place].manner != Manner::Honest;
        let other = if lies { self.other_proposal(place, &proposal) } else { proposal.clone() };
        self.tell(place, [&proposal, &other], |proposal| Event::Proposal(Box::new(proposal.clone())));
    }

    fn gossip_votes(&mut self, place: usize, votes: &Votes) {
        votes
            .votes
            .iter()
            .for_each(|vote| self.write_down(place, &vote.author, vote.statement(&self.hosts[place].chain_id)));
        let other = self.other_votes(place, votes);
        self.tell(place, [votes, &other], |votes| Event::Votes(votes.clone()));
    }

    /// Tells everyone what this host says or, if it is two-faced, the one or the other.
    fn tell<T>(&mut self, place: usize, said: [&T; 2], event: impl Fn(&T) -> Event) {
        let manner = self.hosts[place].manner;
        for to in 0..self.hosts.len() {
            // Its own side hears what it means.
            let face = usize::from(manner != Manner::Honest && to % 2 != place % 2);
            self.send(place, to, || event(said[face]));
            if manner == Manner::TwoFaced {
                self.send_after(self.setup.delay_ms.1, place, to, || event(said[1 - face]));
            }
        }
    }

    /// Another proposal of the same round.
    fn other_proposal(&mut self, place: usize, proposal: &Proposal) -> Proposal {
        let mut other = proposal.clone();
        other.bytes[47] ^= 1;
        // As a new value, it has to be of its own making.
        other.bytes[48..].copy_from_slice(other.author.as_bytes());
        other.value = Hash::of(&other.bytes);
        other.polka = 0;
        other.signature = other.statement(&self.hosts[place].chain_id).sign(&self.hosts[place].identity);
        self.twins.insert(proposal.value, other.value);
        self.twins.insert(other.value, proposal.value);
        other
    }

    /// Votes for whatever this host did not vote for.
    fn other_votes(&self, place: usize, votes: &Votes) -> Votes {
        let me = self.hosts[place].identity.peer_id();
        let flip = |vote: &Vote| {
            let mut vote = *vote;
            if vote.author == me {
                vote.value = self.twins.get(&vote.value).copied().unwrap_or(NIL);
                vote.signature = vote.statement(&self.hosts[place].chain_id).sign(&self.hosts[place].identity);
            }
            vote
        };
        Votes { votes: votes.votes.iter().map(flip).collect() }
    }

    /// An honest host never says two things for one step, crash or not.
    fn write_down(&mut self, place: usize, author: &PeerId, statement: Statement) {
        let host = &self.hosts[place];
        if host.manner == Manner::Honest && *author == host.identity.peer_id() {
            let key = (*author, statement.chain, statement.height, statement.round, statement.step);
            let first = *self.said.entry(key).or_insert(statement);
            assert_eq!(first, statement, "{author:?} said two things, seed {}", self.setup.seed);
        }
    }

    /// Sends over a link that may lose, delay and double.
    fn send(&mut self, from: usize, to: usize, event: impl Fn() -> Event) {
        self.send_after(0, from, to, event);
    }

    fn send_after(&mut self, after_ms: u64, from: usize, to: usize, event: impl Fn() -> Event) {
        if from == to || self.hosts[from].side != self.hosts[to].side {
            return;
        }
        let copies = 1 + u64::from(self.below(1000) < self.setup.duplicate_permille);
        for _ in 0..copies {
            if self.below(1000) >= self.setup.loss_permille {
                let (least, most) = self.setup.delay_ms;
                let delay = Duration::from_ms(after_ms + least + self.below(most - least + 1));
                self.messages += 1;
                self.at(self.now + delay, to, event());
            }
        }
    }

    /// Whoever is proven to have lied, by anyone.
    pub(crate) fn accused(&self) -> BTreeSet<PeerId> {
        self.hosts.iter().flat_map(|host| &host.evidence).map(|evidence| evidence.author).collect()
    }
}

/// How often hosts tell how far they are.
const STATUS_MS: u64 = 700;
