//! Golden vectors: bytes in, value out, and the same bytes again. A change of
//! any of them is a change of the protocol.

use crate::samples::{NOW, confirm, identity, messages, network, peer, spec};
use manta_protocol::membership::Genesis;
use manta_protocol::run::RunSpec;
use manta_protocol::run::spec::{DecaySpec, OptimizerKindSpec, RopeScalingSpec};
use manta_protocol::wire::codec::{self, CodecError};
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{Hash, NetworkId, Seed, Time};
use std::fmt::Write;

/// One line a message: kind, then the envelope in hexadecimal.
const VECTORS: &str = include_str!("envelopes.hex");
const SEQ: u64 = 1_790_000_000_000;
const EXPIRES_AT: Time = Time(NOW.0 + 60_000_000_000);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii(), "hexadecimal digits come in pairs");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn sealed(message: &Message) -> Vec<u8> {
    identity(1).seal(network(), SEQ, EXPIRES_AT, message)
}

#[test]
fn every_kind_of_envelope_has_exactly_these_bytes() {
    let lines: Vec<_> = VECTORS.lines().map(|line| line.split_once(' ').expect("kind, then digits")).collect();
    let made: String = messages().iter().fold(String::new(), |mut text, message| {
        let _ = writeln!(text, "{:?} {}", message.kind(), hex(&sealed(message)));
        text
    });
    assert!(made == VECTORS, "the encoding has changed; it now is\n{made}");
    assert_eq!(lines.len(), messages().len());
    for ((kind, digits), message) in lines.into_iter().zip(messages()) {
        let bytes = unhex(digits);
        let envelope = Envelope::open(&bytes, network()).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(format!("{:?}", envelope.message.kind()), kind);
        assert_eq!(envelope.message, message);
        assert_eq!((envelope.author, envelope.seq, envelope.expires_at), (peer(1), SEQ, EXPIRES_AT));
        assert_eq!(envelope.id, Hash::of(&bytes));
    }
}

#[test]
fn derived_names_have_exactly_these_values() {
    let cases = [
        (NetworkId::from_name("manta").to_string(), "1b2d3d22e775a13793e7cced99dd2b64400d8fc4e6c58f4e8064e9fd07d73057"),
        (spec().hash().to_string(), "a8c115b8c6736da91b0b1be71ee08df1043bd08e5acc0a50a0ffe95daf4c9518"),
        (confirm(&[1, 2]).run_id().to_string(), "c89e4d3bf9165e9b368f72c788daf94990f358acea491b443e36759b29953979"),
        (
            Genesis { name: "lab".into(), founder: peer(1) }.network_id().to_string(),
            "ead1d7ab2435c51ef0f8a042a305d696a7154bc0b58b01ba7d67267d98879913",
        ),
        (Seed::from_number(7).0.to_string(), "d214258ea15b800a2c7e65a0458131f1fa48537d8354f5666d41ed8a9ab847bd"),
        (
            Seed::from_number(7).child("batch", 3).0.to_string(),
            "a2fac94b3bdf4a515a56bbaa757b5d57df219c864046ca5a8b3e1bf3d1bcaab7",
        ),
        (peer(1).to_string(), "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    assert_eq!(Seed::from_number(7).value("batch", 3), 5857739711116343970);
}

#[test]
fn a_spec_that_starts_from_a_model_has_exactly_this_name() {
    let mut tuned = spec();
    tuned.initial = Some(Hash::of(b"parameters"));
    let llama3 = |factor: f32, low: f32, high: f32| RopeScalingSpec::Llama3 {
        factor: factor.into(),
        low_freq_factor: low.into(),
        high_freq_factor: high.into(),
        original_max_position_embeddings: 8192,
    };
    tuned.model.rope_scaling = Some(llama3(8.0, 1.0, 4.0));
    assert_eq!(tuned.validate(), Ok(()));
    assert_eq!(tuned.hash().to_string(), "64d0b8cd2e287e10e17a3144948586a32a37207f4773e617c6cd7617f3c594dd");
    let bytes = codec::encode(&tuned);
    assert_eq!(codec::decode::<RunSpec>(&bytes, 1024), Ok(tuned.clone()));
    // What is not there is left out, and null in its place is another encoding.
    let mut plain = codec::encode(&spec());
    assert_eq!(plain[0], 0xaf, "a map of 15");
    plain[0] = 0xb0;
    plain.extend([0x0f, 0xf6]);
    assert_eq!(codec::decode::<RunSpec>(&plain, 1024), Err(CodecError::NotCanonical));
    for scaling in [
        llama3(0.5, 1.0, 4.0),
        llama3(8.0, 4.0, 4.0),
        llama3(8.0, 0.0, 4.0),
        llama3(f32::NAN, 1.0, 4.0),
        llama3(8.0, f32::NAN, 4.0),
        RopeScalingSpec::Linear { factor: f32::INFINITY.into() },
        RopeScalingSpec::Linear { factor: (-2.0).into() },
    ] {
        tuned.model.rope_scaling = Some(scaling);
        assert!(tuned.validate().is_err_and(|problem| problem.contains("rope_scaling")), "{scaling:?}");
    }
}

#[test]
fn the_shape_of_the_decay_has_exactly_this_encoding() {
    let plain = codec::encode(&spec());
    let mut curved = spec();
    curved.optimizer.decay = DecaySpec::Cosine;
    assert_eq!(curved.hash().to_string(), "972116febb4b597b5719470250e7238ad8664a09be8d19a655128cf7a2378119");
    let bytes = codec::encode(&curved);
    assert_eq!(codec::decode::<RunSpec>(&bytes, 1024), Ok(curved.clone()));
    // The tenth field of the optimiser, after nine that are as before.
    let place = bytes.iter().zip(&plain).position(|(one, other)| one != other).expect("they differ");
    assert_eq!((plain[place], bytes[place]), (0xa9, 0xaa), "maps of 9 and of 10");
    let entry = place + bytes[place..].windows(2).position(|pair| pair == [9, 1]).expect("key 9, variant 1");
    let mut spelt_out = bytes.clone();
    spelt_out[entry + 1] = 0;
    assert_eq!(codec::decode::<RunSpec>(&spelt_out, 1024), Err(CodecError::NotCanonical), "linear is not said");
    spelt_out[entry + 1] = 3;
    assert!(matches!(codec::decode::<RunSpec>(&spelt_out, 1024), Err(CodecError::Malformed(_))), "no such shape");
    curved.optimizer.decay = DecaySpec::OneMinusSqrt;
    spelt_out[entry + 1] = 2;
    assert_eq!(codec::decode::<RunSpec>(&spelt_out, 1024), Ok(curved));
}

#[test]
fn the_rule_of_the_optimizer_has_exactly_this_encoding() {
    let plain = codec::encode(&spec());
    let mut muon = spec();
    muon.optimizer.kind = OptimizerKindSpec::Muon;
    assert_eq!(muon.validate(), Ok(()));
    assert_eq!(muon.hash().to_string(), "c55aa6f57a4ce6b7129d4c59f50d6ec817c5654ab425b81ad09130f7412aae06");
    let bytes = codec::encode(&muon);
    assert_eq!(codec::decode::<RunSpec>(&bytes, 1024), Ok(muon.clone()));
    // The eleventh field of the optimiser, after nine that are as before: its number counts the one that is not there.
    let place = bytes.iter().zip(&plain).position(|(one, other)| one != other).expect("they differ");
    assert_eq!((plain[place], bytes[place]), (0xa9, 0xaa), "maps of 9 and of 10");
    let [.., last] = muon.optimizer.final_fraction.0.to_be_bytes();
    let entry = bytes.windows(3).position(|three| three == [last, 10, 1]).expect("key 10, variant 1") + 1;
    assert_eq!([&bytes[..place], &bytes[place + 1..entry], &bytes[entry + 2..]].concat().len() + 1, plain.len());
    let mut spelt_out = bytes.clone();
    spelt_out[entry + 1] = 0;
    assert_eq!(codec::decode::<RunSpec>(&spelt_out, 1024), Err(CodecError::NotCanonical), "AdamW is not said");
    spelt_out[entry + 1] = 2;
    assert!(matches!(codec::decode::<RunSpec>(&spelt_out, 1024), Err(CodecError::Malformed(_))), "no such rule");
    muon.optimizer.decay = DecaySpec::Cosine;
    let both = codec::encode(&muon);
    assert_eq!((both[place], both.len()), (0xab, bytes.len() + 2));
    assert_eq!(codec::decode::<RunSpec>(&both, 1024), Ok(muon));
}

#[test]
fn schedules_that_do_not_fit_the_run_are_refused() {
    type Change = fn(&mut RunSpec);
    let cases: [(&str, Change); 6] = [
        ("warmup_steps = 5, accepted is 0 to 4", |spec| spec.optimizer.warmup_steps = 5),
        ("decay_start_step = 2, accepted is 3 to 4", |spec| {
            (spec.optimizer.warmup_steps, spec.optimizer.decay_start_step) = (3, 2);
        }),
        ("decay_start_step = 5, accepted is 1 to 4", |spec| spec.optimizer.decay_start_step = 5),
        ("final_fraction = 1.5", |spec| spec.optimizer.final_fraction = 1.5.into()),
        ("final_fraction = NaN", |spec| spec.optimizer.final_fraction = f32::NAN.into()),
        ("final_fraction = -0.5", |spec| spec.optimizer.final_fraction = (-0.5).into()),
    ];
    for (expected, change) in cases {
        let mut bad = spec();
        assert_eq!(bad.validate(), Ok(()));
        change(&mut bad);
        assert!(bad.validate().is_err_and(|problem| problem.contains(expected)), "{expected}: {:?}", bad.validate());
    }
}
