//! Trust: how this peer finds its ledger, follows it, and does its part in it.
//!
//! [`founding`] says which ledger; [`finding`] gets it; [`chain`] keeps it; [`recoveries`] knows of
//! committees that people have replaced; [`drills`] and [`probes`] do the work that the ledger draws; [`leases`] tells
//! how machines served in runs. Everything that is said twice or lost is
//! said again after a while: the ledger counts each thing once.

mod chain;
mod drills;
mod finding;
mod founding;
pub(crate) mod leases;
mod probes;
mod recoveries;
pub mod words;

use crate::consensus::engine::{Input as Consensus, Worth};
use crate::consensus::{Blocks, BlocksAsk, Progress, Recovery, Sync};
use crate::effect::{Effect, Event, Verdict};
use crate::ids::{Hash, NetworkId, PeerId};
use crate::ledger::{Action, Admission, Genesis, Parameters, Register, State, Transaction};
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::limits::ENVELOPE_BYTES_MAX;
use crate::wire::{Identity, Message, codec};
use chain::{Chain, Want};
use drills::Driller;
use founding::{Move, Rumours};
use probes::Prober;
use recoveries::Recoveries;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use words::{GenesisReply, ProbeReply, ProposalReply};

/// Gossip of the ledger means nothing after so long.
const WORD_LIFETIME: Duration = Duration::from_s(60);
/// How long an answer to a question may take.
const ANSWER_MAX: Duration = Duration::from_s(5);
/// Shortest and longest time between two words on how far we are.
const STATUS_MIN: Duration = Duration::from_ms(500);
const STATUS_MAX: Duration = Duration::from_s(10);
/// Blocks after which own transactions that still wait are said again.
const SAY_AGAIN_BLOCKS: u64 = 3;
/// A member of the committee is missing if it says nothing at so many times at which
/// it should tell how far it is, and for so long at least.
const SILENT_TIMES: u64 = 3;
const SILENT_MIN: Duration = Duration::from_s(5);
/// A split is told of again after so long.
const SPLIT_AGAIN: Duration = Duration::from_s(600);

/// How to take part in a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerOptions {
    /// The rules of a ledger that this peer would found.
    pub parameters: Parameters,
    /// What such a ledger would be called.
    pub name: String,
    /// How long to listen for a ledger before founding one, in milliseconds.
    pub found_after_ms: u64,
    /// Operations on 8-bit integers that the device does in a second.
    pub operations_per_s: u64,
    /// Whether to drill, to check others, and to decide on blocks, or only to follow.
    pub takes_part: bool,
    /// What was kept of a ledger before a restart.
    pub kept: Option<Kept>,
}

/// A ledger as it was kept: what [`Effect::LedgerBegin`] and its like have made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The genesis document.
    pub genesis: Vec<u8>,
    /// The latest snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// All recoveries that were followed, in order.
    pub recoveries: Vec<Vec<u8>>,
    /// Sealed blocks after the snapshot, in order.
    pub blocks: Vec<Vec<u8>>,
    /// Records of the consensus log.
    pub log: Vec<Vec<u8>>,
}

/// A snapshot of the state as it is kept on the own disk.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    head: Hash,
    root: Hash,
    #[serde(with = "serde_bytes")]
    state: Vec<u8>,
}

/// Longest snapshot that is read back, in bytes.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// A genesis document that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    ledger: Hash,
    whom: PeerId,
    until: Time,
    /// Whether the question may have come there.
    is_reached: bool,
}

/// See the module.
pub(crate) struct Trust {
    identity: Identity,
    network: NetworkId,
    options: LedgerOptions,
    rumours: Rumours,
    chain: Option<Chain>,
    driller: Driller,
    prober: Prober,
    asked: Option<Asked>,
    /// Who has blocks that are missing here.
    sync: Sync,
    /// Other chains of this ledger.
    recoveries: Recoveries,
    /// When members of the committee were last heard of.
    spoke: BTreeMap<PeerId, Time>,
    now: Time,
    found_at: Time,
    status_due: Time,
    said_status_at: Option<Time>,
    told_of_split: Option<Time>,
    connected: BTreeSet<PeerId>,
    /// The height after which the driller and the prober have looked.
    looked_at: Option<u64>,
    /// The height that was told of last.
    told_height: u64,
}

impl Trust {
    /// Begins, with what was kept, if anything.
    pub(crate) fn new(
        identity: Identity,
        network: NetworkId,
        mut options: LedgerOptions,
        now: Time,
        out: &mut Outbox,
    ) -> Self {
        let kept = options.kept.take();
        let mut trust = Self {
            driller: Driller::new(&identity),
            prober: Prober::new(&identity),
            found_at: now + Duration::from_ms(options.found_after_ms),
            status_due: now,
            identity,
            network,
            options,
            rumours: Rumours::default(),
            chain: None,
            asked: None,
            sync: Sync::default(),
            recoveries: Recoveries::default(),
            spoke: BTreeMap::new(),
            now,
            said_status_at: None,
            told_of_split: None,
            connected: BTreeSet::new(),
            looked_at: None,
            told_height: 0,
        };
        if let Some(kept) = kept {
            match trust.restore(&kept, now) {
                Ok(chain) => trust.chain = Some(chain),
                Err(why) => out.notify(Event::LedgerUnreadable { why }),
            }
        }
        trust.settle(now, out);
        trust
    }

    fn restore(&self, kept: &Kept, now: Time) -> Result<Chain, String> {
        let genesis: Genesis = codec::decode(&kept.genesis, words::GENESIS_BYTES_MAX)
            .map_err(|error| format!("its genesis document: {error}"))?;
        if genesis.network != self.network {
            return Err("it is the ledger of another swarm".into());
        }
        let state = match &kept.snapshot {
            None => State::genesis(genesis).map_err(|error| error.to_string())?,
            Some(bytes) => {
                let snapshot: Snapshot =
                    codec::decode(bytes, SNAPSHOT_BYTES_MAX).map_err(|error| format!("its snapshot: {error}"))?;
                let state = State::decode(&snapshot.state, snapshot.head, snapshot.root);
                state.map_err(|error| error.to_string())?
            }
        };
        let recoveries = kept.recoveries.iter().map(|bytes| codec::decode(bytes, ENVELOPE_BYTES_MAX));
        let recoveries: Vec<Recovery> =
            recoveries.collect::<Result<_, _>>().map_err(|error| format!("its recoveries: {error}"))?;
        let state = chain::replay(state, &recoveries, &kept.blocks)?;
        Chain::new(self.identity.clone(), state, recoveries, &kept.log, now)
    }

    /// The ledger's state, once there is one.
    pub(crate) fn state(&self) -> Option<&State> {
        self.chain.as_ref().map(|chain| &**chain.state())
    }

    /// Where the next block stands. Who was heard in this height and has been silent
    /// since is missing, too.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let chain = self.chain.as_ref()?;
        let mut progress = chain.progress();
        let me = self.identity.peer_id();
        let patience = finding::status_interval(chain.state()).times(SILENT_TIMES).max(SILENT_MIN);
        let is_silent = |peer: &PeerId| self.spoke.get(peer).is_none_or(|at| self.now.since(*at) >= patience);
        for (peer, weight) in chain.state().next_committee().weights() {
            if *peer != me && is_silent(peer) && progress.missing.iter().all(|(missing, _)| missing != peer) {
                progress.missing.push((*peer, *weight));
                progress.heard_weight = progress.heard_weight.saturating_sub(*weight);
            }
        }
        progress.missing.sort_unstable();
        Some(progress)
    }

    /// Recoveries that others follow and this peer could.
    pub(crate) fn recovery_offers(&self) -> &[Recovery] {
        self.recoveries.offers()
    }

    /// What others keep that never meets what is kept here again.
    pub(crate) fn other_ledger(&self) -> Option<Hash> {
        let of_others = match self.rumours.decide(self.own(), self.now) {
            Move::Split(theirs, _) => Some(theirs),
            _ => None,
        };
        self.recoveries.apart(self.now).or(of_others)
    }

    /// Own transactions that wait for a block.
    pub(crate) fn waiting(&self) -> Vec<Transaction> {
        self.chain.as_ref().map(|chain| chain.waiting(&self.identity.peer_id())).unwrap_or_default()
    }

    pub(crate) fn timeout(&self) -> Time {
        let chain = self.chain.as_ref().and_then(Chain::timeout);
        let found = (self.chain.is_none() && self.asked.is_none()).then_some(self.found_at);
        let asked = self.asked.map(|asked| asked.until);
        let waits = [chain, found, asked, self.sync.timeout(), self.prober.timeout(), Some(self.status_due)];
        waits.into_iter().flatten().min().unwrap_or(self.status_due)
    }

    pub(crate) fn connected(&mut self, peer: PeerId, now: Time) {
        self.connected.insert(peer);
        // It may know no ledger yet.
        self.status_soon(now);
    }

    pub(crate) fn disconnected(&mut self, peer: &PeerId, now: Time) {
        self.connected.remove(peer);
        self.sync.forget(peer);
        if let Some(asked) = &mut self.asked
            && asked.whom == *peer
        {
            (asked.until, asked.is_reached) = (now, false);
        }
    }

    /// A frame could not be delivered.
    pub(crate) fn undelivered(&mut self, to: PeerId, now: Time) {
        self.sync.refused(&to, now);
        self.recoveries.undelivered(&to);
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.whom == to) {
            (asked.until, asked.is_reached) = (now, false);
        }
    }

    /// Gossip of the ledger: what it is worth to others.
    pub(crate) fn gossip(&mut self, author: PeerId, message: Message, now: Time, out: &mut Outbox) -> Verdict {
        if self.state().is_some_and(|state| state.next_committee().contains(&author)) {
            self.spoke.insert(author, now);
        }
        match message {
            Message::LedgerStatus(status) => {
                self.rumours.hear(author, status, now);
                self.hear_height(author, &status);
                self.hear_chain(author, &status, now, out);
                self.settle(now, out);
                Verdict::Accept
            }
            Message::Transaction(transaction) => self.transaction_heard(*transaction, out),
            Message::Votes(votes) => {
                let height = votes.votes.iter().map(|vote| vote.height).max().unwrap_or(0);
                self.consensus(author, Consensus::Votes(votes), height, now, out)
            }
            Message::Proposal(proposal) => {
                let height = proposal.height;
                self.consensus(author, Consensus::Proposal(proposal), height, now, out)
            }
            _ => Verdict::Reject,
        }
    }

    fn transaction_heard(&mut self, transaction: Transaction, out: &mut Outbox) -> Verdict {
        let Some(chain) = &mut self.chain else { return Verdict::Ignore };
        match chain.offer(transaction) {
            Admission::New => Verdict::Accept,
            // Its author may be ahead of us, or behind: nobody's fault.
            Admission::Known | Admission::Full => Verdict::Ignore,
            Admission::Refused(why) => {
                out.notify(Event::Refused { why: format!("a transaction of {}: {why}", transaction.author.short()) });
                Verdict::Ignore
            }
        }
    }

    fn consensus(&mut self, author: PeerId, input: Consensus, height: u64, now: Time, out: &mut Outbox) -> Verdict {
        let Some(chain) = &mut self.chain else { return Verdict::Ignore };
        let ours = chain.state().height() + 1;
        let verdict = match chain.consensus(input, now) {
            Ok(Worth::New) => Verdict::Accept,
            // Those who are at that height shall hear it by us, too.
            Ok(Worth::Elsewhere) if height == ours || height == ours + 1 => Verdict::Accept,
            Ok(Worth::Known | Worth::Elsewhere) => Verdict::Ignore,
            Err(refusal) => {
                out.notify(Event::Refused { why: format!("a word of consensus: {refusal}") });
                // Another ledger of the same swarm has another committee: nobody's fault.
                Verdict::Ignore
            }
        };
        if height > ours {
            self.sync.hear(author, height - 1);
        }
        self.settle(now, out);
        verdict
    }

    /// Direct messages.
    pub(crate) fn frame(&mut self, from: PeerId, message: &Message, now: Time, out: &mut Outbox) {
        match message {
            Message::GenesisAsk(ask) => {
                if let Some(state) = self.state().filter(|state| state.ledger() == ask.ledger) {
                    let reply = GenesisReply { genesis: state.founding().clone() };
                    out.send(from, Message::GenesisReply(Box::new(reply)), About::Ledger, now);
                }
            }
            Message::GenesisReply(reply) => self.genesis_shown(from, &reply.genesis, now, out),
            Message::BlocksAsk(ask) => self.blocks_wanted(from, ask, out),
            Message::Blocks(blocks) => self.blocks_shown(from, blocks, now, out),
            Message::RecoveryAsk(ask) => self.recovery_wanted(from, ask, now, out),
            Message::RecoveryReply(reply) => self.recovery_shown(from, reply, now, out),
            Message::ProposalAsk(ask) => {
                let chain = self.chain.as_ref();
                if let Some(proposal) = chain.and_then(|chain| chain.proposal(ask)) {
                    let reply = Message::ProposalReply(Box::new(ProposalReply { proposal }));
                    out.send(from, reply, About::Ledger, now);
                }
            }
            Message::ProposalReply(reply) => {
                let proposal = reply.proposal.clone();
                let height = proposal.height;
                self.consensus(from, Consensus::Proposal(Box::new(proposal)), height, now, out);
            }
            Message::Probe(probe) => {
                let signed = self.state().and_then(|state| probes::answer(&self.identity, &from, probe, state));
                if let Some(signature) = signed {
                    let reply = ProbeReply { probe: *probe, signature };
                    out.send(from, Message::ProbeReply(reply), About::Ledger, now);
                }
            }
            Message::ProbeReply(reply) => {
                let Some(chain) = &self.chain else { return };
                let action = self.prober.answered(from, &reply.probe, reply.signature, chain.state());
                if let Some(action) = action {
                    self.submit(action, now, out);
                }
            }
            _ => {}
        }
        self.settle(now, out);
    }

    fn blocks_wanted(&self, by: PeerId, ask: &BlocksAsk, out: &mut Outbox) {
        // Who is on a chain that a recovery has ended gets its blocks up to there.
        let reach = self.chain.as_ref().and_then(|chain| chain.reach(&ask.chain));
        let missing = reach.and_then(|reach| reach.checked_sub(ask.from)).map_or(0, |more| more.saturating_add(1));
        if missing > 0 {
            let count_max = ask.count.min(u32::try_from(missing).unwrap_or(u32::MAX));
            let bytes_max = words::BLOCKS_BYTES_MAX;
            out.push(Effect::ReadBlocks { to: by, from: ask.from, count_max, bytes_max });
        }
    }

    /// The driver has read blocks for a peer that asked.
    pub(crate) fn blocks_read(&mut self, to: PeerId, from: u64, blocks: &[Vec<u8>], now: Time, out: &mut Outbox) {
        // What is on the own disk was written by this node.
        let blocks = blocks.iter().map_while(|bytes| chain::decode(bytes).ok()).collect();
        out.send(to, Message::Blocks(Box::new(Blocks { from, blocks })), About::Ledger, now);
    }

    /// A unit was computed, or could not be.
    pub(crate) fn drilled(
        &mut self,
        task: Hash,
        result: Option<crate::ledger::DrillResult>,
        now: Time,
        out: &mut Outbox,
    ) {
        if let Some(action) = self.driller.computed(task, result) {
            self.submit(action, now, out);
        }
        // A reveal may be due already. What was declined is asked for again after the next block.
        if result.is_some() {
            self.looked_at = None;
        }
        self.settle(now, out);
    }

    /// Moves credits, as the user wants.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn transfer(&mut self, to: PeerId, amount: u64, now: Time, out: &mut Outbox) -> Result<Hash, String> {
        let state = self.state().ok_or("there is no ledger yet: wait until `manta ledger status` shows one")?;
        let balance = state.account(&self.identity.peer_id()).map_or(0, |account| account.balance);
        if balance < amount {
            return Err(format!("{balance} micro-credits in the account, {amount} are needed"));
        }
        self.submit(Action::Transfer(crate::ledger::Transfer { to, amount }), now, out)
            .ok_or_else(|| "the transaction was not taken: too many of this peer wait already".into())
    }

    /// Steps back from elections and committees, as before a stop.
    pub(crate) fn stand_by(&mut self, now: Time, out: &mut Outbox) {
        self.options.takes_part = false;
        self.settle(now, out);
        self.look(now, out);
    }

    fn submit(&mut self, action: Action, now: Time, out: &mut Outbox) -> Option<Hash> {
        let chain = self.chain.as_mut()?;
        let transaction = chain.submit(action)?;
        out.publish(&Message::Transaction(Box::new(transaction)), WORD_LIFETIME, now);
        Some(transaction.id())
    }

    /// What follows from the state and the time.
    pub(crate) fn settle(&mut self, now: Time, out: &mut Outbox) {
        self.now = now;
        self.follow_rumours(now, out);
        if let Some(chain) = &mut self.chain {
            chain.tick(now);
        }
        self.carry_out(now, out);
        let hears_others = !self.connected.is_empty();
        for action in self.prober.overdue(hears_others, now) {
            self.submit(action, now, out);
        }
        if self.looked_at != self.state().map(State::height) {
            self.look(now, out);
        }
        self.catch_up(now, out);
        if self.status_due <= now {
            self.say_status(now, out);
        }
    }

    /// What the chain wants done: first what has to be durable, then what is said.
    fn carry_out(&mut self, now: Time, out: &mut Outbox) {
        let Some(chain) = &mut self.chain else { return };
        for effect in chain.take_effects() {
            out.push(effect);
        }
        for want in chain.take_wants() {
            match want {
                Want::Say(message) => {
                    out.publish(&message, WORD_LIFETIME, now);
                }
                Want::Proposal { ask, holders } => {
                    let holder = holders.iter().find(|holder| self.connected.contains(holder)).or(holders.first());
                    if let Some(holder) = holder.filter(|holder| **holder != self.identity.peer_id()) {
                        out.send(*holder, Message::ProposalAsk(ask), About::Ledger, now);
                    }
                }
            }
        }
    }

    /// After each block: what there is to register, to compute, to open, to ask.
    fn look(&mut self, now: Time, out: &mut Outbox) {
        let Some(chain) = &self.chain else { return };
        let state = chain.state().clone();
        self.looked_at = Some(state.height());
        let is_new_height = std::mem::replace(&mut self.told_height, state.height()) != state.height();
        let mut actions: Vec<_> = self.registration(&state).into_iter().collect();
        if self.options.takes_part {
            let (wanted, said) = self.driller.look(&state);
            for drills::Wanted { task, class, challenge, owed } in wanted {
                let Some(class) = state.parameters().classes.get(usize::from(class)) else { continue };
                out.push(Effect::Drill { task, class: *class, challenge, owed });
            }
            actions.extend(said);
            for (target, probe) in self.prober.look(&state, now) {
                out.send(target, Message::Probe(probe), About::Ledger, now);
            }
        }
        for action in actions {
            self.submit(action, now, out);
        }
        if is_new_height && state.height().is_multiple_of(SAY_AGAIN_BLOCKS) {
            let me = self.identity.peer_id();
            let waiting = self.chain.as_ref().map(|chain| chain.waiting(&me)).unwrap_or_default();
            for transaction in waiting {
                out.publish(&Message::Transaction(Box::new(transaction)), WORD_LIFETIME, now);
            }
        }
        if is_new_height {
            let committee = state.next_committee();
            self.spoke.retain(|peer, _| committee.contains(peer));
            self.look_at_offers(now, out);
            out.notify(Event::BlockFinal { height: state.height(), root: state.root() });
        }
    }

    /// How our own key should stand, if it does not and nothing about it waits.
    fn registration(&self, state: &State) -> Option<Action> {
        let (me, chain) = (self.identity.peer_id(), self.chain.as_ref()?);
        let is_waiting = chain
            .waiting(&me)
            .iter()
            .any(|waiting| matches!(waiting.action, Action::Register(_) | Action::Standby { .. }));
        if is_waiting {
            return None;
        }
        let vrf = self.identity.vrf().public();
        let class = class_for(state.parameters(), self.options.operations_per_s);
        match (state.registration(&me), self.options.takes_part) {
            (None, true) => Some(Action::Register(Register { vrf, owner: me, countersignature: None, class })),
            // Fined for signing twice: its other machine may still run. Only people can end that.
            (Some(key), true) if key.standby && key.struck_at > 0 => None,
            (Some(key), true) if key.vrf != vrf || !self.fits(state.parameters(), key.class) => {
                Some(Action::Register(Register { vrf, owner: me, countersignature: None, class }))
            }
            (Some(key), true) if key.standby => Some(Action::Standby { on: false }),
            (Some(key), false) if !key.standby => Some(Action::Standby { on: true }),
            _ => None,
        }
    }

    /// Whether the registered class is about right: measured speeds vary, and who
    /// registers again waits as a newcomer.
    fn fits(&self, parameters: &Parameters, class: u8) -> bool {
        let speed = self.options.operations_per_s;
        (class_for(parameters, speed / 2)..=class_for(parameters, speed.saturating_mul(2))).contains(&class)
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.state().map(|state| (state.ledger(), state.height()));
        write!(f, "Trust({:?} at {place:?})", self.identity.peer_id())
    }
}

/// The largest class of whose units one takes no more than two seconds at this speed.
fn class_for(parameters: &Parameters, operations_per_s: u64) -> u8 {
    let within = operations_per_s.saturating_mul(2);
    let fitting = parameters.classes.iter().take_while(|class| class.operations() <= within).count();
    u8::try_from(fitting.saturating_sub(1)).unwrap_or(u8::MAX)
}
