//! From a state and a block to the next state.
//!
//! The order is part of the rules: the beacon, the steps of open tasks (so that
//! nothing in a block can be drawn by that block's own beacon after its
//! proposer has seen it), the transactions, the reward, the new tasks, the
//! weights, the committee.

use super::block::{Block, Header, transactions_root};
use super::limits::{BLOCK_BYTES_MAX, NEWCOMERS_PER_BLOCK_MAX, TRANSACTIONS_MAX, TRANSACTIONS_PER_AUTHOR_MAX};
use super::records::Epoch;
use super::refusal::{BlockError, Refusal};
use super::rules;
use super::state::State;
use super::transaction::{Action, Transaction};
use crate::election::{Beacon, Domain, VrfProof, election_input};
use crate::ids::{Hash, PeerId};
use crate::wire::Identity;
use crate::wire::codec;
use std::collections::BTreeMap;

/// What a block holds so far, by author.
#[derive(Default)]
struct Counts {
    per_author: BTreeMap<PeerId, usize>,
    newcomers: usize,
}

impl Counts {
    /// Whether the block may hold another of this author.
    fn allow(&self, state: &State, transaction: &Transaction) -> Result<(), Refusal> {
        let author = transaction.author;
        let found = self.per_author.get(&author).copied().unwrap_or(0);
        if !is_of_drill(transaction) && found >= TRANSACTIONS_PER_AUTHOR_MAX {
            return Err(Refusal::TooMany(author));
        }
        let is_newcomer = matches!(transaction.action, Action::Register(_)) && !state.keys.contains(&author);
        if is_newcomer && self.newcomers >= NEWCOMERS_PER_BLOCK_MAX {
            return Err(Refusal::TooManyNewcomers);
        }
        Ok(())
    }

    fn count(&mut self, transaction: &Transaction, was_known: bool) {
        if !is_of_drill(transaction) {
            *self.per_author.entry(transaction.author).or_insert(0) += 1;
        }
        self.newcomers += usize::from(matches!(transaction.action, Action::Register(_)) && !was_known);
    }
}

/// Whether the transaction is bounded otherwise than by its author's number in a
/// block: an owner has one commitment a task that it was elected for and one
/// reveal of it, tasks are bounded, and so are a block's bytes. A bound a key
/// would leave out elected work of a strong key, and not of many weak ones.
fn is_of_drill(transaction: &Transaction) -> bool {
    matches!(transaction.action, Action::Commit(_) | Action::Reveal(_))
}

/// The VRF input by which a proposer of `height` adds to the beacon before.
pub fn beacon_input(before: &Beacon, height: u64) -> Vec<u8> {
    election_input(Domain::Beacon, before, &[&height.to_le_bytes()])
}

impl State {
    /// The state after `block`; this one stays as it is. `now_ms` is the
    /// validator's clock; who follows certified blocks gives `u64::MAX`.
    ///
    /// Whether the proposer was the one drawn for the round, consensus judges.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn execute(&self, block: &Block, now_ms: u64) -> Result<Self, BlockError> {
        let header = &block.header;
        self.check_header(header, now_ms)?;
        let bytes = block.encode().len();
        if bytes > BLOCK_BYTES_MAX || block.transactions.len() > TRANSACTIONS_MAX {
            return Err(BlockError::TooLong(bytes));
        }
        if transactions_root(&block.transactions) != header.transactions {
            return Err(BlockError::TransactionsRoot);
        }
        let mut next = self.begin(header.time_ms, header.proposer, &header.beacon_proof)?;
        let mut counts = Counts::default();
        for (index, transaction) in block.transactions.iter().enumerate() {
            let refused = |refusal| BlockError::Transaction { index, refusal };
            if !transaction.is_signed(&self.ledger) {
                return Err(refused(Refusal::BadSignature(transaction.author)));
            }
            next.apply(transaction, &mut counts).map_err(refused)?;
        }
        next.end(header.proposer);
        let (found, expected) = (next.root(), header.state);
        if found != expected {
            return Err(BlockError::StateRoot { found, expected });
        }
        if next.next_committee().hash() != header.committee {
            return Err(BlockError::Committee);
        }
        next.head = header.hash();
        Ok(next)
    }

    /// The block that `proposer` proposes now, of those `candidates` (whose
    /// signatures were checked) that count and fit, in their order.
    ///
    /// # Errors
    /// [`BlockError::Proposer`] or [`BlockError::BeaconProof`] if `proposer`
    /// cannot propose here.
    pub fn build<'a>(
        &self,
        proposer: &Identity,
        candidates: impl IntoIterator<Item = &'a Transaction>,
        now_ms: u64,
    ) -> Result<Block, BlockError> {
        let peer = proposer.peer_id();
        let time_ms = now_ms.max(self.time_ms().saturating_add(1));
        let (_, beacon_proof) = proposer.vrf().prove(&beacon_input(&self.beacon(), self.height + 1));
        self.check_proposer(&peer)?;
        let mut next = self.begin(time_ms, peer, &beacon_proof)?;
        let mut counts = Counts::default();
        let mut header = Header {
            ledger: self.ledger,
            height: next.height,
            parent: self.head,
            time_ms,
            proposer: peer,
            beacon_proof,
            transactions: Hash([0; 32]),
            state: Hash([0; 32]),
            committee: Hash([0; 32]),
        };
        // A list's length takes up to three bytes.
        let mut bytes = codec::encode(&Block { header, transactions: Vec::new() }).len() + 2;
        let mut transactions = Vec::new();
        for transaction in candidates {
            let longer = bytes + codec::encode(transaction).len();
            if longer > BLOCK_BYTES_MAX || transactions.len() == TRANSACTIONS_MAX {
                continue;
            }
            if next.apply(transaction, &mut counts).is_ok() {
                transactions.push(*transaction);
                bytes = longer;
            }
        }
        next.end(peer);
        header.transactions = transactions_root(&transactions);
        header.state = next.root();
        header.committee = next.next_committee().hash();
        Ok(Block { header, transactions })
    }

    fn check_header(&self, header: &Header, now_ms: u64) -> Result<(), BlockError> {
        if header.ledger != self.ledger {
            return Err(BlockError::OtherLedger { found: header.ledger, expected: self.ledger });
        }
        if header.height != self.height + 1 {
            return Err(BlockError::Height { found: header.height, expected: self.height + 1 });
        }
        if header.parent != self.head {
            return Err(BlockError::Parent { found: header.parent, expected: self.head });
        }
        let min_ms = self.time_ms().saturating_add(1);
        let max_ms = now_ms.saturating_add(self.genesis.parameters.clock_skew_ms);
        if !(min_ms..=max_ms).contains(&header.time_ms) {
            return Err(BlockError::Time { found_ms: header.time_ms, min_ms, max_ms });
        }
        self.check_proposer(&header.proposer)
    }

    fn check_proposer(&self, proposer: &PeerId) -> Result<(), BlockError> {
        if self.next_committee().contains(proposer) { Ok(()) } else { Err(BlockError::Proposer(*proposer)) }
    }

    /// The next height with its beacon, tasks a step on.
    fn begin(&self, time_ms: u64, proposer: PeerId, proof: &VrfProof) -> Result<Self, BlockError> {
        let height = self.height + 1;
        let output = self
            .keys
            .get(&proposer)
            .and_then(|key| key.vrf.verify(&beacon_input(&self.beacon(), height), proof))
            .ok_or(BlockError::BeaconProof(proposer))?;
        let mut next = self.clone();
        next.height = height;
        let beacon = self.beacon().next(&output);
        let standings = self.epoch().standings.clone();
        next.epochs.insert(height, Epoch { time_ms, beacon, proposer: Some(proposer), standings });
        rules::schedule::advance(&mut next);
        rules::schedule::create_idle(&mut next);
        Ok(next)
    }

    /// Applies one transaction, or leaves all as it is.
    fn apply(&mut self, transaction: &Transaction, counts: &mut Counts) -> Result<(), Refusal> {
        counts.allow(self, transaction)?;
        let Transaction { author, nonce: found, action, .. } = transaction;
        let expected = if action.is_counted() { self.next_nonce(author) } else { 0 };
        if *found != expected {
            return Err(Refusal::Nonce { author: *author, found: *found, expected });
        }
        let was_known = self.keys.contains(author);
        match action {
            Action::Register(register) => rules::account::register(self, author, expected, register)?,
            Action::Standby { on } => rules::account::standby(self, author, *on)?,
            Action::Transfer(transfer) => rules::account::transfer(self, author, transfer)?,
            Action::Commit(commit) => rules::commit::commit(self, author, commit, &transaction.signature)?,
            Action::Reveal(reveal) => rules::reveal::reveal(self, author, reveal, &transaction.signature)?,
            Action::Probe(probe) => rules::probe::probe(self, author, probe)?,
            Action::Evidence(evidence) => rules::evidence::evidence(self, evidence)?,
            Action::Lease(report) => rules::lease::lease(self, author, report)?,
        }
        if action.is_counted() {
            self.accounts.entry(*author).nonce = expected;
        }
        counts.count(transaction, was_known);
        Ok(())
    }

    /// What comes after the transactions.
    fn end(&mut self, proposer: PeerId) {
        rules::account::mint(self, &proposer, self.genesis.parameters.block_reward);
        rules::schedule::create(self);
        let standings = self.weigh(self.time_ms());
        if let Some(epoch) = self.epochs.get_mut(&self.height) {
            epoch.standings = standings;
        }
        if self.height.is_multiple_of(u64::from(self.genesis.parameters.term_blocks)) {
            self.choose_committee(self.height + 1, self.height - 1);
        }
        self.forget_epochs();
        self.refresh();
        debug_assert!(self.is_sound(), "credits are neither made nor lost, and keys have accounts");
    }
}
