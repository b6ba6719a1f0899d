//! The kernels against their native twins, and the vectors against wrong kernels.

use super::bench::Bench;
use super::cases::SUITES;
use crate::device::{Device, DeviceChoice};
use crate::gpu::engine::GpuEngine;
use crate::gpu::kernel::Form;
use crate::model::config::ModelConfig;
use crate::{ArithmeticSpec, Engine, EngineOptions, MicroBatchKey, OptimizerConfig};

/// The software adapter; none if the environment says aloud to skip.
fn device() -> Option<Device> {
    match Device::open(&DeviceChoice::Software) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("gpu")) => {
            eprintln!("skipped as MANTA_TEST_SKIP asks: {error}");
            None
        }
        Err(error) => panic!("{error} (or set MANTA_TEST_SKIP=gpu)"),
    }
}

#[test]
fn every_kernel_equals_its_twin() {
    let Some(device) = device() else { return };
    for form in
        [Form::default(), Form { portable_dot: true, ..Form::default() }, Form { soft: true, ..Form::default() }]
    {
        let mut bench = Bench::new(&device, form).unwrap();
        let mut wrong = Vec::new();
        for suite in SUITES {
            let outcomes = (suite.run)(&mut bench).unwrap();
            for (number, outcome) in outcomes.iter().enumerate() {
                if outcome.found != outcome.expected {
                    let at = outcome.found.iter().zip(&outcome.expected).position(|(a, b)| a != b);
                    let pair = at.map(|at| (outcome.found[at], outcome.expected[at]));
                    let count = outcome.found.iter().zip(&outcome.expected).filter(|(a, b)| a != b).count();
                    wrong.push(format!("{} case {number} at {at:?}: {pair:x?}, {count} differ", suite.op));
                }
            }
        }
        assert!(wrong.is_empty(), "{form:?}\n{}", wrong.join("\n"));
    }
}

#[test]
fn whole_steps() {
    let Some(device) = device() else { return };
    let model = ModelConfig {
        vocab_size: 29,
        hidden_size: 36,
        intermediate_size: 51,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 10,
        max_position_embeddings: 64,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        initializer_range: 0.05,
    };
    let spec = ArithmeticSpec { micro_batch_sequences: 3, sequence_length: 21, ..Default::default() };
    let optimizer = OptimizerConfig::default();
    let mut native = Engine::new(model.clone(), optimizer.clone(), spec.clone(), EngineOptions::default()).unwrap();
    let mut gpu = GpuEngine::with_form(model, optimizer, spec, &device, (Form::default(), vec![])).unwrap();
    native.initialize([1; 32]);
    gpu.initialize([1; 32]).unwrap();
    assert_eq!(native.parameter_hash(), gpu.parameter_hash().unwrap());
    let start = std::time::Instant::now();
    for step in 0..3 {
        for micro_batch in 0..2 {
            let tokens: Vec<u32> =
                (0..66).map(|i| ((i * i / 3 + i / 5 + step * 7 + micro_batch * 3) % 29) as u32).collect();
            let key = MicroBatchKey { run_seed: [1; 32], step, micro_batch };
            let loss = native.accumulate_gradient(&tokens, 3, &key).unwrap();
            assert_eq!(loss, gpu.accumulate_gradient(&tokens, 3, &key).unwrap());
            let found = gpu.gradient().unwrap();
            for tensor in native.layout().tensors() {
                let range = tensor.range();
                assert_eq!(found[range.clone()], native.gradient()[range], "{} step {step}", tensor.name);
            }
        }
        let report = native.apply_own_gradient(2, step).unwrap();
        assert_eq!(report, gpu.apply_own_gradient(2, step).unwrap());
        assert_eq!(native.parameter_hash(), gpu.parameter_hash().unwrap());
        eprintln!("step {step} {:?}", start.elapsed());
    }
}
