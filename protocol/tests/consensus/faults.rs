//! Crashes at every output, partitions, absent quorums, and everything at once.

use crate::swarm::{Manner, Setup, Swarm};
use manta_protocol::consensus::{Plan, Recovery};
use manta_protocol::{Duration, Hash, Seed};
use std::sync::Arc;

const MINUTE: Duration = Duration::from_s(60);
/// Of swarms with everything that can go wrong.
const SEEDS: u64 = 200;

#[test]
fn a_member_killed_at_any_output_goes_on_and_never_contradicts_itself() {
    for seed in 0..6 {
        // What links lose makes rounds fail, so that locks are in the log too.
        let setup = Setup { loss_permille: 150 * (seed % 2), ..Setup::new(seed, 4) };
        let mut calm = Swarm::new(setup.clone());
        assert!(calm.run_to_height(2, MINUTE));
        let outputs = calm.hosts[0].outputs_done;
        assert!(outputs > 8, "{outputs} outputs in two heights");
        for killed_after in 1..=outputs {
            let mut swarm = Swarm::new(setup.clone());
            swarm.check_replay = true;
            swarm.hosts[0].dies_after = Some(killed_after);
            assert!(swarm.run_to_height(2, MINUTE), "seed {seed}, killed after output {killed_after}");
            assert!(swarm.accused().is_empty(), "seed {seed}, killed after output {killed_after}");
        }
    }
}

#[test]
fn a_committee_of_one_killed_at_any_output_goes_on() {
    for killed_after in 1..=12 {
        let mut swarm = Swarm::new(Setup::new(killed_after, 1));
        swarm.check_replay = true;
        swarm.hosts[0].dies_after = Some(killed_after);
        swarm.run_for(Duration::from_s(10));
        assert!(swarm.hosts[0].chain.len() >= 5, "killed after output {killed_after}");
    }
}

#[test]
fn all_members_killed_again_and_again_never_contradict_themselves() {
    for seed in 0..25 {
        let mut swarm = Swarm::new(Setup { loss_permille: 50, ..Setup::new(seed, 4) });
        swarm.check_replay = true;
        let chance = Seed::from_number(seed);
        for time in 0..20 {
            let place = chance.below("victim", time, 4) as usize;
            let done = swarm.hosts[place].outputs_done;
            swarm.hosts[place].dies_after = Some(done + 1 + chance.below("output", time, 6));
            swarm.run_for(Duration::from_ms(500));
        }
        let reached = swarm.hosts.iter().map(|host| host.chain.len() as u64).max().unwrap();
        assert!(swarm.run_to_height(reached + 2, MINUTE), "seed {seed}");
        assert!(swarm.accused().is_empty(), "seed {seed}");
    }
}

#[test]
fn without_a_quorum_the_height_waits_names_the_absent_and_goes_on_when_they_return() {
    let mut swarm = Swarm::new(Setup { weights: vec![3, 3, 2, 2], ..Setup::new(9, 4) });
    assert!(swarm.run_to_height(2, MINUTE));
    let before: Vec<_> = swarm.hosts[0].chain.iter().map(|block| block.bytes.clone()).collect();
    (2..4).for_each(|place| swarm.crash(place));
    swarm.run_for(MINUTE.times(10));
    let stood_at = swarm.hosts[0].chain.len();
    assert!(stood_at <= before.len() + 1, "at most the height under way was decided");
    let progress = swarm.hosts[0].engine.as_ref().unwrap().progress();
    let mut absent: Vec<_> = (2..4).map(|place| (swarm.hosts[place].identity.peer_id(), 2)).collect();
    absent.sort_unstable();
    assert_eq!(progress.missing, absent);
    assert_eq!((progress.heard_weight, progress.quorum_weight), (6, 7));

    swarm.restart_at(swarm.now, 2);
    assert!(swarm.run_to_height(stood_at as u64 + 2, MINUTE));
    let after: Vec<_> = swarm.hosts[2].chain.iter().map(|block| block.bytes.clone()).collect();
    assert_eq!(after[..before.len()], before);
}

#[test]
fn a_partition_stops_the_ledger_and_its_end_starts_it_again() {
    for seed in 0..10 {
        let mut swarm = Swarm::new(Setup::new(seed, 4));
        swarm.run_for(Duration::from_ms(3_030 + 7 * seed));
        swarm.hosts[0].side = 1;
        swarm.hosts[1].side = 1;
        swarm.run_for(MINUTE.times(5));
        let reached = swarm.hosts.iter().map(|host| host.chain.len() as u64).max().unwrap();
        assert!(reached <= 4, "neither half decides alone");
        swarm.hosts.iter_mut().for_each(|host| host.side = 0);
        assert!(swarm.run_to_height(reached + 2, MINUTE), "seed {seed}");
    }
}

#[test]
fn who_was_away_catches_up_by_certificates() {
    let mut swarm = Swarm::new(Setup::new(3, 4));
    assert!(swarm.run_to_height(1, MINUTE));
    swarm.crash(3);
    assert!(swarm.run_to_height(80, MINUTE.times(10)));
    swarm.restart_at(swarm.now, 3);
    swarm.run_for(Duration::from_s(5));
    assert!(swarm.hosts[3].chain.len() >= 80, "more than one answer's worth of blocks");
    let height = swarm.hosts[3].chain.len() as u64;
    // And its vote counts again: now another one may go.
    swarm.crash(0);
    assert!(swarm.run_to_height(height + 2, MINUTE));
}

/// Less than a third of the weight is faulty in any of several ways, links lose
/// and double, members are killed, the swarm is cut in two for a while: nobody
/// forks or contradicts itself, and once links and machines are there again,
/// heights follow.
#[test]
fn under_a_third_faulty_nothing_forks_and_heights_follow() {
    for seed in 0..SEEDS {
        let chance = Seed::from_number(1_000 + seed);
        let draw = |label, bound| chance.below(label, 0, bound);
        let members = 4 + draw("members", if seed % 8 == 0 { 13 } else { 4 }) as usize;
        let faulty = (members - 1) / 3;
        let mut swarm = Swarm::new(Setup {
            loss_permille: draw("loss", 200),
            duplicate_permille: draw("double", 200),
            delay_ms: (5, 20 + draw("delay", 300)),
            ..Setup::new(seed, members)
        });
        for place in 0..faulty {
            match chance.below("fault", place as u64, 3) {
                0 => swarm.hosts[place].manner = Manner::TwoFaced,
                1 => swarm.hosts[place].manner = Manner::TwoFacedInSecret,
                _ => swarm.crash(place),
            }
        }
        let chosen = faulty + draw("killed", (members - faulty) as u64) as usize;
        swarm.hosts[chosen].dies_after = Some(1 + draw("output", 40));
        swarm.run_for(Duration::from_ms(500 + draw("until", 1_500)));
        (0..members).for_each(|place| swarm.hosts[place].side = chance.below("side", place as u64, 2) as u8);
        swarm.run_for(Duration::from_ms(draw("apart", 6_000)));
        swarm.hosts.iter_mut().for_each(|host| host.side = 0);
        let reached = *swarm.decided.keys().max().unwrap_or(&0);
        let done = swarm.run_to_height(reached + 2, MINUTE.times(3));
        assert!(done, "seed {seed} with {members} members: {}", swarm.describe());
        let liars = (0..faulty).map(|place| swarm.hosts[place].identity.peer_id());
        let liars: std::collections::BTreeSet<_> = liars.collect();
        assert!(swarm.accused().is_subset(&liars), "seed {seed}: an honest member was accused");
    }
}

/// Without the log, the same kills make a member contradict itself: the checks see it.
#[test]
#[should_panic(expected = "said two things")]
fn disks_that_forget_make_liars_and_the_checks_see_it() {
    for killed_after in 1..=12 {
        let mut swarm = Swarm::new(Setup::new(2, 4));
        swarm.disks_forget = true;
        (0..4).for_each(|place| swarm.hosts[place].dies_after = Some(killed_after));
        swarm.run_for(Duration::from_s(10));
    }
}

/// With a third of the weight or more two-faced and honest members apart, the
/// same checks must find a fork: they can fail.
#[test]
#[should_panic(expected = "FORK")]
fn half_of_liars_fork_and_the_checks_see_it() {
    for seed in 0..5 {
        let mut swarm = Swarm::new(Setup::new(seed, 6));
        for place in [0, 1, 2, 3] {
            swarm.hosts[place].manner = Manner::TwoFacedInSecret;
        }
        // The two honest ones, 4 and 5, are told different things and never meet.
        swarm.run_for(Duration::from_s(6));
    }
}

#[test]
fn a_committee_that_left_is_replaced_by_its_owners_alone() {
    let mut swarm = Swarm::new(Setup::new(4, 4));
    assert!(swarm.run_to_height(3, MINUTE));
    (1..4).for_each(|place| swarm.crash(place));
    swarm.run_for(MINUTE.times(10));
    let stood_at = swarm.hosts[0].chain.len() as u64;
    let survivor = swarm.hosts[0].identity.clone();
    let plan = Plan {
        chain: swarm.hosts[0].chain_id,
        height: stood_at + 1,
        parent: Hash::of(&swarm.hosts[0].chain[stood_at as usize - 1].bytes),
        committee: manta_protocol::consensus::Committee::new(vec![(survivor.peer_id(), 1)]).unwrap(),
    };
    let recovery = Recovery::new(plan.clone(), vec![plan.consent(&survivor)]);
    recovery.verify(&swarm.hosts[0].chain_id, stood_at + 1, &plan.parent).unwrap();

    swarm.hosts[0].chain_id = plan.new_chain();
    swarm.hosts[0].committee = Arc::new(plan.committee.clone());
    let (start, now) = (swarm.start_of(0), swarm.now);
    swarm.hosts[0].engine.as_mut().unwrap().advance(start, now);
    swarm.drain(0);
    swarm.run_for(Duration::from_ms(3_500));
    assert!(swarm.hosts[0].chain.len() as u64 >= stood_at + 3);
}
