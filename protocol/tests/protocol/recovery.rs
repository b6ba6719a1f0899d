//! Runs whose members die, hang, leave, come back and come late.

use crate::cluster::{Cluster, long_spec};
use manta_protocol::run::report::AbortReason;
use manta_protocol::run::view::Fate;
use manta_protocol::{Command, Duration, Input};

const TARGET_OF_THREE: u64 = 360;

/// The run goes on until a part of its batches is done, and no further than in mid-exchange.
fn in_the_middle(cluster: &mut Cluster, extra_ms: u64) {
    assert!(cluster.until(120, |cluster| cluster.hosts[0].batches_done() >= 60), "{}", cluster.show(60));
    let at = cluster.now + Duration::from_ms(extra_ms);
    cluster.until(1, |cluster| cluster.now >= at);
}

fn ends_well(cluster: &mut Cluster, hosts: &[usize]) {
    assert!(cluster.until(300, |cluster| cluster.finished(hosts)), "{}", cluster.show(60_000));
    for host in hosts {
        assert_eq!(cluster.hosts[*host].batches_done(), TARGET_OF_THREE, "host {host} has trained on every batch");
    }
}

#[test]
fn a_run_without_faults_ends_on_all_members() {
    let mut cluster = Cluster::new(3, 3, 3, long_spec());
    ends_well(&mut cluster, &[0, 1, 2]);
    assert!(cluster.hosts.iter().all(|host| host.views.is_empty()), "no view was needed");
}

#[test]
fn a_killed_member_is_left_out_at_any_moment() {
    for victim in 0..3 {
        for extra_ms in (0..80).step_by(4) {
            let mut cluster = Cluster::new(3, 3, 3, long_spec());
            in_the_middle(&mut cluster, extra_ms);
            let killed_at = cluster.now;
            cluster.kill(victim);
            let survivors: Vec<_> = (0..3).filter(|host| *host != victim).collect();
            let told = |cluster: &Cluster| survivors.iter().all(|host| cluster.hosts[*host].views.len() == 1);
            assert!(cluster.until(5, told), "{}", cluster.show(80));
            assert!(cluster.now.since(killed_at) < Duration::from_ms(400), "a crash is noticed at once");
            ends_well(&mut cluster, &survivors);
            assert_eq!(
                cluster.hosts[survivors[0]].saved_result,
                Some(victim == 0),
                "the result waits for a lost owner"
            );
        }
    }
}

#[test]
fn a_frozen_member_is_left_out_and_comes_back() {
    for victim in 0..3 {
        for extra_ms in (0..80).step_by(8) {
            let mut cluster = Cluster::new(3, 3, 3, long_spec());
            in_the_middle(&mut cluster, extra_ms);
            let frozen_at = cluster.now;
            cluster.freeze(victim);
            let survivor = (victim + 1) % 3;
            assert!(cluster.until(10, |cluster| cluster.hosts[survivor].views.len() == 1), "{}", cluster.show(80));
            assert!(cluster.now.since(frozen_at) < Duration::from_ms(2_900), "silence is noticed soon");
            cluster.thaw(victim);
            ends_well(&mut cluster, &[0, 1, 2]);
            let last = cluster.hosts[survivor].views.last().expect("views").clone();
            assert_eq!(last.full().count(), 3, "it is a full member again");
        }
    }
}

#[test]
fn one_who_comes_late_trains_with_the_rest() {
    let mut cluster = Cluster::new(4, 3, 4, long_spec());
    ends_well(&mut cluster, &[0, 1, 2, 3]);
    assert!(cluster.hosts[0].done.iter().any(|(_, contributors, _)| contributors.len() == 4));
}

#[test]
fn a_leaver_does_not_stop_the_others_but_the_owner_does() {
    for (leaver, stops) in [(1, false), (0, true)] {
        let mut cluster = Cluster::new(3, 3, 3, long_spec());
        in_the_middle(&mut cluster, 10);
        let run = cluster.run;
        cluster.input(leaver, Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }), None);
        if stops {
            let all = |cluster: &Cluster| cluster.hosts.iter().all(|host| host.closed.flatten().is_some());
            assert!(cluster.until(5, all), "{}", cluster.show(60));
        } else {
            ends_well(&mut cluster, &[0, 2]);
        }
    }
}

#[test]
fn a_minority_waits_and_comes_back() {
    let mut cluster = Cluster::new(5, 5, 5, long_spec());
    in_the_middle(&mut cluster, 7);
    cluster.part(&[0, 1], &[2, 3, 4]);
    assert!(cluster.until(20, |cluster| cluster.hosts[2].views.len() == 1), "{}", cluster.show(80));
    assert!(cluster.hosts[0].views.is_empty(), "two of five decide nothing");
    cluster.heal();
    assert!(cluster.until(300, |cluster| cluster.finished(&[0, 1, 2, 3, 4])), "{}", cluster.show(200));
}

#[test]
fn a_link_that_is_cut_between_two_does_not_stop_the_run() {
    let mut cluster = Cluster::new(4, 4, 4, long_spec());
    in_the_middle(&mut cluster, 7);
    cluster.part(&[0], &[1]);
    assert!(cluster.until(600, |cluster| cluster.finished(&[2, 3])), "{}", cluster.show(200));
}

#[test]
fn a_restarted_member_comes_back() {
    for victim in 0..3 {
        let mut cluster = Cluster::new(3, 3, 3, long_spec());
        in_the_middle(&mut cluster, 13);
        cluster.kill(victim);
        let at = cluster.now + Duration::from_ms(300);
        cluster.until(2, |cluster| cluster.now >= at);
        cluster.restart(victim);
        ends_well(&mut cluster, &[0, 1, 2]);
    }
}

#[test]
fn a_run_outlives_a_power_cut_of_all() {
    let mut cluster = Cluster::new(3, 3, 3, manta_protocol::run::RunSpec { rounds: 200, ..long_spec() });
    let saved = |cluster: &Cluster| cluster.hosts[0].batches_done() >= 900;
    assert!(cluster.until(600, saved), "{}", cluster.show(60));
    (0..3).for_each(|host| cluster.kill(host));
    let at = cluster.now + Duration::from_s(1);
    cluster.until(2, |cluster| cluster.now >= at);
    (0..3).for_each(|host| cluster.restart(host));
    assert!(cluster.until(600, |cluster| cluster.finished(&[0, 1, 2])), "{}", cluster.show(200));
    let host = &cluster.hosts[0];
    assert!(host.views.iter().any(|view| view.fate == Fate::Fresh && view.from > 0), "from a checkpoint");
    assert_eq!(host.batches_done(), 1_200);
}

#[test]
fn an_owner_that_comes_back_after_the_end_gets_its_result() {
    let mut cluster = Cluster::new(3, 3, 3, long_spec());
    in_the_middle(&mut cluster, 3);
    cluster.kill(0);
    ends_well(&mut cluster, &[1, 2]);
    cluster.restart(0);
    assert!(cluster.until(30, |cluster| cluster.hosts[0].fetched.is_some()), "{}", cluster.show(60));
    let has_it = |cluster: &Cluster| cluster.finished(&[0]);
    assert!(cluster.until(30, has_it), "{}", cluster.show(60));
    let forgotten = |cluster: &Cluster| cluster.hosts[1..].iter().all(|host| host.keeps.is_none());
    assert!(cluster.until(60, forgotten), "its owner has it: {}", cluster.show(60));
}

#[test]
fn no_restart_makes_a_run_be_done_again_or_its_owner_go_without_its_result() {
    let mut cluster = Cluster::new(3, 3, 3, long_spec());
    in_the_middle(&mut cluster, 3);
    cluster.kill(0);
    ends_well(&mut cluster, &[1, 2]);
    // What they have ended they remember, whoever comes back first.
    [1, 2].into_iter().for_each(|host| cluster.kill(host));
    let done = cluster.hosts[1].done.len();
    [0, 2, 1].into_iter().for_each(|host| cluster.restart(host));
    assert!(cluster.until(60, |cluster| cluster.finished(&[0])), "{}", cluster.show(60));
    assert!(cluster.hosts[0].done.is_empty() && cluster.hosts[1].done.is_empty(), "{done} exchanges were enough");
    assert!(cluster.until(60, |cluster| {
        cluster.hosts.iter().all(|host| host.keeps.is_none() || host.peer == cluster.hosts[0].peer)
    }));
}

#[test]
fn an_owner_that_cannot_reach_the_first_keeper_asks_on() {
    let mut cluster = Cluster::new(3, 3, 3, long_spec());
    in_the_middle(&mut cluster, 3);
    cluster.kill(0);
    ends_well(&mut cluster, &[1, 2]);
    cluster.restart(0);
    let asks = |cluster: &Cluster| cluster.log.iter().rev().take(40).any(|line| line.contains("0 > FetchResult"));
    let told = |cluster: &Cluster| {
        cluster.log.iter().rev().take(40).any(|line| line.contains("0 > to") && line.contains("Join"))
    };
    assert!(cluster.until(30, told), "{}", cluster.show(60));
    let at = cluster.now + Duration::from_ms(2);
    cluster.until(1, |cluster| cluster.now >= at);
    cluster.part(&[0], &[1, 2]);
    assert!(!asks(&cluster) && !cluster.until(60, |cluster| cluster.finished(&[0])), "{}", cluster.show(60));
    cluster.heal();
    assert!(cluster.until(60, |cluster| cluster.finished(&[0])), "{}", cluster.show(60));
}

/// Host 1 has the lower id, so that host 0 alone is no quorum.
#[test]
fn of_two_members_either_goes_on_when_the_other_has_left() {
    for solo in [true, false] {
        let spec = manta_protocol::run::RunSpec { solo, ..long_spec() };
        let mut cluster = Cluster::new(2, 2, 2, spec);
        assert!(cluster.hosts[1].peer < cluster.hosts[0].peer);
        in_the_middle(&mut cluster, 10);
        let run = cluster.run;
        cluster.input(1, Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }), None);
        let ends = cluster.until(120, |cluster| cluster.finished(&[0]));
        assert_eq!(ends, solo, "{}", cluster.show(60));
    }
}

#[test]
fn who_has_left_says_so_again_after_a_restart() {
    let mut cluster = Cluster::new(2, 2, 2, long_spec());
    in_the_middle(&mut cluster, 10);
    let run = cluster.run;
    // Nothing of its word arrives.
    cluster.part(&[0], &[1]);
    cluster.input(1, Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }), None);
    cluster.kill(1);
    let at = cluster.now + Duration::from_s(3);
    cluster.until(5, |cluster| cluster.now >= at);
    assert!(cluster.hosts[0].views.is_empty(), "the other may go on without it");
    cluster.heal();
    cluster.restart(1);
    assert!(cluster.until(120, |cluster| cluster.finished(&[0])), "{}", cluster.show(60));
    assert!(cluster.hosts[1].done.is_empty(), "it takes no part any more");
}

#[test]
fn a_member_whose_trainer_hangs_is_left_out() {
    let mut cluster = Cluster::new(3, 3, 3, long_spec());
    in_the_middle(&mut cluster, 3);
    cluster.hosts[1].hangs = true;
    ends_well(&mut cluster, &[0, 2]);
}

#[test]
fn two_members_lost_one_after_the_other_in_one_exchange() {
    for gap_ms in (0..60).step_by(3) {
        let mut cluster = Cluster::new(5, 5, 5, manta_protocol::run::RunSpec { rounds: 36, ..long_spec() });
        in_the_middle(&mut cluster, 5);
        cluster.kill(3);
        let at = cluster.now + Duration::from_ms(gap_ms);
        cluster.until(1, |cluster| cluster.now >= at);
        cluster.kill(1);
        ends_well(&mut cluster, &[0, 2, 4]);
    }
}

#[test]
fn a_slow_member_gets_less_to_do() {
    let f32 = manta_protocol::run::spec::F32Bits::from;
    let outer = Some(manta_protocol::run::spec::OuterSpec { learning_rate: f32(0.7), momentum: f32(0.5) });
    let spec = manta_protocol::run::RunSpec { rounds: 12, steps_per_round: 20, outer, ..long_spec() };
    let mut cluster = Cluster::new(3, 3, 3, spec);
    [50, 50, 200].into_iter().zip(&mut cluster.hosts).for_each(|(ms, host)| host.batch_ms = Some(ms));
    let begun = cluster.now;
    assert!(cluster.until(300, |cluster| cluster.finished(&[0, 1, 2])), "{}", cluster.show(100));
    let last = cluster.hosts[0].views.last().expect("other shares").clone();
    let shares: Vec<_> =
        [0, 1, 2].iter().map(|host| last.member(&cluster.hosts[*host].peer).expect("here").share).collect();
    assert_eq!(shares, [27, 27, 6]);
    assert_eq!(cluster.hosts[0].batches_done(), 720);
    // Twelve exchanges of 4 s without it; three at most until it is measured, then about 1.4 s each.
    assert!(cluster.now.since(begun) < Duration::from_s(27), "{:?}", cluster.now.since(begun));
}
