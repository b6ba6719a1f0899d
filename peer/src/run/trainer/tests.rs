//! A run on a device that is lost at any moment ends with the bits of a run
//! that was never disturbed.

use super::{Answer, Trainer, Work};
use crate::api::OrderRequest;
use crate::data::DataSet;
use crate::device::{Chosen, Wanted};
use crate::preset::Preset;
use crate::run::spec;
use bytes::Bytes;
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_protocol::effect::RunStart;
use manta_protocol::market::listing::Contact;
use manta_protocol::{Hash, PeerId, RunId};
use std::path::Path;
use std::sync::Arc;

const RUN: RunId = RunId([7; 32]);
/// Enough that the journal is begun anew in between.
const STEPS: u64 = 6;

/// Right before which work the device is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Prepare,
    Gradient(u64),
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
    validation: Option<i64>,
}

/// One member alone, on short sequences of a small model.
fn start() -> Arc<RunStart> {
    let request = OrderRequest {
        data: None,
        out: "model".into(),
        overwrite: false,
        preset: "nano".into(),
        peers_min: 1,
        peers_max: 1,
        rounds: 3,
        steps_per_round: 2,
        seed: 11,
        patience_ms: 0,
        deadline_ms: 0,
        share: manta_protocol::market::demand::Share::Own,
    };
    let preset = Preset { sequence_length: 16, micro_batches: 2, ..Preset::find("nano").expect("a preset") };
    let mut spec = spec::run_spec(&request, &preset, 256, Hash([0; 32]), 1 << 14);
    spec.micro_batch_sequences = 1;
    let peer = PeerId([1; 32]);
    let members = vec![Contact { peer, bulk_port: 0, addresses: Vec::new() }];
    Arc::new(RunStart { run: RUN, spec, owner: peer, members, rank: 0 })
}

fn data() -> Arc<DataSet> {
    let text = |len: u32, seed: u32| (0..len).map(|at| (at * at / 7 + at * seed) as u8 % 91 + 32).collect();
    Arc::new(DataSet { training: text(1 << 14, 3), validation: text(256, 5) })
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

/// Trains on `device`, which is lost right before `moment`.
fn train(device: Option<AdmittedDevice>, moment: Option<Moment>) -> (Outcome, Vec<(String, bool)>) {
    let mut trainer = Trainer::start(device.clone(), 1).expect("a thread");
    let mut failures = Vec::new();
    let mut ask = |now: Option<Moment>, work: Work| {
        if now.is_some() && now == moment {
            device.as_ref().expect("a device to lose").device().destroy();
        }
        ask(&mut trainer, work, &mut failures)
    };
    let prepared = ask(Some(Moment::Prepare), Work::Prepare { start: start(), data: data() });
    assert!(matches!(prepared, Answer::Prepared { .. }), "{prepared:?}");
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let answer = ask(Some(Moment::Gradient(step)), Work::Gradient { run: RUN, step });
        let Answer::Gradient { loss, chunks, .. } = answer else { panic!("{answer:?}") };
        losses.push(loss.fixed);
        let mut sums: Vec<Bytes> = Vec::new();
        for (chunk, values) in (0..).zip(chunks) {
            let answer = ask(None, Work::Reduce { run: RUN, step, chunk, contributions: vec![values] });
            let Answer::Reduced { sum, .. } = answer else { panic!("{answer:?}") };
            sums.push(sum);
        }
        let answer = ask(Some(Moment::Apply(step)), Work::Apply { run: RUN, step, sums });
        assert!(matches!(answer, Answer::Applied { .. }), "{answer:?}");
    }
    let answer = ask(Some(Moment::Hash), Work::Hash { run: RUN, round: 2 });
    let Answer::Hashed { parameter_hash: hash, .. } = answer else { panic!("{answer:?}") };
    let answer = ask(Some(Moment::Export), Work::Export { run: RUN, evaluate: true });
    let Answer::Exported(export) = answer else { panic!("{answer:?}") };
    assert_eq!((export.parameter_hash, export.steps), (hash, STEPS));
    let parameters = export.parameters.iter().map(|value| value.to_bits()).collect();
    let outcome = Outcome { losses, hash, parameters, validation: export.validation.map(|sum| sum.fixed) };
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
    let Some(device) = software(cache.path()) else { return };
    let (expected, _) = train(None, None);
    assert!(expected.losses.last() < expected.losses.first(), "it learns: {:?}", expected.losses);
    let (undisturbed, failures) = train(Some(device), None);
    assert_eq!(undisturbed, expected);
    assert_eq!(failures, []);
    for moment in [
        Moment::Prepare,
        Moment::Gradient(0),
        Moment::Apply(2),
        // While parameters and moments are read back.
        Moment::Apply(3),
        // With steps in the journal after a base.
        Moment::Gradient(5),
        Moment::Hash,
        Moment::Export,
    ] {
        let (outcome, failures) = train(software(cache.path()), Some(moment));
        assert!(outcome == expected, "lost before {moment:?}: {:?}", outcome.losses);
        let [(problem, gone)] = failures.as_slice() else { panic!("{moment:?}: {failures:?}") };
        assert!(*gone && problem.contains("device was lost"), "{moment:?}: {problem}");
    }
}
