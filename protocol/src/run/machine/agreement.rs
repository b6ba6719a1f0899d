//! Agreeing on the next view: when one is needed, who proposes it, and the
//! promises that keep two proposers from ending up with different ones.
//!
//! From its promise until the next view a member holds still: chunks are taken,
//! but no exchange ends, for the proposer decides on what it was told.

use super::{Machine, Other, Stage};
use crate::effect::{Event, Pause};
use crate::ids::PeerId;
use crate::market::listing::Contact;
use crate::outbox::Outbox;
use crate::run::decide::{Knowledge, next_view};
use crate::run::report::AbortReason;
use crate::run::view::{
    Accepted, Ballot, CaughtUp, Holding, Join, Plan, Role, View, ViewAccept, ViewAsk, ViewInstall, ViewPropose,
    ViewState,
};
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::limits::MEMBERS_MAX;
use std::collections::{BTreeMap, BTreeSet};

/// How long members may take to answer, on quick links.
const ANSWER_MIN: Duration = Duration::from_ms(900);
/// The same for a member that has been silent for too long already.
const LAST_WORD_MIN: Duration = Duration::from_ms(450);
/// How often what was not answered is asked again.
const RETRY_INTERVAL: Duration = Duration::from_ms(250);
/// If the member whose turn it is does nothing for so long, the next one does.
const TAKEOVER: Duration = Duration::from_ms(1_500);
/// Before work is given up because all were restarted: others may come back.
const RESTART_GRACE: Duration = Duration::from_s(8);
/// People are told after so long that the run cannot go on.
const PAUSE_TOLD: Duration = Duration::from_s(4);
/// A pause of this length is the end.
const PAUSE_MAX: Duration = Duration::from_s(30 * 60);
/// A ballot that is further ahead of the own ones than this is nobody's honest
/// attempt: there is one in 900 ms, and after [`PAUSE_MAX`] none any more. So
/// counters never come near their end, from where nobody could go on.
const BALLOT_LEAD_MAX: u64 = 1 << 16;
/// Peers outside the view that are remembered.
const STRANGERS_MAX: usize = 4 * MEMBERS_MAX;

/// An own attempt.
#[derive(Debug)]
struct Attempt {
    ballot: Ballot,
    since: Time,
    said_at: Time,
    answers: BTreeMap<PeerId, ViewState>,
    /// What is proposed, and who has accepted it.
    proposal: Option<(View, BTreeSet<PeerId>)>,
}

/// What a member knows and has promised about the next view.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    promised: Option<Ballot>,
    pub(super) accepted: Option<Accepted>,
    /// Full members that have left, as they say themselves, without having agreed
    /// to any successor of this view, and so never will.
    pub(super) leavers: BTreeSet<PeerId>,
    attempt: Option<Attempt>,
    /// Since when we hold still.
    frozen_at: Option<Time>,
    /// Since when a new view is needed.
    needed_at: Option<Time>,
    pause_told: bool,
    suspects: BTreeMap<PeerId, AbortReason>,
    joins: BTreeMap<PeerId, Contact>,
    caught_up: BTreeMap<PeerId, CaughtUp>,
    /// Shares that would be better.
    shares: Option<BTreeMap<PeerId, u32>>,
    /// How often each has left, and until when it stays out.
    departures: BTreeMap<PeerId, (usize, Time)>,
    told: BTreeMap<PeerId, Time>,
}

impl Agreement {
    pub(super) fn restore(&mut self, promised: Option<Ballot>, accepted: Option<Accepted>, leavers: Vec<PeerId>) {
        (self.promised, self.accepted, self.leavers) = (promised, accepted, leavers.into_iter().collect());
    }

    pub(super) fn promises(&self) -> (Option<Ballot>, Option<Accepted>, Vec<PeerId>) {
        (self.promised, self.accepted.clone(), self.leavers.iter().copied().collect())
    }

    /// Whether a ballot may be heeded: not below what was promised, nor absurdly above.
    fn may_heed(&self, ballot: Ballot) -> bool {
        let counter = self.promised.map_or(0, |promised| promised.counter);
        self.promised.is_none_or(|promised| promised <= ballot)
            && ballot.counter.saturating_sub(counter) <= BALLOT_LEAD_MAX
    }

    /// Whether a new view is being looked for.
    pub(super) fn is_open(&self) -> bool {
        self.frozen_at.is_some()
    }

    pub(super) fn is_hopeless(&self, now: Time) -> bool {
        self.needed_at.is_some_and(|since| now.since(since) > PAUSE_MAX)
    }

    /// Whether this is news.
    pub(super) fn suspect(&mut self, peer: PeerId, reason: AbortReason, now: Time) -> bool {
        let stronger = self
            .suspects
            .get(&peer)
            .is_none_or(|known| *known == AbortReason::MemberLost && reason != AbortReason::MemberLost);
        if stronger {
            self.suspects.insert(peer, reason);
            self.needed_at.get_or_insert(now);
        }
        stronger
    }

    /// Other shares are wanted, or not any more.
    pub(super) fn want_shares(&mut self, shares: Option<BTreeMap<PeerId, u32>>) {
        self.shares = shares;
    }

    /// A peer was heard: it is not lost.
    pub(super) fn is_there(&mut self, peer: &PeerId) {
        if self.attempt.is_none() && self.suspects.get(peer) == Some(&AbortReason::MemberLost) {
            self.suspects.remove(peer);
        }
    }

    /// Whether a peer may be told (again) what it has missed.
    pub(super) fn may_tell(&mut self, peer: PeerId, now: Time, interval: Duration) -> bool {
        if self.told.get(&peer).is_some_and(|at| now.since(*at) < interval) {
            return false;
        }
        self.told.retain(|_, at| now.since(*at) < interval);
        self.told.len() < STRANGERS_MAX && self.told.insert(peer, now).is_none()
    }

    /// A new view holds: what was about the old one is forgotten.
    pub(super) fn settled(&mut self, view: &View, now: Time) {
        for departure in &view.left {
            let times = self.departures.get(&departure.peer).map_or(1, |(times, _)| times + 1);
            let until = if departure.reason.may_return() { now + Machine::return_delay(times) } else { Time(u64::MAX) };
            if self.departures.len() < STRANGERS_MAX || self.departures.contains_key(&departure.peer) {
                self.departures.insert(departure.peer, (times, until));
            }
        }
        let (joins, caught_up) = (std::mem::take(&mut self.joins), std::mem::take(&mut self.caught_up));
        let (told, departures) = (std::mem::take(&mut self.told), std::mem::take(&mut self.departures));
        let leavers = std::mem::take(&mut self.leavers);
        let listens = |peer: &PeerId| view.role(peer) == Some(Role::Listener);
        *self = Self {
            joins: joins.into_iter().filter(|(peer, _)| view.member(peer).is_none()).collect(),
            caught_up: caught_up.into_iter().filter(|(peer, _)| listens(peer)).collect(),
            departures,
            told,
            leavers: leavers.into_iter().filter(|peer| view.role(peer) == Some(Role::Full)).collect(),
            ..Self::default()
        };
    }
}

impl Machine {
    /// Somebody wants to come in, or in again.
    pub(super) fn asked_to_join(&mut self, from: PeerId, join: &Join, now: Time, out: &mut Outbox) {
        let may = self.agreement.departures.get(&from).is_none_or(|(_, until)| *until <= now);
        let room = self.view.members.len() < usize::from(self.demand.members_max);
        let known = self.view.member(&from).is_some();
        let was = self.start.members.iter().any(|member| member.peer == from)
            || self.agreement.departures.contains_key(&from)
            || self.recruit.is_invited(&from);
        if join.view < self.view.number {
            self.tell_views(from, join.view, now, out);
        }
        // Who is listed and asks has lost what it held, unless its word is older than its place.
        let current = !known || join.view >= self.view.number;
        if self.is_agreed() || join.contact.peer != from || !may || !current || !(known || (room && was)) {
            return;
        }
        if self.agreement.joins.len() < STRANGERS_MAX {
            self.agreement.joins.insert(from, join.contact.clone());
            self.agreement.needed_at.get_or_insert(now);
        }
        self.agree(now, out);
    }

    /// A listener follows closely enough to become a full member.
    pub(super) fn caught_up_heard(&mut self, from: PeerId, caught_up: &CaughtUp, now: Time, out: &mut Outbox) {
        let listens = self
            .view
            .member(&from)
            .is_some_and(|member| member.role == Role::Listener && member.since == caught_up.since);
        if listens && caught_up.exchange + 1 >= self.number {
            self.agreement.caught_up.insert(from, *caught_up);
            self.agree(now, out);
        }
    }

    /// Whether the members should change.
    fn is_change_needed(&self) -> bool {
        let agreement = &self.agreement;
        let lost = agreement.suspects.keys().any(|peer| self.view.member(peer).is_some());
        lost || agreement.frozen_at.is_some()
            || !agreement.joins.is_empty()
            || !agreement.caught_up.is_empty()
            || self.entering.is_restarted()
            || agreement.shares.is_some()
    }

    /// Whether it is our turn to propose: the first full member's that is there,
    /// the next one's after a while, and so on.
    fn is_our_turn(&self, now: Time) -> bool {
        let me = self.me();
        let able = match self.stage {
            Stage::Entering => self.entering.is_restarted(),
            Stage::Preparing => self.entering.is_in(),
            _ => self.current.plan.rank_of(&me).is_some(),
        };
        let there =
            |peer: &PeerId| !self.agreement.suspects.contains_key(peer) && !self.agreement.joins.contains_key(peer);
        let before = self.view.full().map(|member| member.contact.peer).take_while(|peer| *peer != me).filter(there);
        let waited = now.since(self.agreement.needed_at.unwrap_or(now));
        let restarted = if self.entering.is_restarted() { TAKEOVER } else { Duration(0) };
        able && self.view.role(&me) == Some(Role::Full)
            && waited.0 >= restarted.0 + TAKEOVER.times(before.count() as u64).0
    }

    /// Does what the search for the next view needs now.
    pub(super) fn agree(&mut self, now: Time, out: &mut Outbox) {
        if self.is_agreed() {
            return;
        }
        if !self.is_change_needed() {
            // What was suspected was heard again.
            self.agreement.needed_at = None;
            self.agreement.pause_told = false;
            return;
        }
        self.agreement.needed_at.get_or_insert(now);
        if self.agreement.attempt.is_none() && self.is_our_turn(now) {
            self.begin_attempt(now, out);
        }
        self.drive_attempt(now, out);
    }

    fn begin_attempt(&mut self, now: Time, out: &mut Outbox) {
        let me = self.me();
        let Some(counter) = self.agreement.promised.map_or(0, |ballot| ballot.counter).checked_add(1) else { return };
        let ballot = Ballot { counter, proposer: me };
        self.agreement.promised = Some(ballot);
        self.journal(out);
        self.freeze(now);
        let answers = BTreeMap::from([(me, self.state(ballot, now))]);
        self.agreement.attempt = Some(Attempt { ballot, since: now, said_at: now, answers, proposal: None });
        let ask = Message::ViewAsk(ViewAsk { run: self.run(), view: self.view.number, ballot });
        for peer in self.member_peers() {
            self.say(peer, &ask, now, out);
        }
    }

    /// The other members of the view.
    fn member_peers(&self) -> Vec<PeerId> {
        let members = self.view.members.iter().map(|member| member.contact.peer);
        members.filter(|peer| *peer != self.me()).collect()
    }

    fn answer_max(&self) -> Duration {
        ANSWER_MIN.max(self.round_trip().times(3))
    }

    fn drive_attempt(&mut self, now: Time, out: &mut Outbox) {
        let answer_max = self.answer_max();
        let Some(attempt) = &self.agreement.attempt else { return };
        let over = now.since(attempt.since) >= answer_max;
        if attempt.proposal.is_some() {
            if over {
                // Somebody holds another promise: try again, above it.
                self.agreement.attempt = None;
                return self.begin_attempt(now, out);
            }
            return self.conclude(now, out);
        }
        // Who was silent before it was asked has had its time: it gets a short last word.
        let last_word_over = now.since(attempt.since) >= LAST_WORD_MIN.max(self.round_trip().times(2));
        let awaited = |peer: &PeerId| {
            let gone = |other: &Other| other.is_gone() || (last_word_over && self.is_unreachable(other, now));
            let gone = self.others.get(peer).is_none_or(gone);
            let accused = self.agreement.suspects.get(peer).is_some_and(|reason| *reason != AbortReason::MemberLost);
            !attempt.answers.contains_key(peer) && !gone && !accused
        };
        let all = !self.member_peers().iter().any(awaited);
        if all || over {
            // Attempts that take turns cut each other short: a restarted member counts from its restart.
            let since = self.entering.restarted_at().unwrap_or(attempt.since);
            let patient = now.since(since) >= RESTART_GRACE
                || self.view.members.iter().all(|member| attempt.answers.contains_key(&member.contact.peer));
            if let Some(view) = self.decide(patient) {
                return self.propose(view, now, out);
            }
            self.tell_pause(now, out);
        }
        self.ask_again(now, out);
    }

    /// Nobody agrees yet: ask those again who have not answered.
    fn ask_again(&mut self, now: Time, out: &mut Outbox) {
        let peers = self.member_peers();
        let (run, view) = (self.run(), self.view.number);
        let Some(attempt) = &mut self.agreement.attempt else { return };
        if now.since(attempt.said_at) < RETRY_INTERVAL {
            return;
        }
        attempt.said_at = now;
        let message = match &attempt.proposal {
            None => Message::ViewAsk(ViewAsk { run, view, ballot: attempt.ballot }),
            Some((next, _)) => {
                Message::ViewPropose(Box::new(ViewPropose { run, ballot: attempt.ballot, next: next.clone() }))
            }
        };
        let said = |peer: &PeerId| match &attempt.proposal {
            None => attempt.answers.contains_key(peer),
            Some((_, accepted)) => accepted.contains(peer),
        };
        let missing: Vec<_> = peers.into_iter().filter(|peer| !said(peer)).collect();
        self.say_to(missing, &message, now, out);
    }

    fn tell_pause(&mut self, now: Time, out: &mut Outbox) {
        let long = self.agreement.needed_at.is_some_and(|since| now.since(since) > PAUSE_TOLD);
        if long && !std::mem::replace(&mut self.agreement.pause_told, true) {
            out.notify(Event::RunPaused { run: self.run(), why: Pause::NoMajority });
        }
    }

    /// The next view, as far as the answers tell.
    fn decide(&self, patient: bool) -> Option<View> {
        let attempt = self.agreement.attempt.as_ref()?;
        let follows = |accepted: &&Accepted| accepted.view.number == self.view.number + 1;
        let accepted = attempt.answers.values().filter_map(|answer| answer.accepted.as_deref()).filter(follows);
        if let Some(accepted) = accepted.max_by_key(|accepted| accepted.ballot) {
            let quorum = self.is_quorum(|peer| attempt.answers.contains_key(peer));
            return (quorum && Plan::new(&accepted.view, self.spec()).is_some()).then(|| accepted.view.clone());
        }
        let suspects = &self.agreement.suspects;
        let accused = suspects.iter().filter(|(_, reason)| **reason != AbortReason::MemberLost);
        let accused = accused.map(|(peer, reason)| (*peer, *reason)).collect();
        let caught_up: Vec<_> = self.agreement.caught_up.keys().copied().collect();
        let view = next_view(&Knowledge {
            spec: self.spec(),
            view: &self.view,
            answers: &attempt.answers,
            leaver: self.leaver(),
            accused: &accused,
            caught_up: &caught_up,
            joins: &self.agreement.joins,
            shares: self.agreement.shares.as_ref(),
            members_max: usize::from(self.demand.members_max),
            exchange: &|number| {
                if number == self.number {
                    return Some((&self.current.reduce, &*self.current.plan, &self.ledger));
                }
                let (exchange, ledger) = self.previous.as_ref().filter(|_| number + 1 == self.number)?;
                Some((&exchange.reduce, &*exchange.plan, ledger))
            },
            patient,
        })?;
        Plan::new(&view, self.spec()).is_some().then_some(view)
    }

    fn propose(&mut self, view: View, now: Time, out: &mut Outbox) {
        let me = self.me();
        let Some(attempt) = &mut self.agreement.attempt else { return };
        let ballot = attempt.ballot;
        attempt.proposal = Some((view.clone(), BTreeSet::from([me])));
        (attempt.since, attempt.said_at) = (now, now);
        self.agreement.accepted = Some(Accepted { ballot, view: view.clone() });
        self.journal(out);
        let propose = Message::ViewPropose(Box::new(ViewPropose { run: self.run(), ballot, next: view }));
        let full: Vec<_> = self.view.full().map(|member| member.contact.peer).filter(|peer| *peer != me).collect();
        self.say_to(full, &propose, now, out);
        self.conclude(now, out);
    }

    /// Puts the proposal in force once a quorum has accepted it.
    fn conclude(&mut self, now: Time, out: &mut Outbox) {
        let Some((view, accepted)) = self.agreement.attempt.as_ref().and_then(|attempt| attempt.proposal.as_ref())
        else {
            return;
        };
        if !self.is_quorum(|peer| accepted.contains(peer)) {
            return self.ask_again(now, out);
        }
        let view = view.clone();
        let mut told: BTreeSet<_> = self.member_peers().into_iter().collect();
        told.extend(view.members.iter().map(|member| member.contact.peer));
        told.remove(&self.me());
        let install = Message::ViewInstall(Box::new(ViewInstall { run: self.run(), view: view.clone() }));
        self.say_to(told, &install, now, out);
        self.install(view, now, out);
    }

    // ---- as a voter ----

    pub(super) fn asked(&mut self, from: PeerId, ask: &ViewAsk, now: Time, out: &mut Outbox) {
        if self.is_agreed() {
            return;
        }
        if ask.view < self.view.number {
            return self.tell_views(from, ask.view, now, out);
        }
        let member = self.view.role(&self.me()).is_some() && self.view.role(&from) == Some(Role::Full);
        let heeded = self.agreement.may_heed(ask.ballot);
        if ask.view != self.view.number || ask.ballot.proposer != from || !member || !heeded {
            return;
        }
        self.heed(ask.ballot, now, out);
        let state = self.state(ask.ballot, now);
        self.say(from, &Message::ViewState(Box::new(state)), now, out);
    }

    /// No lower ballot counts from here on.
    fn heed(&mut self, ballot: Ballot, now: Time, out: &mut Outbox) {
        if self.agreement.promised != Some(ballot) {
            self.agreement.promised = Some(ballot);
            self.journal(out);
        }
        if self.agreement.attempt.as_ref().is_some_and(|attempt| attempt.ballot < ballot) {
            self.agreement.attempt = None;
        }
        // The proposer gets its time before we look for another.
        self.agreement.needed_at = Some(now);
        self.freeze(now);
    }

    fn freeze(&mut self, now: Time) {
        self.agreement.frozen_at.get_or_insert(now);
        if self.stage != Stage::Applying {
            self.current.reduce.freeze();
        }
    }

    pub(super) fn answered(&mut self, from: PeerId, state: &ViewState, now: Time, out: &mut Outbox) {
        // Ballots are counted anew in each view: a late word about the one before is not about this one.
        let member = self.view.member(&from).is_some() && state.view == self.view.number;
        if let Some(attempt) = self
            .agreement
            .attempt
            .as_mut()
            .filter(|attempt| member && attempt.ballot == state.ballot && attempt.proposal.is_none())
        {
            attempt.answers.insert(from, state.clone());
            self.drive_attempt(now, out);
        }
    }

    pub(super) fn proposed(&mut self, from: PeerId, propose: &ViewPropose, now: Time, out: &mut Outbox) {
        let ViewPropose { ballot, next, .. } = propose;
        if self.is_agreed() {
            return;
        }
        if next.number <= self.view.number {
            return self.tell_views(from, next.number - 1, now, out);
        }
        let member = self.view.role(&self.me()) == Some(Role::Full) && self.view.role(&from) == Some(Role::Full);
        let heeded = self.agreement.may_heed(*ballot);
        let possible = next.number == self.view.number + 1 && Plan::new(next, self.spec()).is_some();
        if !member || !heeded || !possible || ballot.proposer != from {
            return;
        }
        if self.agreement.accepted.as_ref().is_none_or(|accepted| accepted.ballot != *ballot) {
            self.agreement.accepted = Some(Accepted { ballot: *ballot, view: next.clone() });
            self.agreement.promised = Some(*ballot);
            self.journal(out);
        }
        self.heed(*ballot, now, out);
        let accept = ViewAccept { run: self.run(), view: self.view.number, ballot: *ballot };
        self.say(from, &Message::ViewAccept(accept), now, out);
    }

    pub(super) fn accepted(&mut self, from: PeerId, accept: &ViewAccept, now: Time, out: &mut Outbox) {
        let full = self.view.role(&from) == Some(Role::Full) && accept.view == self.view.number;
        let attempt = self.agreement.attempt.as_mut().filter(|attempt| full && attempt.ballot == accept.ballot);
        if let Some((_, accepted)) = attempt.and_then(|attempt| attempt.proposal.as_mut()) {
            accepted.insert(from);
            self.conclude(now, out);
        }
    }

    /// What we promise and hold.
    fn state(&self, ballot: Ballot, now: Time) -> ViewState {
        let unreachable = |peer: &PeerId| self.others.get(peer).is_some_and(|other| self.is_unreachable(other, now));
        let members = self.view.members.iter().enumerate();
        let unreachable = members.filter(|(_, member)| unreachable(&member.contact.peer));
        ViewState {
            run: self.run(),
            view: self.view.number,
            ballot,
            accepted: self.agreement.accepted.clone().map(Box::new),
            unreachable: unreachable.fold(0, |map, (index, _)| map | 1 << index),
            holding: self.holding(),
        }
    }

    fn holding(&self) -> Holding {
        let applied = self.stage == Stage::Applying;
        let exchange = self.number + u64::from(applied);
        if !self.entering.is_in() {
            if !self.entering.is_restarted() {
                return Holding::Following;
            }
            return Holding::Restarted { checkpoint: self.checkpoint.clone() };
        }
        if self.plan_at(exchange).rank_of(&self.me()).is_none() {
            return Holding::Following;
        }
        let counts = |rank: usize| self.current.reduce.counts(rank);
        let (ledger, sums, whole) = if applied {
            (self.ledger.after(&self.current.assignment(&self.ledger), counts), Vec::new(), 0)
        } else {
            (self.ledger.clone(), self.current.reduce.sums_map(), self.current.reduce.whole_map())
        };
        Holding::Live { exchange, ledger, sums, whole }
    }
}
