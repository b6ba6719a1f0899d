//! A run on a device that is lost at any moment ends with the bits of a run
//! that was never disturbed; and a state that was given out goes on elsewhere
//! with the very same bits.

use super::{Answer, Purpose, Trainer, Work};
use crate::api::{Basis, OrderRequest};
use crate::data::DataSet;
use crate::device::{Chosen, Wanted};
use crate::preset::{Course, Preset};
use crate::run::engine::Means;
use crate::run::spec;
use crate::run::state::RunState;
use manta_gpu_kernels::Recompute;
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_protocol::drill::Evaluation;
use manta_protocol::effect::{Entry, RunStart};
use manta_protocol::market::listing::Contact;
use manta_protocol::run::RunSpec;
use manta_protocol::run::ledger::Span;
use manta_protocol::run::spec::OptimizerKindSpec;
use manta_protocol::{Hash, PeerId, RunId};
use std::path::Path;
use std::sync::Arc;

pub(crate) const ONE_THREAD: Means = Means { threads: 1, recompute: Recompute::Auto };
const RUN: RunId = RunId([7; 32]);
/// Enough that the journal is begun anew in between.
const EXCHANGES: u64 = 6;
/// Batches of the one member in one exchange.
const BATCHES: u64 = 4;
const ME: PeerId = PeerId([1; 32]);

/// Right before which work the device is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Prepare,
    Compute(u64),
    Apply(u64),
    Hash,
    Export,
}

/// What a run has come to.
#[derive(Debug, PartialEq)]
struct Outcome {
    losses: Vec<i64>,
    hash: Hash,
    parameters: Vec<u32>,
    validation: Option<Evaluation>,
}

/// Three rounds of short sequences on a small model.
pub(crate) fn nano_spec(local: bool, peers: u16) -> RunSpec {
    let request = OrderRequest {
        data: None,
        out: "model".into(),
        overwrite: false,
        preset: "nano".into(),
        basis: Basis::default(),
        peers_min: peers,
        peers_max: peers,
        rounds: 3,
        steps_per_round: 2,
        local,
        solo: true,
        seed: 11,
        patience_ms: 0,
        deadline_ms: 0,
        share: manta_protocol::market::demand::Share::Own,
    };
    let preset = Preset { sequence_length: 16, micro_batches: 2, ..Preset::find("nano").expect("a preset") };
    let course = Course { micro_batch_sequences: 1, ..preset.course(256) };
    spec::run_spec(&request, &course, Hash([0; 32]), 1 << 14, None).expect("the schedule fits")
}

/// One member alone.
fn start(local: bool) -> Arc<RunStart> {
    start_of(nano_spec(local, 1))
}

fn start_of(spec: RunSpec) -> Arc<RunStart> {
    let members = vec![Contact { peer: ME, bulk_port: 0, addresses: Vec::new() }];
    let donors = Vec::new();
    Arc::new(RunStart { run: RUN, spec, owner: ME, me: ME, members, donors, entry: Entry::First })
}

fn data() -> Arc<DataSet> {
    let text = |len: u32, seed: u32| (0..len).map(|at| (at * at / 7 + at * seed) as u8 % 91 + 32).collect::<Vec<u8>>();
    Arc::new(DataSet { training: text(1 << 14, 3).into(), validation: text(256, 5).into() })
}

/// The answer to `work`, and how the device failed meanwhile.
fn ask(trainer: &mut Trainer, work: Work, failures: &mut Vec<(String, bool)>) -> Answer {
    assert!(trainer.ask(work), "the trainer takes work");
    loop {
        let (run, answer) = trainer.answers.blocking_recv().expect("the trainer lives");
        assert_eq!(run, RUN);
        match answer {
            Answer::DeviceFailed { problem, gone, rescued } => {
                assert!(rescued, "{problem}");
                failures.push((problem, gone));
            }
            answer => return answer,
        }
    }
}

/// Does one exchange alone; gives the loss.
fn exchange(number: u64, mut ask: impl FnMut(Option<Moment>, Work) -> Answer) -> i64 {
    let batches = vec![Span { first: number * BATCHES, count: BATCHES }];
    let compute = Work::Compute { run: RUN, exchange: number, plan: 0, batches, schedule_step: number };
    let answer = ask(Some(Moment::Compute(number)), compute);
    let Answer::Computed { loss, values, .. } = answer else { panic!("{answer:?}") };
    let contributions = vec![(ME, values)];
    let reduce = Work::Reduce { run: RUN, exchange: number, view: 0, chunk: 0, contributions };
    let answer = ask(None, reduce);
    let Answer::Reduced { sum, .. } = answer else { panic!("{answer:?}") };
    let sums = vec![(ME, sum)];
    let apply = Work::Apply { run: RUN, exchange: number, batches: BATCHES, schedule_step: number, sums };
    let answer = ask(Some(Moment::Apply(number)), apply);
    assert!(matches!(answer, Answer::Applied { .. }), "{answer:?}");
    loss.fixed
}

/// Trains on `device`, which is lost right before `moment`.
fn train(
    device: Option<AdmittedDevice>,
    moment: Option<Moment>,
    start: Arc<RunStart>,
) -> (Outcome, Vec<(String, bool)>) {
    let mut trainer = Trainer::start(device.clone(), ONE_THREAD).expect("a thread");
    let mut failures = Vec::new();
    let mut ask = |now: Option<Moment>, work: Work| {
        if now.is_some() && now == moment {
            device.as_ref().expect("a device to lose").device().destroy();
        }
        ask(&mut trainer, work, &mut failures)
    };
    let prepare = Work::Prepare { start, data: data(), initial: None, state: None };
    let prepared = ask(Some(Moment::Prepare), prepare);
    assert!(matches!(prepared, Answer::Prepared { .. }), "{prepared:?}");
    let losses = (0..EXCHANGES).map(|number| exchange(number, &mut ask)).collect();
    let answer = ask(Some(Moment::Hash), Work::Hash { run: RUN, exchange: EXCHANGES });
    let Answer::Hashed { parameter_hash: hash, .. } = answer else { panic!("{answer:?}") };
    let answer = ask(Some(Moment::Export), Work::Export { run: RUN, evaluate: true });
    let Answer::Exported(export) = answer else { panic!("{answer:?}") };
    assert_eq!((export.parameter_hash, export.exchange), (hash, EXCHANGES));
    let parameters = export.parameters.iter().map(|value| value.to_bits()).collect();
    let outcome = Outcome { losses, hash, parameters, validation: export.validation };
    (outcome, failures)
}

/// The software adapter; none if the environment says aloud to skip.
fn software(cache: &Path) -> Option<AdmittedDevice> {
    if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.split(',').any(|name| name == "gpu")) {
        println!("SKIPPED as MANTA_TEST_SKIP asks: gpu");
        return None;
    }
    let chosen = Chosen::choose(&Wanted::Software, Some(cache));
    Some(chosen.expect("a software Vulkan adapter (MANTA_TEST_SKIP=gpu skips)").device.expect("as asked for"))
}

#[test]
fn a_run_survives_its_device_with_the_same_bits() {
    let cache = tempfile::tempdir().expect("a folder");
    for local in [false, true] {
        let Some(device) = software(cache.path()) else { return };
        let (expected, _) = train(None, None, start(local));
        assert!(expected.losses.last() < expected.losses.first(), "it learns: {:?}", expected.losses);
        let (undisturbed, failures) = train(Some(device), None, start(local));
        assert_eq!(undisturbed, expected);
        assert_eq!(failures, []);
        for moment in [
            Moment::Prepare,
            Moment::Compute(0),
            Moment::Apply(2),
            // While parameters and moments are read back.
            Moment::Apply(3),
            // With steps since that were not read back.
            Moment::Compute(5),
            Moment::Hash,
            Moment::Export,
        ] {
            // Own moments are lost with a device that fails between the steps and the exchange.
            if local && matches!(moment, Moment::Apply(_)) {
                continue;
            }
            let (outcome, failures) = train(software(cache.path()), Some(moment), start(local));
            assert!(outcome == expected, "lost before {moment:?}, local {local}: {:?}", outcome.losses);
            let [(problem, gone)] = failures.as_slice() else { panic!("{moment:?}, local {local}: {failures:?}") };
            assert!(*gone && problem.contains("device was lost"), "{moment:?}: {problem}");
        }
    }
}

/// The device is lost with steps since that were not read back: they are taken again natively, with Muon, too.
#[test]
fn a_run_with_muon_is_the_same_on_a_device_that_goes_in_the_middle() {
    let cache = tempfile::tempdir().expect("a folder");
    for (local, moment) in [(false, Moment::Apply(2)), (true, Moment::Compute(3))] {
        let start = || {
            let mut spec = nano_spec(local, 1);
            spec.optimizer.kind = OptimizerKindSpec::Muon;
            spec.validate().expect("a valid spec");
            start_of(spec)
        };
        let (expected, _) = train(None, None, start());
        assert!(expected.losses.last() < expected.losses.first(), "it learns: {:?}", expected.losses);
        assert_ne!(expected.hash, train(None, None, self::start(local)).0.hash, "and otherwise than with AdamW");
        let Some(device) = software(cache.path()) else { return };
        let (outcome, failures) = train(Some(device), Some(moment), start());
        assert!(outcome == expected, "local {local}: {:?}", outcome.losses);
        assert_eq!(failures.len(), 1, "{failures:?}");
    }
}

/// A trainer that has built the model, from `state` if there is one.
fn prepared(local: bool, state: Option<RunState>) -> Trainer {
    prepared_on(None, local, None, state)
}

fn prepared_on(
    device: Option<AdmittedDevice>,
    local: bool,
    initial: Option<Vec<f32>>,
    state: Option<RunState>,
) -> Trainer {
    let mut trainer = Trainer::start(device, ONE_THREAD).expect("a thread");
    let prepare = Work::Prepare { start: start(local), data: data(), initial, state };
    let answer = ask(&mut trainer, prepare, &mut Vec::new());
    assert!(matches!(answer, Answer::Prepared { .. }), "{answer:?}");
    trainer
}

fn state_of(trainer: &mut Trainer, exchange: u64) -> RunState {
    let answer = ask(trainer, Work::State { run: RUN, exchange, purpose: Purpose::Snapshot }, &mut Vec::new());
    let Answer::State { state, .. } = answer else { panic!("{answer:?}") };
    state
}

#[test]
fn a_newcomer_goes_on_from_a_state_with_the_same_bits() {
    for (local, vectors) in [(false, 3), (true, 2)] {
        let mut first = prepared(local, None);
        let step = |trainer: &mut Trainer, number| exchange(number, |_, work| ask(trainer, work, &mut Vec::new()));
        step(&mut first, 0);
        let state = state_of(&mut first, 1);
        assert_eq!((state.exchange, state.vectors.len()), (1, vectors));
        let mut early = prepared(local, Some(state.clone()));
        let mut late = prepared(local, None);
        let answer = ask(&mut late, Work::Load { run: RUN, state: state.clone() }, &mut Vec::new());
        assert!(matches!(answer, Answer::StateLoaded { exchange: 1 }), "{answer:?}");
        for trainer in [&mut early, &mut late] {
            assert_eq!(state_of(trainer, 1), state);
        }
        // Where gradients are averaged nothing is missing: the next step is the same, too.
        let losses = [&mut first, &mut early, &mut late].map(|trainer| step(trainer, 1));
        assert_eq!(losses[1], losses[2]);
        let states = [&mut first, &mut early, &mut late].map(|trainer| state_of(trainer, 2));
        assert_eq!(states[1], states[2]);
        assert_eq!(states[0] == states[1], !local, "own moments are not handed on");
    }
}

#[test]
fn a_run_starts_from_given_parameters_and_comes_back_to_them() {
    let cache = tempfile::tempdir().expect("a folder");
    for local in [false, true] {
        let of_seed = state_of(&mut prepared(local, None), 0).vectors.swap_remove(0);
        let given: Vec<f32> = of_seed.iter().map(|value| value * 0.5).collect();
        let mut native = prepared_on(None, local, Some(given.clone()), None);
        assert_eq!(state_of(&mut native, 0).vectors[0], given);
        let compute = |plan| {
            let batches = vec![Span { first: 0, count: 4 }];
            Work::Compute { run: RUN, exchange: 0, plan, batches, schedule_step: 0 }
        };
        let values = |trainer: &mut Trainer, plan| match ask(trainer, compute(plan), &mut Vec::new()) {
            Answer::Computed { values, .. } => values,
            other => panic!("{other:?}"),
        };
        let first = values(&mut native, 0);
        assert_eq!(values(&mut native, 1), first, "own steps begin anew from there");
        assert_ne!(values(&mut prepared(local, None), 0), first);
        // A device that is lost has lost the parameters, too: they are had from the host.
        let Some(device) = software(cache.path()) else { return };
        let mut trainer = prepared_on(Some(device.clone()), local, Some(given), None);
        device.device().destroy();
        let mut failures = Vec::new();
        let Answer::Computed { values, .. } = ask(&mut trainer, compute(0), &mut failures) else { panic!("values") };
        assert_eq!((values, failures.len()), (first, 1));
    }
}

#[test]
fn initial_parameters_that_cannot_be_are_refused() {
    let parameters = state_of(&mut prepared(false, None), 0).vectors.swap_remove(0);
    let mut broken = parameters.clone();
    broken[7] = f32::INFINITY;
    for initial in [parameters[1..].to_vec(), broken] {
        let mut trainer = Trainer::start(None, ONE_THREAD).expect("a thread");
        let prepare = Work::Prepare { start: start(false), data: data(), initial: Some(initial), state: None };
        let answer = ask(&mut trainer, prepare, &mut Vec::new());
        assert!(matches!(&answer, Answer::Failed { problem, .. } if problem.contains("parameters")), "{answer:?}");
    }
}

#[test]
fn a_state_of_another_model_is_refused_and_nothing_is_changed() {
    let mut trainer = prepared(false, None);
    let before = state_of(&mut trainer, 0);
    let mut short = before.clone();
    short.vectors[2].pop();
    let mut few = before.clone();
    few.vectors.pop();
    let mut broken = before.clone();
    broken.vectors[0][0] = f32::NAN;
    for state in [short, few, broken] {
        let answer = ask(&mut trainer, Work::Load { run: RUN, state }, &mut Vec::new());
        assert!(matches!(answer, Answer::StateNotLoaded { .. }), "{answer:?}");
    }
    assert_eq!(state_of(&mut trainer, 0), before);
}

#[test]
fn own_steps_begin_anew_when_the_plan_changes() {
    let compute = |plan: u32, count: u64| {
        let batches = vec![Span { first: 0, count }];
        Work::Compute { run: RUN, exchange: 0, plan, batches, schedule_step: 0 }
    };
    let values = |answer| match answer {
        Answer::Computed { values, plan, .. } => (plan, values),
        other => panic!("{other:?}"),
    };
    let mut trainer = prepared(true, None);
    let (_, first) = values(ask(&mut trainer, compute(0, 4), &mut Vec::new()));
    let (_, other) = values(ask(&mut trainer, compute(1, 3), &mut Vec::new()));
    let (_, again) = values(ask(&mut trainer, compute(2, 4), &mut Vec::new()));
    assert_ne!(first, other);
    assert_eq!(first, again);
    let (_, nothing) = values(ask(
        &mut trainer,
        Work::Compute { run: RUN, exchange: 0, plan: 3, batches: vec![], schedule_step: 0 },
        &mut Vec::new(),
    ));
    assert!(nothing.len() == first.len() && nothing.iter().all(|byte| *byte == 0), "no batches, no contribution");
    // Of two plans at once only the later is of use.
    assert!(trainer.ask(compute(4, 4)) && trainer.ask(compute(5, 4)));
    let mut plans = Vec::new();
    while plans.last() != Some(&5) {
        let (_, answer) = trainer.answers.blocking_recv().expect("the trainer lives");
        plans.push(values(answer).0);
    }
    assert!(plans == [5] || plans == [4, 5], "{plans:?}");
}
