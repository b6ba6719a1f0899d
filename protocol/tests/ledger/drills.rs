//! Drills from draw to credit: honest swarms, and each way to cheat.

use crate::bench::{Bench, Manner, UNIT, parameters, right};
use manta_protocol::PeerId;
use manta_protocol::ledger::{Agreement, FaultKind, Outcome, Parameters, Seat, StageKind, State};
use std::collections::BTreeSet;

use Manner::{Colluder, Copier, Honest, Liar, Withholder};

fn never_trusting(agreement: Agreement) -> Parameters {
    Parameters { trust_after: 1_000, trust_max: 1_000, ..parameters(agreement) }
}

fn named(state: &State) -> BTreeSet<PeerId> {
    state.faults().map(|fault| fault.peer).collect()
}

#[test]
fn an_honest_swarm_agrees_and_shares_each_unit_by_seats() {
    let mut bench = Bench::new(&[Honest; 6], never_trusting(Agreement::Escalate));
    bench.steps(60);
    let totals = *bench.state.totals();
    assert!(totals.tasks_agreed > 60, "two tasks a height: {totals:?}");
    assert_eq!((totals.tasks_disputed, totals.tasks_void, totals.faults), (0, 0, 0), "{totals:?}");
    let gained: i64 = (0..6).map(|worker| bench.gained(worker)).sum();
    let worth = (totals.tasks_agreed * UNIT) as i64;
    // A share is rounded down: less than one millionth is lost for each seat.
    assert!(gained <= worth && worth - gained < 24 * totals.tasks_agreed as i64, "{gained} of {worth}");
    let rewards = totals.minted - 60 * bench.state.parameters().block_reward;
    assert!(rewards <= totals.tasks_agreed * bench.state.parameters().drill_reward);
    assert!(rewards + 24 * totals.tasks_agreed > totals.tasks_agreed * bench.state.parameters().drill_reward);
    for settled in bench.state.settled() {
        let task = &settled.task;
        assert_eq!(settled.outcome, Outcome::Agreed { digest: right(&task.id, None).digest });
        let owners: BTreeSet<_> = task.seats.iter().map(|seat| seat.owner).collect();
        assert!(owners.len() >= 2 && owners.len() == task.seats.len(), "one result per owner");
    }
}

#[test]
fn a_liar_is_named_and_nobody_else_loses_by_it() {
    let mut bench = Bench::new(&[Honest, Honest, Honest, Honest, Honest, Liar], never_trusting(Agreement::Escalate));
    bench.steps(60);
    let totals = *bench.state.totals();
    assert!(totals.tasks_disputed > 0, "{totals:?}");
    assert_eq!(named(&bench.state), BTreeSet::from([bench.peer(5)]));
    assert!(bench.state.faults().all(|fault| fault.kind == FaultKind::WrongResult));
    assert!(bench.gained(5) < -100_000, "the liar gains nothing and is fined: {}", bench.gained(5));
    assert!((0..5).all(|worker| bench.gained(worker) > 0));
    assert_eq!(totals.tasks_void, 0, "{totals:?}");
    let disputed: Vec<_> = bench.state.settled().filter(|settled| settled.task.stages.len() > 2).collect();
    assert!(!disputed.is_empty());
    for settled in disputed {
        let digest = settled.outcome.digest().unwrap();
        assert_eq!(digest, right(&settled.task.id, None).digest);
        let challenged: Vec<_> = settled.task.stages.iter().map(|stage| stage.challenged).collect();
        assert_eq!(challenged[..3], [false, false, true], "{:?}", settled.task.stages);
    }
}

#[test]
fn where_all_lose_a_liar_costs_the_honest_too() {
    let mut bench = Bench::new(&[Honest, Honest, Honest, Honest, Honest, Liar], never_trusting(Agreement::AllLose));
    bench.steps(60);
    let totals = *bench.state.totals();
    assert!(totals.tasks_disputed > 0 && totals.tasks_void == totals.tasks_disputed, "{totals:?}");
    assert!(bench.state.faults().all(|fault| fault.kind == FaultKind::Disagreement));
    assert!(named(&bench.state).len() > 3, "honest drillers lose, too");
    assert!(bench.state.settled().all(|settled| settled.task.stages.len() <= 2), "nobody is asked again");
}

#[test]
fn who_withholds_its_reveal_is_named_and_the_task_goes_on() {
    let mut bench = Bench::new(&[Honest, Honest, Honest, Honest, Withholder], never_trusting(Agreement::Escalate));
    bench.steps(60);
    assert_eq!(named(&bench.state), BTreeSet::from([bench.peer(4)]));
    assert!(bench.state.faults().all(|fault| fault.kind == FaultKind::Unrevealed));
    assert!(bench.gained(4) < 0);
    let is_left_out = |seat: &Seat| seat.forfeited;
    let left_out: Vec<_> = bench.state.settled().filter(|settled| settled.task.seats.iter().any(is_left_out)).collect();
    assert!(!left_out.is_empty());
    assert!(left_out.iter().all(|settled| settled.outcome.digest().is_some()), "the task is done without it");
}

#[test]
fn a_known_digest_is_worth_nothing_without_the_work() {
    let manners = [Honest, Honest, Honest, Liar, Liar, Copier, Honest, Honest];
    let mut bench = Bench::new(&manners, never_trusting(Agreement::Escalate));
    bench.steps(120);
    let copied: Vec<_> = bench.state.faults().filter(|fault| fault.kind == FaultKind::Copied).collect();
    assert!(!copied.is_empty(), "{:?}", bench.state.totals());
    assert!(copied.iter().all(|fault| fault.peer == bench.peer(5)));
    for settled in bench.state.settled() {
        let copier = settled.task.seats.iter().find(|seat| seat.worker == bench.peer(5));
        if let Some(seat) = copier.filter(|seat| settled.task.stages[usize::from(seat.stage)].challenged) {
            let power = bench.state.power(&seat.worker).unwrap();
            let entries = power.history.entries().iter();
            let about = |cause: &str| cause.contains(&settled.task.id.short());
            let paid = entries.filter(|entry| about(&entry.cause.to_string()) && entry.gained.0 > 0).count();
            // A liar beside it owes a check of another digest: it is no witness.
            let says = |of: &Seat| of.revealed.map(|revealed| revealed.result.digest);
            let alone = settled.task.seats_of(seat.stage).filter(|other| says(other) == says(seat)).count() == 1;
            assert!(paid == 0 || alone, "a copier gains only where nobody else of its stage did the unit");
        }
    }
    assert!((0..3).all(|worker| !named(&bench.state).contains(&bench.peer(worker))));
}

#[test]
fn trust_saves_work_and_is_lost_by_one_lie() {
    let mut bench = Bench::new(&[Honest; 5], Parameters { trust_after: 3, ..parameters(Agreement::Escalate) });
    bench.steps(60);
    let before = *bench.state.totals();
    assert!(before.tasks_trusted > 0, "{before:?}");
    let held = |bench: &Bench| bench.state.account(&bench.peer(0)).unwrap().held;
    let streak = |bench: &Bench| bench.state.trust(&bench.peer(0)).streak;
    assert!(streak(&bench) >= 3);
    while held(&bench) == 0 {
        bench.step();
    }
    let (held_before, burned_before) = (held(&bench), bench.state.totals().burned);
    bench.workers[0].manner = Liar;
    while bench.state.trust(&bench.peer(0)).faults == 0 {
        bench.step();
        assert!(bench.state.height() < 1_000, "one result in so many is compared");
    }
    assert_eq!((streak(&bench), held(&bench)), (0, 0));
    assert!(bench.state.totals().burned >= burned_before + held_before, "rewards unseen are taken out");
    let unverified = bench.state.power(&bench.peer(0)).unwrap().unverified;
    assert_eq!(unverified.0, 0, "and so is the power");
    let fault = bench.state.faults().next_back().unwrap();
    assert!(fault.lost.0 > 100_000, "more than the penalty: {fault:?}");
}

#[test]
fn two_owners_who_differ_are_both_let_go_and_three_outvote_one() {
    let mut two = Bench::new(&[Honest, Liar], never_trusting(Agreement::Escalate));
    two.steps(40);
    let totals = *two.state.totals();
    assert!(totals.tasks_void > 0 && totals.tasks_agreed == 0, "{totals:?}");
    assert_eq!(totals.faults, 0, "nobody can say who is right");
    let mut three = Bench::new(&[Honest, Honest, Liar], never_trusting(Agreement::Escalate));
    three.steps(60);
    assert_eq!(named(&three.state), BTreeSet::from([three.peer(2)]));
    assert!(three.state.totals().tasks_void < three.state.totals().tasks_agreed, "{:?}", three.state.totals());
}

#[test]
fn two_colluders_among_many_do_not_outvote_the_referee() {
    let manners = [Honest, Honest, Honest, Honest, Honest, Honest, Colluder, Colluder];
    let mut bench = Bench::new(&manners, never_trusting(Agreement::Escalate));
    bench.steps(120);
    let wrong = bench.state.settled().filter(|settled| {
        settled.outcome.digest().is_some_and(|digest| digest != right(&settled.task.id, None).digest)
    });
    // Where both hold all seats of a task nobody knows better; never after a dispute.
    assert!(wrong.into_iter().all(|settled| settled.task.stages.len() <= 2));
    let refereed = |stage: &manta_protocol::ledger::Stage| stage.kind == StageKind::Referee;
    assert!(
        bench.state.settled().any(|settled| settled.task.stages.iter().any(refereed))
            || bench.state.faults().count() > 0
    );
}

#[test]
fn a_single_proposer_cannot_make_others_miss_their_reveal() {
    let mut bench = Bench::new(&[Honest; 5], never_trusting(Agreement::Escalate));
    bench.steps(8);
    (bench.proposer, bench.censors_reveals) = (Some(0), true);
    // Four times the regular window is how long this one may hold out.
    bench.steps(7);
    assert_eq!(bench.state.totals().faults, 0);
    (bench.proposer, bench.censors_reveals) = (None, false);
    bench.steps(10);
    assert_eq!(bench.state.totals().faults, 0);
    assert!(bench.state.totals().tasks_agreed > 0);
}

#[test]
fn drills_of_idle_epochs_are_credited_when_blocks_resume() {
    let mut bench = Bench::new(&[Honest; 4], never_trusting(Agreement::Escalate));
    bench.steps(5);
    let idle = |bench: &Bench| {
        let is_idle = |task: &&manta_protocol::ledger::Task| {
            matches!(task.origin, manta_protocol::ledger::Origin::Drawn { idle: 1.., .. })
        };
        bench.state.tasks().filter(is_idle).count()
    };
    // As far as a clock may be wrong, nothing is made of it.
    bench.now_ms += 2_000;
    bench.step();
    assert_eq!(idle(&bench), 0);
    bench.now_ms += 8_000;
    bench.step();
    assert_eq!(idle(&bench), 6, "nine seconds, less two of skew and the block's own");
    let before = bench.state.totals().tasks_agreed;
    bench.now_ms += 1_000_000;
    bench.step();
    assert!(idle(&bench) <= 6 + 16, "never more than the bound");
    bench.steps(30);
    assert!(bench.state.totals().tasks_agreed >= before + 22, "{:?}", bench.state.totals());
}
