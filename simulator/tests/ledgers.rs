//! Whole histories of ledgers: seeds with faults of every kind, scenarios, sizes
//! from 1 to 64, equal traces for equal seeds, and canaries.

use manta_simulator::faults::{Kind, When};
use manta_simulator::in_order;
use manta_simulator::ledger::options::Break;
use manta_simulator::ledger::{Options, Summary, scenario, simulate};
use manta_simulator::options::{Choice, FaultWish, Faults, Links};
use std::path::Path;

/// Links of a good network, on which nothing is lost.
const CLEAN: Links = Links {
    latency_us: Some(20_000),
    jitter_us: Some(2_000),
    loss_per_million: Some(0),
    repeat_per_million: Some(0),
    late_per_million: Some(0),
    uplink_bytes_per_s: Some(12_500_000),
    skew_ms: Some(0),
    sync_us: Some(0),
};

/// Histories that every run of the tests goes through.
const SEEDS: u64 = 240;

fn run(options: &Options) -> Summary {
    simulate(options, None).expect("the options go together")
}

fn assert_good(summary: &Summary) {
    assert!(summary.ok, "{:?}\nreplay: {}", summary.violations, summary.replay);
    assert_eq!(summary.forks, 0, "replay: {}", summary.replay);
}

fn calm(peers: usize, heights: u64) -> Options {
    Options {
        seed: 1,
        peers: Some(peers),
        founders: Some(peers.min(64)),
        heights: Some(heights),
        twins: Some(0),
        liars: Some(0),
        links: CLEAN,
        faults: Some(Faults::Kinds(Vec::new())),
        ..Options::default()
    }
}

fn of_file(name: &str) -> Summary {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name);
    let summary = run(&scenario::read(&path).expect("the scenario is right"));
    assert_good(&summary);
    summary
}

/// Every setup, link and fault is the seed's. A failure prints its replay line.
#[test]
fn seeds_with_faults_of_every_kind_never_fork() {
    let (mut histories, mut heights, mut faults, mut restarts, mut equivocators, mut liars) = (0, 0, 0, 0, 0, 0);
    let mut largest = 0;
    let one = |seed| simulate(&Options { seed, ..Options::default() }, None);
    in_order(10_000, SEEDS, 2, one, |summary| {
        assert_good(&summary);
        histories += 1;
        largest = largest.max(summary.setup.peers);
        (heights, faults) = (heights + summary.height, faults + summary.faults);
        restarts += summary.restarts;
        (equivocators, liars) = (equivocators + summary.equivocators_named, liars + summary.liars_named);
        true
    })
    .expect("every seed is a history");
    assert_eq!(histories, SEEDS);
    // By the draws: ten heights and almost two faults a history, one in six with a twin.
    let counted = format!("{heights} heights, {faults} faults, {restarts} restarts, {largest} machines at most");
    assert!(heights > 8 * SEEDS && faults > SEEDS && 3 * restarts > 2 * SEEDS && largest > 32, "{counted}");
    assert!(20 * equivocators > SEEDS as usize, "keys that run twice must be named: {equivocators}, and {liars} liars");
}

/// Seeds that found a fault. What is drawn from a seed changes with the
/// simulator; so what matters of the history is said, too.
#[test]
fn seeds_that_once_failed() {
    let seeds = [
        (1115, Some(0)), // six that started together looked in on each other's ledgers, and the swarm split for good
        (1135, Some(0)), // the same with a restart
        // A member that lost its disk and could not make itself heard mistrusted for a minute all those
        // whom it could not ask for the ledger, and went on alone; now it asks again after ten seconds.
        (22_779, None),
        // Nine that started together were looked at before they had come to one ledger.
        (22_857, None),
    ];
    for (seed, founders) in seeds {
        assert_good(&run(&Options { seed, founders, ..Options::default() }));
    }
}

#[test]
fn a_power_cut_loses_nothing() {
    let summary = of_file("ledger-power-cut.toml");
    assert_eq!((summary.faults, summary.restarts), (2, 14));
    assert!(summary.height >= 14);
}

#[test]
fn without_a_quorum_the_ledger_waits_and_goes_on_later() {
    let summary = of_file("ledger-no-quorum.toml");
    assert!((19_000..40_000).contains(&summary.longest_gap_ms), "{} ms", summary.longest_gap_ms);
    assert!(summary.height >= 12);
}

#[test]
fn the_larger_side_of_a_partition_goes_on() {
    let summary = of_file("ledger-partition.toml");
    assert!(summary.longest_gap_ms < 5_000, "{} ms", summary.longest_gap_ms);
}

#[test]
fn a_committee_that_has_left_for_good_is_replaced_by_people() {
    let summary = of_file("ledger-recovery.toml");
    assert!((20_000..40_000).contains(&summary.longest_gap_ms), "it waits for people: {} ms", summary.longest_gap_ms);
    assert_eq!((summary.recovered, summary.told_apart, summary.restarts), (2, 0, 1));
    assert!(summary.height >= 30 && summary.committee == 2, "{summary:?}");
}

#[test]
fn who_has_not_accepted_a_recovery_waits_and_is_told() {
    let summary = of_file("ledger-recovery-partition.toml");
    assert_eq!((summary.recovered, summary.offered, summary.told_apart), (2, 2, 0));
}

#[test]
fn a_recovery_beside_a_quorum_is_a_fork_that_everyone_is_told_of() {
    let summary = of_file("ledger-recovery-fork.toml");
    assert_eq!((summary.recovered, summary.told_apart), (1, 5));
}

#[test]
fn a_key_that_runs_twice_is_named_and_nobody_forks() {
    let summary = of_file("ledger-equivocation.toml");
    assert_eq!((summary.equivocators_named, summary.committee), (1, 3));
}

#[test]
fn a_liar_is_named_and_nobody_else_loses() {
    let summary = of_file("ledger-liar.toml");
    assert!(summary.tasks_disputed > 0 && summary.tasks_agreed > 5, "{summary:?}");
    assert_eq!((summary.liars_named, summary.honest_loss), (1, 0));
}

#[test]
fn peers_that_start_together_end_up_on_one_ledger() {
    assert!(of_file("ledger-together.toml").height >= 12);
    for seed in 0..10 {
        assert_good(&run(&Options { seed, founders: Some(0), ..calm(5, 5) }));
    }
}

#[test]
fn a_ledger_of_one_goes_on_and_comes_back_from_a_snapshot() {
    let kill = Faults::Kinds(vec![Kind::Kill]);
    let options = Options { founders: Some(0), faults: Some(kill), ..calm(1, 300) };
    let mut restarted = 0;
    for seed in 0..3 {
        let summary = run(&Options { seed, ..options.clone() });
        assert_good(&summary);
        restarted += summary.restarts;
    }
    assert_eq!(restarted, 3);
}

/// The bound of the work item: finality in a virtual swarm of 64 without faults
/// within four times what a proposal takes to reach everyone.
#[test]
fn sixty_four_nodes_decide_within_four_delays() {
    let summary = run(&calm(64, 3));
    assert_good(&summary);
    assert_eq!((summary.committee, summary.rounds_lost), (64, 0));
    assert!((1_000..=4_000).contains(&summary.finality_permille), "{} ‰", summary.finality_permille);
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in [3, 4] {
        let options = Options { seed, ..Options::default() };
        let (one, other) = (run(&options), run(&options));
        assert_eq!(one, other);
        assert_ne!(one.trace_hash, run(&Options { seed: seed + 100, ..options }).trace_hash);
    }
}

/// What machines of one host remember for each other changes nothing but the time.
#[test]
fn histories_in_which_each_machine_verifies_all_are_the_same() {
    for seed in [5, 6, 7] {
        let options = Options { seed, peers: Some(4), ..Options::default() };
        let alone = Options { verify_all: true, ..options.clone() };
        assert_eq!(run(&options), run(&alone));
    }
}

#[test]
fn broken_rules_are_caught() {
    let rules = [
        (Break::UnsealedBlock, "signature"),
        (Break::OtherGenesis, "fell into the ledgers"),
        (Break::LoseBlocks, "starts at height"),
    ];
    for (rule, complaint) in rules {
        let cut = FaultWish {
            kind: Kind::PowerCut,
            when: Some(When::AtMs(5_000)),
            hosts: Vec::new(),
            lasts_ms: Some(Choice::Given(500)),
            noticed: Some(true),
        };
        let faults = Some(Faults::Listed(vec![cut]));
        let summary = run(&Options { broken: Some(rule), faults, ..calm(4, 8) });
        let caught = summary.violations.iter().any(|violation| violation.contains(complaint));
        assert!(caught, "{rule:?}: {:?}", summary.violations);
    }
}

/// Who forgets what it signed signs something else: the others show both.
#[test]
fn machines_that_forget_their_logs_are_caught() {
    let links = Links { latency_us: Some(200_000), ..Links::default() };
    let faults = Some(Faults::Kinds(vec![Kind::PowerCut; 3]));
    let whole = Options { links, faults, ..calm(4, 8) };
    let named = |seed| {
        assert_good(&run(&Options { seed, ..whole.clone() }));
        let summary = run(&Options { seed, broken: Some(Break::ForgetLogs), ..whole.clone() });
        summary.violations.iter().any(|violation| violation.contains("is named for Equivocation"))
    };
    let caught = (3..9).filter(|seed| named(*seed)).count();
    assert!(caught >= 2, "caught in {caught} of 6 histories");
}
