//! Putting a view in force.

use super::{Exchange, Machine, RECENT_VIEWS, Snapshot, Stage};
use crate::effect::{Effect, Event, Pause, RunFailure};
use crate::ids::PeerId;
use crate::outbox::Outbox;
use crate::run::ends::Over;
use crate::run::view::{Fate, Plan, Role, View};
use crate::time::Time;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Plans that a member which lags behind may still need.
const PLANS_MAX: usize = 8;

impl Machine {
    /// Somebody says that this view holds.
    pub(super) fn view_heard(&mut self, from: PeerId, view: &View, now: Time, out: &mut Outbox) {
        let known = self.others.contains_key(&from) || self.start.members.iter().any(|member| member.peer == from);
        if !known || view.number <= self.view.number || self.is_agreed() || Plan::new(view, self.spec()).is_none() {
            return;
        }
        let in_step = view.number == self.view.number + 1 && (self.entering.is_in() || self.is_listening());
        if in_step { self.install(view.clone(), now, out) } else { self.adopt(view.clone(), now, out) }
    }

    /// The successor of our view holds, and we hold what it speaks of.
    pub(super) fn install(&mut self, view: View, now: Time, out: &mut Outbox) {
        let me = self.me();
        let ended = view.from.wrapping_sub(1);
        let lags =
            self.number < ended && (view.fate != (Fate::Kept { handovers: Vec::new() }) || !view.left.is_empty());
        let overtaken = view.fate == Fate::Reduced && self.has_ended(ended);
        let demoted =
            view.member(&me).is_none_or(|member| member.role == Role::Listener && member.since == view.number);
        if view.fate == Fate::Fresh || lags || overtaken || demoted {
            return self.adopt(view, now, out);
        }
        self.set_view(view, now, out);
        self.apply_fate(ended, out);
        self.follow_plan(now, out);
        self.current.reduce.thaw();
        self.prepare_snapshot(out);
        self.hear_early(now, out);
        self.patience.wait_begins(now);
        self.start_if_all_ready(now, out);
        self.drive(now, out);
    }

    /// Whether an exchange is over here, or about to be.
    fn has_ended(&self, number: u64) -> bool {
        self.number > number || (self.number == number && self.stage == Stage::Applying)
    }

    /// A view holds that we have not followed: we come in anew, or from our checkpoint.
    pub(super) fn adopt(&mut self, view: View, now: Time, out: &mut Outbox) {
        let me = self.me();
        let (role, since) = view.member(&me).map_or((None, 0), |member| (Some(member.role), member.since));
        let begins = since == view.number && role == Some(Role::Listener);
        let checkpoint = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.exchange);
        let resumes = view.fate == Fate::Fresh
            && role == Some(Role::Full)
            && self.entering.is_restarted()
            && matches!(self.stage, Stage::Entering | Stage::Preparing)
            && checkpoint == view.from;
        let out_for = view.left.iter().find(|departure| departure.peer == me).map(|departure| departure.reason);
        self.set_view(view, now, out);
        self.forget_exchanges(out);
        if resumes {
            self.entering.resumed();
            self.hear_early(now, out);
            if self.stage == Stage::Entering {
                self.prepare_snapshot(out);
                self.begin_exchange(now, out);
            }
            return;
        }
        if begins && self.stage != Stage::Preparing {
            self.listen(now);
            return self.hear_early(now, out);
        }
        self.drop_early(out);
        if let Some(reason) = out_for.filter(|reason| !reason.may_return()) {
            self.doomed = Some(RunFailure { reason, culprit: me, reported_by: me });
            return;
        }
        self.left_behind(now, out);
    }

    /// We do not hold what the others hold: ask to come in again.
    pub(super) fn left_behind(&mut self, now: Time, out: &mut Outbox) {
        if self.entering.left_behind(now) {
            out.notify(Event::RunPaused { run: self.run(), why: Pause::LeftBehind });
        }
        if self.stage != Stage::Preparing {
            self.stage = Stage::Entering;
        }
    }

    /// Everything of the run's exchanges is void: they are computed or fetched anew.
    fn forget_exchanges(&mut self, out: &mut Outbox) {
        let view = self.view.clone();
        if let Some(plan) = Plan::new(&view, self.spec()) {
            self.plans = [Arc::new(Plan { from: view.from, ..plan })].into();
        }
        (self.number, self.ledger) = (view.from, view.ledger.clone());
        (self.previous, self.snapshot) = (None, None);
        self.ahead.clear();
        self.reports.clear();
        self.current = self.fresh_exchange(self.number);
        out.push(Effect::DropExchange { run: self.run(), exchange: 0 });
    }

    /// The members are these now.
    fn set_view(&mut self, view: View, now: Time, out: &mut Outbox) {
        let (run, me) = (self.run(), self.me());
        let view = Arc::new(view);
        let peers = |view: &View| -> BTreeSet<PeerId> {
            view.members.iter().map(|member| member.contact.peer).filter(|peer| *peer != me).collect()
        };
        let (before, after) = (peers(&self.view), peers(&view));
        for member in view.members.iter().filter(|member| member.contact.peer != me) {
            let known = self.view.member(&member.contact.peer).filter(|known| before.contains(&known.contact.peer));
            if known.is_none_or(|known| known.contact != member.contact) {
                out.push(Effect::Admit { run, contact: member.contact.clone() });
            }
        }
        for peer in before.difference(&after) {
            out.push(Effect::Dismiss { run, peer: *peer });
        }
        self.others.retain(|peer, _| after.contains(peer));
        for peer in after {
            self.others.entry(peer).or_insert_with(|| super::Other::new(now));
        }
        // Whoever is here has just been heard by the proposer.
        self.others.values_mut().for_each(|other| other.last_heard = other.last_heard.max(now));
        self.agreement.settled(&view, now);
        self.view = view.clone();
        self.recent.push_back(view.clone());
        if self.recent.len() > RECENT_VIEWS {
            self.recent.pop_front();
        }
        self.journal(out);
        out.notify(Event::ViewChanged { run, view });
    }

    /// What becomes of the exchange in which the view before ended.
    fn apply_fate(&mut self, ended: u64, out: &mut Outbox) {
        let view = self.view.clone();
        let over = self.has_ended(ended);
        let exchange = match self.number {
            number if number == ended => Some(&mut self.current),
            number if number == ended + 1 => self.previous.as_mut().map(|(exchange, _)| exchange),
            _ => None,
        };
        let Some(exchange) = exchange else { return };
        match &view.fate {
            Fate::Kept { handovers } => exchange.reduce.keep(handovers),
            Fate::Reduced if !over => {
                let stays = |rank: &usize| view.role(&exchange.plan.ranks[*rank]) == Some(Role::Full);
                let stay = (0..exchange.plan.ranks.len()).filter(stays).fold(0, |map, rank| map | 1 << rank);
                exchange.sums_since = view.number;
                exchange.reduce.reduce_over(stay);
                out.push(Effect::DropSums { run: self.start.run, exchange: ended });
            }
            Fate::Reduced | Fate::Fresh => {}
        }
        if self.number == ended + 1 {
            self.drive_previous(out);
        }
    }

    /// Computes anew what followed another plan.
    fn follow_plan(&mut self, now: Time, out: &mut Outbox) {
        let (view, run) = (self.view.clone(), self.run());
        if view.plan != view.number {
            return;
        }
        if let Some(plan) = Plan::new(&view, self.spec()) {
            self.plans.push_back(Arc::new(plan));
        }
        if self.plans.len() > PLANS_MAX {
            self.plans.pop_front();
        }
        self.ahead.retain(|number, _| *number < view.from);
        out.push(Effect::DropExchange { run, exchange: view.from });
        if self.number == view.from {
            self.current = self.fresh_exchange(self.number);
            if matches!(self.stage, Stage::Computing | Stage::Reducing { .. } | Stage::Following) {
                self.begin_exchange(now, out);
            }
        }
    }

    /// The state that those who listen from here on need is kept as soon as it is there.
    pub(super) fn prepare_snapshot(&mut self, out: &mut Outbox) {
        let new = |role: Role, since: u32| role == Role::Listener && since == self.view.number;
        if self.view.members.iter().any(|member| new(member.role, member.since)) {
            let (exchange, ledger) = (self.view.from, self.view.ledger.clone());
            self.snapshot = Some(Snapshot { exchange, ledger, begun: false, root: None });
            self.snapshot_if_due(out);
        }
    }

    /// Chunks that came before their view, in order of coming.
    fn hear_early(&mut self, now: Time, out: &mut Outbox) {
        let (due, early) =
            std::mem::take(&mut self.early).into_iter().partition(|chunk| chunk.view <= self.view.number);
        self.early = early;
        let due: Vec<_> = due;
        due.into_iter().for_each(|chunk| self.chunk_in_view(chunk, now, out));
    }

    fn drop_early(&mut self, out: &mut Outbox) {
        for chunk in std::mem::take(&mut self.early) {
            out.push(Effect::ChunkVerdict { transfer: chunk.transfer, keep: false });
        }
    }

    /// What a view has decided about us.
    pub(super) fn doom(&mut self, now: Time, out: &mut Outbox) -> Option<Over> {
        let failure = self.doomed.take()?;
        self.end(failure, now, out)
    }

    /// The exchange of this number, which is this one or a later one.
    pub(super) fn exchange_to_come(&mut self, number: u64) -> &mut Exchange {
        if number == self.number {
            return &mut self.current;
        }
        let plan = self.plan_at(number).clone();
        let me = self.me();
        self.ahead.entry(number).or_insert_with(|| Exchange::new(plan, &me))
    }
}
