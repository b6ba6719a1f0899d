//! Bytes that no honest peer sends: refused, never a panic, never remembered.

use crate::bench::{Bench, events, sent};
use crate::samples::{NOW, identity, messages, network, peer};
use ed25519_dalek::{Signer, SigningKey};
use manta_protocol::effect::Verdict;
use manta_protocol::run::report::Heartbeat;
use manta_protocol::wire::limits::{CLOCK_SKEW_MAX, ENVELOPE_BYTES_MAX, FRAME_LIFETIME_MAX, GOSSIP_LIFETIME_MAX};
use manta_protocol::wire::{CodecError, Envelope, EnvelopeError, Message};
use manta_protocol::{Duration, Effect, Event, Input, NetworkId, RunId, Time};
use proptest::prelude::*;

const SEQ: u64 = 1_790_000_000_000;

/// The fields of an envelope, to be written by hand: this is a second, separate
/// implementation of the encoding.
#[derive(Clone)]
struct Raw {
    network: NetworkId,
    kind: Vec<u8>,
    version: u8,
    seq: u64,
    expires_at: Time,
    body: Vec<u8>,
}

impl Raw {
    fn heartbeat() -> Self {
        let body = [&[0xa2, 0x00, 0x58, 0x20][..], &[7; 32], &[0x01, 0x02]].concat();
        let expires_at = NOW + Duration::from_s(30);
        Self { network: network(), kind: vec![0x17], version: 1, seq: SEQ, expires_at, body }
    }

    fn unsigned(&self) -> Vec<u8> {
        let mut bytes = vec![0xa7, 0x00, 0x58, 0x20];
        bytes.extend(self.network.as_bytes());
        bytes.push(0x01);
        bytes.extend(&self.kind);
        bytes.extend([0x02, self.version, 0x03, 0x58, 0x20]);
        bytes.extend(peer(1).as_bytes());
        bytes.extend([0x04, 0x1b]);
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend([0x05, 0x1b]);
        bytes.extend(self.expires_at.0.to_be_bytes());
        bytes.extend([0x06, 0x58, u8::try_from(self.body.len()).expect("short bodies only")]);
        bytes.extend(&self.body);
        bytes
    }

    fn sealed(&self) -> Vec<u8> {
        seal(&self.unsigned())
    }
}

fn seal(unsigned: &[u8]) -> Vec<u8> {
    let digest = blake3::derive_key("manta 2026-11 envelope signature v1", unsigned);
    let signature = SigningKey::from_bytes(&[1; 32]).sign(&digest).to_bytes();
    [&[0xa2, 0x00], unsigned, &[0x01, 0x58, 0x40], &signature].concat()
}

fn open(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    Envelope::open(bytes, network())
}

#[test]
fn an_envelope_written_by_hand_is_the_same() {
    let heartbeat = Message::Heartbeat(Heartbeat { run: RunId([7; 32]), view: 2 });
    let raw = Raw::heartbeat();
    assert_eq!(raw.sealed(), identity(1).seal(network(), SEQ, raw.expires_at, &heartbeat));
    assert_eq!(open(&raw.sealed()).map(|envelope| envelope.message), Ok(heartbeat));
}

#[test]
fn other_encodings_of_the_same_value_are_refused() {
    let raw = Raw::heartbeat();
    let whole = raw.sealed();
    let unsigned = raw.unsigned();
    let swapped = {
        let mut bytes = unsigned.clone();
        // Head and network take 36 bytes; kind and version follow as pairs of two.
        bytes[36..40].rotate_left(2);
        bytes
    };
    let with_body = |body: &[u8]| Raw { body: body.to_vec(), ..raw.clone() }.sealed();
    let extra_field = {
        let mut bytes = unsigned.clone();
        bytes[0] = 0xa8;
        bytes.extend([0x07, 0x00]);
        bytes
    };
    let as_array = [&[0x82][..], &unsigned, &whole[whole.len() - 66..]].concat();
    let cases: [(&str, Vec<u8>); 12] = [
        ("a trailing byte", [&whole[..], &[0]].concat()),
        ("an integer longer than needed", Raw { kind: vec![0x18, 0x17], ..raw.clone() }.sealed()),
        ("an integer in eight bytes", Raw { kind: vec![0x1b, 0, 0, 0, 0, 0, 0, 0, 0x17], ..raw.clone() }.sealed()),
        ("keys out of order", seal(&swapped)),
        ("an unknown key", seal(&extra_field)),
        ("a map of indefinite length", seal(&[&[0xbf], &unsigned[1..], &[0xff]].concat())),
        ("an array for a map", as_array),
        ("a body with a trailing byte", with_body(&[&raw.body[..], &[0]].concat())),
        ("a body of indefinite length", with_body(&[&[0xbf], &raw.body[1..], &[0xff]].concat())),
        ("a body with a text key", with_body(&[&[0xa1, 0x63, b'r', b'u', b'n', 0x58, 0x20][..], &[7; 32]].concat())),
        ("a body with a name in pieces", with_body(&[&[0xa1, 0x00, 0x5f, 0x58, 0x20][..], &[7; 32], &[0xff]].concat())),
        ("a tagged body", with_body(&[&[0xd9, 0xd9, 0xf7], &raw.body[..]].concat())),
    ];
    for (what, bytes) in cases {
        let error = open(&bytes).expect_err(what);
        assert!(matches!(error, EnvelopeError::Codec(_)), "{what}: {error}");
    }
}

#[test]
fn each_check_refuses_with_its_own_reason() {
    let raw = Raw::heartbeat();
    let other = NetworkId::from_name("another");
    let found = open(&Raw { network: other, ..raw.clone() }.sealed());
    assert_eq!(found, Err(EnvelopeError::WrongNetwork { found: other, expected: network() }));
    let found = open(&Raw { version: 2, ..raw.clone() }.sealed());
    assert_eq!(found, Err(EnvelopeError::Version { found: 2 }));
    let found = open(&Raw { kind: vec![0x16], ..raw.clone() }.sealed());
    assert!(matches!(found, Err(EnvelopeError::Codec(_))), "an Abort needs three fields: {found:?}");
    let found = open(&Raw { kind: vec![0x18, 99], ..raw.clone() }.sealed());
    assert_eq!(found, Err(EnvelopeError::UnknownKind(99)));
    let found = open(&vec![0; ENVELOPE_BYTES_MAX + 1]);
    let (found_bytes, max) = (ENVELOPE_BYTES_MAX + 1, ENVELOPE_BYTES_MAX);
    assert_eq!(found, Err(EnvelopeError::Codec(CodecError::TooLong { found: found_bytes, max })));
    let mut bytes = raw.sealed();
    *bytes.last_mut().expect("not empty") ^= 1;
    assert_eq!(open(&bytes), Err(EnvelopeError::BadSignature(peer(1))));
}

/// A few bytes that announce a list of 2⁶³ entries must not make us allocate it.
#[test]
fn announced_lengths_are_not_believed() {
    for head in [0x9b, 0xbb, 0x5b, 0x7b] {
        let huge = [&[0xa1, 0x00, head][..], &[0x7f, 255, 255, 255, 255, 255, 255, 255]].concat();
        for (kind, body) in [(vec![0x01], huge.clone()), (vec![0x0c], huge.clone())] {
            assert!(open(&Raw { kind, body, ..Raw::heartbeat() }.sealed()).is_err());
        }
        assert!(open(&huge).is_err());
    }
    assert!(open(&vec![0x81; 50_000]).is_err(), "deep nesting is refused, not followed");
}

#[test]
fn times_out_of_range_are_ignored_or_dropped() {
    let listing = messages().remove(0);
    let in_range = NOW.as_unix_ms();
    let skew_ms = CLOCK_SKEW_MAX.as_ms();
    let cases = [
        ("now", in_range, NOW + Duration::from_s(1), true),
        ("expired within the skew", in_range, NOW - Duration::from_s(59), true),
        ("expired", in_range, NOW - CLOCK_SKEW_MAX, false),
        ("ahead within the skew", in_range + skew_ms, NOW + Duration::from_s(1), true),
        ("from the future", in_range + skew_ms + 1, NOW + Duration::from_s(1), false),
        ("lives too long", in_range, NOW + GOSSIP_LIFETIME_MAX + CLOCK_SKEW_MAX + Duration(1), false),
        ("lives for ever", in_range, Time(u64::MAX), false),
        ("at the beginning of time", 0, Time(0), false),
        ("at the end of numbers", u64::MAX, Time(u64::MAX), false),
    ];
    for (what, seq, expires_at, accepted) in cases {
        let mut bench = Bench::new();
        let bytes = identity(2).seal(network(), seq, expires_at, &listing);
        let effects = bench.input(Input::Gossip { message: 5, bytes });
        let verdict = if accepted { Verdict::Accept } else { Verdict::Ignore };
        assert!(effects.contains(&Effect::GossipVerdict { message: 5, verdict }), "{what}: {effects:?}");
        assert_eq!(bench.node.listings().count(), usize::from(accepted), "{what}");
    }
    for (what, expires_at) in
        [("expired", NOW - CLOCK_SKEW_MAX), ("too long", NOW + FRAME_LIFETIME_MAX + CLOCK_SKEW_MAX.times(2))]
    {
        let mut bench = Bench::offering(crate::samples::listing());
        let bytes = identity(2).seal(network(), in_range, expires_at, &Message::Reserve(crate::samples::reserve()));
        assert_eq!(bench.input(Input::Frame { from: peer(2), bytes }), [], "{what}");
    }
}

#[test]
fn frames_of_others_and_gossip_as_frames_are_blamed_on_who_sent_them() {
    let all = messages();
    let mut bench = Bench::new();
    let frame = all.iter().find(|message| !message.kind().is_gossip()).expect("some kinds are frames");
    let relayed = bench.seal(3, frame);
    let effects = bench.input(Input::Frame { from: peer(2), bytes: relayed });
    assert!(matches!(&effects[..], [_, Effect::Misbehaviour { peer: who, .. }] if *who == peer(2)), "{effects:?}");
    let effects = bench.frame(2, &all[0]);
    assert!(matches!(&effects[..], [_, Effect::Misbehaviour { .. }]), "gossip came as a frame: {effects:?}");
    for message in all.iter().filter(|message| !message.kind().is_gossip()) {
        let effects = bench.gossip(2, message);
        assert!(effects.contains(&Effect::GossipVerdict { message: 1, verdict: Verdict::Reject }), "{message:?}");
        assert!(matches!(events(&effects)[..], [Event::Refused { .. }]));
        assert!(sent(&effects).is_empty());
    }
}

fn any_sealed() -> impl Strategy<Value = Vec<u8>> {
    (0..messages().len())
        .prop_map(|index| identity(1).seal(network(), SEQ, NOW + Duration::from_s(30), &messages()[index]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(open(&bytes).is_err());
        let mut bench = Bench::new();
        let effects = bench.input(Input::Gossip { message: 9, bytes: bytes.clone() });
        let rejected = Effect::GossipVerdict { message: 9, verdict: Verdict::Reject };
        prop_assert!(effects.contains(&rejected));
        let effects = bench.input(Input::Frame { from: peer(2), bytes });
        let blamed = effects.iter().any(|effect| matches!(effect, Effect::Misbehaviour { .. }));
        prop_assert!(blamed);
    }

    #[test]
    fn arbitrary_bodies_with_a_good_signature_never_panic(
        kind in prop::sample::select(vec![1u8, 2, 3, 4, 5, 10, 11, 12, 13, 14, 20, 21, 22, 23]),
        body in prop::collection::vec(any::<u8>(), 24..200),
    ) {
        let raw = Raw { kind: vec![kind], body, ..Raw::heartbeat() };
        if let Ok(envelope) = open(&raw.sealed()) {
            prop_assert_eq!(identity(1).seal(network(), SEQ, raw.expires_at, &envelope.message), raw.sealed());
        }
    }

    /// Near-valid bodies: one byte of a real one changed, then signed properly.
    #[test]
    fn damaged_bodies_with_a_good_signature_never_panic_a_node(
        index in 0..messages().len(), at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let message = &messages()[index];
        let mut bytes = identity(1).seal(network(), SEQ, NOW + Duration::from_s(30), message);
        // Outer head (2), unsigned, then key and head and signature (67).
        let end = bytes.len() - 67;
        let at = 2 + at.index(end - 2);
        bytes[at] = value;
        let bytes = seal(&bytes[2..end]);
        let config = manta_protocol::Config { network: network(), identity: identity(9) };
        let mut node = manta_protocol::Node::new(config, NOW);
        node.handle(Input::Gossip { message: 1, bytes: bytes.clone() }, NOW);
        node.handle(Input::Frame { from: peer(1), bytes: bytes.clone() }, NOW);
        if let Ok(envelope) = open(&bytes) {
            prop_assert_eq!(identity(1).seal(network(), envelope.seq, envelope.expires_at, &envelope.message), bytes);
        }
    }

    #[test]
    fn a_flipped_bit_is_always_refused(bytes in any_sealed(), bit in any::<prop::sample::Index>()) {
        let mut flipped = bytes.clone();
        let bit = bit.index(bytes.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(open(&bytes).is_ok());
        prop_assert!(open(&flipped).is_err());
    }

    #[test]
    fn a_cut_envelope_is_always_refused(bytes in any_sealed(), length in any::<prop::sample::Index>()) {
        prop_assert!(open(&bytes[..length.index(bytes.len())]).is_err());
    }
}
