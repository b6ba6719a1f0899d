//! Trains or judges a model exactly by a plan, so that another program can do the same in f32 and be compared.
//!
//! ```text
//! quality initial PLAN FOLDER         writes the initial model of the plan's seed
//! quality train PLAN FOLDER TRAINED   trains the model of FOLDER, and writes what it became
//! quality judge PLAN FOLDER           judges the model of FOLDER
//! ```
//! Prints one line of JSON. `gpu-kernels/benches/quality/compare.py` makes the plans and runs this.

mod folder;

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, StepNumbers,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Error = Box<dyn std::error::Error>;

/// What is computed. Token files hold little-endian u32 in rows of `sequence_length + 1`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    model: ModelConfig,
    optimizer: OptimizerConfig,
    arithmetic: ArithmeticSpec,
    /// Of initial values and roundings.
    seed: u8,
    /// One micro-batch for each step, one after the other.
    training: PathBuf,
    validation: PathBuf,
    threads: usize,
}

impl Plan {
    fn engine(&self) -> Result<Engine, Error> {
        let options = EngineOptions { threads: self.threads, ..Default::default() };
        Ok(Engine::new(self.model.clone(), self.optimizer.clone(), self.arithmetic.clone(), options)?)
    }

    fn run_seed(&self) -> [u8; 32] {
        [self.seed; 32]
    }

    /// Validation loss, nats a token.
    fn judge(&self, engine: &mut Engine) -> Result<f64, Error> {
        let tokens = tokens(&self.validation)?;
        let rows = tokens.len() / (self.arithmetic.sequence_length + 1);
        Ok(engine.evaluate(&tokens, rows)?.loss.nats_per_token())
    }

    /// Trains for all steps of the plan; the training loss of each, nats a token.
    fn train(&self, engine: &mut Engine) -> Result<Vec<f64>, Error> {
        let sequences = self.arithmetic.micro_batch_sequences;
        let tokens = tokens(&self.training)?;
        let batches = tokens.chunks_exact(sequences * (self.arithmetic.sequence_length + 1));
        let mut losses = Vec::new();
        for (step, tokens) in (0..self.optimizer.total_steps).zip(batches) {
            let key = MicroBatchKey { run_seed: self.run_seed(), step, micro_batch: 0 };
            losses.push(engine.accumulate_gradient(tokens, sequences, &key)?.nats_per_token());
            engine.apply_own_gradient(1, StepNumbers::in_order(step))?;
        }
        if losses.len() as u64 != self.optimizer.total_steps {
            return Err(format!("{} has {} batches only", self.training.display(), losses.len()).into());
        }
        Ok(losses)
    }
}

fn tokens(path: &Path) -> Result<Vec<u32>, Error> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let plan = |path: &str| -> Result<Plan, Error> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    let started = Instant::now();
    let report = match words[..] {
        ["initial", path, folder] => {
            let plan = plan(path)?;
            let mut engine = plan.engine()?;
            engine.initialize(plan.run_seed());
            folder::write(Path::new(folder), &plan.model, engine.layout(), engine.parameters())?;
            serde_json::json!({ "parameters": engine.layout().len() })
        }
        ["train", path, folder, trained] => {
            let plan = plan(path)?;
            let mut engine = plan.engine()?;
            engine.load_parameters(folder::read(Path::new(folder), engine.layout())?)?;
            let losses = plan.train(&mut engine)?;
            let seconds = started.elapsed().as_secs_f64();
            folder::write(Path::new(trained), &plan.model, engine.layout(), engine.parameters())?;
            serde_json::json!({ "validation": plan.judge(&mut engine)?, "training": losses, "seconds": seconds })
        }
        ["judge", path, folder] => {
            let plan = plan(path)?;
            let mut engine = plan.engine()?;
            engine.load_parameters(folder::read(Path::new(folder), engine.layout())?)?;
            serde_json::json!({ "validation": plan.judge(&mut engine)? })
        }
        _ => return Err("usage: quality initial PLAN FOLDER | train PLAN FOLDER TRAINED | judge PLAN FOLDER".into()),
    };
    println!("{report}");
    Ok(())
}
