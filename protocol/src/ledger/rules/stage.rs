//! Who can be elected for a task, and when enough have come.

use super::super::genesis::Parameters;
use super::super::limits::{INTERVALS_MAX, SEATS_MAX, STAGES_MAX};
use super::super::state::State;
use super::super::task::{Phase, Seat, Stage, StageKind, Task, primary_seed};
use crate::election::{Beacon, lottery};
use crate::ids::{Hash, PeerId};
use std::collections::{BTreeMap, BTreeSet};

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

/// Those who can be elected by the weights of one height for units of one class.
struct Roll {
    /// Key, place of its owner in `owners`, weight.
    members: Vec<(PeerId, usize, u64)>,
    /// Ascending.
    owners: Vec<PeerId>,
}

/// Rolls by height and class, each made once while no key changes: all stages
/// that a block opens draw from the same few.
#[derive(Default)]
pub(crate) struct Rolls(BTreeMap<(u64, u8), Roll>);

impl Rolls {
    /// Those with weight at the height `weights_of` who take part with a machine for
    /// `class`, were registered by then and have no part in `task` yet.
    pub(crate) fn electorate(&mut self, state: &State, weights_of: u64, class: u8, task: Option<&Task>) -> Electorate {
        let roll = self.0.entry((weights_of, class)).or_insert_with(|| Roll::of(state, weights_of, class));
        roll.without(task)
    }
}

impl Roll {
    fn of(state: &State, weights_of: u64, class: u8) -> Self {
        let standings = state.epochs.get(&weights_of).into_iter().flat_map(|epoch| epoch.standings.0.iter());
        let listed = standings.filter(|(_, weight)| *weight > 0);
        let electable: Vec<_> = listed
            .filter_map(|(peer, weight)| Some((*peer, electable(state, weights_of, class, peer)?, *weight)))
            .collect();
        let mut owners: Vec<_> = electable.iter().map(|(_, owner, _)| *owner).collect();
        owners.sort_unstable();
        owners.dedup();
        let place = |owner: &PeerId| owners.binary_search(owner).unwrap_or(0);
        let members = electable.iter().map(|(peer, owner, weight)| (*peer, place(owner), *weight)).collect();
        Self { members, owners }
    }

    fn without(&self, task: Option<&Task>) -> Electorate {
        let mut has_key = vec![false; self.owners.len()];
        let mut total = 0u64;
        for (peer, owner, weight) in &self.members {
            if task.is_none_or(|task| !task.has_part(peer, &self.owners[*owner])) {
                total = total.saturating_add(*weight);
                has_key[*owner] = true;
            }
        }
        Electorate { total, owners: has_key.into_iter().filter(|has_key| *has_key).count() }
    }
}

/// The owner of `peer` if it can be elected by weights of this height: its key
/// is as old as they are, so it was not made to fit a beacon that came later.
pub(crate) fn electable(state: &State, weights_of: u64, class: u8, peer: &PeerId) -> Option<PeerId> {
    let key = state.keys.get(peer)?;
    (!key.standby && key.class >= class && key.registered_at <= weights_of).then_some(key.owner)
}

/// Who may open this task in this interval, of all by their weights. Drawn with
/// the task's beacon for all to see, and entered in the stage when the interval
/// begins: no later registration or standby draws anyone else.
pub(crate) fn primary(
    state: &State,
    (task, class): (&Hash, u8),
    beacon: &Beacon,
    weights_of: u64,
    interval: u32,
) -> Option<PeerId> {
    let standings = &state.epochs.get(&weights_of)?.standings;
    let may = |peer: &PeerId| electable(state, weights_of, class, peer).is_some();
    lottery::draw_where(&primary_seed(beacon, task, interval), &standings.0, may)
}

/// The opening stage of a task that the beacon of `weights_of` + 2 creates.
pub(crate) fn opening(
    state: &State,
    task: (&Hash, u8),
    beacon: Beacon,
    weights_of: u64,
    electorate: Electorate,
) -> Stage {
    Stage {
        kind: StageKind::Opening,
        opened: state.height,
        beacon,
        weights_of,
        total: electorate.total,
        expected_milli: 1_000,
        candidates: count(electorate.owners),
        everyone: false,
        primary: primary(state, task, &beacon, weights_of, 0),
        challenged: false,
        interval: 0,
        phase: Phase::Committing,
    }
}

/// Opens the next stage of a task with this height's beacon, which nobody knew
/// when the commitments so far were made; false if nobody is left for it.
pub(crate) fn open(state: &State, rolls: &mut Rolls, task: &mut Task, kind: StageKind) -> bool {
    let weights_of = state.height.saturating_sub(2);
    let electorate = rolls.electorate(state, weights_of, task.class, Some(task));
    if electorate.owners == 0 || task.stages.len() >= STAGES_MAX || task.seats.len() >= SEATS_MAX {
        return false;
    }
    let seats = u64::from(state.genesis.parameters.seats);
    let standing = task.seats.iter().filter(|seat| !seat.forfeited);
    let won: u64 = standing.map(|seat| u64::from(task.seats_won(seat))).sum();
    let expected_milli = match kind {
        StageKind::Opening | StageKind::Replica => seats.saturating_sub(won).max(1) * 1_000,
        StageKind::Escalation => ESCALATION_MILLI,
        StageKind::Referee => REFEREE_MILLI,
    };
    let parties: BTreeSet<_> = task.seats.iter().map(|seat| seat.owner).collect();
    let everyone = kind == StageKind::Referee && electorate.owners + parties.len() < OWNERS_FOR_REFEREE;
    let challenged = task.seats.iter().any(|seat| seat.revealed.is_some());
    if let Some(last) = task.stages.last_mut() {
        last.phase = Phase::Closed;
    }
    task.stages.push(Stage {
        kind,
        opened: state.height,
        beacon: state.beacon(),
        weights_of,
        total: electorate.total,
        expected_milli,
        candidates: count(electorate.owners),
        everyone,
        primary: None,
        challenged,
        interval: 0,
        phase: Phase::Committing,
    });
    true
}

/// Whether a stage's commitments suffice after so many intervals.
pub(crate) fn has_enough(parameters: &Parameters, task: &Task, intervals: u32) -> bool {
    let Some(stage) = task.stage() else { return false };
    let new = task.seats_of(task.stage_number()).count() as u32;
    let patient = intervals <= PATIENCE_INTERVALS.min(INTERVALS_MAX);
    let can_come = stage.candidates;
    match stage.kind {
        StageKind::Opening => new >= 1,
        StageKind::Replica => {
            let standing = task.seats.iter().filter(|seat| !seat.forfeited).count() as u32;
            // Owners are compared, but seats are counted: a key that won two of them
            // stands for both, as two keys of half its weight would.
            let won: u64 = task.seats_of(task.stage_number()).map(|seat: &Seat| u64::from(task.seats_won(seat))).sum();
            let all = new >= can_come;
            // Who knows the results already is checked by another who does.
            let new_wanted = if stage.challenged && patient { can_come.min(2) } else { 1 };
            let complete = all || !patient || won * 1_000 >= stage.expected_milli;
            complete && new >= new_wanted && (all || standing >= parameters.owners_min)
        }
        StageKind::Escalation => new >= if patient { can_come.min(2) } else { 1 },
        StageKind::Referee if stage.everyone => new >= if patient { can_come } else { 1 },
        StageKind::Referee => new >= if patient { can_come.min(4) } else { 1 },
    }
}

fn count(owners: usize) -> u32 {
    u32::try_from(owners).unwrap_or(u32::MAX)
}
