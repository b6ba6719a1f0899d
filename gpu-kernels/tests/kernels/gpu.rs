//! The engine on the software adapter, beside the native one and the pinned hashes.
//!
//! A missing adapter is an error, unless `MANTA_TEST_SKIP` contains "gpu".

use crate::golden::Golden;
use crate::local_rounds::LocalRounds;
use crate::support::{engine, micro_batch, optimizer, spec, tiny_model};
use manta_gpu_kernels::admission::{AdmissionReport, AdmittedDevice, Forms, OpForm, parity_suite};
use manta_gpu_kernels::device::{Device, DeviceChoice, DeviceError, DeviceKind, list_devices};
use manta_gpu_kernels::{
    ArithmeticSpec, EngineError, GpuEngine, MicroBatchKey, ModelConfig, SimdPath, StepNumbers, TrainingEngine,
};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The software adapter; none if the environment says aloud to skip.
pub(crate) fn device() -> Option<Device> {
    match Device::open(&DeviceChoice::Software) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("gpu")) => {
            eprintln!("skipped as MANTA_TEST_SKIP asks: {error}");
            None
        }
        Err(error) => panic!("{error} (MANTA_TEST_SKIP=gpu skips these tests)"),
    }
}

/// The adapter admitted once for all tests that need no other form.
pub(crate) fn admitted() -> Option<AdmittedDevice> {
    static ADMITTED: OnceLock<Option<AdmittedDevice>> = OnceLock::new();
    ADMITTED
        .get_or_init(|| device().map(|device| AdmittedDevice::admit(device, Forms::default(), None).unwrap()))
        .clone()
}

fn gpu_engine(model: ModelConfig, spec: ArithmeticSpec) -> Option<GpuEngine> {
    Some(GpuEngine::new(model, optimizer(), spec, &admitted()?).unwrap())
}

/// A folder of its own under Cargo's, empty.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[test]
fn the_whole_parity_suite_passes() {
    let Some(device) = device() else { return };
    let report = parity_suite(&device, 3).unwrap();
    let text = serde_json::to_string_pretty(&report).unwrap();
    assert!(report.passed(), "{text}");
    assert_eq!(report.admissions.len(), 3);
    assert_eq!(report.runs.len(), 12);
    for (admission, form) in report.admissions.iter().zip([OpForm::Native, OpForm::Native, OpForm::SoftFloat]) {
        assert!(admission.ops.len() >= 28 && admission.ops.iter().all(|op| op.form == form && op.cases > 0), "{text}");
    }
    assert_eq!(report.flaws.len(), 6);
    for flaw in &report.flaws {
        assert!(flaw.missed.is_empty() && flaw.caught.len() >= 8, "{flaw:?}");
    }
}

/// Trains as the golden file says, and compares with what it pins.
fn check_golden(file: &Path, device: &AdmittedDevice) {
    let golden = Golden::read(file);
    let (model, optimizer, spec) = (golden.model.clone(), golden.optimizer.clone(), golden.arithmetic.clone());
    let mut engine = GpuEngine::new(model, optimizer, spec, device).unwrap();
    assert_eq!(golden.train(&mut engine).unwrap(), golden.outcome, "{file:?}");
}

#[test]
fn pinned_hashes_after_twenty_steps() {
    let Some(device) = admitted() else { return };
    Golden::files().iter().for_each(|file| check_golden(file, &device));
}

#[test]
fn pinned_hashes_after_twenty_steps_with_floats_made_of_integers() {
    let Some(device) = device() else { return };
    let forms = Forms { soft_float: true, portable_dot: true };
    let device = AdmittedDevice::admit(device, forms, None).unwrap();
    assert!(device.report().ops.iter().all(|op| op.form == OpForm::SoftFloat));
    let files = Golden::files();
    let file = files.iter().find(|file| file.ends_with("untied_grouped_odd.json")).unwrap();
    check_golden(file, &device);
}

#[test]
fn local_rounds_on_the_device_and_beside_the_processor_are_the_pinned_ones() {
    let Some(device) = admitted() else { return };
    for golden in LocalRounds::files().map(|file| LocalRounds::read(&file)) {
        let on_device = || -> Box<dyn TrainingEngine> {
            let (model, optimizer, spec) = (golden.model.clone(), golden.optimizer.clone(), golden.arithmetic.clone());
            Box::new(GpuEngine::new(model, optimizer, spec, &device).unwrap())
        };
        assert_eq!(golden.train(vec![on_device(), on_device()]).unwrap(), golden.outcome);
        for path in SimdPath::available() {
            assert_eq!(golden.train(vec![on_device(), golden.native(path, 1)]).unwrap(), golden.outcome, "{path:?}");
        }
    }
}

#[test]
fn parameters_are_replaced_and_moments_kept_as_natively() {
    let Some(mut gpu) = gpu_engine(tiny_model(), spec()) else { return };
    let mut native = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    native.initialize([4; 32]);
    gpu.initialize([4; 32]).unwrap();
    let key = MicroBatchKey { run_seed: [4; 32], step: 0, micro_batch: 0 };
    gpu.accumulate_gradient(&micro_batch(2, 1), 2, &key).unwrap();
    native.accumulate_gradient(&micro_batch(2, 1), 2, &key).unwrap();
    gpu.apply_own_gradient(1, StepNumbers::in_order(0)).unwrap();
    native.apply_own_gradient(1, StepNumbers::in_order(0)).unwrap();
    gpu.accumulate_gradient(&micro_batch(2, 2), 2, &key).unwrap();
    let moments = gpu.optimizer_hash().unwrap();
    let mut moved: Vec<f32> = native.parameters().iter().map(|x| x * 1.25).collect();
    moved[..3].copy_from_slice(&[-0.0, 1e-40, -1e-33]);
    gpu.set_parameters(moved.clone()).unwrap();
    native.set_parameters(moved.clone()).unwrap();
    assert_eq!(gpu.parameter_hash().unwrap(), native.parameter_hash());
    assert_eq!((gpu.optimizer_hash().unwrap(), native.optimizer_hash()), (moments, moments));
    assert!(gpu.gradient().unwrap().iter().all(|x| x.to_bits() == 0));
    // The packed weights are new ones, too.
    let tokens = micro_batch(3, 5);
    assert_eq!(gpu.evaluate(&tokens, 3).unwrap(), native.evaluate(&tokens, 3).unwrap());
    let before = gpu.parameter_hash().unwrap();
    assert!(matches!(gpu.set_parameters(vec![0.0; 3]), Err(EngineError::Length { found: 3, .. })));
    let mut bad = moved.clone();
    bad[77] = f32::INFINITY;
    assert!(matches!(gpu.set_parameters(bad), Err(EngineError::Value { index: 77, .. })));
    assert_eq!((gpu.parameter_hash().unwrap(), gpu.optimizer_hash().unwrap()), (before, moments));
    gpu.load_parameters(moved.clone()).unwrap();
    native.load_parameters(moved).unwrap();
    assert_eq!(gpu.optimizer_hash().unwrap(), native.optimizer_hash());
    assert_ne!(gpu.optimizer_hash().unwrap(), moments);
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let Some(mut engine) = gpu_engine(tiny_model(), spec()) else { return };
    engine.initialize([8; 32]).unwrap();
    let key = MicroBatchKey { run_seed: [8; 32], step: 0, micro_batch: 0 };
    let tokens = micro_batch(2, 3);
    engine.accumulate_gradient(&tokens, 2, &key).unwrap();
    let state = |engine: &GpuEngine| {
        (engine.parameter_hash().unwrap(), engine.optimizer_hash().unwrap(), engine.gradient().unwrap())
    };
    let before = state(&engine);
    let mut bad = tokens.clone();
    bad[5] = u32::MAX;
    assert!(matches!(engine.accumulate_gradient(&bad, 2, &key), Err(EngineError::Token { place: 5, .. })));
    assert!(matches!(engine.evaluate(&bad, 2), Err(EngineError::Token { place: 5, .. })));
    assert!(matches!(engine.accumulate_gradient(&tokens, 3, &key), Err(EngineError::Length { .. })));
    assert!(matches!(engine.accumulate_gradient(&tokens, usize::MAX, &key), Err(EngineError::Length { .. })));
    assert!(matches!(engine.next_token_logits(&[]), Err(EngineError::Length { found: 0, .. })));
    let mut gradient = before.2.clone();
    assert!(matches!(
        engine.apply_gradient(&gradient[1..], 1, StepNumbers::in_order(0)),
        Err(EngineError::Length { .. })
    ));
    assert!(matches!(engine.apply_gradient(&gradient, 0, StepNumbers::in_order(0)), Err(EngineError::Length { .. })));
    gradient[77] = f32::NAN;
    assert!(matches!(
        engine.apply_gradient(&gradient, 1, StepNumbers::in_order(0)),
        Err(EngineError::Value { index: 77, .. })
    ));
    assert!(matches!(engine.load_parameters(gradient), Err(EngineError::Value { index: 77, .. })));
    assert_eq!(before, state(&engine));
}

#[test]
fn leaving_the_range_names_the_op_and_changes_nothing() {
    let Some(mut gpu) = gpu_engine(tiny_model(), spec()) else { return };
    let mut native = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    native.initialize([9; 32]);
    let mut parameters = native.parameters().to_vec();
    for name in ["gate_proj", "up_proj"] {
        let weight = native.layout().tensor(&format!("model.layers.1.mlp.{name}.weight")).unwrap().range();
        parameters[weight].iter_mut().for_each(|x| *x *= 1e9);
    }
    native.load_parameters(parameters.clone()).unwrap();
    gpu.load_parameters(parameters).unwrap();
    let before = gpu.parameter_hash().unwrap();
    assert_eq!(before, native.parameter_hash());
    let key = MicroBatchKey { run_seed: [9; 32], step: 0, micro_batch: 0 };
    let tokens = micro_batch(2, 3);
    let expected = native.accumulate_gradient(&tokens, 2, &key);
    assert_eq!(expected, Err(EngineError::Range { op: "swiglu", layer: Some(1) }));
    assert_eq!(gpu.accumulate_gradient(&tokens, 2, &key), expected);
    assert!(gpu.gradient().unwrap().iter().all(|x| x.to_bits() == 0));
    let gradient = vec![1e12; gpu.layout().len()];
    let found = gpu.apply_gradient(&gradient, 1, StepNumbers::in_order(0));
    assert!(matches!(found, Err(EngineError::Range { op: "gradient norm", .. })), "{found:?}");
    assert_eq!(before, gpu.parameter_hash().unwrap());
}

#[test]
fn a_gradient_from_outside_is_applied_as_natively() {
    let Some(mut gpu) = gpu_engine(tiny_model(), spec()) else { return };
    let mut native = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    native.initialize([3; 32]);
    gpu.initialize([3; 32]).unwrap();
    let mut gradient: Vec<f32> =
        (0..native.layout().len()).map(|i| ((i * 7919 % 1001) as f32 - 500.0) * 1e-4).collect();
    gradient[..3].copy_from_slice(&[-0.0, 1e-40, -1e-33]);
    for step in 0..2 {
        let expected = native.apply_gradient(&gradient, 5, StepNumbers::in_order(step)).unwrap();
        assert_eq!(gpu.apply_gradient(&gradient, 5, StepNumbers::in_order(step)).unwrap(), expected);
        assert_eq!(gpu.parameter_hash().unwrap(), native.parameter_hash());
        assert_eq!(gpu.optimizer_hash().unwrap(), native.optimizer_hash());
    }
    let tokens = micro_batch(7, 5);
    assert_eq!(gpu.evaluate(&tokens, 7).unwrap(), native.evaluate(&tokens, 7).unwrap());
    for length in [1, 2, 33, 64] {
        let context: Vec<u32> = (0..length).map(|i| i * 5 % 29).collect();
        assert_eq!(gpu.next_token_logits(&context).unwrap(), native.next_token_logits(&context).unwrap(), "{length}");
    }
}

#[test]
fn admission_is_cached_for_this_device_and_these_forms() {
    let Some(device) = device() else { return };
    let folder = folder("admission");
    let first = AdmittedDevice::admit(device.clone(), Forms::default(), Some(&folder)).unwrap();
    assert!(!first.report().from_cache && first.report().whole_step);
    let second = AdmittedDevice::admit(device.clone(), Forms::default(), Some(&folder)).unwrap();
    assert!(second.report().from_cache);
    let same = AdmissionReport { from_cache: false, ..second.report().clone() };
    assert_eq!(&same, first.report());
    // A file that says something else, or nothing, is not believed.
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    let forged = text.replace(&first.report().shader_hash, &"0".repeat(64));
    for content in [forged.as_str(), "{"] {
        std::fs::write(&file, content).unwrap();
        let again = AdmittedDevice::admit(device.clone(), Forms::default(), Some(&folder)).unwrap();
        assert!(!again.report().from_cache);
    }
    // A refusal is remembered, too.
    let mut refused = first.report().clone();
    refused.refused = Some("a test".into());
    std::fs::write(&file, serde_json::to_vec(&refused).unwrap()).unwrap();
    let found = AdmittedDevice::admit(device, Forms::default(), Some(&folder)).err();
    assert!(matches!(found, Some(EngineError::Device(DeviceError::NotAdmitted { .. }))), "{found:?}");
}

#[test]
fn devices_are_listed_and_chosen() {
    let Some(device) = device() else { return };
    assert_eq!(device.report().kind, DeviceKind::Software);
    let devices = list_devices();
    assert!(devices.contains(device.report()));
    assert!(devices.is_sorted_by_key(|device| device.kind), "software comes last: {devices:?}");
    let named = Device::open(&DeviceChoice::Named(device.report().name.to_uppercase())).unwrap();
    assert_eq!(named.report(), device.report());
    match Device::open(&DeviceChoice::Named("no such device".into())) {
        Err(error @ DeviceError::NoAdapter { .. }) => assert!(error.to_string().contains(&device.report().name)),
        Err(other) => panic!("{other}"),
        Ok(device) => panic!("{:?}", device.report()),
    }
    if devices.iter().all(|device| device.kind == DeviceKind::Software) {
        assert!(matches!(Device::open(&DeviceChoice::Hardware), Err(DeviceError::NoAdapter { .. })));
    }
}

#[test]
fn models_that_the_device_cannot_hold_are_refused() {
    let Some(device) = admitted() else { return };
    let axis_max = device.report().axis_max;
    let longer = ModelConfig { vocab_size: axis_max + 1, ..tiny_model() };
    match GpuEngine::new(longer, optimizer(), spec(), &device).err() {
        Some(EngineError::Device(DeviceError::Axis { axis: "vocab_size", limit, .. })) => assert_eq!(limit, axis_max),
        // No driver's loops are too short for a vocabulary that no model may have.
        Some(EngineError::Config(_)) => assert_eq!(axis_max, 1 << 20),
        other => panic!("{other:?}"),
    }
    let limit_bytes = device.device().report().binding_bytes_max;
    let model = ModelConfig { vocab_size: 1 << 15, hidden_size: 1 << 14, num_hidden_layers: 1, ..tiny_model() };
    let parameter_bytes = 8u64 << 29;
    if parameter_bytes <= limit_bytes {
        return;
    }
    match GpuEngine::new(model, optimizer(), spec(), &device).err() {
        Some(EngineError::Device(DeviceError::Binding { tensor: "parameters", needed_bytes, .. })) => {
            assert!(needed_bytes > limit_bytes);
        }
        other => panic!("{other:?}"),
    }
}
