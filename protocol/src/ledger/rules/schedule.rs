//! What each height does to drill tasks: new ones, and the next step of those
//! that are open.
//!
//! Steps are taken before a block's transactions, with the block's beacon: so
//! every draw is from a beacon later than the commitments that it concerns.

use super::super::limits::{INTERVALS_MAX, REVEAL_STRETCH, TASKS_OPEN_MAX, TASKS_PER_BEACON_MAX};
use super::super::state::State;
use super::super::task::{Origin, Phase, StageKind, Task, drawn_id};
use super::settle;
use super::stage::{self, Electorate, Rolls};
use super::verdict::{Rule, Verdict, judge};
use crate::election::Beacon;
use crate::ids::{Hash, PeerId};
use crate::seed::Seed;
use std::collections::BTreeSet;

const TRUST_DOMAIN: &str = "manta 2026-11 trust draw v1";

/// Creates the tasks of this height's beacon.
pub(in super::super) fn create(state: &mut State) {
    let (height, beacon) = (state.height, state.beacon());
    create_from(state, &mut Rolls::default(), height, 0, &beacon);
}

/// Creates the tasks of the epochs that went by without a block before this one.
/// Their beacons follow from the last block's, so their drills could be done
/// all the while. A block's time may be ahead of the truth by the accepted skew:
/// that much makes no idle epochs.
pub(in super::super) fn create_idle(state: &mut State) {
    let parameters = &state.genesis.parameters;
    let (epoch_ms, skew_ms, most) = (parameters.epoch_ms, parameters.clock_skew_ms, parameters.idle_max);
    let before = state.height - 1;
    let Some(epoch) = state.epochs.get(&before) else { return };
    let gap_ms = state.time_ms().saturating_sub(epoch.time_ms).saturating_sub(skew_ms);
    let idle = u32::try_from((gap_ms / epoch_ms).saturating_sub(1)).map_or(most, |idle| idle.min(most));
    let beacon = epoch.beacon;
    let mut rolls = Rolls::default();
    for n in 1..=idle {
        create_from(state, &mut rolls, before, n, &beacon.idle(n));
    }
}

fn create_from(state: &mut State, rolls: &mut Rolls, height: u64, idle: u32, beacon: &Beacon) {
    let weights_of = height.saturating_sub(2);
    let parameters = &state.genesis.parameters;
    let owners_min = parameters.owners_min as usize;
    let per_class: Vec<Electorate> =
        (0..parameters.classes.len()).map(|class| rolls.electorate(state, weights_of, class as u8, None)).collect();
    let possible: Vec<u8> =
        (0u8..).zip(&per_class).filter(|(_, of)| of.owners >= owners_min).map(|(class, _)| class).collect();
    if possible.is_empty() {
        return;
    }
    let owners = per_class.iter().map(|of| of.owners as u64).max().unwrap_or(0);
    let count = (owners * u64::from(parameters.tasks_per_1000_owners)).div_ceil(1000);
    let count = (count as u32).min(TASKS_PER_BEACON_MAX).max(u32::from(parameters.tasks_per_1000_owners > 0));
    for index in 0..count {
        if state.tasks.len() >= TASKS_OPEN_MAX {
            return;
        }
        let drawn = Seed(beacon.0).below("drill class", u64::from(index), possible.len() as u64);
        let class = possible[drawn as usize];
        let id = drawn_id(beacon, idle, index);
        let opening = stage::opening(state, (&id, class), *beacon, weights_of, per_class[usize::from(class)]);
        let origin = Origin::Drawn { height, idle, index };
        state.tasks.insert(id, Task { id, origin, class, stages: vec![opening], seats: Vec::new() });
    }
}

/// Takes the next step of every open task.
pub(in super::super) fn advance(state: &mut State) {
    let ids: Vec<Hash> = state.tasks.keys().copied().collect();
    // Nothing that a step does changes who can be elected.
    let mut rolls = Rolls::default();
    for id in ids {
        step(state, &mut rolls, &id);
    }
}

fn step(state: &mut State, rolls: &mut Rolls, id: &Hash) {
    let Some(task) = state.tasks.get(id) else { return };
    let Some(stage) = task.stage() else { return };
    match stage.phase {
        Phase::Committing => {
            let parameters = &state.genesis.parameters;
            let interval_blocks = match (stage.kind, task.origin) {
                // The candidate commits in the very block that opens its task.
                (StageKind::Opening, Origin::Probation { .. }) => 1,
                _ => parameters.classes.get(usize::from(task.class)).map_or(1, |class| u64::from(class.commit_blocks)),
            };
            let passed = state.height.saturating_sub(stage.opened + 1);
            let is_end = match task.origin {
                Origin::Probation { .. } if stage.kind == StageKind::Opening => true,
                _ => passed > 0 && passed.is_multiple_of(interval_blocks),
            };
            if !is_end {
                return;
            }
            let intervals = u32::try_from(passed / interval_blocks).unwrap_or(u32::MAX);
            if stage::has_enough(parameters, task, intervals) {
                close(state, rolls, id);
            } else if intervals >= INTERVALS_MAX {
                give_up(state, rolls, id);
            } else {
                next_interval(state, id, intervals);
            }
        }
        Phase::Revealing { since } => {
            if is_revealed(state, task, since) {
                conclude(state, rolls, id);
            }
        }
        Phase::Closed => {}
    }
}

/// Too few have come: twice as many are expected now, or another primary is drawn.
fn next_interval(state: &mut State, id: &Hash, interval: u32) {
    let Some(task) = state.tasks.get(id) else { return };
    let Some(stage) = task.stage() else { return };
    let drawn = || stage::primary(state, (id, task.class), &stage.beacon, stage.weights_of, interval);
    let primary = if stage.kind == StageKind::Opening { drawn() } else { None };
    if let Some(stage) = state.tasks.get_mut(id).and_then(|task| task.stages.last_mut()) {
        (stage.interval, stage.primary) = (interval, primary);
    }
}

/// Commitments are in: their reveals are next, or further seats.
fn close(state: &mut State, rolls: &mut Rolls, id: &Hash) {
    let Some(task) = state.tasks.get(id) else { return };
    let is_opening = task.stage().is_some_and(|stage| stage.kind == StageKind::Opening);
    if is_opening && !is_trusted(state, task) {
        let mut task = task.clone();
        // Nobody else to compare with: the task ends, nobody is at fault.
        match stage::open(state, rolls, &mut task, StageKind::Replica) {
            true => state.tasks.insert(*id, task),
            false => expire(state, id),
        }
        return;
    }
    let height = state.height;
    if let Some(stage) = state.tasks.get_mut(id).and_then(|task| task.stages.last_mut()) {
        stage.phase = Phase::Revealing { since: height };
    }
}

/// Whether the word of the one who opened the task is taken without a comparison:
/// it has a long row of valid results, and this height's beacon, which came after
/// its commitment, does not pick it for one (probability 1/n after n results).
/// Nobody is trusted with a probation unit.
fn is_trusted(state: &State, task: &Task) -> bool {
    let parameters = &state.genesis.parameters;
    task.origin.candidate().is_none()
        && task.seats.iter().all(|seat| {
            let streak = state.trust.get(&seat.owner).map_or(0, |trust| trust.streak);
            let odds = u64::from(streak.min(parameters.trust_max));
            streak >= parameters.trust_after
                && trust_draw(&state.beacon(), &task.id, &seat.owner).below("odds", 0, odds) != 0
        })
}

/// What decides whether an owner's result of a task is compared.
fn trust_draw(beacon: &Beacon, task: &Hash, owner: &PeerId) -> Seed {
    let mut hasher = blake3::Hasher::new_derive_key(TRUST_DOMAIN);
    hasher.update(beacon.0.as_bytes()).update(task.as_bytes()).update(owner.as_bytes());
    Seed(Hash(*hasher.finalize().as_bytes()))
}

/// Too few have committed in all intervals.
fn give_up(state: &mut State, rolls: &mut Rolls, id: &Hash) {
    let Some(task) = state.tasks.get(id) else { return };
    match task.stage().map(|stage| stage.kind) {
        // Their results are known: others' absence does not undo the dispute.
        Some(StageKind::Escalation | StageKind::Referee) => conclude(state, rolls, id),
        _ => expire(state, id),
    }
}

/// The task ends without a result; nobody is credited for it or blamed now.
fn expire(state: &mut State, id: &Hash) {
    state.tasks.remove(id);
    state.totals.tasks_expired = state.totals.tasks_expired.saturating_add(1);
}

/// Whether all was revealed that will be. The window is open until at least two
/// peers have proposed blocks in it: one proposer could leave reveals out.
fn is_revealed(state: &State, task: &Task, since: u64) -> bool {
    if task.seats.iter().all(|seat| seat.revealed.is_some() || seat.forfeited) {
        return true;
    }
    let window = u64::from(state.genesis.parameters.reveal_blocks);
    let last = state.height - 1;
    if last < since + window {
        return false;
    }
    let proposers: BTreeSet<_> = (since + 1..=last).filter_map(|height| state.epochs.get(&height)?.proposer).collect();
    let is_alone = state.committee(last).is_none_or(|committee| committee.weights().len() < 2);
    proposers.len() > 1 || is_alone || last >= since + window * u64::from(REVEAL_STRETCH)
}

/// Reveals are in: what do they say?
fn conclude(state: &mut State, rolls: &mut Rolls, id: &Hash) {
    settle::forfeit(state, id);
    let Some(task) = state.tasks.get(id) else { return };
    let Some(mut last) = task.stage().map(|stage| stage.kind) else { return };
    let parameters = &state.genesis.parameters;
    let alone = task.stages.len() == 1;
    let rule = Rule { agreement: parameters.agreement, owners_min: parameters.owners_min, alone };
    let mut task = task.clone();
    loop {
        let verdict = judge(&task, last, rule);
        let wanted = match verdict {
            Verdict::TooFew => StageKind::Replica,
            Verdict::Disputed(kind) => kind,
            Verdict::Agreed(_) | Verdict::AllLose | Verdict::Void => return settle::settle(state, id, verdict),
        };
        if stage::open(state, rolls, &mut task, wanted) {
            return state.tasks.insert(*id, task);
        }
        if verdict == Verdict::TooFew {
            return expire(state, id);
        }
        // Nobody is left for this stage: the next one, or the last word.
        last = wanted;
    }
}
