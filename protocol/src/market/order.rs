//! The user's side of the market: a demand becomes reservations, and these a run.
//!
//! The user's own machine is always a member: it serves the data and keeps the
//! result. Others are taken best first. If somebody refuses or does not answer,
//! the next is asked; an order that runs out of time releases what it holds.

use super::book::OrderBook;
use super::demand::{Demand, Share};
use super::listing::Contact;
use super::matching::{self, Mismatch};
use super::reservation::{Answer, Confirm, RESERVATION_MAX, Release, Reserve, ReserveReply};
use crate::effect::Event;
use crate::ids::{Hash, OrderId, PeerId, RunId};
use crate::input::Wish;
use crate::membership::Members;
use crate::outbox::{About, Outbox};
use crate::run::RunSpec;
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::message::Body as _;
use std::collections::BTreeMap;

/// How long a peer may take to answer a reservation.
const REPLY_MAX: Duration = Duration::from_s(4);
/// After this a peer that refused is asked again.
const RETRY_AFTER: Duration = Duration::from_s(2);
/// How often the demand is gossiped while members are missing.
const DEMAND_INTERVAL: Duration = Duration::from_s(2);
/// How long a machine is held for the order, in milliseconds. The user counts
/// from when it asks, which is before the machine does.
const HOLD_MS: u32 = (RESERVATION_MAX.as_ms() * 2 / 3) as u32;
/// A hold counts as lost so long before it ends, for the word that starts the
/// run needs time to arrive.
const CONFIRM_MARGIN: Duration = Duration::from_s(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Waiting { until: Time, hold_until: Time, request: u64 },
    Held { until: Time },
    Refused { until: Time },
}

impl Asked {
    fn until(self) -> Time {
        match self {
            Self::Waiting { until, .. } | Self::Held { until } | Self::Refused { until } => until,
        }
    }
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Matched(RunId),
    Failed,
}

#[derive(Debug)]
pub(crate) struct Order {
    id: OrderId,
    spec: RunSpec,
    demand: Demand,
    patience_until: Time,
    impatient: bool,
    demand_at: Time,
    asked: BTreeMap<PeerId, Asked>,
    refusals: usize,
}

impl Order {
    pub(crate) fn new(id: OrderId, spec: RunSpec, wish: &Wish, now: Time) -> Self {
        let demand = Demand {
            spec: spec.hash(),
            members_min: wish.members_min,
            members_max: wish.members_max,
            memory_bytes_min: wish.memory_bytes,
            disk_bytes_min: wish.disk_bytes,
            duration_s: wish.duration_s,
            arithmetic_version: spec.arithmetic_version,
            deadline: now + Duration::from_ms(wish.deadline_ms),
            share: wish.share,
        };
        Self {
            id,
            spec,
            demand,
            patience_until: now + Duration::from_ms(wish.patience_ms.min(wish.deadline_ms)),
            impatient: false,
            demand_at: now,
            asked: BTreeMap::new(),
            refusals: 0,
        }
    }

    /// Whether others would take the demand and the spec.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.spec.validate().map_err(|problem| format!("the run's spec: {problem}"))?;
        self.demand.validate().map_err(|problem| format!("the order: {problem}"))
    }

    pub(crate) fn spec_hash(&self) -> Hash {
        self.demand.spec
    }

    /// Whose machines may see the data.
    pub(crate) fn share(&self) -> Share {
        self.demand.share
    }

    pub(crate) fn timeout(&self) -> Time {
        let fixed = [self.demand.deadline, self.demand_at];
        let asked = self.asked.values().map(|asked| asked.until());
        let patience = (!self.impatient).then_some(self.patience_until);
        fixed.into_iter().chain(asked).chain(patience).min().unwrap_or(self.demand.deadline)
    }

    /// Takes the answer of `peer`.
    pub(crate) fn answered(&mut self, peer: PeerId, reply: &ReserveReply, now: Time, out: &mut Outbox) {
        let Some(Asked::Waiting { hold_until, request, .. }) = self.asked.get(&peer).copied() else { return };
        let answer = reply.answer;
        if reply.request != request {
            return;
        }
        let asked = if answer == Answer::Accepted {
            Asked::Held { until: hold_until - CONFIRM_MARGIN }
        } else {
            self.refusals += 1;
            Asked::Refused { until: now + RETRY_AFTER }
        };
        self.asked.insert(peer, asked);
        out.notify(Event::ReservationAnswered { order: self.id, peer, answer });
    }

    /// The reservation for `peer` could not be delivered.
    pub(crate) fn unreachable(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        if let Some(Asked::Waiting { .. }) = self.asked.get(&peer) {
            self.refusals += 1;
            self.give_up(peer, now, out);
        }
    }

    /// Leaves `peer` to others for a while. It may hold its machine for us even
    /// so (only its answer was lost): it is told not to.
    fn give_up(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        self.asked.insert(peer, Asked::Refused { until: now + RETRY_AFTER });
        out.send(peer, Message::Release(Release { spec: self.demand.spec }), About::Nothing, now);
    }

    /// What has run out of time: silent peers are not asked again at once, or
    /// the best of them would keep the next one from being asked at all.
    fn lapse(&mut self, now: Time, out: &mut Outbox) {
        let lapsed: Vec<_> =
            self.asked.iter().filter(|(_, asked)| asked.until() <= now).map(|(p, a)| (*p, *a)).collect();
        for (peer, asked) in lapsed {
            match asked {
                Asked::Refused { .. } => drop(self.asked.remove(&peer)),
                Asked::Waiting { .. } => {
                    self.refusals += 1;
                    self.give_up(peer, now, out);
                }
                Asked::Held { .. } => self.give_up(peer, now, out),
            }
        }
    }

    /// Lets go of those who must not see the data any more: nothing of it may
    /// reach them, however far the order has come.
    fn exclude(&mut self, members: &Members, now: Time, out: &mut Outbox) {
        let excluded = |(peer, asked): (&PeerId, &Asked)| {
            let engaged = !matches!(asked, Asked::Refused { .. });
            (engaged && !members.may_see(self.demand.share, peer, now)).then_some(*peer)
        };
        let excluded: Vec<_> = self.asked.iter().filter_map(excluded).collect();
        for peer in excluded {
            if members.admits(&peer, now) {
                self.give_up(peer, now, out);
            } else {
                // No member of the swarm any more: it is not even told.
                self.asked.insert(peer, Asked::Refused { until: now + RETRY_AFTER });
            }
        }
    }

    /// Does what the time and the order book allow.
    pub(crate) fn advance(
        &mut self,
        book: &OrderBook,
        members: &Members,
        now: Time,
        out: &mut Outbox,
    ) -> Option<Outcome> {
        self.lapse(now, out);
        self.exclude(members, now, out);
        if now >= self.demand.deadline {
            self.fail(book, members, now, out);
            return Some(Outcome::Failed);
        }
        if now >= self.demand_at {
            self.demand_at = now + DEMAND_INTERVAL;
            out.publish(&Message::Demand(self.demand.clone()), DEMAND_INTERVAL.times(5), now);
        }
        let candidates = self.candidates(book, members, now, out.me());
        self.impatient = now >= self.patience_until;
        let engaged = self.count(|asked| !matches!(asked, Asked::Refused { .. }));
        let max = usize::from(self.demand.members_max);
        if engaged + candidates.len() >= max || self.impatient {
            for peer in candidates.iter().take(max.saturating_sub(engaged)) {
                self.ask(*peer, now, out);
            }
        }
        let held = self.count(|asked| matches!(asked, Asked::Held { .. }));
        let waiting = self.count(|asked| matches!(asked, Asked::Waiting { .. }));
        let enough = held == max || (self.impatient && waiting == 0 && held >= usize::from(self.demand.members_min));
        let with_me = matches!(self.asked.get(&out.me()), Some(Asked::Held { .. }));
        (enough && with_me).then(|| {
            self.say_who_was_left_out(book, members, now, out);
            Outcome::Matched(self.confirm(book, now, out))
        })
    }

    /// Frees everything that is held, for the order is not wanted any more.
    pub(crate) fn cancel(&mut self, now: Time, out: &mut Outbox) {
        for peer in std::mem::take(&mut self.asked).into_keys() {
            out.send(peer, Message::Release(Release { spec: self.demand.spec }), About::Nothing, now);
        }
    }

    /// Who may still be asked, our own machine first.
    fn candidates(&self, book: &OrderBook, members: &Members, now: Time, me: PeerId) -> Vec<PeerId> {
        let may_see = |peer: &PeerId| members.may_see(self.demand.share, peer, now);
        let mut ranked = matching::rank(&self.demand, book.listings(), may_see);
        ranked.retain(|peer| !self.asked.contains_key(peer));
        ranked.sort_by_key(|peer| *peer != me);
        ranked
    }

    fn count(&self, which: impl Fn(&Asked) -> bool) -> usize {
        self.asked.values().filter(|asked| which(asked)).count()
    }

    fn ask(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        let hold_until = now + Duration::from_ms(u64::from(HOLD_MS));
        let reserve = Reserve {
            spec: self.demand.spec,
            memory_bytes: self.demand.memory_bytes_min,
            duration_s: self.demand.duration_s,
            hold_ms: HOLD_MS,
        };
        let request = out.send(peer, Message::Reserve(reserve), About::Order(self.id), now).seq;
        self.asked.insert(peer, Asked::Waiting { until: now + REPLY_MAX, hold_until, request });
    }

    fn confirm(&mut self, book: &OrderBook, now: Time, out: &mut Outbox) -> RunId {
        let held = self.asked.iter().filter(|(_, asked)| matches!(asked, Asked::Held { .. })).map(|(peer, _)| *peer);
        let members: Vec<Contact> = held.map(|peer| contact(book, peer)).collect();
        let confirm = Confirm {
            spec: self.spec.clone(),
            demand: self.demand.clone(),
            owner: out.me(),
            issued_at_ms: now.as_unix_ms(),
            members,
            late: false,
        };
        let run = confirm.run_id();
        for member in &confirm.members {
            out.send(member.peer, Message::Confirm(confirm.clone()), About::Run(run), now);
        }
        out.notify(Event::OrderMatched { order: self.id, run });
        run
    }

    /// Why listings do not serve, and how many for each reason.
    fn mismatches(&self, book: &OrderBook, members: &Members, now: Time) -> BTreeMap<Mismatch, usize> {
        matching::explain(&self.demand, book.listings(), |peer| members.may_see(self.demand.share, peer, now))
    }

    /// A run may begin with few members because the data may go to few: its user
    /// should know.
    fn say_who_was_left_out(&self, book: &OrderBook, members: &Members, now: Time, out: &mut Outbox) {
        let mismatches = self.mismatches(book, members, now).into_iter();
        let peers = mismatches.filter(|(mismatch, _)| mismatch.is_privacy()).map(|(_, count)| count).sum();
        if peers > 0 {
            out.notify(Event::LeftOut { order: self.id, peers, share: self.demand.share });
        }
    }

    fn fail(&mut self, book: &OrderBook, members: &Members, now: Time, out: &mut Outbox) {
        let found = self.count(|asked| matches!(asked, Asked::Held { .. }));
        out.notify(Event::OrderFailed {
            order: self.id,
            found,
            needed: usize::from(self.demand.members_min),
            listings: book.listings().count(),
            mismatches: self.mismatches(book, members, now),
            refused: self.refusals,
        });
        self.cancel(now, out);
    }
}

pub(crate) fn contact(book: &OrderBook, peer: PeerId) -> Contact {
    // A listing may expire while its peer is held; the transport then still
    // knows the connection over which the reservation was answered.
    let listing = book.listing(&peer);
    Contact {
        peer,
        bulk_port: listing.map_or(0, |listing| listing.bulk_port),
        addresses: listing.map_or_else(Vec::new, |listing| listing.addresses.clone()),
    }
}
