//! Why a peer has the power that it has: every point of real power, explained.
//!
//! A history keeps the latest entries; older ones are folded into sums. The
//! sum of what is folded and of all entries is the real power, to the last
//! millionth, as long as each credit and penalty of a [`PowerRecord`] is noted.
//!
//! [`PowerRecord`]: super::PowerRecord

use super::MicroPower;
use super::record::Branch;
use crate::ids::{Hash, RunId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Entries that one history keeps.
pub const ENTRIES_MAX: usize = 32;

/// What gave or took points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A founder's power in the genesis document.
    Start,
    /// A drill task whose results agreed, with so many seats.
    Drill {
        /// The task.
        task: Hash,
        /// Seats that were credited alike.
        seats: u32,
    },
    /// A probation unit that elected drillers confirmed.
    Probation {
        /// The task.
        task: Hash,
    },
    /// An accepted training order.
    Training {
        /// The run.
        run: RunId,
    },
    /// A result that most others proved wrong.
    WrongResult {
        /// The task.
        task: Hash,
    },
    /// A result that was committed to and not revealed.
    Unrevealed {
        /// The task.
        task: Hash,
    },
    /// A task of this peer whose results differ, under the rule that then all lose.
    Disagreement {
        /// The task.
        task: Hash,
    },
    /// Two statements of consensus that nobody signs both.
    Equivocation {
        /// The block that has the evidence.
        height: u64,
    },
}

/// One credit or penalty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The block that settled it.
    pub height: u64,
    /// When that was, in Unix milliseconds.
    pub at_ms: u64,
    /// Whose sum it belongs to.
    pub branch: Branch,
    /// Real power gained.
    pub gained: MicroPower,
    /// Real power lost.
    pub lost: MicroPower,
    /// Why.
    pub cause: Cause,
}

/// Points of one branch that were folded together. Each sum stops at 2⁶⁴ − 1
/// millionths, which is 18 million million days of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// Real power gained.
    pub gained: MicroPower,
    /// Real power lost.
    pub lost: MicroPower,
}

/// All that one peer's real power comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Entries of drilling that are not kept one by one.
    drilling: Folded,
    /// Entries of training that are not kept one by one.
    training: Folded,
    /// How many entries were folded.
    folded: u64,
    /// The latest entries, oldest first.
    entries: Vec<Entry>,
}

impl History {
    /// Notes what [`PowerRecord::credit`](super::PowerRecord::credit) or
    /// [`penalise`](super::PowerRecord::penalise) has answered.
    pub fn note(&mut self, entry: Entry) {
        self.entries.push(entry);
        if self.entries.len() > ENTRIES_MAX {
            let oldest = self.entries.remove(0);
            let sums = match oldest.branch {
                Branch::Drilling => &mut self.drilling,
                Branch::Training => &mut self.training,
            };
            sums.gained = sums.gained.plus(oldest.gained);
            sums.lost = sums.lost.plus(oldest.lost);
            self.folded = self.folded.saturating_add(1);
        }
    }

    /// The latest entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many entries are older than these, and what they sum to.
    pub fn folded(&self, branch: Branch) -> (u64, Folded) {
        let sums = match branch {
            Branch::Drilling => self.drilling,
            Branch::Training => self.training,
        };
        (self.folded, sums)
    }

    /// What all of it sums to: the real power of `branch`.
    pub fn total(&self, branch: Branch) -> MicroPower {
        let (_, Folded { gained, lost }) = self.folded(branch);
        let own = || self.entries.iter().filter(|entry| entry.branch == branch);
        let gained = u128::from(gained.0) + own().map(|entry| u128::from(entry.gained.0)).sum::<u128>();
        let lost = u128::from(lost.0) + own().map(|entry| u128::from(entry.lost.0)).sum::<u128>();
        MicroPower(u64::try_from(gained.saturating_sub(lost)).unwrap_or(u64::MAX))
    }

    /// Checks a history from elsewhere.
    ///
    /// # Errors
    /// If it has more entries than are kept.
    pub fn validate(&self) -> Result<(), String> {
        let found = self.entries.len();
        if found > ENTRIES_MAX { Err(format!("{found} entries of power, at most {ENTRIES_MAX}")) } else { Ok(()) }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => write!(f, "power in the genesis document"),
            Self::Drill { task, seats } => {
                write!(f, "drilled task {} in agreement, one of {seats} seats", task.short())
            }
            Self::Probation { task } => write!(f, "probation unit {}, confirmed by elected drillers", task.short()),
            Self::Training { run } => write!(f, "training run {}, accepted", run.short()),
            Self::WrongResult { task } => write!(f, "result of task {} proven wrong", task.short()),
            Self::Unrevealed { task } => write!(f, "result of task {} committed and not revealed", task.short()),
            Self::Disagreement { task } => write!(f, "results of task {} differ: all lose its value", task.short()),
            Self::Equivocation { height } => write!(f, "two votes for one place, shown in block {height}"),
        }
    }
}
