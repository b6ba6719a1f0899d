//! Commitments: who was elected binds itself to a result.

use super::super::limits::SEATS_MAX;
use super::super::refusal::Refusal;
use super::super::state::State;
use super::super::task::{Phase, Seat, Stage, Task};
use super::super::transaction::DrillCommit;
use super::{probation, stage};
use crate::election::{VrfOutput, VrfProof};
use crate::ids::{PeerId, Signature, VrfPublic};

/// Takes a commitment, if its author wins a seat by the intervals that went by.
pub(in super::super) fn commit(
    state: &mut State,
    author: &PeerId,
    commit: &DrillCommit,
    signature: &Signature,
) -> Result<(), Refusal> {
    let seat = match state.tasks.get(&commit.task) {
        Some(task) => elect(state, task, author, commit, signature)?,
        None => return probation::open(state, author, commit, signature),
    };
    if let Some(task) = state.tasks.get_mut(&commit.task) {
        task.seats.push(seat);
    }
    let height = state.height;
    if let Some(key) = state.keys.get_mut(author) {
        key.alive_at = height;
    }
    Ok(())
}

fn elect(
    state: &State,
    task: &Task,
    author: &PeerId,
    commit: &DrillCommit,
    signature: &Signature,
) -> Result<Seat, Refusal> {
    let number = task.stage_number();
    let wrong_phase = Refusal::WrongPhase { task: task.id, stage: number };
    let stage = task.stage().ok_or(wrong_phase.clone())?;
    if commit.stage != number || stage.phase != Phase::Committing || state.height <= stage.opened {
        return Err(wrong_phase);
    }
    let owner = stage::electable(state, stage.weights_of, task.class, author);
    // One result per owner: no second key of an owner has a word in its own task.
    let owner = owner.filter(|owner| !task.has_part(author, owner)).ok_or(Refusal::NotElectable(*author))?;
    let weight = state.epochs.get(&stage.weights_of).and_then(|epoch| epoch.standings.weight(author));
    let weight = weight.filter(|weight| *weight > 0).ok_or(Refusal::NotElectable(*author))?;
    if task.seats.len() >= SEATS_MAX {
        return Err(Refusal::SeatsFull(task.id));
    }
    let vrf = state.keys.get(author).ok_or(Refusal::NotRegistered(*author))?.vrf;
    let election = proven(state, stage, author, &vrf, commit)?;
    let is_elected = match election {
        None => stage.everyone || stage.primary == Some(*author),
        Some((_, output)) => stage.seats(&task.id, number, &output, weight) > 0,
    };
    if !is_elected {
        return Err(Refusal::NotElected(*author));
    }
    let (commitment, signature) = (commit.commitment, *signature);
    let worker = *author;
    let seat = Seat {
        worker,
        owner,
        stage: number,
        vrf,
        weight,
        election,
        commitment,
        signature,
        revealed: None,
        forfeited: false,
    };
    Ok(seat)
}

/// The author's proof and what it proves; there is none where no election is held.
fn proven(
    state: &State,
    stage: &Stage,
    author: &PeerId,
    vrf: &VrfPublic,
    commit: &DrillCommit,
) -> Result<Option<(VrfProof, VrfOutput)>, Refusal> {
    let refused = Refusal::NotElected(*author);
    match commit.proof {
        None if !stage.is_election() => Ok(None),
        Some(proof) if stage.is_election() => {
            let known = || verified(state, stage, author, vrf, &proof);
            let output = known().or_else(|| vrf.verify(&stage.input(), &proof)).ok_or(refused)?;
            Ok(Some((proof, output)))
        }
        _ => Err(refused),
    }
}

/// What this very proof proves, if it stands in an open task already: it serves
/// all stages of a beacon, and to search for it costs a hundredth of checking it.
fn verified(state: &State, stage: &Stage, author: &PeerId, vrf: &VrfPublic, proof: &VrfProof) -> Option<VrfOutput> {
    let seats = state.tasks.values().flat_map(|task| task.seats.iter().map(move |seat| (task, seat)));
    let mut own = seats.filter(|(_, seat)| seat.worker == *author && seat.vrf == *vrf);
    own.find_map(|(task, seat)| {
        let beacon = task.stages.get(usize::from(seat.stage))?.beacon;
        let (known, output) = seat.election?;
        (beacon == stage.beacon && known == *proof).then_some(output)
    })
}
