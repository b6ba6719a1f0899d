//! The light client: follows a ledger from its genesis without its state.
//!
//! It holds one block's id and the committee of the next height. A header is
//! followed if it extends that block and carries a certificate of that
//! committee; the header names the committee after it, whose list is needed
//! only where it changes. So the proof of a whole term is its certificates, and
//! of a balance the state root of the last header.

use super::certificate::{Certificate, CertificateError};
use super::committee::Committee;
use super::recovery::{Recovery, RecoveryError};
use crate::ids::Hash;

/// What consensus needs to know of a block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The height.
    pub height: u64,
    /// Id of the block: the hash of the header that the other fields are from.
    pub id: Hash,
    /// Id of the block before; of the first, the ledger's hash.
    pub parent: Hash,
    /// [`Committee::hash`] of the committee of the next height.
    pub committee: Hash,
}

/// The end of a chain that was followed from its genesis.
#[derive(Clone, Debug)]
pub struct LightClient {
    chain: Hash,
    height: u64,
    id: Hash,
    committee: Committee,
    committee_hash: Hash,
}

/// Why a header is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LightError {
    /// Not the next height.
    #[error("a header of height {found}, expected {expected}")]
    Height {
        /// The header's.
        found: u64,
        /// The next one.
        expected: u64,
    },
    /// It extends another block.
    #[error("the header extends {found:?}, the chain ends with {expected:?}")]
    Parent {
        /// The header's.
        found: Hash,
        /// The last block that was followed.
        expected: Hash,
    },
    /// The certificate is of another block.
    #[error("the certificate is for height {height} and block {value:?}")]
    OtherBlock {
        /// The certificate's height.
        height: u64,
        /// The certificate's value.
        value: Hash,
    },
    /// The certificate proves nothing.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The committee changes: its list is needed, and must have this hash.
    #[error("the next height has another committee: a list with the hash {0:?} is needed")]
    Committee(Hash),
}

impl LightClient {
    /// At the genesis of the ledger with this hash and first committee.
    pub fn new(ledger: Hash, committee: Committee) -> Self {
        let committee_hash = committee.hash();
        Self { chain: ledger, height: 0, id: ledger, committee, committee_hash }
    }

    /// The last height that was followed.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Id of the last block that was followed.
    pub fn id(&self) -> Hash {
        self.id
    }

    /// The committee of the next height.
    pub fn committee(&self) -> &Committee {
        &self.committee
    }

    /// Follows the next header. `next` is the committee of the height after it,
    /// needed only if it differs from this one's.
    ///
    /// # Errors
    /// The first check that failed; then nothing has changed.
    pub fn follow(
        &mut self,
        link: &Link,
        certificate: &Certificate,
        next: Option<&Committee>,
    ) -> Result<(), LightError> {
        let expected = self.height + 1;
        if link.height != expected {
            return Err(LightError::Height { found: link.height, expected });
        }
        if link.parent != self.id {
            return Err(LightError::Parent { found: link.parent, expected: self.id });
        }
        if (certificate.height, certificate.value) != (link.height, link.id) {
            return Err(LightError::OtherBlock { height: certificate.height, value: certificate.value });
        }
        let changed = match next {
            _ if link.committee == self.committee_hash => None,
            Some(next) if next.hash() == link.committee => Some(next),
            Some(_) | None => return Err(LightError::Committee(link.committee)),
        };
        certificate.verify(&self.chain, &self.committee)?;
        (self.height, self.id) = (link.height, link.id);
        if let Some(next) = changed {
            (self.committee, self.committee_hash) = (next.clone(), link.committee);
        }
        Ok(())
    }

    /// Goes on with another committee, because the owner says so.
    ///
    /// # Errors
    /// [`RecoveryError`] if it does not continue this chain here.
    pub fn recover(&mut self, recovery: &Recovery) -> Result<(), RecoveryError> {
        recovery.verify(&self.chain, self.height + 1, &self.id)?;
        self.chain = recovery.plan.new_chain();
        self.committee = recovery.plan.committee.clone();
        self.committee_hash = self.committee.hash();
        Ok(())
    }
}
