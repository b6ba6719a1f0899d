//! The end of a task: credit, reward, trust, and faults by name.

use super::super::limits::{FAULTS_MAX, PROBATION_BAR_BLOCKS, SETTLED_MAX};
use super::super::records::{Fault, FaultKind, Outcome, Settled, Trust};
use super::super::state::State;
use super::super::task::{Origin, Seat, Task};
use super::account;
use super::share::divide;
use super::verdict::{Verdict, is_copied, is_counted};
use crate::ids::{Hash, PeerId};
use crate::power::history::{Cause, Entry};
use crate::power::{Branch, MicroPower};

/// Names those who have not opened their commitments; they get no other chance.
pub(super) fn forfeit(state: &mut State, id: &Hash) {
    let Some(task) = state.tasks.get_mut(id) else { return };
    let late = task.seats.iter_mut().filter(|seat| seat.revealed.is_none() && !seat.forfeited);
    let late: Vec<_> = late
        .map(|seat| {
            seat.forfeited = true;
            *seat
        })
        .collect();
    let penalty = state.genesis.parameters.penalty;
    for seat in late {
        fault(state, (&seat.worker, &seat.owner), FaultKind::Unrevealed, Some(*id), penalty);
    }
}

/// Ends a task with this verdict.
pub(super) fn settle(state: &mut State, id: &Hash, verdict: Verdict) {
    let Some(task) = state.tasks.remove(id) else { return };
    let mut digests = task.seats.iter().filter_map(|seat| seat.revealed.map(|revealed| revealed.result.digest));
    let first = digests.next();
    if digests.any(|digest| Some(digest) != first) {
        state.totals.tasks_disputed = state.totals.tasks_disputed.saturating_add(1);
    }
    let penalty = state.genesis.parameters.penalty;
    let outcome = match verdict {
        Verdict::Agreed(digest) => {
            let agreed = |seat: &&Seat| {
                seat.revealed.is_some_and(|revealed| revealed.result.digest == digest) && is_counted(&task, seat)
            };
            let winners: Vec<_> = task.seats.iter().filter(agreed).copied().collect();
            let compared = winners.len() >= state.genesis.parameters.owners_min as usize;
            for seat in task.seats.iter().filter(|seat| seat.revealed.is_some()) {
                let is_wrong = seat.revealed.is_some_and(|revealed| revealed.result.digest != digest);
                if is_wrong {
                    fault(state, (&seat.worker, &seat.owner), FaultKind::WrongResult, Some(*id), penalty);
                } else if is_copied(&task, seat) {
                    fault(state, (&seat.worker, &seat.owner), FaultKind::Copied, Some(*id), penalty);
                }
            }
            credit(state, &task, &winners, compared);
            if compared { Outcome::Agreed { digest } } else { Outcome::Trusted { digest } }
        }
        Verdict::AllLose => {
            let parties: Vec<_> = task.seats.iter().filter(|seat| seat.revealed.is_some()).collect();
            let share = state.genesis.parameters.difficulty(task.class).shared_by(parties.len() as u32);
            for seat in parties {
                fault(state, (&seat.worker, &seat.owner), FaultKind::Disagreement, Some(*id), share);
            }
            Outcome::AllLost
        }
        Verdict::Void | Verdict::TooFew | Verdict::Disputed(_) => Outcome::Void,
    };
    let totals = &mut state.totals;
    let count = match outcome {
        Outcome::Agreed { .. } => &mut totals.tasks_agreed,
        Outcome::Trusted { .. } => &mut totals.tasks_trusted,
        Outcome::AllLost | Outcome::Void => &mut totals.tasks_void,
    };
    *count = count.saturating_add(1);
    let height = state.height;
    let number = state.settled.keys().next_back().map_or(0, |last| last + 1);
    state.settled.insert(number, Settled { task, outcome, height });
    state.settled.keep_last(SETTLED_MAX);
}

/// Credits the task's difficulty and its reward, shared by seats, which makes
/// the papers' T_D = difficulty ÷ number of tasks the credit of each seat.
fn credit(state: &mut State, task: &Task, winners: &[Seat], compared: bool) {
    let parameters = &state.genesis.parameters;
    let difficulty = parameters.difficulty(task.class);
    let works = divide(difficulty.0, task, winners, parameters.seats);
    let rewards = divide(parameters.drill_reward, task, winners, parameters.seats);
    for (seat, (work, reward)) in winners.iter().zip(works.into_iter().zip(rewards)) {
        let is_candidate = task.origin.candidate() == Some(&seat.worker);
        let work = match is_candidate && weight(state, &seat.worker) >= state.genesis.parameters.probation_weight_max {
            true => MicroPower::ZERO,
            false => MicroPower(work),
        };
        let cause = match task.origin {
            Origin::Probation { .. } if is_candidate => Cause::Probation { task: task.id },
            _ => Cause::Drill { task: task.id, seats: winners.len() as u32 },
        };
        gain(state, &seat.worker, work, cause, compared);
        account::reward(state, &seat.worker, reward, compared);
        let trust = state.trust.entry(seat.owner);
        trust.streak = trust.streak.saturating_add(1);
        let height = state.height;
        if let Some(key) = state.keys.get_mut(&seat.worker) {
            key.alive_at = height;
        }
    }
}

fn weight(state: &State, peer: &PeerId) -> u64 {
    let now_ms = state.time_ms();
    let kappa_milli = state.genesis.parameters.kappa_milli;
    state.power.get(peer).map_or(0, |power| power.record.weight(kappa_milli, now_ms))
}

fn gain(state: &mut State, peer: &PeerId, work: MicroPower, cause: Cause, compared: bool) {
    let (height, at_ms) = (state.height, state.time_ms());
    let Some(power) = state.power.get_mut(peer) else { return };
    let gained = power.record.credit(Branch::Drilling, work, at_ms);
    power.unverified = if compared { MicroPower::ZERO } else { power.unverified.plus(work) };
    let lost = MicroPower::ZERO;
    power.history.note(Entry { height, at_ms, branch: Branch::Drilling, gained, lost, cause });
}

/// Names a fault of a key and of who was its owner then, even if it has another
/// by now: the owner's row of valid results ends, the key loses `penalty`, and
/// it and every key of the owner what was credited unseen. So over all results
/// between two comparisons, lies gain nothing on average.
pub(super) fn fault(
    state: &mut State,
    (peer, owner): (&PeerId, &PeerId),
    kind: FaultKind,
    task: Option<Hash>,
    penalty: MicroPower,
) {
    let (height, at_ms) = (state.height, state.time_ms());
    let trust = state.trust.entry(*owner);
    *trust = Trust { streak: 0, faults: trust.faults.saturating_add(1) };
    let cause = match (kind, task) {
        (FaultKind::WrongResult | FaultKind::Copied, Some(task)) => Cause::WrongResult { task },
        (FaultKind::Unrevealed, Some(task)) => Cause::Unrevealed { task },
        (FaultKind::Disagreement, Some(task)) => Cause::Disagreement { task },
        (_, _) => Cause::Equivocation { height },
    };
    let branches: &[Branch] = match kind {
        FaultKind::Equivocation => &[Branch::Drilling, Branch::Training],
        _ => &[Branch::Drilling],
    };
    let mut lost_all = MicroPower::ZERO;
    let siblings: Vec<_> =
        state.keys.iter().filter(|(of, key)| key.owner == *owner || *of == peer).map(|(of, _)| *of).collect();
    for key in siblings {
        account::burn_held(state, &key);
        let fine = if key == *peer { penalty } else { MicroPower::ZERO };
        let Some(power) = state.power.get_mut(&key) else { continue };
        let unverified = std::mem::take(&mut power.unverified);
        let branches = if key == *peer { branches } else { &[Branch::Drilling] };
        for branch in branches {
            let lost = power.record.penalise(*branch, fine.plus(unverified), at_ms);
            if lost > MicroPower::ZERO || key == *peer {
                lost_all = lost_all.plus(lost);
                let gained = MicroPower::ZERO;
                power.history.note(Entry { height, at_ms, branch: *branch, gained, lost, cause });
            }
        }
    }
    if let Some(key) = state.keys.get_mut(peer) {
        key.barred_until = height + PROBATION_BAR_BLOCKS;
    }
    let number = state.totals.faults;
    state.faults.insert(number, Fault { peer: *peer, kind, task, height, lost: lost_all });
    state.faults.keep_last(FAULTS_MAX);
    state.totals.faults = number.saturating_add(1);
}
