//! Drill certificates: what anyone can show of a settled task, without the ledger.
//!
//! A certificate holds the signed commitments and reveals of all seats of a
//! task, and what their elections went by. It verifies by itself: signatures,
//! proofs of election under the beacons and weights stated, openings of the
//! commitments, agreement. That beacons, weights, primaries, owners and keys for
//! elections are those of the ledger, a reader checks by the heights that it names.

use super::limits::{SEATS_MAX, STAGES_MAX};
use super::rules::verdict::is_counted;
use super::state::State;
use super::task::{Origin, Seat, Task, drawn_id, probation_id};
use super::transaction::{Action, DrillCommit, DrillReveal, Transaction};
use crate::ids::{Hash, PeerId};
use crate::wire::codec::{self, CodecError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Longest certificate, in bytes: it fits one envelope.
pub const CERTIFICATE_BYTES_MAX: usize = 48 * 1024;

/// A settled task, as it can be shown to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCertificate {
    /// The ledger that the signatures are for.
    pub ledger: Hash,
    /// The task with all of its stages and seats.
    pub task: Task,
    /// The digest that was agreed on.
    pub digest: Hash,
}

/// What a certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Workers whose results agree on the digest, each with another owner stated.
    pub agreeing: Vec<PeerId>,
    /// Workers who revealed another digest.
    pub dissenting: Vec<PeerId>,
    /// Workers who did not open their commitments.
    pub unrevealed: Vec<PeerId>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not canonical, or too long.
    #[error("drill certificate: {0}")]
    Codec(#[from] CodecError),
    /// Too many seats or stages.
    #[error("a task of {seats} seats in {stages} stages, at most {SEATS_MAX} in {STAGES_MAX}")]
    Size {
        /// Seats.
        seats: usize,
        /// Stages.
        stages: usize,
    },
    /// The id does not follow from the origin and the first beacon.
    #[error("task {0:?} does not follow from its beacon")]
    Origin(Hash),
    /// Two seats of one owner or of one worker.
    #[error("{0:?} has two seats")]
    TwoSeats(PeerId),
    /// A signature does not fit.
    #[error("{0:?} has not signed its commitment or its reveal")]
    Signature(PeerId),
    /// A proof does not win a seat.
    #[error("{0:?} was not elected")]
    Election(PeerId),
    /// A reveal does not open its commitment.
    #[error("the reveal of {0:?} does not open its commitment")]
    Opening(PeerId),
    /// Nobody agrees on the digest.
    #[error("no result has the digest {0:?}")]
    NoAgreement(Hash),
}

impl State {
    /// Cuts the certificate of a task out of the ledger, while it is kept there.
    pub fn drill_certificate(&self, task: &Hash) -> Option<DrillCertificate> {
        let settled = self.settled().find(|settled| settled.task.id == *task)?;
        let digest = settled.outcome.digest()?;
        Some(DrillCertificate { ledger: self.ledger(), task: settled.task.clone(), digest })
    }
}

impl DrillCertificate {
    /// Reads one from its canonical bytes; [`DrillCertificate::verify`] judges it.
    ///
    /// # Errors
    /// [`CertificateError::Codec`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        Ok(codec::decode(bytes, CERTIFICATE_BYTES_MAX)?)
    }

    /// Checks all that can be checked without the ledger.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self) -> Result<Certified, CertificateError> {
        let task = &self.task;
        let (seats, stages) = (task.seats.len(), task.stages.len());
        if seats > SEATS_MAX || stages > STAGES_MAX {
            return Err(CertificateError::Size { seats, stages });
        }
        let beacon = task.stages.first().map(|stage| stage.beacon).ok_or(CertificateError::Origin(task.id))?;
        let id = match &task.origin {
            Origin::Drawn { idle, index, .. } => drawn_id(&beacon, *idle, *index),
            Origin::Probation { candidate, .. } => probation_id(&beacon, candidate),
        };
        if id != task.id {
            return Err(CertificateError::Origin(task.id));
        }
        let (mut owners, mut workers) = (BTreeSet::new(), BTreeSet::new());
        let (mut agreeing, mut dissenting, mut unrevealed) = (Vec::new(), Vec::new(), Vec::new());
        for seat in &task.seats {
            let again = (!owners.insert(seat.owner)).then_some(seat.owner);
            if let Some(twice) = again.or_else(|| (!workers.insert(seat.worker)).then_some(seat.worker)) {
                return Err(CertificateError::TwoSeats(twice));
            }
            self.check(seat)?;
            match seat.revealed {
                None => unrevealed.push(seat.worker),
                Some(revealed) if revealed.result.digest != self.digest => dissenting.push(seat.worker),
                Some(_) if is_counted(task, seat) => agreeing.push(seat.worker),
                Some(_) => {}
            }
        }
        if agreeing.is_empty() {
            return Err(CertificateError::NoAgreement(self.digest));
        }
        Ok(Certified { agreeing, dissenting, unrevealed })
    }

    fn check(&self, seat: &Seat) -> Result<(), CertificateError> {
        let (task, worker) = (self.task.id, seat.worker);
        let proof = seat.election.map(|(proof, _)| proof);
        let commit = DrillCommit { task, stage: seat.stage, proof, commitment: seat.commitment };
        if !self.is_signed(seat, Action::Commit(commit), seat.signature) {
            return Err(CertificateError::Signature(worker));
        }
        if !self.is_elected(seat) {
            return Err(CertificateError::Election(worker));
        }
        let Some(revealed) = seat.revealed else { return Ok(()) };
        let reveal = DrillReveal { task, salt: revealed.salt, result: revealed.result };
        if !self.is_signed(seat, Action::Reveal(reveal), revealed.signature) {
            return Err(CertificateError::Signature(worker));
        }
        if revealed.result.commitment(&task, &worker, &revealed.salt) != seat.commitment {
            return Err(CertificateError::Opening(worker));
        }
        Ok(())
    }

    fn is_signed(&self, seat: &Seat, action: Action, signature: crate::ids::Signature) -> bool {
        Transaction { author: seat.worker, nonce: 0, action, signature }.is_signed(&self.ledger)
    }

    fn is_elected(&self, seat: &Seat) -> bool {
        let Some(stage) = self.task.stages.get(usize::from(seat.stage)) else { return false };
        match seat.election {
            None if stage.everyone => true,
            None => {
                let is_primary = stage.primary == Some(seat.worker);
                is_primary && self.task.origin.candidate().is_none_or(|candidate| *candidate == seat.worker)
            }
            Some((proof, output)) => {
                stage.is_election()
                    && seat.vrf.verify(&stage.input(), &proof) == Some(output)
                    && stage.seats(&self.task.id, seat.stage, &output, seat.weight) > 0
            }
        }
    }
}
