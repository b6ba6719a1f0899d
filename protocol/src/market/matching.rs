//! Which listings serve a demand: a pure function of the two.

use super::demand::{Demand, Share};
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
    /// The data may go to the user's own peers only, and it is not one of them.
    NotOwn,
    /// The data may go to invited peers only, and it is not one of them.
    NotInvited,
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
            Self::NotOwn => "not one of your own peers",
            Self::NotInvited => "not invited by you or the swarm's founder",
        }
    }

    /// Whether the data, and not the machine, is what keeps the two apart.
    pub fn is_privacy(self) -> bool {
        matches!(self, Self::NotOwn | Self::NotInvited)
    }
}

/// Whether `listing` serves `demand`; `may_see` says whether its peer may see
/// the data, as [`Share`] has it. That is asked first: a machine that must not
/// see the data serves at no other time either.
///
/// # Errors
/// The first reason why not.
pub fn check(demand: &Demand, listing: &Listing, may_see: bool) -> Result<(), Mismatch> {
    let stranger = if demand.share == Share::Own { Mismatch::NotOwn } else { Mismatch::NotInvited };
    let checks = [
        (!may_see, stranger),
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
pub fn rank<'a>(
    demand: &Demand,
    listings: impl IntoIterator<Item = (&'a PeerId, &'a Listing)>,
    may_see: impl Fn(&PeerId) -> bool,
) -> Vec<PeerId> {
    let serves = |(peer, listing): &(&PeerId, &Listing)| check(demand, listing, may_see(peer)).is_ok();
    let mut feasible: Vec<_> = listings.into_iter().filter(serves).collect();
    feasible.sort_by_key(|(peer, listing)| (Reverse(listing.multiply_adds_per_s()), **peer));
    feasible.into_iter().map(|(peer, _)| *peer).collect()
}

/// Why there is no match: how many of `listings` fail for which first reason.
pub fn explain<'a>(
    demand: &Demand,
    listings: impl IntoIterator<Item = (&'a PeerId, &'a Listing)>,
    may_see: impl Fn(&PeerId) -> bool,
) -> BTreeMap<Mismatch, usize> {
    let mut reasons = BTreeMap::new();
    let mismatch = |(peer, listing): (&PeerId, &Listing)| check(demand, listing, may_see(peer)).err();
    for mismatch in listings.into_iter().filter_map(mismatch) {
        *reasons.entry(mismatch).or_default() += 1;
    }
    reasons
}
