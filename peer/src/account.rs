//! What a peer tells about its ledger: the JSON below `/api/ledger`, and the
//! part of `/api/status` that is about it.
//!
//! Ids are lower-case hexadecimal; times are Unix milliseconds; credits are in
//! millionths; power is in power units (1: a core at 10⁹ Whetstone operations a
//! second, for a day).

use crate::recovery::RecoveryDocument;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a peer takes part in a ledger, or founds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedgerPlan {
    /// Time from block to block of a ledger that is watched for a minute, where
    /// one is founded; `None` for the usual rules.
    pub(crate) epoch: Option<Duration>,
    /// Whether it drills, checks others and decides on blocks, or only follows.
    pub(crate) takes_part: bool,
    /// Whether it tells wrong results once it weighs something, to be caught at it.
    pub(crate) lies: bool,
}

/// The ledger as it is at this peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LedgerStatus {
    /// Hash of the genesis document.
    pub(crate) ledger: String,
    pub(crate) name: String,
    pub(crate) height: u64,
    /// Hash of the last block, and of the state after it.
    pub(crate) head: String,
    pub(crate) state_root: String,
    pub(crate) time_ms: u64,
    /// Time from block to block.
    pub(crate) epoch_ms: u64,
    /// Whether this peer only follows.
    pub(crate) follows_only: bool,
    /// Who decides on the next block.
    pub(crate) committee: Vec<MemberWeight>,
    /// Weight that a decision needs, and that was heard from for the next block.
    pub(crate) quorum_weight: u64,
    pub(crate) heard_weight: u64,
    /// Why there are no new blocks, for people.
    pub(crate) waiting: Option<String>,
    /// The latest recovery that this peer follows.
    pub(crate) recovery: Option<String>,
    /// Recoveries that others follow and this peer could, if its owner says so; at most 8.
    pub(crate) recoveries_offered: Vec<RecoveryDocument>,
    /// What others of this swarm keep that never meets this ledger again: another
    /// ledger, or the chain of a recovery.
    pub(crate) other_ledger: Option<String>,
    /// Micro-credits that were ever made, and taken out.
    pub(crate) minted: u64,
    pub(crate) burned: u64,
    pub(crate) drills: DrillCounts,
    /// This peer; `None` until it is registered.
    pub(crate) own: Option<Standing>,
    /// Micro-credits that this peer can spend.
    pub(crate) balance: u64,
    /// Registered peers by weight, at most 64.
    pub(crate) standings: Vec<Standing>,
    /// The latest faults, newest last, at most 16.
    pub(crate) faults: Vec<FaultView>,
    /// The latest blocks, newest last, at most 64.
    pub(crate) recent: Vec<RecentBlock>,
}

/// A member of the committee.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberWeight {
    pub(crate) peer: String,
    pub(crate) weight: u64,
    /// Whether it is connected, or this very peer.
    pub(crate) connected: bool,
}

/// How drill tasks ended, over the whole ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrillCounts {
    /// Tasks that go on.
    pub(crate) open: u64,
    /// Results were compared and agreed, after a dispute or without one.
    pub(crate) agreed: u64,
    /// A trusted owner's word was taken.
    pub(crate) trusted: u64,
    /// Results differed.
    pub(crate) disputed: u64,
    /// Nobody knows who is right.
    pub(crate) void: u64,
    /// Too few drillers were found.
    pub(crate) expired: u64,
    /// Faults that were named.
    pub(crate) faults: u64,
}

/// What one peer weighs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) peer: String,
    /// Average of the last weeks, and all there ever was.
    pub(crate) effective_power: f64,
    pub(crate) real_power: f64,
    pub(crate) weight: u64,
    /// By weight, from 1; `None` without any.
    pub(crate) rank: Option<u64>,
    pub(crate) reliability: ReliabilityView,
    /// Consecutive valid results of its owner.
    pub(crate) streak: u32,
    /// Proven faults of its owner.
    pub(crate) faults: u32,
    /// Whether it stands by: it takes no part until it says otherwise.
    pub(crate) standby: bool,
}

/// How often a peer was there when others asked or had leased it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReliabilityView {
    /// Answers and kept leases in a thousand, later and longer ones counting more; `None` before the first.
    pub(crate) permille: Option<u32>,
    /// Probes, of all time, and how many of them were answered.
    pub(crate) probes: u64,
    pub(crate) probes_answered: u64,
    /// Leases that users have reported, of all time, and how many of them were kept to the end.
    pub(crate) leases: u64,
    pub(crate) leases_kept: u64,
}

/// A fault, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FaultView {
    pub(crate) peer: String,
    /// `wrong-result`, `copied`, `unrevealed`, `disagreement` or `equivocation`.
    pub(crate) kind: String,
    pub(crate) task: Option<String>,
    /// The block that says so.
    pub(crate) height: u64,
    /// Real power that was lost by it.
    pub(crate) lost: f64,
}

/// A block in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecentBlock {
    pub(crate) height: u64,
    pub(crate) time_ms: u64,
    pub(crate) proposer: String,
    pub(crate) state_root: String,
    pub(crate) transactions: usize,
}

/// A block with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BlockView {
    pub(crate) height: u64,
    pub(crate) hash: String,
    pub(crate) parent: String,
    pub(crate) time_ms: u64,
    pub(crate) proposer: String,
    pub(crate) state_root: String,
    /// The round that decided, and who signed.
    pub(crate) round: u32,
    pub(crate) signers: Vec<String>,
    pub(crate) transactions: Vec<TransactionView>,
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransactionView {
    pub(crate) id: String,
    pub(crate) author: String,
    pub(crate) nonce: u64,
    /// `register`, `standby`, `transfer`, `commit`, `reveal`, `probe` or `evidence`.
    pub(crate) kind: String,
    /// For people.
    pub(crate) what: String,
    /// The block that has it; `None` while it waits for one.
    pub(crate) height: Option<u64>,
}

/// An account and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountView {
    pub(crate) peer: String,
    /// Micro-credits that can be spent, are promised, and wait for a comparison.
    pub(crate) balance: u64,
    pub(crate) escrow: u64,
    pub(crate) held: u64,
    /// Counted transactions so far.
    pub(crate) nonce: u64,
    pub(crate) reliability: ReliabilityView,
    pub(crate) registration: Option<RegistrationView>,
}

/// What a peer has registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegistrationView {
    pub(crate) owner: String,
    /// The largest drill units that it does.
    pub(crate) class: u8,
    pub(crate) standby: bool,
    pub(crate) registered_at: u64,
    /// When it last gave a sign of life, as a height.
    pub(crate) alive_at: u64,
    /// Below this height it gets no probation unit.
    pub(crate) barred_until: u64,
}

/// The drill tasks that are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DrillsView {
    pub(crate) height: u64,
    pub(crate) counts: DrillCounts,
    pub(crate) open: Vec<TaskView>,
    /// The latest ones that ended with results, newest last.
    pub(crate) settled: Vec<TaskView>,
}

/// A drill task, each seat explained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskView {
    pub(crate) task: String,
    /// Where it comes from, for people.
    pub(crate) origin: String,
    /// Rows, columns and depth of the product.
    pub(crate) shape: [u32; 3],
    /// What it is worth, shared by all who agree.
    pub(crate) difficulty: f64,
    pub(crate) stages: Vec<StageView>,
    pub(crate) seats: Vec<SeatView>,
    /// `agreed`, `trusted`, `all-lost` or `void`; `None` while it goes on.
    pub(crate) outcome: Option<String>,
    pub(crate) settled_at: Option<u64>,
    /// The digest that counts.
    pub(crate) digest: Option<String>,
    /// What the certificate that was cut out of the ledger proves, or why it does
    /// not; only where one task is explained.
    pub(crate) certificate: Option<CertificateView>,
}

/// One election of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StageView {
    pub(crate) number: u8,
    /// `opening`, `replica`, `escalation` or `referee`.
    pub(crate) kind: String,
    /// The block that opened it, and the height whose weights count.
    pub(crate) opened: u64,
    pub(crate) weights_of: u64,
    /// Thousandths of seats that are expected now.
    pub(crate) expected_milli: u64,
    /// Owners that could be elected.
    pub(crate) candidates: u32,
    /// `committing`, `revealing` or `closed`.
    pub(crate) phase: String,
}

/// One driller of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeatView {
    pub(crate) worker: String,
    pub(crate) owner: String,
    pub(crate) stage: u8,
    /// How it came to the seat, for people.
    pub(crate) elected: String,
    pub(crate) weight: u64,
    pub(crate) commitment: String,
    /// The digest that it has shown.
    pub(crate) revealed: Option<String>,
    /// Whether it kept its result to itself for too long.
    pub(crate) forfeited: bool,
    /// Whether its digest is the one that counts, once there is one.
    pub(crate) agrees: Option<bool>,
}

/// What a drill certificate proves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateView {
    /// Whether every signature, election and opening in it is right.
    pub(crate) valid: bool,
    /// Why not.
    pub(crate) problem: Option<String>,
    /// Owners whose results agree.
    pub(crate) agreeing: Vec<String>,
    /// Workers who revealed another digest.
    pub(crate) dissenting: Vec<String>,
    /// Workers who did not open their commitments.
    pub(crate) unrevealed: Vec<String>,
    /// Its length.
    pub(crate) bytes: usize,
}

/// The power of one peer, and where every point of it comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PowerView {
    pub(crate) standing: Standing,
    /// Peers that have a rank.
    pub(crate) ranked: u64,
    /// Weight of all peers together.
    pub(crate) total_weight: u64,
    pub(crate) drilling: BranchView,
    pub(crate) training: BranchView,
    /// How far training counts, in thousandths of the drilling that backs it.
    pub(crate) kappa_milli: u32,
    /// Credited for results that nobody has compared yet; a fault takes it back.
    pub(crate) unverified: f64,
    /// Entries that are not kept one by one any more.
    pub(crate) folded: u64,
    /// Credits and penalties, oldest first.
    pub(crate) entries: Vec<PowerEntry>,
}

/// Power of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BranchView {
    pub(crate) effective: f64,
    pub(crate) real: f64,
    /// What entries older than those shown have brought and taken.
    pub(crate) folded_gained: f64,
    pub(crate) folded_lost: f64,
}

/// A credit or a penalty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PowerEntry {
    pub(crate) height: u64,
    pub(crate) at_ms: u64,
    /// `drilling` or `training`.
    pub(crate) branch: String,
    pub(crate) gained: f64,
    pub(crate) lost: f64,
    pub(crate) cause: String,
}

/// What is asked of the ledger: the rest of the path below `/api/ledger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Block(u64),
    /// A peer's id, or the beginning of one; empty for this peer.
    Account(String),
    /// A transaction's id, or the beginning of one.
    Transaction(String),
    Drills,
    /// A task's id, or the beginning of one.
    Drill(String),
    /// As `Account`.
    Power(String),
}

impl Question {
    /// Reads a path: what, and which.
    pub(crate) fn read(what: &str, which: &str) -> Option<Self> {
        Some(match (what, which) {
            ("block", height) => Self::Block(height.parse().ok()?),
            ("drills", "") => Self::Drills,
            (_, name) if !name.bytes().all(|byte| byte.is_ascii_hexdigit()) || name.len() > 64 => return None,
            ("account", peer) => Self::Account(peer.to_ascii_lowercase()),
            ("power", peer) => Self::Power(peer.to_ascii_lowercase()),
            ("transaction", id) if !id.is_empty() => Self::Transaction(id.to_ascii_lowercase()),
            ("drill", task) if !task.is_empty() => Self::Drill(task.to_ascii_lowercase()),
            _ => return None,
        })
    }

    /// The path that [`Self::read`] reads: what, and which.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Block(height) => format!("block/{height}"),
            Self::Account(peer) => format!("account/{peer}"),
            Self::Transaction(id) => format!("transaction/{id}"),
            Self::Drills => "drills/".into(),
            Self::Drill(task) => format!("drill/{task}"),
            Self::Power(peer) => format!("power/{peer}"),
        }
    }
}

/// A transfer, as `manta ledger transfer` asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransferRequest {
    /// Whose account: an id, or the beginning of one that is registered.
    pub(crate) to: String,
    /// Micro-credits.
    pub(crate) amount: u64,
}

/// The answer to it: 202. It counts once a block has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transferred {
    /// The transaction's id.
    pub(crate) transaction: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_are_spelled() {
        for question in [
            Question::Block(7),
            Question::Account(String::new()),
            Question::Account("ab".into()),
            Question::Transaction("0f".into()),
            Question::Drills,
            Question::Drill("ff".into()),
            Question::Power(String::new()),
        ] {
            let path = question.path();
            let (what, which) = path.split_once('/').expect("two parts");
            assert_eq!(Question::read(what, which), Some(question));
        }
        let long = "a".repeat(65);
        for (what, which) in
            [("block", "x"), ("block", "-1"), ("drill", ""), ("account", "../"), ("power", &*long), ("salary", "")]
        {
            assert_eq!(Question::read(what, which), None, "{what}/{which}");
        }
    }
}
