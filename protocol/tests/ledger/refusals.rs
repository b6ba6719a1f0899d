//! Each refusal of a transaction, by the transaction that meets it.

use crate::bench::{Bench, Manner, Worker, identity, parameters, right};
use manta_protocol::election::VrfPublic;
use manta_protocol::ledger::{
    Action, Agreement, Chance, DrillCommit, DrillReveal, Parameters, Phase, Refusal, Register, Transaction, Transfer,
};
use manta_protocol::{Hash, PeerId};

/// Why a block with this transaction alone is refused.
pub(crate) fn refusal(bench: &Bench, transaction: Transaction) -> Option<Refusal> {
    use manta_protocol::ledger::{Block, BlockError, merkle};
    let proposer = bench.state.next_committee().weights()[0].0;
    let proposer = bench.workers.iter().find(|worker| worker.peer() == proposer).unwrap();
    let Block { mut header, .. } = bench.state.build(&proposer.identity, [], bench.now_ms + 1).unwrap();
    header.transactions = merkle::root(&[merkle::leaf(transaction.id().as_bytes())]);
    match bench.state.execute(&Block { header, transactions: vec![transaction] }, u64::MAX) {
        Err(BlockError::Transaction { refusal, .. }) => Some(refusal),
        // Its effect is not in the header's root.
        Err(BlockError::StateRoot { .. }) => None,
        other => panic!("expected a judgement on the transaction, found {other:?}"),
    }
}

fn registering(bench: &Bench, worker: usize) -> Register {
    let identity = &bench.workers[worker].identity;
    Register { vrf: identity.vrf().public(), owner: identity.peer_id(), countersignature: None, class: 0 }
}

#[test]
fn registrations_and_transfers() {
    let mut bench = Bench::honest(2);
    bench.proposer = Some(0);
    bench.steps(2);
    let (me, stranger) = (bench.peer(0), identity(60).peer_id());
    let transfer = |to: PeerId, amount: u64| bench.counted(0, Action::Transfer(Transfer { to, amount }));
    let register = |register: Register| bench.counted(0, Action::Register(register));
    let good = registering(&bench, 0);
    let balance = bench.state.account(&me).unwrap().balance;
    assert_eq!(refusal(&bench, transfer(stranger, 1_000)), None);
    assert_eq!(refusal(&bench, transfer(stranger, 999)), Some(Refusal::Opening));
    assert_eq!(refusal(&bench, transfer(bench.peer(1), 1)), None);
    assert_eq!(refusal(&bench, transfer(bench.peer(1), 0)), Some(Refusal::EmptyTransfer));
    assert_eq!(refusal(&bench, transfer(me, 5)), Some(Refusal::EmptyTransfer));
    let needed = u64::MAX;
    assert_eq!(refusal(&bench, transfer(stranger, needed)), Some(Refusal::Balance { found: balance, needed }));
    assert_eq!(refusal(&bench, register(good)), None);
    assert_eq!(
        refusal(&bench, register(Register { class: 1, ..good })),
        Some(Refusal::NoSuchClass { found: 1, count: 1 })
    );
    let bad = Register { vrf: VrfPublic([0; 32]), ..good };
    assert_eq!(refusal(&bench, register(bad)), Some(Refusal::BadVrfKey));
    let other = bench.peer(1);
    let unasked = Register { owner: other, ..good };
    assert_eq!(refusal(&bench, register(unasked)), Some(Refusal::NotConsented(other)));
    let consent = |nonce| Register::countersign(&bench.workers[1].identity, &bench.state.ledger(), &me, nonce);
    let consented = Register { countersignature: Some(consent(1)), ..unasked };
    assert_eq!(refusal(&bench, register(consented)), None);
    let replayed = Register { countersignature: Some(consent(2)), ..unasked };
    assert_eq!(refusal(&bench, register(replayed)), Some(Refusal::NotConsented(other)));
    let later = bench.workers[0].sign(&bench.state, 2, Action::Standby { on: true });
    assert_eq!(refusal(&bench, later), Some(Refusal::Nonce { author: me, found: 2, expected: 1 }));
    let outsider = Worker::new(61, Manner::Honest);
    let standby = outsider.sign(&bench.state, 1, Action::Standby { on: true });
    assert_eq!(refusal(&bench, standby), Some(Refusal::NotRegistered(outsider.peer())));
}

#[test]
fn commitments() {
    let parameters = Parameters { trust_after: 1_000, trust_max: 1_000, ..parameters(Agreement::Escalate) };
    let mut bench = Bench::new(&[Manner::Honest; 6], parameters);
    let (mut winner, mut loser) = (None, None);
    while winner.is_none() || loser.is_none() {
        bench.step();
        (winner, loser) = (None, None);
        for worker in 0..6 {
            // Of new tasks only: these wait for commitments for another block, too.
            let is_new = |chance: &Chance| chance.stage.opened == bench.state.height();
            for chance in bench.state.chances(&bench.peer(worker)).into_iter().filter(is_new) {
                let Some(input) = &chance.input else { continue };
                let (output, proof) = bench.workers[worker].prove(input);
                let wins = chance.seats(&output) > 0;
                if wins { &mut winner } else { &mut loser }.get_or_insert((worker, chance, proof));
            }
        }
    }
    for worker in &mut bench.workers {
        worker.manner = Manner::Idle;
    }
    let state = bench.state.clone();
    let (worker, chance, proof) = winner.expect("somebody wins");
    let (task, stage) = (chance.task, chance.number);
    let commitment = right(&task, None).commitment(&task, &bench.peer(worker), &Hash::of(b"salt"));
    let good = DrillCommit { task, stage, proof: Some(proof), commitment };
    let sign = |worker: usize, commit: DrillCommit| bench.workers[worker].sign(&state, 0, Action::Commit(commit));
    assert_eq!(refusal(&bench, sign(worker, good)), None);
    let other = Hash::of(b"no such task");
    assert_eq!(refusal(&bench, sign(worker, DrillCommit { task: other, ..good })), Some(Refusal::NoSuchTask(other)));
    let wrong = Refusal::WrongPhase { task, stage };
    assert_eq!(refusal(&bench, sign(worker, DrillCommit { stage: stage - 1, ..good })), Some(wrong.clone()));
    let me = bench.peer(worker);
    assert_eq!(refusal(&bench, sign(worker, DrillCommit { proof: None, ..good })), Some(Refusal::NotElected(me)));
    let seats = &state.task(&task).unwrap().seats;
    let has_no_part = |other: &usize| *other != worker && seats.iter().all(|seat| seat.worker != bench.peer(*other));
    let another = (0..6).find(has_no_part).unwrap();
    let stolen = sign(another, good);
    assert_eq!(refusal(&bench, stolen), Some(Refusal::NotElected(bench.peer(another))), "a proof is its author's");
    let (unlucky, chance, proof) = loser.expect("somebody loses");
    let hopeful = DrillCommit { task: chance.task, stage: chance.number, proof: Some(proof), commitment };
    assert_eq!(refusal(&bench, sign(unlucky, hopeful)), Some(Refusal::NotElected(bench.peer(unlucky))));
    let outsider = Worker::new(61, Manner::Honest);
    let foreign = outsider.sign(&state, 0, Action::Commit(good));
    assert_eq!(refusal(&bench, foreign), Some(Refusal::NotElectable(outsider.peer())));
    let numbered = Transaction { nonce: 1, ..sign(worker, good) };
    assert!(refusal(&bench, numbered).is_some(), "what is not counted has no number");
    // Once is enough.
    let transaction = sign(worker, good);
    bench.send(transaction);
    bench.step();
    assert_eq!(refusal(&bench, transaction), Some(Refusal::NotElectable(me)));
}

#[test]
fn a_task_is_opened_by_its_primary_alone() {
    let mut bench = Bench::honest(5);
    bench.workers.iter_mut().for_each(|worker| worker.manner = Manner::Idle);
    bench.step();
    let opened_by = |bench: &Bench| {
        let task = bench.state.tasks().next().unwrap();
        let stage = *task.stage().unwrap();
        let primary = (0..5).find(|worker| Some(bench.peer(*worker)) == stage.primary).unwrap();
        (task.id, stage.interval, primary)
    };
    let (task, _, primary) = opened_by(&bench);
    let (_, proof) = bench.workers[primary].prove(&bench.state.task(&task).unwrap().stage().unwrap().input());
    let commit = |bench: &Bench, worker: usize, proof| {
        let commitment = right(&task, None).commitment(&task, &bench.peer(worker), &Hash::of(b"salt"));
        let commit = DrillCommit { task, stage: 0, proof, commitment };
        bench.workers[worker].sign(&bench.state, 0, Action::Commit(commit))
    };
    assert_eq!(refusal(&bench, commit(&bench, primary, None)), None);
    let needless = commit(&bench, primary, Some(proof));
    assert_eq!(refusal(&bench, needless), Some(Refusal::NotElected(bench.peer(primary))));
    for other in (0..5).filter(|other| *other != primary) {
        assert_eq!(refusal(&bench, commit(&bench, other, None)), Some(Refusal::NotElected(bench.peer(other))));
    }
    // Who does not come in its interval has to leave the task to another.
    let mut drawn = std::collections::BTreeSet::from([primary]);
    for interval in 1..8 {
        while bench.state.task(&task).unwrap().stage().unwrap().interval < interval {
            bench.step();
        }
        let next = (0..5)
            .find(|worker| Some(bench.peer(*worker)) == bench.state.task(&task).unwrap().stage().unwrap().primary);
        let next = next.unwrap();
        assert_eq!(refusal(&bench, commit(&bench, next, None)), None);
        let late = refusal(&bench, commit(&bench, primary, None));
        assert_eq!(late, (next != primary).then(|| Refusal::NotElected(bench.peer(primary))));
        drawn.insert(next);
    }
    assert!(drawn.len() > 2, "eight draws among five: {drawn:?}");
    bench.steps(4);
    assert_eq!(bench.state.task(&task), None, "it ends where nobody comes");
    assert_eq!(bench.state.totals().faults, 0, "to decline is free");
}

#[test]
fn reveals() {
    let mut bench = Bench::honest(5);
    let worker = loop {
        bench.step();
        let owes = (0..5).find(|worker| !bench.state.dues(&bench.peer(*worker)).is_empty());
        if let Some(worker) = owes {
            break worker;
        }
    };
    let me = bench.peer(worker);
    let due = bench.state.dues(&me)[0];
    let (task, state) = (due.task, bench.state.clone());
    let salt = Hash::of(&[task.as_bytes(), &me.as_bytes()[..], b"salt"].concat());
    let good = DrillReveal { task, salt, result: right(&task, None) };
    let sign = |worker: usize, reveal: DrillReveal| bench.workers[worker].sign(&state, 0, Action::Reveal(reveal));
    assert_eq!(refusal(&bench, sign(worker, good)), None);
    let bad_salt = DrillReveal { salt: Hash::of(b"x"), ..good };
    assert_eq!(refusal(&bench, sign(worker, bad_salt)), Some(Refusal::NoCommitment(me)));
    let mut changed = good;
    changed.result.digest = Hash::of(b"x");
    assert_eq!(refusal(&bench, sign(worker, changed)), Some(Refusal::NoCommitment(me)));
    let seats = &state.task(&task).unwrap().seats;
    let without = (0..5).find(|worker| seats.iter().all(|seat| seat.worker != bench.peer(*worker)));
    if let Some(other) = without {
        assert_eq!(refusal(&bench, sign(other, good)), Some(Refusal::NoCommitment(bench.peer(other))));
    }
    // Too early: another task still waits for commitments.
    let committing = state
        .tasks()
        .find(|task| !task.seats.is_empty() && task.stage().is_some_and(|stage| stage.phase == Phase::Committing));
    let committing = committing.expect("two tasks a height are open in turn");
    let early = committing.seats[0].worker;
    let by = (0..5).find(|worker| bench.peer(*worker) == early).unwrap();
    let salt = Hash::of(&[committing.id.as_bytes(), &early.as_bytes()[..], b"salt"].concat());
    let reveal = DrillReveal { task: committing.id, salt, result: right(&committing.id, None) };
    let found = refusal(&bench, sign(by, reveal));
    assert!(matches!(found, Some(Refusal::WrongPhase { task, .. }) if task == committing.id), "{found:?}");
}
