//! How a simulated ledger went.

use super::options::Setup;
use serde::Serialize;

/// How a history went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Whether every checker was content.
    pub ok: bool,
    /// What was simulated, with all that the seed has chosen.
    pub setup: Setup,
    /// What the checkers found wrong.
    pub violations: Vec<String>,
    /// The chain's height at the end.
    pub height: u64,
    /// The root of the state there.
    pub state_root: String,
    /// Members of the last committee.
    pub committee: usize,
    /// Two different blocks of one height that machines made durable.
    pub forks: u64,
    /// Rounds that came to nothing.
    pub rounds_lost: u64,
    /// Longest time from one height to the next, in virtual milliseconds.
    pub longest_gap_ms: u64,
    /// Half of all blocks were durable on the last honest machine within so
    /// many thousandths of the time that their proposals took to reach all.
    pub finality_permille: u64,
    /// Drill tasks whose results were compared and agreed.
    pub tasks_agreed: u64,
    /// Drill tasks in which a trusted owner's word was taken.
    pub tasks_trusted: u64,
    /// Drill tasks whose results differed.
    pub tasks_disputed: u64,
    /// Keys named for wrong results or copies.
    pub liars_named: usize,
    /// Keys named for two statements that exclude each other.
    pub equivocators_named: usize,
    /// Real power that honest keys lost for results, in millionths.
    pub honest_loss: u64,
    /// Recoveries that machines have followed.
    pub recovered: u64,
    /// Machines that were offered a recovery to follow.
    pub offered: usize,
    /// Machines that were told that others keep another ledger.
    pub told_apart: usize,
    /// Peers that answered probes, and probes in all.
    pub probes: (u64, u64),
    /// Faults that came.
    pub faults: u64,
    /// Machines that started again.
    pub restarts: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: u64,
    /// Events that happened.
    pub events: u64,
    /// Gossip messages carried over links.
    pub gossip_messages: u64,
    /// Direct messages sent.
    pub frames: u64,
    /// Records that were made durable.
    pub writes: u64,
    /// Hash of the trace: equal histories have equal hashes.
    pub trace_hash: String,
    /// The command that gives this history again.
    pub replay: String,
}

impl Summary {
    /// A summary of nothing yet.
    pub(super) fn new(setup: &Setup, replay: String) -> Self {
        Self {
            ok: false,
            setup: setup.clone(),
            violations: Vec::new(),
            height: 0,
            state_root: String::new(),
            committee: 0,
            forks: 0,
            rounds_lost: 0,
            longest_gap_ms: 0,
            finality_permille: 0,
            tasks_agreed: 0,
            tasks_trusted: 0,
            tasks_disputed: 0,
            liars_named: 0,
            equivocators_named: 0,
            honest_loss: 0,
            recovered: 0,
            offered: 0,
            told_apart: 0,
            probes: (0, 0),
            faults: 0,
            restarts: 0,
            virtual_ms: 0,
            events: 0,
            gossip_messages: 0,
            frames: 0,
            writes: 0,
            trace_hash: String::new(),
            replay,
        }
    }
}
