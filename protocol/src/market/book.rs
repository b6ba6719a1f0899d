//! The order book: the latest listing of each peer and the demands that were heard.
//!
//! Listings are latest-wins by sequence number, demands are remembered by
//! content until they expire. Both are bounded; when full, what expires first
//! goes first, except our own listing. What has expired is remembered for the
//! accepted clock skew, so that a replay does not bring it back.

use super::demand::Demand;
use super::listing::Listing;
use crate::ids::{Hash, PeerId};
use crate::time::Time;
use crate::wire::limits::{CLOCK_SKEW_MAX, DEMANDS_MAX, GOSSIP_INTERVAL_MIN, LISTINGS_MAX};
use std::collections::BTreeMap;

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
    demands: BTreeMap<Hash, HeardDemand>,
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
        self.listings.insert(author, Entry { seq, heard_at: now, expires_at, listing });
        let own = self.own;
        make_room(&mut self.listings, LISTINGS_MAX, |peer, entry| (*peer == own, entry.expires_at));
        if self.listings.contains_key(&author) { Change::New } else { Change::Stale }
    }

    /// Remembers a demand under the hash of its envelope.
    pub fn demand(&mut self, id: Hash, author: PeerId, expires_at: Time, demand: Demand) -> Change {
        if self.demands.contains_key(&id) {
            return Change::Stale;
        }
        self.demands.insert(id, HeardDemand { author, expires_at, demand });
        make_room(&mut self.demands, DEMANDS_MAX, |_, demand| demand.expires_at);
        if self.demands.contains_key(&id) { Change::New } else { Change::Stale }
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

/// Drops the entries of the least worth until at most `max` are left.
fn make_room<K: Ord + Copy, V, W: Ord>(map: &mut BTreeMap<K, V>, max: usize, worth: impl Fn(&K, &V) -> W) {
    while map.len() > max {
        let first = map.iter().min_by_key(|(key, value)| (worth(key, value), **key)).map(|(key, _)| *key);
        let Some(key) = first else { return };
        map.remove(&key);
    }
}
