//! Which ledger this peer belongs to.
//!
//! A peer that hears of a ledger follows it; one that hears of none for a while
//! founds its own. Peers that start together may each have founded one: a
//! ledger whose weight is all one owner's loses nothing when its peers leave,
//! so of two such ledgers the one with the lower hash stays, and one that
//! others have worked for stays anyhow. Two ledgers that several owners have
//! worked for never merge: people are told, and decide.
//!
//! What others say here is not proven; that they keep a ledger shows when its
//! blocks come. The worst that a liar does is to have a lone founder ask in vain.

use crate::ids::{Hash, PeerId};
use crate::time::{Duration, Time};
use crate::trust::words::LedgerStatus;
use std::collections::BTreeMap;

/// Peers whose ledgers are remembered.
const HEARD_MAX: usize = 256;
/// What a peer said counts for so long.
const STALE_AFTER: Duration = Duration::from_s(60);
/// A peer that did not show the ledger that it spoke of is not asked again for so long.
const MISTRUST: Duration = Duration::from_s(60);
/// One that our question did not reach is passed over for so long: it may be our link.
const UNREACHED: Duration = Duration::from_s(10);

/// What others say about their ledgers.
#[derive(Debug, Default)]
pub(crate) struct Rumours {
    heard: BTreeMap<PeerId, (LedgerStatus, Time)>,
    /// Peers whose word was empty, and until when they are passed over.
    doubted: BTreeMap<PeerId, Time>,
}

/// The ledger that we keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) ledger: Hash,
    /// Whether one owner holds all of its keys.
    pub(crate) alone: bool,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Nothing.
    Stay,
    /// Follow this ledger, asking this peer.
    Follow(Hash, PeerId),
    /// Two ledgers with several owners each: somebody has to decide.
    Split(Hash, PeerId),
}

impl Rumours {
    /// Takes what a peer says of its ledger.
    pub(crate) fn hear(&mut self, peer: PeerId, status: LedgerStatus, now: Time) {
        self.heard.retain(|_, (_, at)| now.since(*at) < STALE_AFTER);
        if self.heard.len() < HEARD_MAX || self.heard.contains_key(&peer) {
            self.heard.insert(peer, (status, now));
        }
    }

    /// A peer did not show the ledger that it spoke of.
    pub(crate) fn doubt(&mut self, peer: PeerId, now: Time) {
        self.pass_over_until(peer, now + MISTRUST, now);
    }

    /// A peer could not be asked for the ledger that it spoke of.
    pub(crate) fn pass_over(&mut self, peer: PeerId, now: Time) {
        self.pass_over_until(peer, now + UNREACHED, now);
    }

    fn pass_over_until(&mut self, peer: PeerId, until: Time, now: Time) {
        self.doubted.retain(|_, until| *until > now);
        if self.doubted.len() < HEARD_MAX {
            self.doubted.insert(peer, until);
        }
    }

    /// What to do, given what is kept here.
    pub(crate) fn decide(&self, own: Option<Own>, now: Time) -> Move {
        // The better ledger comes first: with several owners, then by hash.
        let others = self.believed(now).filter(|(_, status)| own.is_none_or(|own| own.ledger != status.ledger));
        let Some((peer, best)) = others.min_by_key(|(_, status)| (status.alone, status.ledger)) else {
            return Move::Stay;
        };
        match own {
            None => Move::Follow(best.ledger, peer),
            Some(own) if !own.alone && best.alone => Move::Stay,
            Some(own) if !own.alone => Move::Split(best.ledger, peer),
            Some(own) if (best.alone, best.ledger) < (own.alone, own.ledger) => Move::Follow(best.ledger, peer),
            Some(_) => Move::Stay,
        }
    }

    fn believed(&self, now: Time) -> impl Iterator<Item = (PeerId, &LedgerStatus)> {
        let doubted = move |peer: &PeerId| self.doubted.get(peer).is_some_and(|until| *until > now);
        self.heard
            .iter()
            .filter(move |(peer, (_, at))| now.since(*at) < STALE_AFTER && !doubted(peer))
            .map(|(peer, (status, _))| (*peer, status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn status(ledger: u8, alone: bool) -> LedgerStatus {
        let ledger = Hash([ledger; 32]);
        LedgerStatus { ledger, height: 3, alone, chain: ledger }
    }

    fn own(ledger: u8, alone: bool) -> Option<Own> {
        Some(Own { ledger: Hash([ledger; 32]), alone })
    }

    #[test]
    fn the_better_ledger_is_followed() {
        let now = Time(1);
        let mut rumours = Rumours::default();
        assert_eq!(rumours.decide(None, now), Move::Stay, "nobody speaks of a ledger");
        rumours.hear(peer(1), status(7, true), now);
        rumours.hear(peer(2), status(5, true), now);
        assert_eq!(rumours.decide(None, now), Move::Follow(Hash([5; 32]), peer(2)), "the lower hash");
        assert_eq!(rumours.decide(own(4, true), now), Move::Stay, "ours is lower");
        assert_eq!(rumours.decide(own(6, true), now), Move::Follow(Hash([5; 32]), peer(2)));
        assert_eq!(rumours.decide(own(6, false), now), Move::Stay, "they will come to us");
        rumours.hear(peer(3), status(9, false), now);
        assert_eq!(rumours.decide(None, now), Move::Follow(Hash([9; 32]), peer(3)), "several owners first");
        assert_eq!(rumours.decide(own(4, true), now), Move::Follow(Hash([9; 32]), peer(3)));
        assert_eq!(rumours.decide(own(4, false), now), Move::Split(Hash([9; 32]), peer(3)));
        assert_eq!(rumours.decide(own(9, false), now), Move::Stay, "only lone ones are elsewhere");
    }

    #[test]
    fn two_lone_founders_end_up_on_one_ledger() {
        for (a, b) in [(3, 8), (8, 3)] {
            let (mut of_a, mut of_b) = (Rumours::default(), Rumours::default());
            of_a.hear(peer(2), status(b, true), Time(1));
            of_b.hear(peer(1), status(a, true), Time(1));
            let moves = [of_a.decide(own(a, true), Time(1)), of_b.decide(own(b, true), Time(1))];
            assert_eq!(moves.iter().filter(|step| **step == Move::Stay).count(), 1, "{moves:?}");
        }
    }

    #[test]
    fn empty_words_and_old_ones_do_not_count() {
        let mut rumours = Rumours::default();
        rumours.hear(peer(1), status(2, false), Time(1));
        rumours.doubt(peer(1), Time(1));
        assert_eq!(rumours.decide(None, Time(1)), Move::Stay);
        let later = Time(1) + MISTRUST;
        rumours.hear(peer(1), status(2, false), later);
        assert_eq!(rumours.decide(None, later), Move::Follow(Hash([2; 32]), peer(1)));
        assert_eq!(rumours.decide(None, later + STALE_AFTER), Move::Stay, "it may be gone");
    }

    #[test]
    fn who_could_not_be_asked_is_asked_again_soon() {
        let mut rumours = Rumours::default();
        rumours.hear(peer(1), status(2, false), Time(1));
        rumours.pass_over(peer(1), Time(1));
        assert_eq!(rumours.decide(None, Time(1)), Move::Stay);
        let follow = Move::Follow(Hash([2; 32]), peer(1));
        assert_eq!(rumours.decide(None, Time(1) + UNREACHED), follow);
        assert_eq!(rumours.decide(own(1, true), Time(1) + UNREACHED), follow, "though it has its own meanwhile");
    }

    #[test]
    fn many_rumours_do_not_fill_the_memory() {
        let mut rumours = Rumours::default();
        for number in 0..2 * HEARD_MAX as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            rumours.hear(PeerId(id), status(1, true), Time(1));
            rumours.doubt(PeerId(id), Time(1));
        }
        assert_eq!((rumours.heard.len(), rumours.doubted.len()), (HEARD_MAX, HEARD_MAX));
    }
}
