//! The engine: one member's (or onlooker's) part in deciding height after height.
//!
//! Inputs are what others said, what the ledger built or judged, and time;
//! outputs are data ([`Output`]), to be carried out in their order. A
//! [`Output::Journal`] must be durable before any output after it is carried
//! out: then the machine may be killed at any point, and the engine made anew
//! from the records never signs something else for the same step.
//!
//! Values are opaque bytes with an id. The engine asks the ledger to build and
//! to judge them. Malachite's core counts votes and decides what to say; around
//! it lie here: what is accepted from strangers and how much of it
//! (`accept`), the core's loop with the log (`drive`, `replay`), and what is
//! said again when messages were lost (`repair`).

mod accept;
mod context;
mod drive;
mod repair;
mod replay;

use super::certificate::Certificate;
use super::committee::Committee;
use super::evidence::Evidence;
use super::vote::{Proposal, ProposalAsk, Step, Vote, Votes};
use super::wal::{Event, Record};
use crate::election::Beacon;
use crate::ids::{Hash, PeerId, Signature};
use crate::time::{Duration, Time};
use crate::wire::Identity;
use arc_malachitebft_core_driver::{Driver, ThresholdParams};
use context::{Context, Height, Validators};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How long the steps of a round are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a proposal, its building, travel and checking included.
    pub propose_ms: u64,
    /// For the rest of the prevotes or precommits once a quorum is here.
    pub vote_ms: u64,
    /// Added for each round of a height that came to nothing, and for as many
    /// as the heights before needed: delays nobody knew of are learnt.
    pub growth_ms: u64,
    /// The longest wait.
    pub max_ms: u64,
    /// Silence after which we say again what we said in this round.
    pub repeat_ms: u64,
}

impl Timeouts {
    /// Waits that fit a ledger with a block each `epoch_ms`: a quarter of it for
    /// a proposal, between 0.4 s (machines are busy) and three: a member that is
    /// away costs this each time that it is drawn.
    pub fn for_epoch(epoch_ms: u64) -> Self {
        let propose_ms = (epoch_ms / 4).clamp(400, 3_000);
        Self { propose_ms, vote_ms: propose_ms / 2, growth_ms: propose_ms / 2, max_ms: 60_000, repeat_ms: propose_ms }
    }
}

/// The id of a value's bytes; `None` if they are no value or if a peer is given
/// that did not build it. The id names every bit: other bytes have another id.
///
/// A new value has to be of its proposer's own making, or one who is drawn could
/// choose among the beacons of all the keys that it controls.
pub type Identify = fn(&[u8], Option<&PeerId>) -> Option<Hash>;

/// What stays the same from height to height.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who signs.
    pub identity: Identity,
    /// Shortest time from a block's time to the start of the next height.
    pub epoch_ms: u64,
    /// How long steps are waited for.
    pub timeouts: Timeouts,
    /// What names values.
    pub identify: Identify,
}

/// What a height begins with, all of it known from the chain before it.
#[derive(Clone, Debug)]
pub struct Start {
    /// The ledger's hash or, after a recovery, that of the latest recovery.
    pub chain: Hash,
    /// The height to decide.
    pub height: u64,
    /// Who decides.
    pub committee: Arc<Committee>,
    /// The beacon after the block before: it draws the proposers.
    pub beacon: Beacon,
    /// The time in the block before (in genesis: any past time).
    pub parent_time_ms: u64,
}

/// What the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A proposal from anyone, decoded and within its limits.
    Proposal(Box<Proposal>),
    /// Votes from anyone, decoded and within their limits.
    Votes(Votes),
    /// The value that [`Output::BuildValue`] asked for.
    ValueBuilt {
        /// The height it was built for.
        height: u64,
        /// The round it was built for.
        round: u32,
        /// The value.
        bytes: Vec<u8>,
    },
    /// The verdict that [`Output::CheckValue`] asked for.
    ValueChecked {
        /// The value's id.
        value: Hash,
        /// Whether the ledger would execute it on this height.
        valid: bool,
    },
}

/// What the driver of the engine has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Appends this record to the log of this height and makes it durable; only
    /// then goes on with the outputs after it.
    Journal(Vec<u8>),
    /// Tells everyone.
    GossipProposal(Box<Proposal>),
    /// Tells everyone.
    GossipVotes(Votes),
    /// Asks the ledger for a value to propose; answered by [`Input::ValueBuilt`].
    BuildValue {
        /// The height.
        height: u64,
        /// The round.
        round: u32,
    },
    /// Asks the ledger to judge a value; answered by [`Input::ValueChecked`].
    CheckValue {
        /// The height.
        height: u64,
        /// The value's id, which fits the bytes.
        value: Hash,
        /// The value.
        bytes: Vec<u8>,
    },
    /// Asks one of these peers for a proposal that we missed; whoever has it
    /// ([`Engine::proposal`]) answers with it, as [`Input::Proposal`].
    WantProposal {
        /// The question.
        ask: ProposalAsk,
        /// Who voted for it and so has it.
        holders: Vec<PeerId>,
    },
    /// The height is decided. The driver makes value and certificate durable,
    /// executes the value, drops the log, and calls [`Engine::advance`].
    Decided {
        /// What proves it.
        certificate: Certificate,
        /// The value.
        bytes: Vec<u8>,
    },
    /// Someone broke the rules, provably.
    Evidence(Box<Evidence>),
}

/// What a message was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It told us something new: worth passing on.
    New,
    /// It told us nothing new.
    Known,
    /// It is of another height or round than we can judge; signatures unseen.
    Elsewhere,
}

/// Why a message was refused: its sender should not have passed it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The author has no vote at this height.
    #[error("{0:?} is no member of the committee of this height")]
    NotMember(PeerId),
    /// The signature does not fit.
    #[error("the signature of {0:?} does not fit")]
    BadSignature(PeerId),
    /// The author is not the one who was drawn for the round.
    #[error("{found:?} proposed, {expected:?} was drawn")]
    NotProposer {
        /// Who proposed.
        found: PeerId,
        /// Who was drawn.
        expected: PeerId,
    },
    /// The bytes are not the value that was signed, or a new value that its
    /// proposer did not build.
    #[error("the bytes are not the value {0:?}, or it is new and its proposer did not build it")]
    WrongBytes(Hash),
}

/// A record of the log cannot be read. To go on without it could be to sign twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {0} of the log of votes cannot be read: start the version that wrote it, or stand by for this height")]
pub struct LogError(pub usize);

/// Where a height stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The height.
    pub height: u64,
    /// The round; `None` while the epoch of the block before is not over.
    pub round: Option<u32>,
    /// The step of the round.
    pub step: Step,
    /// Since when the height has been waiting for a decision.
    pub since: Time,
    /// The round and value that this member is bound to.
    pub locked: Option<(u32, Hash)>,
    /// Whether this member signs nothing at this height, because it said something
    /// that its log does not explain: a lost log, or the identity runs elsewhere.
    pub stands_by: bool,
    /// Weight heard from in this height, our own included.
    pub heard_weight: u64,
    /// Weight that a decision needs.
    pub quorum_weight: u64,
    /// Members not heard from in this height, and their weight.
    pub missing: Vec<(PeerId, u64)>,
}

/// One peer's part in consensus.
pub struct Engine {
    config: Config,
    me: PeerId,
    now: Time,
    /// Below this height we sign nothing: the log is of later ones, or does not
    /// explain what we said.
    mute_below: u64,
    /// Rounds that the latest heights needed: their delays will be ours.
    patience: u32,
    outputs: VecDeque<Output>,
    later: accept::Later,
    height: OneHeight,
}

/// All that is of one height only.
struct OneHeight {
    start: Start,
    member: bool,
    driver: Driver<Context>,
    context: Context,
    since: Time,
    begun: bool,
    decided: bool,
    /// Not yet in the log.
    events: Vec<Event>,
    /// What waits for these events to be in the log.
    unsaid: Vec<Output>,
    /// Everything we ever signed here, from the log and since.
    signed: BTreeMap<(u32, Step), Signed>,
    /// Proposals by round, their values with them.
    proposals: BTreeMap<u32, Vec<Proposal>>,
    /// Values that the ledger accepts.
    valid: BTreeSet<Hash>,
    /// Values that the ledger is judging, and the rounds that wait for it.
    checking: BTreeMap<Hash, Vec<u32>>,
    /// The value that we built last.
    built: Option<(Hash, Vec<u8>)>,
    /// The quorum behind the value that we would propose again.
    support: Option<repair::Support>,
    /// Votes of rounds to come, by author and round: bounded for each author.
    ahead: BTreeMap<PeerId, BTreeMap<u32, Vec<Vote>>>,
    /// The latest round heard from each member.
    heard: BTreeMap<PeerId, u32>,
    accused: BTreeSet<PeerId>,
    timers: BTreeMap<(u32, Step), Time>,
    repeat: repair::Repeat,
}

/// A signature of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signed {
    value: Hash,
    polka: u32,
    signature: Signature,
}

impl Engine {
    /// The engine at `start`, after replaying the records of the log (those of
    /// other heights and chains are passed over, save that nothing is signed
    /// below a height that the log has reached).
    ///
    /// # Errors
    /// [`LogError`]. Torn records at the end are cut off by the driver; they come
    /// without what was to follow them.
    pub fn new(config: Config, start: Start, log: &[Vec<u8>], now: Time) -> Result<Self, LogError> {
        let mut records = Vec::with_capacity(log.len());
        for (place, bytes) in log.iter().enumerate() {
            records.push(Record::decode(bytes).map_err(|_| LogError(place))?);
        }
        let reached = records.iter().filter(|record| record.chain == start.chain).map(|record| record.height).max();
        records.retain(|record| record.chain == start.chain && record.height == start.height);
        let me = config.identity.peer_id();
        let height = OneHeight::new(me, start, now);
        let mut engine = Self {
            config,
            me,
            now,
            mute_below: reached.unwrap_or(0),
            patience: 0,
            outputs: VecDeque::new(),
            later: accept::Later::default(),
            height,
        };
        engine.replay(records);
        engine.tick(now);
        Ok(engine)
    }

    /// Goes to another height: the next one after a decision, a later one after
    /// following certificates, or the same one on another chain after a recovery.
    /// The log of the heights before is of no use any more.
    pub fn advance(&mut self, start: Start, now: Time) {
        let needed = self.height.driver.round().as_u32().unwrap_or(0);
        self.patience = match needed {
            0 => self.patience.saturating_sub(1),
            rounds => self.patience.saturating_add(rounds).min(PATIENCE_MAX),
        };
        self.outputs.retain(|output| matches!(output, Output::Decided { .. } | Output::Evidence(_)));
        if start.chain != self.height.start.chain {
            // Nothing was ever signed there, and nothing that was signed here counts there.
            (self.mute_below, self.later) = (0, accept::Later::default());
        }
        self.height = OneHeight::new(self.me, start, now);
        self.now = now;
        self.take_later();
        self.tick(now);
    }

    /// Takes one input; the outputs follow by [`Self::poll`].
    ///
    /// # Errors
    /// [`Refusal`] of a message that no honest peer passes on.
    pub fn handle(&mut self, input: Input, now: Time) -> Result<Worth, Refusal> {
        self.now = now;
        let worth = match input {
            Input::Proposal(proposal) => self.accept_proposal(*proposal),
            Input::Votes(votes) => self.accept_votes(&votes),
            Input::ValueBuilt { height, round, bytes } => {
                self.take_built(height, round, bytes);
                Ok(Worth::New)
            }
            Input::ValueChecked { value, valid } => {
                self.take_verdict(value, valid);
                Ok(Worth::New)
            }
        };
        self.tick(now);
        worth
    }

    /// Lets time go by: begins the height, ends waits, says things again.
    pub fn tick(&mut self, now: Time) {
        self.now = now;
        if !self.height.begun && now >= self.begins_at() {
            self.begin();
        }
        while let Some(timer) = self.height.due(now) {
            self.elapse(timer);
        }
        self.absorb();
        self.repeat_if_due();
        self.flush();
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::tick`] has something to do.
    pub fn timeout(&self) -> Option<Time> {
        if self.height.decided {
            return None;
        }
        if !self.height.begun {
            return Some(self.begins_at());
        }
        let timers = self.height.timers.values().copied();
        timers.chain([self.height.repeat.due_at]).min()
    }

    /// The height that is being decided.
    pub fn start(&self) -> &Start {
        &self.height.start
    }

    /// Whether our own votes count at this height.
    pub fn is_member(&self) -> bool {
        self.height.member
    }

    /// A proposal of this height with its value, for a peer that missed it.
    pub fn proposal(&self, ask: &ProposalAsk) -> Option<&Proposal> {
        let Start { chain, height, .. } = &self.height.start;
        let proposals =
            self.height.proposals.get(&ask.round).filter(|_| (ask.chain, ask.height) == (*chain, *height))?;
        proposals.iter().find(|proposal| proposal.value == ask.value)
    }

    /// Where this height stands and who is missing.
    pub fn progress(&self) -> Progress {
        let height = &self.height;
        let committee = &height.start.committee;
        let present = |peer: &PeerId| height.heard.contains_key(peer) || (*peer == self.me && height.member);
        let missing: Vec<_> = committee.weights().iter().filter(|(peer, _)| !present(peer)).copied().collect();
        let absent: u64 = missing.iter().map(|(_, weight)| weight).sum();
        Progress {
            height: height.start.height,
            round: height.round(),
            step: height.step(),
            since: height.since,
            locked: height.locked(),
            stands_by: height.member && !self.may_sign(),
            heard_weight: committee.total() - absent,
            quorum_weight: committee.quorum(),
            missing,
        }
    }

    fn begins_at(&self) -> Time {
        let parent_at = Time::default() + Duration::from_ms(self.height.start.parent_time_ms);
        // A parent of the future, as far as clocks may differ, delays nobody.
        parent_at.min(self.height.since) + Duration::from_ms(self.config.epoch_ms)
    }
}

/// Rounds that are added to waits, at most.
const PATIENCE_MAX: u32 = 16;

impl OneHeight {
    fn new(me: PeerId, start: Start, now: Time) -> Self {
        let context = Context { beacon: start.beacon, committee: start.committee.clone() };
        let validators = Validators::new(&start.committee);
        let thresholds = ThresholdParams::default();
        let driver = Driver::new(context.clone(), Height(start.height), validators, me, thresholds);
        Self {
            member: start.committee.contains(&me),
            driver,
            context,
            since: now,
            begun: false,
            decided: false,
            events: Vec::new(),
            unsaid: Vec::new(),
            signed: BTreeMap::new(),
            proposals: BTreeMap::new(),
            valid: BTreeSet::new(),
            checking: BTreeMap::new(),
            built: None,
            support: None,
            ahead: BTreeMap::new(),
            heard: BTreeMap::new(),
            accused: BTreeSet::new(),
            timers: BTreeMap::new(),
            repeat: repair::Repeat::default(),
            start,
        }
    }

    fn due(&self, now: Time) -> Option<(u32, Step)> {
        if self.decided {
            return None;
        }
        let due = self.timers.iter().filter(|(_, at)| **at <= now).min_by_key(|(timer, at)| (**at, **timer));
        due.map(|(timer, _)| *timer)
    }
}
