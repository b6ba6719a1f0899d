//! Leases: what users say of machines that trained for them, and what that counts.

use crate::bench::{Bench, Manner, parameters};
use crate::refusals::refusal;
use manta_protocol::ledger::limits::{LEASE_MASS_MIN, LEASE_PROBES_MAX, PROBE_MASS, TRANSACTION_BYTES_MAX};
use manta_protocol::ledger::{
    Action, Admission, Agreement, LeaseReport, Parameters, Refusal, Register, Reliability, Transaction,
};
use manta_protocol::wire::codec;
use manta_protocol::{Hash, PeerId, RunId};
use proptest::prelude::*;

const RUN: RunId = RunId([5; 32]);

/// Four founders; each is asked once in ten blocks, by all of them together.
fn leasing() -> Bench {
    let parameters =
        Parameters { probe_interval_ms: 10_000, tasks_per_1000_owners: 0, ..parameters(Agreement::Escalate) };
    Bench::new(&[Manner::Idle; 4], parameters)
}

/// What `user` has to tell of `trainer` that consented at `height`.
fn report(bench: &Bench, user: usize, trainer: usize, height: u64, kept: bool) -> LeaseReport {
    let identity = &bench.workers[trainer].identity;
    let consent = LeaseReport::consent(identity, &bench.state.ledger(), &bench.peer(user), &RUN, height);
    LeaseReport { trainer: bench.peer(trainer), run: RUN, height, consent, kept }
}

fn signed(bench: &Bench, user: usize, report: LeaseReport) -> Transaction {
    bench.workers[user].sign(&bench.state, 0, Action::Lease(report))
}

/// `user` tells it, and the next block takes it.
fn told(bench: &mut Bench, user: usize, trainer: usize, height: u64, kept: bool) -> LeaseReport {
    let report = report(bench, user, trainer, height, kept);
    let transaction = signed(bench, user, report);
    assert_eq!(bench.send(transaction), Admission::New);
    assert!(bench.step().transactions.contains(&transaction), "the block takes it");
    report
}

fn reliability(bench: &Bench, worker: usize) -> Reliability {
    bench.state.reliability(&bench.peer(worker)).copied().unwrap_or_default()
}

#[test]
fn leases_count_for_and_against() {
    let mut bench = leasing();
    bench.steps(20);
    told(&mut bench, 0, 1, 1, true);
    told(&mut bench, 0, 2, 1, false);
    let (kept, broken) = (reliability(&bench, 1), reliability(&bench, 2));
    assert_eq!((kept.leases_kept_ever, kept.leases_ever, kept.permille()), (1, 1, Some(1000)));
    assert_eq!((broken.leases_kept_ever, broken.leases_ever, broken.permille()), (0, 1, Some(0)));
    assert_eq!((kept.answered_ever, kept.probed_ever), (0, 0), "probes are counted apart");
    // Twenty blocks, in which a machine is asked 20 ÷ 10 · 4 ÷ 3 times, by a quarter of all weight.
    let expected = 20.0 / 10.0 * 4.0 / 3.0 / 4.0 * PROBE_MASS as f64;
    assert!((kept.all as f64 / expected - 1.0).abs() < 0.01, "{} of {expected}", kept.all);
    // Another user's word counts beside it.
    told(&mut bench, 3, 1, 1, false);
    let both = reliability(&bench, 1);
    assert_eq!((both.leases_kept_ever, both.leases_ever), (1, 2));
    assert!((450..=500).contains(&both.permille().unwrap()), "{both:?}");
}

#[test]
fn each_refusal() {
    let mut bench = leasing();
    bench.proposer = Some(0);
    bench.steps(20);
    let good = report(&bench, 0, 1, 1, true);
    let why = |by: usize, report: LeaseReport| refusal(&bench, signed(&bench, by, report));
    assert_eq!(why(0, good), None);
    // The author signs; the trainer has consented to all that is said but the outcome.
    assert_eq!(why(0, LeaseReport { kept: false, ..good }), None);
    let bad = Some(Refusal::BadConsent(good.trainer));
    assert_eq!(why(2, good), bad, "it is another user's");
    assert_eq!(why(0, LeaseReport { run: RunId([6; 32]), ..good }), bad);
    assert_eq!(why(0, LeaseReport { height: 2, ..good }), bad);
    let other = bench.peer(2);
    assert_eq!(why(0, LeaseReport { trainer: other, ..good }), Some(Refusal::BadConsent(other)));
    let trainer = &bench.workers[1].identity;
    let elsewhere = LeaseReport::consent(trainer, &Hash([7; 32]), &bench.peer(0), &RUN, 1);
    assert_eq!(why(0, LeaseReport { consent: elsewhere, ..good }), bad, "it is for another ledger");
    // The block is of height 21.
    assert_eq!(why(0, report(&bench, 0, 1, 21, true)), Some(Refusal::NoLease(21)));
    assert_eq!(why(0, report(&bench, 0, 1, 20, true)), None);
    let stranger = PeerId([9; 32]);
    assert_eq!(why(0, LeaseReport { trainer: stranger, ..good }), Some(Refusal::NotRegistered(stranger)));
    assert_eq!(why(0, report(&bench, 0, 0, 1, true)), Some(Refusal::OwnLease(bench.peer(0))));
    let mut numbered = signed(&bench, 0, good);
    numbered.nonce = 1;
    assert!(matches!(refusal(&bench, numbered), Some(Refusal::BadSignature(_))));
    assert!(codec::encode(&signed(&bench, 0, good)).len() <= TRANSACTION_BYTES_MAX);
}

#[test]
fn who_weighs_nothing_stands_by_or_is_a_stranger_has_no_say() {
    let mut bench = leasing();
    bench.proposer = Some(0);
    let newcomer = bench.join(50, Manner::Idle);
    bench.steps(20);
    let why = |bench: &Bench, by: usize| refusal(bench, signed(bench, by, report(bench, by, 1, 5, true)));
    assert_eq!(why(&bench, newcomer), Some(Refusal::LightLease { found: 0 }));
    bench.workers.push(crate::bench::Worker::new(51, Manner::Idle));
    assert_eq!(why(&bench, newcomer + 1), Some(Refusal::NotRegistered(bench.peer(newcomer + 1))));
    let offered = bench.send(signed(&bench, newcomer + 1, report(&bench, newcomer + 1, 1, 5, true)));
    assert!(matches!(offered, Admission::Refused(Refusal::NotRegistered(_))), "{offered:?}");
    let standby = bench.counted(2, Action::Standby { on: true });
    assert_eq!(bench.send(standby), Admission::New);
    bench.steps(1);
    assert_eq!(why(&bench, 2), Some(Refusal::NotElectable(bench.peer(2))));
    // Whose machine stands by meanwhile has leased it all the same.
    assert_eq!(refusal(&bench, signed(&bench, 0, report(&bench, 0, 2, 5, false))), None);
}

#[test]
fn an_owner_says_nothing_of_its_own_machines() {
    let mut bench = leasing();
    bench.proposer = Some(0);
    let owner = bench.workers[0].identity.clone();
    for worker in [1, 2] {
        let (me, vrf) = (bench.peer(worker), bench.workers[worker].identity.vrf().public());
        let nonce = bench.state.next_nonce(&me);
        let countersignature = Some(Register::countersign(&owner, &bench.state.ledger(), &me, nonce));
        let register = Register { vrf, owner: owner.peer_id(), countersignature, class: 0 };
        let transaction = bench.counted(worker, Action::Register(register));
        assert_eq!(bench.send(transaction), Admission::New);
        bench.step();
    }
    bench.steps(10);
    let why = |by, of| refusal(&bench, signed(&bench, by, report(&bench, by, of, 1, true)));
    for (by, of) in [(1, 2), (2, 1), (0, 1), (1, 0)] {
        assert_eq!(why(by, of), Some(Refusal::OwnLease(bench.peer(of))), "{by} of {of}");
    }
    assert_eq!(why(3, 1), None);
    assert_eq!(why(1, 3), None);
}

#[test]
fn no_time_counts_twice_for_a_user() {
    let mut bench = leasing();
    bench.proposer = Some(0);
    bench.steps(20);
    let first = told(&mut bench, 0, 1, 10, true);
    let whole = reliability(&bench, 1).all;
    bench.steps(1);
    for again in [first, LeaseReport { kept: false, ..first }, report(&bench, 0, 1, 9, true)] {
        assert_eq!(refusal(&bench, signed(&bench, 0, again)), Some(Refusal::NoLease(again.height)));
        let offered = bench.send(signed(&bench, 0, again));
        assert_eq!(offered, Admission::Refused(Refusal::NoLease(again.height)));
    }
    // A later consent to a time that was reported counts from that report on: it is
    // of height 21, the next block of 23.
    told(&mut bench, 0, 1, 11, true);
    let reliability = reliability(&bench, 1);
    let counted = [11, 13].map(|blocks: u64| blocks as f64 / 10.0 / 3.0 * PROBE_MASS as f64);
    assert!((whole as f64 / counted[0] - 1.0).abs() < 0.01, "{whole}");
    assert!((reliability.all as f64 / counted[1] - 1.0).abs() < 0.02, "{reliability:?}");
    assert_eq!(reliability.leases_ever, 2);
}

#[test]
fn a_weight_in_two_keys_says_what_it_would_in_one() {
    let mut bench = leasing();
    bench.steps(40);
    let mass = |user: usize| bench.state.lease_mass(&bench.peer(user), &report(&bench, user, 1, 4, true)).unwrap();
    let total: u64 = (0..4).map(|worker| bench.state.weight(&bench.peer(worker)).unwrap()).sum();
    let others: u64 = [0, 2, 3].map(|worker| bench.state.weight(&bench.peer(worker)).unwrap()).into_iter().sum();
    let all = 37.0 / 10.0 * 4.0 / 3.0 * PROBE_MASS as f64;
    let together = (mass(0) + mass(2) + mass(3)) as f64;
    let expected = all * others as f64 / total as f64;
    assert!((together / expected - 1.0).abs() < 1e-3, "{together} of {expected}");
}

/// A word on a peer: a probe, or a lease of so much.
fn words() -> impl Strategy<Value = (Option<u64>, bool)> {
    let mass = prop_oneof![
        LEASE_MASS_MIN..PROBE_MASS,
        PROBE_MASS..=LEASE_PROBES_MAX * PROBE_MASS,
        Just(LEASE_PROBES_MAX * PROBE_MASS),
    ];
    (proptest::option::of(mass), any::<bool>())
}

fn count(reliability: &mut Reliability, (lease, good): (Option<u64>, bool)) {
    match lease {
        None => reliability.probe(good),
        Some(mass) => reliability.lease(good, mass),
    }
}

fn permille(reliability: &Reliability) -> i64 {
    i64::from(reliability.permille().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_stay_within_their_bounds(words in proptest::collection::vec(words(), 1..200), wild in any::<u64>()) {
        let mut reliability = Reliability::default();
        for word in words {
            count(&mut reliability, word);
            // 64 probes, and what comes last before it fades.
            prop_assert!(reliability.all <= 65 * PROBE_MASS, "{:?}", reliability);
            prop_assert!(reliability.good <= reliability.all);
            prop_assert!(permille(&reliability) <= 1000);
        }
        reliability.lease(true, wild);
        prop_assert!(reliability.all <= 65 * PROBE_MASS);
    }

    /// What fades is (1 − 1⁄64)^m at once and at least e^(−m⁄64) in parts: apart by less than
    /// e^(m⁄8192) − 1, for the greatest m of 64 less than 1⁄127; a quarter of that in
    /// the share of good, and one more in a thousand for rounding.
    #[test]
    fn little_by_little_counts_as_at_once(
        before in proptest::collection::vec(words(), 0..80),
        mass in LEASE_MASS_MIN * 8..=LEASE_PROBES_MAX * PROBE_MASS,
        parts in 1..8u64,
        good in any::<bool>(),
    ) {
        let mut at_once = Reliability::default();
        before.into_iter().for_each(|word| count(&mut at_once, word));
        let mut in_parts = at_once;
        at_once.lease(good, mass);
        for part in 0..parts {
            in_parts.lease(good, mass * (part + 1) / parts - mass * part / parts);
        }
        let apart = (permille(&at_once) - permille(&in_parts)).abs();
        prop_assert!(apart <= 1000 / 127 / 4 + 1, "{} and {}", permille(&at_once), permille(&in_parts));
    }

    #[test]
    fn a_lease_of_one_probe_counts_as_a_probe(before in proptest::collection::vec(words(), 0..20), good in any::<bool>()) {
        let mut probed = Reliability::default();
        before.into_iter().for_each(|word| count(&mut probed, word));
        let mut leased = probed;
        probed.probe(good);
        leased.lease(good, PROBE_MASS);
        prop_assert_eq!((probed.good, probed.all), (leased.good, leased.all));
    }
}
