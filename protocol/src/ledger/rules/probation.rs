//! Probation: how a key without weight comes to its first power.
//!
//! The beacon draws keys, a fixed number a height on average however many there
//! are, so that a crowd of new keys cannot keep the drillers busy. A drawn key
//! does a unit whose seed names it (so nobody's result serves another), and
//! elected drillers repeat it before it counts.

use super::super::limits::PROBATIONS_OPEN_MAX;
use super::super::refusal::Refusal;
use super::super::state::State;
use super::super::task::{Origin, Phase, Seat, Stage, StageKind, Task, probation_id};
use super::super::transaction::DrillCommit;
use crate::ids::{Hash, PeerId, Signature};

/// Blocks after the beacon that drew a key in which it may commit.
const WINDOW_BLOCKS: u64 = 4;
/// The class of all probation units: the smallest, which every machine can do.
const CLASS: u8 = 0;

/// The unit that a recent beacon has drawn for this key, if it has: the height
/// of the beacon and the task's id. The latest one counts.
pub(crate) fn drawn(state: &State, candidate: &PeerId) -> Option<(u64, Hash)> {
    let key = state.keys.get(candidate)?;
    if key.standby || key.barred_until > state.height {
        return None;
    }
    let from = state.height.saturating_sub(WINDOW_BLOCKS);
    let heights = (from..=state.height).rev();
    heights.into_iter().find_map(|height| Some((height, drawn_at(state, candidate, height)?)))
}

/// The unit that the beacon of `height` has drawn for this key, if it has.
fn drawn_at(state: &State, candidate: &PeerId, height: u64) -> Option<Hash> {
    let parameters = &state.genesis.parameters;
    let weights_of = height.saturating_sub(2);
    let standings = &state.epochs.get(&weights_of)?.standings;
    let is_newcomer = |weight: u64| weight < parameters.probation_weight_max;
    let key = state.keys.get(candidate)?;
    let in_time = key.registered_at <= weights_of && standings.weight(candidate).is_some_and(is_newcomer);
    if !in_time {
        return None;
    }
    let newcomers = standings.0.iter().filter(|(_, weight)| is_newcomer(*weight)).count() as u128;
    let id = probation_id(&state.epochs.get(&height)?.beacon, candidate);
    let mut leading = [0; 8];
    leading.copy_from_slice(&id.as_bytes()[..8]);
    // Drawn with probability (keys wanted a height) ÷ newcomers.
    let point = u128::from(u64::from_be_bytes(leading)) * newcomers * 1_000;
    (point < u128::from(parameters.probation_milli) << 64).then_some(id)
}

/// Opens a probation task by its candidate's commitment.
pub(super) fn open(
    state: &mut State,
    author: &PeerId,
    commit: &DrillCommit,
    signature: &Signature,
) -> Result<(), Refusal> {
    let key = *state.keys.get(author).ok_or(Refusal::NoSuchTask(commit.task))?;
    // The block's own beacon is not known to its transactions' authors.
    let from = state.height.saturating_sub(WINDOW_BLOCKS);
    let height = (from..state.height).rev().find(|height| drawn_at(state, author, *height) == Some(commit.task));
    let height = height.ok_or(Refusal::NoSuchTask(commit.task))?;
    let drawn_by = state.epochs.get(&height).ok_or(Refusal::NoSuchTask(commit.task))?.beacon;
    let open = || state.tasks.values().filter_map(|task| task.origin.candidate());
    let was_done = state.settled.values().any(|settled| settled.task.id == commit.task);
    let may = !key.standby
        && key.barred_until <= state.height
        && open().count() < PROBATIONS_OPEN_MAX
        && open().all(|other| other != author)
        && !was_done;
    if !may {
        return Err(Refusal::NotDrawn(*author));
    }
    if commit.stage != 0 || commit.proof.is_some() {
        return Err(Refusal::WrongPhase { task: commit.task, stage: 0 });
    }
    let stage = Stage {
        kind: StageKind::Opening,
        opened: state.height,
        beacon: drawn_by,
        weights_of: height.saturating_sub(2),
        total: 0,
        expected_milli: 1_000,
        candidates: 1,
        everyone: false,
        primary: Some(*author),
        challenged: false,
        interval: 0,
        phase: Phase::Committing,
    };
    let seat = Seat {
        worker: *author,
        owner: key.owner,
        stage: 0,
        vrf: key.vrf,
        weight: 0,
        election: None,
        commitment: commit.commitment,
        signature: *signature,
        revealed: None,
        forfeited: false,
    };
    let origin = Origin::Probation { height, candidate: *author };
    let task = Task { id: commit.task, origin, class: CLASS, stages: vec![stage], seats: vec![seat] };
    let at = state.height;
    state.tasks.insert(commit.task, task);
    if let Some(key) = state.keys.get_mut(author) {
        key.alive_at = at;
    }
    Ok(())
}
