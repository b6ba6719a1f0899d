//! Liars among many: what honest peers lose under each rule, on seeded runs.

use crate::bench::{Bench, Manner, parameters, right};
use manta_protocol::ledger::{Agreement, FaultKind, Outcome, Parameters};
use std::collections::BTreeSet;

struct Tally {
    tasks: u64,
    honest_seats: u64,
    honest_losses: u64,
    false_accepts: u64,
    named: BTreeSet<usize>,
}

/// One liar in twenty equal owners, three results a task, nobody trusted.
fn run(agreement: Agreement, heights: usize) -> Tally {
    let parameters = Parameters {
        trust_after: 1_000,
        trust_max: 1_000,
        tasks_per_1000_owners: 200,
        // Only that a lie is a lie is measured: nobody drops out for its fines.
        penalty: manta_protocol::power::MicroPower(0),
        ..parameters(agreement)
    };
    let mut manners = [Manner::Honest; 20];
    manners[7] = Manner::Liar;
    let mut bench = Bench::new(&manners, parameters);
    let mut tally = Tally { tasks: 0, honest_seats: 0, honest_losses: 0, false_accepts: 0, named: BTreeSet::new() };
    let mut seen = BTreeSet::new();
    for _ in 0..heights {
        bench.step();
        for settled in bench.state.settled().filter(|settled| settled.height == bench.state.height()) {
            if !seen.insert(settled.task.id) {
                continue;
            }
            tally.tasks += 1;
            let honest: Vec<_> = settled
                .task
                .seats
                .iter()
                .filter(|seat| seat.worker != bench.peer(7) && seat.revealed.is_some())
                .collect();
            tally.honest_seats += honest.len() as u64;
            let paid = settled.outcome.digest() == Some(right(&settled.task.id, None).digest);
            tally.honest_losses += if paid { 0 } else { honest.len() as u64 };
            tally.false_accepts += u64::from(settled.outcome.digest().is_some() && !paid);
            assert!(agreement == Agreement::AllLose || settled.outcome != Outcome::AllLost);
        }
    }
    for fault in bench.state.faults() {
        let worker = (0..20).find(|worker| bench.peer(*worker) == fault.peer).unwrap();
        assert!(agreement == Agreement::AllLose || fault.kind == FaultKind::WrongResult);
        tally.named.insert(worker);
    }
    tally
}

#[test]
fn escalation_lets_only_the_liar_lose() {
    let tally = run(Agreement::Escalate, 70);
    println!("escalate: {} tasks, {} of {} honest seats lost", tally.tasks, tally.honest_losses, tally.honest_seats);
    assert!(tally.tasks >= 200, "{} tasks", tally.tasks);
    assert_eq!((tally.honest_losses, tally.false_accepts), (0, 0));
    assert_eq!(tally.named, BTreeSet::from([7]));
}

#[test]
fn where_all_lose_one_liar_in_twenty_costs_the_honest_a_tenth() {
    let tally = run(Agreement::AllLose, 70);
    let permille = tally.honest_losses * 1_000 / tally.honest_seats;
    println!("all-lose: {} tasks, {permille} permille of {} honest seats lost", tally.tasks, tally.honest_seats);
    assert!(tally.tasks >= 200, "{} tasks", tally.tasks);
    // A seat loses if the liar is among the others of its task: 1 − 0.95² = 98
    // permille with three seats, some more as tasks can have more than three.
    assert!((60..200).contains(&permille), "{permille} permille");
    assert_eq!(tally.false_accepts, 0);
    assert!(tally.named.len() > 10, "honest ones are named, too");
}
