//! What must be remembered of a run through a restart, as one journal record.

use super::ends::Over;
use super::spec::RunSpec;
use super::view::{Accepted, Ballot, Checkpoint, View};
use crate::ids::PeerId;
use crate::market::demand::Demand;
use crate::market::listing::Contact;
use crate::wire::codec::{self, CodecError};
use crate::wire::message::Body as _;
use serde::{Deserialize, Serialize};

/// Longest record: a view and an accepted one, the spec and the ledger.
const RECORD_BYTES_MAX: usize = 256 * 1024;

/// The record; each replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// The run goes on.
    Going(Box<Going>),
    /// It is over here, for good.
    Over(Over),
}

/// What a member must remember of a run that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Going {
    pub(crate) spec: RunSpec,
    pub(crate) demand: Demand,
    pub(crate) owner: PeerId,
    pub(crate) issued_at_ms: u64,
    /// Who we are and where we were.
    pub(crate) contact: Contact,
    pub(crate) view: View,
    /// The highest ballot about the view's successor that we have heeded.
    pub(crate) promised: Option<Ballot>,
    pub(crate) accepted: Option<Accepted>,
    /// Full members that have said that they left, ascending.
    pub(crate) leavers: Vec<PeerId>,
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = codec::decode(bytes, RECORD_BYTES_MAX).map_err(|error: CodecError| error.to_string())?;
        if let Self::Going(going) = &record {
            going.spec.validate()?;
            going.view.validate()?;
            let known = |peer: &PeerId| going.view.member(peer).is_some();
            if !going.leavers.iter().all(known) || !going.leavers.is_sorted_by(|a, b| a < b) {
                return Err("members that left are none of the view, or out of order".into());
            }
            going.accepted.as_ref().map_or(Ok(()), |accepted| accepted.view.validate())?;
            going.checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.ledger.validate())?;
        }
        Ok(record)
    }

    /// Whose record it is.
    pub(crate) fn of(&self) -> PeerId {
        match self {
            Self::Going(going) => going.contact.peer,
            Self::Over(over) => over.me,
        }
    }
}
