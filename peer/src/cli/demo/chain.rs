//! What the peers of a demo say of their ledger: whether they agree, who lied.

use crate::account::{DrillCounts, LedgerStatus, Standing};
use crate::cli::format;
use crate::status::Status;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Faults that name a liar, or that blame everyone for one.
const LIES: [&str; 2] = ["wrong-result", "copied"];
const BLAME: &str = "disagreement";
/// The fault of a result that was not shown in time.
const LATE: &str = "unrevealed";

/// All blocks that any peer has told of, while the demo goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// State roots by ledger and height, and by which peers.
    roots: BTreeMap<(String, u64), BTreeMap<String, BTreeSet<usize>>>,
    /// The latest of each peer.
    ledgers: BTreeMap<usize, LedgerStatus>,
}

/// The ledger at the end, as scripts get it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Outcome {
    pub(super) blocks: u64,
    /// After the latest block that all peers have.
    pub(super) state_root: Option<String>,
    pub(super) drills_agreed: u64,
    pub(super) drills_disputed: u64,
    /// Effective power by peer.
    pub(super) power: BTreeMap<String, f64>,
    /// Peers whose results were proven wrong.
    pub(super) liars_named: Vec<String>,
    /// Power that others lost for a result of a drill, lies of others included. What
    /// they lost for results that they did not show is not a liar's doing.
    pub(super) honest_loss: f64,
    /// Power that others than the liar lost for results that they committed to and
    /// did not show in time: they were slow, away, or cut off.
    pub(super) late_loss: f64,
    /// Why the peers do not agree, or the wrong one was named.
    #[serde(skip)]
    pub(super) problem: Option<String>,
    /// For people.
    #[serde(skip)]
    pub(super) told: String,
    #[serde(skip)]
    pub(super) powers_told: String,
}

impl Watch {
    /// Takes what all peers say now.
    pub(super) fn observe(&mut self, statuses: &[Option<Status>]) {
        for (peer, status) in statuses.iter().enumerate() {
            let ledger = status.as_ref().and_then(|status| status.ledger.as_ref());
            let Some(ledger) = ledger.filter(|ledger| !ledger.ledger.is_empty()) else { continue };
            for block in &ledger.recent {
                let roots = self.roots.entry((ledger.ledger.clone(), block.height)).or_default();
                roots.entry(block.state_root.clone()).or_default().insert(peer);
            }
            self.ledgers.insert(peer, ledger.clone());
        }
    }

    /// The ledger that is farthest.
    fn farthest(&self) -> Option<&LedgerStatus> {
        self.ledgers.values().max_by_key(|ledger| ledger.height)
    }

    /// For people, while it goes on.
    pub(super) fn describe(&self) -> String {
        let Some(ledger) = self.farthest() else { return String::new() };
        let caught = if liars(ledger).is_empty() { "" } else { ", a liar was caught" };
        let (height, drills) = (ledger.height, &ledger.drills);
        format!("block {height}, {}{caught}", drills_told(drills))
    }

    /// Whether this peer was named as a liar.
    pub(super) fn has_named(&self, peer: &str) -> bool {
        self.farthest().is_some_and(|ledger| liars(ledger).contains(peer))
    }

    /// What it all came to. `peers` are the ids by number, `there` those that
    /// still answer, `liar` who was to lie.
    pub(super) fn outcome(&self, peers: &[String], there: &BTreeSet<usize>, liar: Option<usize>) -> Outcome {
        let Some(ledger) = self.farthest() else {
            return Outcome { told: "none was founded in that time".into(), ..Outcome::default() };
        };
        let named = liars(ledger);
        let liar = liar.and_then(|liar| peers.get(liar));
        let is_honest = |peer: &&String| Some(*peer) != liar;
        let lost = |counts: &dyn Fn(&str) -> bool| {
            let losses = ledger.faults.iter().filter(|fault| is_honest(&&fault.peer) && counts(&fault.kind));
            // The sum of nothing would be a negative zero.
            losses.map(|fault| fault.lost).fold(0.0, |sum, lost| sum + lost)
        };
        let honest_loss = lost(&|kind| LIES.contains(&kind) || kind == BLAME);
        let late_loss = lost(&|kind| kind == LATE);
        let label = |peer: &str| match peers.iter().position(|id| id == peer) {
            Some(index) => format!("peer {index}"),
            None => format::short(peer).to_owned(),
        };
        let common = self.common(&ledger.ledger, there);
        let wrongly: Vec<_> = named.iter().filter(is_honest).map(|peer| label(peer)).collect();
        let problem = self.disagreement().or_else(|| match liar {
            _ if !wrongly.is_empty() => Some(format!("{} was named as a liar and is none", wrongly.join(", "))),
            _ if honest_loss > 0.0 => Some(format!("honest peers lost {honest_loss:.6} power")),
            Some(liar) if !named.contains(liar) => Some(format!("{}, which lies, was not named", label(liar))),
            _ => None,
        });
        let caught = match liar {
            Some(liar) if named.contains(liar) => {
                let lost: f64 = ledger.faults.iter().filter(|fault| fault.peer == *liar).map(|fault| fault.lost).sum();
                format!(
                    "; {} lied, was named and lost {lost:.6} power, honest peers lost {honest_loss:.6}",
                    label(liar)
                )
            }
            _ => String::new(),
        };
        let equal = match &common {
            Some((height, root)) => format!("equal on all peers after block {height}: state {}", format::short(root)),
            None => "the peers have no block in common".into(),
        };
        let (blocks, drills) = (ledger.height, &ledger.drills);
        let power = |standing: &Standing| (standing.peer.clone(), standing.effective_power);
        let shown = |standing: &Standing| format!("{} {:.3}", label(&standing.peer), standing.effective_power);
        Outcome {
            blocks,
            told: format!(
                "{blocks} block{}, {}{caught}; {equal}",
                if blocks == 1 { "" } else { "s" },
                drills_told(drills)
            ),
            powers_told: ledger.standings.iter().map(shown).collect::<Vec<_>>().join(", "),
            state_root: common.map(|(_, root)| root),
            drills_agreed: drills.agreed,
            drills_disputed: drills.disputed,
            power: ledger.standings.iter().map(power).collect(),
            liars_named: named.into_iter().collect(),
            honest_loss,
            late_loss,
            problem,
        }
    }

    /// The latest height that all who are there have told of, and the root after it.
    fn common(&self, ledger: &str, there: &BTreeSet<usize>) -> Option<(u64, String)> {
        let of_ledger = self.roots.iter().rev().filter(|((name, _), _)| name == ledger);
        let agreed = |((_, height), roots): (&(String, u64), &BTreeMap<String, BTreeSet<usize>>)| {
            let (root, peers) = roots.first_key_value()?;
            there.is_subset(peers).then(|| (*height, root.clone()))
        };
        of_ledger.filter_map(agreed).next()
    }

    /// Two peers with different states after one block, or on different ledgers.
    fn disagreement(&self) -> Option<String> {
        let apart = self.roots.iter().find(|(_, roots)| roots.len() > 1);
        if let Some(((_, height), _)) = apart {
            return Some(format!("peers hold different states after block {height}"));
        }
        let ledgers: BTreeSet<_> = self.ledgers.values().map(|ledger| &ledger.ledger).collect();
        (ledgers.len() > 1).then(|| format!("the peers keep {} ledgers", ledgers.len()))
    }
}

fn drills_told(drills: &DrillCounts) -> String {
    let plural = if drills.agreed == 1 { "" } else { "s" };
    format!("{} drill{plural} agreed, {} disputed", drills.agreed, drills.disputed)
}

fn liars(ledger: &LedgerStatus) -> BTreeSet<String> {
    let lies = ledger.faults.iter().filter(|fault| LIES.contains(&&*fault.kind));
    lies.map(|fault| fault.peer.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{FaultView, RecentBlock};

    fn status(heights: &[(u64, &str)], faults: &[(&str, &str, f64)]) -> Option<Status> {
        let block = |(height, root): &(u64, &str)| RecentBlock {
            height: *height,
            state_root: (*root).into(),
            ..RecentBlock::default()
        };
        let fault = |(peer, kind, lost): &(&str, &str, f64)| FaultView {
            peer: (*peer).into(),
            kind: (*kind).into(),
            lost: *lost,
            ..FaultView::default()
        };
        let standing = |peer: &str| Standing { peer: peer.into(), effective_power: 0.5, ..Standing::default() };
        let ledger = LedgerStatus {
            ledger: "l".into(),
            height: heights.last().map_or(0, |(height, _)| *height),
            drills: DrillCounts { agreed: 3, disputed: 1, ..DrillCounts::default() },
            standings: vec![standing("p0"), standing("p1")],
            faults: faults.iter().map(fault).collect(),
            recent: heights.iter().map(block).collect(),
            ..LedgerStatus::default()
        };
        Some(Status { ledger: Some(ledger), ..Status::default() })
    }

    fn outcome(statuses: &[Option<Status>], liar: Option<usize>) -> Outcome {
        let mut watch = Watch::default();
        watch.observe(statuses);
        watch.outcome(&["p0".into(), "p1".into()], &BTreeSet::from([0, 1]), liar)
    }

    #[test]
    fn equal_roots_are_agreement_and_the_latest_common_one_is_told() {
        let found = outcome(&[status(&[(1, "a"), (2, "b"), (3, "c")], &[]), status(&[(1, "a"), (2, "b")], &[])], None);
        assert_eq!((found.blocks, found.state_root.as_deref(), &found.problem), (3, Some("b"), &None));
        assert_eq!((found.drills_agreed, found.drills_disputed, found.honest_loss), (3, 1, 0.0));
        assert_eq!(found.power.len(), 2);
        assert!(found.liars_named.is_empty() && found.told.contains("after block 2"), "{found:?}");
        let nothing = outcome(&[None, Some(Status::default())], None);
        assert_eq!((nothing.blocks, nothing.problem), (0, None));
    }

    #[test]
    fn a_fork_is_a_failure() {
        let found = outcome(&[status(&[(1, "a"), (2, "b")], &[]), status(&[(1, "a"), (2, "x")], &[])], None);
        assert!(found.problem.is_some_and(|problem| problem.contains("after block 2")));
    }

    #[test]
    fn the_liar_must_be_named_and_nobody_else() {
        let named = |faults: &[(&str, &str, f64)], liar| outcome(&[status(&[(1, "a")], faults)], liar);
        let lie = ("p1", "wrong-result", 0.25);
        let found = named(&[lie, ("p0", "unrevealed", 0.25)], Some(1));
        assert_eq!((found.problem, found.liars_named, found.honest_loss), (None, vec!["p1".to_owned()], 0.0));
        assert_eq!(found.late_loss, 0.25, "to be late costs as much, and is told apart");
        assert!(found.told.contains("peer 1 lied, was named"), "{}", found.told);
        for (faults, liar, part) in [
            (&[][..], Some(1), "was not named"),
            (&[lie][..], None, "is none"),
            (&[lie, ("p0", "disagreement", 0.5)][..], Some(1), "honest peers lost 0.5"),
        ] {
            let problem = named(faults, liar).problem.unwrap_or_default();
            assert!(problem.contains(part), "{part} in {problem}");
        }
    }
}
