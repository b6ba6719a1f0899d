//! Parameter hashes after 20 steps, pinned: any drift of any bit on any machine fails here.

use crate::support::{golden_token, hex};
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, LossSum, MicroBatchKey, ModelConfig, OptimizerConfig, SimdPath,
    StepNumbers, TrainingEngine,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One file: what to train, and what must come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Golden {
    purpose: String,
    pub(crate) model: ModelConfig,
    pub(crate) arithmetic: ArithmeticSpec,
    pub(crate) optimizer: OptimizerConfig,
    /// Each byte of the run seed.
    run_seed: u8,
    steps: u64,
    micro_batches: u64,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    initial_parameter_hash: String,
    parameter_hash: String,
    optimizer_hash: String,
    /// Σ loss over the first and the last step, in 2⁻²⁰ nats.
    first_loss_fixed: i64,
    last_loss_fixed: i64,
}

impl Golden {
    /// The files, in the order of their names.
    pub(crate) fn files() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let entries = std::fs::read_dir(&folder).expect("the golden folder is there");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        assert!(files.len() >= 5, "golden files are missing: {files:?}");
        files
    }

    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"))
    }

    /// Trains on an engine made for this model, arithmetic and optimiser.
    pub(crate) fn train(&self, engine: &mut dyn TrainingEngine) -> Result<Outcome, EngineError> {
        let run_seed = [self.run_seed; 32];
        engine.initialize(run_seed)?;
        let initial_parameter_hash = hex(engine.parameter_hash()?);
        let sequences = self.arithmetic.micro_batch_sequences;
        let count = (sequences * (self.arithmetic.sequence_length + 1)) as u64;
        let mut losses = Vec::new();
        for step in 0..self.steps {
            let mut sum = LossSum::default();
            for micro_batch in 0..self.micro_batches {
                let number = step * self.micro_batches + micro_batch;
                let token = |place| golden_token(place, number, self.model.vocab_size);
                let tokens: Vec<u32> = (0..count).map(token).collect();
                let key = MicroBatchKey { run_seed, step, micro_batch };
                sum += engine.accumulate_gradient(&tokens, sequences, &key)?;
            }
            losses.push(sum.fixed);
            engine.apply_own_gradient(self.micro_batches as u32, StepNumbers::in_order(step))?;
        }
        Ok(Outcome {
            initial_parameter_hash,
            parameter_hash: hex(engine.parameter_hash()?),
            optimizer_hash: hex(engine.optimizer_hash()?),
            first_loss_fixed: losses[0],
            last_loss_fixed: losses[losses.len() - 1],
        })
    }

    fn train_natively(&self, simd: SimdPath, threads: usize) -> Outcome {
        let options = EngineOptions { threads, simd, ..Default::default() };
        let (model, optimizer, spec) = (self.model.clone(), self.optimizer.clone(), self.arithmetic.clone());
        self.train(&mut Engine::new(model, optimizer, spec, options).unwrap()).unwrap()
    }
}

#[test]
fn hashes_after_twenty_steps_are_the_pinned_ones() {
    for file in Golden::files() {
        let mut golden = Golden::read(&file);
        assert_eq!(golden.steps, 20, "{file:?}");
        if std::env::var_os("MANTA_WRITE_GOLDEN").is_some() {
            golden.outcome = golden.train_natively(SimdPath::Portable, 1);
            std::fs::write(&file, serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
        }
        assert!(golden.outcome.last_loss_fixed < golden.outcome.first_loss_fixed, "{file:?}: nothing was learnt");
        for (threads, path) in SimdPath::available().into_iter().enumerate() {
            assert_eq!(golden.outcome, golden.train_natively(path, threads + 1), "{file:?} on {path:?}");
        }
    }
}

/// Else a path that is no longer found would no longer be compared with anything.
#[test]
fn goldens_are_compared_on_every_path_of_the_processor() {
    let paths = SimdPath::available();
    assert!(paths.contains(&SimdPath::Portable));
    #[cfg(target_arch = "x86_64")]
    {
        assert_eq!(paths.contains(&SimdPath::Avx2), is_x86_feature_detected!("avx2"));
        // No processor has the dot products without the rest.
        let vnni = is_x86_feature_detected!("avx512vnni");
        assert_eq!(paths.contains(&SimdPath::Avx512Vnni), vnni);
    }
    #[cfg(target_arch = "aarch64")]
    assert_eq!(paths.contains(&SimdPath::NeonDot), std::arch::is_aarch64_feature_detected!("dotprod"));
}
