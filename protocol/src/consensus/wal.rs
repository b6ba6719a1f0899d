//! The log of one height: what a member knew when it signed.
//!
//! A [`Record`] is everything that the engine was told since the record before,
//! and what it signed upon it. It is durable before any of these signatures
//! leaves the machine. Replaying the records gives the same engine again, so a
//! member that was killed at any point goes on where it was and never signs
//! something else for the same step. What was not yet durable was not yet said.
//!
//! Records of decided heights are of no use: the driver drops them once the
//! block and its certificate are durable.

use super::vote::{Proposal, Step, Vote, Votes};
use crate::ids::{Hash, Signature};
use crate::wire::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

/// Longest record, in bytes: the largest batch of votes and values is far below.
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One thing that moved the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// The value that we built, to propose it.
    Built {
        round: u32,
        value: Hash,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Someone's proposal, and what the ledger thinks of its value.
    Proposed { proposal: Proposal, valid: bool },
    /// Someone's vote.
    Voted { vote: Vote },
    /// A quorum of prevotes in which some differ from those that we counted.
    Supported { votes: Votes },
    /// A wait that was over.
    Elapsed { round: u32, step: Step },
    /// What we signed.
    Signed { round: u32, step: Step, value: Hash, polka: u32, signature: Signature },
}

/// What becomes durable at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) chain: Hash,
    pub(super) height: u64,
    pub(super) events: Vec<Event>,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, RECORD_BYTES_MAX)
    }
}
