//! A machine's driver: one input at a time, then all its effects, then the next.
//! What has to be durable is synced before any later effect is carried out.

use super::disk::Write;
use super::machine::Incoming;
use super::options::Break;
use super::world::{Happening, World};
use crate::clock::elapsed;
use crate::host::{INBOX_MAX, State};
use crate::report::{describe_effect, describe_input};
use manta_protocol::ledger::{DrillClass, DrillResult};
use manta_protocol::wire::codec;
use manta_protocol::{Duration, Effect, Event, Hash, Input};

/// Effects of one input.
const EFFECTS_MAX: usize = 8_192;
/// A driller has no room for a unit that it does not owe, in a million.
const NO_ROOM_PER_MILLION: u64 = 20_000;
/// How long a unit takes, in milliseconds.
const UNIT_MS: [u64; 2] = [30, 700];

/// The digest of a unit: an honest stand-in for the exact product, which is as
/// much a function of task, class and challenge alone.
fn digest(task: &Hash, class: &DrillClass, challenge: Option<&Hash>) -> Hash {
    let class = codec::encode(class);
    let challenge = challenge.map_or(&[][..], |challenge| &challenge.as_bytes()[..]);
    Hash(blake3::derive_key("manta simulated drill v1", &[&task.as_bytes()[..], &class, challenge].concat()))
}

/// What an honest driller answers.
pub(crate) fn honest_result(task: &Hash, class: &DrillClass, challenge: Option<&Hash>) -> DrillResult {
    let check = challenge.map_or(Hash([0; 32]), |challenge| digest(task, class, Some(challenge)));
    DrillResult { digest: digest(task, class, None), check }
}

impl World {
    /// Something comes to a machine: now, or once its driver takes it.
    pub(super) fn deliver(&mut self, machine: usize, incoming: Incoming) {
        if self.machines[machine].state == State::Gone {
            return;
        }
        if self.machines[machine].is_ready() && self.machines[machine].inbox.is_empty() {
            return self.process(machine, incoming);
        }
        let inbox = &mut self.machines[machine].inbox;
        // What does not fit is lost, as in a socket's buffer.
        if inbox.len() < INBOX_MAX {
            inbox.push_back(incoming);
        }
    }

    fn process(&mut self, machine: usize, incoming: Incoming) {
        match incoming {
            Incoming::Input(input) => self.input(machine, input),
            Incoming::Gossip { from, id, bytes } => self.gossip_taken(machine, from, id, bytes),
            Incoming::Frame { serial, from, bytes } => self.frame_taken(machine, serial, from, bytes),
        }
    }

    /// Hands an input to a node and does what it asks for.
    pub(super) fn input(&mut self, machine: usize, input: Input) {
        if self.machines[machine].state != State::Up {
            return;
        }
        let now = self.schedule.now();
        let local = self.machines[machine].clock.local(now);
        self.trace.line(|| format!("{} {machine} < {}", elapsed(now).0, describe_input(&input)));
        self.machines[machine].node.handle(input, local);
        let due = self.machines[machine].node.poll_timeout();
        if due <= local {
            let overdue = local.since(due).as_ms();
            self.checks.violation(format!("machine {machine} asks to be woken {overdue} ms ago"));
        }
        self.drain(machine);
    }

    /// Carries out what the node asks for, until it is done or the disk is waited for.
    fn drain(&mut self, machine: usize) {
        let now = self.schedule.now();
        let mut effects = 0;
        while self.machines[machine].is_ready() {
            let Some(effect) = self.machines[machine].node.poll_effect() else { break };
            effects += 1;
            if !matches!(effect, Effect::SendFrame { .. }) {
                self.trace.line(|| format!("{} {machine} > {}", elapsed(now).0, describe_effect(&effect)));
            }
            self.perform(machine, effect);
        }
        if effects > EFFECTS_MAX {
            self.checks.violation(format!("{effects} effects of one input, at most {EFFECTS_MAX} are expected"));
        }
        if !self.machines[machine].is_ready() {
            return;
        }
        let due = self.machines[machine].node.poll_timeout();
        if self.machines[machine].wake != Some(due) {
            self.machines[machine].wake = Some(due);
            // A wake-up in the past was complained of: it must not stop the time.
            let at = self.machines[machine].clock.true_time(due, now + Duration::from_ms(1));
            self.schedule.at(at, Happening::Wake { machine, due });
        }
    }

    fn perform(&mut self, machine: usize, effect: Effect) {
        match effect {
            Effect::Publish { bytes } => self.publish(machine, bytes),
            Effect::GossipVerdict { message, verdict } => self.gossip_judged(machine, message, verdict),
            Effect::SendFrame { id, to, bytes } => self.send_frame(machine, id, to, bytes),
            Effect::Misbehaviour { peer, what } => {
                let is_faulty = self.index.get(&peer).is_some_and(|twins| self.machines[twins[0]].is_faulty);
                if !is_faulty {
                    self.checks.violation(format!("machine {machine} blames the honest {peer:?}: {what}"));
                }
            }
            Effect::LedgerBegin { genesis } => {
                self.checks.begins(machine, &genesis);
                self.write(machine, Write::Begin(genesis));
            }
            Effect::LedgerLog { height, record } => self.write(machine, Write::Log(height, record)),
            Effect::LedgerBlock { height, block } => self.block_written(machine, height, block),
            Effect::LedgerRecovery { recovery, .. } => {
                self.checks.recovers(machine, &recovery);
                self.write(machine, Write::Recovery(recovery));
            }
            Effect::LedgerSnapshot { height, state } => self.write(machine, Write::Snapshot(height, state)),
            Effect::ReadBlocks { to, from, count_max, bytes_max } => {
                let mut blocks = self.machines[machine].disk.read(from, bytes_max);
                blocks.truncate(count_max as usize);
                let at = self.schedule.now() + Duration::from_ms(1);
                self.tell(machine, at, Input::BlocksRead { to, from, blocks });
            }
            Effect::Drill { task, class, challenge, owed } => self.drill(machine, task, class, challenge, owed),
            Effect::Notify(event) => self.notified(machine, event),
            other => self.checks.violation(format!("machine {machine} has no run, and asks for {other:?}")),
        }
    }

    fn block_written(&mut self, machine: usize, height: u64, mut block: Vec<u8>) {
        if machine == 1 && self.setup.broken == Some(Break::UnsealedBlock) {
            // The certificate lies at the end.
            let last = block.len() - 1;
            block[last] ^= 1;
        }
        self.checks.block(machine, height, &block, self.schedule.now());
        self.write(machine, Write::Block(height, block));
    }

    fn write(&mut self, machine: usize, write: Write) {
        self.summary.writes += 1;
        let longest = self.setup.conditions.sync_us_max;
        let host = &mut self.machines[machine];
        host.disk.begin(write);
        if longest == 0 {
            return host.disk.end();
        }
        host.syncing = true;
        let (life, takes) = (host.life, Duration(host.draws.between(longest / 4, longest) * 1_000));
        self.after(takes, Happening::Synced { machine, life });
    }

    /// The disk is done, though the program may be stopped just now.
    pub(super) fn synced(&mut self, machine: usize, life: u32) {
        if self.machines[machine].life != life {
            return;
        }
        self.machines[machine].disk.end();
        self.machines[machine].syncing = false;
        self.resume(machine);
    }

    /// The driver goes on where it was stopped.
    pub(super) fn resume(&mut self, machine: usize) {
        if self.machines[machine].is_ready() {
            self.drain(machine);
            while self.machines[machine].is_ready() {
                let Some(incoming) = self.machines[machine].inbox.pop_front() else { break };
                self.process(machine, incoming);
            }
            let local = self.machines[machine].clock.local(self.schedule.now());
            if self.machines[machine].is_ready() && self.machines[machine].wake.is_some_and(|due| due <= local) {
                self.machines[machine].wake = None;
                self.input(machine, Input::Tick);
            }
        }
    }

    fn drill(&mut self, machine: usize, task: Hash, class: DrillClass, challenge: Option<Hash>, owed: bool) {
        let host = &mut self.machines[machine];
        let has_room = owed || !host.draws.happens(NO_ROOM_PER_MILLION);
        let takes = Duration::from_ms(host.draws.between(UNIT_MS[0], UNIT_MS[1]));
        let mut result = honest_result(&task, &class, challenge.as_ref());
        if host.lies {
            result.digest = Hash::of(result.digest.as_bytes());
        }
        let at = self.schedule.now() + takes;
        self.tell(machine, at, Input::Drilled { task, result: has_room.then_some(result) });
    }

    fn notified(&mut self, machine: usize, event: Event) {
        match event {
            Event::BlockFinal { height, root } => self.checks.reports(machine, height, root),
            Event::RecoveryOffered { .. } => self.checks.offered(machine),
            Event::LedgersDiffer { .. } => self.checks.told_apart(machine),
            Event::LedgerUnreadable { why } => {
                self.checks.violation(format!("machine {machine} cannot read what it kept: {why}"));
            }
            _ => {}
        }
    }
}
