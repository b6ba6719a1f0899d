//! Transactions: what authors ask of the ledger, each signed by itself.
//!
//! The signature is over the ledger's name and the canonical bytes, so that no
//! transaction counts on another ledger. Registrations, standby and transfers
//! carry the account's next number, so that each counts once and in order; the
//! others count once by what they say (one commitment per owner and task, one
//! reveal per commitment, one result per probe, one report per consent to a lease,
//! one fine per height), carry the number 0, and no order of theirs makes one of
//! them void.

use super::limits::TRANSACTION_BYTES_MAX;
use crate::consensus::Evidence;
use crate::ids::{Hash, PeerId, RunId, Signature, VrfProof, VrfPublic};
use crate::wire::codec::{self, CodecError};
use crate::wire::envelope::{Identity, is_signed_by};
use serde::{Deserialize, Serialize};

const TRANSACTION_DOMAIN: &str = "manta 2026-11 transaction v1";
const OWNER_DOMAIN: &str = "manta 2026-11 ledger owner v1";
const COMMITMENT_DOMAIN: &str = "manta 2026-11 drill commitment v1";
const REPLY_DOMAIN: &str = "manta 2026-11 probe reply v1";
const LEASE_DOMAIN: &str = "manta 2026-11 lease consent v1";

/// Registers or changes the author's key; it counts in elections by weights two
/// heights later and on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The author's key for elections.
    pub vrf: VrfPublic,
    /// Who stands behind the machine: all keys of one owner do one result per task.
    pub owner: PeerId,
    /// The owner's over ledger, author and number, unless it is the author.
    pub countersignature: Option<Signature>,
    /// The largest class of drill units that the machine can do, as an index.
    pub class: u8,
}

/// Moves credits to another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Whose account.
    pub to: PeerId,
    /// How much, in micro-credits.
    pub amount: u64,
}

/// Binds the author to a result that it does not show yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCommit {
    /// The task.
    pub task: Hash,
    /// The stage of the task that elected the author, from 0.
    pub stage: u8,
    /// That it was elected; `None` where no election is held.
    pub proof: Option<VrfProof>,
    /// [`DrillResult::commitment`].
    pub commitment: Hash,
}

/// What a driller computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DrillResult {
    /// The unit's digest.
    pub digest: Hash,
    /// A second digest of the same unit under the stage's challenge, which only
    /// who has done the work can tell, even if the first is known; zero in
    /// stages without a challenge.
    pub check: Hash,
}

/// Opens the author's commitment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReveal {
    /// The task.
    pub task: Hash,
    /// What hid the result: 32 random bytes.
    pub salt: Hash,
    /// The result.
    pub result: DrillResult,
}

/// Tells whether a peer answered, whom an election had the author probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The height whose beacon elected the author.
    pub height: u64,
    /// Which of the seats that it won, from 0; each has a target of its own.
    pub seat: u32,
    /// That it was elected.
    pub proof: VrfProof,
    /// The target's signature ([`ProbeResult::reply`]); `None` if it did not answer.
    pub reply: Option<Signature>,
}

/// Tells how a lease ended: whether a machine that took part in a run of the
/// author, its user, was there as long as it was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// Whose machine.
    pub trainer: PeerId,
    /// For which run.
    pub run: RunId,
    /// The trainer's last block when it began.
    pub height: u64,
    /// The trainer's signature ([`LeaseReport::consent`]): nobody reports about a
    /// peer that never took part.
    pub consent: Signature,
    /// Whether it was still there when the run ended.
    pub kept: bool,
}

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NumberedAction", into = "NumberedAction")]
pub enum Action {
    /// See [`Register`].
    Register(Register),
    /// Steps back from elections and committees, or into them again.
    Standby {
        /// Whether the author stands by.
        on: bool,
    },
    /// See [`Transfer`].
    Transfer(Transfer),
    /// See [`DrillCommit`].
    Commit(DrillCommit),
    /// See [`DrillReveal`].
    Reveal(DrillReveal),
    /// See [`ProbeResult`].
    Probe(ProbeResult),
    /// Two statements of consensus that nobody signs both; anyone may report them.
    Evidence(Evidence),
    /// See [`LeaseReport`].
    Lease(LeaseReport),
}

/// An action as it is encoded: under the number of its variant, for the codec
/// writes the name of a variant that has one field without a name.
#[derive(Serialize, Deserialize)]
enum NumberedAction {
    Register { body: Register },
    Standby { on: bool },
    Transfer { body: Transfer },
    Commit { body: DrillCommit },
    Reveal { body: DrillReveal },
    Probe { body: ProbeResult },
    Evidence { body: Evidence },
    Lease { body: LeaseReport },
}

/// A signed request to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Who asks.
    pub author: PeerId,
    /// The number that the author's account has reached, plus one, in
    /// transactions that are counted; 0 in the others.
    pub nonce: u64,
    /// For what.
    pub action: Action,
    /// The author's, over ledger, author, number and action.
    pub signature: Signature,
}

impl From<Action> for NumberedAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Register(body) => Self::Register { body },
            Action::Standby { on } => Self::Standby { on },
            Action::Transfer(body) => Self::Transfer { body },
            Action::Commit(body) => Self::Commit { body },
            Action::Reveal(body) => Self::Reveal { body },
            Action::Probe(body) => Self::Probe { body },
            Action::Evidence(body) => Self::Evidence { body },
            Action::Lease(body) => Self::Lease { body },
        }
    }
}

impl From<NumberedAction> for Action {
    fn from(action: NumberedAction) -> Self {
        match action {
            NumberedAction::Register { body } => Self::Register(body),
            NumberedAction::Standby { on } => Self::Standby { on },
            NumberedAction::Transfer { body } => Self::Transfer(body),
            NumberedAction::Commit { body } => Self::Commit(body),
            NumberedAction::Reveal { body } => Self::Reveal(body),
            NumberedAction::Probe { body } => Self::Probe(body),
            NumberedAction::Evidence { body } => Self::Evidence(body),
            NumberedAction::Lease { body } => Self::Lease(body),
        }
    }
}

impl Register {
    /// The owner's consent to stand behind the key `worker`, for its
    /// registration of this number.
    pub fn countersign(owner: &Identity, ledger: &Hash, worker: &PeerId, nonce: u64) -> Signature {
        owner.sign(OWNER_DOMAIN, &consent(ledger, worker, nonce))
    }

    /// Whether the owner consents to stand behind the author.
    pub(super) fn is_consented(&self, ledger: &Hash, author: &PeerId, nonce: u64) -> bool {
        match &self.countersignature {
            None => self.owner == *author,
            Some(signature) => {
                self.owner != *author
                    && is_signed_by(&self.owner, OWNER_DOMAIN, &consent(ledger, author, nonce), signature)
            }
        }
    }
}

impl DrillResult {
    /// Hides the result until it is revealed. It names task and worker, so that
    /// a commitment of another is of no use to anyone else. Nothing is drawn
    /// from it: a salt that was searched for gains nothing.
    pub fn commitment(&self, task: &Hash, worker: &PeerId, salt: &Hash) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key(COMMITMENT_DOMAIN);
        for part in [task.as_bytes(), worker.as_bytes(), salt.as_bytes(), self.digest.as_bytes(), self.check.as_bytes()]
        {
            hasher.update(part);
        }
        Hash(*hasher.finalize().as_bytes())
    }
}

impl ProbeResult {
    /// A target's answer to `checker`, who was elected to probe it by the beacon
    /// of `height`, which nobody knew before.
    pub fn reply(target: &Identity, ledger: &Hash, beacon: &Hash, checker: &PeerId) -> Signature {
        target.sign(REPLY_DOMAIN, &reply_bytes(ledger, beacon, checker))
    }

    /// Whether the reply is `target`'s to `checker` under this beacon.
    pub fn is_reply(signature: &Signature, target: &PeerId, ledger: &Hash, beacon: &Hash, checker: &PeerId) -> bool {
        is_signed_by(target, REPLY_DOMAIN, &reply_bytes(ledger, beacon, checker), signature)
    }
}

impl LeaseReport {
    /// The consent of `trainer` that `user` reports on its part in `run`, which
    /// began after the block of `height`.
    pub fn consent(trainer: &Identity, ledger: &Hash, user: &PeerId, run: &RunId, height: u64) -> Signature {
        trainer.sign(LEASE_DOMAIN, &lease_bytes(ledger, user, run, height))
    }

    /// Whether the trainer has consented that `user` reports so.
    pub fn is_consented(&self, ledger: &Hash, user: &PeerId) -> bool {
        let bytes = lease_bytes(ledger, user, &self.run, self.height);
        is_signed_by(&self.trainer, LEASE_DOMAIN, &bytes, &self.consent)
    }
}

impl Action {
    /// Whether the account's number orders it.
    pub fn is_counted(&self) -> bool {
        matches!(self, Self::Register(_) | Self::Standby { .. } | Self::Transfer(_))
    }
}

impl Transaction {
    /// Signs a transaction. `nonce` counts only where [`Action::is_counted`].
    pub fn sign(author: &Identity, ledger: &Hash, nonce: u64, action: Action) -> Self {
        let nonce = if action.is_counted() { nonce } else { 0 };
        let peer = author.peer_id();
        let signature = author.sign(TRANSACTION_DOMAIN, &signed_bytes(ledger, &peer, nonce, &action));
        Self { author: peer, nonce, action, signature }
    }

    /// Whether its author signed it for this ledger.
    pub fn is_signed(&self, ledger: &Hash) -> bool {
        let bytes = signed_bytes(ledger, &self.author, self.nonce, &self.action);
        is_signed_by(&self.author, TRANSACTION_DOMAIN, &bytes, &self.signature)
    }

    /// Its name: the hash of its canonical bytes.
    pub fn id(&self) -> Hash {
        Hash::of(&codec::encode(self))
    }

    /// Reads one from its canonical bytes; signature and meaning are not judged.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, TRANSACTION_BYTES_MAX)
    }
}

fn signed_bytes(ledger: &Hash, author: &PeerId, nonce: u64, action: &Action) -> Vec<u8> {
    codec::encode(&(ledger, author, nonce, action))
}

/// Fields of fixed length, so that nothing else has the same bytes.
fn consent(ledger: &Hash, worker: &PeerId, nonce: u64) -> Vec<u8> {
    [&ledger.as_bytes()[..], worker.as_bytes(), &nonce.to_le_bytes()].concat()
}

fn reply_bytes(ledger: &Hash, beacon: &Hash, checker: &PeerId) -> Vec<u8> {
    [&ledger.as_bytes()[..], beacon.as_bytes(), checker.as_bytes()].concat()
}

fn lease_bytes(ledger: &Hash, user: &PeerId, run: &RunId, height: u64) -> Vec<u8> {
    [&ledger.as_bytes()[..], user.as_bytes(), run.as_bytes(), &height.to_le_bytes()].concat()
}
