//! Golden vectors: what is signed, and what travels, to the byte.

use crate::bench::{Bench, value};
use crate::swarm::chain_id;
use manta_protocol::Hash;
use manta_protocol::consensus::{Certificate, Evidence, NIL, Output, Plan, Recovery, Seal, Statement, Step, Votes};
use manta_protocol::wire::codec::{decode, encode};
use std::fmt::Write;

/// One line each: what it is, then its bytes in hexadecimal.
const VECTORS: &str = include_str!("vectors.hex");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let bench = Bench::drawn_in(&[5]);
    let (chain, block) = (chain_id(), Hash::of(&value(1)));
    let statement = Statement { chain, height: 1, round: 3, step: Step::Propose, value: block, polka: 2 };
    let vote = bench.vote(1, 3, Step::Prevote, NIL);
    let precommit = bench.vote(1, 3, Step::Precommit, block);
    let proposal = bench.proposal(1, 3, 2, &value(1));
    let seal = Seal { author: precommit.author, signature: precommit.signature };
    let certificate = Certificate { height: 1, round: 3, value: block, seals: vec![seal] };
    let other = bench.vote(1, 3, Step::Precommit, NIL);
    let pair = [precommit, other].map(|vote| (vote.statement(&chain), vote.signature));
    let evidence = Evidence::new(bench.peer(1), pair[0], pair[1]).unwrap();
    let committee = bench.engine.start().committee.as_ref().clone();
    let plan = Plan { chain, height: 1, parent: chain, committee: committee.clone() };
    let consents = bench.identities.iter().map(|identity| plan.consent(identity)).collect();
    vec![
        ("statement", encode(&statement)),
        ("signature", statement.sign(&bench.identities[1]).0.to_vec()),
        ("votes", encode(&Votes { votes: vec![vote] })),
        ("proposal", encode(&proposal)),
        ("certificate", encode(&certificate)),
        ("evidence", encode(&evidence)),
        ("committee", encode(&committee)),
        ("committee-hash", committee.hash().0.to_vec()),
        ("recovery", encode(&Recovery::new(plan.clone(), consents))),
        ("recovered-chain", plan.new_chain().0.to_vec()),
        ("record", record()),
    ]
}

/// What the drawn member logs when it proposes.
fn record() -> Vec<u8> {
    let mut bench = Bench::drawn_in(&[0]);
    bench.input(manta_protocol::consensus::Input::ValueBuilt { height: 1, round: 0, bytes: value(1) }).unwrap();
    let journal = bench.outputs().into_iter().find_map(|output| match output {
        Output::Journal(record) => Some(record),
        _ => None,
    });
    journal.expect("a record before the proposal")
}

#[test]
fn everything_has_exactly_these_bytes() {
    let made = vectors().iter().fold(String::new(), |mut text, (name, bytes)| {
        let _ = writeln!(text, "{name} {}", hex(bytes));
        text
    });
    assert!(made == VECTORS, "the encoding has changed; it now is\n{made}");
}

#[test]
fn what_travels_is_read_back() {
    for (name, bytes) in vectors() {
        let again = match name {
            "votes" => decode::<Votes>(&bytes, 1_000).map(|read| encode(&read)),
            "proposal" => decode::<manta_protocol::consensus::Proposal>(&bytes, 1_000).map(|read| encode(&read)),
            "certificate" => decode::<Certificate>(&bytes, 1_000).map(|read| encode(&read)),
            "evidence" => decode::<Evidence>(&bytes, 1_000).map(|read| encode(&read)),
            "recovery" => decode::<Recovery>(&bytes, 2_000).map(|read| encode(&read)),
            _ => continue,
        };
        assert_eq!(again.as_ref(), Ok(&bytes), "{name}");
    }
}
