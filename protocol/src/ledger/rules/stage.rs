//! Who can be elected for a task, and when enough have come.

use super::super::genesis::Parameters;
use super::super::limits::{INTERVALS_MAX, SEATS_MAX, STAGES_MAX};
use super::super::state::State;
use super::super::task::{Phase, Stage, StageKind, Task};
use crate::election::Beacon;
use crate::ids::PeerId;
use std::collections::BTreeSet;

/// Owners among whom a referee is elected; with fewer in all, everyone is asked.
const OWNERS_FOR_REFEREE: usize = 5;
/// Seats that are expected of an escalation and of a referee, in thousandths.
const ESCALATION_MILLI: u64 = 2_000;
const REFEREE_MILLI: u64 = 7_000;
/// Intervals for which a stage waits for all that it wants; then it takes what
/// is there, if that suffices at all.
const PATIENCE_INTERVALS: u32 = 3;

/// Those who can be elected for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Electorate {
    /// The sum of their weights.
    pub(crate) total: u64,
    /// How many owners they are.
    pub(crate) owners: usize,
}

/// Those with weight at the height `weights_of` who take part with a machine for
/// `class`, were registered by then and have no part in `task` yet.
pub(crate) fn electorate(state: &State, weights_of: u64, class: u8, task: Option<&Task>) -> Electorate {
    let (mut total, mut owners) = (0u64, BTreeSet::new());
    let Some(epoch) = state.epochs.get(&weights_of) else { return Electorate { total, owners: 0 } };
    for (peer, weight) in epoch.standings.0.iter() {
        let Some(owner) = electable(state, weights_of, class, peer).filter(|_| *weight > 0) else { continue };
        if task.is_none_or(|task| !task.has_part(peer, &owner)) {
            total = total.saturating_add(*weight);
            owners.insert(owner);
        }
    }
    Electorate { total, owners: owners.len() }
}

/// The owner of `peer` if it can be elected by weights of this height: its key
/// is as old as they are, so it was not made to fit a beacon that came later.
pub(crate) fn electable(state: &State, weights_of: u64, class: u8, peer: &PeerId) -> Option<PeerId> {
    let key = state.keys.get(peer)?;
    (!key.standby && key.class >= class && key.registered_at <= weights_of).then_some(key.owner)
}

/// The opening stage of a task that the beacon of `weights_of` + 2 creates.
pub(crate) fn opening(opened: u64, beacon: Beacon, weights_of: u64, electorate: Electorate) -> Stage {
    Stage {
        kind: StageKind::Opening,
        opened,
        beacon,
        weights_of,
        total: electorate.total,
        expected_milli: 1_000,
        candidates: count(electorate.owners),
        everyone: false,
        challenged: false,
        interval: 0,
        phase: Phase::Committing,
    }
}

/// Opens the next stage of a task with this height's beacon, which nobody knew
/// when the commitments so far were made; false if nobody is left for it.
pub(crate) fn open(state: &State, task: &mut Task, kind: StageKind) -> bool {
    let weights_of = state.height.saturating_sub(2);
    let electorate = electorate(state, weights_of, task.class, Some(task));
    if electorate.owners == 0 || task.stages.len() >= STAGES_MAX || task.seats.len() >= SEATS_MAX {
        return false;
    }
    let seats = u64::from(state.genesis.parameters.seats);
    let standing = task.seats.iter().filter(|seat| !seat.forfeited).count() as u64;
    let expected_milli = match kind {
        StageKind::Opening | StageKind::Replica => seats.saturating_sub(standing).max(1) * 1_000,
        StageKind::Escalation => ESCALATION_MILLI,
        StageKind::Referee => REFEREE_MILLI,
    };
    let parties: BTreeSet<_> = task.seats.iter().map(|seat| seat.owner).collect();
    let everyone = kind == StageKind::Referee && electorate.owners + parties.len() < OWNERS_FOR_REFEREE;
    let challenged = task.seats.iter().any(|seat| seat.revealed.is_some());
    if let Some(last) = task.stages.last_mut() {
        last.phase = Phase::Closed;
    }
    let beacon = state.beacon();
    let stage = opening(state.height, beacon, weights_of, electorate);
    task.stages.push(Stage { kind, expected_milli, everyone, challenged, ..stage });
    true
}

/// Whether a stage's commitments suffice after so many intervals.
pub(crate) fn has_enough(parameters: &Parameters, task: &Task, intervals: u32) -> bool {
    let Some(stage) = task.stage() else { return false };
    let new = task.seats_of(task.stage_number()).count() as u32;
    let standing = task.seats.iter().filter(|seat| !seat.forfeited).count() as u32;
    let patient = intervals <= PATIENCE_INTERVALS.min(INTERVALS_MAX);
    let can_come = stage.candidates;
    match stage.kind {
        StageKind::Opening => new >= 1,
        StageKind::Replica => {
            let at_most = (standing - new.min(standing)).saturating_add(can_come);
            let wanted = if patient { parameters.seats.min(at_most) } else { parameters.owners_min };
            // Who knows the results already is checked by another who does.
            let new_wanted = if stage.challenged && patient { can_come.min(2) } else { 1 };
            standing >= wanted && new >= new_wanted
        }
        StageKind::Escalation => new >= if patient { can_come.min(2) } else { 1 },
        StageKind::Referee if stage.everyone => new >= if patient { can_come } else { 1 },
        StageKind::Referee => new >= if patient { can_come.min(4) } else { 1 },
    }
}

fn count(owners: usize) -> u32 {
    u32::try_from(owners).unwrap_or(u32::MAX)
}
