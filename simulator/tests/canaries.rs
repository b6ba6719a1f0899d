//! Deliberately broken rules: each must be caught, by a checker or by the
//! members themselves.

use manta_simulator::faults::{Kind, When};
use manta_simulator::options::{Choice, FaultWish, Faults, Links, Mode};
use manta_simulator::report::Summary;
use manta_simulator::tamper::Break;
use manta_simulator::{Options, simulate};

const LINKS: Links = Links {
    latency_us: Some(20_000),
    jitter_us: Some(5_000),
    loss_per_million: Some(0),
    repeat_per_million: Some(0),
    late_per_million: Some(0),
    uplink_bytes_per_s: Some(2_500_000),
    skew_ms: Some(50),
    sync_us: Some(300),
};

fn options(broken: Option<Break>, faults: Vec<FaultWish>) -> Options {
    Options {
        seed: 1,
        peers: Some(4),
        members: Some(4),
        rounds: Some(3),
        steps_per_round: Some(2),
        orders: Some(1),
        mode: Some(Mode::EveryStep),
        links: LINKS,
        faults: Some(Faults::Listed(faults)),
        broken,
        ..Options::default()
    }
}

fn wish(kind: Kind, host: usize, when: When, lasts_ms: Option<u64>) -> FaultWish {
    let lasts_ms = lasts_ms.map(Choice::Given);
    FaultWish { kind, when: Some(when), hosts: vec![host], lasts_ms, noticed: Some(true) }
}

fn run(options: &Options) -> Summary {
    simulate(options, None).expect("the options go together")
}

/// The rule is seen when it is broken, and nothing is when it is not.
fn assert_caught(options: Options, named: &[&str]) {
    let rule = options.broken;
    let summary = run(&options);
    let seen = summary.violations.iter().any(|what| named.iter().any(|name| what.contains(name)));
    assert!(seen, "{rule:?} must be seen as one of {named:?}: {:?}", summary.violations);
    let honest = run(&Options { broken: None, ..options });
    assert!(honest.ok, "without {rule:?}: {:?}", honest.violations);
}

#[test]
fn wrong_sums_are_seen_although_all_members_agree_on_them() {
    for rule in [Break::WrongOrder, Break::SkipContribution, Break::DoubleCount] {
        assert_caught(options(Some(rule), Vec::new()), &["in rank order"]);
    }
}

#[test]
fn a_wrong_divisor_and_a_wrong_step_are_seen_at_once() {
    for rule in [Break::WrongDivisor, Break::CorruptStep] {
        assert_caught(options(Some(rule), Vec::new()), &["another member", "one state"]);
    }
}

#[test]
fn a_sum_with_a_lost_members_values_is_seen() {
    let seen = (0..12).any(|seed| {
        let when = When::Exchange { exchange: 1, after_ms: 10 * seed };
        let faults = vec![wish(Kind::Kill, 2, when, None)];
        let honest = run(&Options { seed, ..options(None, faults.clone()) });
        assert!(honest.ok, "{:?}", honest.violations);
        let summary = run(&Options { seed, ..options(Some(Break::StaleSums), faults) });
        summary.violations.iter().any(|what| what.contains("in rank order"))
    });
    assert!(seen, "a member killed between its values and its sums must show it");
}

#[test]
fn a_batch_that_counts_and_is_done_again_is_seen() {
    let when = When::Exchange { exchange: 1, after_ms: 20 };
    let faults = vec![wish(Kind::Kill, 2, when, None)];
    assert_caught(options(Some(Break::CountAgain), faults), &["two views of number", "counts", "ledger"]);
}

#[test]
fn a_view_without_a_quorum_is_seen_by_those_who_believe_it() {
    assert_caught(options(Some(Break::TwoQuorums), Vec::new()), &["without a quorum", "two views"]);
}

#[test]
fn a_promise_that_a_restart_forgets_is_seen() {
    let when = When::Exchange { exchange: 1, after_ms: 20 };
    let faults = vec![wish(Kind::Kill, 2, when, None)];
    assert_caught(
        options(Some(Break::ForgetJournal), faults),
        &["has promised to heed none below", "accepted in ballot"],
    );
}

/// The owner comes back to a run that the others have ended, and has to do it again.
#[test]
fn a_run_that_is_done_twice_because_its_end_was_forgotten_is_seen() {
    let faulty = Options { seed: 30_074, broken: Some(Break::ForgetEnds), ..Options::default() };
    assert_caught(faulty, &["ended in"]);
}

/// The owner is away when the run ends, and those who keep its result are stopped before it is back.
#[test]
fn an_owner_that_is_never_told_of_its_result_is_seen() {
    let mut faults = vec![wish(Kind::Kill, 0, When::Exchange { exchange: 1, after_ms: 20 }, Some(25_000))];
    faults.extend((1..4).map(|host| wish(Kind::Kill, host, When::AtMs(15_000), Some(1_000))));
    assert_caught(options(Some(Break::ForgetEnds), faults), &["long after the last fault", "has not got the result"]);
}

/// Machine 1 is stopped while it writes its second checkpoint: what lies on its
/// disk then is the first, the second, or parts of both.
#[test]
fn a_torn_checkpoint_that_is_loaded_is_seen() {
    let caught = (0..12).any(|seed| {
        let broken = Some(Break::TornCheckpoint);
        let mode = Some(Mode::LocalSteps);
        let options = Options { seed, rounds: Some(70), steps_per_round: Some(8), mode, ..options(broken, Vec::new()) };
        let summary = run(&options);
        summary.violations.iter().any(|what| what.contains("that no member was ever in"))
    });
    assert!(caught, "one of twelve crashes in a write must tear it");
}

/// The members themselves leave out who differs, lies, stops or vanishes, and go on.
#[test]
fn members_that_differ_lie_stop_or_vanish_are_left_out_by_the_others() {
    for rule in [
        Break::LieAboutHash,
        Break::WrongStart,
        Break::GiveUp,
        Break::Crash,
        Break::Freeze,
        Break::Hang,
        Break::LoseChunk,
    ] {
        let summary = run(&options(Some(rule), Vec::new()));
        assert_eq!(summary.runs_finished, 1, "{rule:?}: {:?}", summary.violations);
        assert!(summary.views > 1, "{rule:?}: it must be left out");
        let others = summary.failures.iter().find(|failure| Some(&failure.on) != summary.broken_peer.as_ref());
        assert_eq!(others, None, "{rule:?}: nobody else may suffer");
    }
}
