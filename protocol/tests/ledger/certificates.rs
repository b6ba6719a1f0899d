//! What can be shown of a settled task to anyone.

use crate::bench::{Bench, Manner, identity, parameters};
use manta_protocol::Hash;
use manta_protocol::ledger::certificate::CERTIFICATE_BYTES_MAX;
use manta_protocol::ledger::{Agreement, CertificateError, DrillCertificate, Parameters, StageKind};
use manta_protocol::wire::codec;
use std::collections::BTreeSet;

fn certificates(manners: &[Manner], steps: usize) -> (Bench, Vec<DrillCertificate>) {
    let mut bench = Bench::new(manners, Parameters { trust_after: 5, ..parameters(Agreement::Escalate) });
    bench.steps(steps);
    let ids: Vec<_> = bench.state.settled().map(|settled| settled.task.id).collect();
    let cut = ids.iter().filter_map(|id| bench.state.drill_certificate(id)).collect();
    (bench, cut)
}

#[test]
fn a_certificate_verifies_by_itself_and_names_who_lied() {
    let manners = [Manner::Honest, Manner::Honest, Manner::Honest, Manner::Honest, Manner::Liar, Manner::Withholder];
    let (bench, cut) = certificates(&manners, 60);
    assert!(cut.len() > 10);
    let (mut dissenting, mut unrevealed) = (BTreeSet::new(), BTreeSet::new());
    for certificate in cut {
        let bytes = codec::encode(&certificate);
        assert!(bytes.len() <= CERTIFICATE_BYTES_MAX);
        let read = DrillCertificate::decode(&bytes).unwrap();
        assert_eq!(read, certificate);
        let certified = read.verify().unwrap();
        dissenting.extend(certified.dissenting);
        unrevealed.extend(certified.unrevealed);
        assert!(!certified.agreeing.is_empty());
    }
    assert_eq!((dissenting, unrevealed), (BTreeSet::from([bench.peer(4)]), BTreeSet::from([bench.peer(5)])));
}

#[test]
fn probation_has_certificates_too() {
    let mut bench = Bench::honest(1);
    let newcomer = bench.join(100, Manner::Honest);
    bench.steps(20);
    let peer = bench.peer(newcomer);
    let settled = bench.state.settled().find(|settled| settled.task.origin.candidate() == Some(&peer)).unwrap();
    let certified = bench.state.drill_certificate(&settled.task.id).unwrap().verify().unwrap();
    assert_eq!(certified.agreeing, [peer, bench.peer(0)]);
}

#[test]
fn no_part_of_a_certificate_can_be_changed() {
    let (_, cut) = certificates(&[Manner::Honest; 5], 30);
    let whole = cut.into_iter().find(|certificate| certificate.task.seats.len() >= 3).unwrap();
    type Change = fn(&mut DrillCertificate);
    type Expected = fn(&CertificateError) -> bool;
    let cases: &[(&str, Change, Expected)] = &[
        ("ledger", |c| c.ledger = Hash::of(b"x"), |e| matches!(e, CertificateError::Signature(_))),
        ("task", |c| c.task.id = Hash::of(b"x"), |e| matches!(e, CertificateError::Origin(_))),
        ("digest", |c| c.digest = Hash::of(b"x"), |e| matches!(e, CertificateError::NoAgreement(_))),
        ("beacon", |c| c.task.stages[0].beacon.0.0[0] ^= 1, |e| matches!(e, CertificateError::Origin(_))),
        ("stage beacon", |c| c.task.stages[1].beacon.0.0[0] ^= 1, |e| matches!(e, CertificateError::Election(_))),
        ("primary", |c| c.task.stages[0].primary = None, |e| matches!(e, CertificateError::Election(_))),
        ("weight", |c| c.task.seats[1].weight = 0, |e| matches!(e, CertificateError::Election(_))),
        ("kind", |c| c.task.stages[1].kind = StageKind::Opening, |e| matches!(e, CertificateError::Election(_))),
        ("expectation", |c| c.task.stages[1].expected_milli = 0, |e| matches!(e, CertificateError::Election(_))),
        (
            "worker",
            |c| c.task.seats[0].worker = identity(77).peer_id(),
            |e| matches!(e, CertificateError::Signature(_)),
        ),
        ("proof", |c| c.task.seats[1].election = None, |e| matches!(e, CertificateError::Signature(_))),
        (
            "salt",
            |c| c.task.seats[0].revealed.as_mut().unwrap().salt = Hash::of(b"x"),
            |e| matches!(e, CertificateError::Signature(_)),
        ),
        (
            "result",
            |c| c.task.seats[1].revealed.as_mut().unwrap().result.digest = Hash::of(b"x"),
            |e| matches!(e, CertificateError::Signature(_)),
        ),
        ("owner", |c| c.task.seats[1].owner = c.task.seats[0].owner, |e| matches!(e, CertificateError::TwoSeats(_))),
        ("stages", |c| c.task.stages.clear(), |e| matches!(e, CertificateError::Origin(_))),
        ("size", |c| c.task.seats = vec![c.task.seats[0]; 25], |e| matches!(e, CertificateError::Size { .. })),
    ];
    assert!(whole.verify().is_ok());
    for (what, change, expected) in cases {
        let mut changed = whole.clone();
        change(&mut changed);
        let error = changed.verify().unwrap_err();
        assert!(expected(&error), "{what}: {error}");
    }
}
