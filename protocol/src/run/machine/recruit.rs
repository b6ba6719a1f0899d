//! Looking for more members while the run goes on.
//!
//! The first full member of the view asks the best free machine that it knows,
//! one at a time, as long as the run takes more members: to hold itself, then
//! to come in. It lets it read the data, and proposes it when it asks to join.
//! Where the data is not for everybody, only the owner knows whom it trusts, so
//! only the owner looks.

use super::{Machine, Stage};
use crate::effect::Effect;
use crate::ids::PeerId;
use crate::market::book::OrderBook;
use crate::market::demand::Share;
use crate::market::listing::Contact;
use crate::market::matching;
use crate::market::order::contact;
use crate::market::reservation::{Answer, Confirm, Reserve, ReserveReply};
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::Message;
use std::collections::BTreeMap;

/// How often the order book is looked at.
const LOOK_INTERVAL: Duration = Duration::from_s(1);
/// How long a machine may take to answer.
const REPLY_MAX: Duration = Duration::from_s(4);
/// How long a machine is held, in milliseconds.
const HOLD_MS: u32 = 20_000;
/// A machine that did not want to is not asked again for so long.
const AVOIDED: Duration = Duration::from_s(20);
/// A machine that was taken has so long to ask to join.
const JOIN_MAX: Duration = Duration::from_s(15 * 60);

/// What a run sees of the market.
pub(crate) struct Market<'a> {
    pub(crate) book: &'a OrderBook,
    /// Whether a peer may see data of ours that is shared so.
    pub(crate) may_see: &'a dyn Fn(Share, &PeerId) -> bool,
}

/// Who is asked, and who was.
#[derive(Debug)]
pub(super) struct Recruit {
    look_at: Time,
    /// Who is asked, under which number, until when, and where it is.
    asked: Option<(u64, Time, Contact)>,
    /// Who did not want to, until when.
    avoided: BTreeMap<PeerId, Time>,
    /// Who may ask to join, until when.
    invited: BTreeMap<PeerId, Time>,
}

impl Recruit {
    pub(super) fn new(now: Time) -> Self {
        Self { look_at: now, asked: None, avoided: BTreeMap::new(), invited: BTreeMap::new() }
    }

    pub(super) fn is_invited(&self, peer: &PeerId) -> bool {
        self.invited.contains_key(peer)
    }
}

impl Machine {
    /// Asks for another machine, if the run takes one more.
    pub(super) fn recruit(&mut self, market: &Market<'_>, now: Time, out: &mut Outbox) {
        self.recruit.avoided.retain(|_, until| *until > now);
        self.dismiss_the_late(now, out);
        if let Some((_, until, asked)) = &self.recruit.asked
            && *until <= now
        {
            self.recruit.avoided.insert(asked.peer, now + AVOIDED);
            self.recruit.asked = None;
        }
        let (me, share) = (self.me(), self.demand.share);
        let first = match share {
            Share::Open => self.view.full().next().is_some_and(|member| member.contact.peer == me),
            Share::Own | Share::Invited => self.start.owner == me,
        };
        let begun = !matches!(self.stage, Stage::Preparing | Stage::Gathering | Stage::Entering);
        let coming = self.recruit.invited.keys().filter(|peer| self.view.member(peer).is_none()).count();
        let room = self.view.members.len() + coming < usize::from(self.demand.members_max);
        let enough = self.ledger.left() <= self.current.plan.shares.iter().map(|share| u64::from(*share)).sum();
        if !first || !begun || !room || enough || self.recruit.asked.is_some() || now < self.recruit.look_at {
            return;
        }
        self.recruit.look_at = now + LOOK_INTERVAL;
        let ranked = matching::rank(&self.demand, market.book.listings(), |peer| (market.may_see)(share, peer));
        let new = |peer: &PeerId| {
            self.view.member(peer).is_none()
                && !self.recruit.avoided.contains_key(peer)
                && !self.recruit.is_invited(peer)
                && !self.start.members.iter().any(|member| member.peer == *peer)
        };
        let Some(peer) = ranked.into_iter().find(new) else { return };
        let reserve = Reserve {
            spec: self.demand.spec,
            memory_bytes: self.demand.memory_bytes_min,
            duration_s: self.demand.duration_s,
            hold_ms: HOLD_MS,
        };
        let request = out.send(peer, Message::Reserve(reserve), About::Run(self.run()), now).seq;
        self.recruit.asked = Some((request, now + REPLY_MAX, contact(market.book, peer)));
    }

    /// The machine that was asked answers.
    pub(crate) fn recruit_answered(&mut self, from: PeerId, reply: &ReserveReply, now: Time, out: &mut Outbox) {
        let ours = |(request, _, contact): &mut (u64, Time, Contact)| contact.peer == from && *request == reply.request;
        let Some((_, _, contact)) = self.recruit.asked.take_if(ours) else { return };
        if reply.answer != Answer::Accepted {
            self.recruit.avoided.insert(from, now + AVOIDED);
            return;
        }
        self.recruit.invited.insert(from, now + JOIN_MAX);
        out.push(Effect::Admit { run: self.run(), contact });
        let confirm = Confirm {
            spec: self.start.spec.clone(),
            demand: self.demand.clone(),
            owner: self.start.owner,
            issued_at_ms: self.issued_at_ms,
            members: self.view.members.iter().map(|member| member.contact.clone()).collect(),
            late: true,
        };
        out.send(from, Message::Confirm(confirm), About::Nothing, now);
    }

    fn dismiss_the_late(&mut self, now: Time, out: &mut Outbox) {
        let late: Vec<_> =
            self.recruit.invited.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.recruit.invited.remove(&peer);
            if self.view.member(&peer).is_none() {
                out.push(Effect::Dismiss { run: self.run(), peer });
            }
        }
    }
}
