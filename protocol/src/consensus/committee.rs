//! The committee: who decides on a height, and how much each word weighs.
//!
//! Members ascend by peer id, each with a weight of at least one. A quorum is
//! more than two thirds of all weight, so two quorums share more than a third,
//! which is more than the faulty may have.

use super::COMMITTEE_MAX;
use crate::ids::{Hash, PeerId};
use crate::wire::codec;
use serde::{Deserialize, Serialize};

const HASH_CONTEXT: &str = "manta 2026-11 committee v1";

/// Weight of a whole committee, at most: thrice it must fit 64 bits.
pub const COMMITTEE_WEIGHT_MAX: u64 = u64::MAX / 4;

/// The members of a committee and their weights. On the wire it is the list of
/// (peer id, weight), ascending by peer id; what breaks a rule is not decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(PeerId, u64)>", into = "Vec<(PeerId, u64)>")]
pub struct Committee {
    weights: Vec<(PeerId, u64)>,
    total: u64,
}

/// Why a list is no committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitteeError {
    /// Nobody or too many.
    #[error("a committee of {0} members, 1 to {COMMITTEE_MAX} are possible")]
    Size(usize),
    /// Not strictly ascending by peer id.
    #[error("{0:?} is not above the member before it")]
    Order(PeerId),
    /// A member whose word would not count.
    #[error("{0:?} has no weight: leave it out")]
    Weightless(PeerId),
    /// The sum of weights is out of range.
    #[error("the weights add up to more than {COMMITTEE_WEIGHT_MAX}")]
    Weight,
}

impl Committee {
    /// The committee of these members, in any order.
    ///
    /// # Errors
    /// [`CommitteeError`] unless there are 1 to [`COMMITTEE_MAX`] different
    /// members of positive weight, [`COMMITTEE_WEIGHT_MAX`] together.
    pub fn new(mut weights: Vec<(PeerId, u64)>) -> Result<Self, CommitteeError> {
        weights.sort_unstable();
        Self::try_from(weights)
    }

    /// Members and weights, ascending by peer id.
    pub fn weights(&self) -> &[(PeerId, u64)] {
        &self.weights
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The weight of a peer: zero unless it is a member.
    pub fn weight(&self, peer: &PeerId) -> u64 {
        self.position(peer).map_or(0, |place| self.weights[place].1)
    }

    /// Whether the peer is a member.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.position(peer).is_some()
    }

    /// Whether this weight is more than two thirds of all.
    pub fn is_quorum(&self, weight: u64) -> bool {
        u128::from(weight) * 3 > u128::from(self.total) * 2
    }

    /// Whether this weight is more than a third of all: someone honest is in it.
    pub fn has_honest(&self, weight: u64) -> bool {
        u128::from(weight) * 3 > u128::from(self.total)
    }

    /// The weight that is needed for a quorum.
    pub fn quorum(&self) -> u64 {
        // At most the total, so it fits.
        u64::try_from(u128::from(self.total) * 2 / 3 + 1).unwrap_or(self.total)
    }

    /// The committee's name in a block header: derived from its canonical bytes.
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key(HASH_CONTEXT, &codec::encode(self)))
    }

    pub(super) fn position(&self, peer: &PeerId) -> Option<usize> {
        self.weights.binary_search_by_key(peer, |(member, _)| *member).ok()
    }
}

impl TryFrom<Vec<(PeerId, u64)>> for Committee {
    type Error = CommitteeError;

    fn try_from(weights: Vec<(PeerId, u64)>) -> Result<Self, CommitteeError> {
        if weights.is_empty() || weights.len() > COMMITTEE_MAX {
            return Err(CommitteeError::Size(weights.len()));
        }
        if let Some(pair) = weights.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(CommitteeError::Order(pair[1].0));
        }
        if let Some((peer, _)) = weights.iter().find(|(_, weight)| *weight == 0) {
            return Err(CommitteeError::Weightless(*peer));
        }
        let total: u128 = weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let total = u64::try_from(total).map_err(|_| CommitteeError::Weight)?;
        if total > COMMITTEE_WEIGHT_MAX {
            return Err(CommitteeError::Weight);
        }
        Ok(Self { weights, total })
    }
}

impl From<Committee> for Vec<(PeerId, u64)> {
    fn from(committee: Committee) -> Self {
        committee.weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    #[test]
    fn a_quorum_is_more_than_two_thirds() {
        for total in 1..=40u64 {
            let committee = Committee::new(vec![(peer(1), total)]).unwrap();
            let least = (0..=total).find(|weight| committee.is_quorum(*weight)).unwrap();
            assert_eq!(least, committee.quorum());
            // Any two quorums share someone honest, if less than a third is faulty.
            assert!(committee.has_honest(2 * least - total));
            assert!(!committee.has_honest(total / 3));
        }
    }

    #[test]
    fn lists_that_are_no_committee_are_refused() {
        let members = |count: u32| (0..count).map(|n| (PeerId(*Hash::of(&n.to_le_bytes()).as_bytes()), 1)).collect();
        assert_eq!(Committee::new(Vec::new()), Err(CommitteeError::Size(0)));
        assert_eq!(Committee::new(members(201)), Err(CommitteeError::Size(201)));
        assert!(Committee::new(members(200)).is_ok());
        assert_eq!(Committee::new(vec![(peer(1), 1), (peer(1), 2)]), Err(CommitteeError::Order(peer(1))));
        assert_eq!(Committee::new(vec![(peer(1), 0)]), Err(CommitteeError::Weightless(peer(1))));
        assert_eq!(Committee::new(vec![(peer(1), COMMITTEE_WEIGHT_MAX), (peer(2), 1)]), Err(CommitteeError::Weight));
        assert_eq!(Committee::new(vec![(peer(1), u64::MAX), (peer(2), u64::MAX)]), Err(CommitteeError::Weight));
    }

    #[test]
    fn only_the_one_encoding_is_read() {
        let committee = Committee::new(vec![(peer(2), 5), (peer(1), 7)]).unwrap();
        let bytes = codec::encode(&committee);
        assert_eq!(codec::decode::<Committee>(&bytes, 100), Ok(committee));
        let swapped = codec::encode(&vec![(peer(2), 5u64), (peer(1), 7)]);
        assert!(codec::decode::<Committee>(&swapped, 100).is_err());
    }
}
