//! Transactions that wait for a block, within fixed bounds.
//!
//! A stranger can send as many as it likes: an author without a registered key
//! takes a place among the few for strangers, a registered one has a fixed
//! number, and where all is full the author with most gives way.

use super::limits::{
    POOL_BLOCKS_MAX, POOL_MAX, POOL_PER_AUTHOR_MAX, POOL_STRANGERS_MAX, PROBE_BLOCKS_MAX, TRANSACTION_BYTES_MAX,
};
use super::refusal::Refusal;
use super::state::State;
use super::transaction::{Action, Transaction};
use crate::ids::{Hash, PeerId};
use crate::wire::codec;
use std::collections::{BTreeMap, BTreeSet};

/// What became of a transaction that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It waits here now; others should hear of it.
    New,
    /// It waited here already.
    Known,
    /// It can count in no block from here on, or is signed by somebody else.
    Refused(Refusal),
    /// There is no room for it.
    Full,
}

#[derive(Clone, Debug)]
struct Waiting {
    transaction: Transaction,
    since: u64,
}

/// Transactions that wait.
#[derive(Clone, Debug, Default)]
pub struct Mempool {
    waiting: BTreeMap<Hash, Waiting>,
    by_author: BTreeMap<PeerId, BTreeSet<Hash>>,
}

impl Mempool {
    /// Takes a transaction that somebody has sent, if it can count after `state`.
    pub fn offer(&mut self, state: &State, transaction: Transaction) -> Admission {
        let id = transaction.id();
        if self.waiting.contains_key(&id) {
            return Admission::Known;
        }
        if let Some(refusal) = hopeless(state, &transaction) {
            return Admission::Refused(refusal);
        }
        if codec::encode(&transaction).len() > TRANSACTION_BYTES_MAX {
            return Admission::Full;
        }
        if !self.has_room(state, &transaction.author) {
            return Admission::Full;
        }
        if !transaction.is_signed(&state.ledger()) {
            return Admission::Refused(Refusal::BadSignature(transaction.author));
        }
        if self.waiting.len() >= POOL_MAX {
            self.make_room();
        }
        self.by_author.entry(transaction.author).or_default().insert(id);
        self.waiting.insert(id, Waiting { transaction, since: state.height() });
        Admission::New
    }

    /// Forgets what can count no more after `state`, and what waited too long.
    pub fn prune(&mut self, state: &State) {
        let is_over = |waiting: &Waiting| {
            waiting.since + POOL_BLOCKS_MAX < state.height() || hopeless(state, &waiting.transaction).is_some()
        };
        let over: Vec<_> = self.waiting.iter().filter(|(_, waiting)| is_over(waiting)).map(|(id, _)| *id).collect();
        for id in over {
            self.remove(&id);
        }
    }

    /// All that wait, in the order in which a block should take them: what is
    /// owed first (reveals, evidence), then commitments and probes, then the
    /// rest. Within these, the parent block's hash decides, so that nobody can
    /// make an id that always comes first; counted ones follow their numbers.
    pub fn candidates(&self, state: &State) -> Vec<&Transaction> {
        let parent = state.head();
        let rank = |transaction: &Transaction| match transaction.action {
            Action::Reveal(_) => 0,
            Action::Evidence(_) => 1,
            Action::Commit(_) => 2,
            Action::Probe(_) => 3,
            Action::Register(_) | Action::Standby { .. } | Action::Transfer(_) | Action::Lease(_) => 4,
        };
        let mut order: Vec<_> = self
            .waiting
            .iter()
            .map(|(id, waiting)| {
                let transaction = &waiting.transaction;
                let turn = Hash::of(&[&parent.as_bytes()[..], transaction.author.as_bytes()].concat());
                let within = Hash::of(&[&parent.as_bytes()[..], id.as_bytes()].concat());
                ((rank(transaction), turn, transaction.nonce, within), transaction)
            })
            .collect();
        order.sort_unstable_by_key(|(key, _)| *key);
        order.into_iter().map(|(_, transaction)| transaction).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether this transaction waits here.
    pub fn get(&self, id: &Hash) -> Option<&Transaction> {
        self.waiting.get(id).map(|waiting| &waiting.transaction)
    }

    /// Those of this author that wait.
    pub fn of(&self, author: &PeerId) -> impl Iterator<Item = &Transaction> {
        self.by_author.get(author).into_iter().flatten().filter_map(|id| self.get(id))
    }

    /// The number for the next counted transaction of `author`, after those that wait.
    pub fn next_nonce(&self, state: &State, author: &PeerId) -> u64 {
        let waiting =
            self.of(author).filter(|transaction| transaction.action.is_counted()).map(|transaction| transaction.nonce);
        waiting.max().map_or(0, |nonce| nonce.saturating_add(1)).max(state.next_nonce(author))
    }

    fn has_room(&self, state: &State, author: &PeerId) -> bool {
        let own = self.by_author.get(author).map_or(0, BTreeSet::len);
        let is_known = |author: &PeerId| state.registration(author).is_some();
        if own >= POOL_PER_AUTHOR_MAX {
            return false;
        }
        if !is_known(author) {
            let strangers = self.by_author.iter().filter(|(author, _)| !is_known(author));
            return strangers.map(|(_, ids)| ids.len()).sum::<usize>() < POOL_STRANGERS_MAX;
        }
        // Where all is full, another with more has to give way.
        self.waiting.len() < POOL_MAX || self.by_author.values().any(|ids| ids.len() > own + 1)
    }

    /// Drops one of the author who has most.
    fn make_room(&mut self) {
        let most = self.by_author.iter().max_by_key(|(author, ids)| (ids.len(), **author));
        if let Some(id) = most.and_then(|(_, ids)| ids.last()).copied() {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &Hash) {
        let Some(waiting) = self.waiting.remove(id) else { return };
        let author = waiting.transaction.author;
        if let Some(ids) = self.by_author.get_mut(&author) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_author.remove(&author);
            }
        }
    }
}

/// Why a transaction can count in no block after `state`, if that is plain
/// without its signature or proofs. One that may count later passes.
fn hopeless(state: &State, transaction: &Transaction) -> Option<Refusal> {
    let Transaction { author, nonce, action, .. } = transaction;
    let author = *author;
    let expected = if action.is_counted() { state.next_nonce(&author) } else { 0 };
    let is_far = |nonce: u64| nonce >= expected.saturating_add(POOL_PER_AUTHOR_MAX as u64);
    if *nonce < expected || (action.is_counted() && is_far(*nonce)) || (!action.is_counted() && *nonce != 0) {
        return Some(Refusal::Nonce { author, found: *nonce, expected });
    }
    let registered = state.registration(&author).is_some();
    match action {
        Action::Register(_) => None,
        Action::Transfer(_) => state.account(&author).is_none().then_some(Refusal::Balance { found: 0, needed: 1 }),
        _ if !registered => Some(Refusal::NotRegistered(author)),
        Action::Standby { .. } => None,
        Action::Commit(commit) => {
            let waits = state.task(&commit.task).is_some_and(|task| {
                task.stage_number() <= commit.stage && !task.seats.iter().any(|seat| seat.worker == author)
            });
            let is_drawn = || super::rules::probation::drawn(state, &author).is_some_and(|(_, id)| id == commit.task);
            (!waits && !is_drawn()).then_some(Refusal::NoSuchTask(commit.task))
        }
        Action::Reveal(reveal) => {
            let owes = state.task(&reveal.task).and_then(|task| task.seat(&author));
            match owes {
                Some(seat) if seat.revealed.is_none() && !seat.forfeited => None,
                _ => Some(Refusal::NoCommitment(author)),
            }
        }
        Action::Probe(probe) => {
            let is_due = probe.height <= state.height() && probe.height + PROBE_BLOCKS_MAX > state.height();
            (!is_due).then_some(Refusal::NoProbe(probe.height))
        }
        // Its weight may come to suffice.
        Action::Lease(report) => super::rules::lease::begins(state, &author, report, state.height() + 1).err(),
        Action::Evidence(evidence) => {
            let key = state.registration(&evidence.author);
            let is_new = key.is_some_and(|key| evidence.first.height > key.struck_at);
            (!is_new).then_some(Refusal::OldEvidence(evidence.first.height))
        }
    }
}
