//! The work of a run: compute, reduce, apply, compare, save.

use super::{CHECKPOINT_INTERVAL, ChunkArrived, Machine, Stage, Tally};
use crate::effect::{Effect, Event, RunFailure};
use crate::ids::{Hash, PeerId};
use crate::outbox::{About, Outbox};
use crate::run::Phase;
use crate::run::allreduce::{Action, Refusal};
use crate::run::ends::Over;
use crate::run::ledger::count;
use crate::run::report::{AbortReason, LossSum, Ready, RoundReport};
use crate::run::view::{Checkpoint, Role, batches_of};
use crate::time::Time;
use crate::wire::Message;
use crate::wire::limits::LISTEN_AHEAD_MAX;

/// Reports of one member that are kept: of two rounds, of a few plans.
const REPORTS_MAX: usize = 8;

impl Machine {
    pub(super) fn say_ready(&mut self, parameter_hash: Hash, now: Time, out: &mut Outbox) {
        self.ready.insert(self.me(), parameter_hash);
        self.say_to_all(&Message::Ready(Ready { run: self.run(), parameter_hash }), now, out);
        self.start_if_all_ready(now, out);
    }

    pub(super) fn is_ready(&mut self, from: PeerId, parameter_hash: Hash, now: Time, out: &mut Outbox) {
        let first = self.ready.insert(from, parameter_hash).is_none();
        // Our own word may have come before their `Confirm`: say it again.
        if let (true, Some(parameter_hash)) = (first, self.ready.get(&self.me()).copied()) {
            let again = Message::Ready(Ready { run: self.run(), parameter_hash });
            out.send(from, again, About::Run(self.run()), now);
        }
        if first {
            out.notify(Event::MemberReady { run: self.run(), peer: from });
        }
        self.start_if_all_ready(now, out);
    }

    pub(super) fn start_if_all_ready(&mut self, now: Time, out: &mut Outbox) {
        if self.stage != Stage::Gathering {
            return;
        }
        let full: Vec<_> = self.view.full().map(|member| member.contact.peer).collect();
        let hashes: Vec<_> = full.iter().filter_map(|peer| Some((*peer, *self.ready.get(peer)?))).collect();
        if hashes.len() < full.len() {
            return;
        }
        if let Some(verdict) = difference(&hashes) {
            return self.members_differ(verdict, now, out);
        }
        self.begin_exchange(now, out);
    }

    /// The next exchange, or the end.
    pub(super) fn begin_exchange(&mut self, now: Time, out: &mut Outbox) {
        let (run, me) = (self.run(), self.me());
        if self.ledger.left() == 0 {
            self.stage = Stage::Saving;
            let for_owner = self.view.role(&self.start.owner) != Some(Role::Full);
            return out.push(Effect::Save { run, for_owner });
        }
        self.patience.step_begins(now);
        let rank = self.current.plan.rank_of(&me);
        self.stage = if rank.is_some() { Stage::Computing } else { Stage::Following };
        self.snapshot_if_due(out);
        let Some(rank) = rank else {
            self.patience.wait_begins(now);
            return self.drive(now, out);
        };
        out.push(Effect::Compute {
            run,
            exchange: self.number,
            plan: self.current.plan.number,
            ranks: self.current.plan.ranks.len() as u16,
            batches: self.current.assignment(&self.ledger).swap_remove(rank),
            schedule_step: self.schedule_step(),
        });
    }

    fn schedule_step(&self) -> u64 {
        self.spec().schedule_step(self.ledger.done(), self.ledger.target)
    }

    pub(super) fn computed(&mut self, loss: LossSum, compute_ms: u64, now: Time, out: &mut Outbox) {
        self.stage = Stage::Reducing { since: now };
        self.tally.loss = self.tally.loss.plus(loss);
        self.tally.compute_ms = self.tally.compute_ms.saturating_add(compute_ms);
        let me = self.me();
        let own = self.current.plan.rank_of(&me).map(|rank| self.current.assignment(&self.ledger).swap_remove(rank));
        let batches = own.map_or(0, |spans| count(&spans));
        self.tally.batches = self.tally.batches.saturating_add(u32::try_from(batches).unwrap_or(u32::MAX));
        self.patience.computed(now);
        self.current.reduce.local_ready();
        self.drive(now, out);
    }

    /// A sum is made; one of other contributors than now is of no use.
    pub(super) fn reduced(&mut self, exchange: u64, view: u32, chunk: u32, now: Time, out: &mut Outbox) {
        if exchange == self.number && view >= self.current.sums_since {
            self.current.reduce.chunk_reduced(chunk);
            self.drive(now, out);
        }
    }

    /// Does what the all-reduce asks for.
    pub(super) fn drive(&mut self, now: Time, out: &mut Outbox) {
        if !matches!(self.stage, Stage::Reducing { .. } | Stage::Following) {
            return;
        }
        let (run, view, exchange) = (self.run(), self.view.number, self.number);
        while let Some(action) = self.current.reduce.poll_action() {
            match action {
                Action::SendContribution { to, chunk } => {
                    let (to, phase) = (self.current.plan.ranks[to], Phase::Contribution);
                    out.push(Effect::SendChunk { run, to, view, exchange, phase, chunk });
                }
                Action::Reduce { chunk } => {
                    let contributors = self.current.contributors();
                    out.push(Effect::Reduce { run, exchange, view, chunk, contributors });
                }
                Action::SendSum { chunk } => self.send_sum(exchange, chunk, out),
                Action::Complete => self.complete(now, out),
            }
        }
    }

    /// Sums of the exchange before, which others have not got from those who are lost.
    pub(super) fn drive_previous(&mut self, out: &mut Outbox) {
        let number = self.number.wrapping_sub(1);
        while let Some(action) = self.previous.as_mut().and_then(|(exchange, _)| exchange.reduce.poll_action()) {
            if let Action::SendSum { chunk } = action {
                self.send_sum(number, chunk, out);
            }
        }
    }

    fn send_sum(&self, exchange: u64, chunk: u32, out: &mut Outbox) {
        let (run, view, me) = (self.run(), self.view.number, self.me());
        // Each starts with another, so that no link waits for the others.
        let members: Vec<_> = self.view.members.iter().map(|member| member.contact.peer).collect();
        let after = members.partition_point(|peer| *peer <= me);
        for to in members[after..].iter().chain(&members[..after]).filter(|to| **to != me) {
            out.push(Effect::SendChunk { run, to: *to, view, exchange, phase: Phase::Sum, chunk });
        }
    }

    fn complete(&mut self, now: Time, out: &mut Outbox) {
        if let Stage::Reducing { since } = self.stage {
            self.tally.reduce_ms += now.since(since).as_ms();
        }
        self.patience.step_whole(now);
        self.stage = Stage::Applying;
        let batches = batches_of(&self.current.assignment(&self.ledger), |rank| self.current.reduce.counts(rank));
        out.push(Effect::Apply {
            run: self.run(),
            exchange: self.number,
            batches,
            schedule_step: self.schedule_step(),
        });
    }

    pub(super) fn applied(&mut self, now: Time, out: &mut Outbox) {
        let exchange = self.number;
        let counts = |rank: usize| self.current.reduce.counts(rank);
        let ledger = self.ledger.after(&self.current.assignment(&self.ledger), counts);
        out.notify(Event::ExchangeDone {
            run: self.run(),
            exchange,
            view: self.view.number,
            contributors: self.current.contributors(),
            ledger: ledger.clone(),
        });
        self.number += 1;
        let next = self.ahead.remove(&self.number).unwrap_or_else(|| self.fresh_exchange(self.number));
        let ended = std::mem::replace(&mut self.current, next);
        if self.agreement.is_open() {
            self.current.reduce.freeze();
        }
        let reports = ended.plan.rank_of(&self.me()).is_some();
        let per_round = u64::from(self.spec().exchanges_per_round());
        let round_ends = self.number.is_multiple_of(per_round) || ledger.left() == 0;
        self.previous = Some((ended, std::mem::replace(&mut self.ledger, ledger)));
        self.entering_progress(now);
        if reports && round_ends {
            self.stage = Stage::Hashing;
            self.snapshot_if_due(out);
            out.push(Effect::HashParameters { run: self.run(), exchange: self.number });
        } else {
            self.begin_exchange(now, out);
        }
    }

    pub(super) fn report(&mut self, parameter_hash: Hash, now: Time, out: &mut Outbox) {
        self.stage = Stage::Comparing;
        self.patience.wait_begins(now);
        let Tally { loss, compute_ms, reduce_ms, batches } = std::mem::take(&mut self.tally);
        let (round, plan) = self.ended_round();
        let report = RoundReport { run: self.run(), round, plan, parameter_hash, loss, batches, compute_ms, reduce_ms };
        self.say_to_all(&Message::RoundReport(report.clone()), now, out);
        self.reports.insert((round, plan, self.me()), report);
    }

    /// The round that ended with the exchange before, and that one's plan.
    fn ended_round(&self) -> (u32, u32) {
        let per_round = u64::from(self.spec().exchanges_per_round());
        let round = u32::try_from(self.number.saturating_sub(1) / per_round).unwrap_or(u32::MAX);
        (round, self.previous.as_ref().map_or(0, |(exchange, _)| exchange.plan.number))
    }

    pub(super) fn reported(&mut self, from: PeerId, report: &RoundReport, now: Time, out: &mut Outbox) -> Option<Over> {
        let (round, _) = self.ended_round();
        // Those who are quicker are one round ahead; a member says one thing once.
        let near = report.round >= round && report.round <= round.saturating_add(1);
        // Each has its own room: nobody's reports crowd out another's.
        let bounded = self.reports.keys().filter(|(_, _, peer)| *peer == from).count() < REPORTS_MAX;
        if near && bounded {
            self.patience.progress(now);
            self.reports.entry((report.round, report.plan, from)).or_insert_with(|| report.clone());
        }
        self.compare(now, out)
    }

    /// Whose reports of the ended round are to be here.
    fn reporters(&self) -> Vec<PeerId> {
        let Some((exchange, _)) = &self.previous else { return Vec::new() };
        let full = |peer: &&PeerId| self.view.role(peer) == Some(Role::Full);
        exchange.plan.ranks.iter().filter(full).copied().collect()
    }

    pub(super) fn missing_reports(&self) -> Vec<PeerId> {
        let (round, plan) = self.ended_round();
        self.reporters().into_iter().filter(|peer| !self.reports.contains_key(&(round, plan, *peer))).collect()
    }

    /// Once all have reported the round: equal hashes go on.
    pub(super) fn compare(&mut self, now: Time, out: &mut Outbox) -> Option<Over> {
        if self.doomed.is_some() {
            return self.doom(now, out);
        }
        if self.stage != Stage::Comparing || !self.missing_reports().is_empty() {
            return None;
        }
        let (round, plan) = self.ended_round();
        let reports: Vec<_> = self
            .reporters()
            .into_iter()
            .filter_map(|p| Some((p, self.reports.get(&(round, plan, p))?.clone())))
            .collect();
        let hashes: Vec<_> = reports.iter().map(|(peer, report)| (*peer, report.parameter_hash)).collect();
        if let Some(verdict) = difference(&hashes) {
            self.members_differ(verdict, now, out);
            return self.doom(now, out);
        }
        // Our own last report is kept: a member that has not got it may need it again.
        let me = self.me();
        self.reports.retain(|(of, _, peer), _| *of > round || (*of == round && *peer == me));
        self.balance(&reports);
        out.notify(Event::RoundDone { run: self.run(), reports });
        self.checkpoint_if_due(now, out);
        self.begin_exchange(now, out);
        None
    }

    /// Members hold different parameters: the minority leaves; without a majority nobody knows who is right.
    fn members_differ(&mut self, (reason, wrong): (AbortReason, Vec<PeerId>), now: Time, out: &mut Outbox) {
        let me = self.me();
        if reason == AbortReason::NoMajority {
            let culprit = wrong.first().copied().unwrap_or(me);
            self.doomed = Some(RunFailure { reason, culprit, reported_by: me });
            return;
        }
        if wrong.contains(&me) {
            self.doomed = Some(RunFailure { reason, culprit: me, reported_by: me });
            return;
        }
        wrong.into_iter().for_each(|peer| self.accuse(peer, reason, now, out));
    }

    fn checkpoint_if_due(&mut self, now: Time, out: &mut Outbox) {
        if now.since(self.checkpoint_at) < CHECKPOINT_INTERVAL
            || self.checkpoint_begun.is_some()
            || self.ledger.left() == 0
        {
            return;
        }
        self.checkpoint_at = now;
        self.checkpoint_begun = Some(Checkpoint { exchange: self.number, ledger: self.ledger.clone() });
        out.push(Effect::Checkpoint { run: self.run(), exchange: self.number });
    }

    pub(super) fn checkpointed(&mut self, exchange: u64, out: &mut Outbox) {
        if let Some(checkpoint) = self.checkpoint_begun.take_if(|checkpoint| checkpoint.exchange == exchange) {
            self.checkpoint = Some(checkpoint);
            self.journal(out);
        }
    }

    /// A chunk of our view or of one before.
    pub(super) fn chunk_in_view(&mut self, arrived: ChunkArrived, now: Time, out: &mut Outbox) {
        let ChunkArrived { transfer, from, view, exchange, phase, chunk, elements } = arrived;
        let listens = self.is_listening() || self.stage == Stage::Following;
        let ahead_max = if listens { LISTEN_AHEAD_MAX } else { 1 };
        let reachable =
            exchange >= self.number && exchange - self.number <= ahead_max && self.stage != Stage::Preparing;
        if listens && exchange > self.number.saturating_add(LISTEN_AHEAD_MAX) {
            // The others are too quick for what we fetch: begin with a newer state.
            out.push(Effect::ChunkVerdict { transfer, keep: false });
            return self.left_behind(now, out);
        }
        let result = if reachable && self.view.member(&from).is_some() {
            let exchange = self.exchange_to_come(exchange);
            let since = if phase == Phase::Sum { exchange.sums_since } else { exchange.plan.number };
            let rank = exchange.plan.rank_of(&from).filter(|_| view >= since);
            rank.map(|rank| exchange.reduce.chunk_arrived(rank, phase, chunk, elements))
        } else {
            None
        };
        let keep = matches!(result, Some(Ok(())));
        out.push(Effect::ChunkVerdict { transfer, keep });
        // The bulk transport sends a chunk again if its receipt was lost, and so
        // do members after a change of view.
        if result == Some(Err(Refusal::Length)) {
            out.push(Effect::Misbehaviour { peer: from, what: Refusal::Length.to_string() });
            return self.accuse(from, AbortReason::BadGradient, now, out);
        }
        if keep {
            self.entering_progress(now);
            if exchange == self.number {
                self.patience.progress(now);
                self.drive(now, out);
            }
        }
    }
}

/// Those whose hash is not the commonest one (of equally common ones, the one
/// that the lowest id holds), and whether a majority of all says so; `None` if
/// all are equal.
fn difference(hashes: &[(PeerId, Hash)]) -> Option<(AbortReason, Vec<PeerId>)> {
    let count = |hash: &Hash| hashes.iter().filter(|(_, other)| other == hash).count();
    let commonest = hashes.iter().map(|(_, hash)| hash).rev().max_by_key(|hash| count(hash))?;
    let decided = 2 * count(commonest) > hashes.len();
    let reason = if decided { AbortReason::ParametersDiffer } else { AbortReason::NoMajority };
    let wrong: Vec<_> = hashes.iter().filter(|(_, hash)| hash != commonest).map(|(peer, _)| *peer).collect();
    (!wrong.is_empty()).then_some((reason, wrong))
}
