//! Blocks, transactions, snapshots and certificates that nobody honest makes:
//! refused, never a panic.

use crate::bench::{Bench, Manner, identity, parameters};
use manta_protocol::election::{VrfProof, VrfPublic};
use manta_protocol::ids::Signature;
use manta_protocol::ledger::{
    Action, Agreement, Block, DrillCertificate, DrillCommit, DrillResult, DrillReveal, LeaseReport, Mempool,
    Parameters, ProbeResult, Register, State, Transaction, Transfer, merkle,
};
use manta_protocol::wire::{Identity, codec};
use manta_protocol::{Hash, PeerId, RunId};
use proptest::prelude::*;
use std::sync::OnceLock;

struct Scene {
    bench: Bench,
    block: Block,
    certificate: DrillCertificate,
    snapshot: Vec<u8>,
}

/// A swarm in the middle of its work, built once.
fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let manners = [Manner::Honest, Manner::Honest, Manner::Honest, Manner::Honest, Manner::Liar];
        let mut bench = Bench::new(&manners, Parameters { trust_after: 3, ..parameters(Agreement::Escalate) });
        bench.probes = true;
        bench.join(100, Manner::Honest);
        bench.steps(24);
        bench.now_ms += 1_000;
        bench.gather();
        let block = bench.build();
        let ids: Vec<_> = bench.state.settled().map(|settled| settled.task.id).collect();
        let certificate = ids.iter().find_map(|id| bench.state.drill_certificate(id)).unwrap();
        let snapshot = bench.state.encode();
        Scene { bench, block, certificate, snapshot }
    })
}

/// Ids that mean something here, or not.
fn hashes() -> impl Strategy<Value = Hash> {
    let known: Vec<Hash> = scene().bench.state.tasks().map(|task| task.id).collect();
    prop_oneof![any::<[u8; 32]>().prop_map(Hash), proptest::sample::select(known), Just(Hash([0; 32]))]
}

fn peers() -> impl Strategy<Value = PeerId> {
    let known: Vec<PeerId> = (0..6).map(|worker| scene().bench.peer(worker)).collect();
    prop_oneof![any::<[u8; 32]>().prop_map(PeerId), proptest::sample::select(known)]
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..40u64, Just(u64::MAX)]
}

fn proofs() -> impl Strategy<Value = VrfProof> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 80).prop_map(|bytes| VrfProof(bytes.try_into().unwrap())),
        Just(scene().block.header.beacon_proof),
    ]
}

fn actions() -> impl Strategy<Value = Action> {
    let result = (hashes(), hashes()).prop_map(|(digest, check)| DrillResult { digest, check });
    prop_oneof![
        (any::<[u8; 32]>(), peers(), any::<u8>()).prop_map(|(vrf, owner, class)| {
            Action::Register(Register { vrf: VrfPublic(vrf), owner, countersignature: Some(Signature([7; 64])), class })
        }),
        any::<bool>().prop_map(|on| Action::Standby { on }),
        (peers(), numbers()).prop_map(|(to, amount)| Action::Transfer(Transfer { to, amount })),
        (hashes(), any::<u8>(), proptest::option::of(proofs()), hashes()).prop_map(
            |(task, stage, proof, commitment)| Action::Commit(DrillCommit { task, stage, proof, commitment })
        ),
        (hashes(), hashes(), result).prop_map(|(task, salt, result)| Action::Reveal(DrillReveal {
            task,
            salt,
            result
        })),
        (numbers(), any::<u32>(), proofs(), any::<bool>()).prop_map(|(height, seat, proof, replied)| {
            let reply = replied.then_some(Signature([9; 64]));
            Action::Probe(ProbeResult { height, seat, proof, reply })
        }),
        // Consents of the first five, to the first user.
        (peers(), any::<[u8; 32]>(), numbers(), proptest::option::of(0..5u32), any::<bool>()).prop_map(
            |(trainer, run, height, by, kept)| {
                let (run, user) = (RunId(run), identity(0).peer_id());
                let sign = |by: Identity| {
                    let consent = LeaseReport::consent(&by, &scene().bench.state.ledger(), &user, &run, height);
                    (by.peer_id(), consent)
                };
                let (trainer, consent) = by.map_or((trainer, Signature([9; 64])), |by| sign(identity(by)));
                Action::Lease(LeaseReport { trainer, run, height, consent, kept })
            }
        ),
    ]
}

/// Signed by one who is registered here, so that it gets as far as it can.
fn transactions() -> impl Strategy<Value = Transaction> {
    (actions(), 0..7u32, numbers()).prop_map(|(action, author, nonce)| {
        let scene = scene();
        let identity = if author == 5 { identity(100) } else { identity(author) };
        let nonce = if nonce < 20 { scene.bench.state.next_nonce(&identity.peer_id()) } else { nonce };
        Transaction::sign(&identity, &scene.bench.state.ledger(), nonce, action)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn signed_nonsense_is_refused_or_leaves_a_sound_state(sent in proptest::collection::vec(transactions(), 1..12)) {
        let scene = scene();
        let mut pool = Mempool::default();
        for transaction in &sent {
            pool.offer(&scene.bench.state, *transaction);
            prop_assert_eq!(Transaction::decode(&codec::encode(transaction)), Ok(*transaction));
        }
        let proposer = scene.block.header.proposer;
        let proposer = &scene.bench.workers.iter().find(|worker| worker.peer() == proposer).unwrap().identity;
        // All of them, and those that the pool takes.
        for candidates in [sent.iter().collect::<Vec<_>>(), pool.candidates(&scene.bench.state)] {
            let block = scene.bench.state.build(proposer, candidates, scene.bench.now_ms).unwrap();
            let next = scene.bench.state.execute(&block, scene.bench.now_ms).unwrap();
            prop_assert!(next.is_sound());
        }
    }

    #[test]
    fn a_changed_block_is_refused(at in any::<proptest::sample::Index>(), flip in 1..=255u8, cut in any::<bool>()) {
        let scene = scene();
        let mut bytes = scene.block.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if cut {
            bytes.truncate(at + 1);
        }
        if let Ok(block) = Block::decode(&bytes) {
            prop_assert!(scene.bench.state.execute(&block, u64::MAX).is_err());
        }
    }

    #[test]
    fn shuffled_transactions_under_a_fitting_root_are_refused(
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20)
    ) {
        let scene = scene();
        let all = &scene.block.transactions;
        let transactions: Vec<_> = picks.iter().map(|pick| all[pick.index(all.len())]).collect();
        let leaves: Vec<_> = transactions.iter().map(|tx| merkle::leaf(tx.id().as_bytes())).collect();
        let mut header = scene.block.header;
        header.transactions = merkle::root(&leaves);
        if &transactions != all {
            let block = Block { header, transactions };
            prop_assert!(scene.bench.state.execute(&block, u64::MAX).is_err());
        }
    }

    #[test]
    fn a_changed_certificate_does_not_verify(at in any::<proptest::sample::Index>(), flip in 1..=255u8) {
        let scene = scene();
        let mut bytes = codec::encode(&scene.certificate);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(certificate) = DrillCertificate::decode(&bytes) {
            // Who did what is proven; heights, weights and owners are told.
            if let Ok(certified) = certificate.verify() {
                prop_assert_eq!(certified, scene.certificate.verify().unwrap());
            }
        }
    }

    #[test]
    fn a_changed_snapshot_is_refused(at in any::<proptest::sample::Index>(), flip in 1..=255u8) {
        let scene = scene();
        let mut bytes = scene.snapshot.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let (head, root) = (scene.bench.state.head(), scene.bench.state.root());
        prop_assert!(State::decode(&bytes, head, root).is_err());
    }

    #[test]
    fn bytes_of_any_kind_are_no_block(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Block::decode(&bytes).is_err());
        prop_assert!(DrillCertificate::decode(&bytes).is_err());
        prop_assert!(Transaction::decode(&bytes).is_err());
    }
}
