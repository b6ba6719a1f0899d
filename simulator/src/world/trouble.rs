//! Faults as they come and go.

use super::{Happening, World};
use crate::clock::EPOCH;
use crate::faults::{Cut, Fault, Kind, When};
use crate::host::{Incoming, State};
use crate::tamper::Break;
use manta_protocol::run::report::AbortReason;
use manta_protocol::{Command, Duration, Input, RunId};

/// A silent connection is given up on by both sides after this, at the earliest.
const IDLE_MS: [u64; 2] = [10_000, 30_000];

impl World {
    /// Puts every fault where its time is: on the clock, or at an exchange.
    pub(super) fn plan_faults(&mut self) {
        for index in 0..self.setup.faults.len() {
            match self.setup.faults[index].when {
                When::AtMs(ms) => self.schedule.at(EPOCH + Duration::from_ms(ms), Happening::Fault { index }),
                When::Exchange { .. } => {
                    self.waiting_faults.insert(index);
                }
            }
        }
    }

    /// A member is the first to have made the step of this exchange.
    pub(super) fn exchange_reached(&mut self, exchange: u64) {
        for index in self.waiting_faults.clone() {
            if let When::Exchange { exchange: at, after_ms } = self.setup.faults[index].when
                && at <= exchange
            {
                self.waiting_faults.remove(&index);
                self.after(Duration::from_ms(after_ms), Happening::Fault { index });
            }
        }
    }

    pub(super) fn fault_begins(&mut self, index: usize) {
        if self.over_at.is_some() {
            return;
        }
        let fault = self.setup.faults[index].clone();
        let victims = self.victims(index, &fault);
        let now = self.schedule.now();
        self.trace.line(|| format!("{} fault {:?} of {victims:?}", crate::clock::elapsed(now).0, fault.kind));
        self.last_fault = now;
        self.summary.faults += 1;
        let reached = self.orders.iter().filter_map(|order| order.reached).max();
        let hits_run = victims.iter().any(|host| self.hosts[*host].training.is_some());
        if hits_run && matches!(fault.kind, Kind::Kill | Kind::LoseDisk | Kind::KillOwner | Kind::Freeze) {
            self.unrecovered.push((index, now, reached.map_or(0, |exchange| exchange + 1)));
        }
        match fault.kind {
            Kind::Kill | Kind::LoseDisk | Kind::KillOwner | Kind::PowerCut => {
                victims.iter().for_each(|host| self.kill(*host, &fault));
            }
            Kind::Freeze => victims.iter().for_each(|host| self.freeze(*host, fault.lasts_ms)),
            Kind::Partition | Kind::OneWay | Kind::Link => self.cut(&fault, &victims),
            Kind::Join => victims.iter().for_each(|host| self.arrive(*host)),
            Kind::Leave | Kind::Stop => victims.iter().for_each(|host| self.leave(*host)),
        }
    }

    /// Whom a fault hits: those named, or drawn among the members of a run.
    fn victims(&mut self, index: usize, fault: &Fault) -> Vec<usize> {
        if !fault.hosts.is_empty() {
            return fault.hosts.clone();
        }
        let all: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].state != State::Gone).collect();
        let owner = self.orders.first().map_or(0, |order| order.host);
        let members: Vec<usize> = all.iter().copied().filter(|host| self.hosts[*host].training.is_some()).collect();
        let among = if members.is_empty() { &all } else { &members };
        match fault.kind {
            Kind::PowerCut => all,
            Kind::KillOwner | Kind::Stop => vec![owner],
            Kind::Join => {
                let joins = |fault: &Fault| fault.kind == Kind::Join && fault.hosts.is_empty();
                let before = self.setup.faults[..index].iter().filter(|fault| joins(fault)).count();
                vec![self.setup.peers + before]
            }
            Kind::Leave => self.some_of(among, 1, Some(owner)),
            Kind::Kill | Kind::LoseDisk | Kind::Freeze => self.some_of(among, 1, None),
            Kind::Link => self.some_of(among, 2, None),
            Kind::Partition | Kind::OneWay => {
                let size = self.draws.between(1, (among.len() as u64 / 2).max(1));
                self.some_of(among, size as usize, None)
            }
        }
    }

    fn some_of(&mut self, among: &[usize], count: usize, not: Option<usize>) -> Vec<usize> {
        let mut left: Vec<usize> = among.iter().copied().filter(|host| Some(*host) != not).collect();
        let mut drawn = Vec::new();
        while drawn.len() < count && !left.is_empty() {
            let index = self.draws.up_to(left.len() as u64 - 1) as usize;
            drawn.push(left.swap_remove(index));
        }
        drawn
    }

    // ---- machines ----

    pub(super) fn kill(&mut self, host: usize, fault: &Fault) {
        if self.hosts[host].state == State::Gone {
            return;
        }
        self.vanish(host);
        if fault.kind == Kind::LoseDisk {
            self.hosts[host].disk.lose();
            self.checkers.agreement.forgot(self.hosts[host].peer);
            self.checkers.lineage.forgot(self.hosts[host].peer);
            self.order_forgotten(host);
        }
        if let Some(ms) = fault.lasts_ms {
            self.returning.insert(host);
            self.after(Duration::from_ms(ms), Happening::Restart { host });
        }
    }

    /// The machine is gone; who was connected learns of it.
    pub(super) fn vanish(&mut self, host: usize) {
        self.summary.peers_lost += u64::from(self.hosts[host].training.is_some());
        self.hit.insert(host);
        self.hosts[host].stop();
        let peer = self.hosts[host].peer;
        self.checkers.promises.stopped(peer);
        self.checkers.lineage.stopped(peer);
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            if !self.silenced(host, other) {
                let at = self.network.arrival(host, other, self.schedule.now());
                self.tell(other, at, Input::PeerDisconnected { peer });
            }
        }
        self.orders_lost(host);
    }

    pub(super) fn restart(&mut self, host: usize) {
        if !self.returning.remove(&host) || self.hosts[host].state != State::Gone {
            return;
        }
        let now = self.schedule.now();
        self.last_fault = now;
        self.summary.restarts += 1;
        self.hosts[host].start(now);
        let forgetful = self.forgets_journal(host);
        for (run, record) in self.hosts[host].disk.records(forgetful) {
            if self.hosts[host].disk.has_ended(run) {
                self.checkers.lineage.remembers(run, self.hosts[host].peer);
                if self.setup.broken == Some(Break::ForgetEnds) {
                    continue;
                }
            }
            self.deliver(host, Incoming::Input(Input::Command(Command::Resume { record })));
        }
        self.connect(host);
        self.offer(host);
        self.orders_found_again(host);
    }

    /// A machine that was not there offers itself.
    fn arrive(&mut self, host: usize) {
        if self.hosts[host].state == State::Gone && !self.returning.contains(&host) {
            self.hosts[host].start(self.schedule.now());
            self.offer(host);
            self.connect(host);
        }
    }

    /// Connections are made again with whoever can be reached.
    fn connect(&mut self, host: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            if self.hosts[other].state != State::Gone && !self.silenced(host, other) && !self.silenced(other, host) {
                self.tell_connected(host, other);
            }
        }
    }

    fn tell_connected(&mut self, a: usize, b: usize) {
        let at = self.network.arrival(a, b, self.schedule.now());
        let (a_peer, b_peer) = (self.hosts[a].peer, self.hosts[b].peer);
        self.tell(b, at, Input::PeerConnected { peer: a_peer });
        self.tell(a, at, Input::PeerConnected { peer: b_peer });
    }

    pub(super) fn freeze(&mut self, host: usize, lasts_ms: Option<u64>) {
        if self.hosts[host].state != State::Up {
            return;
        }
        self.hosts[host].state = State::Frozen;
        self.hit.insert(host);
        if let Some(ms) = lasts_ms {
            self.returning.insert(host);
            self.after(Duration::from_ms(ms), Happening::Thaw { host });
        }
        let idle_ms = self.draws.between(IDLE_MS[0], IDLE_MS[1]);
        if lasts_ms.is_none_or(|ms| ms > idle_ms) {
            let peer = self.hosts[host].peer;
            let at = self.schedule.now() + Duration::from_ms(idle_ms);
            for other in (0..self.hosts.len()).filter(|other| *other != host) {
                self.tell(other, at, Input::PeerDisconnected { peer });
                self.tell(host, at, Input::PeerDisconnected { peer: self.hosts[other].peer });
            }
        }
    }

    pub(super) fn thaw(&mut self, host: usize) {
        self.returning.remove(&host);
        if self.hosts[host].state == State::Frozen {
            self.last_fault = self.schedule.now();
            self.hosts[host].state = State::Up;
            self.resume(host);
            self.connect(host);
        }
    }

    fn leave(&mut self, host: usize) {
        self.hit.insert(host);
        let Some(run) = self.hosts[host].training.as_ref().map(|part| part.start().run) else { return };
        self.stopped_by_owner(host, run);
        let stop = Command::StopRun { run, reason: AbortReason::Stopped };
        self.deliver(host, Incoming::Input(Input::Command(stop)));
    }

    /// Whether `run` is one of which `host` is the owner.
    pub(super) fn is_owner(&self, host: usize, run: RunId) -> bool {
        self.orders.iter().any(|order| order.run == Some(run) && order.host == host)
    }

    // ---- cuts ----

    fn cut(&mut self, fault: &Fault, victims: &[usize]) {
        let now = self.schedule.now();
        let cut = Cut::new(fault.kind, victims, self.hosts.len(), now, fault.lasts_ms);
        self.hit.extend(victims);
        let index = self.cuts.len();
        if let Some(ends) = cut.ends {
            self.schedule.at(ends, Happening::CutEnds { index });
        }
        let idle_ms = if fault.noticed { 0 } else { self.draws.between(IDLE_MS[0], IDLE_MS[1]) };
        let lasts = cut.ends.is_none_or(|ends| now + Duration::from_ms(idle_ms) < ends);
        for (a, b) in self.divided(&cut).into_iter().filter(|_| lasts) {
            for (a, b) in [(a, b), (b, a)] {
                let at = self.network.arrival(a, b, now + Duration::from_ms(idle_ms));
                self.tell(b, at, Input::PeerDisconnected { peer: self.hosts[a].peer });
            }
        }
        self.cuts.push(cut);
    }

    fn divided(&self, cut: &Cut) -> Vec<(usize, usize)> {
        let all = 0..self.hosts.len();
        all.clone().flat_map(|a| (a + 1..all.end).map(move |b| (a, b))).filter(|(a, b)| cut.divides(*a, *b)).collect()
    }

    pub(super) fn cut_ends(&mut self, index: usize) {
        self.last_fault = self.schedule.now();
        for (a, b) in self.divided(&self.cuts[index].clone()) {
            if self.hosts[a].state != State::Gone && self.hosts[b].state != State::Gone {
                self.tell_connected(a, b);
            }
        }
    }
}
