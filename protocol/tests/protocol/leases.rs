//! Runs of peers that keep a ledger: what it says afterwards of those who took part.

use crate::cluster::{Cluster, long_spec};
use crate::samples::{NOW, identity, network, peer};
use manta_protocol::ledger::{Founder, Genesis, Parameters, Reliability};
use manta_protocol::power::MicroPower;
use manta_protocol::run::report::AbortReason;
use manta_protocol::trust::{Kept, LedgerOptions};
use manta_protocol::wire::codec;
use manta_protocol::{Command, Duration, Input};

/// A run of the first `members` of so many hosts, which have founded a ledger together.
fn leasing(hosts: u8, members: u8, members_max: u16) -> Cluster {
    let mut cluster = Cluster::new(hosts, members, members_max, long_spec());
    let founder = |number: u8| {
        let identity = identity(number);
        Founder { peer: peer(number), vrf: identity.vrf().public(), class: 0, power: MicroPower(100_000) }
    };
    let mut founders: Vec<_> = (1..=hosts).map(founder).collect();
    founders.sort_unstable_by_key(|founder| founder.peer);
    let (network, time_ms, parameters) = (network(), NOW.as_unix_ms(), Parameters::demo());
    let genesis = Genesis { network, name: "founded together".into(), time_ms, founders, parameters };
    for host in 0..usize::from(hosts) {
        let (snapshot, recoveries, blocks, log) = (None, Vec::new(), Vec::new(), Vec::new());
        let kept = Kept { genesis: codec::encode(&genesis), snapshot, recoveries, blocks, log };
        let options = LedgerOptions {
            parameters: Parameters::demo(),
            name: "test".into(),
            found_after_ms: 2_000,
            operations_per_s: 1 << 32,
            takes_part: true,
            kept: Some(kept),
        };
        cluster.input(host, Input::Command(Command::KeepLedger(Box::new(options))), None);
        for other in (1..=hosts).filter(|other| usize::from(*other) != host + 1) {
            cluster.input(host, Input::PeerConnected { peer: peer(other) }, None);
        }
    }
    cluster
}

fn pass(cluster: &mut Cluster, time: Duration) {
    let until = cluster.now + time;
    cluster.until(3_600, |cluster| cluster.now >= until);
}

/// What the ledger of `host` says of each: leases that were kept, and all.
fn leases(cluster: &Cluster, host: usize) -> Vec<(u64, u64)> {
    let state = cluster.hosts[host].node.ledger().expect("a ledger");
    let of = |peer| state.reliability(&peer).copied().unwrap_or_default();
    let counts = |of: Reliability| (of.leases_kept_ever, of.leases_ever);
    cluster.hosts.iter().map(|host| counts(of(host.peer))).collect()
}

fn ends(cluster: &mut Cluster, hosts: &[usize]) {
    assert!(cluster.until(300, |cluster| cluster.finished(hosts)), "{}", cluster.show(60));
    pass(cluster, Duration::from_s(5));
}

#[test]
fn whoever_was_there_to_the_end_has_kept_its_lease() {
    let mut cluster = leasing(3, 2, 2);
    ends(&mut cluster, &[0, 1]);
    for host in 0..3 {
        assert_eq!(leases(&cluster, host), [(0, 0), (1, 1), (0, 0)], "on the ledger of {host}");
    }
    // It stays so: nothing is told twice.
    pass(&mut cluster, Duration::from_s(30));
    assert_eq!(leases(&cluster, 0), [(0, 0), (1, 1), (0, 0)]);
}

#[test]
fn a_lost_member_has_not_kept_its_lease_and_who_took_its_place_has() {
    let mut cluster = leasing(4, 3, 3);
    assert!(cluster.until(120, |cluster| cluster.hosts[0].batches_done() >= 60));
    cluster.kill(2);
    ends(&mut cluster, &[0, 1, 3]);
    assert_eq!(leases(&cluster, 3), [(0, 0), (1, 1), (0, 1), (1, 1)]);
}

#[test]
fn a_member_that_is_back_before_the_end_has_kept_its_lease() {
    let mut cluster = leasing(4, 3, 3);
    assert!(cluster.until(120, |cluster| cluster.hosts[0].batches_done() >= 60));
    cluster.freeze(2);
    assert!(cluster.until(20, |cluster| !cluster.hosts[0].views.is_empty()), "it is left out");
    cluster.thaw(2);
    ends(&mut cluster, &[0, 1, 2]);
    assert_eq!(leases(&cluster, 3), [(0, 0), (1, 1), (1, 1), (0, 0)]);
}

#[test]
fn a_member_that_comes_late_has_a_lease_too() {
    let mut cluster = leasing(3, 2, 3);
    ends(&mut cluster, &[0, 1, 2]);
    assert!(cluster.hosts[0].views.iter().any(|view| view.member(&cluster.hosts[2].peer).is_some()));
    assert_eq!(leases(&cluster, 0), [(0, 0), (1, 1), (1, 1)]);
}

#[test]
fn a_user_that_stops_its_run_says_who_was_there_and_one_that_fails_says_nothing() {
    for (reason, expected) in [(AbortReason::Stopped, (1, 1)), (AbortReason::CannotCompute, (0, 0))] {
        let mut cluster = leasing(3, 2, 2);
        assert!(cluster.until(120, |cluster| cluster.hosts[0].batches_done() >= 60));
        let run = cluster.run;
        cluster.input(0, Input::Command(Command::StopRun { run, reason }), None);
        pass(&mut cluster, Duration::from_s(5));
        assert_eq!(leases(&cluster, 2)[1], expected, "{reason:?}");
    }
}

#[test]
fn a_lost_user_blames_nobody() {
    let mut cluster = leasing(4, 3, 3);
    assert!(cluster.until(120, |cluster| cluster.hosts[0].batches_done() >= 60));
    cluster.kill(0);
    ends(&mut cluster, &[1, 2]);
    assert_eq!(leases(&cluster, 3), [(0, 0); 4]);
}
