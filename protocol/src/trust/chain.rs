//! The ledger that is kept here: its state, its part in consensus, and what
//! waits for a block.
//!
//! Every block comes in one of two ways: decided by the own engine, or sealed
//! by a certificate from a peer that has it. Either way it is executed, made
//! durable, and the engine goes on from there. What the engine wants durable is
//! in the log before anything that follows it leaves the node.

use super::Snapshot;
use crate::consensus::engine::Refusal;
use crate::consensus::engine::{Config, Input, Output, Start, Timeouts, Worth};
use crate::consensus::{
    Certificate, Decision, Engine, Progress, Proposal, ProposalAsk, Recovery, RecoveryError, SyncError,
};
use crate::effect::Effect;
use crate::ids::{Hash, PeerId};
use crate::ledger::block::transactions_root;
use crate::ledger::{Action, Admission, Block, BlockError, Mempool, State, Transaction};
use crate::time::Time;
use crate::wire::{Identity, Message, codec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks between two snapshots of the state.
pub(crate) const SNAPSHOT_BLOCKS: u64 = 256;
/// Judged values of the height that are kept with the states they lead to.
const JUDGED_MAX: usize = 8;
/// Recoveries of one ledger.
pub(crate) const RECOVERIES_MAX: usize = 64;

/// What the chain wants besides effects.
#[derive(Debug)]
pub(crate) enum Want {
    /// Tell everyone.
    Say(Box<Message>),
    /// Ask one of these for a proposal.
    Proposal { ask: ProposalAsk, holders: Vec<PeerId> },
}

/// See the module.
pub(crate) struct Chain {
    identity: Identity,
    state: Arc<State>,
    /// [`is_alone`] of the state: asked for with every input, and many keys may be registered.
    alone: bool,
    /// Those that were followed, in their order: each ends the chain that it names.
    recoveries: Vec<Recovery>,
    engine: Engine,
    pool: Mempool,
    /// States that judged values of this height lead to, by the value's id.
    judged: BTreeMap<Hash, Arc<State>>,
    wants: Vec<Want>,
    /// Effects in the order in which they have to be carried out.
    effects: Vec<Effect>,
}

/// Why a decided block does not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotFollowing {
    #[error("{0}")]
    NotDecided(#[from] SyncError),
    #[error("a block that cannot be read: {0}")]
    Malformed(#[from] codec::CodecError),
    #[error("{0}")]
    Block(#[from] BlockError),
}

impl Chain {
    /// The chain after `state` and the recoveries that led to it, with what the log
    /// says of the next height.
    ///
    /// # Errors
    /// In words, if the log is of another release.
    pub(crate) fn new(
        identity: Identity,
        state: State,
        recoveries: Vec<Recovery>,
        log: &[Vec<u8>],
        now: Time,
    ) -> Result<Self, String> {
        let parameters = state.parameters();
        let config = Config {
            identity: identity.clone(),
            epoch_ms: parameters.epoch_ms,
            timeouts: Timeouts::for_epoch(parameters.epoch_ms),
            identify,
        };
        let engine = Engine::new(config, start(&state), log, now).map_err(|error| error.to_string())?;
        let mut chain = Self {
            identity,
            alone: is_alone(&state),
            state: Arc::new(state),
            recoveries,
            engine,
            pool: Mempool::default(),
            judged: BTreeMap::new(),
            wants: Vec::new(),
            effects: Vec::new(),
        };
        chain.drain(now);
        Ok(chain)
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether one owner holds all weight.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// The recovery that ended this chain here.
    pub(crate) fn recovery_of(&self, chain: &Hash) -> Option<&Recovery> {
        self.recoveries.iter().find(|recovery| recovery.plan.chain == *chain)
    }

    /// The last height here whose block is sealed on `chain`; `None` if this ledger never was on it.
    pub(crate) fn reach(&self, chain: &Hash) -> Option<u64> {
        let ended = || self.recovery_of(chain).map(|recovery| recovery.plan.height - 1);
        if *chain == self.state.chain() { Some(self.state.height()) } else { ended() }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.engine.progress()
    }

    pub(crate) fn timeout(&self) -> Option<Time> {
        self.engine.timeout()
    }

    pub(crate) fn take_wants(&mut self) -> Vec<Want> {
        std::mem::take(&mut self.wants)
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Lets time go by.
    pub(crate) fn tick(&mut self, now: Time) {
        self.engine.tick(now);
        self.drain(now);
    }

    /// Takes a word of consensus.
    ///
    /// # Errors
    /// As [`Engine::handle`].
    pub(crate) fn consensus(&mut self, input: Input, now: Time) -> Result<Worth, Refusal> {
        let worth = self.engine.handle(input, now);
        self.drain(now);
        worth
    }

    /// A proposal that another member missed.
    pub(crate) fn proposal(&self, ask: &ProposalAsk) -> Option<Proposal> {
        self.engine.proposal(ask).cloned()
    }

    /// Takes somebody's transaction, if it can count.
    pub(crate) fn offer(&mut self, transaction: Transaction) -> Admission {
        self.pool.offer(&self.state, transaction)
    }

    /// Signs a transaction of our own; `None` if it cannot count or there is no room.
    pub(crate) fn submit(&mut self, action: Action) -> Option<Transaction> {
        let nonce = self.pool.next_nonce(&self.state, &self.identity.peer_id());
        let transaction = Transaction::sign(&self.identity, &self.state.ledger(), nonce, action);
        (self.offer(transaction) == Admission::New).then_some(transaction)
    }

    /// Transactions of this author that wait for a block.
    pub(crate) fn waiting(&self, author: &PeerId) -> Vec<Transaction> {
        self.pool.of(author).copied().collect()
    }

    /// Takes a block that others have decided; whether it was the next one.
    ///
    /// # Errors
    /// [`NotFollowing`]; nothing has changed then.
    pub(crate) fn follow(&mut self, decision: &Decision, now: Time) -> Result<bool, NotFollowing> {
        let height = self.state.height() + 1;
        if decision.certificate.height < height {
            // Decided here meanwhile.
            return Ok(false);
        }
        decision.verify(&self.state.chain(), height, self.state.next_committee(), identify)?;
        let block = Block::decode(&decision.bytes)?;
        let state = match self.judged.get(&decision.certificate.value) {
            Some(state) => state.clone(),
            None => Arc::new(self.state.execute(&block, u64::MAX)?),
        };
        self.install(state, codec::encode(decision), now);
        self.drain(now);
        Ok(true)
    }

    /// Goes on with another committee, as this peer's owner wants.
    ///
    /// # Errors
    /// [`RecoveryError`]; nothing has changed then.
    pub(crate) fn recover(&mut self, recovery: &Recovery, now: Time) -> Result<(), RecoveryError> {
        if self.recoveries.len() >= RECOVERIES_MAX {
            return Err(RecoveryError::TooMany);
        }
        let state = self.state.recover(recovery)?;
        let height = recovery.plan.height;
        self.effects.push(Effect::LedgerRecovery { height, recovery: codec::encode(recovery) });
        self.recoveries.push(recovery.clone());
        self.enter(Arc::new(state), now);
        self.drain(now);
        Ok(())
    }

    /// Carries out what the engine wants, until it wants nothing more.
    fn drain(&mut self, now: Time) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Journal(record) => {
                    self.effects.push(Effect::LedgerLog { height: self.state.height() + 1, record });
                }
                Output::GossipProposal(proposal) => self.say(Message::Proposal(proposal)),
                Output::GossipVotes(votes) => self.say(Message::Votes(votes)),
                Output::BuildValue { height, round } => self.build(height, round, now),
                Output::CheckValue { value, bytes, .. } => {
                    let valid = self.judge(value, &bytes, now);
                    // Our own answer: nothing in it can be refused.
                    let _ = self.engine.handle(Input::ValueChecked { value, valid }, now);
                }
                Output::WantProposal { ask, holders } => self.wants.push(Want::Proposal { ask, holders }),
                Output::Decided { certificate, bytes } => self.decided(certificate, bytes, now),
                Output::Evidence(evidence) => {
                    if let Some(transaction) = self.submit(Action::Evidence(*evidence)) {
                        self.say(Message::Transaction(Box::new(transaction)));
                    }
                }
            }
        }
    }

    /// What is said follows what has to be durable before it.
    fn say(&mut self, message: Message) {
        self.wants.push(Want::Say(Box::new(message)));
    }

    fn build(&mut self, height: u64, round: u32, now: Time) {
        if let Ok(block) = self.state.build(&self.identity, self.pool.candidates(&self.state), now.as_unix_ms()) {
            let _ = self.engine.handle(Input::ValueBuilt { height, round, bytes: block.encode() }, now);
        }
    }

    fn judge(&mut self, value: Hash, bytes: &[u8], now: Time) -> bool {
        let executed = Block::decode(bytes).ok().and_then(|block| self.state.execute(&block, now.as_unix_ms()).ok());
        let Some(state) = executed else { return false };
        if self.judged.len() < JUDGED_MAX {
            self.judged.insert(value, Arc::new(state));
        }
        true
    }

    fn decided(&mut self, certificate: Certificate, bytes: Vec<u8>, now: Time) {
        let state = match self.judged.remove(&certificate.value) {
            Some(state) => Some(state),
            // Decided by others' precommits before we judged it.
            None => {
                Block::decode(&bytes).ok().and_then(|block| self.state.execute(&block, u64::MAX).ok()).map(Arc::new)
            }
        };
        let sealed = codec::encode(&Decision { bytes, certificate });
        // A quorum of honest members judged it by the same rules.
        if let Some(state) = state {
            self.install(state, sealed, now);
        }
    }

    fn install(&mut self, state: Arc<State>, sealed: Vec<u8>, now: Time) {
        let height = state.height();
        self.effects.push(Effect::LedgerBlock { height, block: sealed });
        self.enter(state, now);
        if height.is_multiple_of(SNAPSHOT_BLOCKS) {
            let snapshot = Snapshot { head: self.state.head(), root: self.state.root(), state: self.state.encode() };
            self.effects.push(Effect::LedgerSnapshot { height, state: codec::encode(&snapshot) });
        }
    }

    /// What holds from here on, and what of the old is of no use now.
    fn enter(&mut self, state: Arc<State>, now: Time) {
        self.alone = is_alone(&state);
        self.state = state;
        self.judged.clear();
        self.pool.prune(&self.state);
        self.engine.advance(start(&self.state), now);
    }
}

/// The state after sealed blocks that this peer has kept, each recovery in its
/// place: all of them were judged before. A snapshot has what came before it.
///
/// # Errors
/// In words, which block or recovery does not follow.
pub(crate) fn replay(mut state: State, recoveries: &[Recovery], sealed: &[Vec<u8>]) -> Result<State, String> {
    let from = state.height();
    let mut later = recoveries.iter().skip_while(|recovery| recovery.plan.height <= from).peekable();
    let mut blocks = sealed.iter();
    loop {
        let height = state.height() + 1;
        while let Some(recovery) = later.next_if(|recovery| recovery.plan.height == height) {
            state = state.recover(recovery).map_err(|error| format!("its recovery at height {height}: {error}"))?;
        }
        let Some(bytes) = blocks.next() else { break };
        let fail = |why: String| format!("its block {height}: {why}");
        let decision = decode(bytes).map_err(|error| fail(error.to_string()))?;
        let block = Block::decode(&decision.bytes).map_err(|error| fail(error.to_string()))?;
        state = state.execute(&block, u64::MAX).map_err(|error| fail(error.to_string()))?;
    }
    match later.next() {
        None => Ok(state),
        Some(recovery) => {
            Err(format!("a recovery at height {}, and its blocks end with {}", recovery.plan.height, state.height()))
        }
    }
}

fn start(state: &State) -> Start {
    Start {
        chain: state.chain(),
        height: state.height() + 1,
        committee: Arc::new(state.next_committee().clone()),
        beacon: state.beacon(),
        parent_time_ms: state.time_ms(),
    }
}

/// The name of a value: of a whole block, whose transactions are those of its
/// header, and which is its proposer's own. Were it another's, whoever is drawn
/// could choose among the beacons of all its keys.
fn identify(bytes: &[u8], proposer: Option<&PeerId>) -> Option<Hash> {
    let block = Block::decode(bytes).ok()?;
    let is_whole = transactions_root(&block.transactions) == block.header.transactions;
    let is_own = proposer.is_none_or(|proposer| *proposer == block.header.proposer);
    (is_whole && is_own).then(|| block.hash())
}

/// Reads a decided block as it is kept and sent.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decision, codec::CodecError> {
    codec::decode(bytes, super::words::BLOCKS_BYTES_MAX)
}

/// Whether one owner holds all weight: keys that have done no work yet lose
/// nothing by going to another ledger. Who looked in on this one for a moment has
/// a key here all the same. A ledger that somebody recovered is meant to stay.
fn is_alone(state: &State) -> bool {
    if state.chain() != state.ledger() {
        return false;
    }
    let weighs = |peer: &PeerId| state.weight(peer).is_some_and(|weight| weight > 0);
    let mut owners = state.registrations().filter(|(peer, _)| weighs(peer)).map(|(_, key)| key.owner);
    let first = owners.next();
    owners.all(|owner| Some(owner) == first)
}
