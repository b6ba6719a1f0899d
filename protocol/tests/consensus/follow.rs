//! Following by certificates: light clients, sync, recoveries.

use crate::swarm::{Setup, Swarm, chain_id, identify};
use manta_protocol::consensus::{
    Blocks, Certificate, CertificateError, Committee, Decision, LightClient, LightError, Link, Plan, Recovery,
    RecoveryError, Seal, Statement, Step, Sync, SyncError,
};
use manta_protocol::wire::Identity;
use manta_protocol::{Duration, Hash, PeerId, Time};

fn identities(range: std::ops::Range<u8>) -> Vec<Identity> {
    range.map(|n| Identity::from_secret([n; 32])).collect()
}

fn committee(members: &[Identity]) -> Committee {
    Committee::new(members.iter().map(|member| (member.peer_id(), 1)).collect()).unwrap()
}

fn certificate(chain: Hash, height: u64, value: Hash, signers: &[Identity]) -> Certificate {
    let statement = Statement { chain, height, round: 2, step: Step::Precommit, value, polka: 0 };
    let seal = |signer: &Identity| Seal { author: signer.peer_id(), signature: statement.sign(signer) };
    let mut seals: Vec<_> = signers.iter().map(seal).collect();
    seals.sort_unstable_by_key(|seal| seal.author);
    Certificate { height, round: 2, value, seals }
}

#[test]
fn a_certificate_proves_only_what_a_quorum_signed() {
    let members = identities(1..8);
    let all = committee(&members);
    let value = Hash::of(b"block");
    let good = certificate(chain_id(), 5, value, &members[..5]);
    assert_eq!(good.verify(&chain_id(), &all), Ok(()));

    let short = certificate(chain_id(), 5, value, &members[..4]);
    assert_eq!(short.verify(&chain_id(), &all), Err(CertificateError::NoQuorum { found: 4, needed: 5 }));
    let outsider = identities(50..51);
    let padded = certificate(chain_id(), 5, value, &[&members[..4], &outsider[..]].concat());
    assert_eq!(padded.verify(&chain_id(), &all), Err(CertificateError::NotMember(outsider[0].peer_id())));
    let mut doubled = short.clone();
    doubled.seals.insert(1, doubled.seals[0]);
    assert!(matches!(doubled.verify(&chain_id(), &all), Err(CertificateError::Malformed(_))));

    for forged in [
        Certificate { height: 6, ..good.clone() },
        Certificate { round: 3, ..good.clone() },
        Certificate { value: Hash::of(b"other"), ..good.clone() },
    ] {
        assert!(matches!(forged.verify(&chain_id(), &all), Err(CertificateError::BadSignature(_))));
    }
    let nil = certificate(chain_id(), 5, manta_protocol::consensus::NIL, &members);
    assert!(matches!(nil.verify(&chain_id(), &all), Err(CertificateError::Malformed(_))), "no value was decided");
    assert!(good.verify(&Hash::of(b"another ledger"), &all).is_err());
    // Prevotes decide nothing.
    let prevote = Statement { step: Step::Prevote, ..good.statement(&chain_id()) };
    let mut weak = good.clone();
    for (seal, member) in weak.seals.iter_mut().zip(&members) {
        *seal = Seal { author: member.peer_id(), signature: prevote.sign(member) };
    }
    weak.seals.sort_unstable_by_key(|seal| seal.author);
    assert!(matches!(weak.verify(&chain_id(), &all), Err(CertificateError::BadSignature(_))));
}

/// A chain of headers whose committee changes after every second block.
struct Headers {
    chain: Vec<(Link, Certificate)>,
    committees: Vec<Committee>,
    groups: Vec<Vec<Identity>>,
}

fn headers() -> Headers {
    let groups: Vec<_> = (0..5u8).map(|term| identities(1 + 2 * term..6 + 2 * term)).collect();
    let of = |height: u64| ((height - 1) / 2) as usize;
    let mut parent = chain_id();
    let mut chain = Vec::new();
    for height in 1..=8u64 {
        let id = Hash::of(&[parent.as_bytes(), &height.to_le_bytes()[..]].concat());
        let link = Link { height, id, parent, committee: committee(&groups[of(height + 1)]).hash() };
        chain.push((link, certificate(chain_id(), height, id, &groups[of(height)][..4])));
        parent = id;
    }
    Headers { chain, committees: groups.iter().map(|group| committee(group)).collect(), groups }
}

#[test]
fn a_light_client_follows_from_genesis_by_certificates_and_committees() {
    let Headers { chain, committees, groups } = headers();
    let mut client = LightClient::new(chain_id(), committees[0].clone());
    for (link, certificate) in &chain {
        let next = &committees[(link.height / 2) as usize];
        let changes = link.committee != client.committee().hash();
        assert_eq!(changes, link.height % 2 == 0);
        if changes {
            let before = client.height();
            assert_eq!(client.follow(link, certificate, None), Err(LightError::Committee(link.committee)));
            let wrong = client.follow(link, certificate, Some(&committees[4]));
            assert!(link.height == 8 || wrong == Err(LightError::Committee(link.committee)));
            if link.height == 8 {
                continue;
            }
            assert_eq!(client.height(), before, "nothing changes by what is refused");
        }
        client.follow(link, certificate, changes.then_some(next)).unwrap();
        assert_eq!((client.height(), client.id()), (link.height, link.id));
    }

    let mut client = LightClient::new(chain_id(), committees[0].clone());
    let (first, proof) = &chain[0];
    assert!(matches!(client.follow(&chain[1].0, &chain[1].1, None), Err(LightError::Height { found: 2, expected: 1 })));
    let stray = Link { parent: Hash::of(b"elsewhere"), ..*first };
    assert!(matches!(client.follow(&stray, proof, None), Err(LightError::Parent { .. })));
    let other = Link { id: Hash::of(b"other"), ..*first };
    assert!(matches!(client.follow(&other, proof, None), Err(LightError::OtherBlock { .. })));
    let unknown = certificate(chain_id(), 1, first.id, &groups[4]);
    assert!(matches!(client.follow(first, &unknown, None), Err(LightError::Certificate(_))));
    client.follow(first, proof, None).unwrap();
}

#[test]
fn a_recovery_needs_its_place_and_every_new_member() {
    let members = identities(1..4);
    let plan = Plan { chain: chain_id(), height: 9, parent: Hash::of(b"last"), committee: committee(&members) };
    let consents: Vec<_> = members.iter().map(|member| plan.consent(member)).collect();
    let good = Recovery::new(plan.clone(), consents.clone());
    let place = (chain_id(), 9, plan.parent);
    let verify = |recovery: &Recovery| recovery.verify(&place.0, place.1, &place.2);
    assert_eq!(verify(&good), Ok(()));

    let lacking = Recovery::new(plan.clone(), consents[1..].to_vec());
    assert_eq!(verify(&lacking), Err(RecoveryError::NoConsent(members[0].peer_id())));
    let stranger = Identity::from_secret([77; 32]);
    let meddled = Recovery::new(plan.clone(), [&consents[..], &[plan.consent(&stranger)]].concat());
    assert_eq!(verify(&meddled), Err(RecoveryError::NotMember(stranger.peer_id())));
    let other = Plan { height: 10, ..plan.clone() };
    let stale = Recovery::new(other.clone(), consents.clone());
    assert!(matches!(stale.verify(&chain_id(), 10, &plan.parent), Err(RecoveryError::BadSignature(_))));
    assert!(matches!(verify(&stale), Err(RecoveryError::Elsewhere { .. })));
    assert!(matches!(good.verify(&chain_id(), 9, &Hash::of(b"fork")), Err(RecoveryError::OtherParent { .. })));
    assert!(matches!(good.verify(&plan.new_chain(), 9, &plan.parent), Err(RecoveryError::Elsewhere { .. })));
    assert_ne!(other.new_chain(), plan.new_chain());

    // A light client goes on by it, and by nothing that was signed before.
    let mut client = LightClient::new(chain_id(), committee(&identities(10..14)));
    let plan = Plan { height: 1, parent: chain_id(), ..plan };
    let recovery = Recovery::new(plan.clone(), members.iter().map(|member| plan.consent(member)).collect());
    client.recover(&recovery).unwrap();
    let id = Hash::of(b"first");
    let link = Link { height: 1, id, parent: chain_id(), committee: committee(&members).hash() };
    assert!(client.follow(&link, &certificate(chain_id(), 1, id, &members), None).is_err());
    client.follow(&link, &certificate(plan.new_chain(), 1, id, &members), None).unwrap();
}

#[test]
fn decided_blocks_are_checked_before_they_are_executed() {
    let mut swarm = Swarm::new(Setup::new(8, 4));
    assert!(swarm.run_to_height(2, Duration::from_s(60)));
    let host = &swarm.hosts[0];
    let decision = |place: usize| {
        let block = &host.chain[place];
        Decision { bytes: block.bytes.clone(), certificate: block.certificate.clone() }
    };
    let verify = |decision: &Decision, height| decision.verify(&chain_id(), height, &host.committee, identify);
    assert_eq!(verify(&decision(0), 1), Ok(()));
    assert_eq!(verify(&decision(1), 1), Err(SyncError::Height { found: 2, expected: 1 }));
    let swapped = Decision { bytes: decision(1).bytes, ..decision(0) };
    assert!(matches!(verify(&swapped, 1), Err(SyncError::OtherValue(_))));
    let mut unsigned = decision(0);
    unsigned.certificate.seals.truncate(2);
    assert!(matches!(verify(&unsigned, 1), Err(SyncError::Certificate(CertificateError::NoQuorum { .. }))));
}

#[test]
fn one_question_at_a_time_and_never_twice_to_who_did_not_answer() {
    let peer = |n: u8| PeerId([n; 32]);
    let at = |s: u64| Time(1_790_000_000_000_000_000) + Duration::from_s(s);
    let mut sync = Sync::default();
    assert_eq!(sync.ask(chain_id(), 0, at(0)), None);
    (1..4).for_each(|n| sync.hear(peer(n), 100));
    assert_eq!(sync.claimed(), 100);
    assert_eq!(sync.ask(chain_id(), 100, at(0)), None, "nobody is ahead");

    let (first, ask) = sync.ask(chain_id(), 10, at(0)).unwrap();
    assert_eq!((ask.from, ask.count), (11, 64));
    assert_eq!(sync.ask(chain_id(), 10, at(1)), None, "one question at a time");
    let empty = Blocks { from: 11, blocks: Vec::new() };
    let stranger = (1..4).map(peer).find(|peer| *peer != first).unwrap();
    assert!(!sync.answered(&stranger, &empty, at(1)), "nobody else was asked");
    assert!(sync.answered(&first, &empty, at(1)));
    let (second, _) = sync.ask(chain_id(), 10, at(1)).unwrap();
    assert_ne!(first, second, "who had nothing is left alone");
    let overdue = sync.timeout().unwrap();
    let (third, _) = sync.ask(chain_id(), 10, overdue).unwrap();
    assert!(third != first && third != second);
    sync.refused(&third, overdue);
    assert_eq!(sync.ask(chain_id(), 10, overdue), None);
    // A while later, and having said again how far it is, it is asked again.
    sync.hear(first, 100);
    assert_eq!(sync.ask(chain_id(), 10, at(300)).unwrap().0, first);
}

#[test]
fn a_crowd_of_claims_fills_no_more_than_the_table() {
    let mut sync = Sync::default();
    for n in 0..10_000u32 {
        sync.hear(PeerId(*Hash::of(&n.to_le_bytes()).as_bytes()), u64::from(n % 50));
    }
    let honest = PeerId([1; 32]);
    sync.hear(honest, 60);
    assert_eq!(sync.claimed(), 60, "who is further than the least makes its place");
    assert_eq!(sync.ask(chain_id(), 59, Time(1)).map(|(peer, _)| peer), Some(honest));
}
