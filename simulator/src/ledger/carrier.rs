//! Gossip and frames between machines. Every hop of gossip is lost, held up or
//! repeated as a frame is.

use super::machine::Incoming;
use super::world::{Happening, NETWORK, Outstanding, World};
use crate::clock::elapsed;
use crate::host::State;
use manta_protocol::effect::Verdict;
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{EffectId, Hash, Input, NetworkId, PeerId};
use std::sync::Arc;

impl World {
    /// A node tells everyone.
    pub(super) fn publish(&mut self, machine: usize, bytes: Vec<u8>) {
        let id = Hash::of(&bytes);
        match Envelope::open(&bytes, NetworkId::from_name(NETWORK)) {
            Ok(envelope) => {
                if let Message::Proposal(proposal) = &envelope.message {
                    let now = self.schedule.now();
                    self.checks.proposed(proposal.value, (proposal.height, proposal.round), id, now);
                }
            }
            Err(error) => self.checks.violation(format!("a node says what nobody can open: {error}")),
        }
        self.machines[machine].first_sight(id);
        self.gossip(machine, None, id, &Arc::new(bytes));
    }

    fn gossip(&mut self, machine: usize, except: Option<usize>, id: Hash, bytes: &Arc<Vec<u8>>) {
        for to in self.network.neighbours(machine).to_vec() {
            if Some(to) == except || self.machines[to].state == State::Gone || self.silenced(machine, to) {
                continue;
            }
            self.summary.gossip_messages += 1;
            for at in self.network.frame(machine, to, self.schedule.now()) {
                self.schedule.at(at, Happening::Gossip { to, from: machine, id, bytes: bytes.clone() });
            }
        }
    }

    pub(super) fn gossip_taken(&mut self, machine: usize, from: usize, id: Hash, bytes: Arc<Vec<u8>>) {
        if !self.machines[machine].first_sight(id) {
            return;
        }
        self.checks.reached(&id, self.schedule.now());
        let message = self.machines[machine].next_transfer();
        let input = Input::Gossip { message, bytes: bytes.to_vec() };
        self.machines[machine].gossip.insert(message, (from, id, bytes));
        self.input(machine, input);
    }

    pub(super) fn gossip_judged(&mut self, machine: usize, message: u64, verdict: Verdict) {
        match (verdict, self.machines[machine].gossip.remove(&message)) {
            (Verdict::Accept, Some((from, id, bytes))) => self.gossip(machine, Some(from), id, &bytes),
            (Verdict::Reject, _) => self.checks.violation("an honest gossip message was rejected".into()),
            (Verdict::Ignore, Some(_)) => {}
            (_, None) => self.checks.violation("a verdict on gossip that nobody asked for".into()),
        }
    }

    /// A frame goes to one machine of the key: which of a twin's, the sender's number says.
    pub(super) fn send_frame(&mut self, machine: usize, id: EffectId, to: PeerId, bytes: Vec<u8>) {
        let now = self.schedule.now();
        let Some(to) = self.index.get(&to).map(|twins| twins[machine % twins.len()]) else {
            return self.checks.violation(format!("a frame goes to {to:?}, who does not exist"));
        };
        self.trace.line(|| format!("{} {machine} > SendFrame {} to {to} {:?}", elapsed(now).0, id.0, Hash::of(&bytes)));
        self.serial += 1;
        let serial = self.serial;
        self.outstanding.insert(serial, Outstanding { machine, life: self.machines[machine].life, id });
        self.summary.frames += 1;
        let times = if self.silenced(machine, to) { Vec::new() } else { self.network.frame(machine, to, now) };
        if times.is_empty() {
            return self.expect_no_answer(serial);
        }
        let (to_life, bytes) = (self.machines[to].life, Arc::new(bytes));
        for at in times {
            self.schedule.at(at, Happening::Frame { serial, from: machine, to, to_life, bytes: bytes.clone() });
        }
    }

    fn expect_no_answer(&mut self, serial: u64) {
        let patience = self.network.patience();
        self.after(patience, Happening::FrameKnown { serial, delivered: false });
    }

    pub(super) fn frame_arrives(&mut self, serial: u64, from: usize, to: (usize, u32), bytes: Arc<Vec<u8>>) {
        let (to, to_life) = to;
        if self.machines[to].state == State::Gone || self.machines[to].life != to_life {
            let back = self.network.arrival(to, from, self.schedule.now());
            return self.schedule.at(back, Happening::FrameKnown { serial, delivered: false });
        }
        if self.machines[to].state == State::Frozen {
            self.expect_no_answer(serial);
        }
        self.deliver(to, Incoming::Frame { serial, from, bytes });
    }

    /// A machine's driver reads a frame, answers the transport, and hands it on.
    pub(super) fn frame_taken(&mut self, machine: usize, serial: u64, from: usize, bytes: Arc<Vec<u8>>) {
        let now = self.schedule.now();
        let answered = if self.silenced(machine, from) { None } else { self.network.answer(machine, from, now) };
        match answered {
            Some(at) => self.schedule.at(at, Happening::FrameKnown { serial, delivered: true }),
            None => self.expect_no_answer(serial),
        }
        let from = self.machines[from].peer;
        self.input(machine, Input::Frame { from, bytes: Arc::unwrap_or_clone(bytes) });
    }

    pub(super) fn frame_known(&mut self, serial: u64, delivered: bool) {
        let Some(Outstanding { machine, life, id }) = self.outstanding.remove(&serial) else { return };
        if self.machines[machine].life == life {
            let outcome = if delivered { Input::FrameDelivered { id } } else { Input::FrameFailed { id } };
            self.deliver(machine, Incoming::Input(outcome));
        }
    }

    /// Whether a cut keeps `to` from hearing `from`.
    pub(super) fn silenced(&self, from: usize, to: usize) -> bool {
        let now = self.schedule.now();
        self.cuts.iter().any(|cut| cut.silences(from, to, now))
    }
}
