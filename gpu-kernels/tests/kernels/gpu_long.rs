//! The device over many steps, with little to bind at once, and with choices kept on disk.

use crate::gpu::{admitted, device, folder};
use crate::support::{engine, micro_batch, optimizer, spec, tiny_model};
use manta_gpu_kernels::admission::{AdmittedDevice, Forms};
use manta_gpu_kernels::device::DeviceError;
use manta_gpu_kernels::{
    ArithmeticSpec, EngineError, GpuEngine, LocalStep, LocalTraining, MicroBatch, MicroBatchKey, ModelConfig,
    OptimizerConfig, ProductExtent, SimdPath, StepNumbers, TrainingEngine, time_products,
};

const RUN_SEED: [u8; 32] = [6; 32];

/// Takes `count` steps of two micro-batches from step `first` on in one call.
fn train(engine: &mut dyn TrainingEngine, first: u64, count: u64) -> LocalTraining {
    let tokens: Vec<Vec<u32>> = (0..2 * count as u32).map(|number| micro_batch(3, number)).collect();
    let key = |step, micro_batch| MicroBatchKey { run_seed: RUN_SEED, step, micro_batch };
    let batches: Vec<[MicroBatch<'_>; 2]> = (0..count as usize)
        .map(|step| {
            [0, 1].map(|number| MicroBatch {
                tokens: &tokens[2 * step + number],
                sequences: 3,
                key: key(first + step as u64, number as u64),
            })
        })
        .collect();
    let steps: Vec<LocalStep<'_>> = (first..)
        .zip(&batches)
        .map(|(step, micro_batches)| LocalStep { micro_batches, numbers: StepNumbers::in_order(step) })
        .collect();
    engine.train_steps(&steps).unwrap()
}

#[test]
fn replayed_steps_are_the_native_ones_in_one_submission_each() {
    let Some(device) = admitted() else { return };
    let mut gpu = GpuEngine::new(tiny_model(), optimizer(), spec(), &device).unwrap();
    let mut native = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    gpu.initialize(RUN_SEED).unwrap();
    native.initialize(RUN_SEED);
    let expected = train(&mut native, 0, 6);
    assert_eq!((expected.outcomes.len(), &expected.stopped), (6, &None));
    let before = gpu.device().activity().submissions;
    assert_eq!(train(&mut gpu, 0, 6), expected);
    // The tests of the other threads use a device of their own or this one, so only the least is certain.
    assert!(gpu.device().activity().submissions - before >= 6);
    assert_eq!(gpu.parameter_hash().unwrap(), native.parameter_hash());
    assert_eq!(gpu.optimizer_hash().unwrap(), native.optimizer_hash());
    assert_eq!(gpu.train_steps(&[]).unwrap(), LocalTraining::default());
    let none = LocalStep { micro_batches: &[], numbers: StepNumbers::in_order(6) };
    assert!(matches!(gpu.train_steps(&[none]), Err(EngineError::Length { what: "micro_batches", .. })));
}

#[test]
fn a_replay_stops_before_the_step_that_fails() {
    let Some(device) = admitted() else { return };
    // The stream is zero until the first step moves the embedding, and then too much for the second one.
    let fast = OptimizerConfig { learning_rate: 1.0, warmup_steps: 0, ..optimizer() };
    let mut native = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    native.initialize(RUN_SEED);
    let mut parameters = native.parameters().to_vec();
    let range = |name: &str| native.layout().tensor(name).unwrap().range();
    parameters[range("model.embed_tokens.weight")].fill(0.0);
    for name in ["gate_proj", "up_proj"] {
        parameters[range(&format!("model.layers.0.mlp.{name}.weight"))].iter_mut().for_each(|x| *x *= 1e8);
    }
    let begun = || {
        let mut gpu = GpuEngine::new(tiny_model(), fast.clone(), spec(), &device).unwrap();
        gpu.load_parameters(parameters.clone()).unwrap();
        gpu
    };
    let (mut gpu, mut alone) = (begun(), begun());
    let all = train(&mut gpu, 0, 4);
    assert_eq!(all.stopped, Some(EngineError::Range { op: "swiglu", layer: Some(0) }));
    assert_eq!(train(&mut alone, 0, 1), LocalTraining { outcomes: all.outcomes.clone(), stopped: None });
    assert_eq!(gpu.parameter_hash().unwrap(), alone.parameter_hash().unwrap());
    assert_eq!(gpu.optimizer_hash().unwrap(), alone.optimizer_hash().unwrap());
    assert!(gpu.gradient().unwrap().iter().all(|x| x.to_bits() == 0));
}

#[test]
fn tensors_larger_than_a_binding_are_windowed() {
    let Some(device) = admitted() else { return };
    let device = device.with_binding_limit(64 << 10).unwrap();
    for tie_word_embeddings in [true, false] {
        // Embedding, head, their gradients and the logits take more than 64 KiB each.
        let model = ModelConfig { vocab_size: 290, hidden_size: 70, tie_word_embeddings, ..tiny_model() };
        assert!(4 * model.vocab_size * model.hidden_size > 64 << 10);
        assert!(4 * model.vocab_size * spec().micro_batch_tokens() > 64 << 10);
        let mut gpu = GpuEngine::new(model.clone(), optimizer(), spec(), &device).unwrap();
        let mut native = engine(model, spec(), 1, SimdPath::Auto);
        gpu.initialize(RUN_SEED).unwrap();
        native.initialize(RUN_SEED);
        assert_eq!(train(&mut gpu, 0, 3), train(&mut native, 0, 3));
        assert_eq!(gpu.parameter_hash().unwrap(), native.parameter_hash());
        assert_eq!(gpu.optimizer_hash().unwrap(), native.optimizer_hash());
        let tokens = micro_batch(7, 5);
        assert_eq!(gpu.evaluate(&tokens, 7).unwrap(), native.evaluate(&tokens, 7).unwrap());
        let context = &tokens[..20];
        assert_eq!(gpu.next_token_logits(context).unwrap(), native.next_token_logits(context).unwrap());
        let gradient: Vec<f32> = (0..native.layout().len()).map(|i| (i % 1001) as f32 * 1e-4).collect();
        let numbers = StepNumbers::in_order(3);
        let expected = native.apply_gradient(&gradient, 5, numbers).unwrap();
        assert_eq!(gpu.apply_gradient(&gradient, 5, numbers).unwrap(), expected);
        assert_eq!(gpu.parameter_hash().unwrap(), native.parameter_hash());
    }
}

#[test]
fn packed_operands_larger_than_a_binding_are_windowed() {
    let Some(device) = admitted() else { return };
    let limit_bytes = 64 << 10;
    let device = device.with_binding_limit(limit_bytes as u64).unwrap();
    let spec = ArithmeticSpec { micro_batch_sequences: 3, sequence_length: 25, weight_digits: 2, ..spec() };
    let model = ModelConfig { vocab_size: 500, hidden_size: 150, num_hidden_layers: 1, ..tiny_model() };
    // The head packed either way and the packed gradient of the logits take more than 64 KiB each.
    assert!(2 * model.vocab_size * model.hidden_size > limit_bytes);
    assert!(usize::from(spec.logit_gradient_digits) * model.vocab_size * spec.micro_batch_tokens() > limit_bytes);
    let tokens: Vec<u32> = (0..3 * 26).map(|place| (place * place / 3 + place / 5) % 500).collect();
    for tie_word_embeddings in [true, false] {
        let model = ModelConfig { tie_word_embeddings, ..model.clone() };
        let mut gpu = GpuEngine::new(model.clone(), optimizer(), spec.clone(), &device).unwrap();
        let mut native = engine(model, spec.clone(), 1, SimdPath::Auto);
        gpu.initialize(RUN_SEED).unwrap();
        native.initialize(RUN_SEED);
        for step in 0..2 {
            let (key, numbers) =
                (MicroBatchKey { run_seed: RUN_SEED, step, micro_batch: 0 }, StepNumbers::in_order(step));
            let expected = native.accumulate_gradient(&tokens, 3, &key).unwrap();
            assert_eq!(gpu.accumulate_gradient(&tokens, 3, &key).unwrap(), expected);
            native.apply_own_gradient(1, numbers).unwrap();
            gpu.apply_own_gradient(1, numbers).unwrap();
            assert_eq!(gpu.parameter_hash().unwrap(), native.parameter_hash());
        }
        assert_eq!(gpu.evaluate(&tokens, 3).unwrap(), native.evaluate(&tokens, 3).unwrap());
        assert_eq!(gpu.next_token_logits(&tokens[..9]).unwrap(), native.next_token_logits(&tokens[..9]).unwrap());
    }
}

#[test]
fn tilings_are_measured_once_and_kept_and_a_damaged_file_is_not_believed() {
    let Some(device) = device() else { return };
    let folder = folder("tuning");
    let extent = ProductExtent { rows: 128, columns: 128, depth: 128 };
    let admit = || AdmittedDevice::admit(device.clone(), Forms::default(), Some(&folder)).unwrap();
    let first = admit();
    assert!(first.tuned_classes().is_empty() && first.tuning_warning().is_none());
    let timings = time_products(&first, extent, 1).unwrap();
    assert!(timings.iter().all(|timing| timing.equal), "{timings:?}");
    assert_eq!(timings.iter().filter(|timing| timing.chosen).count(), 1, "{timings:?}");
    let known = first.tuned_classes();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].class.rows, known[0].class.depth, known[0].class.wide), (128, 128, false));
    assert!(known[0].times.len() >= 2 && known[0].times.is_sorted_by_key(|time| time.least_us as u64), "{known:?}");
    assert_eq!(admit().tuned_classes(), known);
    let is_tuning = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("tuning-");
    let file = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).find(is_tuning).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let (half, forged) = (&text[..text.len() / 2], text.replace("\"down\": 1", "\"down\": 3"));
    assert_ne!(text, forged);
    for content in [half, "", &forged] {
        std::fs::write(&file, content).unwrap();
        let again = admit();
        assert!(again.tuned_classes().is_empty());
        assert!(again.tuning_warning().unwrap().contains("measured again"), "{:?}", again.tuning_warning());
    }
    time_products(&admit(), extent, 1).unwrap();
    assert_eq!(admit().tuned_classes().len(), 1);
    assert!(admit().tuning_warning().is_none());
    let odd = ProductExtent { depth: 20, ..extent };
    assert!(matches!(time_products(&first, odd, 1), Err(EngineError::Length { found: 20, .. })));
}

#[test]
fn limits_that_no_device_has_are_refused() {
    let Some(device) = admitted() else { return };
    let own = device.device().report().binding_bytes_max;
    assert!(device.clone().with_binding_limit(own + 1).is_err());
    assert!(device.clone().with_binding_limit((64 << 10) - 1).is_err());
    let spec = ArithmeticSpec { sequence_length: 60, ..spec() };
    let small = device.with_binding_limit(64 << 10).unwrap();
    let open = |inner, sequences| {
        let model = ModelConfig { intermediate_size: inner, ..tiny_model() };
        let spec = ArithmeticSpec { micro_batch_sequences: sequences, ..spec.clone() };
        GpuEngine::new(model, optimizer(), spec, &small).map(|_| ())
    };
    // What is not windowed must fit: a row of gate and up for each token, so one of 102 numbers for each of 160.
    let refused = |inner, sequences, advice: &str| {
        let error = open(inner, sequences).unwrap_err();
        let is_named = matches!(error, EngineError::Device(DeviceError::Binding { tensor: "gate and up", .. }));
        assert!(is_named && error.to_string().contains(advice), "{error}");
    };
    refused(51, 6, "up to 2 sequences of 60 tokens");
    refused(51, 3, "up to 2 sequences of 60 tokens");
    open(51, 2).unwrap();
    refused(200, 3, "not even one sequence of 60 tokens");
}
