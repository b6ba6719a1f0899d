//! Activations that are computed again on the way back, instead of kept: equal bits in less memory.

use crate::gpu::admitted;
use crate::support::{micro_batch, optimizer, spec, tiny_model};
use manta_gpu_kernels::device::{DeviceError, DeviceReport};
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, Evaluation, GpuEngine, LocalStep, LossSum, MemoryPlan,
    MicroBatch, MicroBatchKey, ModelConfig, OptimizerKind, Recompute, StepNumbers, StepReport, TrainingEngine,
};

/// Everything that can be seen of some steps of training.
#[derive(Debug, PartialEq)]
struct Seen {
    losses: Vec<LossSum>,
    gradients: Vec<Vec<f32>>,
    reports: Vec<StepReport>,
    evaluations: Vec<Evaluation>,
    logits: Vec<f32>,
    hashes: [[u8; 32]; 2],
}

const SEED: [u8; 32] = [9; 32];

fn tokens(model: &ModelConfig, spec: &ArithmeticSpec, sequences: usize, number: u64) -> Vec<u32> {
    let places = 0..(sequences * (spec.sequence_length + 1)) as u64;
    places.map(|place| ((place * place / 3 + place / 5 + number * 11) % model.vocab_size as u64) as u32).collect()
}

fn native(model: &ModelConfig, spec: &ArithmeticSpec, recompute: Recompute, threads: usize) -> Seen {
    let options = EngineOptions { threads, recompute, ..EngineOptions::default() };
    let mut engine = Engine::new(model.clone(), optimizer(), spec.clone(), options).unwrap();
    assert_eq!(engine.recomputes(), recompute == Recompute::Always);
    train(&mut engine)
}

/// Three steps of three micro-batches, the last of them smaller, with an evaluation in between.
fn train(engine: &mut dyn TrainingEngine) -> Seen {
    let (model, spec) = (&engine.config().clone(), &engine.arithmetic().clone());
    engine.initialize(SEED).unwrap();
    let (mut losses, mut gradients, mut reports, mut evaluations) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in 0..3 {
        for number in 0..3 {
            let sequences = if number == 2 { 1 } else { spec.micro_batch_sequences };
            let key = MicroBatchKey { run_seed: SEED, step, micro_batch: number };
            let tokens = tokens(model, spec, sequences, 3 * step + number);
            losses.push(engine.accumulate_gradient(&tokens, sequences, &key).unwrap());
            gradients.push(engine.read_gradient().unwrap());
        }
        evaluations.push(engine.evaluate(&tokens(model, spec, 2, 100 + step), 2).unwrap());
        reports.push(engine.apply_own_gradient(3, StepNumbers::in_order(step)).unwrap());
    }
    let logits = engine.next_token_logits(&[1, 2, 3]).unwrap();
    let hashes = [engine.parameter_hash().unwrap(), engine.optimizer_hash().unwrap()];
    Seen { losses, gradients, reports, evaluations, logits, hashes }
}

fn two_digits() -> ArithmeticSpec {
    ArithmeticSpec {
        activation_digits: 2,
        weight_digits: 2,
        gradient_digits: 2,
        logit_gradient_digits: 2,
        attention_digits: 2,
        ..spec()
    }
}

/// Grouped queries, odd sizes.
fn deep() -> ModelConfig {
    ModelConfig { num_hidden_layers: 5, ..tiny_model() }
}

#[test]
fn computing_activations_again_changes_no_bit() {
    let even = ModelConfig {
        hidden_size: 64,
        intermediate_size: 96,
        num_key_value_heads: 4,
        head_dim: 16,
        num_hidden_layers: 3,
        tie_word_embeddings: true,
        ..tiny_model()
    };
    let long = ArithmeticSpec { micro_batch_sequences: 2, sequence_length: 64, ..ArithmeticSpec::default() };
    let single = ModelConfig { num_hidden_layers: 1, num_key_value_heads: 1, ..tiny_model() };
    for (model, spec, threads) in [(deep(), spec(), 1), (deep(), two_digits(), 2), (even, long, 2), (single, spec(), 1)]
    {
        let kept = native(&model, &spec, Recompute::Never, threads);
        assert!(kept.gradients.windows(2).all(|pair| pair[0] != pair[1]), "each micro-batch adds something");
        assert_eq!(native(&model, &spec, Recompute::Always, threads), kept, "{model:?} {spec:?}");
    }
}

#[test]
fn a_device_computes_activations_again_with_the_same_bits() {
    let Some(device) = admitted() else { return };
    for spec in [spec(), two_digits()] {
        let open =
            |recompute| GpuEngine::with_recompute(deep(), optimizer(), spec.clone(), &device, recompute).unwrap();
        let kept = native(&deep(), &spec, Recompute::Never, 1);
        let mut engine = open(Recompute::Always);
        assert!(engine.recomputes());
        assert_eq!(train(&mut engine), kept);
        // Steps that are replayed without waiting use the same pass.
        let tokens = tokens(&deep(), &spec, spec.micro_batch_sequences, 1);
        let micro_batch = |step| MicroBatch {
            tokens: &tokens,
            sequences: spec.micro_batch_sequences,
            key: MicroBatchKey { run_seed: SEED, step, micro_batch: 0 },
        };
        let batches = [[micro_batch(0)], [micro_batch(1)]];
        let steps = [0, 1]
            .map(|step| LocalStep { micro_batches: &batches[step as usize], numbers: StepNumbers::in_order(step) });
        let mut plain = open(Recompute::Never);
        plain.initialize(SEED).unwrap();
        engine.initialize(SEED).unwrap();
        let again = engine.train_steps(&steps).unwrap();
        assert_eq!(again.outcomes.len(), 2);
        assert_eq!(again, plain.train_steps(&steps).unwrap());
        assert_eq!(engine.parameter_hash().unwrap(), plain.parameter_hash().unwrap());
    }
}

#[test]
fn a_device_with_little_memory_computes_activations_again_and_one_with_less_is_refused() {
    let report = |memory_bytes, binding_bytes_max| DeviceReport {
        name: "a device".into(),
        kind: manta_gpu_kernels::device::DeviceKind::Discrete,
        driver: String::new(),
        backend: "Vulkan".into(),
        memory_bytes,
        binding_bytes_max,
        buffer_bytes_max: 1 << 32,
        workgroup_bytes_max: 1 << 15,
        workgroup_invocations_max: 256,
        workgroups_max: 65_535,
        matrix_units: Vec::new(),
        unusable: None,
    };
    let wide = ModelConfig { intermediate_size: 600, ..deep() };
    let plan = |recompute, memory_bytes, binding| {
        GpuEngine::memory_plan(&wide, &spec(), OptimizerKind::Adamw, &report(memory_bytes, binding), recompute)
    };
    let MemoryPlan { keeping_bytes, recomputing_bytes, .. } = plan(Recompute::Auto, None, 1 << 30).unwrap();
    assert!(recomputing_bytes < keeping_bytes);
    let recomputes = |recompute, bytes| plan(recompute, Some(bytes), 1 << 30).map(|plan| plan.recomputes);
    assert_eq!(recomputes(Recompute::Auto, keeping_bytes), Ok(false));
    assert_eq!(recomputes(Recompute::Auto, keeping_bytes - 1), Ok(true));
    let found = recomputes(Recompute::Auto, recomputing_bytes - 1);
    assert!(matches!(found, Err(DeviceError::OutOfMemory { needed_bytes, .. }) if needed_bytes == recomputing_bytes));
    assert!(recomputes(Recompute::Never, keeping_bytes - 1).is_err());
    // A row of gate and up for each token is bound at once, in either mode.
    let widest = 4 * 2 * wide.intermediate_size as u64 * spec().micro_batch_tokens() as u64;
    assert!(plan(Recompute::Always, None, widest).is_ok());
    let found = plan(Recompute::Always, None, widest - 1);
    assert!(matches!(found, Err(DeviceError::Binding { tensor: "gate and up", .. })), "{found:?}");
}

#[test]
fn a_failing_op_leaves_everything_as_it_was_where_activations_are_computed_again() {
    let model = ModelConfig { num_hidden_layers: 3, ..tiny_model() };
    let options = EngineOptions { threads: 1, recompute: Recompute::Always, ..EngineOptions::default() };
    let mut engine = Engine::new(model, optimizer(), spec(), options).unwrap();
    engine.initialize(SEED);
    let (tokens, key) = (micro_batch(2, 1), MicroBatchKey { run_seed: SEED, step: 0, micro_batch: 0 });
    let good = engine.parameters().to_vec();
    engine.accumulate_gradient(&tokens, 2, &key).unwrap();
    let gradient = engine.gradient().to_vec();
    // Queries and keys are then so large that their products leave the range.
    let mut bad = good.clone();
    let norm = engine.layout().tensor("model.layers.1.input_layernorm.weight").unwrap().range();
    bad[norm].fill(1e11);
    engine.load_parameters(bad).unwrap();
    assert!(matches!(engine.accumulate_gradient(&tokens, 2, &key), Err(EngineError::Range { .. })));
    assert!(engine.gradient().iter().all(|value| value.to_bits() == 0));
    engine.load_parameters(good).unwrap();
    engine.accumulate_gradient(&tokens, 2, &key).unwrap();
    assert_eq!(engine.gradient(), gradient);
}

#[test]
fn activations_are_computed_again_where_they_do_not_fit_and_models_that_do_not_fit_are_refused() {
    let model = ModelConfig { num_hidden_layers: 5, ..tiny_model() };
    let open = |recompute, memory_bytes_max| {
        let options = EngineOptions { threads: 1, recompute, memory_bytes_max, ..EngineOptions::default() };
        Engine::new(model.clone(), optimizer(), spec(), options).map(|engine| engine.recomputes())
    };
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let MemoryPlan { keeping_bytes, recomputing_bytes, recomputes } =
        MemoryPlan::of(&model, &spec(), OptimizerKind::Adamw, &options);
    assert!(!recomputes && recomputing_bytes < keeping_bytes);
    assert_eq!(open(Recompute::Auto, keeping_bytes), Ok(false));
    assert_eq!(open(Recompute::Auto, keeping_bytes - 1), Ok(true));
    assert_eq!(open(Recompute::Auto, recomputing_bytes), Ok(true));
    assert_eq!(open(Recompute::Always, keeping_bytes), Ok(true));
    let refused = |outcome: Result<bool, EngineError>, needed: u64, advice: &str| match outcome {
        Err(error @ EngineError::Memory { needed_bytes, .. }) => {
            assert_eq!(needed_bytes, needed);
            assert!(error.to_string().contains(advice), "{error}");
        }
        other => panic!("{other:?}"),
    };
    refused(open(Recompute::Auto, recomputing_bytes - 1), recomputing_bytes, "smaller model");
    refused(open(Recompute::Never, keeping_bytes - 1), keeping_bytes, "recompute");
    refused(open(Recompute::Never, recomputing_bytes - 1), keeping_bytes, "smaller model");
}

#[test]
fn choices_have_names() {
    for choice in [Recompute::Auto, Recompute::Always, Recompute::Never] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    assert!("sometimes".parse::<Recompute>().is_err_and(|error| error.contains("auto, always, never")));
}
