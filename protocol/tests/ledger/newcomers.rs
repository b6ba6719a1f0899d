//! Swarms of one and two, and keys without power.

use crate::bench::{Bench, Manner, Worker, parameters};
use manta_protocol::ledger::{Action, Admission, Agreement, Origin, Parameters, Register};
use manta_protocol::power::Branch;

#[test]
fn a_founder_alone_makes_blocks_and_no_drills() {
    let mut bench = Bench::honest(1);
    bench.steps(20);
    assert_eq!((bench.state.height(), bench.state.tasks().count()), (20, 0));
    let reward = bench.state.parameters().block_reward;
    assert_eq!(bench.state.account(&bench.peer(0)).unwrap().balance, 20 * reward);
}

#[test]
fn a_newcomer_comes_to_power_by_probation_and_then_drills() {
    let mut bench = Bench::honest(1);
    bench.steps(3);
    let newcomer = bench.join(100, Manner::Honest);
    bench.steps(40);
    let peer = bench.peer(newcomer);
    assert!(bench.state.weight(&peer).unwrap() > 0);
    assert!(bench.state.next_committee().contains(&peer), "power is a vote");
    let of_probation = |origin: &Origin| origin.candidate() == Some(&peer);
    assert!(bench.state.settled().any(|settled| of_probation(&settled.task.origin)));
    assert!(bench.state.totals().tasks_agreed > 0);
    assert_eq!(bench.state.totals().faults, 0);
    let drawn = bench.state.settled().filter(|settled| settled.task.origin.candidate().is_none());
    assert!(drawn.count() > 0, "two owners with weight drill by themselves");
}

#[test]
fn probation_ends_at_its_cap() {
    let cap = 10_000;
    // No drawn tasks: all power here is of probation.
    let parameters =
        Parameters { probation_weight_max: cap, tasks_per_1000_owners: 0, ..parameters(Agreement::Escalate) };
    let mut bench = Bench::new(&[Manner::Honest], parameters);
    let newcomer = bench.join(100, Manner::Honest);
    bench.steps(250);
    let weight = bench.state.weight(&bench.peer(newcomer)).unwrap();
    assert!((cap..cap + 2_000).contains(&weight), "one unit above the cap at most: {weight}");
    assert_eq!(bench.state.probation(&bench.peer(newcomer)), None);
}

#[test]
fn a_wrong_probation_unit_is_named_and_bars_its_key() {
    let mut bench = Bench::honest(4);
    let newcomer = bench.join(100, Manner::Liar);
    bench.steps(40);
    let peer = bench.peer(newcomer);
    let faults: Vec<_> = bench.state.faults().filter(|fault| fault.peer == peer).collect();
    assert_eq!(faults.len(), 1, "one fault, then it is barred");
    assert!(bench.state.faults().all(|fault| fault.peer == peer));
    assert_eq!(bench.state.power(&peer).unwrap().record.real(Branch::Drilling).0, 0);
    let task = faults[0].task.unwrap();
    let settled = bench.state.settled().find(|settled| settled.task.id == task);
    // Two who agree against a candidate need no others.
    assert!(settled.is_none_or(|settled| settled.task.stages.len() == 2));
}

#[test]
fn who_registers_again_is_a_newcomer_to_running_elections() {
    let mut bench = Bench::honest(3);
    bench.steps(6);
    let peer = bench.peer(0);
    let open = bench.state.chances(&peer).len();
    let register = Register {
        vrf: Worker::new(77, Manner::Honest).identity.vrf().public(),
        owner: peer,
        countersignature: None,
        class: 0,
    };
    bench.workers[0].manner = Manner::Idle;
    let transaction = bench.counted(0, Action::Register(register));
    assert_eq!(bench.send(transaction), Admission::New);
    bench.step();
    assert!(bench.state.chances(&peer).is_empty(), "{open} chances before");
    assert_eq!(bench.state.registration(&peer).unwrap().registered_at, 7);
}

#[test]
fn a_swarm_without_any_weight_keeps_its_committee_and_can_drill_again() {
    let mut bench = Bench::honest(2);
    bench.steps(4);
    let members = bench.state.next_committee().clone();
    // So long that all power has decayed to nothing.
    bench.now_ms += 86_400_000 * 7 * 80;
    for worker in &mut bench.workers {
        worker.manner = Manner::Idle;
    }
    bench.steps(8);
    let weights = bench.state.next_committee().weights();
    assert_eq!(weights.len(), members.weights().len(), "someone still decides");
    for worker in &mut bench.workers {
        worker.manner = Manner::Honest;
    }
    bench.steps(20);
    assert!(bench.state.totals().tasks_agreed > 0, "and drills again: {:?}", bench.state.totals());
}
