//! Evidence: two statements that nobody who follows the rules signs both.
//!
//! It names its author by itself: anyone who knows the chain verifies it, long
//! after the height is over. It holds no values, only their ids, so its size is
//! fixed.

use super::vote::Statement;
use crate::ids::{Hash, PeerId, Signature};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Two conflicting signed statements of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Who signed both.
    pub author: PeerId,
    /// The lesser of the two, so that one pair has one encoding.
    pub first: Statement,
    /// The author's signature over it.
    pub first_signature: Signature,
    /// The greater.
    pub second: Statement,
    /// The author's signature over it.
    pub second_signature: Signature,
}

/// Why evidence proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// A field is out of its limits.
    #[error("evidence: {0}")]
    Malformed(String),
    /// Made on another chain, where this author may have been someone else's copy.
    #[error("evidence of chain {found:?}, expected {expected:?}")]
    OtherChain {
        /// The chain that the statements name.
        found: Hash,
        /// Ours.
        expected: Hash,
    },
    /// Both may be signed by one who follows the rules.
    #[error("the two statements do not conflict")]
    NoConflict,
    /// A signature does not fit.
    #[error("a signature does not fit the author {0:?}")]
    BadSignature(PeerId),
}

impl Evidence {
    /// Puts two signed statements of one author in order; `None` if they do not conflict.
    pub fn new(author: PeerId, one: (Statement, Signature), other: (Statement, Signature)) -> Option<Self> {
        let (first, second) = if one.0 < other.0 { (one, other) } else { (other, one) };
        first.0.conflicts_with(&second.0).then_some(Self {
            author,
            first: first.0,
            first_signature: first.1,
            second: second.0,
            second_signature: second.1,
        })
    }

    /// Checks that the author broke the rules on `chain`.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, chain: &Hash) -> Result<(), EvidenceError> {
        self.validate().map_err(EvidenceError::Malformed)?;
        if self.first.chain != *chain {
            return Err(EvidenceError::OtherChain { found: self.first.chain, expected: *chain });
        }
        if !self.first.conflicts_with(&self.second) {
            return Err(EvidenceError::NoConflict);
        }
        let signed = self.first.is_signed_by(&self.author, &self.first_signature)
            && self.second.is_signed_by(&self.author, &self.second_signature);
        if signed { Ok(()) } else { Err(EvidenceError::BadSignature(self.author)) }
    }
}

impl Body for Evidence {
    fn validate(&self) -> Result<(), String> {
        self.first.validate()?;
        self.second.validate()?;
        if self.first >= self.second {
            return Err("the two statements are not in ascending order".into());
        }
        Ok(())
    }
}
