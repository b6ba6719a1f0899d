//! Consensus: how a committee decides on one value a height, for good.
//!
//! Tendermint (Buchman, Kwon, Milosevic 2018, "The latest gossip on BFT
//! consensus") with votes weighted by power: a drawn member proposes, all
//! prevote, and who saw a quorum of prevotes precommits; a quorum of precommits
//! decides. Less than a third of the weight may lie, crash or be cut off: no two
//! members ever decide differently, and while a quorum can talk, heights follow
//! one another. Without a quorum the height waits, [`Engine::progress`] says
//! who is missing, and it goes on from there when they are back.
//!
//! The [`Engine`] decides one height after the other among live members. The
//! [`Certificate`] that a decision leaves is what everyone else follows by:
//! [`sync`] for peers that were away, [`light`] for those who hold no state.

pub mod certificate;
pub mod committee;
pub mod engine;
pub mod evidence;
pub mod light;
pub mod recovery;
pub mod sync;
pub mod vote;
mod wal;

pub use certificate::{Certificate, CertificateError, Seal};
pub use committee::{Committee, CommitteeError};
pub use engine::{Config, Engine, Identify, Input, LogError, Output, Progress, Refusal, Start, Timeouts, Worth};
pub use evidence::{Evidence, EvidenceError};
pub use light::{LightClient, LightError, Link};
pub use recovery::{Plan, Recovery, RecoveryAsk, RecoveryError, RecoveryReply};
pub use sync::{Blocks, BlocksAsk, Decision, Sync, SyncError};
pub use vote::{NIL, Proposal, ProposalAsk, Statement, Step, Vote, Votes};

/// Members of one committee: below, everyone votes; above, the ledger draws a sample.
pub const COMMITTEE_MAX: usize = 200;
/// Longest value, in bytes: with its proposal it fits one envelope.
pub const VALUE_BYTES_MAX: usize = 48 * 1024;
/// Votes in one message: those of a whole committee fit one envelope.
pub const VOTES_PER_MESSAGE_MAX: usize = 256;
/// Heights are below this, so that adding to one never overflows.
pub const HEIGHT_MAX: u64 = 1 << 48;
/// Rounds of a height are below this: at the longest waits, years of them.
pub const ROUND_MAX: u32 = 1 << 20;
