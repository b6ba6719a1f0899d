//! Carries out a fault's plan, and sees that every run it cuts is over in time.

use super::{Happening, World};
use crate::faults::{END_WITHIN, Fault};
use crate::host::State;
use manta_protocol::effect::RunStart;
use manta_protocol::{PeerId, RunId};

impl World {
    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.cuts(a, b, self.schedule.now()))
    }

    pub(super) fn is_parted(&self, a: usize, b: usize) -> bool {
        self.is_cut(a, b) && self.plan.as_ref().is_some_and(|plan| plan.fault == Fault::Partition)
    }

    /// Whether a fault has come between the two at any time until now.
    pub(super) fn has_been_cut(&self, a: usize, b: usize) -> bool {
        self.plan.as_ref().is_some_and(|plan| self.schedule.now() >= plan.at && plan.divides(a, b))
    }

    pub(super) fn fault_begins(&mut self) {
        let Some(plan) = self.plan.clone() else { return };
        for host in 0..self.hosts.len() {
            if let Some(start) = self.hosts[host].training.as_ref().map(|training| training.start().clone()) {
                self.watch(host, &start);
            }
        }
        if let Some(victim) = plan.victim() {
            self.vanish(victim);
            if let Some(order) = self.orders.iter().position(|order| order.host == victim) {
                self.order_over(order);
            }
        } else if plan.noticed {
            self.each_divided(|host, peer| Happening::Disconnected { host, peer });
        }
    }

    pub(super) fn fault_ends(&mut self) {
        self.each_divided(|host, peer| Happening::Connected { host, peer });
    }

    /// Both of each divided pair learn of it, soon.
    fn each_divided(&mut self, what: impl Fn(usize, PeerId) -> Happening) {
        let Some(plan) = self.plan.clone() else { return };
        for host in 0..self.hosts.len() {
            for other in (0..self.hosts.len()).filter(|other| plan.divides(host, *other)) {
                let at = self.network.arrival(other, host, self.schedule.now());
                self.schedule.at(at, what(host, self.hosts[other].peer));
            }
        }
    }

    /// A run whose members were divided must be over in time on this host.
    pub(super) fn watch(&mut self, host: usize, start: &RunStart) {
        if self.is_cut_off(host, start) {
            self.schedule.at(self.schedule.now() + END_WITHIN, Happening::MustBeOver { host, run: start.run });
        }
    }

    fn is_cut_off(&self, host: usize, start: &RunStart) -> bool {
        start.members.iter().any(|member| self.index.get(&member.peer).is_some_and(|other| self.is_cut(host, *other)))
    }

    pub(super) fn must_be_over(&mut self, host: usize, run: RunId) {
        self.summary.runs_cut += 1;
        if self.hosts[host].state == State::Up && self.hosts[host].training_of(run).is_some() {
            let (peer, seconds) = (self.hosts[host].peer, END_WITHIN.as_ms() / 1_000);
            self.checkers.violation(format!("{peer:?} is still in {run:?}, {seconds} s after it was cut"));
        }
    }
}
