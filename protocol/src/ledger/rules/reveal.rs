//! Reveals: a driller opens its commitment.

use super::super::refusal::Refusal;
use super::super::state::State;
use super::super::task::{Phase, Revealed};
use super::super::transaction::DrillReveal;
use crate::ids::{Hash, PeerId, Signature};

/// Takes a reveal, once the commitments of its stage are closed.
pub(in super::super) fn reveal(
    state: &mut State,
    author: &PeerId,
    reveal: &DrillReveal,
    signature: &Signature,
) -> Result<(), Refusal> {
    let task = state.tasks.get(&reveal.task).ok_or(Refusal::NoSuchTask(reveal.task))?;
    let refused = Refusal::NoCommitment(*author);
    let place = task.seats.iter().position(|seat| seat.worker == *author).ok_or(refused.clone())?;
    let is_open = matches!(task.stage(), Some(stage) if matches!(stage.phase, Phase::Revealing { since } if since < state.height));
    if !is_open {
        return Err(Refusal::WrongPhase { task: reveal.task, stage: task.stage_number() });
    }
    let seat = &task.seats[place];
    let opens = reveal.result.commitment(&task.id, author, &reveal.salt) == seat.commitment;
    // Without a challenge a check says nothing: it has one value, so that it
    // does not keep equal results apart.
    let has_check = task.challenge(seat.stage).is_some() || reveal.result.check == Hash([0; 32]);
    if seat.revealed.is_some() || seat.forfeited || !opens || !has_check {
        return Err(refused);
    }
    let revealed = Revealed { salt: reveal.salt, result: reveal.result, signature: *signature };
    if let Some(task) = state.tasks.get_mut(&reveal.task) {
        task.seats[place].revealed = Some(revealed);
    }
    Ok(())
}
