//! What members of a committee sign: proposals and votes.
//!
//! All three steps have one signed form, the [`Statement`]. It does not name
//! its author, for the key does: so a certificate is one statement with many
//! signatures. It is signed apart from the envelope it travels in, for others
//! pass it on and keep it.

use super::{HEIGHT_MAX, ROUND_MAX, VALUE_BYTES_MAX, VOTES_PER_MESSAGE_MAX};
use crate::ids::{Hash, PeerId, Signature};
use crate::wire::codec;
use crate::wire::envelope::{Identity, is_signed_by};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Separates the signatures of consensus from any other use of the same key.
pub const STATEMENT_DOMAIN: &str = "manta 2026-11 consensus statement v1";

/// The value of a vote for no value in this round.
pub const NIL: Hash = Hash([0; 32]);

/// The three steps of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// The drawn proposer names a value.
    Propose,
    /// Members say whether they accept it.
    Prevote,
    /// Members who saw a quorum of prevotes bind themselves to it.
    Precommit,
}

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Statement {
    /// The ledger's hash or, after a recovery, that of the latest recovery.
    pub chain: Hash,
    /// The height.
    pub height: u64,
    /// The round of the height, from 0.
    pub round: u32,
    /// Which of the three it is.
    pub step: Step,
    /// Id of the value; [`NIL`] in a vote for none.
    pub value: Hash,
    /// Of a proposal: one more than the round in which the value had a quorum
    /// of prevotes, 0 for a new value. Of a vote: 0.
    pub polka: u32,
}

/// A signed vote. As long as nobody may sign it twice with another value, its
/// bytes are the same for everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The height.
    pub height: u64,
    /// The round.
    pub round: u32,
    /// Prevote or precommit.
    pub step: Step,
    /// The value, or [`NIL`].
    pub value: Hash,
    /// Who votes.
    pub author: PeerId,
    /// Over the [`Statement`] of the fields before.
    pub signature: Signature,
}

/// Votes of one or several members: what a voter says, and what others pass on
/// to those who missed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    /// 1 to [`VOTES_PER_MESSAGE_MAX`] votes.
    pub votes: Vec<Vote>,
}

/// A signed proposal with its value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The height.
    pub height: u64,
    /// The round.
    pub round: u32,
    /// As in the [`Statement`].
    pub polka: u32,
    /// Id of the value.
    pub value: Hash,
    /// Who proposes.
    pub author: PeerId,
    /// Over the [`Statement`] of the fields before.
    pub signature: Signature,
    /// The value, of which the id names every bit: at most [`VALUE_BYTES_MAX`] bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Asks a member for a proposal that it voted for and we never saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalAsk {
    /// The chain, as in the [`Statement`].
    pub chain: Hash,
    /// The height.
    pub height: u64,
    /// The round.
    pub round: u32,
    /// Id of the value.
    pub value: Hash,
}

impl Statement {
    /// The signature of this statement by `identity`.
    pub fn sign(&self, identity: &Identity) -> Signature {
        identity.sign(STATEMENT_DOMAIN, &codec::encode(self))
    }

    /// Whether `author` signed this.
    pub fn is_signed_by(&self, author: &PeerId, signature: &Signature) -> bool {
        is_signed_by(author, STATEMENT_DOMAIN, &codec::encode(self), signature)
    }

    /// Whether nobody who follows the rules signs both.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let place = |statement: &Self| (statement.chain, statement.height, statement.round, statement.step);
        place(self) == place(other) && self != other
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        validate_place(self.height, self.round)?;
        match self.step {
            Step::Propose if self.value == NIL => Err("a proposal of no value".into()),
            Step::Propose if self.polka > self.round => {
                Err(format!("a quorum of round {} before round {}", self.polka - 1, self.round))
            }
            Step::Prevote | Step::Precommit if self.polka != 0 => Err("a vote with an earlier quorum".into()),
            _ => Ok(()),
        }
    }
}

impl Vote {
    /// What its signature is over, on this chain.
    pub fn statement(&self, chain: &Hash) -> Statement {
        let Self { height, round, step, value, .. } = *self;
        Statement { chain: *chain, height, round, step, value, polka: 0 }
    }

    /// Whether its author signed it on this chain.
    pub fn is_signed(&self, chain: &Hash) -> bool {
        self.statement(chain).is_signed_by(&self.author, &self.signature)
    }
}

impl Proposal {
    /// What its signature is over, on this chain.
    pub fn statement(&self, chain: &Hash) -> Statement {
        let Self { height, round, polka, value, .. } = *self;
        Statement { chain: *chain, height, round, step: Step::Propose, value, polka }
    }

    /// Whether its author signed it on this chain. The bytes are not judged.
    pub fn is_signed(&self, chain: &Hash) -> bool {
        self.statement(chain).is_signed_by(&self.author, &self.signature)
    }

    /// The earlier round of this height whose quorum of prevotes it rests on.
    pub fn polka_round(&self) -> Option<u32> {
        self.polka.checked_sub(1)
    }
}

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { height, round, polka, value, author, bytes, .. } = self;
        write!(f, "Proposal({height}/{round} polka {polka} {value:?} by {author:?}, {} bytes)", bytes.len())
    }
}

impl Body for Votes {
    fn validate(&self) -> Result<(), String> {
        if self.votes.is_empty() || self.votes.len() > VOTES_PER_MESSAGE_MAX {
            return Err(format!("{} votes, 1 to {VOTES_PER_MESSAGE_MAX} are accepted", self.votes.len()));
        }
        if self.votes.iter().any(|vote| vote.step == Step::Propose) {
            return Err("a proposal among votes".into());
        }
        self.votes.iter().try_for_each(|vote| validate_place(vote.height, vote.round))
    }
}

impl Body for Proposal {
    fn validate(&self) -> Result<(), String> {
        if self.bytes.len() > VALUE_BYTES_MAX {
            return Err(format!("a value of {} bytes, at most {VALUE_BYTES_MAX} are accepted", self.bytes.len()));
        }
        self.statement(&NIL).validate()
    }
}

impl Body for ProposalAsk {
    fn validate(&self) -> Result<(), String> {
        validate_place(self.height, self.round)
    }
}

pub(super) fn validate_place(height: u64, round: u32) -> Result<(), String> {
    if height > HEIGHT_MAX {
        return Err(format!("height {height}, at most {HEIGHT_MAX} is accepted"));
    }
    if round > ROUND_MAX {
        return Err(format!("round {round}, at most {ROUND_MAX} is accepted"));
    }
    Ok(())
}
