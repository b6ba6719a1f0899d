//! Trains a nano model on a text synchronously, alone and by local rounds, and
//! prints the validation loss of each: a table of outer learning rates and momenta.
//!
//! `cargo run --release -p manta-gpu-kernels --example local_rounds TEXT [steps a round] [rounds] [members] [learning rate] [seed]`

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, OuterConfig,
    OuterOptimizer, StepNumbers, reduce,
};

const LENGTH: usize = 64;
const SEQUENCES: usize = 4;
const OUTER: [(f32, f32); 12] = [
    (1.0, 0.0),
    (0.7, 0.0),
    (0.7, 0.3),
    (1.0, 0.3),
    (0.7, 0.5),
    (1.0, 0.5),
    (0.5, 0.7),
    (0.7, 0.7),
    (0.1, 0.9),
    (0.2, 0.9),
    (0.4, 0.9),
    (0.7, 0.9),
];

/// What all trainings share.
struct Task {
    training: Vec<u32>,
    validation: Vec<u32>,
    steps_per_round: u64,
    rounds: u64,
    members: u64,
    /// Of the inner optimiser.
    learning_rate: f32,
    run_seed: [u8; 32],
}

impl Task {
    fn engine(&self) -> Result<Engine, EngineError> {
        let model = ModelConfig {
            vocab_size: 256,
            hidden_size: 64,
            intermediate_size: 176,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            max_position_embeddings: LENGTH,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        };
        let steps = self.steps_per_round * self.rounds;
        let optimizer = OptimizerConfig {
            learning_rate: self.learning_rate,
            warmup_steps: (steps / 10).clamp(1, 200),
            decay_start_step: steps - steps / 3,
            total_steps: steps,
            ..Default::default()
        };
        let spec = ArithmeticSpec { micro_batch_sequences: SEQUENCES, sequence_length: LENGTH, ..Default::default() };
        let mut engine = Engine::new(model, optimizer, spec, EngineOptions { threads: 1, ..Default::default() })?;
        engine.initialize(self.run_seed);
        Ok(engine)
    }

    /// Adds the gradient of the micro-batch of `member` in `step`: the same text for all ways of training.
    fn accumulate(&self, engine: &mut Engine, step: u64, member: u64) -> Result<(), EngineError> {
        let key = MicroBatchKey { run_seed: self.run_seed, step, micro_batch: member };
        let mut place = blake3::Hasher::new_keyed(&self.run_seed);
        place.update(&step.to_le_bytes()).update(&member.to_le_bytes());
        let mut bytes = [0; 8 * SEQUENCES];
        place.finalize_xof().fill(&mut bytes);
        let range = (self.training.len() - LENGTH) as u64;
        let starts = bytes.as_chunks::<8>().0.iter().map(|&bytes| (u64::from_le_bytes(bytes) % range) as usize);
        let tokens: Vec<u32> = starts.flat_map(|start| &self.training[start..=start + LENGTH]).copied().collect();
        engine.accumulate_gradient(&tokens, SEQUENCES, &key)?;
        Ok(())
    }

    fn validate(&self, engine: &mut Engine) -> Result<f64, EngineError> {
        Ok(engine.evaluate(&self.validation, self.validation.len() / (LENGTH + 1))?.nats_per_token())
    }

    /// One sum of gradients of `members` members each step.
    fn synchronous(&self, members: u64) -> Result<f64, EngineError> {
        let mut engine = self.engine()?;
        for step in 0..self.steps_per_round * self.rounds {
            (0..members).try_for_each(|member| self.accumulate(&mut engine, step, member))?;
            engine.apply_own_gradient(members as u32, StepNumbers::in_order(step))?;
        }
        self.validate(&mut engine)
    }

    /// One sum of deltas each round.
    fn local(&self, config: OuterConfig) -> Result<f64, EngineError> {
        let mut engines = (0..self.members).map(|_| self.engine()).collect::<Result<Vec<_>, _>>()?;
        let mut outer = OuterOptimizer::new(config, engines[0].parameters().to_vec())?;
        for round in 0..self.rounds {
            let mut sum = vec![0.0; outer.anchor().len()];
            for (member, engine) in (0..).zip(&mut engines) {
                for step in round * self.steps_per_round..(round + 1) * self.steps_per_round {
                    self.accumulate(engine, step, member)?;
                    engine.apply_own_gradient(1, StepNumbers::in_order(step))?;
                }
                reduce::accumulate(&mut sum, &outer.delta(engine.parameters(), self.steps_per_round as u32)?)?;
            }
            outer.apply(&sum, (self.steps_per_round * self.members) as u32)?;
            engines.iter_mut().try_for_each(|engine| engine.set_parameters(outer.anchor().to_vec()))?;
        }
        self.validate(&mut engines[0])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a text of at least 100 kB")?;
    let number = |place, default| std::env::args().nth(place).map_or(Ok(default), |text| text.parse::<u64>());
    let text: Vec<u32> = std::fs::read(path)?.into_iter().map(u32::from).collect();
    if text.len() < 100_000 {
        return Err(format!("the text has {} bytes, less than 100,000", text.len()).into());
    }
    let (training, validation) = text.split_at(text.len() * 9 / 10);
    let validation = &validation[..validation.len().min(400 * (LENGTH + 1)) / (LENGTH + 1) * (LENGTH + 1)];
    let task = Task {
        training: training.to_vec(),
        validation: validation.to_vec(),
        steps_per_round: number(2, 10)?.max(1),
        rounds: number(3, 60)?.max(1),
        members: number(4, 2)?.max(1),
        learning_rate: std::env::args().nth(5).map_or(Ok(4e-3), |text| text.parse())?,
        run_seed: [number(6, 1)? as u8; 32],
    };
    let Task { steps_per_round, rounds, members, .. } = task;
    println!("{members} members, {rounds} rounds of {steps_per_round} steps; validation loss in nats a byte");
    println!("synchronous {:.4}", task.synchronous(members)?);
    println!("alone       {:.4}", task.synchronous(1)?);
    for (learning_rate, momentum) in OUTER {
        let loss = task.local(OuterConfig { learning_rate, momentum })?;
        println!("outer learning rate {learning_rate}, momentum {momentum}: {loss:.4}");
    }
    Ok(())
}
