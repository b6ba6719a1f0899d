//! One node under test; everyone else is played by the test.

use crate::samples::{NOW, identity, network, peer};
use manta_protocol::input::Command;
use manta_protocol::market::listing::Listing;
use manta_protocol::membership::Charter;
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{Config, Duration, Effect, Event, Input, Node, PeerId, Time};
use std::collections::BTreeMap;

/// The node of identity 1 and its time.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) now: Time,
    seq: u64,
    /// The `seq` of the latest `Reserve` to each peer.
    pub(crate) requests: BTreeMap<PeerId, u64>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_charter(Charter::default())
    }

    /// A node that knows this much of membership.
    pub(crate) fn with_charter(charter: Charter) -> Self {
        let config = Config { network: network(), identity: identity(1) };
        let node = Node::with_charter(config, charter, NOW);
        Self { node, now: NOW, seq: NOW.as_unix_ms() - 50_000, requests: BTreeMap::new() }
    }

    /// A node that offers `listing`.
    pub(crate) fn offering(listing: Listing) -> Self {
        let mut bench = Self::new();
        bench.input(Input::Command(Command::Offer(Box::new(listing))));
        bench
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Effect> {
        self.node.handle(input, self.now);
        let effects: Vec<_> = std::iter::from_fn(|| self.node.poll_effect()).collect();
        for effect in &effects {
            if let Effect::SendFrame { to, bytes, .. } = effect
                && let Ok(Envelope { message: Message::Reserve(_), seq, .. }) = Envelope::open(bytes, network())
            {
                self.requests.insert(*to, seq);
            }
        }
        assert!(self.node.poll_timeout() > self.now, "a timer is due in the past: the driver would spin");
        effects
    }

    /// A direct message from the identity `from`.
    pub(crate) fn frame(&mut self, from: u8, message: &Message) -> Vec<Effect> {
        let bytes = self.seal(from, message);
        self.input(Input::Frame { from: peer(from), bytes })
    }

    /// A gossiped message of the identity `from`.
    pub(crate) fn gossip(&mut self, from: u8, message: &Message) -> Vec<Effect> {
        let bytes = self.seal(from, message);
        self.input(Input::Gossip { message: 1, bytes })
    }

    pub(crate) fn seal(&mut self, from: u8, message: &Message) -> Vec<u8> {
        self.seq += 1_000;
        identity(from).seal(network(), self.seq.min(self.now.as_unix_ms()), self.now + Duration::from_s(30), message)
    }

    /// Lets time pass, waking the node whenever it asks for it.
    pub(crate) fn pass(&mut self, span: Duration) -> Vec<Effect> {
        let end = self.now + span;
        let mut effects = Vec::new();
        while self.node.poll_timeout() <= end {
            self.now = self.node.poll_timeout().max(self.now);
            effects.extend(self.input(Input::Tick));
        }
        self.now = end;
        effects.extend(self.input(Input::Tick));
        effects
    }
}

/// The direct messages among `effects`, opened.
pub(crate) fn sent(effects: &[Effect]) -> Vec<(PeerId, Message)> {
    let open = |bytes: &[u8]| Envelope::open(bytes, network()).expect("a node sends what can be opened").message;
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::SendFrame { to, bytes, .. } => Some((*to, open(bytes))),
        _ => None,
    });
    frames.collect()
}

/// The gossiped messages among `effects`, opened.
pub(crate) fn published(effects: &[Effect]) -> Vec<Message> {
    let messages = effects.iter().filter_map(|effect| match effect {
        Effect::Publish { bytes } => Some(Envelope::open(bytes, network()).expect("published").message),
        _ => None,
    });
    messages.collect()
}

/// The events among `effects`.
pub(crate) fn events(effects: &[Effect]) -> Vec<&Event> {
    let events = effects.iter().filter_map(|effect| match effect {
        Effect::Notify(event) => Some(event),
        _ => None,
    });
    events.collect()
}

#[test]
fn a_node_alone_sleeps_until_its_own_timers() {
    let mut bench = Bench::offering(crate::samples::listing());
    let effects = bench.pass(Duration::from_s(601));
    assert_eq!(published(&effects).len(), 10, "a listing is said again each minute");
}
