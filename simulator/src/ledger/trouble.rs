//! Faults as they come and go.

use super::machine::Incoming;
use super::options::{Break, Recovery};
use super::world::{Happening, World};
use crate::clock::{EPOCH, elapsed};
use crate::faults::{Cut, Fault, Kind, When};
use crate::host::State;
use manta_protocol::consensus;
use manta_protocol::{Command, Duration, Input};

/// A silent connection is given up on by both sides after this, at the earliest.
const IDLE_MS: [u64; 2] = [10_000, 30_000];

impl World {
    pub(super) fn plan_faults(&mut self) {
        for (index, fault) in self.setup.faults.iter().enumerate() {
            if let When::AtMs(ms) = fault.when {
                self.schedule.at(EPOCH + Duration::from_ms(ms), Happening::Fault { index });
            }
        }
        for (index, recovery) in self.setup.recoveries.iter().enumerate() {
            self.schedule.at(EPOCH + Duration::from_ms(recovery.at_ms), Happening::Recover { index });
        }
    }

    /// People replace the committee: all new members sign, and some owners say that they follow.
    pub(super) fn recover(&mut self, index: usize) {
        let Recovery { members, accept, .. } = self.setup.recoveries[index].clone();
        self.pending -= 1;
        let peers: Vec<_> = members.iter().map(|member| self.machines[*member].peer).collect();
        let plan = self.machines[members[0]].node.ledger().map(|state| state.recovery_plan(&peers));
        let Some(Ok(plan)) = plan else {
            return self.checks.violation(format!("no recovery by the machines {members:?}: {plan:?}"));
        };
        let consents = members.iter().map(|member| plan.consent(&self.machines[*member].identity)).collect();
        let recovery = consensus::Recovery::new(plan, consents);
        for machine in accept {
            let command = Command::Recover(Box::new(recovery.clone()));
            self.deliver(machine, Incoming::Input(Input::Command(command)));
        }
        self.disturbed();
    }

    pub(super) fn fault_begins(&mut self, index: usize) {
        let fault = self.setup.faults[index].clone();
        let victims = self.victims(&fault);
        let now = self.schedule.now();
        self.trace.line(|| format!("{} fault {:?} of {victims:?}", elapsed(now).0, fault.kind));
        self.pending -= 1;
        self.summary.faults += 1;
        match fault.kind {
            Kind::Kill | Kind::LoseDisk | Kind::PowerCut => {
                victims.iter().for_each(|machine| self.kill(*machine, &fault));
            }
            Kind::Freeze => victims.iter().for_each(|machine| self.freeze(*machine, fault.lasts_ms)),
            Kind::Partition | Kind::OneWay | Kind::Link => self.cut(&fault, &victims),
            Kind::KillOwner | Kind::Join | Kind::Leave | Kind::Stop => {}
        }
        self.disturbed();
    }

    /// Whom a fault hits: those named, or drawn.
    fn victims(&mut self, fault: &Fault) -> Vec<usize> {
        if !fault.hosts.is_empty() {
            return fault.hosts.clone();
        }
        let all: Vec<usize> = (0..self.machines.len()).collect();
        let count = match fault.kind {
            Kind::PowerCut => all.len(),
            Kind::Link => 2,
            Kind::Partition | Kind::OneWay => self.draws.between(1, (all.len() as u64 / 2).max(1)) as usize,
            _ => 1,
        };
        let mut left = all;
        let mut drawn = Vec::new();
        while drawn.len() < count && !left.is_empty() {
            let index = self.draws.up_to(left.len() as u64 - 1) as usize;
            drawn.push(left.swap_remove(index));
        }
        drawn
    }

    // ---- machines ----

    fn kill(&mut self, machine: usize, fault: &Fault) {
        if self.machines[machine].state == State::Gone {
            return;
        }
        self.machines[machine].stop();
        self.checks.stopped(machine);
        if fault.kind == Kind::LoseDisk {
            let peer = self.machines[machine].peer;
            self.machines[machine].disk.lose();
            self.checks.forgot(machine, &peer);
        }
        let peer = self.machines[machine].peer;
        for other in (0..self.machines.len()).filter(|other| *other != machine) {
            if !self.silenced(machine, other) {
                let at = self.network.arrival(machine, other, self.schedule.now());
                self.tell(other, at, Input::PeerDisconnected { peer });
            }
        }
        if let Some(ms) = fault.lasts_ms {
            self.pending += usize::from(self.returning.insert(machine));
            self.after(Duration::from_ms(ms), Happening::Restart { machine });
        }
    }

    pub(super) fn restart(&mut self, machine: usize) {
        if !self.returning.remove(&machine) {
            return;
        }
        self.pending -= 1;
        let now = self.schedule.now();
        self.summary.restarts += 1;
        self.machines[machine].start(now);
        let durable = self.machines[machine].disk.height();
        if self.setup.broken == Some(Break::LoseBlocks) && machine == 1 {
            self.machines[machine].disk.lose_blocks();
        }
        let forgetful = self.setup.broken == Some(Break::ForgetLogs) && machine > 0;
        self.keep_ledger(machine, forgetful);
        if self.machines[machine].height() < durable {
            let height = self.machines[machine].height();
            self.checks.violation(format!("machine {machine} has {durable} blocks and starts at height {height}"));
        }
        self.connect(machine);
        self.disturbed();
    }

    /// Connections are made again with whoever can be reached.
    fn connect(&mut self, machine: usize) {
        for other in 0..self.machines.len() {
            if self.machines[other].peer != self.machines[machine].peer
                && self.machines[other].state != State::Gone
                && !self.silenced(machine, other)
                && !self.silenced(other, machine)
            {
                self.tell_connected(machine, other);
            }
        }
    }

    fn tell_connected(&mut self, a: usize, b: usize) {
        let at = self.network.arrival(a, b, self.schedule.now());
        let (a_peer, b_peer) = (self.machines[a].peer, self.machines[b].peer);
        self.tell(b, at, Input::PeerConnected { peer: a_peer });
        self.tell(a, at, Input::PeerConnected { peer: b_peer });
    }

    fn freeze(&mut self, machine: usize, lasts_ms: Option<u64>) {
        if self.machines[machine].state != State::Up {
            return;
        }
        self.machines[machine].state = State::Frozen;
        if let Some(ms) = lasts_ms {
            self.pending += 1;
            self.after(Duration::from_ms(ms), Happening::Thaw { machine });
        }
    }

    pub(super) fn thaw(&mut self, machine: usize) {
        self.pending -= 1;
        if self.machines[machine].state == State::Frozen {
            self.machines[machine].state = State::Up;
            self.resume(machine);
            self.connect(machine);
        }
        self.disturbed();
    }

    // ---- cuts ----

    fn cut(&mut self, fault: &Fault, victims: &[usize]) {
        let now = self.schedule.now();
        let cut = Cut::new(fault.kind, victims, self.machines.len(), now, fault.lasts_ms);
        let index = self.cuts.len();
        if let Some(ends) = cut.ends {
            self.pending += 1;
            self.schedule.at(ends, Happening::CutEnds { index });
        }
        let idle_ms = if fault.noticed { 0 } else { self.draws.between(IDLE_MS[0], IDLE_MS[1]) };
        let lasts = cut.ends.is_none_or(|ends| now + Duration::from_ms(idle_ms) < ends);
        for (a, b) in self.divided(&cut).into_iter().filter(|_| lasts) {
            for (a, b) in [(a, b), (b, a)] {
                let at = self.network.arrival(a, b, now + Duration::from_ms(idle_ms));
                self.tell(b, at, Input::PeerDisconnected { peer: self.machines[a].peer });
            }
        }
        self.cuts.push(cut);
    }

    fn divided(&self, cut: &Cut) -> Vec<(usize, usize)> {
        let all = 0..self.machines.len();
        all.clone().flat_map(|a| (a + 1..all.end).map(move |b| (a, b))).filter(|(a, b)| cut.divides(*a, *b)).collect()
    }

    pub(super) fn cut_ends(&mut self, index: usize) {
        self.pending -= 1;
        for (a, b) in self.divided(&self.cuts[index].clone()) {
            if self.machines[a].state != State::Gone && self.machines[b].state != State::Gone {
                self.tell_connected(a, b);
            }
        }
        self.disturbed();
    }
}
