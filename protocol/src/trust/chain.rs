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
use crate::consensus::{Certificate, CertificateError, Committee, Engine, Progress, Proposal};
use crate::effect::Effect;
use crate::ids::{Hash, PeerId};
use crate::ledger::{Action, Admission, Block, BlockError, Mempool, State, Transaction};
use crate::time::Time;
use crate::trust::words::Sealed;
use crate::wire::{Identity, Message, codec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks between two snapshots of the state.
pub(crate) const SNAPSHOT_BLOCKS: u64 = 256;
/// Judged values of the height that are kept with the states they lead to.
const JUDGED_MAX: usize = 8;

/// What the chain wants besides effects.
#[derive(Debug)]
pub(crate) enum Want {
    /// Tell everyone.
    Say(Box<Message>),
    /// Ask one of these for a proposal.
    Proposal { height: u64, round: u32, value: Hash, holders: Vec<PeerId> },
}

/// See the module.
pub(crate) struct Chain {
    identity: Identity,
    state: Arc<State>,
    engine: Engine,
    pool: Mempool,
    /// States that judged values of this height lead to, by the value's id.
    judged: BTreeMap<Hash, Arc<State>>,
    wants: Vec<Want>,
    /// Effects in the order in which they have to be carried out.
    effects: Vec<Effect>,
}

/// Why a sealed block does not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotFollowing {
    #[error("a sealed block that cannot be read: {0}")]
    Malformed(String),
    #[error("block {found}, the next one is {expected}")]
    Height { found: u64, expected: u64 },
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    #[error("the certificate is for another block")]
    OtherBlock,
    #[error("{0}")]
    Block(#[from] BlockError),
}

impl Chain {
    /// The chain after `state`, with what the log says of the next height.
    ///
    /// # Errors
    /// In words, if the log is of another release.
    pub(crate) fn new(identity: Identity, state: State, log: &[Vec<u8>], now: Time) -> Result<Self, String> {
        let parameters = state.parameters();
        let config = Config {
            identity: identity.clone(),
            epoch_ms: parameters.epoch_ms,
            timeouts: timeouts(parameters.epoch_ms),
            identify,
        };
        let engine = Engine::new(config, start(&state), log, now)
            .map_err(|place| format!("record {place} of the consensus log is of another release of manta"))?;
        let mut chain = Self {
            identity,
            state: Arc::new(state),
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
    pub(crate) fn proposal(&self, height: u64, round: u32, value: &Hash) -> Option<Proposal> {
        self.engine.proposal(height, round, value).cloned()
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

    /// Goes on with another committee, under another name, as operators have decided.
    pub(crate) fn recover(&mut self, committee: Committee, chain: Hash, now: Time) {
        let mut state = (*self.state).clone();
        state.recover(committee, chain);
        self.state = Arc::new(state);
        self.judged.clear();
        self.engine.advance(start(&self.state), now);
        self.drain(now);
    }

    /// Takes a block that others have decided.
    ///
    /// # Errors
    /// [`NotFollowing`]; nothing has changed then.
    pub(crate) fn follow(&mut self, bytes: &[u8], now: Time) -> Result<(), NotFollowing> {
        let malformed = |error: codec::CodecError| NotFollowing::Malformed(error.to_string());
        let sealed: Sealed = codec::decode(bytes, super::words::BLOCKS_BYTES_MAX).map_err(malformed)?;
        let block = Block::decode(&sealed.block).map_err(malformed)?;
        let expected = self.state.height() + 1;
        if sealed.certificate.height != expected || block.header.height != expected {
            return Err(NotFollowing::Height { found: sealed.certificate.height, expected });
        }
        if block.hash() != sealed.certificate.value {
            return Err(NotFollowing::OtherBlock);
        }
        sealed.certificate.verify(&self.state.chain(), self.state.next_committee())?;
        let state = match self.judged.get(&sealed.certificate.value) {
            Some(state) => state.clone(),
            None => Arc::new(self.state.execute(&block, u64::MAX)?),
        };
        self.install(state, bytes.to_vec(), now);
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
                Output::WantProposal { height, round, value, holders } => {
                    self.wants.push(Want::Proposal { height, round, value, holders });
                }
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
        let sealed = codec::encode(&Sealed { block: bytes, certificate });
        // A quorum of honest members judged it by the same rules.
        if let Some(state) = state {
            self.install(state, sealed, now);
        }
    }

    fn install(&mut self, state: Arc<State>, sealed: Vec<u8>, now: Time) {
        let height = state.height();
        self.state = state;
        self.judged.clear();
        self.pool.prune(&self.state);
        self.effects.push(Effect::LedgerBlock { height, block: sealed });
        if height.is_multiple_of(SNAPSHOT_BLOCKS) {
            let snapshot = Snapshot { head: self.state.head(), root: self.state.root(), state: self.state.encode() };
            self.effects.push(Effect::LedgerSnapshot { height, state: codec::encode(&snapshot) });
        }
        self.engine.advance(start(&self.state), now);
    }
}

/// The state after sealed blocks that this peer has kept: they were judged before.
///
/// # Errors
/// In words, which block does not follow.
pub(crate) fn replay(mut state: State, sealed: &[Vec<u8>]) -> Result<State, String> {
    for bytes in sealed {
        let height = state.height() + 1;
        let fail = |why: String| format!("its block {height}: {why}");
        let sealed: Sealed =
            codec::decode(bytes, super::words::BLOCKS_BYTES_MAX).map_err(|error| fail(error.to_string()))?;
        let block = Block::decode(&sealed.block).map_err(|error| fail(error.to_string()))?;
        state = state.execute(&block, u64::MAX).map_err(|error| fail(error.to_string()))?;
    }
    Ok(state)
}

/// Waits that fit the epoch: a LAN decides in a fraction of a second, and a
/// member that is away must not cost a whole epoch.
fn timeouts(epoch_ms: u64) -> Timeouts {
    let step_ms = (epoch_ms / 4).clamp(200, 2_000);
    Timeouts { propose_ms: step_ms, vote_ms: step_ms / 2, growth_ms: step_ms / 2, max_ms: 60_000, repeat_ms: step_ms }
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

fn identify(bytes: &[u8]) -> Option<Hash> {
    Block::decode(bytes).ok().map(|block| block.hash())
}
