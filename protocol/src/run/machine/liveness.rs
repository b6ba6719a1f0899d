//! Who is there: heartbeats, lost connections, silence, stalls and accusations.

use super::{ChunkArrived, Machine, PREPARE_MAX, Stage};
use crate::effect::{Effect, RunFailure};
use crate::ids::{EffectId, PeerId};
use crate::outbox::Outbox;
use crate::run::Phase;
use crate::run::ends::Over;
use crate::run::patience::Awaited;
use crate::run::report::{AbortReason, Heartbeat, Ready};
use crate::run::view::{Role, Suspect, ViewInstall};
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::message::Kind;
use std::collections::BTreeSet;

/// How often a member says that it is alive.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_ms(250);
/// A member that says nothing for so long is asked whether it is there; longer
/// on slow links, see [`Machine::silence_max`].
const SILENCE_MIN: Duration = Duration::from_ms(1_500);
/// A member that has left for the n-th time waits so long before it comes back.
const RETURN_DELAYS_S: [u64; 5] = [0, 2, 5, 15, 60];
/// Between two answers to one peer that is behind.
const TELL_INTERVAL: Duration = Duration::from_ms(200);

/// Another member.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) last_heard: Time,
    /// The transport has failed to reach it since it was last heard.
    pub(super) suspect: bool,
    /// Its last connection was lost since it was last heard.
    pub(super) disconnected: bool,
    /// What the transport failed to deliver and must be said again.
    unsaid: BTreeSet<Kind>,
    /// Our latest report on its way to it.
    pub(super) report: Option<EffectId>,
    /// A heartbeat on its way, to measure the round trip.
    probe: Option<(EffectId, Time)>,
    /// The longest round trip lately.
    pub(super) round_trip: Duration,
    /// Chunks that the transport failed to deliver.
    unsent: BTreeSet<(u64, Phase, u32)>,
}

impl Other {
    pub(super) fn new(now: Time) -> Self {
        Self {
            last_heard: now,
            suspect: false,
            disconnected: false,
            unsaid: BTreeSet::new(),
            report: None,
            probe: None,
            round_trip: Duration(0),
            unsent: BTreeSet::new(),
        }
    }

    /// Whether it is most likely gone.
    pub(super) fn is_gone(&self) -> bool {
        self.disconnected && self.suspect
    }
}

impl Machine {
    pub(super) fn heard(&mut self, from: PeerId, now: Time) {
        if let Some(other) = self.others.get_mut(&from) {
            other.last_heard = now;
            other.suspect = false;
            other.disconnected = false;
            self.agreement.is_there(&from);
        }
    }

    /// The longest round trip to any member lately.
    pub(super) fn round_trip(&self) -> Duration {
        self.others.values().map(|other| other.round_trip).max().unwrap_or(Duration(0))
    }

    fn silence_max(&self, other: &Other) -> Duration {
        SILENCE_MIN.max(other.round_trip.times(4))
    }

    /// Whether we cannot reach a member, as far as we know.
    pub(super) fn is_unreachable(&self, other: &Other, now: Time) -> bool {
        other.is_gone() || now.since(other.last_heard) > self.silence_max(other)
    }

    /// The transport delivered the message `id` to a member.
    pub(crate) fn delivered(&mut self, id: EffectId, to: PeerId, now: Time, out: &mut Outbox) -> Option<Over> {
        let other = self.others.get_mut(&to)?;
        other.suspect = false;
        other.report = other.report.filter(|report| *report != id);
        if let Some((_, sent)) = other.probe.take_if(|(probe, _)| *probe == id) {
            other.round_trip = now.since(sent).max(Duration(other.round_trip.0 / 8 * 7));
        }
        self.leave_if_heard(out)
    }

    /// The transport could not deliver a message of `kind` to a member: once is
    /// an accident, with its connection lost it is gone.
    pub(crate) fn undelivered(&mut self, to: PeerId, kind: Kind, now: Time, out: &mut Outbox) -> Option<Over> {
        let other = self.others.get_mut(&to)?;
        other.probe = None;
        let known = std::mem::replace(&mut other.suspect, true);
        if matches!(kind, Kind::Ready | Kind::RoundReport | Kind::ViewInstall) {
            other.unsaid.insert(kind);
        }
        if other.disconnected || kind == Kind::Confirm {
            other.disconnected = true;
            self.lost(to, now, out);
            return self.leave_if_heard(out);
        }
        // Asked at once the first time, then with the next heartbeat.
        if !known {
            self.beat(to, now, out);
        }
        None
    }

    /// The connection to a member was lost: ask whether it is still there.
    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        if let Some(other) = self.others.get_mut(&peer) {
            other.suspect = true;
            other.disconnected = true;
            self.beat(peer, now, out);
        }
    }

    /// A chunk could not be delivered: it is sent again while its receiver is a member.
    pub(crate) fn unsent(&mut self, to: PeerId, exchange: u64, phase: Phase, chunk: u32, now: Time, out: &mut Outbox) {
        let Some(other) = self.others.get_mut(&to) else { return };
        other.suspect = true;
        other.unsent.insert((exchange, phase, chunk));
        self.beat(to, now, out);
    }

    fn beat(&mut self, to: PeerId, now: Time, out: &mut Outbox) {
        let heartbeat = Heartbeat { run: self.run(), view: self.view.number };
        let id = self.say(to, &Message::Heartbeat(heartbeat), now, out);
        if let (Some(other), Some(id)) = (self.others.get_mut(&to), id) {
            other.probe.get_or_insert((id, now));
        }
    }

    /// Heartbeats, and what was not delivered.
    pub(super) fn say_again(&mut self, now: Time, out: &mut Outbox) {
        let others: Vec<_> =
            self.others.iter_mut().map(|(peer, other)| (*peer, std::mem::take(&mut other.unsaid))).collect();
        for (peer, unsaid) in others {
            self.beat(peer, now, out);
            for message in unsaid.into_iter().filter_map(|kind| self.said(kind)).collect::<Vec<_>>() {
                self.say(peer, &message, now, out);
            }
            self.send_again(peer, out);
        }
    }

    fn send_again(&mut self, to: PeerId, out: &mut Outbox) {
        let (run, view, number) = (self.run(), self.view.number, self.number);
        let member = self.view.member(&to).is_some();
        let Some(other) = self.others.get_mut(&to).filter(|other| !other.suspect) else { return };
        for (exchange, phase, chunk) in std::mem::take(&mut other.unsent) {
            let here = match phase {
                Phase::Contribution => exchange == number && matches!(self.stage, Stage::Reducing { .. }),
                Phase::Sum => exchange.saturating_add(1) >= number && exchange <= number,
            };
            let owned = self.exchange(exchange).is_some_and(|exchange| match phase {
                Phase::Contribution => exchange.reduce.owner(chunk).is_some_and(|rank| exchange.plan.ranks[rank] == to),
                Phase::Sum => exchange.reduce.has_sum(chunk),
            });
            if member && here && owned {
                out.push(Effect::SendChunk { run, to, view, exchange, phase, chunk });
            }
        }
    }

    /// The exchange of this number, if we have it.
    pub(super) fn exchange(&self, number: u64) -> Option<&super::Exchange> {
        if number == self.number {
            return Some(&self.current);
        }
        self.previous.as_ref().filter(|_| number.checked_add(1) == Some(self.number)).map(|(exchange, _)| exchange)
    }

    /// Our latest word of this kind, to say it again.
    fn said(&self, kind: Kind) -> Option<Message> {
        let (run, me) = (self.run(), self.me());
        match kind {
            Kind::Ready => {
                let parameter_hash = *self.ready.get(&me)?;
                Some(Message::Ready(Ready { run, parameter_hash }))
            }
            Kind::RoundReport => {
                let mine = self.reports.iter().rev().find(|((_, _, peer), _)| *peer == me);
                mine.map(|(_, report)| Message::RoundReport(report.clone()))
            }
            Kind::ViewInstall => Some(Message::ViewInstall(Box::new(ViewInstall { run, view: (*self.view).clone() }))),
            _ => None,
        }
    }

    /// Who has been silent for too long is asked about.
    pub(super) fn look_for_silence(&mut self, now: Time, out: &mut Outbox) {
        let silent = |other: &&Other| now.since(other.last_heard) > self.silence_max(other);
        let members = self.others.iter().filter(|(peer, _)| self.view.member(peer).is_some());
        let silent: Vec<_> = members.filter(|(_, other)| silent(other)).map(|(peer, _)| *peer).collect();
        silent.into_iter().for_each(|peer| self.lost(peer, now, out));
        if now >= self.prepare_until && matches!(self.stage, Stage::Gathering) {
            let late: Vec<_> = self.view.full().map(|member| member.contact.peer).collect();
            self.prepare_until = now + PREPARE_MAX;
            for peer in late.into_iter().filter(|peer| !self.ready.contains_key(peer)).collect::<Vec<_>>() {
                self.accuse(peer, AbortReason::NotReady, now, out);
            }
        }
    }

    /// A member that is alive but has owed us something for too long.
    pub(super) fn look_for_stalls(&mut self, now: Time, out: &mut Outbox) {
        if self.agreement.is_open() {
            return self.patience.progress(now);
        }
        let (what, missing) = match self.stage {
            Stage::Reducing { .. } => match self.current.reduce.waiting_for(Phase::Contribution) {
                // Who lacks others' values cannot send sums: values come first.
                missing if missing.is_empty() => (Awaited::Sums, self.current.reduce.waiting_for(Phase::Sum)),
                missing => (Awaited::Values, missing),
            },
            Stage::Following if self.is_stuck(now) => return self.left_behind(now, out),
            Stage::Comparing => {
                let missing = self.missing_reports();
                let ranks = missing.iter().filter_map(|peer| self.current.plan.rank_of(peer)).collect();
                (Awaited::Reports, ranks)
            }
            _ => return,
        };
        let culprit = missing.into_iter().map(|rank| self.current.plan.ranks[rank]).find(|peer| *peer != self.me());
        if let Some(culprit) = culprit.filter(|_| self.patience.is_over(what, now)) {
            self.patience.wait_begins(now);
            self.accuse(culprit, AbortReason::Stalled, now, out);
        }
    }

    /// A member cannot be reached.
    pub(super) fn lost(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        if self.is_agreed() {
            // Nobody is needed any more: only our last report is not waited for.
            if let Some(other) = self.others.get_mut(&peer) {
                other.report = None;
            }
            return;
        }
        self.suspect(peer, AbortReason::MemberLost, now, out);
    }

    /// A member must leave, and all are told.
    pub(super) fn accuse(&mut self, peer: PeerId, reason: AbortReason, now: Time, out: &mut Outbox) {
        if !self.is_agreed() {
            self.suspect(peer, reason, now, out);
        }
    }

    fn suspect(&mut self, peer: PeerId, reason: AbortReason, now: Time, out: &mut Outbox) {
        if self.view.member(&peer).is_none() || !self.agreement.suspect(peer, reason, now) {
            return;
        }
        let suspect = Suspect { run: self.run(), view: self.view.number, peer, reason };
        self.say_to_all(&Message::Suspect(suspect), now, out);
        self.agree(now, out);
    }

    pub(super) fn suspicion_heard(&mut self, from: PeerId, suspect: &Suspect, now: Time, out: &mut Outbox) {
        // What is said about us is for the others to judge.
        let known = self.view.member(&suspect.peer).is_some() && suspect.view == self.view.number;
        if known && suspect.peer != self.me() && self.view.role(&from) == Some(Role::Full) {
            self.agreement.suspect(suspect.peer, suspect.reason, now);
            self.agree(now, out);
        }
    }

    /// A peer outside the view, or behind it, learns of it.
    pub(super) fn tell_view(&mut self, to: PeerId, now: Time, out: &mut Outbox) {
        self.tell_views(to, self.view.number.saturating_sub(1), now, out);
    }

    /// The views after number `known`, in order, as far as they are kept.
    pub(super) fn tell_views(&mut self, to: PeerId, known: u32, now: Time, out: &mut Outbox) {
        if !self.agreement.may_tell(to, now, TELL_INTERVAL) {
            return;
        }
        let run = self.run();
        for view in self.recent.iter().filter(|view| view.number > known).cloned().collect::<Vec<_>>() {
            let install = ViewInstall { run, view: (*view).clone() };
            self.say(to, &Message::ViewInstall(Box::new(install)), now, out);
        }
    }

    /// How long a member that left so often stays out.
    pub(super) fn return_delay(times: usize) -> Duration {
        Duration::from_s(RETURN_DELAYS_S[times.saturating_sub(1).min(RETURN_DELAYS_S.len() - 1)])
    }

    /// Ends a wait that has no end in sight.
    pub(super) fn give_up_waiting(&mut self, now: Time, out: &mut Outbox) -> Option<Over> {
        let me = self.me();
        let hopeless = match self.stage {
            Stage::Preparing => now >= self.prepare_until,
            Stage::Entering => self.entering.is_hopeless(now),
            _ => self.agreement.is_hopeless(now),
        };
        let reason = if self.stage == Stage::Preparing { AbortReason::NotReady } else { AbortReason::MemberLost };
        if !hopeless || self.is_agreed() {
            return None;
        }
        self.end(RunFailure { reason, culprit: me, reported_by: me }, now, out)
    }

    /// A member that left before its last report was delivered would leave the
    /// others waiting for it.
    pub(super) fn leave_if_heard(&self, out: &mut Outbox) -> Option<Over> {
        let heard = self.others.values().all(|other| other.report.is_none());
        match self.stage {
            Stage::Leaving { .. } if heard => self.close(out),
            _ => None,
        }
    }

    /// A chunk came over the bulk transport: whether it is to be kept is said at
    /// once, or later if it belongs to a view that we are not in yet.
    pub(crate) fn chunk(&mut self, arrived: ChunkArrived, now: Time, out: &mut Outbox) {
        self.heard(arrived.from, now);
        if arrived.view > self.view.number {
            let room = self.early.len() < crate::wire::limits::EARLY_CHUNKS_MAX;
            match room && self.others.contains_key(&arrived.from) {
                true => self.early.push(arrived),
                false => out.push(Effect::ChunkVerdict { transfer: arrived.transfer, keep: false }),
            }
            return;
        }
        self.chunk_in_view(arrived, now, out);
    }
}
