//! Users: what they order, what nodes tell, and how it all ends.

use super::{Happening, LOOK_INTERVAL, World};
use crate::clock::EPOCH;
use crate::host::{Incoming, State};
use crate::report::{Failure, Recovery};
use crate::workload;
use manta_protocol::effect::RunFailure;
use manta_protocol::input::Done;
use manta_protocol::market::reservation::{Answer, RESERVATION_MAX};
use manta_protocol::run::RunSpec;
use manta_protocol::run::ledger::Ledger;
use manta_protocol::run::report::AbortReason;
use manta_protocol::{Command, Duration, Event, Hash, Input, OrderId, PeerId, RunId};

/// An order that came to nothing is tried so often.
const ATTEMPTS_MAX: u32 = 8;
/// After the last run, for holds to end and listings to settle.
const AFTERWARDS: Duration = Duration::from_s(40);
/// Once faults have stopped a run may take so long, and so much more for each exchange.
const PATIENCE: Duration = Duration::from_s(150);
const PATIENCE_PER_EXCHANGE: Duration = Duration::from_s(5);
/// A run whose members cannot go on is watched so long.
const PAUSE_WATCHED: Duration = Duration::from_s(30);
/// How often the owner's driver tries to reach the one who has its result, and how many times.
const RESULT_RETRY: Duration = Duration::from_s(1);
const RESULT_ATTEMPTS_MAX: u32 = 5;

/// A user's wish and what became of it.
pub(super) struct OrderState {
    pub(super) host: usize,
    spec: RunSpec,
    attempts: u32,
    /// Whether it is being matched, or will be placed again.
    pending: bool,
    pub(super) run: Option<RunId>,
    /// The last exchange that a member has ended.
    pub(super) reached: Option<u64>,
    /// What a member that ended the run well keeps.
    result: Option<Hash>,
    owner_has_it: bool,
    /// Whether its owner has given the run up, or lost all that it knew of it.
    given_up: bool,
    stopped: bool,
    failed: bool,
}

impl OrderState {
    pub(super) fn new(host: usize, spec: RunSpec) -> Self {
        Self {
            host,
            spec,
            attempts: 0,
            pending: true,
            run: None,
            reached: None,
            result: None,
            owner_has_it: false,
            given_up: false,
            stopped: false,
            failed: false,
        }
    }
}

impl World {
    pub(super) fn offer(&mut self, host: usize) {
        let listing = workload::listing(self.hosts[host].speed);
        self.deliver(host, Incoming::Input(Input::Command(Command::Offer(Box::new(listing)))));
        for other in self.network.neighbours(host).to_vec() {
            if self.hosts[other].state != State::Gone {
                let peer = self.hosts[other].peer;
                self.deliver(host, Incoming::Input(Input::PeerConnected { peer }));
            }
        }
    }

    /// A user asks (again) for a run.
    pub(super) fn place(&mut self, order: usize) {
        let state = &mut self.orders[order];
        let host = state.host;
        if self.hosts[host].state == State::Gone {
            return;
        }
        state.attempts += 1;
        let number = OrderId(order as u64 * u64::from(ATTEMPTS_MAX) + u64::from(state.attempts));
        let spec = Box::new(state.spec.clone());
        let wish = workload::wish(&self.setup);
        let command = Command::Order { order: number, spec, wish };
        self.deliver(host, Incoming::Input(Input::Command(command)));
    }

    /// A machine has stopped: the orders that its user had placed are forgotten.
    pub(super) fn orders_lost(&mut self, host: usize) {
        self.orders
            .iter_mut()
            .filter(|order| order.host == host && order.run.is_none())
            .for_each(|order| order.pending = false);
    }

    /// A user's machine is back: what had not become a run is ordered again.
    pub(super) fn orders_found_again(&mut self, host: usize) {
        for order in 0..self.orders.len() {
            if self.orders[order].host == host && self.orders[order].run.is_none() {
                self.again(order);
            }
        }
    }

    /// A machine has lost its disk: its user does not know of any run any more.
    pub(super) fn order_forgotten(&mut self, host: usize) {
        self.orders.iter_mut().filter(|order| order.host == host).for_each(|order| order.given_up = true);
    }

    // ---- what nodes tell ----

    pub(super) fn notified(&mut self, host: usize, event: Event) {
        let peer = self.hosts[host].peer;
        let local = self.hosts[host].clock.local(self.schedule.now());
        match event {
            Event::Refused { why } => self.checkers.violation(format!("{peer:?} refused an honest message: {why}")),
            Event::ReservationAnswered { order, peer: machine, answer }
                if machine == peer && answer == Answer::Accepted =>
            {
                // An order asks for two thirds of the longest hold.
                let until = local + Duration(RESERVATION_MAX.0 / 3 * 2);
                let spec = self.orders[order_index(order)].spec.hash();
                let judgement = self.checkers.promises.accepted(machine, peer, spec, until, local);
                self.checkers.judge(judgement);
            }
            Event::OrderMatched { order, run } => {
                let state = &mut self.orders[order_index(order)];
                (state.run, state.reached, state.pending) = (Some(run), None, false);
            }
            Event::RunNotBegun { run, .. } => {
                if let Some(order) = self.order_of(run) {
                    self.again(order);
                }
            }
            Event::OrderFailed { order, .. } => {
                self.summary.orders_failed += 1;
                let order = order_index(order);
                let spec = self.orders[order].spec.hash();
                self.checkers.promises.released(peer, peer, spec);
                self.again(order);
            }
            Event::ExchangeDone { run, exchange, view, contributors, ledger } => {
                self.exchange_done(host, run, (exchange, view), contributors, ledger);
            }
            Event::ViewChanged { run, view } => {
                let judgement = self.checkers.agreement.installed(peer, run, &view);
                self.checkers.judge(judgement);
                self.checkers.lineage.view_changed(run, &view);
                if let Some(part) = self.hosts[host].training_mut(run) {
                    part.view_changed(&view);
                }
            }
            Event::RunPaused { .. } => self.summary.pauses += 1,
            Event::RoundDone { run, reports } => {
                let members: Vec<_> = reports.iter().map(|(peer, report)| (*peer, report.parameter_hash)).collect();
                let judgement = self.checkers.lineage.round_done(run, &members);
                self.checkers.judge(judgement);
                self.summary.rounds_done += 1;
            }
            Event::Admitted { .. } | Event::Revoked(_) | Event::Dismissed => {
                self.checkers.violation(format!("{peer:?} speaks of permissions in an open swarm: {event:?}"));
            }
            Event::LedgerFounded { .. }
            | Event::LedgerJoined { .. }
            | Event::LedgersDiffer { .. }
            | Event::RecoveryOffered { .. }
            | Event::LedgerRecovered { .. }
            | Event::LedgerUnreadable { .. }
            | Event::BlockFinal { .. } => {
                self.checkers.violation(format!("{peer:?} was asked for no ledger and speaks of one: {event:?}"));
            }
            Event::ListingHeard { .. }
            | Event::LeftOut { .. }
            | Event::DemandHeard { .. }
            | Event::MemberReady { .. }
            | Event::ReservationAnswered { .. } => {}
        }
    }

    fn exchange_done(
        &mut self,
        host: usize,
        run: RunId,
        (exchange, view): (u64, u32),
        contributors: Vec<PeerId>,
        ledger: Ledger,
    ) {
        let peer = self.hosts[host].peer;
        let judgement = self.checkers.lineage.exchange_done(run, peer, (exchange, view), contributors, ledger);
        self.checkers.judge(judgement);
        self.forge_if_due(host, run, exchange);
        let now = self.schedule.now();
        let Some(order) = self.order_of(run) else { return };
        if self.orders[order].reached.is_none_or(|reached| reached < exchange) {
            self.orders[order].reached = Some(exchange);
        }
        let over = |(_, _, from): &(usize, _, u64)| exchange >= *from;
        for (index, since, _) in self.unrecovered.iter().filter(|fault| over(fault)) {
            let kind = self.setup.faults[*index].kind;
            self.summary.recoveries.push(Recovery { kind, ms: now.since(*since).as_ms() });
        }
        self.unrecovered.retain(|fault| !over(fault));
        self.exchange_reached(exchange);
    }

    fn order_of(&self, run: RunId) -> Option<usize> {
        self.orders.iter().position(|order| order.run == Some(run))
    }

    // ---- ends of runs ----

    /// A member has saved the model; whether another knows already that the run is over.
    pub(super) fn run_finished(&mut self, run: RunId, root: Hash, known: bool) {
        let Some(order) = self.order_of(run) else { return };
        match self.orders[order].result.replace(root) {
            None => {
                self.summary.runs_finished += 1;
                self.summary.parameter_hashes.push(root.to_string());
            }
            Some(before) if before != root && known => {
                self.checkers.violation(format!("{run:?} has two results, {before:?} and {root:?}"));
            }
            Some(before) => self.summary.runs_repeated += usize::from(before != root),
        }
    }

    pub(super) fn close(&mut self, host: usize, run: RunId, failure: Option<RunFailure>) {
        let peer = self.hosts[host].peer;
        let judgement = self.checkers.promises.closed(peer, run);
        self.checkers.judge(judgement);
        self.hosts[host].training = None;
        let Some(order) = self.order_of(run) else { return };
        let owner = host == self.orders[order].host;
        let Some(failure) = failure else {
            self.orders[order].owner_has_it |= owner;
            return;
        };
        self.orders[order].given_up |= owner;
        let excused = match failure.reason {
            AbortReason::Stopped => self.orders[order].stopped || self.hit.contains(&host),
            AbortReason::MemberLost | AbortReason::NotReady | AbortReason::Stalled | AbortReason::CannotCompute => {
                !self.setup.is_calm()
            }
            AbortReason::ParametersDiffer
            | AbortReason::BadGradient
            | AbortReason::NoMajority
            | AbortReason::NotAllowed => false,
        };
        if self.setup.broken.is_none() && !excused {
            self.checkers.violation(format!("{peer:?} ended an honest run: {failure:?}"));
        }
        self.summary.failures.push(Failure {
            on: peer.to_string(),
            reason: format!("{:?}", failure.reason),
            culprit: failure.culprit.to_string(),
            reported_by: failure.reported_by.to_string(),
        });
        let others_go_on = self.hosts.iter().any(|host| host.training_of(run).is_some());
        if owner && !others_go_on && self.orders[order].result.is_none() && !self.orders[order].stopped {
            self.orders[order].failed = true;
            self.again(order);
        }
    }

    /// A user has a member leave: if it is the owner, the run is over for all.
    pub(super) fn stopped_by_owner(&mut self, host: usize, run: RunId) {
        let owner = self.is_owner(host, run);
        if let Some(order) = self.order_of(run) {
            self.orders[order].stopped |= owner;
        }
    }

    /// The owner of a run that ended while it was away fetches the model.
    pub(super) fn fetch_result(&mut self, host: usize, run: RunId, root: Hash, from: PeerId) {
        let (life, Some(&donor)) = (self.hosts[host].life, self.index.get(&from)) else { return };
        self.after(RESULT_RETRY, Happening::ResultArrives { host, life, run, root, donor, attempts: 0 });
    }

    pub(super) fn result_arrives(
        &mut self,
        host: usize,
        life: u32,
        run: RunId,
        root: Hash,
        donor: usize,
        attempts: u32,
    ) {
        if self.hosts[host].life != life {
            return;
        }
        if self.reaches(host, donor) {
            if self.hosts[donor].disk.result(run) != Some(root) {
                return self.checkers.violation(format!("the result of {run:?} is not where it was said to be"));
            }
            self.summary.results_fetched += 1;
            let done = Done::Saved { root, kept: true };
            self.deliver(host, Incoming::Input(Input::Trainer { run, done }));
        } else if attempts < RESULT_ATTEMPTS_MAX {
            let again = Happening::ResultArrives { host, life, run, root, donor, attempts: attempts + 1 };
            self.after(RESULT_RETRY, again);
        } else {
            self.deliver(host, Incoming::Input(Input::Trainer { run, done: Done::ResultNotFetched }));
        }
    }

    /// An attempt failed: try again where links or faults may be blamed, or users compete.
    fn again(&mut self, order: usize) {
        let there = (0..self.hosts.len()).filter(|host| self.lives(*host)).count();
        let hope = self.setup.broken.is_none() && there >= usize::from(self.setup.members);
        let state = &mut self.orders[order];
        state.pending = hope && state.attempts < ATTEMPTS_MAX;
        if state.pending {
            (state.run, state.given_up) = (None, false);
            let pause = Duration::from_ms(1_000 + 700 * order as u64);
            self.after(pause, Happening::Order { order });
        }
    }

    // ---- the end ----

    /// Looks whether all is over, or has lasted too long.
    pub(super) fn look(&mut self) {
        self.after(LOOK_INTERVAL, Happening::Look);
        if self.over_at.is_some() {
            return;
        }
        let now = self.schedule.now();
        let quiet_since = self.last_fault.max(EPOCH);
        let exchanges = u64::from(self.setup.rounds) * u64::from(self.setup.steps_per_round);
        let limit = quiet_since + PATIENCE + PATIENCE_PER_EXCHANGE.times(exchanges);
        let going = |host: usize| self.hosts[host].training.is_some() && self.lives(host);
        let resuming = self.returning.iter().any(|host| !self.hosts[*host].disk.records(false).is_empty());
        let working = (0..self.hosts.len()).any(going) || resuming;
        let waiting = self.orders.iter().any(|order| {
            let owner_waits =
                order.result.is_some() && !order.owner_has_it && self.hosts[order.host].state == State::Up;
            let returns = order.run.is_none() && self.returning.contains(&order.host);
            returns
                || (order.pending && self.lives(order.host))
                || (owner_waits && now < limit && self.can_learn(order))
        });
        if !working && !waiting {
            self.over_at = Some(now + AFTERWARDS);
        } else if !waiting && self.returning.is_empty() && now > quiet_since + PAUSE_WATCHED && self.all_stuck() {
            self.over_at = Some(now);
        } else if now > limit {
            self.judge_progress();
            self.over_at = Some(now);
        }
    }

    /// Whether a host takes part, or will again.
    fn lives(&self, host: usize) -> bool {
        self.hosts[host].state == State::Up || self.returning.contains(&host)
    }

    /// Whether the owner can still hear of its result: it knows the run, and somebody has it.
    fn can_learn(&self, order: &OrderState) -> bool {
        let Some(run) = order.run else { return false };
        self.hosts[order.host].training_of(run).is_some()
    }

    /// Whether every run that goes on cannot, for good.
    fn all_stuck(&self) -> bool {
        let runs = self.orders.iter().filter(|order| order.result.is_none()).filter_map(|order| order.run);
        let mut going = runs.filter(|run| self.hosts.iter().any(|host| host.training_of(*run).is_some())).peekable();
        going.peek().is_some() && going.all(|run| !self.can_go_on(run))
    }

    /// Whether enough of a run's latest members live to decide on the next view.
    fn can_go_on(&self, run: RunId) -> bool {
        let Some(view) = self.checkers.agreement.latest(run) else { return true };
        let now = self.schedule.now();
        if self.cuts.iter().any(|cut| cut.ends.is_none_or(|ends| ends > now)) {
            return false;
        }
        // Who has left says so again as long as it is there.
        let gone = |peer: &PeerId| {
            let there = self.index.get(peer).is_some_and(|host| self.hosts[*host].state == State::Up);
            there && self.checkers.agreement.has_left_its_vote(run, view, peer)
        };
        let there = |peer: &PeerId| {
            let host = self.index.get(peer).map(|host| (*host, &self.hosts[*host]));
            host.is_some_and(|(index, host)| self.lives(index) && host.training_of(run).is_some())
        };
        let full = view.full().count();
        let left = view.full().filter(|member| there(&member.contact.peer)).count();
        view.is_quorum(|peer| there(peer) || gone(peer)) && (left > 1 || full == 1 || (left == 1 && self.setup.solo))
    }

    /// Faults have stopped long ago: whoever could go on must have.
    fn judge_progress(&mut self) {
        for host in 0..self.hosts.len() {
            let Some(run) = self.hosts[host].training.as_ref().map(|part| part.start().run) else { continue };
            let ended = self.order_of(run).is_some_and(|order| self.orders[order].result.is_some());
            if self.hosts[host].state == State::Up && (self.can_go_on(run) || self.hears_of_end(host, run, ended)) {
                let peer = self.hosts[host].peer;
                self.checkers.violation(format!("{peer:?} is still in {run:?}, long after the last fault"));
            }
        }
    }

    /// Whether a member that missed the end of its run could have heard of it.
    fn hears_of_end(&self, host: usize, run: RunId, ended: bool) -> bool {
        ended && self.keeper_within_reach(host, run)
    }

    /// Whether this machine reaches one that keeps the result of a run.
    fn keeper_within_reach(&self, host: usize, run: RunId) -> bool {
        let keeps =
            |other: usize| self.hosts[other].disk.has_ended(run) && self.hosts[other].disk.result(run).is_some();
        (0..self.hosts.len()).any(|other| other != host && keeps(other) && self.reaches(host, other))
    }

    pub(super) fn conclude(&mut self) {
        if self.over_at.is_some() && self.checkers.violations().is_empty() {
            self.judge_ends();
        }
        for order in &self.orders {
            let Some(run) = order.run else { continue };
            let (batches, exchanges) = self.checkers.lineage.totals(run);
            self.summary.batches_total += batches;
            self.summary.exchanges += exchanges;
            self.summary.views += self.checkers.agreement.views(run) as u64;
            self.summary.runs_paused += usize::from(order.result.is_none() && !order.stopped && !order.failed);
            self.summary.runs_stopped += usize::from(order.stopped);
        }
        self.summary.violations = self.checkers.violations().to_vec();
        self.summary.ok =
            self.summary.violations.is_empty() && (self.setup.broken.is_none() || self.summary.runs_finished > 0);
    }

    /// What must hold when all is over.
    fn judge_ends(&mut self) {
        for host in 0..self.hosts.len() {
            let machine = &self.hosts[host];
            let ordering = self.orders.iter().any(|order| order.pending);
            if machine.state != State::Up || machine.training.is_some() || ordering {
                continue;
            }
            let busy =
                machine.node.listings().find(|(peer, _)| **peer == machine.peer).is_some_and(|(_, own)| own.busy);
            if busy {
                self.checkers.violation(format!("{:?} is still not free long after the last run", machine.peer));
            } else if !machine.chunks.is_empty() {
                self.checkers.violation(format!("{:?} never judged {} chunks", machine.peer, machine.chunks.len()));
            }
        }
        for order in &self.orders {
            let Some(run) = order.run.filter(|_| order.result.is_some() && !order.owner_has_it) else { continue };
            let wants = self.hosts[order.host].state == State::Up && !order.given_up && !order.stopped;
            if wants && self.keeper_within_reach(order.host, run) {
                let owner = self.hosts[order.host].peer;
                return self
                    .checkers
                    .violation(format!("{owner:?} has not got the result of {run:?}, though it is kept"));
            }
        }
        let calm = self.setup.is_calm();
        for order in 0..self.orders.len() {
            let state = &self.orders[order];
            let done = state.result.is_some() && state.owner_has_it;
            let excused = !calm && (state.result.is_some() || self.may_be_unfinished(state));
            if !done && !excused && self.setup.broken.is_none() {
                self.checkers.violation(format!("order {order} came to nothing after {} attempts", state.attempts));
            }
        }
    }

    /// Whether a user has to do without a result: its machine is gone, its run
    /// was stopped, its members cannot go on, or there are too few machines.
    fn may_be_unfinished(&self, order: &OrderState) -> bool {
        let up = (0..self.hosts.len()).filter(|host| self.hosts[*host].state == State::Up).count();
        self.hosts[order.host].state != State::Up
            || order.stopped
            || order.run.is_some_and(|run| !self.can_go_on(run))
            || up < usize::from(self.setup.members)
            || (order.failed && order.attempts >= ATTEMPTS_MAX)
    }
}

fn order_index(order: OrderId) -> usize {
    ((order.0 - 1) / u64::from(ATTEMPTS_MAX)) as usize
}
