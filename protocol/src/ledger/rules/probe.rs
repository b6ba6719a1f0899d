//! Uptime: elected checkers ask whether peers are there.
//!
//! Whom a checker asks follows from its own VRF output, so that it cannot
//! choose, and nobody else knows before it asks. An answer is the target's
//! signature over the beacon: it proves that the target was there since. That
//! there was none is the checker's word; one checker in many has little say.

use super::super::limits::{PROBE_BLOCKS_MAX, PROBE_SEATS_MAX};
use super::super::records::Standings;
use super::super::refusal::Refusal;
use super::super::state::State;
use super::super::transaction::ProbeResult;
use crate::election::{Domain, VrfOutput, election_input, seats};
use crate::ids::PeerId;
use crate::seed::Seed;

/// Most seats that are expected at one height, in thousandths.
const EXPECTED_MILLI_MAX: u64 = 64_000;

/// The election of checkers at one height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeElection {
    /// The VRF input.
    pub input: Vec<u8>,
    /// The sum of all weights.
    pub total: u64,
    /// Thousandths of seats that are expected.
    pub expected_milli: u64,
    /// Who can be elected, by weight, and who can be asked.
    pub standings: Standings,
}

/// The election of this height, while its results are awaited.
pub(crate) fn election(state: &State, height: u64) -> Option<ProbeElection> {
    let epoch = state.epochs.get(&height)?;
    let standings = state.epochs.get(&height.saturating_sub(2))?.standings.clone();
    let total = standings.0.iter().fold(0u64, |total, (_, weight)| total.saturating_add(*weight));
    let parameters = &state.genesis.parameters;
    let listed = standings.0.len() as u128;
    let expected = listed * u128::from(parameters.epoch_ms) * 1_000 / u128::from(parameters.probe_interval_ms.max(1));
    let expected_milli = u64::try_from(expected).unwrap_or(u64::MAX).clamp(1, EXPECTED_MILLI_MAX);
    let input = election_input(Domain::Probe, &epoch.beacon, &[&height.to_le_bytes()]);
    Some(ProbeElection { input, total, expected_milli, standings })
}

impl ProbeElection {
    /// Seats that `output` wins for this checker, each with a target.
    pub fn seats(&self, checker: &PeerId, output: &VrfOutput) -> u32 {
        let weight = self.standings.weight(checker).unwrap_or(0);
        seats(output, weight, self.total, self.expected_milli).min(PROBE_SEATS_MAX)
    }

    /// Whom `checker` asks with its seat number `seat`: anyone but itself.
    pub fn target(&self, checker: &PeerId, output: &VrfOutput, seat: u32) -> Option<PeerId> {
        let others: Vec<_> = self.standings.0.iter().map(|(peer, _)| *peer).filter(|peer| peer != checker).collect();
        let seed = Seed(crate::ids::Hash::of(output.as_bytes()));
        (!others.is_empty()).then(|| others[seed.below("probe target", u64::from(seat), others.len() as u64) as usize])
    }
}

/// Counts a probe.
pub(in super::super) fn probe(state: &mut State, author: &PeerId, result: &ProbeResult) -> Result<(), Refusal> {
    let height = result.height;
    let no_probe = Refusal::NoProbe(height);
    let is_due = height < state.height && height + PROBE_BLOCKS_MAX >= state.height;
    let place = (*author, result.seat);
    if !is_due || state.probed.get(&height).is_some_and(|done| done.contains(&place)) {
        return Err(no_probe);
    }
    let election = election(state, height).ok_or(no_probe.clone())?;
    let key = state.keys.get(author).ok_or(Refusal::NotRegistered(*author))?;
    if key.standby || key.registered_at > height.saturating_sub(2) {
        return Err(Refusal::NotElectable(*author));
    }
    let refused = Refusal::NotElected(*author);
    let output = key.vrf.verify(&election.input, &result.proof).ok_or(refused.clone())?;
    if result.seat >= election.seats(author, &output) {
        return Err(refused);
    }
    let target = election.target(author, &output, result.seat).ok_or(no_probe)?;
    // Who has stepped back since then, or was forgotten, owes no answer.
    let listed = state.keys.get(&target).filter(|key| !key.standby);
    listed.ok_or(Refusal::NotElectable(target))?;
    let beacon = state.epochs.get(&height).map(|epoch| epoch.beacon.0).ok_or(Refusal::NoProbe(height))?;
    let is_reply = |signature| ProbeResult::is_reply(signature, &target, &state.ledger, &beacon, author);
    if !result.reply.as_ref().is_none_or(is_reply) {
        return Err(Refusal::BadReply(target));
    }
    let now = state.height;
    state.probed.entry(height).insert(place);
    state.reliability.entry(target).probe(result.reply.is_some());
    if let Some(key) = state.keys.get_mut(&target).filter(|_| result.reply.is_some()) {
        key.alive_at = now;
    }
    Ok(())
}
