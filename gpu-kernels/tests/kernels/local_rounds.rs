//! Training by local rounds as a golden file says, on any engines.

use crate::support::{golden_token, hex};
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, LossSum, MicroBatchKey, ModelConfig, OptimizerConfig,
    OuterConfig, OuterOptimizer, SimdPath, StepNumbers, TrainingEngine, reduce,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What to train, and what must come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LocalRounds {
    pub(crate) purpose: String,
    pub(crate) model: ModelConfig,
    pub(crate) arithmetic: ArithmeticSpec,
    pub(crate) optimizer: OptimizerConfig,
    pub(crate) outer: OuterConfig,
    /// Each byte of the run seed.
    pub(crate) run_seed: u8,
    pub(crate) rounds: u64,
    /// Steps of each member in a round, one micro-batch each.
    pub(crate) steps: Vec<u64>,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    parameter_hash: String,
    momentum_hash: String,
    /// Of each member's inner optimiser.
    optimizer_hashes: Vec<String>,
    /// Σ loss of all members over the first and the last round, in 2⁻²⁰ nats.
    pub(crate) first_loss_fixed: i64,
    pub(crate) last_loss_fixed: i64,
}

impl LocalRounds {
    /// With AdamW, and with Muon.
    pub(crate) fn files() -> [PathBuf; 2] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/outer");
        ["local_rounds.json", "local_rounds_muon.json"].map(|name| folder.join(name))
    }

    pub(crate) fn read(file: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    pub(crate) fn native(&self, simd: SimdPath, threads: usize) -> Box<dyn TrainingEngine> {
        let options = EngineOptions { threads, simd, ..Default::default() };
        let (model, optimizer, spec) = (self.model.clone(), self.optimizer.clone(), self.arithmetic.clone());
        Box::new(Engine::new(model, optimizer, spec, options).unwrap())
    }

    /// Trains with one engine a member, in rank order.
    pub(crate) fn train(&self, mut engines: Vec<Box<dyn TrainingEngine>>) -> Result<Outcome, EngineError> {
        assert_eq!(engines.len(), self.steps.len(), "one engine a member");
        engines.iter_mut().try_for_each(|engine| engine.initialize([self.run_seed; 32]))?;
        let mut outer = OuterOptimizer::new(self.outer, engines[0].read_parameters()?)?;
        let mut losses = Vec::new();
        for round in 0..self.rounds {
            let (mut loss, mut sum) = (LossSum::default(), vec![0.0; outer.anchor().len()]);
            for (member, engine) in engines.iter_mut().enumerate() {
                loss += self.local_round(engine.as_mut(), round, member)?;
                reduce::accumulate(&mut sum, &outer.delta(&engine.read_parameters()?, self.steps[member] as u32)?)?;
            }
            outer.apply(&sum, self.steps.iter().sum::<u64>() as u32)?;
            for engine in &mut engines {
                engine.set_parameters(outer.anchor().to_vec())?;
                assert_eq!(engine.parameter_hash()?, outer.parameter_hash());
            }
            losses.push(loss.fixed);
        }
        let optimizer_hashes = engines.iter_mut().map(|engine| Ok(hex(engine.optimizer_hash()?)));
        Ok(Outcome {
            parameter_hash: hex(outer.parameter_hash()),
            momentum_hash: hex(outer.momentum_hash()),
            optimizer_hashes: optimizer_hashes.collect::<Result<_, EngineError>>()?,
            first_loss_fixed: losses[0],
            last_loss_fixed: losses[losses.len() - 1],
        })
    }

    /// A member's own steps; a slower member's moments count fewer than the schedule does.
    fn local_round(&self, engine: &mut dyn TrainingEngine, round: u64, member: usize) -> Result<LossSum, EngineError> {
        let (members, steps) = (self.steps.len() as u64, self.steps[member]);
        let longest = self.steps.iter().copied().max().unwrap_or(0);
        let sequences = self.arithmetic.micro_batch_sequences;
        let count = (sequences * (self.arithmetic.sequence_length + 1)) as u64;
        let mut loss = LossSum::default();
        for at in 0..steps {
            let numbers = StepNumbers { adam: round * steps + at, schedule: round * longest + at };
            let number = numbers.schedule * members + member as u64;
            let tokens: Vec<u32> = (0..count).map(|place| golden_token(place, number, self.model.vocab_size)).collect();
            let run_seed = [self.run_seed; 32];
            let key = MicroBatchKey { run_seed, step: numbers.schedule, micro_batch: member as u64 };
            loss += engine.accumulate_gradient(&tokens, sequences, &key)?;
            engine.apply_own_gradient(1, numbers)?;
        }
        Ok(loss)
    }
}
