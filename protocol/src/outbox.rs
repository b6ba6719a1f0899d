//! Where the rooms of a node leave what they want done.
//!
//! It signs and numbers messages, names effects, remembers what a direct
//! message was about until its delivery is known, and brings messages to
//! oneself back without a network.

use crate::effect::{Effect, Event};
use crate::ids::{EffectId, NetworkId, OrderId, PeerId, RunId, Serial};
use crate::membership::Revocation;
use crate::time::{Duration, Time};
use crate::wire::Identity;
use crate::wire::limits::{FRAME_LIFETIME_MAX, FRAMES_IN_FLIGHT_MAX};
use crate::wire::message::{Kind, Message};
use std::collections::{BTreeMap, VecDeque};

/// Which room a direct message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Order(OrderId),
    Run(RunId),
    Ledger,
    Nothing,
}

/// A direct message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) to: PeerId,
    pub(crate) kind: Kind,
    pub(crate) about: About,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    identity: Identity,
    me: PeerId,
    network: NetworkId,
    last_seq: u64,
    next_effect: u64,
    effects: VecDeque<Effect>,
    to_self: VecDeque<(u64, Message)>,
    in_flight: BTreeMap<EffectId, InFlight>,
}

impl Outbox {
    pub(crate) fn new(identity: Identity, network: NetworkId) -> Self {
        let me = identity.peer_id();
        Self {
            identity,
            me,
            network,
            last_seq: 0,
            next_effect: 0,
            effects: VecDeque::new(),
            to_self: VecDeque::new(),
            in_flight: BTreeMap::new(),
        }
    }

    pub(crate) fn me(&self) -> PeerId {
        self.me
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn network(&self) -> NetworkId {
        self.network
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn notify(&mut self, event: Event) {
        self.push(Effect::Notify(event));
    }

    /// Gossips `message`; it means nothing after `lifetime`.
    pub(crate) fn publish(&mut self, message: &Message, lifetime: Duration, now: Time) -> Published {
        let seq = self.next_seq(now);
        let bytes = self.identity.seal(self.network, seq, now + lifetime, message);
        self.push(Effect::Publish { bytes });
        Published { seq, expires_at: now + lifetime }
    }

    /// Takes back, in this swarm, a permission that we have issued.
    pub(crate) fn sign_revocation(&self, serial: Serial, expires_at: Time) -> Revocation {
        Revocation::sign(&self.identity, self.network, serial, expires_at)
    }

    /// Sends `message` to one peer; to ourselves without a network and an id.
    pub(crate) fn send(&mut self, to: PeerId, message: Message, about: About, now: Time) -> Sent {
        let seq = self.next_seq(now);
        if to == self.me {
            self.to_self.push_back((seq, message));
            return Sent { id: None, seq };
        }
        // Deliveries are reported in order of sending at the latest by the
        // transport's own timeout; what is older than this many is lost.
        if self.in_flight.len() >= FRAMES_IN_FLIGHT_MAX {
            self.in_flight.pop_first();
        }
        let bytes = self.identity.seal(self.network, seq, now + FRAME_LIFETIME_MAX, &message);
        let id = EffectId(self.next_effect);
        self.next_effect += 1;
        self.in_flight.insert(id, InFlight { to, kind: message.kind(), about });
        self.push(Effect::SendFrame { id, to, bytes });
        Sent { id: Some(id), seq }
    }

    /// What the direct message of this effect was about; known once.
    pub(crate) fn landed(&mut self, id: EffectId) -> Option<InFlight> {
        self.in_flight.remove(&id)
    }

    pub(crate) fn poll_to_self(&mut self) -> Option<(u64, Message)> {
        self.to_self.pop_front()
    }

    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Rises with every message, and past what an earlier life of this peer
    /// used, as long as the clock has not been set back.
    pub(crate) fn next_seq(&mut self, now: Time) -> u64 {
        self.last_seq = now.as_unix_ms().max(self.last_seq + 1);
        self.last_seq
    }
}

/// How a direct message went out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Under which its delivery is reported, unless it goes to ourselves.
    pub(crate) id: Option<EffectId>,
    /// What it was numbered.
    pub(crate) seq: u64,
}

/// How a gossiped message went out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    pub(crate) seq: u64,
    pub(crate) expires_at: Time,
}
