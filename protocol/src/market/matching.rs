//! Which listings serve a demand: a pure function of the two.

use super::demand::Demand;
use super::listing::Listing;
use crate::ids::PeerId;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Why one listing does not serve a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mismatch {
    /// A run or a reservation holds the machine.
    Busy,
    /// It speaks another version of the arithmetic.
    Arithmetic,
    /// No device has enough memory.
    Memory,
    /// Not enough free disk.
    Disk,
    /// Its owner does not lend it for so long.
    Duration,
}

impl Mismatch {
    /// The reason in words, to follow a count of peers.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Busy => "busy with another run",
            Self::Arithmetic => "on another version of the arithmetic",
            Self::Memory => "with too little memory",
            Self::Disk => "with too little free disk",
            Self::Duration => "not lent for so long",
        }
    }
}

/// Whether `listing` serves `demand`.
///
/// # Errors
/// The first reason why not.
pub fn check(demand: &Demand, listing: &Listing) -> Result<(), Mismatch> {
    let checks = [
        (listing.busy, Mismatch::Busy),
        (listing.arithmetic_version != demand.arithmetic_version, Mismatch::Arithmetic),
        (listing.memory_bytes() < demand.memory_bytes_min, Mismatch::Memory),
        (listing.disk_free_bytes < demand.disk_bytes_min, Mismatch::Disk),
        (listing.duration_max_s < demand.duration_s, Mismatch::Duration),
    ];
    checks.into_iter().find(|(fails, _)| *fails).map_or(Ok(()), |(_, mismatch)| Err(mismatch))
}

/// The feasible peers, best first: fastest device first, ties by id, so that
/// equal order books give equal answers.
pub fn rank<'a>(demand: &Demand, listings: impl IntoIterator<Item = (&'a PeerId, &'a Listing)>) -> Vec<PeerId> {
    let mut feasible: Vec<_> = listings.into_iter().filter(|(_, listing)| check(demand, listing).is_ok()).collect();
    feasible.sort_by_key(|(peer, listing)| (Reverse(listing.multiply_adds_per_s()), **peer));
    feasible.into_iter().map(|(peer, _)| *peer).collect()
}

/// Why there is no match: how many of `listings` fail for which first reason.
pub fn explain<'a>(demand: &Demand, listings: impl IntoIterator<Item = &'a Listing>) -> BTreeMap<Mismatch, usize> {
    let mut reasons = BTreeMap::new();
    for mismatch in listings.into_iter().filter_map(|listing| check(demand, listing).err()) {
        *reasons.entry(mismatch).or_default() += 1;
    }
    reasons
}
