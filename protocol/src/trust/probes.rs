//! Probes: asking the peers that an election has this peer ask, and answering.
//!
//! Whom to ask follows from the own VRF output. A probe that is not answered in
//! time is reported as such, unless this peer hears nobody at all: then the
//! fault is its own.

use crate::election::{VrfProof, VrfSecret};
use crate::ids::{PeerId, Signature};
use crate::ledger::{Action, ProbeResult, State};
use crate::time::{Duration, Time};
use crate::trust::words::Probe;
use crate::wire::Identity;
use std::collections::BTreeMap;

/// How long an answer may take, at most and at least.
const PATIENCE_MAX: Duration = Duration::from_s(10);
const PATIENCE_MIN: Duration = Duration::from_ms(500);
/// Probes whose answers are awaited.
const OPEN_MAX: usize = 64;

#[derive(Debug)]
struct Open {
    target: PeerId,
    proof: VrfProof,
    until: Time,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Prober {
    me: PeerId,
    vrf: VrfSecret,
    /// By height and seat.
    open: BTreeMap<(u64, u32), Open>,
    /// The last height whose election was looked at.
    seen: u64,
}

impl Prober {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self { me: identity.peer_id(), vrf: identity.vrf(), open: BTreeMap::new(), seen: 0 }
    }

    /// Whom to ask what, now that there is another block.
    pub(crate) fn look(&mut self, state: &State, now: Time) -> Vec<(PeerId, Probe)> {
        // The block before the last: whoever is asked has it, too, by now.
        let height = state.height().saturating_sub(1);
        let is_ours = state.registration(&self.me).is_some_and(|key| !key.standby && key.vrf == self.vrf.public());
        if !is_ours || std::mem::replace(&mut self.seen, height) == height {
            return Vec::new();
        }
        let Some(election) = state.probe_election(height) else { return Vec::new() };
        if election.standings.weight(&self.me).is_none_or(|weight| weight == 0) {
            return Vec::new();
        }
        let (output, proof) = self.vrf.prove(&election.input);
        let epoch = Duration::from_ms(state.parameters().epoch_ms);
        let until = now + epoch.max(PATIENCE_MIN).min(PATIENCE_MAX);
        let mut asked = Vec::new();
        for seat in 0..election.seats(&self.me, &output) {
            let Some(target) = election.target(&self.me, &output, seat) else { continue };
            if self.open.len() < OPEN_MAX {
                self.open.insert((height, seat), Open { target, proof, until });
                asked.push((target, Probe { ledger: state.ledger(), height, seat }));
            }
        }
        asked
    }

    /// Somebody answered.
    pub(crate) fn answered(
        &mut self,
        from: PeerId,
        probe: &Probe,
        signature: Signature,
        state: &State,
    ) -> Option<Action> {
        let place = (probe.height, probe.seat);
        let open = self.open.get(&place).filter(|open| open.target == from && probe.ledger == state.ledger())?;
        let beacon = state.epoch_at(probe.height)?.beacon.0;
        if !ProbeResult::is_reply(&signature, &from, &state.ledger(), &beacon, &self.me) {
            return None;
        }
        let proof = open.proof;
        self.open.remove(&place);
        Some(Action::Probe(ProbeResult { height: probe.height, seat: probe.seat, proof, reply: Some(signature) }))
    }

    /// Probes that were not answered in time.
    pub(crate) fn overdue(&mut self, hears_others: bool, now: Time) -> Vec<Action> {
        let over: Vec<_> = self.open.iter().filter(|(_, open)| open.until <= now).map(|(place, _)| *place).collect();
        let report = |(height, seat)| {
            let open = self.open.remove(&(height, seat))?;
            hears_others.then_some(Action::Probe(ProbeResult { height, seat, proof: open.proof, reply: None }))
        };
        over.into_iter().filter_map(report).collect()
    }

    pub(crate) fn timeout(&self) -> Option<Time> {
        self.open.values().map(|open| open.until).min()
    }
}

/// The answer to a probe, if it is of our ledger and of a height that we know.
pub(crate) fn answer(identity: &Identity, checker: &PeerId, probe: &Probe, state: &State) -> Option<Signature> {
    let epoch = state.epoch_at(probe.height).filter(|_| probe.ledger == state.ledger())?;
    Some(ProbeResult::reply(identity, &state.ledger(), &epoch.beacon.0, checker))
}
