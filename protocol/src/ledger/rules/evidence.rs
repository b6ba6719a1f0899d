//! Equivocation in consensus: who signs two statements that exclude each other
//! loses all of its power and stands by until it says otherwise: what it is still
//! owed for drills gives it no vote.

use super::super::limits::EVIDENCE_BLOCKS_MAX;
use super::super::records::FaultKind;
use super::super::refusal::Refusal;
use super::super::state::State;
use super::settle;
use crate::consensus::Evidence;
use crate::power::MicroPower;

/// Fines the author of both statements, once for each height and for those before.
pub(in super::super) fn evidence(state: &mut State, evidence: &Evidence) -> Result<(), Refusal> {
    let (offender, height) = (evidence.author, evidence.first.height);
    let key = *state.keys.get(&offender).ok_or(Refusal::NotRegistered(offender))?;
    let is_recent = height.saturating_add(EVIDENCE_BLOCKS_MAX) > state.height && height <= state.height + 1;
    if !is_recent || height <= key.struck_at {
        return Err(Refusal::OldEvidence(height));
    }
    evidence.verify(&state.chain)?;
    if let Some(key) = state.keys.get_mut(&offender) {
        key.struck_at = height;
        key.standby = true;
    }
    settle::fault(state, (&offender, &key.owner), FaultKind::Equivocation, None, MicroPower(u64::MAX));
    Ok(())
}
