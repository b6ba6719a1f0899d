//! Gossip, frames and chunks between machines.
//!
//! A sender learns that a frame was delivered from its receiver's answer, and
//! that it was not from a broken connection or after a while of waiting. So a
//! frame to a stopped machine is reported as failed and is read all the same,
//! once the machine goes on.

use super::{Happening, NETWORK, World};
use crate::clock::elapsed;
use crate::host::{Incoming, State};
use crate::transport::{ChunkName, ChunkParcel, FrameParcel, Outstanding};
use manta_protocol::effect::Verdict;
use manta_protocol::market::reservation::Answer;
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{Duration, EffectId, Hash, Input, NetworkId, PeerId};
use std::sync::Arc;

/// After this a bulk transport gives up on whoever does not answer.
const BULK_TIMEOUT: Duration = Duration::from_s(10);
/// Gossip messages that may wait for a verdict at once: it comes with the message.
const UNJUDGED_GOSSIP_MAX: usize = 1;

impl World {
    // ---- gossip ----

    pub(super) fn gossip(&mut self, host: usize, except: Option<usize>, id: Hash, bytes: &Arc<Vec<u8>>) {
        for to in self.network.neighbours(host).to_vec() {
            if Some(to) != except && self.hosts[to].state != State::Gone && !self.silenced(host, to) {
                self.summary.gossip_messages += 1;
                let at = self.network.arrival(host, to, self.schedule.now());
                self.schedule.at(at, Happening::Gossip { to, from: host, id, bytes: bytes.clone() });
            }
        }
    }

    pub(super) fn gossip_taken(&mut self, host: usize, from: usize, id: Hash, bytes: Arc<Vec<u8>>) {
        if self.hosts[host].first_sight(id) {
            let message = self.hosts[host].next_transfer();
            let input = Input::Gossip { message, bytes: bytes.to_vec() };
            self.hosts[host].gossip.insert(message, (from, id, bytes));
            self.input(host, input);
            let unjudged = self.hosts[host].gossip.len();
            self.checkers.bound("gossip without a verdict", unjudged, UNJUDGED_GOSSIP_MAX);
        }
    }

    pub(super) fn gossip_judged(&mut self, host: usize, message: u64, verdict: Verdict) {
        match (verdict, self.hosts[host].gossip.remove(&message)) {
            (Verdict::Accept, Some((from, id, bytes))) => self.gossip(host, Some(from), id, &bytes),
            (Verdict::Reject, _) => self.checkers.violation("an honest gossip message was rejected".into()),
            (Verdict::Ignore, Some(_)) => {}
            (_, None) => self.checkers.violation("a verdict on gossip that nobody asked for".into()),
        }
    }

    // ---- frames ----

    pub(super) fn send_frame(&mut self, host: usize, id: EffectId, to: PeerId, bytes: Vec<u8>) {
        let Some(&to) = self.index.get(&to) else {
            return self.checkers.violation(format!("a frame goes to {to:?}, who does not exist"));
        };
        let message = match Envelope::open(&bytes, NetworkId::from_name(NETWORK)) {
            Ok(envelope) => envelope.message,
            Err(error) => return self.checkers.violation(format!("a node sent what nobody can open: {error}")),
        };
        let (message, bytes) = self.tamper(host, message, bytes);
        let now = self.schedule.now();
        self.trace.line(|| format!("{} {host} > SendFrame {} to {to} {message:?}", elapsed(now).0, id.0));
        self.watch_frame(host, to, &message);
        self.serial += 1;
        let serial = self.serial;
        self.outstanding.insert(serial, Outstanding { host, life: self.hosts[host].life, id, to });
        self.summary.frames += 1;
        self.summary.frame_bytes += bytes.len() as u64;
        let times = if self.silenced(host, to) { Vec::new() } else { self.network.frame(host, to, now) };
        if times.is_empty() {
            return self.expect_no_answer(serial);
        }
        let to_life = self.hosts[to].life;
        let parcel =
            FrameParcel { serial, from: host, to, to_life, bytes: Arc::new(bytes), message: Arc::new(message) };
        for at in times {
            self.schedule.at(at, Happening::Frame(Box::new(parcel.clone())));
        }
    }

    fn expect_no_answer(&mut self, serial: u64) {
        let patience = self.network.patience();
        self.after(patience, Happening::FrameKnown { serial, delivered: false });
    }

    /// What a frame tells the checkers, as it is sent.
    fn watch_frame(&mut self, host: usize, to: usize, message: &Message) {
        let (author, receiver) = (self.hosts[host].peer, self.hosts[to].peer);
        if let Message::ReserveReply(reply) = message
            && reply.answer == Answer::Accepted
        {
            let local = self.hosts[host].clock.local(self.schedule.now());
            let judgement = self.checkers.promises.accepted(author, receiver, reply.spec, local, local);
            self.checkers.judge(judgement);
        }
        let judgement = self.checkers.agreement.sent(author, message);
        self.checkers.judge(judgement);
    }

    pub(super) fn frame_arrives(&mut self, parcel: Box<FrameParcel>) {
        let (to, serial) = (parcel.to, parcel.serial);
        if self.hosts[to].state == State::Gone || self.hosts[to].life != parcel.to_life {
            let back = self.network.arrival(to, parcel.from, self.schedule.now());
            return self.schedule.at(back, Happening::FrameKnown { serial, delivered: false });
        }
        if self.hosts[to].state == State::Frozen {
            self.expect_no_answer(serial);
        }
        self.deliver(to, Incoming::Frame(parcel));
    }

    /// A machine's driver reads a frame, answers the transport, and hands it on.
    pub(super) fn frame_taken(&mut self, parcel: FrameParcel) {
        let FrameParcel { serial, from, to, bytes, message, .. } = parcel;
        let now = self.schedule.now();
        let answered = if self.silenced(to, from) { None } else { self.network.answer(to, from, now) };
        match answered {
            Some(at) => self.schedule.at(at, Happening::FrameKnown { serial, delivered: true }),
            None => self.expect_no_answer(serial),
        }
        let (machine, user) = (self.hosts[to].peer, self.hosts[from].peer);
        self.trace.line(|| format!("{} {to} < Frame of {from} {message:?}", elapsed(now).0));
        match &*message {
            Message::Reserve(reserve) => {
                let until = self.hosts[to].clock.local(now) + Duration::from_ms(u64::from(reserve.hold_ms));
                self.checkers.promises.reserve_arrived(machine, user, reserve.spec, until);
            }
            Message::Release(release) => self.checkers.promises.released(machine, user, release.spec),
            _ => {}
        }
        self.input(to, Input::Frame { from: user, bytes: Arc::unwrap_or_clone(bytes) });
    }

    pub(super) fn frame_known(&mut self, serial: u64, delivered: bool) {
        let Some(Outstanding { host, life, id, .. }) = self.outstanding.remove(&serial) else { return };
        self.summary.frames_failed += u64::from(!delivered);
        if self.hosts[host].life == life {
            let outcome = if delivered { Input::FrameDelivered { id } } else { Input::FrameFailed { id } };
            self.deliver(host, Incoming::Input(outcome));
        }
    }

    // ---- chunks ----

    pub(super) fn send_chunk(&mut self, host: usize, to: PeerId, name: ChunkName) {
        let now = self.schedule.now();
        let ChunkName { run, exchange, phase, chunk, .. } = name;
        let values = self.hosts[host].training_of(run).and_then(|part| part.outgoing(exchange, phase, chunk));
        let (Some(values), Some(&to)) = (values, self.index.get(&to)) else {
            let by = self.hosts[host].peer;
            return self.checkers.violation(format!(
                "{by:?} is to send the {phase:?} of chunk {chunk} of exchange {exchange}, which is not there"
            ));
        };
        if self.loses_chunk(host, exchange, phase) {
            return;
        }
        let life = self.hosts[host].life;
        let (peer, bytes) = (self.hosts[to].peer, size_of_val(&*values) as u64);
        self.summary.chunks += 1;
        self.summary.chunk_bytes += bytes;
        if self.silenced(host, to) {
            return self.after(BULK_TIMEOUT, Happening::ChunkLost { host, life, to: peer, name });
        }
        self.serial += 1;
        let parcel = ChunkParcel {
            serial: self.serial,
            from: host,
            from_life: life,
            from_peer: self.hosts[host].peer,
            to,
            to_life: self.hosts[to].life,
            name,
            values,
        };
        for at in self.network.chunk(host, to, bytes, now) {
            self.schedule.at(at, Happening::Chunk(Box::new(parcel.clone())));
        }
    }

    pub(super) fn chunk_arrives(&mut self, parcel: Box<ChunkParcel>) {
        let to = &self.hosts[parcel.to];
        let (peer, name) = (to.peer, parcel.name);
        let lets_in = to.training_of(name.run).is_some_and(|part| part.admitted.contains(&parcel.from_peer));
        if to.state == State::Gone || to.life != parcel.to_life || !lets_in {
            let (host, life) = (parcel.from, parcel.from_life);
            let back = self.network.arrival(parcel.to, host, self.schedule.now());
            return self.schedule.at(back, Happening::ChunkLost { host, life, to: peer, name });
        }
        if to.state == State::Frozen || self.silenced(parcel.to, parcel.from) {
            self.unread.insert(parcel.serial);
            self.after(BULK_TIMEOUT, Happening::ChunkUnanswered { parcel: parcel.clone() });
        }
        self.deliver(parcel.to, Incoming::Chunk(parcel));
    }

    pub(super) fn chunk_taken(&mut self, parcel: Box<ChunkParcel>) {
        if !self.silenced(parcel.to, parcel.from) {
            self.unread.remove(&parcel.serial);
        }
        let host = parcel.to;
        let ChunkName { run, view, exchange, phase, chunk } = parcel.name;
        let (from, elements) = (parcel.from_peer, parcel.values.len() as u64);
        let transfer = self.hosts[host].next_transfer();
        self.hosts[host].chunks.insert(transfer, parcel);
        self.input(host, Input::ChunkArrived { transfer, from, run, view, exchange, phase, chunk, elements });
        let (held, members) = (self.hosts[host].chunks.len(), usize::from(self.setup.members_max));
        if let Some(part) = &self.hosts[host].training {
            self.checkers.bound("chunks without a verdict", held, part.chunks_held_max(members));
        }
    }

    pub(super) fn chunk_judged(&mut self, host: usize, transfer: u64, keep: bool) {
        let Some(parcel) = self.hosts[host].chunks.remove(&transfer) else {
            return self.checkers.violation("a verdict on a chunk that nobody asked for".into());
        };
        if !keep {
            return;
        }
        let members = usize::from(self.setup.members_max);
        let ChunkName { run, exchange, phase, chunk, .. } = parcel.name;
        let Some(part) = self.hosts[host].training_mut(run) else {
            return self.checkers.violation("a chunk is kept for a run that is not there".into());
        };
        let new = part.keep(parcel.from_peer, exchange, phase, chunk, parcel.values);
        let (held, max) = (part.chunks_held(), part.chunks_held_max(members));
        self.checkers.bound("chunks held by one member", held, max);
        if !new {
            self.checkers.violation(format!("chunk {chunk} of exchange {exchange} is kept twice"));
        }
    }

    pub(super) fn chunk_lost(&mut self, host: usize, life: u32, to: PeerId, name: ChunkName) {
        if self.hosts[host].life == life {
            let ChunkName { run, exchange, phase, chunk, .. } = name;
            self.deliver(host, Incoming::Input(Input::BulkFailed { run, peer: to, exchange, phase, chunk }));
        }
    }

    /// Whether a cut keeps `to` from hearing `from`.
    pub(super) fn silenced(&self, from: usize, to: usize) -> bool {
        let now = self.schedule.now();
        self.cuts.iter().any(|cut| cut.silences(from, to, now))
    }
}
