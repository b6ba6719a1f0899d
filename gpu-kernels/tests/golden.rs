//! Parameter hashes after 20 steps, pinned: any drift of any bit on any machine fails here.
//!
//! `MANTA_WRITE_GOLDEN=1 cargo test …` writes the hashes found into the files
//! instead; that is a new arithmetic version and must be called one.

mod common;

use common::golden_token;
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, LossSum, MicroBatchKey, ModelConfig, OptimizerConfig, SimdPath, StepNumbers,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One file: what to train, and what must come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Golden {
    purpose: String,
    model: ModelConfig,
    arithmetic: ArithmeticSpec,
    optimizer: OptimizerConfig,
    /// Each byte of the run seed.
    run_seed: u8,
    steps: u64,
    micro_batches: u64,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Outcome {
    initial_parameter_hash: String,
    parameter_hash: String,
    optimizer_hash: String,
    /// Σ loss over the first and the last step, in 2⁻²⁰ nats.
    first_loss_fixed: i64,
    last_loss_fixed: i64,
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn run(golden: &Golden, simd: SimdPath, threads: usize) -> Outcome {
    let options = EngineOptions { threads, simd, ..Default::default() };
    let (model, optimizer, spec) = (golden.model.clone(), golden.optimizer.clone(), golden.arithmetic.clone());
    let mut engine = Engine::new(model, optimizer, spec, options).unwrap();
    let run_seed = [golden.run_seed; 32];
    engine.initialize(run_seed);
    let initial_parameter_hash = hex(engine.parameter_hash());
    let sequences = golden.arithmetic.micro_batch_sequences;
    let count = (sequences * (golden.arithmetic.sequence_length + 1)) as u64;
    let mut losses = Vec::new();
    for step in 0..golden.steps {
        let mut sum = LossSum::default();
        for micro_batch in 0..golden.micro_batches {
            let number = step * golden.micro_batches + micro_batch;
            let tokens: Vec<u32> =
                (0..count).map(|place| golden_token(place, number, golden.model.vocab_size)).collect();
            let key = MicroBatchKey { run_seed, step, micro_batch };
            sum += engine.accumulate_gradient(&tokens, sequences, &key).unwrap();
        }
        losses.push(sum.fixed);
        engine.apply_own_gradient(golden.micro_batches as u32, StepNumbers::in_order(step)).unwrap();
    }
    Outcome {
        initial_parameter_hash,
        parameter_hash: hex(engine.parameter_hash()),
        optimizer_hash: hex(engine.optimizer_hash()),
        first_loss_fixed: losses[0],
        last_loss_fixed: losses[losses.len() - 1],
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(&folder).expect("the golden folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

#[test]
fn hashes_after_twenty_steps_are_the_pinned_ones() {
    let files = files();
    assert!(files.len() >= 5, "golden files are missing: {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut golden: Golden = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        assert_eq!(golden.steps, 20, "{file:?}");
        if std::env::var_os("MANTA_WRITE_GOLDEN").is_some() {
            golden.outcome = run(&golden, SimdPath::Portable, 1);
            std::fs::write(&file, serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
        }
        assert!(golden.outcome.last_loss_fixed < golden.outcome.first_loss_fixed, "{file:?}: nothing was learnt");
        for (threads, path) in SimdPath::available().into_iter().enumerate() {
            assert_eq!(golden.outcome, run(&golden, path, threads + 1), "{file:?} on {path:?}");
        }
    }
}
