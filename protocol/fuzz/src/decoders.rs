//! The decoders of what comes from the network and the disk.
//!
//! Whatever is accepted has one encoding: writing it again gives the bytes that
//! were read.

use crate::samples::{NOW, identity, network, peer};
use ed25519_dalek::{Signer, SigningKey};
use manta_protocol::input::{Command, Done};
use manta_protocol::wire::envelope::SIGNING_DOMAIN;
use manta_protocol::wire::message::Kind;
use manta_protocol::wire::{Envelope, EnvelopeError, codec, limits};
use manta_protocol::{Config, Duration, Effect, Event, Hash, Input, NetworkId, Node, PeerId, Time};
use serde::{Deserialize, Serialize};

/// An envelope's fields, for writing what no honest peer would.
#[derive(Serialize, Deserialize)]
pub(crate) struct Unsigned {
    network: NetworkId,
    kind: u8,
    version: u8,
    author: PeerId,
    pub(crate) seq: u64,
    expires_at: Time,
    #[serde(with = "serde_bytes")]
    pub(crate) body: Vec<u8>,
}

/// What goes over the network.
#[derive(Serialize, Deserialize)]
pub(crate) struct Signed {
    pub(crate) unsigned: Unsigned,
    signature: manta_protocol::ids::Signature,
}

/// The fields of an envelope of our own node, whose signature needs no check.
pub(crate) fn peek(bytes: &[u8]) -> (Option<Kind>, Unsigned) {
    let Signed { unsigned, .. } =
        codec::decode(bytes, limits::ENVELOPE_BYTES_MAX).expect("a node sends envelopes that can be read");
    (Kind::from_number(unsigned.kind), unsigned)
}

/// A body of any bytes in a properly signed envelope of identity `author`.
pub(crate) fn seal(author: u8, kind: u8, body: &[u8], seq: u64, now: Time) -> Vec<u8> {
    let expires_at = now + Duration::from_s(30);
    let (network, author_id, body) = (network(), peer(author), body.to_vec());
    let unsigned = Unsigned { network, kind, version: 1, author: author_id, seq, expires_at, body };
    let digest = blake3::derive_key(SIGNING_DOMAIN, &codec::encode(&unsigned));
    let signature = SigningKey::from_bytes(&[author; 32]).sign(&digest).to_bytes();
    codec::encode(&Signed { unsigned, signature: manta_protocol::ids::Signature(signature) })
}

pub(crate) fn envelope(bytes: &[u8]) {
    if let Ok(envelope) = Envelope::open(bytes, network()) {
        assert_eq!(envelope.id, Hash::of(bytes), "an envelope's name is the hash of its bytes");
    }
    let mut node = Node::new(Config { network: network(), identity: identity(9) }, NOW);
    node.handle(Input::Frame { from: peer(1), bytes: bytes.to_vec() }, NOW);
    node.handle(Input::Gossip { message: 1, bytes: bytes.to_vec() }, NOW);
    let effects = std::iter::from_fn(|| node.poll_effect()).count();
    assert!(effects <= 16, "{effects} effects of one message to a node that is in no run");
}

pub(crate) fn body(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let sealed = seal(1, *kind, body, NOW.as_unix_ms(), NOW);
    match Envelope::open(&sealed, network()) {
        Ok(envelope) => {
            let again = identity(1).seal(network(), envelope.seq, envelope.expires_at, &envelope.message);
            assert_eq!(again, sealed, "one value has one encoding: {:?}", envelope.message);
        }
        // All but the body is in order.
        Err(EnvelopeError::Codec(_) | EnvelopeError::Invalid { .. } | EnvelopeError::UnknownKind(_)) => {}
        Err(error) => panic!("a proper envelope is refused: {error}"),
    }
}

pub(crate) fn record(bytes: &[u8]) {
    let mut node = Node::new(Config { network: network(), identity: identity(1) }, NOW);
    node.handle(Input::Command(Command::Resume { record: bytes.to_vec() }), NOW);
    let effects: Vec<_> = std::iter::from_fn(|| node.poll_effect()).collect();
    let run = match &effects[..] {
        [Effect::Notify(Event::Refused { .. })] => return,
        [Effect::Prepare(start)] => start.run,
        [] | [Effect::KeepResult { .. }] => return,
        other => panic!("a run is resumed, over or refused, found {other:?}"),
    };
    let mut now = NOW;
    let mut input = |input: Input, after: Duration| {
        now = now + after;
        node.handle(input, now);
        let effects: Vec<_> = std::iter::from_fn(|| node.poll_effect()).take(8_192).collect();
        assert!(effects.len() < 8_192, "effects without end");
        assert!(node.poll_timeout() > now, "a timer is due in the past");
    };
    let done = Done::Prepared { parameter_hash: Hash::of(b"initial") };
    input(Input::Trainer { run, done }, Duration::from_ms(10));
    // Long enough to propose a view, and to go on alone where that is allowed.
    for _ in 0..40 {
        input(Input::Tick, Duration::from_ms(300));
    }
}
