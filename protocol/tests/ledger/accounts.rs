//! Credits, numbers, standby, evidence.

use crate::bench::{Bench, Manner, identity, parameters};
use manta_protocol::consensus::{Committee, Evidence, Plan, Recovery, RecoveryError, Statement, Step};
use manta_protocol::ledger::{Action, Admission, Agreement, FaultKind, Transaction, Transfer};
use manta_protocol::power::Branch;
use manta_protocol::{Hash, PeerId};

fn transfer(to: PeerId, amount: u64) -> Action {
    Action::Transfer(Transfer { to, amount })
}

/// A swarm of two whose first founder has some credits.
fn funded() -> Bench {
    let mut bench = Bench::honest(2);
    bench.proposer = Some(0);
    bench.steps(3);
    bench
}

fn balance(bench: &Bench, peer: &PeerId) -> u64 {
    bench.state.account(peer).map_or(0, |account| account.balance)
}

#[test]
fn credits_move_once_and_in_order() {
    let mut bench = funded();
    let stranger = identity(200).peer_id();
    let before = balance(&bench, &bench.peer(0));
    let first = bench.counted(0, transfer(stranger, 5_000));
    assert_eq!(bench.send(first), Admission::New);
    let second = bench.counted(0, transfer(stranger, 7));
    assert_eq!((first.nonce + 1, second.nonce), (second.nonce, 2));
    assert_eq!(bench.send(second), Admission::New);
    let block = bench.step();
    let transfers: Vec<_> = block.transactions.iter().filter(|transaction| transaction.nonce > 0).collect();
    assert_eq!(transfers, [&first, &second]);
    assert_eq!(balance(&bench, &stranger), 5_007);
    let reward = bench.state.parameters().block_reward;
    assert!(balance(&bench, &bench.peer(0)) >= before + reward - 5_007);
    assert!(matches!(bench.send(first), Admission::Refused(_)), "it counts once");
    assert!(bench.pool.get(&first.id()).is_none());
}

#[test]
fn a_transaction_for_another_ledger_or_of_another_author_is_refused() {
    let mut bench = funded();
    let stranger = identity(200).peer_id();
    let other =
        Transaction::sign(&bench.workers[0].identity, &Hash::of(b"another ledger"), 1, transfer(stranger, 5_000));
    assert!(matches!(bench.send(other), Admission::Refused(_)));
    let forged =
        Transaction { author: bench.peer(0), ..bench.workers[1].sign(&bench.state, 1, transfer(stranger, 5_000)) };
    assert!(matches!(bench.send(forged), Admission::Refused(_)));
    assert!(bench.pool.is_empty());
}

#[test]
fn who_stands_by_is_not_elected_and_leaves_the_committee_at_the_next_term() {
    let mut bench = Bench::honest(3);
    bench.steps(2);
    let peer = bench.peer(0);
    let standby = bench.counted(0, Action::Standby { on: true });
    assert_eq!(bench.send(standby), Admission::New);
    bench.step();
    assert!(bench.state.chances(&peer).is_empty());
    bench.steps(8);
    assert!(!bench.state.next_committee().contains(&peer));
    assert_eq!(bench.state.weight(&peer), None);
    let back = bench.counted(0, Action::Standby { on: false });
    assert_eq!(bench.send(back), Admission::New);
    bench.steps(12);
    assert!(bench.state.next_committee().contains(&peer));
}

#[test]
fn a_committee_is_the_same_for_a_whole_term() {
    let mut bench = Bench::honest(3);
    let mut committees = Vec::new();
    for _ in 0..12 {
        committees.push(bench.state.next_committee().hash());
        bench.step();
    }
    let terms: Vec<_> = committees.chunks(4).collect();
    assert!(terms.iter().all(|term| term.iter().all(|hash| *hash == term[0])));
    assert_ne!(terms[0][0], terms[1][0], "weights decay, so terms differ");
}

#[test]
fn an_equivocation_costs_all_power_once() {
    let mut bench = Bench::honest(4);
    bench.steps(5);
    let offender = &bench.workers[3].identity;
    let statement = |value: &[u8]| {
        let chain = bench.state.chain();
        Statement { chain, height: 4, round: 0, step: Step::Precommit, value: Hash::of(value), polka: 0 }
    };
    let (one, other) = (statement(b"one"), statement(b"other"));
    let signed = |statement: Statement| (statement, statement.sign(offender));
    let evidence = Evidence::new(offender.peer_id(), signed(one), signed(other)).unwrap();
    let report = bench.workers[0].sign(&bench.state, 0, Action::Evidence(evidence));
    assert_eq!(bench.send(report), Admission::New);
    bench.step();
    let peer = bench.peer(3);
    assert_eq!(bench.state.weight(&peer), None, "it stands by");
    assert_eq!(bench.state.power(&peer).unwrap().record.real(Branch::Drilling).0, 0);
    let faults: Vec<_> = bench.state.faults().map(|fault| (fault.peer, fault.kind)).collect();
    assert_eq!(faults, [(peer, FaultKind::Equivocation)]);
    let again = bench.workers[1].sign(&bench.state, 0, Action::Evidence(evidence));
    assert!(matches!(bench.send(again), Admission::Refused(_)), "nobody is fined twice for it");
    bench.steps(8);
    assert!(!bench.state.next_committee().contains(&peer));
}

#[test]
fn a_recovery_gives_the_ledger_to_those_who_are_left() {
    let mut bench = Bench::new(&[Manner::Honest; 3], parameters(Agreement::Escalate));
    bench.steps(3);
    let (left, identity) = (bench.peer(0), bench.workers[0].identity.clone());
    let plan = bench.state.recovery_plan(&[left]).unwrap();
    assert_eq!(plan.committee.weight(&left), bench.state.next_committee().weight(&left), "what it weighed before");
    let recovery = Recovery::new(plan.clone(), vec![plan.consent(&identity)]);
    bench.state = bench.state.recover(&recovery).unwrap();
    assert_eq!((bench.state.next_committee(), bench.state.chain()), (&plan.committee, plan.new_chain()));
    assert!(matches!(bench.state.recover(&recovery), Err(RecoveryError::Elsewhere { .. })), "not twice");
    bench.steps(12);
    assert_eq!(bench.state.next_committee().weights().len(), 1, "who is gone does not come back by itself");
}

#[test]
fn a_recovery_has_members_and_weights_of_the_ledger() {
    let mut bench = Bench::new(&[Manner::Honest; 2], parameters(Agreement::Escalate));
    bench.steps(3);
    let (left, own) = (bench.peer(0), bench.workers[0].identity.clone());
    let stranger = identity(77);
    assert_eq!(
        bench.state.recovery_plan(&[left, stranger.peer_id()]),
        Err(RecoveryError::NotRegistered(stranger.peer_id()))
    );
    assert!(matches!(bench.state.recovery_plan(&[left, left]), Err(RecoveryError::Committee(_))));
    assert!(matches!(bench.state.recovery_plan(&[]), Err(RecoveryError::Committee(_))));
    let good = bench.state.recovery_plan(&[left]).unwrap();
    let weight = good.committee.weight(&left);
    for (committee, wrong) in [
        (vec![(left, weight + 1)], RecoveryError::OtherWeight { peer: left, found: weight + 1, expected: weight }),
        (vec![(stranger.peer_id(), 1)], RecoveryError::NotRegistered(stranger.peer_id())),
    ] {
        let plan = Plan { committee: Committee::new(committee).unwrap(), ..good.clone() };
        let consents = vec![plan.consent(if plan.committee.contains(&left) { &own } else { &stranger })];
        assert_eq!(bench.state.recover(&Recovery::new(plan, consents)), Err(wrong));
    }
    let unsigned = Recovery::new(good, Vec::new());
    assert_eq!(unsigned.missing(), [left]);
    assert_eq!(bench.state.recover(&unsigned), Err(RecoveryError::NoConsent(left)));
}
