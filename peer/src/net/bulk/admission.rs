//! Who may send and read: the members of the runs that this peer takes part in.
//!
//! Peers learn of a run at slightly different times, so a question may wait for
//! a grace period for the answer to become yes.

use manta_protocol::ids::{PeerId, RunId};
use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// The table of admitted runs.
#[derive(Debug)]
pub(super) struct Admission {
    runs: RwLock<HashMap<RunId, AdmittedRun>>,
    changes: watch::Sender<u64>,
    /// How long a member that is early is kept waiting.
    grace: Duration,
}

#[derive(Debug)]
struct AdmittedRun {
    members: BTreeSet<PeerId>,
    max_chunk_bytes: u32,
}

impl Admission {
    pub(super) fn new(grace: Duration) -> Self {
        Self { runs: RwLock::default(), changes: watch::Sender::new(0), grace }
    }

    pub(super) fn admit(&self, run: RunId, members: BTreeSet<PeerId>, max_chunk_bytes: u32) {
        let admitted = AdmittedRun { members, max_chunk_bytes };
        self.runs.write().unwrap_or_else(PoisonError::into_inner).insert(run, admitted);
        self.changes.send_modify(|version| *version += 1);
    }

    pub(super) fn release(&self, run: &RunId) {
        self.runs.write().unwrap_or_else(PoisonError::into_inner).remove(run);
        self.changes.send_modify(|version| *version += 1);
    }

    /// The longest chunk that `peer` may send in `run`, if it is a member.
    pub(super) fn max_chunk_bytes(&self, run: &RunId, peer: &PeerId) -> Option<u32> {
        let runs = self.runs.read().unwrap_or_else(PoisonError::into_inner);
        runs.get(run).filter(|run| run.members.contains(peer)).map(|run| run.max_chunk_bytes)
    }

    /// Whether `peer` is a member of any run.
    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        let runs = self.runs.read().unwrap_or_else(PoisonError::into_inner);
        runs.values().any(|run| run.members.contains(peer))
    }

    /// Asks now and after every change, until there is an answer or the grace is over.
    pub(super) async fn within_grace<T>(&self, ask: impl Fn(&Self) -> Option<T>) -> Option<T> {
        let mut changes = self.changes.subscribe();
        let answered = async {
            loop {
                if let Some(answer) = ask(self) {
                    return Some(answer);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(self.grace, answered).await.ok().flatten()
    }

    /// Completes when `run` is not admitted, which may be at once.
    pub(super) async fn released(&self, run: &RunId) {
        let mut changes = self.changes.subscribe();
        while self.runs.read().unwrap_or_else(PoisonError::into_inner).contains_key(run) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn members_are_served_while_their_run_lasts() {
        let table = Admission::new(Duration::from_secs(10));
        let (run, other, member, stranger) = (RunId([1; 32]), RunId([2; 32]), PeerId([3; 32]), PeerId([4; 32]));
        table.admit(run, [member].into(), 100);
        assert_eq!(table.max_chunk_bytes(&run, &member), Some(100));
        assert_eq!(table.max_chunk_bytes(&run, &stranger), None);
        assert_eq!(table.max_chunk_bytes(&other, &member), None);
        assert!(table.is_member(&member) && !table.is_member(&stranger));
        table.released(&other).await;
        let ((), ()) = tokio::join!(table.released(&run), async { table.release(&run) });
        assert!(!table.is_member(&member));
    }

    #[tokio::test]
    async fn an_early_member_waits() {
        let table = Admission::new(Duration::from_secs(10));
        let (run, member) = (RunId([1; 32]), PeerId([3; 32]));
        let asked = table.within_grace(|table| table.max_chunk_bytes(&run, &member));
        let (answer, ()) = tokio::join!(asked, async { table.admit(run, [member].into(), 5) });
        assert_eq!(answer, Some(5));
    }

    #[tokio::test]
    async fn a_stranger_is_refused_after_the_grace() {
        let table = Admission::new(Duration::from_millis(20));
        let asked_at = std::time::Instant::now();
        assert_eq!(table.within_grace(|table| table.max_chunk_bytes(&RunId([1; 32]), &PeerId([9; 32]))).await, None);
        assert!(asked_at.elapsed() >= Duration::from_millis(20));
    }
}
