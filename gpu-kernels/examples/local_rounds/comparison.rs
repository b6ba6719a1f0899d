//! One nano model and one text of bytes, trained on synchronously, alone and by
//! local rounds: every way sees the same windows of the text, so that their
//! losses can be compared.

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, OuterConfig,
    OuterOptimizer, StepNumbers, reduce,
};

/// Sequences in a micro-batch.
const SEQUENCES: usize = 4;
/// More sequences would not make the validation loss much more certain.
const VALIDATION_SEQUENCES_MAX: usize = 400;

/// What all ways of training share.
pub(crate) struct Settings {
    /// Above every byte of the text.
    pub(crate) vocab_size: usize,
    pub(crate) sequence_length: usize,
    pub(crate) steps_per_round: u64,
    pub(crate) rounds: u64,
    pub(crate) members: u64,
    /// Of the inner optimiser.
    pub(crate) learning_rate: f32,
    pub(crate) run_seed: [u8; 32],
}

/// Trains, and tells the validation loss in nats a byte.
pub(crate) struct Comparison {
    settings: Settings,
    training: Vec<u32>,
    /// Whole rows: sequences with the byte after them.
    validation: Vec<u32>,
}

impl Comparison {
    /// The last tenth of the text is for validation.
    pub(crate) fn new(settings: Settings, text: &[u32]) -> Self {
        let (training, validation) = text.split_at(text.len() * 9 / 10);
        let row = settings.sequence_length + 1;
        assert!(training.len() >= row && validation.len() >= row, "the text has only {} bytes", text.len());
        let rows = (validation.len() / row).min(VALIDATION_SEQUENCES_MAX);
        Self { training: training.to_vec(), validation: validation[..rows * row].to_vec(), settings }
    }

    fn steps(&self) -> u64 {
        self.settings.steps_per_round * self.settings.rounds
    }

    fn engine(&self) -> Result<Engine, EngineError> {
        let length = self.settings.sequence_length;
        let model = ModelConfig {
            vocab_size: self.settings.vocab_size,
            hidden_size: 64,
            intermediate_size: 176,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            max_position_embeddings: length,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        };
        let optimizer = OptimizerConfig {
            learning_rate: self.settings.learning_rate,
            warmup_steps: (self.steps() / 10).clamp(1, 200),
            decay_start_step: self.steps() - self.steps() / 3,
            total_steps: self.steps(),
            ..Default::default()
        };
        let spec = ArithmeticSpec { micro_batch_sequences: SEQUENCES, sequence_length: length, ..Default::default() };
        let mut engine = Engine::new(model, optimizer, spec, EngineOptions { threads: 1, ..Default::default() })?;
        engine.initialize(self.settings.run_seed);
        Ok(engine)
    }

    /// Adds the gradient of the micro-batch of `member` in `step`.
    fn accumulate(&self, engine: &mut Engine, step: u64, member: u64) -> Result<(), EngineError> {
        let (run_seed, length) = (self.settings.run_seed, self.settings.sequence_length);
        let mut place = blake3::Hasher::new_keyed(&run_seed);
        place.update(&step.to_le_bytes()).update(&member.to_le_bytes());
        let mut bytes = [0; 8 * SEQUENCES];
        place.finalize_xof().fill(&mut bytes);
        let range = (self.training.len() - length) as u64;
        let starts = bytes.as_chunks::<8>().0.iter().map(|&bytes| (u64::from_le_bytes(bytes) % range) as usize);
        let tokens: Vec<u32> = starts.flat_map(|start| &self.training[start..=start + length]).copied().collect();
        engine.accumulate_gradient(&tokens, SEQUENCES, &MicroBatchKey { run_seed, step, micro_batch: member })?;
        Ok(())
    }

    fn loss(&self, engine: &mut Engine) -> Result<f64, EngineError> {
        let sequences = self.validation.len() / (self.settings.sequence_length + 1);
        Ok(engine.evaluate(&self.validation, sequences)?.loss.nats_per_token())
    }

    /// The loss before any training.
    pub(crate) fn untrained(&self) -> Result<f64, EngineError> {
        self.loss(&mut self.engine()?)
    }

    /// One member takes all steps by itself.
    pub(crate) fn alone(&self) -> Result<f64, EngineError> {
        self.synchronous_with(1)
    }

    /// The members sum their gradients in every step.
    pub(crate) fn synchronous(&self) -> Result<f64, EngineError> {
        self.synchronous_with(self.settings.members)
    }

    fn synchronous_with(&self, members: u64) -> Result<f64, EngineError> {
        let mut engine = self.engine()?;
        for step in 0..self.steps() {
            (0..members).try_for_each(|member| self.accumulate(&mut engine, step, member))?;
            engine.apply_own_gradient(members as u32, StepNumbers::in_order(step))?;
        }
        self.loss(&mut engine)
    }

    /// The members sum their deltas in every round.
    pub(crate) fn local_rounds(&self, config: OuterConfig) -> Result<f64, EngineError> {
        let Settings { steps_per_round, rounds, members, .. } = self.settings;
        let mut engines = (0..members).map(|_| self.engine()).collect::<Result<Vec<_>, _>>()?;
        let mut outer = OuterOptimizer::new(config, engines[0].parameters().to_vec())?;
        for round in 0..rounds {
            let mut sum = vec![0.0; outer.anchor().len()];
            for (member, engine) in (0..).zip(&mut engines) {
                for step in round * steps_per_round..(round + 1) * steps_per_round {
                    self.accumulate(engine, step, member)?;
                    engine.apply_own_gradient(1, StepNumbers::in_order(step))?;
                }
                reduce::accumulate(&mut sum, &outer.delta(engine.parameters(), steps_per_round as u32)?)?;
            }
            outer.apply(&sum, (steps_per_round * members) as u32)?;
            engines.iter_mut().try_for_each(|engine| engine.set_parameters(outer.anchor().to_vec()))?;
        }
        self.loss(&mut engines[0])
    }
}
