//! What the state says: for people, for consensus, and for the driller's agent.

use super::genesis::{Genesis, Parameters};
use super::records::{Account, Epoch, Fault, Leases, Power, Registration, Reliability, Settled, Totals, Trust};
use super::refusal::Refusal;
use super::rules::probe::ProbeElection;
use super::rules::{lease, probation, probe, stage};
use super::state::State;
use super::task::{Phase, Stage, StageKind, Task};
use super::transaction::LeaseReport;
use crate::consensus::{Committee, Plan, Recovery, RecoveryError};
use crate::election::{Beacon, VrfOutput};
use crate::ids::{Hash, PeerId};

/// An election that a worker can take part in now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chance {
    /// The task, whose id is the seed of its unit.
    pub task: Hash,
    /// The size of its unit, as an index.
    pub class: u8,
    /// The stage's number, to be named in the commitment.
    pub number: u8,
    /// The stage.
    pub stage: Stage,
    /// The VRF input; `None` where no proof is asked for.
    pub input: Option<Vec<u8>>,
    /// The worker's weight in this election.
    pub weight: u64,
    /// What a check digest is owed under, if one is.
    pub challenge: Option<Hash>,
}

impl Chance {
    /// Seats that the worker's output for the input wins it.
    pub fn seats(&self, output: &VrfOutput) -> u32 {
        self.stage.seats(&self.task, self.number, output, self.weight)
    }
}

/// A commitment that its worker has to open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The task.
    pub task: Hash,
    /// The stage that the worker committed in.
    pub number: u8,
    /// The last height that surely takes the reveal.
    pub until: u64,
}

impl State {
    /// The founding document.
    pub fn founding(&self) -> &Genesis {
        &self.genesis
    }

    /// The rules, as numbers.
    pub fn parameters(&self) -> &Parameters {
        &self.genesis.parameters
    }

    /// The ledger's name: the hash of the founding document.
    pub fn ledger(&self) -> Hash {
        self.ledger
    }

    /// The name under which consensus signs: the ledger's, or that of its last recovery.
    pub fn chain(&self) -> Hash {
        self.chain
    }

    /// The height of the last block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// The hash of the last block; the ledger's name before the first.
    pub fn head(&self) -> Hash {
        self.head
    }

    /// What is kept of the last block's height.
    ///
    /// # Panics
    /// If the state has no epoch of its own height, which none has.
    pub fn epoch(&self) -> &Epoch {
        self.epochs.get(&self.height).expect("a state has an epoch of its height")
    }

    /// What is kept of this height, if it is recent.
    pub fn epoch_at(&self, height: u64) -> Option<&Epoch> {
        self.epochs.get(&height)
    }

    /// The last block's time, in Unix milliseconds.
    pub fn time_ms(&self) -> u64 {
        self.epoch().time_ms
    }

    /// The last block's beacon: what the next proposer is drawn with.
    pub fn beacon(&self) -> Beacon {
        self.epoch().beacon
    }

    /// Who decides on the next block.
    ///
    /// # Panics
    /// If the state has no committee, which none has.
    pub fn next_committee(&self) -> &Committee {
        self.committee(self.height + 1).expect("a state has a committee for the next height")
    }

    /// Who decides on a recent height or on the next one.
    pub fn committee(&self, height: u64) -> Option<&Committee> {
        if height > self.height + 1 {
            return None;
        }
        self.committees.iter().rev().find(|(first, _)| **first <= height).map(|(_, committee)| committee)
    }

    /// The account of this peer.
    pub fn account(&self, peer: &PeerId) -> Option<&Account> {
        self.accounts.get(peer)
    }

    /// The number of this peer's next counted transaction.
    pub fn next_nonce(&self, peer: &PeerId) -> u64 {
        self.accounts.get(peer).map_or(0, |account| account.nonce).saturating_add(1)
    }

    /// What this peer has registered.
    pub fn registration(&self, peer: &PeerId) -> Option<&Registration> {
        self.keys.get(peer)
    }

    /// All registered keys, ascending.
    pub fn registrations(&self) -> impl Iterator<Item = (&PeerId, &Registration)> {
        self.keys.iter()
    }

    /// The power of this peer and its history.
    pub fn power(&self, peer: &PeerId) -> Option<&Power> {
        self.power.get(peer)
    }

    /// The weight of this peer after the last block; `None` if it takes no part.
    pub fn weight(&self, peer: &PeerId) -> Option<u64> {
        self.epoch().standings.weight(peer)
    }

    /// How often this peer answered probes and kept leases; `None` before the first.
    pub fn reliability(&self, peer: &PeerId) -> Option<&Reliability> {
        self.reliability.get(peer)
    }

    /// Reports on leases of this peer's machine.
    pub fn leases(&self, trainer: &PeerId) -> Option<&Leases> {
        self.leases.get(trainer)
    }

    /// What the report of `author` would count for in the next block, in 2⁻³² probes.
    ///
    /// # Errors
    /// Why it would not count.
    pub fn lease_mass(&self, author: &PeerId, report: &LeaseReport) -> Result<u64, Refusal> {
        lease::judge(self, author, report, self.height + 1)
    }

    /// How far this owner is trusted.
    pub fn trust(&self, owner: &PeerId) -> Trust {
        self.trust.get(owner).copied().unwrap_or_default()
    }

    /// Sums over the whole ledger.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The open task of this id.
    pub fn task(&self, id: &Hash) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// All open tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// The latest tasks that ended with results, oldest first.
    pub fn settled(&self) -> impl DoubleEndedIterator<Item = &Settled> {
        self.settled.values()
    }

    /// The latest faults, oldest first.
    pub fn faults(&self) -> impl DoubleEndedIterator<Item = &Fault> {
        self.faults.values()
    }

    /// The elections that `worker` can take part in with the next block.
    pub fn chances(&self, worker: &PeerId) -> Vec<Chance> {
        self.tasks.values().filter_map(|task| self.chance(task, worker)).collect()
    }

    fn chance(&self, task: &Task, worker: &PeerId) -> Option<Chance> {
        let stage = *task.stage()?;
        let owner = stage::electable(self, stage.weights_of, task.class, worker)?;
        if stage.phase != Phase::Committing || task.has_part(worker, &owner) {
            return None;
        }
        // A task is its primary's alone until the next stage asks others.
        if stage.kind == StageKind::Opening && stage.primary != Some(*worker) {
            return None;
        }
        let weight = self.epochs.get(&stage.weights_of)?.standings.weight(worker).filter(|weight| *weight > 0)?;
        let number = task.stage_number();
        let input = stage.is_election().then(|| stage.input());
        let challenge = task.challenge(number);
        Some(Chance { task: task.id, class: task.class, number, stage, input, weight, challenge })
    }

    /// The commitments that `worker` has to open in the next blocks.
    pub fn dues(&self, worker: &PeerId) -> Vec<Due> {
        let reveal_blocks = u64::from(self.genesis.parameters.reveal_blocks);
        let due = |task: &Task| {
            let seat = task.seat(worker).filter(|seat| seat.revealed.is_none() && !seat.forfeited)?;
            let Phase::Revealing { since } = task.stage()?.phase else { return None };
            Some(Due { task: task.id, number: seat.stage, until: since + reveal_blocks })
        };
        self.tasks.values().filter_map(due).collect()
    }

    /// The probation unit that `worker` can commit to with the next block: its
    /// task's id. It is of class 0 and stage 0, and needs no proof.
    pub fn probation(&self, worker: &PeerId) -> Option<Hash> {
        let is_busy = self.tasks.values().any(|task| task.origin.candidate() == Some(worker));
        let (_, id) = probation::drawn(self, worker).filter(|_| !is_busy)?;
        self.settled.values().all(|settled| settled.task.id != id).then_some(id)
    }

    /// The election of checkers by the beacon of this height.
    pub fn probe_election(&self, height: u64) -> Option<ProbeElection> {
        probe::election(self, height)
    }

    /// What these peers would consent to if they took over from the next height on:
    /// each has its weight in the present committee, else what it weighs now, else 1.
    ///
    /// # Errors
    /// [`RecoveryError`] for nobody, somebody twice, too many, or who is not registered.
    pub fn recovery_plan(&self, members: &[PeerId]) -> Result<Plan, RecoveryError> {
        if let Some(stranger) = members.iter().find(|peer| !self.keys.contains(peer)) {
            return Err(RecoveryError::NotRegistered(*stranger));
        }
        let of_now = self.next_committee();
        let weight = |peer: &PeerId| match of_now.weight(peer) {
            0 => self.weight(peer).unwrap_or(0).max(1),
            weight => weight,
        };
        let committee = Committee::new(members.iter().map(|peer| (*peer, weight(peer))).collect())?;
        Ok(Plan { chain: self.chain, height: self.height + 1, parent: self.head, committee })
    }

    /// The state under an operator's recovery: from the next height on its committee
    /// decides, under the chain's new name. All other keys stand by until they say
    /// otherwise: those that are gone would make the next committee wait, too.
    ///
    /// # Errors
    /// The first check of [`Recovery::verify`] that failed, or members or weights
    /// that are not those of [`Self::recovery_plan`].
    pub fn recover(&self, recovery: &Recovery) -> Result<Self, RecoveryError> {
        recovery.verify(&self.chain, self.height + 1, &self.head)?;
        let Plan { committee, .. } = &recovery.plan;
        let members: Vec<_> = committee.weights().iter().map(|(peer, _)| *peer).collect();
        let expected = self.recovery_plan(&members)?.committee;
        let mut both = committee.weights().iter().zip(expected.weights());
        if let Some(((peer, found), (_, expected))) = both.find(|(found, expected)| found != expected) {
            return Err(RecoveryError::OtherWeight { peer: *peer, found: *found, expected: *expected });
        }
        let mut next = self.clone();
        for peer in self.keys.keys().filter(|peer| !committee.contains(peer)) {
            if let Some(key) = next.keys.get_mut(peer) {
                key.standby = true;
            }
        }
        next.committees.insert(self.height + 1, committee.clone());
        next.chain = recovery.plan.new_chain();
        next.refresh();
        Ok(next)
    }
}
