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
