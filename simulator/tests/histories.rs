//! Whole histories: honest swarms finish, equal seeds give equal traces, and
//! each deliberately broken rule is seen.

use manta_simulator::faults::Fault;
use manta_simulator::network::Conditions;
use manta_simulator::report::Summary;
use manta_simulator::workload::Break;
use manta_simulator::{Options, simulate};
use std::io::Write;
use std::sync::{Arc, Mutex};

const HONEST: Options =
    Options { peers: 4, members: 4, rounds: 3, orders: 1, seed: 1, conditions: None, broken: None, fault: None };
const LOSSY: Conditions = Conditions {
    latency_us_max: 20_000,
    jitter_us_max: 40_000,
    loss_per_million: 20_000,
    uplink_bytes_per_s: 2_500_000,
    skew_ms_max: 1_500,
};

fn run(options: Options) -> Summary {
    simulate(options, None).expect("nothing is written")
}

fn assert_good(summary: &Summary) {
    assert!(summary.ok, "{:?}\nreplay: {}", summary.violations, summary.replay);
}

/// A writer whose bytes can be read afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn traced(seed: u64) -> (Summary, Vec<u8>) {
    let trace = Shared::default();
    let options = Options { seed, conditions: Some(LOSSY), ..HONEST };
    let summary = simulate(options, Some(Box::new(trace.clone()))).unwrap();
    let bytes = trace.0.lock().unwrap().clone();
    (summary, bytes)
}

#[test]
fn honest_swarms_finish_under_conditions_from_the_seed() {
    for seed in 0..24 {
        let peers = [1, 2, 3, 4, 7, 10][seed as usize % 6];
        let summary = run(Options { peers, members: peers as u16, seed, ..HONEST });
        assert_good(&summary);
        assert_eq!((summary.runs_finished, summary.parameter_hashes.len()), (1, 1));
    }
}

#[test]
fn lost_frames_delay_and_do_not_corrupt() {
    let summaries: Vec<_> = (0..24).map(|seed| run(Options { seed, conditions: Some(LOSSY), ..HONEST })).collect();
    summaries.iter().for_each(assert_good);
    let failed: u64 = summaries.iter().map(|summary| summary.frames_failed).sum();
    let sent: u64 = summaries.iter().map(|summary| summary.frames).sum();
    assert!((sent / 100..sent / 25).contains(&failed), "{failed} of {sent} frames were lost, 2 % are expected");
}

#[test]
fn users_who_compete_for_the_same_machines_get_their_runs() {
    for seed in 0..12 {
        assert_good(&run(Options { peers: 7, members: 3, orders: 3, rounds: 1, seed, ..HONEST }));
        assert_good(&run(Options { peers: 5, members: 4, orders: 2, rounds: 1, seed, ..HONEST }));
    }
}

/// Machines are killed and swarms are parted at any time: survivors end what was
/// cut within the bound, name who cannot be reached, and run again.
#[test]
fn three_hundred_seeds_survive_kills_and_partitions() {
    let history = |seed: u64| match seed % 3 {
        0 => run(Options { peers: 4, members: 4, rounds: 2, seed, ..HONEST }),
        1 => run(Options { peers: 5, members: 4, rounds: 6, seed, fault: Some(Fault::Kill), ..HONEST }),
        _ => run(Options { peers: 6, members: 3, orders: 2, rounds: 6, seed, fault: Some(Fault::Partition), ..HONEST }),
    };
    let part = |first: u64| (first..300).step_by(2).map(history).collect::<Vec<_>>();
    let summaries = std::thread::scope(|scope| {
        let odd = scope.spawn(|| part(1));
        let mut all = part(0);
        all.extend(odd.join().expect("no history panics"));
        all
    });
    summaries.iter().for_each(assert_good);
    let cut: u64 = summaries.iter().map(|summary| summary.runs_cut).sum();
    let finished: usize = summaries.iter().map(|summary| summary.runs_finished).sum();
    assert!(cut > 150, "the faults must hit runs: {cut}");
    assert!(finished > 350, "users of the living get their runs: {finished}");
}

#[test]
fn many_lost_frames_cost_attempts_and_not_the_run() {
    let links = Conditions { loss_per_million: 120_000, ..LOSSY };
    (0..24).for_each(|seed| assert_good(&run(Options { rounds: 5, seed, conditions: Some(links), ..HONEST })));
    let links = Conditions {
        latency_us_max: 200,
        jitter_us_max: 18,
        loss_per_million: 120_000,
        uplink_bytes_per_s: 250_000,
        skew_ms_max: 50,
    };
    assert_good(&run(Options { rounds: 5, seed: 7, conditions: Some(links), ..HONEST }));
}

/// Seeds that once failed: a run confirmed on a machine that was free again,
/// and a last report that was lost for ever.
#[test]
fn seeds_that_once_failed() {
    assert_good(&run(Options { peers: 7, members: 3, orders: 3, rounds: 2, seed: 3, ..HONEST }));
    let links = Conditions { jitter_us_max: 4_431, uplink_bytes_per_s: 250_000, ..LOSSY };
    assert_good(&run(Options { rounds: 5, seed: 22, conditions: Some(links), ..HONEST }));
}

#[test]
fn equal_seeds_give_equal_traces_to_the_byte() {
    let ((first, bytes), (second, again)) = (traced(7), traced(7));
    assert!(bytes == again, "traces differ");
    assert_eq!(first.trace_hash, second.trace_hash);
    assert_eq!(blake3::hash(&bytes).to_string(), first.trace_hash);
    let (other, _) = traced(8);
    assert_ne!(first.trace_hash, other.trace_hash);
}

#[test]
fn the_links_do_not_change_what_is_computed() {
    let hashes = |conditions| run(Options { conditions, ..HONEST }).parameter_hashes;
    let still = Conditions { jitter_us_max: 0, loss_per_million: 0, skew_ms_max: 0, ..LOSSY };
    assert_eq!(hashes(Some(still)), hashes(Some(Conditions { uplink_bytes_per_s: 100_000, ..still })));
}

#[test]
fn wrong_sums_are_seen_although_all_members_agree_on_them() {
    for rule in [Break::WrongOrder, Break::SkipContribution, Break::DoubleCount] {
        let summary = run(Options { broken: Some(rule), ..HONEST });
        assert!(!summary.ok);
        assert!(summary.violations.iter().any(|what| what.contains("rank order")), "{rule:?}: {summary:?}");
    }
}

#[test]
fn members_that_differ_lie_stop_or_vanish_end_the_run_on_all_by_name() {
    let cases = [
        (Break::LieAboutHash, "ParametersDiffer", 4),
        (Break::CorruptStep, "ParametersDiffer", 4),
        (Break::WrongStart, "ParametersDiffer", 4),
        (Break::GiveUp, "CannotCompute", 4),
        (Break::Crash, "MemberLost", 3),
        (Break::Freeze, "MemberLost", 3),
        (Break::Hang, "Stalled", 4),
        (Break::LoseChunk, "Stalled", 4),
    ];
    for (rule, reason, members) in cases {
        let summary = run(Options { broken: Some(rule), ..HONEST });
        assert_eq!((summary.ok, summary.runs_finished), (false, 0), "{rule:?}");
        assert_eq!(summary.violations, [""; 0], "{rule:?}: the members themselves see it");
        assert_eq!(summary.failures.len(), members, "{rule:?}: {:?}", summary.failures);
        for failure in &summary.failures {
            assert_eq!(failure.reason, reason, "{rule:?}");
            assert_eq!(Some(&failure.culprit), summary.broken_peer.as_ref(), "{rule:?}");
        }
    }
}

#[test]
fn the_replay_line_names_every_option() {
    let summary = run(Options { conditions: Some(LOSSY), broken: Some(Break::GiveUp), ..HONEST });
    assert_eq!(
        summary.replay,
        "manta-sim run --peers 4 --members 4 --rounds 3 --orders 1 --seed 1 --latency-us 20000 --jitter-us 40000 \
         --loss-per-million 20000 --uplink-bytes-per-s 2500000 --skew-ms 1500 --break give-up"
    );
}
