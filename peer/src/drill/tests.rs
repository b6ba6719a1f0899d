//! What is computed again has the bits of the live run, natively and on a device;
//! units go on only as fast as share, trainer and deadline allow.

use super::segment::{On, moments};
use super::*;
use crate::data::DataSet;
use crate::device::{Chosen, Wanted};
use crate::run::state::{RunState, bytes_of, values_of};
use crate::run::trainer::model::{Model, VALIDATION_WINDOWS_MAX, Values};
use crate::run::trainer::tests::{ONE_THREAD, nano_spec};
use crate::run::trainer::{Answer, Busy, Purpose, Trainer, Work};
use manta_gpu_kernels::SimdPath;
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::drill::{GemmDriller, GemmShape};
use manta_gpu_kernels::reduce;
use manta_protocol::drill::unit::{Exchange, Own, batch_operations, window_operations};
use manta_protocol::drill::{EvaluateUnit, Evaluation, GemmClass, SegmentResult, SegmentUnit};
use manta_protocol::effect::{Entry, RunStart};
use manta_protocol::ledger::DrillResult;
use manta_protocol::market::listing::Contact;
use manta_protocol::run::RunSpec;
use manta_protocol::run::ledger::{self, Span};
use manta_protocol::{Hash, PeerId, RunId};
use std::sync::Arc;
use std::time::Duration;

const RUN: RunId = RunId([7; 32]);
const TASK: Hash = Hash([1; 32]);
const MEMBERS: [PeerId; 2] = [PeerId([1; 32]), PeerId([2; 32])];
/// Exchanges of the live run, and those that are done again.
const EXCHANGES: u64 = 6;
const AGAIN: std::ops::Range<u64> = 2..4;

fn data() -> Arc<DataSet> {
    let text = |len: u32, seed: u32| (0..len).map(|at| (at * at / 7 + at * seed) as u8 % 91 + 32).collect::<Vec<u8>>();
    Arc::new(DataSet { training: text(1 << 14, 3).into(), validation: text(256, 5).into() })
}

/// The batches of both members in an exchange, unequal in number.
fn contributors(exchange: u64) -> Vec<Vec<Span>> {
    let first = 8 * exchange;
    vec![vec![Span { first, count: 3 }], vec![Span { first: first + 3, count: 1 }, Span { first: first + 5, count: 1 }]]
}

fn exchanges() -> Vec<Exchange> {
    AGAIN.map(|exchange| Exchange { schedule_step: exchange, contributors: contributors(exchange) }).collect()
}

fn segment(spec: &RunSpec, from: Hash, members: Vec<Own>) -> SegmentUnit {
    SegmentUnit {
        run: RUN,
        spec: spec.hash(),
        batch_operations: batch_operations(spec),
        first: AGAIN.start,
        from,
        exchanges: exchanges(),
        members,
    }
}

/// The software adapter; none if the environment says aloud to skip.
fn software() -> Option<AdmittedDevice> {
    if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.split(',').any(|name| name == "gpu")) {
        println!("SKIPPED as MANTA_TEST_SKIP asks: gpu");
        return None;
    }
    let chosen = Chosen::choose(&Wanted::Software, None);
    Some(chosen.expect("a software Vulkan adapter (MANTA_TEST_SKIP=gpu skips)").device.expect("as asked for"))
}

fn done<T>(executed: segment::Executed<T>) -> T {
    let (found, trouble) = executed.expect("it can be done");
    assert_eq!(trouble, None);
    found.expect("nobody stopped it")
}

/// A run whose gradients are averaged, through the trainer's own thread: the states
/// before the segment and after it, and how well the last state predicts.
fn live_averaged() -> (RunState, RunState, RunState, Evaluation) {
    let mut trainer = Trainer::start(None, ONE_THREAD).expect("a thread");
    let mut ask = |work| {
        assert!(trainer.ask(work));
        trainer.answers.blocking_recv().expect("the trainer lives").1
    };
    let members = MEMBERS.map(|peer| Contact { peer, bulk_port: 0, addresses: Vec::new() }).to_vec();
    let (owner, me, donors) = (MEMBERS[0], MEMBERS[0], Vec::new());
    let start = RunStart { run: RUN, spec: nano_spec(false, 2), owner, me, members, donors, entry: Entry::First };
    ask(Work::Prepare { start: Arc::new(start), data: data(), initial: None, state: None });
    let mut states = Vec::new();
    for exchange in 0..EXCHANGES {
        let purpose = Purpose::Checkpoint;
        let Answer::State { state, .. } = ask(Work::State { run: RUN, exchange, purpose }) else { panic!() };
        states.push(state);
        let mut contributions = Vec::new();
        for (member, batches) in MEMBERS.into_iter().zip(contributors(exchange)) {
            let compute = Work::Compute { run: RUN, exchange, plan: 0, batches, schedule_step: exchange };
            let Answer::Computed { values, .. } = ask(compute) else { panic!("{member:?}") };
            contributions.push((member, values));
        }
        let reduce = Work::Reduce { run: RUN, exchange, view: 0, chunk: 0, contributions };
        let Answer::Reduced { sum, .. } = ask(reduce) else { panic!() };
        let sums = vec![(MEMBERS[0], sum)];
        let apply = Work::Apply { run: RUN, exchange, batches: 5, schedule_step: exchange, sums };
        assert!(matches!(ask(apply), Answer::Applied { .. }));
    }
    let Answer::State { state: last, .. } =
        ask(Work::State { run: RUN, exchange: EXCHANGES, purpose: Purpose::Snapshot })
    else {
        panic!()
    };
    let Answer::Exported(export) = ask(Work::Export { run: RUN, evaluate: true }) else { panic!() };
    assert!(trainer.busy().wait_idle(Duration::from_secs(60)), "it has nothing more to do");
    let [before, after] = [AGAIN.start, AGAIN.end].map(|exchange| states[exchange as usize].clone());
    (before, after, last, export.validation.expect("as asked for"))
}

#[test]
fn a_segment_ends_in_the_state_of_the_live_run_on_every_device() {
    let (before, after, last, live) = live_averaged();
    let spec = nano_spec(false, 2);
    let unit = segment(&spec, before.cut(RUN).root, Vec::new());
    let job = |unit: &SegmentUnit, state: &RunState| SegmentJob {
        unit: unit.clone(),
        spec: spec.clone(),
        data: data(),
        state: state.clone(),
        moments: Vec::new(),
    };
    let device = software();
    let mut results: Vec<SegmentResult> = Vec::new();
    for device in [None, device.as_ref()] {
        let on = On { device, threads: 1 };
        let result = done(job(&unit, &before).execute(on, &mut || true));
        assert_eq!(result.state, after.cut(RUN).root);
        assert_eq!(result.losses.len(), 2 * 5);
        results.push(result);
    }
    assert_eq!(unit.digest(&results[0]), unit.digest(&results[1]));
    let on = On { device: None, threads: 1 };
    // One batch is another, or contributions are added up in another order.
    for change in [
        (|unit: &mut SegmentUnit| unit.exchanges[1].contributors[0][0].first += 1) as fn(&mut SegmentUnit),
        // Where the learning rate has begun to fall.
        |unit| unit.exchanges[0].schedule_step = 5,
        |unit| unit.exchanges[0].contributors[1].pop().map_or((), drop),
    ] {
        let mut other = unit.clone();
        change(&mut other);
        assert_ne!(done(job(&other, &before).execute(on, &mut || true)).state, results[0].state);
    }
    // What was given is not what the unit names.
    let mut forged = before.clone();
    forged.vectors[0][0] += 1.0;
    for (job, problem) in [
        (job(&unit, &forged), "has the root"),
        (job(&unit, &after), "before exchange 4, not 2"),
        (job(&SegmentUnit { spec: Hash([9; 32]), ..unit.clone() }, &before), "is of spec"),
        (job(&SegmentUnit { batch_operations: 1, ..unit.clone() }, &before), "operations"),
    ] {
        let refused = job.execute(on, &mut || true).expect_err(problem);
        assert!(refused.problem.contains(problem), "{}", refused.problem);
    }
    // It is asked before every batch, and can be stopped there.
    let mut asked = 0;
    let stopped = job(&unit, &before).execute(on, &mut || {
        asked += 1;
        asked < 7
    });
    assert!(matches!(stopped, Ok((None, None))) && asked == 7, "{asked}");
    evaluations_equal_the_live_one(&spec, &last, live, device.as_ref());
}

fn evaluations_equal_the_live_one(spec: &RunSpec, state: &RunState, live: Evaluation, device: Option<&AdmittedDevice>) {
    assert!(live.loss.tokens > 0 && live.hits > 0 && live.hits < live.loss.tokens, "{live:?}");
    let unit = EvaluateUnit {
        run: RUN,
        spec: spec.hash(),
        window_operations: window_operations(spec),
        state: state.cut(RUN).root,
        windows: VALIDATION_WINDOWS_MAX as u32,
    };
    let job = |unit| EvaluateJob { unit, spec: spec.clone(), data: data(), state: state.clone() };
    for device in [None, device] {
        assert_eq!(done(job(unit).execute(On { device, threads: 1 }, &mut || true)), live);
    }
    let on = On { device: None, threads: 1 };
    let fewer = done(job(EvaluateUnit { windows: 3, ..unit }).execute(on, &mut || true));
    assert_eq!(fewer.loss.tokens, 3 * 16);
    let another = job(EvaluateUnit { state: Hash([9; 32]), ..unit });
    assert!(another.execute(on, &mut || true).is_err_and(|refused| refused.problem.contains("has the root")));
}

#[test]
fn a_segment_of_local_steps_goes_on_from_the_members_moments() {
    let spec = nano_spec(true, 2);
    let mut live = [0, 1].map(|_| Model::prepare(RUN, &spec, data(), None, None, ONE_THREAD).expect("a model"));
    let elements = spec.model.parameters().expect("a size") as usize;
    let (mut before, mut own, mut after) = (None, Vec::new(), None);
    for exchange in 0..EXCHANGES {
        if exchange == AGAIN.start {
            before = Some(live[0].state(exchange).expect("a state"));
            own = live.iter_mut().map(|model| model.own().expect("local")).collect();
        }
        if exchange == AGAIN.end {
            after = Some(live[1].state(exchange).expect("a state"));
        }
        let (mut sum, mut batches) = (vec![0.0; elements], 0);
        for (model, spans) in live.iter_mut().zip(contributors(exchange)) {
            let Some(Values { values, .. }) = model.values(&spans, exchange, || false).expect("values") else {
                panic!()
            };
            reduce::accumulate(&mut sum, &values_of(&values).collect::<Vec<_>>()).expect("finite");
            batches += ledger::count(&spans);
        }
        for model in &mut live {
            model.apply(exchange, batches, exchange, &[(MEMBERS[0], bytes_of(&sum))]).expect("applied");
        }
    }
    let (before, after) = (before.expect("before"), after.expect("after"));
    let states: Vec<_> = own.iter().map(|own| moments(own, AGAIN.start)).collect();
    let of = |own: &crate::run::trainer::model::Own, state: &Option<RunState>| Own {
        steps: own.steps,
        moments: state.as_ref().map(|state| state.cut(RUN).root),
    };
    let members: Vec<Own> = own.iter().zip(&states).map(|(own, state)| of(own, state)).collect();
    assert!(members.iter().all(|own| own.steps > 0 && own.moments.is_some()) && members[0] != members[1]);
    let unit = segment(&spec, before.cut(RUN).root, members.clone());
    let job = |unit: &SegmentUnit, moments: Vec<Option<RunState>>| SegmentJob {
        unit: unit.clone(),
        spec: spec.clone(),
        data: data(),
        state: before.clone(),
        moments,
    };
    let on = On { device: None, threads: 1 };
    let result = done(job(&unit, states.clone()).execute(on, &mut || true));
    assert_eq!(result.state, after.cut(RUN).root);
    if let Some(device) = software() {
        let again = done(job(&unit, states.clone()).execute(On { device: Some(&device), threads: 1 }, &mut || true));
        assert_eq!(again, result);
    }
    // With moments that begin at zero it ends elsewhere; and others' moments are refused.
    let fresh = SegmentUnit { members: vec![Own { steps: 0, moments: None }; 2], ..unit.clone() };
    assert_ne!(done(job(&fresh, vec![None, None]).execute(on, &mut || true)).state, result.state);
    let swapped = states.iter().rev().cloned().collect();
    for moments in [swapped, vec![None, None], Vec::new()] {
        assert!(job(&unit, moments).execute(on, &mut || true).is_err());
    }
}

/// A driller that has measured itself, with the whole machine for it.
fn driller(busy: &Arc<Busy>) -> Driller {
    let share = "100".parse::<Share>().expect("a share");
    let mut driller = Driller::start(None, 1, share, busy.clone()).expect("a thread");
    driller.measured.blocking_recv().expect("it is measured");
    assert!(driller.operations_per_s().is_some_and(|speed| speed > 0));
    driller
}

fn gemm(class: GemmClass) -> Job {
    let [rows, columns, depth] = class.sizes().map(|size| size as usize);
    Job::Gemm { shape: GemmShape { rows, columns, depth }, seed: Hash([3; 32]), challenge: Some(Hash([4; 32])) }
}

#[test]
fn units_are_executed_one_after_the_other() {
    let mut driller = driller(&Arc::default());
    let minute = Duration::from_secs(60);
    assert_eq!(driller.ask(TASK, gemm(GemmClass::SMALLEST), minute, false), Ok(()));
    let finished = driller.finished.blocking_recv().expect("the thread lives");
    let [rows, columns, depth] = GemmClass::SMALLEST.sizes().map(|size| size as usize);
    let mut native = GemmDriller::native(1, SimdPath::Portable).expect("a processor");
    let shape = GemmShape { rows, columns, depth };
    let found = native.execute(&shape, &[3; 32], Some(&[4; 32]), &mut || true).expect("no fault").expect("not stopped");
    let result = DrillResult { digest: Hash(found.digest), check: Hash(found.check) };
    assert_eq!((finished.task, finished.outcome), (TASK, Outcome::Gemm(result)));
    // One of a run: an untrained model is judged.
    let spec = nano_spec(false, 2);
    let mut model = Model::prepare(RUN, &spec, data(), None, None, ONE_THREAD).expect("a model");
    let state = model.state(0).expect("a state");
    let evaluation = model.evaluate(2, || true).expect("no fault").expect("not stopped");
    let (window_operations, root) = (window_operations(&spec), state.cut(RUN).root);
    let unit = EvaluateUnit { run: RUN, spec: spec.hash(), window_operations, state: root, windows: 2 };
    let job = EvaluateJob { unit, spec: spec.clone(), data: data(), state };
    assert_eq!(driller.ask(TASK, Job::Evaluate(Box::new(job)), minute, false), Ok(()));
    let finished = driller.finished.blocking_recv().expect("the thread lives");
    assert_eq!(finished.outcome, Outcome::Evaluated { digest: unit.digest(&evaluation), evaluation });
    // A state that the unit does not name fails, and is reported.
    let unit = segment(&spec, Hash([5; 32]), Vec::new());
    let state = RunState { exchange: AGAIN.start, vectors: vec![vec![0.0; 4]; 3] };
    let job = SegmentJob { unit, spec, data: data(), state, moments: Vec::new() };
    assert_eq!(driller.ask(TASK, Job::Segment(Box::new(job)), minute, false), Ok(()));
    let finished = driller.finished.blocking_recv().expect("the thread lives");
    let Finished { outcome: Outcome::Failed { problem }, .. } = &finished else { panic!("{finished:?}") };
    assert!(problem.contains("has the root"), "{problem}");
}

#[test]
fn a_unit_waits_for_a_busy_trainer_as_long_as_it_can_and_can_be_stopped() {
    let busy = Arc::new(Busy::default());
    let mut driller = driller(&busy);
    busy.set(true);
    // At least six blocks, which would take a moment.
    let speed = driller.operations_per_s().expect("it was measured");
    let class = GemmClass::for_speed(speed / 4);
    let expected = Duration::from_secs_f64(class.operations() as f64 / speed as f64);
    let within = 6 * expected;
    assert_eq!(driller.ask(TASK, gemm(class), within, false), Ok(()));
    assert_eq!(driller.ask(TASK, gemm(class), within, false), Err(Refused::Twice));
    let finished = driller.finished.blocking_recv().expect("the thread lives");
    assert!(matches!(finished.outcome, Outcome::Gemm(_)), "it does not wait for ever: {finished:?}");
    // With a day for it, it is not done when it would be done long ago if it did not wait.
    let day = Duration::from_secs(86_400);
    assert_eq!(driller.ask(TASK, gemm(class), day, false), Ok(()));
    std::thread::sleep(6 * expected);
    assert!(driller.finished.try_recv().is_err(), "not in haste");
    // What waits is stopped at once.
    driller.stop(&TASK);
    let finished = driller.finished.blocking_recv().expect("the thread lives");
    assert_eq!(finished.outcome, Outcome::Stopped);
    // And goes on at once when the trainer has nothing to do.
    assert_eq!(driller.ask(TASK, gemm(class), day, false), Ok(()));
    busy.set(false);
    let finished = driller.finished.blocking_recv().expect("the thread lives");
    assert!(matches!(finished.outcome, Outcome::Gemm(_)) && finished.elapsed_ms < 60_000, "{finished:?}");
}

#[test]
fn what_has_no_room_is_refused_and_leaves_no_trace() {
    let driller = driller(&Arc::default());
    let refused = driller.ask(TASK, gemm(GemmClass::LARGEST), Duration::ZERO, false);
    assert!(matches!(refused, Err(Refused::NoRoom { .. })), "{refused:?}");
    let owed = driller.ask(Hash([99; 32]), gemm(GemmClass::SMALLEST), Duration::ZERO, true);
    assert_eq!(owed, Ok(()), "what is owed takes what it takes");
    let long = Duration::from_secs(1 << 30);
    // One is executed or waits, and so do as many as may; no task stands for two.
    let asked: Vec<_> =
        (0..20).map(|task| driller.ask(Hash([task; 32]), gemm(GemmClass::LARGEST), long, false)).collect();
    let taken = asked.iter().filter(|asked| asked.is_ok()).count();
    assert!((7..=9).contains(&taken), "{asked:?}");
    assert!(asked.iter().all(|asked| matches!(asked, Ok(()) | Err(Refused::Full))), "{asked:?}");
}
