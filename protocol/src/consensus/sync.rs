//! How a peer that was away catches up: it asks others for decided blocks.
//!
//! Everyone tells now and then how far it is
//! ([`LedgerStatus`](crate::trust::words::LedgerStatus)). Who is behind
//! asks one peer at a time for the next blocks ([`BlocksAsk`]) and checks each by
//! its certificate ([`Decision::verify`]) before it executes it. Whoever does
//! not answer, or answers with something else, is left alone for a while; a lie
//! about one's height costs the asker one question.

use super::certificate::{Certificate, CertificateError};
use super::committee::Committee;
use super::engine::Identify;
use super::{HEIGHT_MAX, VALUE_BYTES_MAX};
use crate::ids::{Hash, PeerId};
use crate::time::{Duration, Time};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Peers whose height is remembered.
pub const SYNC_PEERS_MAX: usize = 256;
/// Blocks in one answer; as many as fit one envelope are sent.
pub const BLOCKS_PER_ANSWER_MAX: usize = 64;
/// How long an answer is waited for.
const ANSWER_WAIT: Duration = Duration::from_s(5);
/// How long a peer is left alone that did not answer well.
const LEFT_ALONE: Duration = Duration::from_s(20);

/// Asks for decided blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksAsk {
    /// The ledger's hash or, after a recovery, that of the latest recovery.
    pub chain: Hash,
    /// The first height.
    pub from: u64,
    /// How many at most, 1 to [`BLOCKS_PER_ANSWER_MAX`].
    pub count: u32,
}

/// Decided blocks of consecutive heights, as many as fit; none if the first is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// As in [`BlocksAsk`].
    pub from: u64,
    /// The blocks from there on.
    pub blocks: Vec<Decision>,
}

/// A decided value and what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The value.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// What proves that it was decided.
    pub certificate: Certificate,
}

/// Why a block from someone else is not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// The certificate is of another height.
    #[error("a certificate of height {found}, expected {expected}")]
    Height {
        /// The certificate's.
        found: u64,
        /// The next one.
        expected: u64,
    },
    /// The certificate is of another value.
    #[error("the certificate is not of these bytes but of {0:?}")]
    OtherValue(Hash),
    /// The certificate proves nothing.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Decision {
    /// Checks that these bytes were decided at `height` of `chain` by `committee`.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(
        &self,
        chain: &Hash,
        height: u64,
        committee: &Committee,
        identify: Identify,
    ) -> Result<(), SyncError> {
        let certificate = &self.certificate;
        if certificate.height != height {
            return Err(SyncError::Height { found: certificate.height, expected: height });
        }
        if identify(&self.bytes, None) != Some(certificate.value) {
            return Err(SyncError::OtherValue(certificate.value));
        }
        Ok(certificate.verify(chain, committee)?)
    }
}

/// Whom to ask for which blocks.
#[derive(Clone, Debug, Default)]
pub struct Sync {
    heights: BTreeMap<PeerId, u64>,
    asked: Option<Asked>,
    left_alone: BTreeMap<PeerId, Time>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: PeerId,
    from: u64,
    until: Time,
}

impl Sync {
    /// Notes how far a peer of our chain says it is.
    pub fn hear(&mut self, peer: PeerId, height: u64) {
        // The table is full of others: who is the least far makes place.
        if self.heights.len() >= SYNC_PEERS_MAX && !self.heights.contains_key(&peer) {
            let least = self.heights.iter().map(|(peer, height)| (*height, *peer)).min();
            match least.filter(|(lowest, _)| *lowest < height) {
                Some((_, peer)) => self.heights.remove(&peer),
                None => return,
            };
        }
        self.heights.insert(peer, height);
    }

    /// Forgets a peer that is gone.
    pub fn forget(&mut self, peer: &PeerId) {
        self.heights.remove(peer);
        self.asked = self.asked.take().filter(|asked| asked.peer != *peer);
    }

    /// The greatest height that someone claims.
    pub fn claimed(&self) -> u64 {
        self.heights.values().copied().max().unwrap_or(0)
    }

    /// The next question, if somebody is ahead of `mine` (the last executed
    /// height) and none is under way. An overdue answer counts as refused.
    pub fn ask(&mut self, chain: Hash, mine: u64, now: Time) -> Option<(PeerId, BlocksAsk)> {
        match self.asked {
            Some(asked) if asked.until > now => return None,
            Some(asked) => self.refused(&asked.peer, now),
            None => {}
        }
        self.left_alone.retain(|_, until| *until > now);
        let ahead = self.heights.iter().filter(|(peer, height)| **height > mine && !self.left_alone.contains_key(peer));
        // Another one each time, and no two askers the same: by hash of both.
        let chance =
            |peer: &PeerId| Hash::of(&[&mine.to_le_bytes()[..], &now.0.to_le_bytes(), peer.as_bytes()].concat());
        let (peer, height) = ahead.min_by_key(|(peer, _)| chance(peer))?;
        let (peer, from) = (*peer, mine + 1);
        let count = (height - mine).min(BLOCKS_PER_ANSWER_MAX as u64) as u32;
        self.asked = Some(Asked { peer, from, until: now + ANSWER_WAIT });
        Some((peer, BlocksAsk { chain, from, count }))
    }

    /// Whether these blocks answer our question; then it is over. An answer
    /// without blocks is a refusal.
    pub fn answered(&mut self, peer: &PeerId, blocks: &Blocks, now: Time) -> bool {
        if self.asked.is_none_or(|asked| asked.peer != *peer || asked.from != blocks.from) {
            return false;
        }
        self.asked = None;
        if blocks.blocks.is_empty() {
            self.refused(peer, now);
        }
        true
    }

    /// The peer did not answer, or what it said was wrong.
    pub fn refused(&mut self, peer: &PeerId, now: Time) {
        self.asked = self.asked.take().filter(|asked| asked.peer != *peer);
        self.heights.remove(peer);
        if self.left_alone.len() < SYNC_PEERS_MAX {
            self.left_alone.insert(*peer, now + LEFT_ALONE);
        }
    }

    /// When the answer that is waited for is overdue: time to [`Self::ask`] another.
    pub fn timeout(&self) -> Option<Time> {
        self.asked.map(|asked| asked.until)
    }
}

impl Body for BlocksAsk {
    fn validate(&self) -> Result<(), String> {
        if self.count == 0 || self.count as usize > BLOCKS_PER_ANSWER_MAX {
            return Err(format!("{} blocks, 1 to {BLOCKS_PER_ANSWER_MAX} are given at once", self.count));
        }
        validate_height(self.from)
    }
}

impl Body for Blocks {
    fn validate(&self) -> Result<(), String> {
        validate_height(self.from)?;
        if self.blocks.len() > BLOCKS_PER_ANSWER_MAX {
            return Err(format!("{} blocks, at most {BLOCKS_PER_ANSWER_MAX} are accepted", self.blocks.len()));
        }
        self.blocks.iter().try_for_each(|decision| {
            if decision.bytes.len() > VALUE_BYTES_MAX {
                return Err(format!("a block of {} bytes, at most {VALUE_BYTES_MAX}", decision.bytes.len()));
            }
            decision.certificate.validate()
        })
    }
}

fn validate_height(height: u64) -> Result<(), String> {
    if height > HEIGHT_MAX {
        return Err(format!("height {height}, at most {HEIGHT_MAX} is accepted"));
    }
    Ok(())
}
