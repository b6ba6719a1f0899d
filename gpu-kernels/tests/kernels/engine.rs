//! The engine from outside: equal bits, golden hashes, learning, gradients, bad input.

use crate::support::{engine, micro_batch, spec, tiny_model, train, train_with};
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, SimdPath,
    StepNumbers,
};

#[test]
fn threads_do_not_change_a_bit() {
    let one = train(1, SimdPath::Auto);
    assert_eq!(one, train(2, SimdPath::Auto));
    assert_eq!(one, train(3, SimdPath::Auto));
    // More than there are heads, panels or cache lines to share out, on every path.
    for path in SimdPath::available() {
        assert_eq!(one, train(17, path), "{path:?}");
    }
}

#[test]
fn simd_paths_do_not_change_a_bit() {
    let reference = train(1, SimdPath::Portable);
    for path in SimdPath::available() {
        assert_eq!(reference, train(1, path), "{path:?}");
    }
}

#[test]
fn every_combination_of_digits_trains_alike_on_every_path() {
    for bits in 0..32u8 {
        let digits = |bit: u8| 1 + (bits >> bit & 1);
        let spec = ArithmeticSpec {
            activation_digits: digits(0),
            weight_digits: digits(1),
            gradient_digits: digits(2),
            logit_gradient_digits: digits(3),
            attention_digits: digits(4),
            ..spec()
        };
        let hashes: Vec<_> =
            SimdPath::available().into_iter().map(|path| train_with(tiny_model(), spec.clone(), 1, path, 2)).collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{spec:?}");
    }
}

#[test]
fn loss_falls_on_a_repeating_text() {
    let mut engine = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    engine.initialize([3; 32]);
    let spec = spec();
    let tokens: Vec<u32> = (0..spec.micro_batch_sequences * (spec.sequence_length + 1))
        .map(|place| (place % (spec.sequence_length + 1) * 7 % 11) as u32)
        .collect();
    let mut losses = Vec::new();
    for step in 0..60 {
        let key = MicroBatchKey { run_seed: [3; 32], step, micro_batch: 0 };
        let loss = engine.accumulate_gradient(&tokens, spec.micro_batch_sequences, &key).unwrap();
        losses.push(loss.nats_per_token());
        engine.apply_own_gradient(1, StepNumbers::in_order(step)).unwrap();
    }
    assert!((losses[0] - 29f64.ln()).abs() < 0.2, "an untrained model knows nothing: {}", losses[0]);
    assert!(losses[59] < 0.1, "{losses:?}");
    let end = engine.evaluate(&tokens, spec.micro_batch_sequences).unwrap();
    assert!(end.loss.nats_per_token() < 0.1 && end.hits > end.loss.tokens * 9 / 10, "{end:?}");
    let logits = engine.next_token_logits(&tokens[..9]).unwrap();
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!(best as u32, tokens[9]);
}

#[test]
fn evaluation_does_not_depend_on_grouping() {
    let mut engine = engine(tiny_model(), spec(), 2, SimdPath::Auto);
    engine.initialize([4; 32]);
    let sequences = 7;
    let tokens = micro_batch(sequences, 5);
    let together = engine.evaluate(&tokens, sequences).unwrap();
    let row = spec().sequence_length + 1;
    let apart = tokens.chunks(row).map(|row| engine.evaluate(row, 1).unwrap()).sum();
    assert_eq!(together, apart);
    assert_eq!(together.loss.tokens, (sequences * (row - 1)) as u64);
}

#[test]
fn a_gradient_does_not_depend_on_calls_in_between() {
    let mut engine = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    engine.initialize([5; 32]);
    let tokens = micro_batch(2, 1);
    let key = MicroBatchKey { run_seed: [5; 32], step: 3, micro_batch: 9 };
    engine.accumulate_gradient(&tokens, 2, &key).unwrap();
    let first = engine.gradient().to_vec();
    engine.zero_gradient();
    engine.next_token_logits(&[1, 2, 3]).unwrap();
    engine.evaluate(&micro_batch(3, 2), 3).unwrap();
    engine.accumulate_gradient(&tokens, 2, &key).unwrap();
    assert_eq!(engine.gradient(), first);
    engine.zero_gradient();
    let other = MicroBatchKey { micro_batch: 10, ..key };
    engine.accumulate_gradient(&tokens, 2, &other).unwrap();
    assert_ne!(engine.gradient(), first, "another micro-batch has other random bits");
}

#[test]
fn reloading_parameters_gives_the_same_model() {
    let mut one = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    one.initialize([6; 32]);
    let mut two = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    two.load_parameters(one.parameters().to_vec()).unwrap();
    assert_eq!(one.parameter_hash(), two.parameter_hash());
    assert_eq!(one.next_token_logits(&[1, 2]).unwrap(), two.next_token_logits(&[1, 2]).unwrap());
    let mut other = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    other.initialize([7; 32]);
    assert_ne!(one.parameter_hash(), other.parameter_hash());
}

#[test]
fn setting_parameters_keeps_the_moments_and_loading_forgets_them() {
    let mut one = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    one.initialize([6; 32]);
    let zero_moments = one.optimizer_hash();
    let key = MicroBatchKey { run_seed: [6; 32], step: 0, micro_batch: 0 };
    one.accumulate_gradient(&micro_batch(2, 1), 2, &key).unwrap();
    one.apply_own_gradient(1, StepNumbers::in_order(0)).unwrap();
    one.accumulate_gradient(&micro_batch(2, 2), 2, &key).unwrap();
    let moments = one.optimizer_hash();
    assert_ne!(moments, zero_moments);
    let mut other = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    other.initialize([7; 32]);
    one.set_parameters(other.parameters().to_vec()).unwrap();
    assert_eq!((one.parameter_hash(), one.optimizer_hash()), (other.parameter_hash(), moments));
    assert!(one.gradient().iter().all(|x| x.to_bits() == 0));
    assert_eq!(one.next_token_logits(&[1, 2]).unwrap(), other.next_token_logits(&[1, 2]).unwrap());
    let mut bad = other.parameters().to_vec();
    bad[3] = f32::NAN;
    assert!(matches!(one.set_parameters(bad), Err(EngineError::Value { index: 3, .. })));
    assert!(matches!(one.set_parameters(vec![0.0; 3]), Err(EngineError::Length { found: 3, .. })));
    assert_eq!((one.parameter_hash(), one.optimizer_hash()), (other.parameter_hash(), moments));
    one.load_parameters(other.parameters().to_vec()).unwrap();
    assert_eq!(one.optimizer_hash(), zero_moments);
}

#[test]
fn the_two_numbers_of_a_step_do_different_things() {
    let apply = |step: StepNumbers| {
        let mut engine = engine(tiny_model(), spec(), 1, SimdPath::Auto);
        engine.initialize([6; 32]);
        let gradient = vec![1e-3; engine.layout().len()];
        let report = engine.apply_gradient(&gradient, 1, step).unwrap();
        (report.learning_rate, engine.parameter_hash(), engine.optimizer_hash())
    };
    let both = apply(StepNumbers { adam: 2, schedule: 2 });
    assert_eq!(both, apply(StepNumbers::in_order(2)));
    let younger = apply(StepNumbers { adam: 0, schedule: 2 });
    assert_eq!((younger.0, younger.2), (both.0, both.2), "neither rate nor moments depend on the first number");
    assert_ne!(younger.1, both.1);
    let earlier = apply(StepNumbers { adam: 2, schedule: 0 });
    assert!(earlier.0 < both.0 && earlier.1 != both.1 && earlier.2 == both.2);
    // Numbers as far out as they go are no reason to panic: the corrections are then 1.
    let last = apply(StepNumbers { adam: u64::MAX, schedule: u64::MAX });
    assert_eq!(last, apply(StepNumbers { adam: 1 << 40, schedule: 1 << 40 }));
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let mut engine = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    engine.initialize([8; 32]);
    let key = MicroBatchKey { run_seed: [8; 32], step: 0, micro_batch: 0 };
    let tokens = micro_batch(2, 3);
    engine.accumulate_gradient(&tokens, 2, &key).unwrap();
    let before = (engine.parameter_hash(), engine.optimizer_hash(), engine.gradient().to_vec());

    let mut bad = tokens.clone();
    bad[5] = 29;
    assert_eq!(
        engine.accumulate_gradient(&bad, 2, &key),
        Err(EngineError::Token { place: 5, token: 29, vocab_size: 29 })
    );
    assert!(matches!(engine.evaluate(&bad, 2), Err(EngineError::Token { place: 5, .. })));
    bad[5] = u32::MAX;
    assert!(matches!(engine.accumulate_gradient(&bad, 2, &key), Err(EngineError::Token { token: u32::MAX, .. })));
    for (length, sequences) in [(tokens.len() - 1, 2), (tokens.len(), 3), (0, 0), (0, usize::MAX), (tokens.len(), 0)] {
        let found = engine.accumulate_gradient(&tokens[..length], sequences, &key);
        assert!(matches!(found, Err(EngineError::Length { .. })), "{length} {sequences}: {found:?}");
        let found = engine.evaluate(&tokens[..length], sequences);
        assert!(matches!(found, Err(EngineError::Length { .. })), "{length} {sequences}: {found:?}");
    }
    assert!(matches!(engine.next_token_logits(&[]), Err(EngineError::Length { found: 0, .. })));
    assert!(matches!(engine.next_token_logits(&[0; 65]), Err(EngineError::Length { found: 65, .. })));
    assert!(matches!(engine.next_token_logits(&[29]), Err(EngineError::Token { .. })));

    let mut gradient = before.2.clone();
    assert!(matches!(
        engine.apply_gradient(&gradient[1..], 1, StepNumbers::in_order(0)),
        Err(EngineError::Length { .. })
    ));
    assert!(matches!(engine.apply_gradient(&gradient, 0, StepNumbers::in_order(0)), Err(EngineError::Length { .. })));
    for bad in [f32::NAN, f32::NEG_INFINITY, 2e12] {
        gradient[77] = bad;
        assert!(
            matches!(
                engine.apply_gradient(&gradient, 1, StepNumbers::in_order(0)),
                Err(EngineError::Value { index: 77, .. })
            ),
            "{bad}"
        );
        let mut parameters = engine.parameters().to_vec();
        parameters[3] = bad;
        assert!(matches!(engine.load_parameters(parameters), Err(EngineError::Value { index: 3, .. })), "{bad}");
    }
    assert!(matches!(engine.load_parameters(vec![0.0; 3]), Err(EngineError::Length { found: 3, .. })));
    assert_eq!(before, (engine.parameter_hash(), engine.optimizer_hash(), engine.gradient().to_vec()));
}

#[test]
fn leaving_the_range_is_an_error_that_names_the_op() {
    let mut engine = engine(tiny_model(), spec(), 1, SimdPath::Auto);
    engine.initialize([9; 32]);
    let mut parameters = engine.parameters().to_vec();
    for name in ["gate_proj", "up_proj"] {
        let weight = engine.layout().tensor(&format!("model.layers.1.mlp.{name}.weight")).unwrap().range();
        parameters[weight].iter_mut().for_each(|x| *x *= 1e9);
    }
    engine.load_parameters(parameters).unwrap();
    let before = (engine.parameter_hash(), engine.gradient().to_vec());
    let key = MicroBatchKey { run_seed: [9; 32], step: 0, micro_batch: 0 };
    let found = engine.accumulate_gradient(&micro_batch(2, 3), 2, &key);
    assert_eq!(found, Err(EngineError::Range { op: "swiglu", layer: Some(1) }));
    assert_eq!(before, (engine.parameter_hash(), engine.gradient().to_vec()));
    // The gradient is large, but fine; the sum of its squares is not.
    let gradient = vec![1e12; engine.layout().len()];
    let found = engine.apply_gradient(&gradient, 1, StepNumbers::in_order(0));
    assert!(matches!(found, Err(EngineError::Range { op: "gradient norm", .. })), "{found:?}");
    assert_eq!(before.0, engine.parameter_hash());
}

#[test]
fn unusable_specifications_are_refused() {
    let refuse = |model: ModelConfig, spec: ArithmeticSpec, options: EngineOptions| match Engine::new(
        model,
        OptimizerConfig::default(),
        spec,
        options,
    ) {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    };
    let options = EngineOptions { threads: 1, ..Default::default() };
    let field = |error| match error {
        EngineError::Spec { field, .. } => field,
        other => panic!("{other:?}"),
    };
    let model = tiny_model();
    assert_eq!(field(refuse(model.clone(), ArithmeticSpec { version: 2, ..spec() }, options.clone())), "version");
    let bad = ArithmeticSpec { attention_digits: 3, ..spec() };
    assert_eq!(field(refuse(model.clone(), bad, options.clone())), "attention_digits");
    let bad = ArithmeticSpec { sequence_length: 65, ..spec() };
    assert_eq!(field(refuse(model.clone(), bad, options.clone())), "sequence_length");
    let bad = ArithmeticSpec { micro_batch_sequences: 4096, sequence_length: 64, ..spec() };
    assert_eq!(field(refuse(model.clone(), bad, options.clone())), "micro_batch_sequences");
    let huge = ModelConfig { vocab_size: 1 << 20, hidden_size: 1 << 14, ..model.clone() };
    assert!(matches!(refuse(huge, spec(), options.clone()), EngineError::Memory { .. }));
    let odd = ModelConfig { head_dim: 7, ..model };
    assert!(matches!(refuse(odd, spec(), options), EngineError::Config(_)));
}

/// Every tensor's gradient, against the change of the loss along it.
#[test]
fn gradients_are_slopes_of_the_loss() {
    let fine = ArithmeticSpec {
        activation_digits: 2,
        weight_digits: 2,
        gradient_digits: 2,
        logit_gradient_digits: 2,
        attention_digits: 2,
        ..spec()
    };
    for tie_word_embeddings in [false, true] {
        let model = ModelConfig { tie_word_embeddings, initializer_range: 0.15, ..tiny_model() };
        let mut engine = engine(model, fine.clone(), 2, SimdPath::Auto);
        engine.initialize([10; 32]);
        let tokens = micro_batch(3, 4);
        let key = MicroBatchKey { run_seed: [10; 32], step: 0, micro_batch: 0 };
        engine.accumulate_gradient(&tokens, 3, &key).unwrap();
        let (start, gradient) = (engine.parameters().to_vec(), engine.gradient().to_vec());
        for tensor in engine.layout().tensors().to_vec() {
            let norm = gradient[tensor.range()].iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            assert!(norm > 1e-4, "{} has no gradient", tensor.name);
            // Far enough to see, near enough for the curvature not to matter.
            let distance = (0.01 / norm).min(0.02);
            let mut loss_at = |sign: f64| {
                let mut moved = start.clone();
                for index in tensor.range() {
                    moved[index] += (sign * distance * f64::from(gradient[index]) / norm) as f32;
                }
                engine.load_parameters(moved).unwrap();
                engine.evaluate(&tokens, 3).unwrap().loss.nats_per_token()
            };
            let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * distance);
            let error = (slope - norm).abs() / norm;
            assert!(error < 0.02, "{}: slope {slope}, norm of the gradient {norm}", tensor.name);
        }
    }
}
