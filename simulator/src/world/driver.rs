//! A machine's driver: one input at a time, then all its effects, then the next.
//! A journal record is made durable before any later effect is carried out.

use super::{Happening, World};
use crate::clock::elapsed;
use crate::host::{INBOX_MAX, Incoming, State, Work};
use crate::report::{describe_effect, describe_input};
use manta_protocol::{Duration, Effect, Hash, Input, RunId};
use std::sync::Arc;

/// Effects of one input.
const EFFECTS_MAX: usize = 8_192;

impl World {
    /// Something comes to a machine: now, or once its driver takes it.
    pub(super) fn deliver(&mut self, host: usize, incoming: Incoming) {
        if self.hosts[host].state == State::Gone {
            return;
        }
        if self.hosts[host].is_ready() && self.hosts[host].inbox.is_empty() {
            return self.process(host, incoming);
        }
        let inbox = &mut self.hosts[host].inbox;
        // What does not fit is lost, as in a socket's buffer.
        if inbox.len() < INBOX_MAX {
            inbox.push_back(incoming);
        }
    }

    /// What waits is taken in, until there is nothing or the driver has to wait.
    pub(super) fn pump(&mut self, host: usize) {
        while self.hosts[host].is_ready() {
            let Some(incoming) = self.hosts[host].inbox.pop_front() else { break };
            self.process(host, incoming);
        }
    }

    fn process(&mut self, host: usize, incoming: Incoming) {
        match incoming {
            Incoming::Input(input) => self.input(host, input),
            Incoming::Gossip { from, id, bytes } => self.gossip_taken(host, from, id, bytes),
            Incoming::Frame(parcel) => self.frame_taken(*parcel),
            Incoming::Chunk(parcel) => self.chunk_taken(parcel),
            Incoming::Trained { run, work } => self.trained(host, run, *work),
        }
    }

    /// Hands an input to a node and does what it asks for.
    pub(super) fn input(&mut self, host: usize, input: Input) {
        if self.hosts[host].state != State::Up {
            return;
        }
        let now = self.schedule.now();
        let local = self.hosts[host].clock.local(now);
        if !matches!(input, Input::Frame { .. }) {
            self.trace.line(|| format!("{} {host} < {}", elapsed(now).0, describe_input(&input)));
        }
        self.hosts[host].node.handle(input, local);
        let due = self.hosts[host].node.poll_timeout();
        if due <= local {
            let overdue = local.since(due).as_ms();
            self.checkers.violation(format!("{:?} asks to be woken {overdue} ms ago", self.hosts[host].peer));
        }
        self.drain(host);
    }

    /// Carries out what the node asks for, until it is done or the disk is waited for.
    fn drain(&mut self, host: usize) {
        let now = self.schedule.now();
        let mut effects = 0;
        while self.hosts[host].is_ready() {
            let Some(effect) = self.hosts[host].node.poll_effect() else { break };
            effects += 1;
            if !matches!(effect, Effect::SendFrame { .. }) {
                self.trace.line(|| format!("{} {host} > {}", elapsed(now).0, describe_effect(&effect)));
            }
            self.perform(host, effect);
        }
        self.checkers.bound("effects of one input", effects, EFFECTS_MAX);
        if !self.hosts[host].is_ready() {
            return;
        }
        let due = self.hosts[host].node.poll_timeout();
        if self.hosts[host].wake != Some(due) {
            self.hosts[host].wake = Some(due);
            self.schedule.at(self.hosts[host].clock.true_time(due, now), Happening::Wake { host, due });
        }
    }

    fn perform(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Publish { bytes } => {
                let id = Hash::of(&bytes);
                self.hosts[host].first_sight(id);
                self.gossip(host, None, id, &Arc::new(bytes));
            }
            Effect::GossipVerdict { message, verdict } => self.gossip_judged(host, message, verdict),
            Effect::SendFrame { id, to, bytes } => self.send_frame(host, id, to, bytes),
            Effect::Misbehaviour { peer, what } => {
                let by = self.hosts[host].peer;
                self.checkers.violation(format!("{by:?} blames {peer:?}: {what}"));
            }
            Effect::Disconnect { peer, why } => {
                let by = self.hosts[host].peer;
                self.checkers.violation(format!("{by:?} shuts {peer:?} out of an open swarm: {why:?}"));
            }
            Effect::ChunkVerdict { transfer, keep } => self.chunk_judged(host, transfer, keep),
            Effect::SendChunk { run, to, view, exchange, phase, chunk } => {
                let name = crate::transport::ChunkName { run, view, exchange, phase, chunk };
                self.send_chunk(host, to, name);
            }
            Effect::Prepare(start) => self.prepare(host, start),
            Effect::Admit { run, contact } => {
                if let Some(training) = self.hosts[host].training_mut(run) {
                    training.admitted.insert(contact.peer);
                }
            }
            Effect::Dismiss { run, peer } => {
                if let Some(training) = self.hosts[host].training_mut(run) {
                    training.admitted.remove(&peer);
                }
            }
            Effect::Compute { run, exchange, plan, batches, .. } => {
                if let Some(training) = self.hosts[host].training_mut(run) {
                    training.begin_compute(exchange, plan);
                }
                self.plan(host, run, Work::Compute { exchange, plan, batches });
            }
            Effect::Reduce { run, exchange, view, chunk, contributors } => {
                self.begin_reduce(host, run, (exchange, view, chunk), contributors);
            }
            Effect::DropSums { run, exchange } => {
                if let Some(training) = self.hosts[host].training_mut(run) {
                    training.drop_sums(exchange);
                }
            }
            Effect::DropExchange { run, exchange } => {
                if let Some(training) = self.hosts[host].training_mut(run) {
                    training.drop_exchange(exchange);
                }
            }
            Effect::Apply { run, exchange, batches, .. } => self.begin_apply(host, run, exchange, batches),
            Effect::HashParameters { run, exchange } => self.plan(host, run, Work::Hash { exchange }),
            Effect::Snapshot { run, exchange } => self.plan(host, run, Work::Snapshot { exchange }),
            Effect::DropSnapshot { run } => {
                if let Some(training) = self.hosts[host].training_mut(run) {
                    training.drop_snapshot();
                }
            }
            Effect::FetchState { run, exchange, root, donors } => {
                self.fetch_state(host, run, (exchange, root), &donors);
            }
            Effect::Checkpoint { run, exchange } => self.plan(host, run, Work::Checkpoint { exchange }),
            Effect::Journal { run, record } => self.journal(host, run, record),
            Effect::Save { run, .. } => self.plan(host, run, Work::Save),
            Effect::FetchResult { run, root, from } => self.fetch_result(host, run, root, from),
            Effect::KeepResult { run, root, .. } => {
                if self.hosts[host].disk.result(run) != Some(root) {
                    let peer = self.hosts[host].peer;
                    self.checkers.violation(format!("{peer:?} is to keep a result of {run:?} that it has not got"));
                }
            }
            Effect::DropResult { run } => self.hosts[host].disk.drop_result(run),
            Effect::Close { run, failure } => self.close(host, run, failure),
            Effect::Notify(event) => self.notified(host, event),
            Effect::LedgerBegin { .. }
            | Effect::LedgerLog { .. }
            | Effect::LedgerBlock { .. }
            | Effect::LedgerRecovery { .. }
            | Effect::LedgerSnapshot { .. }
            | Effect::ReadBlocks { .. }
            | Effect::Drill { .. } => {
                let by = self.hosts[host].peer;
                self.checkers.violation(format!("{by:?} keeps no ledger, and asks for {effect:?}"));
            }
        }
    }

    /// Queues work on a host's trainer.
    pub(super) fn plan(&mut self, host: usize, run: RunId, work: Work) {
        let done = self.hosts[host].plan(&work, self.schedule.now());
        let life = self.hosts[host].life;
        self.schedule.at(done, Happening::Trained { host, life, run, work: Box::new(work) });
    }

    fn journal(&mut self, host: usize, run: RunId, record: Option<Vec<u8>>) {
        self.summary.journal_records += 1;
        let longest = self.setup.conditions.sync_us_max;
        let machine = &mut self.hosts[host];
        machine.disk.begin_record(run, record);
        if longest == 0 {
            return machine.disk.end_record(run);
        }
        machine.syncing = Some(run);
        let (life, takes) = (machine.life, Duration(machine.draws.between(longest / 4, longest) * 1_000));
        self.after(takes, Happening::Synced { host, life, run });
    }

    /// The disk is done, though the program may be stopped just now.
    pub(super) fn synced(&mut self, host: usize, life: u32, run: RunId) {
        if self.hosts[host].life != life {
            return;
        }
        self.hosts[host].disk.end_record(run);
        self.hosts[host].syncing = None;
        self.resume(host);
    }

    /// The driver goes on where it was stopped.
    pub(super) fn resume(&mut self, host: usize) {
        if self.hosts[host].is_ready() {
            self.drain(host);
            self.pump(host);
            let local = self.hosts[host].clock.local(self.schedule.now());
            if self.hosts[host].is_ready() && self.hosts[host].wake.is_some_and(|due| due <= local) {
                self.hosts[host].wake = None;
                self.input(host, Input::Tick);
            }
        }
    }
}
