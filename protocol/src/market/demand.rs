//! The bid: what a user needs.

use crate::ids::Hash;
use crate::time::Time;
use crate::wire::limits::MEMBERS_MAX;
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Whose machines may see the data of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// The user's own: this peer, and those that hold an own-role credential of it.
    #[default]
    Own,
    /// Those that this user or the founder of the swarm has invited.
    Invited,
    /// Anyone's.
    Open,
}

/// A user's request for machines, gossiped so that offers come to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Hash of the run's spec, which is sent to the chosen peers only.
    pub spec: Hash,
    /// Fewest members the run starts with.
    pub members_min: u16,
    /// Most members the run starts with.
    pub members_max: u16,
    /// Memory that one device of each member must have, in bytes.
    pub memory_bytes_min: u64,
    /// Disk that each member needs for the data, in bytes.
    pub disk_bytes_min: u64,
    /// How long the user expects the run to take, in seconds.
    pub duration_s: u64,
    /// The arithmetic that each member must speak.
    pub arithmetic_version: u32,
    /// When the user gives up looking.
    pub deadline: Time,
    /// Whose machines may see the data.
    pub share: Share,
}

impl Body for Demand {
    fn validate(&self) -> Result<(), String> {
        let (min, max) = (usize::from(self.members_min), usize::from(self.members_max));
        if min == 0 || min > max || max > MEMBERS_MAX {
            return Err(format!("members {min} to {max}, accepted are 1 to {MEMBERS_MAX}, the least first"));
        }
        Ok(())
    }
}
