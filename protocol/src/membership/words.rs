//! The messages by which peers show who has invited them.

use super::permission::{Credential, Revocation};
use crate::wire::limits::{CREDENTIALS_MAX, REVOCATIONS_PER_MESSAGE_MAX};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Gossiped in an invite-only swarm: the author's credentials, all that it shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// What admits the author.
    pub credentials: Vec<Credential>,
}

/// Gossiped by the founder of an invite-only swarm: permissions taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Each signed by itself, so that others can pass it on.
    pub revocations: Vec<Revocation>,
}

/// Said to a peer that was met: who I am, and who is no member any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// As in [`Presence`].
    pub credentials: Vec<Credential>,
    /// As in [`Revocations`]; of the founder, whoever says it.
    pub revocations: Vec<Revocation>,
}

fn bounded(what: &str, found: usize, max: usize) -> Result<(), String> {
    if found > max { Err(format!("{found} {what}, at most {max} are accepted")) } else { Ok(()) }
}

impl Body for Presence {
    fn validate(&self) -> Result<(), String> {
        bounded("credentials", self.credentials.len(), CREDENTIALS_MAX)
    }
}

impl Body for Revocations {
    fn validate(&self) -> Result<(), String> {
        bounded("revocations", self.revocations.len(), REVOCATIONS_PER_MESSAGE_MAX)
    }
}

impl Body for Hello {
    fn validate(&self) -> Result<(), String> {
        bounded("credentials", self.credentials.len(), CREDENTIALS_MAX)?;
        bounded("revocations", self.revocations.len(), REVOCATIONS_PER_MESSAGE_MAX)
    }
}
