//! The certificate: what proves to anyone that a height is decided.
//!
//! A certificate is the precommit statement of a height with signatures of more
//! than two thirds of its committee's weight. It is verified alone, given the
//! committee; two certificates of one height for different values would need
//! more than a third of the weight to have signed twice.

use super::COMMITTEE_MAX;
use super::committee::Committee;
use super::vote::{NIL, Statement, Step, validate_place};
use crate::ids::{Hash, PeerId, Signature};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// One member's signature in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Who signed.
    pub author: PeerId,
    /// Its signature over the precommit.
    pub signature: Signature,
}

/// Proof that a committee decided on a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The height.
    pub height: u64,
    /// The round that decided.
    pub round: u32,
    /// Id of the value.
    pub value: Hash,
    /// Precommits, strictly ascending by author; at most [`COMMITTEE_MAX`].
    pub seals: Vec<Seal>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A field is out of its limits.
    #[error("certificate: {0}")]
    Malformed(String),
    /// Signed by someone who has no vote.
    #[error("{0:?} is no member of the committee of this height")]
    NotMember(PeerId),
    /// Too little weight has signed.
    #[error("signed by weight {found}, a quorum is {needed}")]
    NoQuorum {
        /// Weight of those who signed.
        found: u64,
        /// Weight of the smallest quorum.
        needed: u64,
    },
    /// A signature does not fit.
    #[error("the signature of {0:?} does not fit")]
    BadSignature(PeerId),
}

impl Certificate {
    /// What its signatures are over, on this chain.
    pub fn statement(&self, chain: &Hash) -> Statement {
        let Self { height, round, value, .. } = *self;
        Statement { chain: *chain, height, round, step: Step::Precommit, value, polka: 0 }
    }

    /// Checks that a quorum of `committee` signed this on `chain`; the cheap
    /// checks come first, so that nobody makes us verify signatures in vain.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, chain: &Hash, committee: &Committee) -> Result<(), CertificateError> {
        self.validate().map_err(CertificateError::Malformed)?;
        let mut found = 0u64;
        for seal in &self.seals {
            match committee.weight(&seal.author) {
                0 => return Err(CertificateError::NotMember(seal.author)),
                // Members are distinct, so the sum is at most the total.
                weight => found += weight,
            }
        }
        if !committee.is_quorum(found) {
            return Err(CertificateError::NoQuorum { found, needed: committee.quorum() });
        }
        let statement = self.statement(chain);
        match self.seals.iter().find(|seal| !statement.is_signed_by(&seal.author, &seal.signature)) {
            Some(seal) => Err(CertificateError::BadSignature(seal.author)),
            None => Ok(()),
        }
    }
}

impl Body for Certificate {
    fn validate(&self) -> Result<(), String> {
        validate_place(self.height, self.round)?;
        if self.value == NIL {
            return Err("no value is certified".into());
        }
        if self.seals.len() > COMMITTEE_MAX {
            return Err(format!("{} signatures, at most {COMMITTEE_MAX} are accepted", self.seals.len()));
        }
        match self.seals.windows(2).find(|pair| pair[0].author >= pair[1].author) {
            Some(pair) => Err(format!("{:?} is not above the author before it", pair[1].author)),
            None => Ok(()),
        }
    }
}
