//! Why transactions and blocks are refused.

use super::limits::{
    ACCOUNTS_MAX, BLOCK_BYTES_MAX, EVIDENCE_BLOCKS_MAX, KEYS_MAX, LEASE_BLOCKS_MAX, LEASE_MASS_MIN,
    NEWCOMERS_PER_BLOCK_MAX, OPENING_TRANSFER_MIN, PROBE_BLOCKS_MAX, TRANSACTIONS_PER_AUTHOR_MAX,
};
use crate::consensus::EvidenceError;
use crate::ids::{Hash, PeerId};

/// Why a transaction does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the author's, or for another ledger.
    #[error("the signature does not fit the author {0:?} and this ledger")]
    BadSignature(PeerId),
    /// Counted transactions follow one another.
    #[error("number {found} of account {author:?}, expected {expected}")]
    Nonce {
        /// Whose account.
        author: PeerId,
        /// The number given.
        found: u64,
        /// The number that is next, or 0 for what is not counted.
        expected: u64,
    },
    /// A block takes only so many of one author.
    #[error("more than {TRANSACTIONS_PER_AUTHOR_MAX} transactions of {0:?} in one block; wait for the next")]
    TooMany(PeerId),
    /// A block takes only so many registrations of new keys.
    #[error("more than {NEWCOMERS_PER_BLOCK_MAX} new keys in one block; wait for the next")]
    TooManyNewcomers,
    /// The state holds no more keys, and all of them have weight or credits.
    #[error("{KEYS_MAX} keys are registered, and none of them is idle")]
    KeysFull,
    /// The author is not registered.
    #[error("{0:?} is not registered: register the key first")]
    NotRegistered(PeerId),
    /// The key for elections is not one.
    #[error("the VRF key is not a valid one")]
    BadVrfKey,
    /// No such class of drill units.
    #[error("class {found}, this ledger has {count}")]
    NoSuchClass {
        /// The index given.
        found: u8,
        /// How many there are.
        count: usize,
    },
    /// The owner's consent is missing or wrong.
    #[error("the owner {0:?} has not countersigned this registration")]
    NotConsented(PeerId),
    /// Credits are missing.
    #[error("{found} micro-credits in the account, {needed} are needed")]
    Balance {
        /// What there is.
        found: u64,
        /// What there would have to be.
        needed: u64,
    },
    /// A transfer to its author or of nothing.
    #[error("a transfer moves at least 1 micro-credit to somebody else")]
    EmptyTransfer,
    /// The receiver has no account, and this is too little to open one, or none can be opened.
    #[error(
        "a first transfer to an account is of {OPENING_TRANSFER_MIN} micro-credits or more; at most {ACCOUNTS_MAX} accounts"
    )]
    Opening,
    /// No such task is open.
    #[error("task {0:?} is not open")]
    NoSuchTask(Hash),
    /// The task waits for something else.
    #[error("stage {stage} of task {task:?} does not take this now")]
    WrongPhase {
        /// The task.
        task: Hash,
        /// The stage that goes on.
        stage: u8,
    },
    /// Registered too late, on standby, or without a fitting machine.
    #[error("{0:?} cannot be elected here: it stands by, is too small, has a part already or came too late")]
    NotElectable(PeerId),
    /// The proof proves no seat.
    #[error("the proof wins no seat for {0:?}")]
    NotElected(PeerId),
    /// The beacon has not drawn this key for probation, or there are enough.
    #[error("the beacon has drawn no probation unit for {0:?}")]
    NotDrawn(PeerId),
    /// The task has as many seats as there may be.
    #[error("task {0:?} has no room for another driller")]
    SeatsFull(Hash),
    /// What was revealed is not what was committed to, or nothing was, or it is known.
    #[error("the reveal opens no commitment of {0:?}")]
    NoCommitment(PeerId),
    /// The height has no beacon here any more, or not yet, or the result is in.
    #[error("a probe of height {0} is not awaited: results come within {PROBE_BLOCKS_MAX} heights, each once")]
    NoProbe(u64),
    /// The reply is not the target's.
    #[error("the reply is not signed by the target {0:?}")]
    BadReply(PeerId),
    /// Both keys are the same owner's.
    #[error("{0:?} is the author's own machine: a lease is reported by its user, about another's")]
    OwnLease(PeerId),
    /// The lease has not begun before this block, or too long ago, or was reported.
    #[error(
        "a lease from height {0} on is not to be reported: it begins before this block, within {LEASE_BLOCKS_MAX} heights, and each later than the one of the last report"
    )]
    NoLease(u64),
    /// The consent is not the trainer's.
    #[error("the trainer {0:?} has not consented to this lease")]
    BadConsent(PeerId),
    /// The author weighs too little, or the lease was too short, to count.
    #[error("a lease that counts for {found} of 2⁻³² probes, at least {LEASE_MASS_MIN} are accepted")]
    LightLease {
        /// What it counts for, by its time and the author's weight.
        found: u64,
    },
    /// The evidence proves nothing.
    #[error("{0}")]
    Evidence(#[from] EvidenceError),
    /// The equivocation was fined already, or is older than is held against anyone.
    #[error("an equivocation at height {0} is fined once, within {EVIDENCE_BLOCKS_MAX} heights")]
    OldEvidence(u64),
}

/// Why a block does not follow on a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Of another ledger.
    #[error("a block of ledger {found:?}, expected {expected:?}")]
    OtherLedger {
        /// The ledger named.
        found: Hash,
        /// Ours.
        expected: Hash,
    },
    /// Of another height.
    #[error("a block of height {found}, expected {expected}")]
    Height {
        /// The height named.
        found: u64,
        /// The one that is next.
        expected: u64,
    },
    /// Follows another block.
    #[error("a block that follows {found:?}, the last one is {expected:?}")]
    Parent {
        /// The parent named.
        found: Hash,
        /// The last block.
        expected: Hash,
    },
    /// Not later than its parent, or too far ahead of our clock.
    #[error("a block of time {found_ms} ms, accepted is from {min_ms} to {max_ms}")]
    Time {
        /// The time named.
        found_ms: u64,
        /// The earliest that is accepted.
        min_ms: u64,
        /// The latest that is accepted.
        max_ms: u64,
    },
    /// Not of the committee.
    #[error("the proposer {0:?} is not in the committee of this height")]
    Proposer(PeerId),
    /// The proposer's election proof is wrong.
    #[error("the beacon's proof is not the proposer's {0:?}")]
    BeaconProof(PeerId),
    /// Longer than a block may be.
    #[error("a block of {0} bytes, at most {BLOCK_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// The header does not stand for these transactions.
    #[error("the transactions' root is not the header's")]
    TransactionsRoot,
    /// A transaction that does not count.
    #[error("transaction {index}: {refusal}")]
    Transaction {
        /// Which.
        index: usize,
        /// Why.
        refusal: Refusal,
    },
    /// It leads to another state than the header says.
    #[error("the block leads to state {found:?}, its header says {expected:?}")]
    StateRoot {
        /// Computed here.
        found: Hash,
        /// In the header.
        expected: Hash,
    },
    /// It leads to another committee than the header says.
    #[error("the block leads to another committee than its header says")]
    Committee,
}
