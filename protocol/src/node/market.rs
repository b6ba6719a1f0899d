//! The node's part in the market: its own offer and how often that is said, its
//! users' orders, and what others ask of it.

use super::{LISTING_INTERVAL, LISTING_LIFETIME, Node};
use crate::effect::Event;
use crate::ids::PeerId;
use crate::market::book::Change;
use crate::market::demand::Demand;
use crate::market::listing::{Listing, Withdrawal};
use crate::market::matching;
use crate::market::order::{Order, Outcome};
use crate::market::reservation::{Hold, Reserve, ReserveReply, Terms};
use crate::outbox::About;
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::limits::{ANSWERED_MAX, ORDERS_MAX};
use crate::wire::message::Body as _;

/// Shortest time between two announcements of our own.
const ANNOUNCE_INTERVAL_MIN: Duration = Duration::from_ms(400);
/// The same if others cause it, who may be many and mean ill.
pub(super) const ANSWER_INTERVAL_MIN: Duration = Duration::from_s(1);
/// A new connection carries no gossip at once: what is to be heard on it waits so long.
pub(super) const CONNECTION_SETTLES: Duration = Duration::from_ms(300);
/// After an announcement for one peer, the next one that it causes comes so much later.
const ANSWER_PAUSE: Duration = Duration::from_s(10);

impl Node {
    /// Answers are told apart by the spec, so each may be ordered once at a time.
    pub(super) fn may_order(&self, new: &Order) -> Result<(), String> {
        new.validate()?;
        if self.orders.len() >= ORDERS_MAX {
            return Err(format!("{ORDERS_MAX} orders are open already: wait for one to end, or cancel one"));
        }
        match self.orders.values().find(|order| order.spec_hash() == new.spec_hash()) {
            Some(_) => Err("a run of this spec is ordered already: wait for it, or cancel it".into()),
            None => Ok(()),
        }
    }

    /// What others would reject, and blame on us, is not announced.
    pub(super) fn set_offer(&mut self, listing: Listing, public: bool, now: Time) {
        if let Err(problem) = listing.validate() {
            return self.out.notify(Event::Refused { why: format!("the own offer: {problem}") });
        }
        self.offer = Some(listing);
        if std::mem::replace(&mut self.offer_public, public) && !public && self.announced_at.is_some() {
            // Others still hold the public offer: they must not ask in vain.
            self.out.publish(&Message::Withdrawal(Withdrawal {}), LISTING_LIFETIME, now);
            self.announced_at = Some(now);
        }
        self.announce_soon(now);
    }

    pub(super) fn demand_heard(
        &mut self,
        author: PeerId,
        seq: u64,
        expires_at: Time,
        demand: Demand,
        now: Time,
    ) -> Change {
        let may_see = self.membership.members.we_may_see(demand.share, &author, now);
        let fits = self.offer.as_ref().is_some_and(|offer| matching::check(&demand, offer, may_see).is_ok());
        let change = self.book.demand(author, seq, expires_at, demand, now);
        if change == Change::New {
            self.out.notify(Event::DemandHeard { peer: author });
            if fits {
                self.membership.greet(author, now, &mut self.out);
                self.announce_for(author, now, now);
            }
        }
        change
    }

    pub(super) fn reserve_asked(&mut self, user: PeerId, seq: u64, request: &Reserve, now: Time) {
        let ours = user == self.out.me();
        let terms = self
            .offer
            .as_ref()
            .filter(|_| self.offer_public || ours)
            .map(|offer| Terms { memory_bytes: offer.memory_bytes(), duration_max_s: offer.duration_max_s });
        let answer = self.hold.reserve(user, request, terms, now);
        let reply = Message::ReserveReply(ReserveReply { spec: request.spec, request: seq, answer });
        self.out.send(user, reply, About::Nothing, now);
    }

    pub(super) fn advance_orders(&mut self, now: Time) {
        let (book, membership, out) = (&self.book, &mut self.membership, &mut self.out);
        self.orders.retain(|_, order| match order.advance(book, &membership.members, now, out) {
            None => true,
            Some(Outcome::Matched(run)) => {
                membership.run_matched(run, order.share());
                false
            }
            Some(Outcome::Failed) => false,
        });
    }

    pub(super) fn announce_soon(&mut self, now: Time) {
        self.announce_after(ANNOUNCE_INTERVAL_MIN, now);
    }

    /// Says the offer again at `wanted` for `peer`, who may be new here and not have heard it: at most once in a
    /// while, or a few could make all peers gossip. What comes too soon is put off and not left out, for a peer that has
    /// restarted has forgotten what it heard a moment ago.
    pub(super) fn announce_for(&mut self, peer: PeerId, wanted: Time, now: Time) {
        if !self.offer_public {
            return;
        }
        self.answered.retain(|_, at| now.since(*at) < ANSWER_PAUSE);
        let due = match self.answered.get(&peer) {
            Some(planned) if *planned > now => return,
            Some(heard) => self.announce_after(ANSWER_INTERVAL_MIN, wanted.max(*heard + ANSWER_PAUSE)),
            None if self.answered.len() < ANSWERED_MAX => self.announce_after(ANSWER_INTERVAL_MIN, wanted),
            None => {
                self.announce_after(ANSWER_PAUSE, wanted);
                return;
            }
        };
        self.answered.insert(peer, due);
    }

    /// Plans an announcement at `wanted`, but at least `interval` after the last one; gives the time of it.
    fn announce_after(&mut self, interval: Duration, wanted: Time) -> Time {
        let due = self.announced_at.map_or(wanted, |at| wanted.max(at + interval));
        self.announce_due = Some(self.announce_due.map_or(due, |planned| planned.min(due)));
        due
    }

    pub(super) fn announce_if_due(&mut self, now: Time) {
        let Some(offer) = &self.offer else { return };
        if self.announce_due.is_none_or(|due| due > now) {
            return;
        }
        let busy = self.hold != Hold::Free;
        let listing = Listing { busy, ..offer.clone() };
        let (seq, expires_at) = if self.offer_public {
            // Whoever does not know us yet would ignore the offer.
            self.membership.say_presence(now, &mut self.out);
            let sent = self.out.publish(&Message::Listing(listing.clone()), LISTING_LIFETIME, now);
            (sent.seq, sent.expires_at)
        } else {
            (self.out.next_seq(now), now + LISTING_LIFETIME)
        };
        self.book.list(self.out.me(), seq, expires_at, Some(listing), now);
        self.announced_at = Some(now);
        self.announced_busy = Some(busy);
        self.announce_due = Some(now + LISTING_INTERVAL);
        // Those for whom it was to be said later hear it now.
        self.answered.values_mut().for_each(|at| *at = (*at).min(now));
    }
}
