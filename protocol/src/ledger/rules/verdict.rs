//! What the results of a task say: a pure function of what was revealed.
//!
//! Votes are counted by owner, and one owner has one seat in a task. In a stage
//! that opened when results were known already, a result counts only with the
//! check digest that most of its stage have for it: to repeat a known digest
//! without the work gives another check.

use super::super::genesis::Agreement;
use super::super::task::{Seat, StageKind, Task};
use crate::ids::Hash;
use std::collections::BTreeMap;

/// What is to be done with a task whose reveals are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This digest is the result.
    Agreed(Hash),
    /// Too few results are there to compare: others have to be elected.
    TooFew,
    /// Results differ: the next stage is this.
    Disputed(StageKind),
    /// Results differ, and all lose.
    AllLose,
    /// Results differ, and nobody can say who is right.
    Void,
}

/// The rules that a verdict goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) agreement: Agreement,
    pub(crate) owners_min: u32,
    /// Whether the opening stage's result counts alone.
    pub(crate) alone: bool,
}

/// Judges `task` after the stage of kind `last`.
pub(crate) fn judge(task: &Task, last: StageKind, rule: Rule) -> Verdict {
    let votes = count(task);
    let voters: u32 = task.seats.iter().map(|seat| u32::from(seat.revealed.is_some())).sum();
    let results = task.seats.iter().filter_map(|seat| seat.revealed.map(|revealed| revealed.result.digest));
    let mut differ = results.clone();
    let first = differ.next();
    if let Some(first) = first.filter(|first| differ.all(|other| other == *first)) {
        let counted = votes.get(&first).copied().unwrap_or(0);
        // Results that all agree, save for checks that do not, are too few as yet.
        return if counted >= rule.owners_min || (rule.alone && counted > 0) {
            Verdict::Agreed(first)
        } else {
            Verdict::TooFew
        };
    }
    if first.is_none() {
        return Verdict::TooFew;
    }
    if rule.agreement == Agreement::AllLose {
        return Verdict::AllLose;
    }
    if let Some(digest) = candidate_alone(task, &votes, rule.owners_min) {
        return Verdict::Agreed(digest);
    }
    let (digest, most, next) = leaders(&votes);
    let has_majority = 2 * most > voters && most >= rule.owners_min;
    match last {
        StageKind::Opening | StageKind::Replica => Verdict::Disputed(StageKind::Escalation),
        StageKind::Escalation if has_majority && most >= next + 2 => Verdict::Agreed(digest),
        StageKind::Escalation => Verdict::Disputed(StageKind::Referee),
        StageKind::Referee if has_majority => Verdict::Agreed(digest),
        StageKind::Referee => Verdict::Void,
    }
}

/// Whether a seat's result was left out of the count for its check alone: most
/// of its stage who gave the same digest gave another check.
pub(crate) fn is_copied(task: &Task, seat: &Seat) -> bool {
    let Some(revealed) = seat.revealed else { return false };
    match confirmed(task, seat.stage, &revealed.result.digest) {
        Some(check) => check != revealed.result.check,
        None => false,
    }
}

/// Whether a seat's vote for its digest counts.
pub(crate) fn is_counted(task: &Task, seat: &Seat) -> bool {
    let Some(revealed) = seat.revealed else { return false };
    confirmed(task, seat.stage, &revealed.result.digest) == Some(revealed.result.check)
}

/// Votes that count, by digest.
fn count(task: &Task) -> BTreeMap<Hash, u32> {
    let mut votes = BTreeMap::new();
    for seat in task.seats.iter().filter(|seat| is_counted(task, seat)) {
        if let Some(revealed) = seat.revealed {
            *votes.entry(revealed.result.digest).or_insert(0) += 1;
        }
    }
    votes
}

/// The check that more seats of this stage give for this digest than any other;
/// `None` where two are level. Stages without a challenge have one check for all.
fn confirmed(task: &Task, stage: u8, digest: &Hash) -> Option<Hash> {
    let mut checks = BTreeMap::new();
    let of_stage = task.seats_of(stage).filter_map(|seat| seat.revealed);
    for revealed in of_stage.filter(|revealed| revealed.result.digest == *digest) {
        *checks.entry(revealed.result.check).or_insert(0) += 1;
    }
    let (check, most, next) = leaders(&checks);
    (most > next).then_some(check)
}

/// The first two: who leads, with how many, before how many.
fn leaders(votes: &BTreeMap<Hash, u32>) -> (Hash, u32, u32) {
    let mut order: Vec<_> = votes.iter().map(|(digest, count)| (*count, *digest)).collect();
    order.sort_unstable_by_key(|(count, digest)| (std::cmp::Reverse(*count), *digest));
    let (most, digest) = order.first().copied().unwrap_or((0, Hash([0; 32])));
    (digest, most, order.get(1).map_or(0, |(count, _)| *count))
}

/// A candidate whose unit enough elected drillers agree on, against it, needs no
/// further drillers: else newcomers could set all to work with junk.
fn candidate_alone(task: &Task, votes: &BTreeMap<Hash, u32>, owners_min: u32) -> Option<Hash> {
    let candidate = task.seat(task.origin.candidate()?)?;
    let its = candidate.revealed.map(|revealed| revealed.result.digest);
    let mut others = votes.iter().filter(|(digest, _)| Some(**digest) != its);
    let (digest, count) = others.next()?;
    let alone = its.is_none_or(|its| votes.get(&its).copied().unwrap_or(0) <= 1);
    (others.next().is_none() && *count >= owners_min && alone).then_some(*digest)
}

#[cfg(test)]
mod tests {
    use super::super::super::task::{Origin, Phase, Revealed, Stage};
    use super::super::super::transaction::DrillResult;
    use super::*;
    use crate::election::Beacon;
    use crate::ids::{PeerId, Signature, VrfPublic};

    /// No hash in particular.
    const NONE: Hash = Hash([0; 32]);

    /// Why, seats, the last stage, whether one is trusted alone, the verdict.
    type Case<'a> = (&'a str, &'a [(u8, u8, u8)], StageKind, bool, Verdict);

    /// Seats as (stage, digest, check); a digest of 0 is an unrevealed one.
    fn task(seats: &[(u8, u8, u8)], probation: bool) -> Task {
        let seat = |(number, &(stage, digest, check)): (usize, &(u8, u8, u8))| {
            let worker = PeerId([number as u8; 32]);
            let result = DrillResult { digest: Hash([digest; 32]), check: Hash([check; 32]) };
            let revealed = (digest > 0).then_some(Revealed { salt: NONE, result, signature: Signature([0; 64]) });
            Seat {
                worker,
                owner: worker,
                stage,
                vrf: VrfPublic([0; 32]),
                weight: 1,
                election: None,
                commitment: NONE,
                signature: Signature([0; 64]),
                revealed,
                forfeited: revealed.is_none(),
            }
        };
        let stage = Stage {
            kind: StageKind::Opening,
            opened: 1,
            beacon: Beacon(NONE),
            weights_of: 0,
            total: 1,
            expected_milli: 1_000,
            candidates: 1,
            everyone: false,
            primary: None,
            challenged: false,
            interval: 0,
            phase: Phase::Closed,
        };
        let origin = match probation {
            true => Origin::Probation { height: 1, candidate: PeerId([0; 32]) },
            false => Origin::Drawn { height: 1, idle: 0, index: 0 },
        };
        Task { id: NONE, origin, class: 0, stages: vec![stage; 4], seats: seats.iter().enumerate().map(seat).collect() }
    }

    fn escalate(alone: bool) -> Rule {
        Rule { agreement: Agreement::Escalate, owners_min: 2, alone }
    }

    #[test]
    fn each_stage_has_its_verdicts() {
        use StageKind::{Escalation, Opening, Referee, Replica};
        use Verdict::{Agreed, Disputed, TooFew, Void};
        let agreed = |digest: u8| Agreed(Hash([digest; 32]));
        let cases: &[Case] = &[
            ("three agree", &[(0, 1, 0), (1, 1, 0), (1, 1, 0)], Replica, false, agreed(1)),
            ("two agree, one is silent", &[(0, 1, 0), (1, 1, 0), (1, 0, 0)], Replica, false, agreed(1)),
            ("one is left", &[(0, 1, 0), (1, 0, 0)], Replica, false, TooFew),
            ("nobody is left", &[(0, 0, 0), (1, 0, 0)], Replica, false, TooFew),
            ("a trusted one alone", &[(0, 1, 0)], Opening, true, agreed(1)),
            ("an untrusted one alone", &[(0, 1, 0)], Opening, false, TooFew),
            ("two trusted ones differ", &[(0, 1, 0), (0, 2, 0)], Opening, true, Disputed(Escalation)),
            ("two against one", &[(0, 1, 0), (1, 1, 0), (1, 2, 0)], Replica, false, Disputed(Escalation)),
            (
                "four against one",
                &[(0, 1, 0), (1, 1, 0), (1, 2, 0), (2, 1, 5), (2, 1, 5)],
                Escalation,
                false,
                agreed(1),
            ),
            (
                "three against two",
                &[(0, 1, 0), (1, 1, 0), (1, 2, 0), (2, 1, 5), (2, 2, 5)],
                Escalation,
                false,
                Disputed(Referee),
            ),
            (
                "checks that differ count for nobody",
                &[(0, 1, 0), (1, 1, 0), (1, 2, 0), (2, 1, 5), (2, 1, 6)],
                Escalation,
                false,
                Disputed(Referee),
            ),
            (
                "who was wrong at first is outvoted",
                &[(0, 2, 0), (1, 2, 0), (1, 1, 0), (2, 1, 5), (2, 1, 5), (3, 1, 7), (3, 1, 7)],
                Referee,
                false,
                agreed(1),
            ),
            ("no majority even of all", &[(0, 2, 0), (1, 1, 0), (2, 1, 5), (2, 2, 5)], Referee, false, Void),
            ("one against one", &[(0, 1, 0), (1, 2, 0)], Referee, false, Void),
            (
                "two against one, and nobody else is there",
                &[(0, 1, 0), (1, 1, 0), (1, 2, 0)],
                Referee,
                false,
                agreed(1),
            ),
        ];
        for (why, seats, last, alone, expected) in cases {
            assert_eq!(judge(&task(seats, false), *last, escalate(*alone)), *expected, "{why}");
        }
    }

    #[test]
    fn all_lose_wherever_results_differ() {
        let rule = Rule { agreement: Agreement::AllLose, owners_min: 2, alone: false };
        let differ = task(&[(0, 1, 0), (1, 1, 0), (1, 2, 0)], false);
        assert_eq!(judge(&differ, StageKind::Replica, rule), Verdict::AllLose);
        let agree = task(&[(0, 1, 0), (1, 1, 0)], false);
        assert_eq!(judge(&agree, StageKind::Replica, rule), Verdict::Agreed(Hash([1; 32])));
    }

    #[test]
    fn a_candidate_does_not_set_others_to_work_with_junk() {
        let judged = |seats: &[(u8, u8, u8)]| judge(&task(seats, true), StageKind::Replica, escalate(false));
        assert_eq!(judged(&[(0, 9, 0), (1, 1, 0), (1, 1, 0)]), Verdict::Agreed(Hash([1; 32])));
        assert_eq!(judged(&[(0, 9, 0), (1, 1, 0)]), Verdict::Disputed(StageKind::Escalation), "one against one");
        assert_eq!(judged(&[(0, 9, 0), (1, 9, 0), (1, 1, 0), (1, 1, 0)]), Verdict::Disputed(StageKind::Escalation));
        assert_eq!(judged(&[(0, 9, 0), (1, 1, 0), (1, 2, 0)]), Verdict::Disputed(StageKind::Escalation));
    }

    #[test]
    fn a_wrong_check_tells_who_copied() {
        let of = task(&[(0, 1, 0), (1, 2, 0), (2, 1, 5), (2, 1, 5), (2, 1, 6)], false);
        let copied: Vec<_> = of.seats.iter().map(|seat| is_copied(&of, seat)).collect();
        assert_eq!(copied, [false, false, false, false, true]);
        let level = task(&[(2, 1, 5), (2, 1, 6)], false);
        assert!(level.seats.iter().all(|seat| !is_copied(&level, seat) && !is_counted(&level, seat)));
    }
}
