//! A scripted driller: what an honest one does, or one of the attacks on it.

use crate::ledger::honest_result;
use manta_protocol::election::{VrfOutput, VrfProof, VrfSecret};
use manta_protocol::ledger::{
    Action, Chance, DrillClass, DrillCommit, DrillResult, DrillReveal, Register, State, Task, Transaction,
};
use manta_protocol::wire::Identity;
use manta_protocol::{Hash, PeerId, Seed};
use std::collections::BTreeMap;

/// Keys that a grinder tries for each registration.
const GRIND_KEYS: u64 = 16;
/// Heights from one registration of a grinder to the next.
const GRIND_HEIGHTS: u64 = 5;

/// How an agent plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// By the rules.
    Honest,
    /// Takes no part.
    Idle,
    /// Says what its ring says, which is wrong, of every task.
    Liar {
        /// Members of one ring say the same.
        ring: u64,
    },
    /// Works until it is trusted, then says anything in so many of a hundred tasks.
    TrustedLiar {
        /// How many.
        percent: u64,
    },
    /// Commits and does not reveal.
    Withholder,
    /// Commits to others' commitments, or to what they have shown, and repeats what they show.
    Copycat,
    /// As if results were shown before commitments were due: it repeats them without the work.
    Oracle,
    /// Registers again and again the key that would win most of what is open.
    Grinder,
    /// A newcomer: registers, and does probation units.
    Newcomer,
}

/// What an agent has ready for a task.
#[derive(Clone, Copy, Debug)]
struct Part {
    number: u8,
    proof: Option<VrfProof>,
    result: DrillResult,
    commitment: Hash,
}

/// See the module.
pub(super) struct Agent {
    pub(super) peer: PeerId,
    pub(super) identity: Identity,
    pub(super) vrf: VrfSecret,
    /// Units that it has computed.
    pub(super) executions: u64,
    /// Who stands behind it, if it is another.
    pub(super) owner: Option<Identity>,
    policy: Policy,
    seed: Seed,
    /// By VRF input.
    drawn: BTreeMap<Vec<u8>, (VrfOutput, VrfProof)>,
    parts: BTreeMap<Hash, Part>,
}

impl Agent {
    pub(super) fn new(seed: Seed, number: usize, policy: Policy) -> Self {
        let seed = seed.child("agent", number as u64);
        let identity = Identity::from_secret(*seed.0.as_bytes());
        let (peer, vrf) = (identity.peer_id(), identity.vrf());
        let (drawn, parts) = (BTreeMap::new(), BTreeMap::new());
        Self { peer, identity, vrf, executions: 0, owner: None, policy, seed, drawn, parts }
    }

    /// Whether it builds blocks: attackers here leave that to the others.
    pub(super) fn proposes(&self) -> bool {
        matches!(self.policy, Policy::Honest)
    }

    /// What it says after a block.
    pub(super) fn look(&mut self, state: &State) -> Vec<Transaction> {
        if self.policy == Policy::Idle {
            return Vec::new();
        }
        let mut said: Vec<Action> = self.registration(state).into_iter().collect();
        let mut chances = state.chances(&self.peer);
        chances.retain(|chance| {
            state.registration(&self.peer).is_some_and(|key| key.vrf == self.vrf.public()) || chance.input.is_none()
        });
        for chance in &chances {
            said.extend(self.commit(state, chance));
        }
        if self.policy == Policy::Newcomer
            && let Some(task) = state.probation(&self.peer)
        {
            said.push(self.commit_to(state, task, 0, None, None));
        }
        for due in state.dues(&self.peer) {
            let Some(task) = state.task(&due.task) else { continue };
            said.extend(self.reveal(task));
        }
        // The unit of a newcomer opens its task with the commitment.
        let probation = state.probation(&self.peer);
        self.parts.retain(|id, _| state.task(id).is_some() || probation == Some(*id));
        self.drawn.retain(|input, _| chances.iter().any(|chance| chance.input.as_ref() == Some(input)));
        let (ledger, nonce) = (state.ledger(), state.next_nonce(&self.peer));
        said.into_iter().map(|action| Transaction::sign(&self.identity, &ledger, nonce, action)).collect()
    }

    fn registration(&mut self, state: &State) -> Option<Action> {
        let known = state.registration(&self.peer);
        let wants = match (self.policy, &self.owner) {
            (Policy::Grinder, _) if state.height().is_multiple_of(GRIND_HEIGHTS) => {
                self.vrf = self.best_key(state);
                true
            }
            (_, Some(owner)) => known.is_none_or(|key| key.owner != owner.peer_id()),
            _ => known.is_none(),
        };
        let nonce = state.next_nonce(&self.peer);
        let countersign = |owner: &Identity| Register::countersign(owner, &state.ledger(), &self.peer, nonce);
        let owner = self.owner.as_ref().map_or(self.peer, Identity::peer_id);
        let countersignature = self.owner.as_ref().map(countersign);
        wants.then(|| Action::Register(Register { vrf: self.vrf.public(), owner, countersignature, class: 0 }))
    }

    /// Of many keys, the one that would win most of the elections that are open.
    fn best_key(&self, state: &State) -> VrfSecret {
        let seed = self.seed.child("keys", state.height());
        let keys = (0..GRIND_KEYS).map(|key| VrfSecret::derive(seed.child("key", key).0.as_bytes()));
        let chances = state.chances(&self.peer);
        let wins = |key: &VrfSecret| -> u32 {
            let of = |chance: &Chance| Some(chance.seats(&key.prove(chance.input.as_ref()?).0));
            chances.iter().filter_map(of).take(4).sum()
        };
        keys.max_by_key(wins).unwrap_or_else(|| self.vrf.clone())
    }

    fn commit(&mut self, state: &State, chance: &Chance) -> Option<Action> {
        let proof = match &chance.input {
            None => None,
            Some(input) => {
                let vrf = &self.vrf;
                let drawn = self.drawn.entry(input.clone()).or_insert_with(|| vrf.prove(input));
                if chance.seats(&drawn.0) == 0 {
                    return None;
                }
                Some(drawn.1)
            }
        };
        Some(self.commit_to(state, chance.task, chance.number, proof, chance.challenge))
    }

    fn commit_to(
        &mut self,
        state: &State,
        task: Hash,
        number: u8,
        proof: Option<VrfProof>,
        challenge: Option<Hash>,
    ) -> Action {
        let known = self.parts.get(&task).filter(|part| part.number == number).copied();
        let part = known.unwrap_or_else(|| {
            let class = state.parameters().classes[0];
            let result = self.result(state, &task, &class, challenge);
            let copied = state.task(&task).and_then(|task| task.seats.first()).map(|seat| seat.commitment);
            let own = result.commitment(&task, &self.peer, &self.salt(&task));
            let is_copy = self.policy == Policy::Copycat && challenge.is_none();
            let commitment = if is_copy { copied.unwrap_or(own) } else { own };
            Part { number, proof, result, commitment }
        });
        self.parts.insert(task, part);
        Action::Commit(DrillCommit { task, stage: number, proof: part.proof, commitment: part.commitment })
    }

    /// What it will say of a unit; whoever computes it pays for that.
    fn result(&mut self, state: &State, task: &Hash, class: &DrillClass, challenge: Option<Hash>) -> DrillResult {
        let truth = honest_result(task, class, challenge.as_ref());
        let wrong = |label: &str, number: u64| {
            let digest = Seed(truth.digest).child(label, number).0;
            let check = challenge.map_or(Hash([0; 32]), |challenge| Hash::of(&[digest.0, challenge.0].concat()));
            DrillResult { digest, check }
        };
        match self.policy {
            Policy::Liar { ring } => wrong("ring", ring),
            Policy::TrustedLiar { percent } => {
                let streak = state.trust(&self.peer).streak;
                let lies =
                    streak >= state.parameters().trust_after && self.seed.below("lie", seed_of(task), 100) < percent;
                if lies {
                    return wrong("alone", seed_of(&Hash(self.peer.0)));
                }
                self.executions += 1;
                truth
            }
            // What others have shown, if they have; the check is a guess.
            Policy::Copycat => {
                let shown = state.task(task).and_then(|task| task.seats.iter().find_map(|seat| seat.revealed));
                let digest =
                    shown.map_or_else(|| self.seed.child("guess", seed_of(task)).0, |shown| shown.result.digest);
                let check = challenge.map_or(Hash([0; 32]), |_| self.seed.child("check", seed_of(task)).0);
                DrillResult { digest, check }
            }
            Policy::Oracle => truth,
            _ => {
                self.executions += 1;
                truth
            }
        }
    }

    fn reveal(&mut self, task: &Task) -> Option<Action> {
        let part = self.parts.get(&task.id)?;
        let (mut salt, mut result) = (self.salt(&task.id), part.result);
        match self.policy {
            Policy::Withholder => return None,
            Policy::Copycat => {
                let others = task.seats.iter().filter(|seat| seat.worker != self.peer);
                if let Some(shown) = others.filter_map(|seat| seat.revealed).next().filter(|_| part.number == 0) {
                    (salt, result) = (shown.salt, shown.result);
                }
            }
            _ => {}
        }
        Some(Action::Reveal(DrillReveal { task: task.id, salt, result }))
    }

    fn salt(&self, task: &Hash) -> Hash {
        self.seed.child("salt", seed_of(task)).0
    }
}

/// A number from a hash, for draws under it.
fn seed_of(hash: &Hash) -> u64 {
    Seed(*hash).value("number", 0)
}
