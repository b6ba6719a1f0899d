//! What peers say to each other about the ledger, besides what consensus and
//! transactions say for themselves.

use crate::consensus::Proposal;
use crate::ids::{Hash, RunId, Signature};
use crate::ledger::limits::TRANSACTION_BYTES_MAX;
use crate::ledger::{Genesis, Transaction};
use crate::wire::codec;
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Bytes of decided blocks in one message: with its envelope it is within the limit of one.
pub const BLOCKS_BYTES_MAX: usize = 58 * 1024;
/// Longest genesis document, in bytes.
pub const GENESIS_BYTES_MAX: usize = 32 * 1024;

/// Gossip: which ledger the author keeps and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// The hash of its genesis document.
    pub ledger: Hash,
    /// The height of its last block.
    pub height: u64,
    /// Whether one owner alone holds all weight: then nobody loses by leaving it.
    pub alone: bool,
    /// The ledger's hash or, after a recovery, that of the latest recovery.
    pub chain: Hash,
}

/// Frame: asks for a ledger's genesis document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisAsk {
    /// Which ledger.
    pub ledger: Hash,
}

/// Frame: the genesis document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisReply {
    /// It hashes to the ledger's name.
    pub genesis: Genesis,
}

/// Frame: the proposal that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalReply {
    /// As its author signed it.
    pub proposal: Proposal,
}

/// Frame: are you there? The author was elected to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Of which ledger.
    pub ledger: Hash,
    /// The height whose beacon elected the author.
    pub height: u64,
    /// Which of its seats.
    pub seat: u32,
}

/// Frame: here I am.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// The probe that is answered.
    pub probe: Probe,
    /// The answering peer's over ledger, height, seat and checker, for the ledger.
    pub signature: Signature,
}

/// Frame: the author takes part in a run of the receiver, which may report on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseConsent {
    /// The run.
    pub run: RunId,
    /// On which ledger.
    pub ledger: Hash,
    /// The author's last block when it began.
    pub height: u64,
    /// The author's over ledger, receiver, run and height, for the ledger.
    pub signature: Signature,
}

impl Body for Transaction {
    fn validate(&self) -> Result<(), String> {
        let bytes = codec::encode(self).len();
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(format!("a transaction of {bytes} bytes, at most {TRANSACTION_BYTES_MAX} are accepted"));
        }
        Ok(())
    }
}

impl Body for LedgerStatus {}
impl Body for GenesisAsk {}
impl Body for Probe {}
impl Body for ProbeReply {}
impl Body for LeaseConsent {}

impl Body for GenesisReply {
    fn validate(&self) -> Result<(), String> {
        self.genesis.validate()
    }
}

impl Body for ProposalReply {
    fn validate(&self) -> Result<(), String> {
        self.proposal.validate()
    }
}
