//! One node, its driver's memory, and the rules that hold after every input.

use crate::decoders::{peek, seal};
use crate::samples::{NOW, credential, identity, network, peer, spec};
use manta_protocol::input::{Command, Done};
use manta_protocol::market::reservation::Reserve;
use manta_protocol::membership::{Charter, Role};
use manta_protocol::run::ledger::{Ledger, count};
use manta_protocol::run::report::LossSum;
use manta_protocol::run::view::{Ballot, View, ViewAsk, ViewPropose};
use manta_protocol::wire::message::Kind;
use manta_protocol::wire::{Envelope, Message, codec};
use manta_protocol::{Config, Duration, Effect, EffectId, Event, Hash, Input, Node, PeerId, RunId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most effects that one input may have: with 7 chunks and 4 others, far beyond any need.
const EFFECTS_MAX: usize = 8_192;
/// What the driver's memory holds of each kind.
const KEPT_MAX: usize = 256;
/// Letters of the node's debug form: a measure of what it remembers.
const MEMORY_MAX: usize = 4 << 20;

/// What a member asked another for and may be answered.
pub(crate) enum Asked {
    View(ViewAsk),
    Proposal(Box<ViewPropose>),
    Machine { spec: Hash, request: u64 },
}

/// What the driver knows of the run.
pub(crate) struct Run {
    pub(crate) run: RunId,
    pub(crate) view: Arc<View>,
    pub(crate) exchange: u64,
    pub(crate) ledger: Ledger,
    pub(crate) journal: Option<Vec<u8>>,
}

/// The node of identity 1; identities 2 to 5 are the fuzzer's.
pub(crate) struct Player {
    pub(crate) node: Node,
    charter: Charter,
    pub(crate) now: Time,
    pub(crate) run: Option<Run>,
    /// What the trainer has been asked for, as it would answer.
    pub(crate) work: VecDeque<Done>,
    pub(crate) frames: VecDeque<EffectId>,
    pub(crate) asked: VecDeque<(PeerId, Asked)>,
    /// The highest attempt that was heard of.
    pub(crate) ballot: Option<Ballot>,
    /// The record that outlives the run's end here.
    pub(crate) last_record: Option<Vec<u8>>,
    /// Chunks without a verdict, with the run and the view that they name.
    open: BTreeMap<u64, (RunId, u32)>,
    transfers: u64,
    seq: u64,
    sent: u64,
    /// What the node has refused.
    refusals: u64,
}

fn config() -> Config {
    Config { network: network(), identity: identity(1) }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T) {
    queue.push_back(item);
    if queue.len() > KEPT_MAX {
        queue.pop_front();
    }
}

impl Player {
    /// A node of an open swarm, or of one that identity 2 has founded and invited it to.
    pub(crate) fn new(founded: bool) -> Self {
        let charter = match founded {
            true => Charter {
                founder: Some(peer(2)),
                credentials: vec![credential(2, Role::Guest, 1, 1)],
                ..Charter::default()
            },
            false => Charter::default(),
        };
        Self {
            node: Node::with_charter(config(), charter.clone(), NOW),
            charter,
            now: NOW,
            run: None,
            work: VecDeque::new(),
            frames: VecDeque::new(),
            asked: VecDeque::new(),
            ballot: None,
            last_record: None,
            open: BTreeMap::new(),
            transfers: 0,
            seq: NOW.as_unix_ms() - 1_000,
            sent: 0,
            refusals: 0,
        }
    }

    /// A body of this kind from an identity of the fuzzer's, or from our own.
    pub(crate) fn frame(&mut self, from: u8, kind: Kind, body: &[u8]) {
        self.seq = (self.seq + 1).min((self.now + Duration::from_s(59)).as_unix_ms());
        let bytes = seal(from, kind as u8, body, self.seq, self.now);
        self.input(Input::Frame { from: peer(from), bytes });
    }

    pub(crate) fn gossip(&mut self, from: u8, message: &Message) {
        let (seq, expires_at) = (self.now.as_unix_ms(), self.now + Duration::from_s(120));
        let bytes = identity(from).seal(network(), seq, expires_at, message);
        self.input(Input::Gossip { message: 1, bytes });
    }

    pub(crate) fn chunk(&mut self, arrived: impl FnOnce(u64) -> Input) {
        self.transfers += 1;
        let transfer = self.transfers;
        let input = arrived(transfer);
        let Input::ChunkArrived { run, view, .. } = &input else { panic!("{input:?} is no chunk") };
        self.open.insert(transfer, (*run, *view));
        self.input(input);
    }

    /// A machine that stops and starts again, with what its disk holds.
    pub(crate) fn restart(&mut self, record: Option<Vec<u8>>) {
        self.node = Node::with_charter(config(), self.charter.clone(), self.now);
        self.run = None;
        self.work.clear();
        self.frames.clear();
        self.asked.clear();
        self.open.clear();
        if let Some(record) = record {
            self.input(Input::Command(Command::Resume { record }));
        }
    }

    /// Hands over one input, carries out what follows, and checks what must always hold.
    pub(crate) fn input(&mut self, input: Input) {
        self.node.handle(input, self.now);
        let mut effects = 0;
        while let Some(effect) = self.node.poll_effect() {
            effects += 1;
            assert!(effects <= EFFECTS_MAX, "effects of one input have no end; the latest is {effect:?}");
            self.perform(effect);
        }
        assert!(self.node.poll_timeout() > self.now, "a timer is due in the past: the driver would spin");
        for (transfer, (run, view)) in &self.open {
            let waits = self.run.as_ref().is_some_and(|of| of.run == *run && *view > of.view.number);
            assert!(waits, "chunk {transfer} of view {view} has come in its time and has no verdict");
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Publish { bytes } => self.said(&bytes),
            Effect::SendFrame { id, to, bytes } => {
                assert_ne!(to, peer(1), "a frame to ourselves");
                keep(&mut self.frames, id);
                self.said(&bytes);
                self.remember(to, &bytes);
            }
            Effect::ChunkVerdict { transfer, .. } => {
                assert!(self.open.remove(&transfer).is_some(), "a second verdict on chunk {transfer}");
            }
            Effect::Prepare(start) => {
                assert!(self.run.is_none(), "a run begins while another goes on");
                let view = Arc::new(View::first(&start.spec, &start.members));
                let ledger = view.ledger.clone();
                self.run = Some(Run { run: start.run, view, exchange: 0, ledger, journal: self.last_record.clone() });
                keep(&mut self.work, Done::Prepared { parameter_hash: Hash::of(b"initial") });
            }
            Effect::Compute { exchange, plan, batches, .. } => {
                self.of_run(|run| run.exchange = exchange);
                assert!(count(&batches) <= 1 << 24, "more batches than a share");
                let loss = LossSum { fixed: 1 << 20, tokens: 16 };
                keep(&mut self.work, Done::Computed { exchange, plan, loss, compute_ms: 5 });
            }
            Effect::Reduce { exchange, view, chunk, contributors, .. } => {
                assert!(contributors.is_sorted_by(|a, b| a < b), "contributors ascend: {contributors:?}");
                keep(&mut self.work, Done::Reduced { exchange, view, chunk });
            }
            Effect::SendChunk { to, view, .. } => {
                assert_ne!(to, peer(1), "a chunk to ourselves");
                self.of_run(|run| assert_eq!(view, run.view.number, "a chunk names the view that we are in"));
            }
            Effect::Apply { exchange, .. } => keep(&mut self.work, Done::Applied { exchange }),
            Effect::HashParameters { exchange, .. } => {
                let parameter_hash = Hash::of(&exchange.to_le_bytes());
                keep(&mut self.work, Done::Hashed { exchange, parameter_hash });
            }
            Effect::Snapshot { exchange, .. } => {
                keep(&mut self.work, Done::Snapshot { exchange, root: Hash::of(b"state") })
            }
            Effect::FetchState { exchange, donors, .. } => {
                assert!(!donors.is_empty(), "a state is fetched from somebody");
                keep(&mut self.work, Done::StateLoaded { exchange });
            }
            Effect::Checkpoint { exchange, .. } => keep(&mut self.work, Done::Checkpointed { exchange }),
            Effect::Save { .. } => keep(&mut self.work, Done::Saved { root: Hash::of(b"model"), kept: true }),
            Effect::Journal { record, .. } => {
                self.last_record = record.clone().or(self.last_record.take());
                if let Some(run) = &mut self.run {
                    run.journal = record;
                }
            }
            Effect::FetchResult { root, .. } => keep(&mut self.work, Done::Saved { root, kept: true }),
            Effect::Close { .. } => self.closed(),
            Effect::Notify(Event::Refused { .. }) => self.refusals += 1,
            Effect::Notify(Event::ViewChanged { view, .. }) => self.of_run(|run| run.view = view),
            Effect::Notify(Event::ExchangeDone { exchange, ledger, .. }) => {
                assert_eq!(ledger.validate(), Ok(()), "the ledger is one that others take");
                self.of_run(|run| (run.exchange, run.ledger) = (exchange.saturating_add(1), ledger));
            }
            _ => {}
        }
    }

    fn of_run(&mut self, act: impl FnOnce(&mut Run)) {
        act(self.run.as_mut().expect("work is asked for while a run goes on"));
    }

    /// The transport drops the chunks of a run that is over.
    fn closed(&mut self) {
        let run = self.run.take().expect("a run ends that has begun");
        self.open.retain(|_, (of, _)| *of != run.run);
        self.work.clear();
    }

    /// What a node says, others can open. Signatures are slow to check: one in 16 is.
    fn said(&mut self, bytes: &[u8]) {
        self.sent += 1;
        if self.sent % 16 == 1 {
            Envelope::open(bytes, network()).expect("a node sends what others accept");
        }
    }

    fn remember(&mut self, to: PeerId, bytes: &[u8]) {
        let (kind, unsigned) = peek(bytes);
        let body = &unsigned.body;
        let asked = match kind {
            Some(Kind::ViewAsk) => codec::decode(body, body.len()).ok().map(Asked::View),
            Some(Kind::ViewPropose) => {
                codec::decode(body, body.len()).ok().map(|asked| Asked::Proposal(Box::new(asked)))
            }
            Some(Kind::Reserve) => codec::decode(body, body.len())
                .ok()
                .map(|Reserve { spec, .. }| Asked::Machine { spec, request: unsigned.seq }),
            _ => None,
        };
        match &asked {
            Some(Asked::View(ask)) => self.ballot = self.ballot.max(Some(ask.ballot)),
            Some(Asked::Proposal(proposal)) => self.ballot = self.ballot.max(Some(proposal.ballot)),
            _ => {}
        }
        if let Some(asked) = asked {
            keep(&mut self.asked, (to, asked));
        }
    }

    /// The rules that cost too much to be checked after every input.
    pub(crate) fn end(mut self) {
        let letters = format!("{:?}", self.node).len();
        assert!(letters <= MEMORY_MAX, "the node remembers too much: {letters} letters");
        let Some(record) = self.run.take().and_then(|run| run.journal) else { return };
        let before = self.refusals;
        self.restart(Some(record));
        // Of a run that is over nothing goes on.
        assert_eq!(self.refusals, before, "what was journalled can be resumed");
    }

    /// Length of a chunk as the present members cut the vector.
    pub(crate) fn elements(&self, chunk: u32) -> u64 {
        let ranks = self.run.as_ref().map_or(1, |run| run.view.full().count());
        let range = spec().chunk_plan(ranks).and_then(|plan| plan.elements(chunk));
        range.map_or(0, |range| range.end - range.start)
    }
}
