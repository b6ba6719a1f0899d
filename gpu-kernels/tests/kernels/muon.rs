//! Steps with Muon: against f64, in one pass and in two, what they refuse, and on the device.
//! That every path gives equal bits is pinned by the golden files of such runs.

use crate::gpu::admitted;
use crate::support::{micro_batch, optimizer, spec, tiny_model};
use crate::text::Random;
use manta_gpu_kernels::reference::Muon;
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, GpuEngine, LocalStep, MicroBatch, MicroBatchKey, ModelConfig,
    OptimizerConfig, OptimizerKind, StepNumbers, TrainingEngine, TrainingState,
};

fn muon() -> OptimizerConfig {
    OptimizerConfig { kind: OptimizerKind::Muon, ..optimizer() }
}

fn engine(optimizer: OptimizerConfig) -> Engine {
    let options = EngineOptions { threads: 2, ..Default::default() };
    let mut engine = Engine::new(tiny_model(), optimizer, spec(), options).unwrap();
    engine.initialize([4; 32]);
    engine
}

/// ‖a − b‖ / ‖b − start‖
fn relative_error(found: &[f32], expected: &[f64], start: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let error = squares(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - b));
    let way = squares(&mut expected.iter().zip(start).map(|(&b, &a)| b - f64::from(a)));
    (error / way).sqrt()
}

#[test]
fn steps_agree_with_double_precision() {
    let config = OptimizerConfig { decay_start_step: 6, total_steps: 12, ..muon() };
    let mut engine = engine(config.clone());
    let start = engine.parameters().to_vec();
    let mut parameters: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
    let mut reference = Muon::<f64>::new(&config, engine.layout());
    let mut random = Random(31);
    // A late member's moments are younger than the schedule; every third sum is not clipped.
    for step in 0..12 {
        let numbers = StepNumbers { adam: step, schedule: step + 2 };
        let size = if step % 3 == 0 { 1e-3 } else { 1.0 };
        let sum: Vec<f32> = parameters.iter().map(|_| size * random.signed()).collect();
        let mean: Vec<f64> = sum.iter().map(|&g| f64::from(g) / 3.0).collect();
        let report = engine.apply_gradient(&sum, 3, numbers).unwrap();
        let norm = reference.step(&mut parameters, &mean, numbers);
        assert!((f64::from(report.gradient_norm) - norm).abs() < 3e-7 * norm, "{norm}");
    }
    for tensor in engine.layout().tensors() {
        let range = tensor.range();
        let error = relative_error(&engine.parameters()[range.clone()], &parameters[range.clone()], &start[range]);
        // Of Newton–Schulz with a side of at most 40: 6 · (2.75·(4 + √40) + 4.1·√40) · 2⁻¹⁴·⁸, see
        // `model/muon.rs`; of AdamW what steps of a thousandth leave of 24 bits.
        let bound = if tensor.is_block_matrix() { 1.2e-2 } else { 1e-4 };
        println!("{}: {error:.2e}, bound {bound:.1e}", tensor.name);
        assert!(error < bound, "{}: {error:e}", tensor.name);
    }
    assert!(engine.layout().tensors().iter().filter(|tensor| tensor.is_block_matrix()).count() == 14);
}

#[test]
fn only_matrices_of_blocks_are_steps_apart_from_adamw() {
    let [mut found, mut plain] = [muon(), optimizer()].map(engine);
    let gradient: Vec<f32> = (0..found.layout().len()).map(|i| ((i * 7919 % 1001) as f32 - 500.0) * 1e-4).collect();
    for step in 0..2 {
        let reports = [&mut found, &mut plain].map(|engine| {
            let report = engine.apply_gradient(&gradient, 2, StepNumbers::in_order(step)).unwrap();
            (report.gradient_norm, report.learning_rate)
        });
        assert_eq!(reports[0], reports[1]);
    }
    let (found, plain, layout) = (found.state(), plain.state(), found.layout());
    for tensor in layout.tensors() {
        let range = tensor.range();
        let same = |a: &[f32], b: &[f32]| a[range.clone()] == b[range.clone()];
        let moments =
            (same(&found.first_moment, &plain.first_moment), same(&found.second_moment, &plain.second_moment));
        let expected = !tensor.is_block_matrix();
        assert_eq!(same(&found.parameters, &plain.parameters), expected, "{}", tensor.name);
        assert_eq!(moments, (expected, expected), "{}", tensor.name);
        if !expected {
            assert!(found.second_moment[range].iter().all(|x| x.to_bits() == 0), "{}", tensor.name);
        }
    }
}

/// Parameters near the end of the range keep steps of AdamW from being taken in one pass.
#[test]
fn one_pass_equals_two() {
    let after = |change: fn(&mut TrainingState)| {
        let mut engine = engine(muon());
        let mut state = engine.state();
        change(&mut state);
        engine.load_state(state).unwrap();
        let gradient: Vec<f32> = (0..engine.layout().len()).map(|i| (i % 1001) as f32 * 1e-4).collect();
        engine.apply_gradient(&gradient, 2, StepNumbers::in_order(0)).unwrap();
        engine.state()
    };
    let one = after(|_| {});
    let mut two = after(|state| state.parameters[5] = 1e12);
    assert_ne!(two.parameters[5].to_bits(), one.parameters[5].to_bits());
    two.parameters[5] = one.parameters[5];
    assert!(one == two, "the other parameters and all moments are the same");
}

#[test]
fn what_leaves_the_range_is_named_and_changes_nothing() {
    let mut engine = engine(muon());
    let matrix = engine.layout().tensor("model.layers.1.self_attn.k_proj.weight").unwrap().range();
    let mut state = engine.state();
    // Each element is fine, but not their norm.
    state.first_moment[matrix.clone()].fill(5e11);
    engine.load_state(state.clone()).unwrap();
    let key = MicroBatchKey { run_seed: [4; 32], step: 0, micro_batch: 0 };
    engine.accumulate_gradient(&micro_batch(2, 1), 2, &key).unwrap();
    let gradient = engine.gradient().to_vec();
    let found = engine.apply_own_gradient(1, StepNumbers::in_order(0));
    assert_eq!(found, Err(EngineError::Range { op: "muon", layer: None }));
    assert!(engine.state() == state && engine.gradient() == gradient);
    let mut foreign = state.clone();
    foreign.second_moment[matrix.end - 1] = -0.0;
    let refused = engine.load_state(foreign);
    assert!(matches!(refused, Err(EngineError::Value { what: "second_moment", index, .. }) if index == matrix.end - 1));
    state.first_moment[matrix.clone()].fill(0.0);
    state.first_moment[matrix.start] = 5e11;
    engine.load_state(state).unwrap();
    engine.apply_gradient(&gradient, 1, StepNumbers::in_order(0)).unwrap();
    // A gradient of nothing is no reason to divide by nothing.
    let mut still = self::engine(OptimizerConfig { weight_decay: 0.0, ..muon() });
    let before = still.state();
    still.apply_gradient(&vec![-0.0; before.parameters.len()], 1, StepNumbers::in_order(0)).unwrap();
    assert!(still.state() == before);
}

/// The first step of a run is of a size that its learning rate sets, whatever the gradient's.
#[test]
fn the_size_of_a_step_does_not_depend_on_that_of_the_gradient() {
    let size = |scale: f32| {
        let mut engine = engine(OptimizerConfig { weight_decay: 0.0, warmup_steps: 0, ..muon() });
        let before = engine.parameters().to_vec();
        let mut random = Random(8);
        let gradient: Vec<f32> = before.iter().map(|_| scale * random.signed()).collect();
        engine.apply_gradient(&gradient, 1, StepNumbers::in_order(0)).unwrap();
        let range = engine.layout().tensor("model.layers.0.mlp.gate_proj.weight").unwrap().range();
        let steps = range.clone().map(|at| f64::from(engine.parameters()[at] - before[at]));
        (steps.map(|step| step * step).sum::<f64>() / range.len() as f64).sqrt()
    };
    let sizes = [1e-4, 1.0, 1e4].map(size);
    // 0.2 of the learning rate of 0.01, times singular values of 0.68 to 1.21, times √(side / length · length / side).
    for size in sizes {
        assert!((0.68 * 0.002..1.21 * 0.002).contains(&size), "{sizes:?}");
    }
}

/// Steps of own gradients in one call, then one of a gradient from outside; everything that comes of them.
fn trace(engine: &mut dyn TrainingEngine) -> Vec<u8> {
    engine.initialize([6; 32]).unwrap();
    let row = engine.arithmetic().sequence_length + 1;
    let tokens: Vec<Vec<u32>> = (0..4).map(|number| micro_batch(1, number)[..row].to_vec()).collect();
    let batches: Vec<MicroBatch<'_>> = (0..)
        .zip(&tokens)
        .map(|(step, tokens)| {
            let key = MicroBatchKey { run_seed: [6; 32], step, micro_batch: 0 };
            MicroBatch { tokens, sequences: 1, key }
        })
        .collect();
    let steps: Vec<LocalStep<'_>> = (0..)
        .zip(&batches)
        .map(|(step, batch)| LocalStep {
            micro_batches: std::slice::from_ref(batch),
            numbers: StepNumbers::in_order(step),
        })
        .collect();
    let training = engine.train_steps(&steps).unwrap();
    assert!(training.outcomes.len() == 4 && training.stopped.is_none(), "{training:?}");
    let gradient: Vec<f32> = (0..engine.layout().len()).map(|i| ((i * 7919 % 1001) as f32 - 500.0) * 1e-4).collect();
    let report = engine.apply_gradient(&gradient, 5, StepNumbers::in_order(4)).unwrap();
    let mut bytes = format!("{:?} {report:?}", training.outcomes).into_bytes();
    bytes.extend(engine.parameter_hash().unwrap());
    bytes.extend(engine.optimizer_hash().unwrap());
    bytes
}

#[test]
fn matrices_larger_than_a_binding_are_made_orthogonal_alike() {
    let Some(device) = admitted() else { return };
    let small = device.clone().with_binding_limit(64 << 10).unwrap();
    let spec = ArithmeticSpec { micro_batch_sequences: 1, sequence_length: 10, ..spec() };
    // Gate, up and down take more than 64 KiB each, and so do the squares of a side of 136.
    for (hidden_size, intermediate_size) in [(70, 290), (136, 200)] {
        let model = ModelConfig { hidden_size, intermediate_size, num_hidden_layers: 1, ..tiny_model() };
        assert!(4 * hidden_size * intermediate_size > 64 << 10);
        let options = EngineOptions { threads: 2, ..Default::default() };
        let expected = trace(&mut Engine::new(model.clone(), muon(), spec.clone(), options).unwrap());
        for device in [&device, &small] {
            let mut gpu = GpuEngine::new(model.clone(), muon(), spec.clone(), device).unwrap();
            assert_eq!(trace(&mut gpu), expected);
        }
    }
}

#[test]
fn a_step_that_fails_on_the_device_changes_nothing() {
    let Some(device) = admitted() else { return };
    let mut gpu = GpuEngine::new(tiny_model(), muon(), spec(), &device).unwrap();
    gpu.initialize([4; 32]).unwrap();
    let matrix = gpu.layout().tensor("model.layers.1.self_attn.k_proj.weight").unwrap().range();
    let mut state = gpu.state().unwrap();
    let mut foreign = state.clone();
    foreign.second_moment[matrix.start] = 1.0;
    assert!(matches!(gpu.load_state(&foreign), Err(EngineError::Value { what: "second_moment", .. })));
    state.first_moment[matrix].fill(5e11);
    gpu.load_state(&state).unwrap();
    let key = MicroBatchKey { run_seed: [4; 32], step: 0, micro_batch: 0 };
    gpu.accumulate_gradient(&micro_batch(2, 1), 2, &key).unwrap();
    let gradient = gpu.gradient().unwrap();
    let failure = Err(EngineError::Range { op: "muon", layer: None });
    assert_eq!(gpu.apply_own_gradient(1, StepNumbers::in_order(0)), failure);
    assert!(gpu.state().unwrap() == state && gpu.gradient().unwrap() == gradient);
    assert_eq!(gpu.apply_gradient(&gradient, 1, StepNumbers::in_order(0)), failure);
    assert!(gpu.state().unwrap() == state && gpu.gradient().unwrap() == gradient);
}
