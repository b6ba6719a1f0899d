//! The outer optimiser: by hand, against f64, against another implementation, and over whole rounds.

use crate::local_rounds::LocalRounds;
use manta_gpu_kernels::{EngineError, OuterConfig, OuterOptimizer, OuterState, SimdPath, reduce};
use proptest::prelude::*;
use serde::Deserialize;
use std::path::Path;

fn optimizer(learning_rate: f32, momentum: f32, anchor: &[f32]) -> OuterOptimizer {
    OuterOptimizer::new(OuterConfig { learning_rate, momentum }, anchor.to_vec()).unwrap()
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn two_steps_by_hand() {
    let mut outer = optimizer(0.5, 0.5, &[1.0, -2.0]);
    // Members of three and one micro-batches.
    let mut sum = outer.delta(&[0.0, -2.0], 3).unwrap();
    assert_eq!(sum, [3.0, 0.0]);
    reduce::accumulate(&mut sum, &outer.delta(&[2.0, -6.0], 1).unwrap()).unwrap();
    assert_eq!(sum, [2.0, 4.0]);
    // mean = [0.5, 1], momentum the same, direction = 1.5 · mean.
    let report = outer.apply(&sum, 4).unwrap();
    assert!((report.delta_norm - 1.25f32.sqrt()).abs() < 1e-6);
    assert_eq!((outer.momentum(), outer.anchor()), ([0.5, 1.0].as_slice(), [0.625, -2.75].as_slice()));
    // mean = [1, 0], momentum = [1.25, 0.5], direction = [1.625, 0.25].
    outer.apply(&[2.0, 0.0], 2).unwrap();
    assert_eq!((outer.momentum(), outer.anchor()), ([1.25, 0.5].as_slice(), [-0.1875, -2.875].as_slice()));
}

#[test]
fn without_momentum_the_members_are_averaged_by_their_work() {
    let mut outer = optimizer(1.0, 0.0, &[8.0]);
    let mut sum = outer.delta(&[4.0], 6).unwrap();
    reduce::accumulate(&mut sum, &outer.delta(&[12.0], 2).unwrap()).unwrap();
    reduce::accumulate(&mut sum, &outer.delta(&[1e6], 0).unwrap()).unwrap();
    outer.apply(&sum, 8).unwrap();
    assert_eq!(outer.anchor(), [6.0]);
}

/// Any number that a parameter may be, over 60 binades, and what surrounds the flushing.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => (-1.0f32..1.0, -40i32..20).prop_map(|(x, exponent)| x * 2f32.powi(exponent)),
        1 => prop_oneof![Just(0.0), Just(-0.0), Just(f32::from_bits(1)), Just(2f32.powi(-100)), Just(-1e-31)],
    ]
}

proptest! {
    #[test]
    fn equal_parameters_have_a_delta_of_plus_zero(anchor in prop::collection::vec(value(), 1..40), batches: u32) {
        let outer = optimizer(0.7, 0.9, &anchor);
        let zeros = vec![0.0; anchor.len()];
        prop_assert!(same_bits(&outer.delta(&anchor, batches).unwrap(), &zeros));
        prop_assert!(same_bits(&outer.delta(outer.anchor(), batches).unwrap(), &zeros));
    }

    #[test]
    fn nothing_moves_without_delta_and_momentum(
        anchor in prop::collection::vec(value(), 1..40),
        batches in 1u32..,
        (learning_rate, momentum) in (0.0f32..=2.0, 0.0f32..=0.999),
    ) {
        let mut outer = optimizer(learning_rate, momentum, &anchor);
        let before = outer.state();
        let report = outer.apply(&vec![-0.0; anchor.len()], batches).unwrap();
        prop_assert_eq!(report.delta_norm.to_bits(), 0);
        prop_assert!(same_bits(outer.anchor(), &before.anchor) && same_bits(outer.momentum(), &before.momentum));
    }

    #[test]
    fn one_round_is_within_its_error_of_the_formula(
        rows in prop::collection::vec((value(), value(), value()), 1..40),
        (batches, others) in (1u32..200_000, 0u32..200_000),
        (learning_rate, momentum) in (0.0f32..=2.0, 0.0f32..=0.999),
    ) {
        let anchor: Vec<f32> = rows.iter().map(|row| row.0).collect();
        let mut outer = optimizer(learning_rate, momentum, &anchor);
        let start = OuterState { anchor, momentum: rows.iter().map(|row| row.1).collect() };
        outer.load_state(start.clone()).unwrap();
        let local: Vec<f32> = rows.iter().map(|row| row.2).collect();
        let delta = outer.delta(&local, batches).unwrap();
        outer.apply(&delta, batches + others).unwrap();
        let (rate, kept) = (f64::from(learning_rate), f64::from(momentum));
        // Roundings of f32, and numbers that were flushed.
        let (unit, flushed) = (2f64.powi(-24), 2f64.powi(-98));
        for at in 0..rows.len() {
            let (p, v, x) = (f64::from(start.anchor[at]), f64::from(start.momentum[at]), f64::from(local[at]));
            let expected = (p - x) * f64::from(batches);
            let error = (f64::from(delta[at]) - expected).abs();
            prop_assert!(error <= 2.1 * unit * expected.abs() + flushed * f64::from(batches), "delta {at}: {error:e}");
            let mean = f64::from(delta[at]) / f64::from(batches + others);
            let new_v = kept * v + mean;
            let terms = kept * v.abs() + mean.abs();
            let error = (f64::from(outer.momentum()[at]) - new_v).abs();
            prop_assert!(error <= 4.0 * unit * terms + flushed, "momentum {at}: {error:e}");
            let new_p = p - rate * (mean + kept * new_v);
            let error = (f64::from(outer.anchor()[at]) - new_p).abs();
            let bound = unit * (new_p.abs() + 8.0 * rate * (mean.abs() + kept * terms)) + 8.0 * flushed;
            prop_assert!(error <= bound, "anchor {at}: {error:e} over {bound:e}");
        }
    }
}

#[test]
fn hostile_input_is_refused_and_changes_nothing() {
    let mut outer = optimizer(0.7, 0.9, &[1.0, -2.0, 3.0]);
    outer.apply(&[0.25, 0.5, -1.0], 2).unwrap();
    let before = outer.state();
    let hashes = (outer.parameter_hash(), outer.momentum_hash());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2f32.powi(40), -2f32.powi(40)] {
        let vector = [0.0, bad, 0.0];
        assert!(matches!(outer.delta(&vector, 1), Err(EngineError::Value { index: 1, .. })), "{bad}");
        assert!(matches!(outer.apply(&vector, 1), Err(EngineError::Value { index: 1, .. })), "{bad}");
        let state = OuterState { momentum: vector.to_vec(), ..before.clone() };
        assert!(matches!(outer.load_state(state), Err(EngineError::Value { what: "momentum", index: 1, .. })));
        let state = OuterState { anchor: vector.to_vec(), ..before.clone() };
        assert!(matches!(outer.load_state(state), Err(EngineError::Value { what: "anchor", index: 1, .. })));
        assert!(OuterOptimizer::new(OuterConfig::default(), vector.to_vec()).is_err(), "{bad}");
    }
    assert!(matches!(outer.delta(&[0.0; 2], 1), Err(EngineError::Length { found: 2, .. })));
    assert!(matches!(outer.apply(&[0.0; 4], 1), Err(EngineError::Length { found: 4, .. })));
    assert!(matches!(outer.apply(&[0.0; 3], 0), Err(EngineError::Length { what: "batches", .. })));
    let state = OuterState { momentum: Vec::new(), ..before.clone() };
    assert!(matches!(outer.load_state(state), Err(EngineError::Length { what: "momentum", found: 0, .. })));
    assert_eq!(outer.state(), before);
    assert_eq!((outer.parameter_hash(), outer.momentum_hash()), hashes);
}

#[test]
fn leaving_the_range_names_the_op_and_changes_nothing() {
    let large = f32::from_bits(2f32.powi(40).to_bits() - 1);
    let outer = optimizer(0.7, 0.9, &[large, 0.0]);
    let delta = outer.delta(&[-large, 0.0], 1);
    assert_eq!(delta, Err(EngineError::Range { op: "outer delta", layer: None }));
    assert_eq!(outer.delta(&[1.0, 0.0], u32::MAX), Err(EngineError::Range { op: "outer delta", layer: None }));
    // The last element alone leaves the range: of the anchor, of the momentum, of the norm.
    let cases: [(f32, f32, f32, &str); 3] =
        [(-large, 0.0, 1e12, "outer step"), (0.0, large, 1e12, "outer step"), (0.0, 0.0, large, "outer delta norm")];
    for (anchor, momentum, sum, op) in cases {
        let state = OuterState { anchor: vec![large, 1.0, anchor], momentum: vec![0.0, 0.0, momentum] };
        let mut outer = optimizer(0.7, 0.9, &[0.0; 3]);
        outer.load_state(state.clone()).unwrap();
        let sums = [if op == "outer delta norm" { large } else { 0.0 }, 1.0, sum];
        assert_eq!(outer.apply(&sums, 1), Err(EngineError::Range { op, layer: None }), "{op}");
        assert_eq!(outer.state(), state, "{op}");
    }
}

#[test]
fn unusable_settings_are_named() {
    for (field, learning_rate, momentum) in [
        ("learning_rate", f32::NAN, 0.9),
        ("learning_rate", -0.1, 0.9),
        ("learning_rate", 2.1, 0.9),
        ("momentum", 0.7, 1.0),
        ("momentum", 0.7, f32::INFINITY),
    ] {
        match OuterOptimizer::new(OuterConfig { learning_rate, momentum }, vec![0.0]).err() {
            Some(EngineError::Spec { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    assert_eq!(OuterConfig::default().validate(), Ok(()));
}

#[test]
fn a_loaded_state_goes_on_with_equal_bits() {
    let anchor: Vec<f32> = (0..5000).map(|i| ((i * 7919 % 1001) as f32 - 500.0) * 1e-3).collect();
    let sum = |round: usize| (0..5000).map(|i| ((i * 31 + round * 17) % 97) as f32 - 48.0).collect::<Vec<f32>>();
    let mut one = optimizer(0.7, 0.9, &anchor);
    one.apply(&sum(0), 7).unwrap();
    let mut two = optimizer(0.7, 0.9, &vec![0.0; 5000]);
    two.load_state(one.state()).unwrap();
    let (first, second) = (one.apply(&sum(1), 9).unwrap(), two.apply(&sum(1), 9).unwrap());
    assert_eq!(first, second);
    assert_eq!((one.parameter_hash(), one.momentum_hash()), (two.parameter_hash(), two.momentum_hash()));
    let norm = sum(1).iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() / 9.0;
    assert!((f64::from(first.delta_norm) - norm).abs() < 1e-6 * norm);
}

/// Bits of f32, computed by another implementation from `docs/arithmetic.md`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    #[serde(rename = "purpose")]
    _purpose: String,
    outer: OuterConfig,
    anchor: String,
    rounds: Vec<Round>,
}

/// Locals and deltas are those of each member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Round {
    batches: Vec<u32>,
    locals: Vec<String>,
    deltas: Vec<String>,
    anchor: String,
    momentum: String,
}

fn floats(text: &str) -> Vec<f32> {
    text.split(' ').map(|word| f32::from_bits(u32::from_str_radix(word, 16).unwrap())).collect()
}

#[test]
fn steps_are_those_of_another_implementation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/outer/steps.json");
    let golden: Steps = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut outer = OuterOptimizer::new(golden.outer, floats(&golden.anchor)).unwrap();
    assert!(golden.rounds.len() >= 3);
    for (number, round) in golden.rounds.iter().enumerate() {
        let mut sum = vec![0.0; outer.anchor().len()];
        for (member, &batches) in round.batches.iter().enumerate() {
            let delta = outer.delta(&floats(&round.locals[member]), batches).unwrap();
            assert!(same_bits(&delta, &floats(&round.deltas[member])), "round {number}, member {member}");
            reduce::accumulate(&mut sum, &delta).unwrap();
        }
        outer.apply(&sum, round.batches.iter().sum()).unwrap();
        assert!(same_bits(outer.momentum(), &floats(&round.momentum)), "round {number}");
        assert!(same_bits(outer.anchor(), &floats(&round.anchor)), "round {number}");
    }
}

#[test]
fn local_rounds_are_the_pinned_ones_on_every_path() {
    for file in LocalRounds::files() {
        let mut golden = LocalRounds::read(&file);
        if std::env::var_os("MANTA_WRITE_GOLDEN").is_some() {
            let engines = || golden.native(SimdPath::Portable, 1);
            golden.outcome = golden.train(vec![engines(), engines()]).unwrap();
            std::fs::write(&file, serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
        }
        assert!(golden.outcome.last_loss_fixed < golden.outcome.first_loss_fixed, "{file:?}: nothing was learnt");
        let paths = SimdPath::available();
        for (threads, &path) in paths.iter().enumerate() {
            // The second member computes otherwise than the first.
            let engines = vec![golden.native(path, threads + 1), golden.native(paths[0], 1)];
            assert_eq!(golden.train(engines).unwrap(), golden.outcome, "{file:?} on {path:?}");
        }
    }
}
