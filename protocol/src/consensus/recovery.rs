//! Recovery: a new committee for a ledger whose committee has left for good.
//!
//! Without a quorum the ledger waits, and it never replaces its committee by
//! itself: under a partition, both sides would, and there would be two ledgers.
//! People may do it instead. A recovery names the height that cannot be
//! decided, the block before it and the new committee, and every new member
//! consents by its signature. Each peer follows it only by its owner's explicit
//! command, of which a new member's consent is one; it proves nothing to anyone
//! else. Peers show each other the recoveries that they follow ([`RecoveryAsk`]),
//! so that owners see what there is to decide.
//!
//! From that height on statements are signed for another chain, named by the
//! recovery. So no vote of the old committee counts in the new one, and whoever
//! votes in both is no liar.

use super::COMMITTEE_MAX;
use super::certificate::Seal;
use super::committee::{Committee, CommitteeError};
use super::vote::validate_place;

use crate::ids::{Hash, PeerId};
use crate::wire::codec;
use crate::wire::envelope::{Identity, is_signed_by};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Separates consents from any other use of the same key.
pub const CONSENT_DOMAIN: &str = "manta 2026-11 consensus recovery consent v1";
const CHAIN_CONTEXT: &str = "manta 2026-11 consensus recovery v1";

/// What the new members consent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The chain that has stopped: the ledger's hash or the latest recovery's.
    pub chain: Hash,
    /// The first height of the new committee.
    pub height: u64,
    /// Id of the block before it.
    pub parent: Hash,
    /// Who decides from there on.
    pub committee: Committee,
}

/// A plan with the consent of every new member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// What is to be done.
    pub plan: Plan,
    /// One signature of each member, strictly ascending by author.
    pub consents: Vec<Seal>,
}

/// Asks a peer of another chain of the same ledger which recovery it followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryAsk {
    /// The chain that the asker is on: the ledger's hash or its latest recovery's.
    pub chain: Hash,
}

/// The recovery that was followed from the asker's chain on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReply {
    /// As in [`RecoveryAsk`].
    pub chain: Hash,
    /// `None` if the answering peer never was on that chain, or still is.
    pub recovery: Option<Recovery>,
}

/// Why a recovery is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A field is out of its limits.
    #[error("recovery: {0}")]
    Malformed(String),
    /// Made for another place of another ledger.
    #[error(
        "the recovery begins at height {found} of chain {found_chain:?}, this ledger waits at {height} of {chain:?}"
    )]
    Elsewhere {
        /// The height that is named.
        found: u64,
        /// The chain that is named.
        found_chain: Hash,
        /// The height that we wait for.
        height: u64,
        /// Our chain.
        chain: Hash,
    },
    /// The block before is another.
    #[error("the recovery follows block {found:?}, this ledger ends with {parent:?}")]
    OtherParent {
        /// The block that is named.
        found: Hash,
        /// Our last one.
        parent: Hash,
    },
    /// A new member has not signed.
    #[error("{0:?} has not consented: every new member must")]
    NoConsent(PeerId),
    /// Someone signed who is no new member.
    #[error("{0:?} signed and is no member of the new committee")]
    NotMember(PeerId),
    /// A signature does not fit.
    #[error("the signature of {0:?} does not fit")]
    BadSignature(PeerId),
    /// Nobody needs so many.
    #[error("this ledger was recovered too often already: found another one")]
    TooMany,
    /// The list of its members is none.
    #[error(transparent)]
    Committee(#[from] CommitteeError),
    /// A new member whose key the ledger does not know: it could not propose.
    #[error("{0:?} has no key in this ledger: only registered peers can decide on it")]
    NotRegistered(PeerId),
    /// A weight that the ledger does not give.
    #[error("{peer:?} would have weight {found}, the ledger gives it {expected}")]
    OtherWeight {
        /// The member.
        peer: PeerId,
        /// The weight in the plan.
        found: u64,
        /// The weight in the ledger.
        expected: u64,
    },
}

impl Plan {
    /// Checks that it begins at this height of this chain, after this block.
    ///
    /// # Errors
    /// [`RecoveryError::Elsewhere`] or [`RecoveryError::OtherParent`].
    pub fn continues(&self, chain: &Hash, height: u64, parent: &Hash) -> Result<(), RecoveryError> {
        if (self.chain, self.height) != (*chain, height) {
            let (found, found_chain) = (self.height, self.chain);
            return Err(RecoveryError::Elsewhere { found, found_chain, height, chain: *chain });
        }
        if self.parent != *parent {
            return Err(RecoveryError::OtherParent { found: self.parent, parent: *parent });
        }
        Ok(())
    }

    /// The name of the chain from this plan's height on.
    pub fn new_chain(&self) -> Hash {
        Hash(blake3::derive_key(CHAIN_CONTEXT, &codec::encode(self)))
    }

    /// A new member's consent.
    pub fn consent(&self, identity: &Identity) -> Seal {
        let signature = identity.sign(CONSENT_DOMAIN, self.new_chain().as_bytes());
        Seal { author: identity.peer_id(), signature }
    }
}

impl Recovery {
    /// The plan with these consents, in any order.
    pub fn new(plan: Plan, mut consents: Vec<Seal>) -> Self {
        consents.sort_unstable_by_key(|seal| seal.author);
        Self { plan, consents }
    }

    /// Members who have not signed yet.
    pub fn missing(&self) -> Vec<PeerId> {
        let members = self.plan.committee.weights().iter().map(|(peer, _)| *peer);
        members.filter(|peer| self.consents.iter().all(|seal| seal.author != *peer)).collect()
    }

    /// Checks that this recovery continues a ledger of this chain at this
    /// height after this block, and that all its members want it.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, chain: &Hash, height: u64, parent: &Hash) -> Result<(), RecoveryError> {
        self.plan.continues(chain, height, parent)?;
        self.is_wanted()
    }

    /// Checks that all members of the new committee want it, wherever it belongs.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn is_wanted(&self) -> Result<(), RecoveryError> {
        let Self { plan, consents } = self;
        self.validate().map_err(RecoveryError::Malformed)?;
        if let Some(seal) = consents.iter().find(|seal| !plan.committee.contains(&seal.author)) {
            return Err(RecoveryError::NotMember(seal.author));
        }
        let consented = |peer: &PeerId| consents.binary_search_by_key(peer, |seal| seal.author).is_ok();
        if let Some((peer, _)) = plan.committee.weights().iter().find(|(peer, _)| !consented(peer)) {
            return Err(RecoveryError::NoConsent(*peer));
        }
        let new_chain = plan.new_chain();
        let signed = |seal: &Seal| is_signed_by(&seal.author, CONSENT_DOMAIN, new_chain.as_bytes(), &seal.signature);
        match consents.iter().find(|seal| !signed(seal)) {
            Some(seal) => Err(RecoveryError::BadSignature(seal.author)),
            None => Ok(()),
        }
    }
}

impl Body for Recovery {
    fn validate(&self) -> Result<(), String> {
        validate_place(self.plan.height, 0)?;
        if self.consents.len() > COMMITTEE_MAX {
            return Err(format!("{} signatures, at most {COMMITTEE_MAX} are accepted", self.consents.len()));
        }
        match self.consents.windows(2).find(|pair| pair[0].author >= pair[1].author) {
            Some(pair) => Err(format!("{:?} is not above the author before it", pair[1].author)),
            None => Ok(()),
        }
    }
}

impl Body for RecoveryAsk {}

impl Body for RecoveryReply {
    fn validate(&self) -> Result<(), String> {
        self.recovery.as_ref().map_or(Ok(()), Body::validate)
    }
}
