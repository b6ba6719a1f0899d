//! The driller: which units this peer computes, and what it says about them.
//!
//! After each block it looks which elections it can win, has the units of those
//! that it won computed, commits to the results, and opens the commitments when
//! they are due. Salts are derived and units can be computed again, so that
//! nothing here has to outlive a restart: a peer that comes back opens what it
//! has committed to.

use crate::election::{VrfOutput, VrfProof, VrfSecret};
use crate::ids::{Hash, PeerId};
use crate::ledger::{Action, Chance, DrillCommit, DrillResult, DrillReveal, State};
use crate::wire::Identity;
use std::collections::BTreeMap;

/// Units that may be under way or waiting to be opened.
const TASKS_MAX: usize = 16;

/// A unit that shall be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) task: Hash,
    pub(crate) class: u8,
    pub(crate) challenge: Option<Hash>,
    /// Whether a commitment to its result stands already: then it is owed.
    pub(crate) owed: bool,
}

/// A task that this peer has a part in.
#[derive(Debug)]
struct Part {
    number: u8,
    class: u8,
    challenge: Option<Hash>,
    proof: Option<VrfProof>,
    result: Option<DrillResult>,
    /// Whether it is being computed.
    asked: bool,
    committed: bool,
    revealed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Driller {
    me: PeerId,
    vrf: VrfSecret,
    salts: [u8; 32],
    parts: BTreeMap<Hash, Part>,
    /// What this key drew, by VRF input: one proof serves all stages that a beacon
    /// opens. Kept while such a stage is open, for its expectation may double.
    drawn: BTreeMap<Vec<u8>, (VrfOutput, VrfProof)>,
}

impl Driller {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self {
            me: identity.peer_id(),
            vrf: identity.vrf(),
            salts: identity.derive("manta 2026-11 drill salts v1"),
            parts: BTreeMap::new(),
            drawn: BTreeMap::new(),
        }
    }

    /// What the new state asks for: units to compute, and words to say.
    pub(crate) fn look(&mut self, state: &State) -> (Vec<Wanted>, Vec<Action>) {
        let me = self.me;
        let is_ours = state.registration(&me).is_some_and(|key| key.vrf == self.vrf.public());
        if !is_ours {
            self.parts.clear();
            return (Vec::new(), Vec::new());
        }
        let chances = state.chances(&me);
        let probation = state.probation(&me);
        self.forget(state, &chances, probation);
        let mut wanted = Vec::new();
        for chance in chances {
            self.try_chance(chance, &mut wanted);
        }
        if let Some(task) = probation {
            self.begin(task, Part::new(0, 0, None, None), &mut wanted);
        }
        let mut said = Vec::new();
        for due in state.dues(&me) {
            let Some(task) = state.task(&due.task) else { continue };
            let part = self.parts.entry(due.task).or_insert_with(|| {
                // After a restart: the unit is computed again.
                Part::new(due.number, task.class, task.challenge(due.number), None)
            });
            part.committed = true;
            match part.result {
                Some(result) if !part.revealed => {
                    part.revealed = true;
                    said.push(Action::Reveal(DrillReveal {
                        task: due.task,
                        salt: salt(&self.salts, &due.task),
                        result,
                    }));
                }
                None if !part.asked => {
                    part.asked = true;
                    wanted.push(part.wanted(due.task));
                }
                _ => {}
            }
        }
        (wanted, said)
    }

    /// A unit was computed, or not (`None`: no capacity was free, or it failed).
    pub(crate) fn computed(&mut self, task: Hash, result: Option<DrillResult>) -> Option<Action> {
        let (me, salts) = (self.me, self.salts);
        let part = self.parts.get_mut(&task)?;
        part.asked = false;
        part.result = result;
        let Some(result) = result else {
            if !part.committed {
                self.parts.remove(&task);
            }
            return None;
        };
        if part.committed {
            return None;
        }
        part.committed = true;
        let commitment = result.commitment(&task, &me, &salt(&salts, &task));
        Some(Action::Commit(DrillCommit { task, stage: part.number, proof: part.proof, commitment }))
    }

    fn try_chance(&mut self, chance: Chance, wanted: &mut Vec<Wanted>) {
        let Chance { task, class, number, challenge, .. } = chance;
        // One of an earlier stage, whose commitment came too late, makes room once it is computed.
        if self.parts.get(&task).is_some_and(|part| part.number == number || part.asked) {
            return;
        }
        let proof = match &chance.input {
            None => None,
            Some(input) => {
                let vrf = &self.vrf;
                let (output, proof) = *self.drawn.entry(input.clone()).or_insert_with(|| vrf.prove(input));
                if chance.seats(&output) == 0 {
                    return;
                }
                Some(proof)
            }
        };
        self.parts.remove(&task);
        self.begin(task, Part::new(number, class, challenge, proof), wanted);
    }

    fn begin(&mut self, task: Hash, mut part: Part, wanted: &mut Vec<Wanted>) {
        if self.parts.contains_key(&task) || self.parts.len() >= TASKS_MAX {
            return;
        }
        part.asked = true;
        wanted.push(part.wanted(task));
        self.parts.insert(task, part);
    }

    /// Tasks that are over, or that others were faster with, are of no use any more.
    fn forget(&mut self, state: &State, chances: &[Chance], probation: Option<Hash>) {
        let me = self.me;
        let open = |task: &Hash| chances.iter().any(|chance| chance.task == *task) || probation == Some(*task);
        self.parts.retain(|task, part| {
            let seated = state.task(task).is_some_and(|open| open.seat(&me).is_some());
            // A commitment may still wait for a block.
            seated || open(task) || (part.asked && part.committed)
        });
        // No more than there are open tasks.
        self.drawn.retain(|input, _| chances.iter().any(|chance| chance.input.as_ref() == Some(input)));
    }
}

impl Part {
    fn new(number: u8, class: u8, challenge: Option<Hash>, proof: Option<VrfProof>) -> Self {
        Self { number, class, challenge, proof, result: None, asked: false, committed: false, revealed: false }
    }

    fn wanted(&self, task: Hash) -> Wanted {
        Wanted { task, class: self.class, challenge: self.challenge, owed: self.committed }
    }
}

fn salt(salts: &[u8; 32], task: &Hash) -> Hash {
    Hash(*blake3::keyed_hash(salts, task.as_bytes()).as_bytes())
}
