//! The order book: the latest listing of each peer and the demands that were heard.
//!
//! Both are latest-wins by sequence number: listings by author, demands by
//! author and spec. Both are bounded. Names cost nothing, so a flood of new
//! authors must not push out those who were there first: a listing that was said
//! again lately yields to no newcomer, and an author's demands only make room
//! for each other. What has expired is remembered for the accepted clock skew,
//! so that a replay does not bring it back.

use super::demand::Demand;
use super::listing::Listing;
use crate::ids::{Hash, PeerId};
use crate::time::Duration;
use crate::time::Time;
use crate::wire::limits::{CLOCK_SKEW_MAX, DEMANDS_MAX, DEMANDS_PER_AUTHOR_MAX, GOSSIP_INTERVAL_MIN, LISTINGS_MAX};
use std::collections::BTreeMap;

/// A listing that was not said again for so long yields its place: honest ones
/// are said again each minute.
const LISTING_STALE_AFTER: Duration = Duration::from_s(90);
/// An author whose remembered demands are all younger than this says too many.
const DEMANDS_INTERVAL_MIN: Duration = Duration::from_s(1);

/// A listing or its withdrawal, as last heard.
#[derive(Clone, Debug)]
struct Entry {
    seq: u64,
    heard_at: Time,
    expires_at: Time,
    listing: Option<Listing>,
}

/// A demand as heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeardDemand {
    /// Who asks.
    pub author: PeerId,
    /// Rises with each demand of the author.
    pub seq: u64,
    /// When it came.
    pub heard_at: Time,
    /// When it means nothing any more.
    pub expires_at: Time,
    /// What is asked for.
    pub demand: Demand,
}

/// What a message did to the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new: keep and forward it.
    New,
    /// Heard before, older than what is known, or no room for it.
    Stale,
    /// The author speaks too often.
    TooSoon,
}

/// Listings and demands of the swarm, as this peer has heard them.
#[derive(Clone, Debug)]
pub struct OrderBook {
    own: PeerId,
    listings: BTreeMap<PeerId, Entry>,
    demands: BTreeMap<(PeerId, Hash), HeardDemand>,
}

impl OrderBook {
    /// An empty book of the peer `own`.
    pub fn new(own: PeerId) -> Self {
        Self { own, listings: BTreeMap::new(), demands: BTreeMap::new() }
    }

    /// Takes a listing, or with `None` its withdrawal.
    pub fn list(&mut self, author: PeerId, seq: u64, expires_at: Time, listing: Option<Listing>, now: Time) -> Change {
        if let Some(known) = self.listings.get(&author) {
            if known.seq >= seq {
                return Change::Stale;
            }
            // The author's own time counts too: on the way, honest messages bunch up.
            let soon_for_author = seq - known.seq < GOSSIP_INTERVAL_MIN.as_ms();
            // A withdrawal is never held back: it frees others from a dead offer.
            if listing.is_some() && soon_for_author && now.since(known.heard_at) < GOSSIP_INTERVAL_MIN {
                return Change::TooSoon;
            }
        }
        if !self.listings.contains_key(&author) && !self.has_room_for_listing(author, now) {
            return Change::Stale;
        }
        self.listings.insert(author, Entry { seq, heard_at: now, expires_at, listing });
        Change::New
    }

    /// Frees a place for a newcomer, if there is one to be had.
    fn has_room_for_listing(&mut self, newcomer: PeerId, now: Time) -> bool {
        if self.listings.len() < LISTINGS_MAX {
            return true;
        }
        let others = self.listings.iter().filter(|(peer, _)| **peer != self.own);
        let oldest = others.min_by_key(|(peer, entry)| (entry.listing.is_some(), entry.heard_at, **peer));
        let yields = |entry: &Entry| entry.listing.is_none() || now.since(entry.heard_at) > LISTING_STALE_AFTER;
        let Some(peer) = oldest.filter(|(_, entry)| newcomer == self.own || yields(entry)).map(|(peer, _)| *peer)
        else {
            return false;
        };
        self.listings.remove(&peer);
        true
    }

    /// Takes a demand: the latest of its author and spec counts.
    pub fn demand(&mut self, author: PeerId, seq: u64, expires_at: Time, demand: Demand, now: Time) -> Change {
        let key = (author, demand.spec);
        let known = self.demands.get(&key);
        if known.is_some_and(|known| known.seq >= seq) {
            return Change::Stale;
        }
        if known.is_none() {
            let of_author = self.demands.range((author, Hash([0; 32]))..=(author, Hash([255; 32])));
            let oldest = of_author.clone().min_by_key(|(key, known)| (known.heard_at, **key));
            if let Some((oldest, known)) = oldest
                && of_author.count() >= DEMANDS_PER_AUTHOR_MAX
            {
                if now.since(known.heard_at) < DEMANDS_INTERVAL_MIN {
                    return Change::TooSoon;
                }
                let oldest = *oldest;
                self.demands.remove(&oldest);
            } else if self.demands.len() >= DEMANDS_MAX {
                let oldest = self.demands.iter().min_by_key(|(key, known)| (known.heard_at, **key));
                let Some(oldest) = oldest.map(|(key, _)| *key) else { return Change::Stale };
                self.demands.remove(&oldest);
            }
        } else if known.is_some_and(|known| now.since(known.heard_at) < GOSSIP_INTERVAL_MIN) {
            return Change::TooSoon;
        }
        self.demands.insert(key, HeardDemand { author, seq, heard_at: now, expires_at, demand });
        Change::New
    }

    /// Forgets all that `author` has said, for it is no member any more.
    pub(crate) fn forget(&mut self, author: &PeerId) {
        self.listings.remove(author);
        self.demands.retain(|(of, _), _| of != author);
    }

    /// Takes back what has expired, and forgets it once no clock in the swarm
    /// can take it for valid.
    pub fn expire(&mut self, now: Time) {
        self.listings.values_mut().filter(|entry| entry.expires_at <= now).for_each(|entry| entry.listing = None);
        self.listings.retain(|_, entry| entry.expires_at + CLOCK_SKEW_MAX > now);
        self.demands.retain(|_, demand| demand.expires_at + CLOCK_SKEW_MAX > now);
    }

    /// The live listings by peer, in order of id.
    pub fn listings(&self) -> impl Iterator<Item = (&PeerId, &Listing)> {
        self.listings.iter().filter_map(|(peer, entry)| Some((peer, entry.listing.as_ref()?)))
    }

    /// The listing of one peer.
    pub fn listing(&self, peer: &PeerId) -> Option<&Listing> {
        self.listings.get(peer)?.listing.as_ref()
    }

    /// The demands that are remembered, some of them until shortly after they expired.
    pub fn demands(&self) -> impl Iterator<Item = &HeardDemand> {
        self.demands.values()
    }
}
