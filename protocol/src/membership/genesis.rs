//! What an invite-only swarm begins with; its hash is the swarm's name.

use crate::ids::{NetworkId, PeerId};
use crate::wire::codec;
use serde::{Deserialize, Serialize};

/// Separates ids of invite-only swarms from those of open ones and all else.
const GENESIS_DOMAIN: &str = "manta 2026-11 invite-only genesis v1";

/// Longest name of a swarm, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// The founding document of an invite-only swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// What people call it.
    pub name: String,
    /// Whose permissions admit to it.
    pub founder: PeerId,
}

impl Genesis {
    /// The id of this swarm: nobody else can found one of the same id.
    pub fn network_id(&self) -> NetworkId {
        NetworkId(blake3::derive_key(GENESIS_DOMAIN, &codec::encode(self)))
    }

    /// Checks the name.
    ///
    /// # Errors
    /// What was found and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        if self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(format!(
                "a swarm's name of {} bytes, at most {NAME_BYTES_MAX} printable ones",
                self.name.len()
            ));
        }
        Ok(())
    }
}
