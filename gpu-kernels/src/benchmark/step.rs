//! Whole training steps of one model, to be timed.

use crate::error::EngineError;
use crate::model::config::ModelConfig;
use crate::model::engine::Engine;
use crate::model::options::EngineOptions;
use crate::model::profile::Profile;
use crate::model::step::{MicroBatchKey, StepNumbers};
use crate::spec::{ArithmeticSpec, OptimizerConfig, OptimizerKind};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Models that benchmarks know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchmarkModel {
    /// 4 blocks of width 256: about 3M parameters without embedding and head.
    Tiny,
    /// 6 blocks of width 384: about 10M parameters without embedding and head.
    Small,
    /// 8 blocks of width 512: about 25M parameters without embedding and head.
    Medium,
}

impl BenchmarkModel {
    /// Its shape with a vocabulary of this size.
    pub fn config(self, vocab_size: usize) -> ModelConfig {
        let (hidden_size, intermediate_size, num_hidden_layers, heads, key_heads) = match self {
            Self::Tiny => (256, 704, 4, 4, 2),
            Self::Small => (384, 1024, 6, 6, 3),
            Self::Medium => (512, 1408, 8, 8, 4),
        };
        ModelConfig {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: key_heads,
            head_dim: 64,
            max_position_embeddings: 256,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            rope_scaling: None,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }
}

/// What one step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepTime {
    /// On the clock: one micro-batch forward and backward, and the optimiser's step.
    pub step_ns: u64,
    /// Of it, forward and backward.
    pub gradient_ns: u64,
    /// The step by class of operation.
    pub profile: Profile,
}

/// Trains on micro-batches of 4 sequences of 256 tokens, one a step.
pub struct StepBenchmark {
    engine: Engine,
    tokens: Vec<u32>,
    number: u64,
}

impl StepBenchmark {
    /// A fresh model.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn new(model: BenchmarkModel, vocab_size: usize, options: EngineOptions) -> Result<Self, EngineError> {
        Self::with_optimizer(model, vocab_size, OptimizerKind::Adamw, options)
    }

    /// [`StepBenchmark::new`] with another optimiser.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with_optimizer(
        model: BenchmarkModel,
        vocab_size: usize,
        kind: OptimizerKind,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let optimizer = OptimizerConfig { kind, ..OptimizerConfig::default() };
        let spec = ArithmeticSpec { micro_batch_sequences: 4, sequence_length: 256, ..Default::default() };
        let mut engine = Engine::new(model.config(vocab_size), optimizer, spec, options)?;
        engine.initialize([1; 32]);
        Ok(Self { engine, tokens: Vec::new(), number: 0 })
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.engine.layout().len()
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.engine.arithmetic().micro_batch_tokens()
    }

    /// Takes one step.
    ///
    /// # Errors
    /// As [`Engine::accumulate_gradient`] and [`Engine::apply_own_gradient`].
    pub fn run(&mut self) -> Result<StepTime, EngineError> {
        let (vocab_size, sequences) = (self.engine.config().vocab_size as u64, 4);
        let places = (0..(self.tokens() + sequences) as u64).map(|place| place + self.number * 7919);
        self.tokens.clear();
        self.tokens.extend(places.map(|place| ((place * place / 3 + place / 5) % vocab_size) as u32));
        let key = MicroBatchKey { run_seed: [1; 32], step: self.number, micro_batch: 0 };
        self.engine.take_profile();
        let start = Instant::now();
        self.engine.accumulate_gradient(&self.tokens, sequences, &key)?;
        let gradient_ns = start.elapsed().as_nanos() as u64;
        self.engine.apply_own_gradient(1, StepNumbers::in_order(self.number))?;
        let step_ns = start.elapsed().as_nanos() as u64;
        self.number += 1;
        Ok(StepTime { step_ns, gradient_ns, profile: self.engine.take_profile() })
    }
}
