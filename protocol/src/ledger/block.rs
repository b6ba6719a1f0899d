//! Blocks: one an epoch, each with the root of the state that it leads to.
//!
//! A block is not signed by itself: its proposer signs the proposal that
//! carries it, and the certificate of its height stands for its hash.

use super::limits::{BLOCK_BYTES_MAX, TRANSACTIONS_MAX};
use super::merkle::{self, Inclusion};
use super::transaction::Transaction;
use crate::ids::{Hash, PeerId, VrfProof};
use crate::wire::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

const BLOCK_DOMAIN: &str = "manta 2026-11 block v1";

/// All of a block but its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The hash of the genesis document.
    pub ledger: Hash,
    /// Counts blocks; the first has 1.
    pub height: u64,
    /// Hash of the block before; of the first, the ledger's name.
    pub parent: Hash,
    /// When it was proposed, in Unix milliseconds; later than the block before.
    pub time_ms: u64,
    /// Who proposed it: a member of the height's committee.
    pub proposer: PeerId,
    /// The proposer's proof for the beacon election over the beacon before.
    pub beacon_proof: VrfProof,
    /// Root over the transactions' ids.
    pub transactions: Hash,
    /// Root of the state after this block.
    pub state: Hash,
    /// Hash of the committee of the next height.
    pub committee: Hash,
}

/// A header and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// At most 256, in the order in which they count.
    pub transactions: Vec<Transaction>,
}

impl Header {
    /// The block's name: derived from the header's canonical bytes.
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key(BLOCK_DOMAIN, &codec::encode(self)))
    }
}

impl Block {
    /// The block's name.
    pub fn hash(&self) -> Hash {
        self.header.hash()
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a block; only its encoding and its size are judged.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let block: Self = codec::decode(bytes, BLOCK_BYTES_MAX)?;
        match block.transactions.len() {
            found if found > TRANSACTIONS_MAX => Err(CodecError::TooLong { found, max: TRANSACTIONS_MAX }),
            _ => Ok(block),
        }
    }

    /// That the transaction at `index` is in the block: a proof under
    /// [`Header::transactions`].
    pub fn prove(&self, index: usize) -> Option<Inclusion> {
        merkle::prove(&leaves(&self.transactions), index)
    }
}

/// The root over these transactions.
pub fn transactions_root(transactions: &[Transaction]) -> Hash {
    merkle::root(&leaves(transactions))
}

fn leaves(transactions: &[Transaction]) -> Vec<Hash> {
    transactions.iter().map(|transaction| merkle::leaf(transaction.id().as_bytes())).collect()
}
