//! A drill task: who was elected for it, what they committed to, what they
//! have shown.

use super::transaction::DrillResult;
use crate::election::{Beacon, Domain, VrfOutput, VrfProof, election_input, seats};
use crate::ids::{Hash, PeerId, Signature, VrfPublic};
use serde::{Deserialize, Serialize};

const TASK_DOMAIN: &str = "manta 2026-11 drill task v1";
const PROBATION_DOMAIN: &str = "manta 2026-11 probation task v1";
const CHALLENGE_DOMAIN: &str = "manta 2026-11 drill challenge v1";
const PRIMARY_DOMAIN: &str = "manta 2026-11 drill primary v1";

/// Where a task comes from; its id and so its unit follow from this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Created by a beacon.
    Drawn {
        /// The height of the beacon.
        height: u64,
        /// Epochs since then that had no block; 0 for the height's own beacon.
        idle: u32,
        /// Which of the beacon's tasks.
        index: u32,
    },
    /// The probation unit of one key, which nobody else can use.
    Probation {
        /// The height whose beacon drew the key.
        height: u64,
        /// The key.
        candidate: PeerId,
    },
}

/// Why drillers are elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StageKind {
    /// The first result: of who is drawn for it, or of the candidate.
    Opening,
    /// Further results, compared with the first.
    Replica,
    /// Results differ: more drillers.
    Escalation,
    /// Results still differ: the last word.
    Referee,
}

/// What a stage waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// For commitments.
    Committing,
    /// For reveals, in blocks after this height.
    Revealing {
        /// The height of the block that closed the commitments.
        since: u64,
    },
    /// For nothing: a later stage goes on.
    Closed,
}

/// One election of drillers for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Why.
    pub kind: StageKind,
    /// The block that opened it; commitments come in later ones.
    pub opened: u64,
    /// What it draws with.
    pub beacon: Beacon,
    /// The height whose weights count.
    pub weights_of: u64,
    /// The sum of weights that can be elected.
    pub total: u64,
    /// Thousandths of seats that are expected in the first interval.
    pub expected_milli: u64,
    /// Owners that can be elected.
    pub candidates: u32,
    /// Whether all of those may commit, elected or not.
    pub everyone: bool,
    /// Who alone may commit in this interval, where one is drawn for all to see:
    /// in opening stages.
    pub primary: Option<PeerId>,
    /// Whether results were known when it opened: then its drillers owe a check
    /// digest, too ([`Task::challenge`]).
    pub challenged: bool,
    /// Intervals that went by: each has doubled the expectation, or drawn another primary.
    pub interval: u32,
    /// What it waits for.
    pub phase: Phase,
}

/// A commitment that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revealed {
    /// What hid it.
    pub salt: Hash,
    /// The result.
    pub result: DrillResult,
    /// The driller's, over the transaction.
    pub signature: Signature,
}

/// One driller of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Who.
    pub worker: PeerId,
    /// Who stands behind it.
    pub owner: PeerId,
    /// The stage that it was elected in.
    pub stage: u8,
    /// Its key for elections then.
    pub vrf: VrfPublic,
    /// Its weight in that election.
    pub weight: u64,
    /// Its proof of election, and the output for the stage's beacon that it
    /// proves; `None` for a primary, and where everyone may commit.
    pub election: Option<(VrfProof, VrfOutput)>,
    /// What it bound itself to.
    pub commitment: Hash,
    /// The driller's, over the transaction that commits.
    pub signature: Signature,
    /// What it has shown.
    pub revealed: Option<Revealed>,
    /// Whether the time to show it went by.
    pub forfeited: bool,
}

/// A drill task and all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id, the seed of its unit.
    pub id: Hash,
    /// Where it comes from.
    pub origin: Origin,
    /// The size of its unit, as an index.
    pub class: u8,
    /// Its elections; the last one goes on.
    pub stages: Vec<Stage>,
    /// Its drillers, in order of their commitments.
    pub seats: Vec<Seat>,
}

/// The id of a task that `beacon` creates (idle epochs have beacons of their own).
pub(crate) fn drawn_id(beacon: &Beacon, idle: u32, index: u32) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(TASK_DOMAIN);
    hasher.update(beacon.0.as_bytes()).update(&idle.to_le_bytes()).update(&index.to_le_bytes());
    Hash(*hasher.finalize().as_bytes())
}

/// The id of the probation unit of `candidate` under `beacon`. Its first eight
/// bytes are also the draw: below a bound, the key may do it.
pub(crate) fn probation_id(beacon: &Beacon, candidate: &PeerId) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(PROBATION_DOMAIN);
    hasher.update(beacon.0.as_bytes()).update(candidate.as_bytes());
    Hash(*hasher.finalize().as_bytes())
}

impl Origin {
    /// The key whose probation unit it is.
    pub fn candidate(&self) -> Option<&PeerId> {
        match self {
            Self::Drawn { .. } => None,
            Self::Probation { candidate, .. } => Some(candidate),
        }
    }
}

/// The seed that the primary of an interval of the opening stage of `task` is drawn with.
pub(crate) fn primary_seed(beacon: &Beacon, task: &Hash, interval: u32) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(PRIMARY_DOMAIN);
    hasher.update(beacon.0.as_bytes()).update(task.as_bytes()).update(&interval.to_le_bytes());
    Hash(*hasher.finalize().as_bytes())
}

impl Stage {
    /// The VRF input of its election: one for all stages that a beacon opens, so
    /// that a peer proves once for all of them.
    pub fn input(&self) -> Vec<u8> {
        election_input(Domain::Drill, &self.beacon, &[])
    }

    /// Whether its drillers have to prove that they were elected.
    pub fn is_election(&self) -> bool {
        !self.everyone && self.kind != StageKind::Opening
    }

    /// Seats that `output`, for the beacon, wins a key of `weight` in this stage,
    /// which is number `number` of `task`, with as many intervals as went by.
    pub fn seats(&self, task: &Hash, number: u8, output: &VrfOutput, weight: u64) -> u32 {
        let mut name = [0; 33];
        name[..32].copy_from_slice(task.as_bytes());
        name[32] = number;
        let expected_milli = self.expected_milli << self.interval.min(super::limits::INTERVALS_MAX);
        seats(&output.of_task(&name), weight, self.total, expected_milli)
    }
}

impl Task {
    /// The stage that goes on.
    pub fn stage(&self) -> Option<&Stage> {
        self.stages.last()
    }

    /// The number of the stage that goes on.
    pub fn stage_number(&self) -> u8 {
        self.stages.len().saturating_sub(1) as u8
    }

    /// What check digests of a stage are keyed with: a stage that opens after
    /// results are known has a challenge, so that knowing is not enough.
    pub fn challenge(&self, number: u8) -> Option<Hash> {
        let stage = self.stages.get(usize::from(number))?;
        stage.challenged.then(|| {
            let mut hasher = blake3::Hasher::new_derive_key(CHALLENGE_DOMAIN);
            hasher.update(stage.beacon.0.as_bytes()).update(self.id.as_bytes()).update(&[number]);
            Hash(*hasher.finalize().as_bytes())
        })
    }

    /// The seat of this worker.
    pub fn seat(&self, worker: &PeerId) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.worker == *worker)
    }

    /// Whether this key or another of its owner has a seat. The key counts by
    /// itself, for it may have had another owner when it took its seat.
    pub fn has_part(&self, worker: &PeerId, owner: &PeerId) -> bool {
        self.seats.iter().any(|seat| seat.worker == *worker || seat.owner == *owner)
    }

    /// Seats of one stage.
    pub fn seats_of(&self, number: u8) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(move |seat| seat.stage == number)
    }

    /// Seats that one driller's commitment stands for, at least one: a key that
    /// won several does the unit once.
    pub fn seats_won(&self, seat: &Seat) -> u32 {
        match (seat.election, self.stages.get(usize::from(seat.stage))) {
            (Some((_, output)), Some(stage)) => stage.seats(&self.id, seat.stage, &output, seat.weight).max(1),
            _ => 1,
        }
    }
}
