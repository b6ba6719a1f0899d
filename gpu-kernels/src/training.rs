//! What a trainer needs of an engine, whether it computes on the CPU or on a graphics device.

use crate::error::EngineError;
use crate::gpu::engine::GpuEngine;
use crate::model::config::ModelConfig;
use crate::model::engine::Engine;
use crate::model::layout::Layout;
use crate::model::step::{Evaluation, LossSum, MicroBatchKey, StepNumbers, StepReport};
use crate::spec::ArithmeticSpec;
use std::borrow::Cow;

/// Sequences whose gradient is computed at once.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// Rows of inputs with the target of the last one.
    pub tokens: &'a [u32],
    /// Number of rows.
    pub sequences: usize,
    /// What its roundings are keyed by.
    pub key: MicroBatchKey,
}

/// A step of local training: the gradients of micro-batches, and an optimiser step with their sum.
#[derive(Clone, Copy, Debug)]
pub struct LocalStep<'a> {
    /// At least one.
    pub micro_batches: &'a [MicroBatch<'a>],
    /// Of the optimiser step.
    pub numbers: StepNumbers,
}

/// What came of a step of local training.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalOutcome {
    /// The loss of each micro-batch, in their order.
    pub losses: Vec<LossSum>,
    /// The optimiser step.
    pub report: StepReport,
}

/// What came of steps of local training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalTraining {
    /// The steps that were taken, in their order.
    pub outcomes: Vec<LocalOutcome>,
    /// Why the step after them, and with it all others, was not taken.
    pub stopped: Option<EngineError>,
}

/// One model in training. All implementations give the same bits; calls that
/// fail change nothing, unless a device was lost ([`EngineError::Device`]),
/// after which the engine is of no more use.
pub trait TrainingEngine: Send {
    /// The model's shape.
    fn config(&self) -> &ModelConfig;
    /// The arithmetic specification.
    fn arithmetic(&self) -> &ArithmeticSpec;
    /// Where each tensor lies in the flat vectors.
    fn layout(&self) -> &Layout;
    /// Sets the parameters to the initial values of `run_seed`, and optimiser state and gradient to zero.
    ///
    /// # Errors
    /// The device was lost.
    fn initialize(&mut self, run_seed: [u8; 32]) -> Result<(), EngineError>;
    /// Sets the parameters to `flat`, and optimiser state and gradient to zero.
    ///
    /// # Errors
    /// A wrong length, an element out of range, or a lost device.
    fn load_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError>;
    /// Sets the parameters to `flat` and the gradient to zero, but keeps the optimiser state.
    ///
    /// # Errors
    /// As [`TrainingEngine::load_parameters`].
    fn set_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError>;
    /// A copy of all parameters.
    ///
    /// # Errors
    /// The device was lost.
    fn read_parameters(&mut self) -> Result<Vec<f32>, EngineError>;
    /// Forgets the accumulated gradient.
    fn zero_gradient(&mut self);
    /// Adds the gradient of one micro-batch and returns its loss.
    ///
    /// # Errors
    /// Bad tokens, an op that leaves the range, or a failing device.
    fn accumulate_gradient(
        &mut self,
        tokens: &[u32],
        sequences: usize,
        key: &MicroBatchKey,
    ) -> Result<LossSum, EngineError>;
    /// A copy of the accumulated gradient.
    ///
    /// # Errors
    /// The device was lost.
    fn read_gradient(&mut self) -> Result<Vec<f32>, EngineError>;
    /// Takes the optimiser step of these numbers with a summed gradient.
    ///
    /// # Errors
    /// A bad gradient, an update that leaves the range, or a failing device.
    fn apply_gradient(
        &mut self,
        gradient_sum: &[f32],
        micro_batches: u32,
        step: StepNumbers,
    ) -> Result<StepReport, EngineError>;
    /// Takes the optimiser step of these numbers with the gradient accumulated here.
    ///
    /// # Errors
    /// As [`TrainingEngine::apply_gradient`].
    fn apply_own_gradient(&mut self, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError>;
    /// Takes steps with the engine's own gradients, one after another; the accumulated gradient is
    /// forgotten first. Devices are not waited for in between.
    ///
    /// # Errors
    /// Bad tokens, or a failing device. An op that leaves the range ends the training early instead.
    fn train_steps(&mut self, steps: &[LocalStep<'_>]) -> Result<LocalTraining, EngineError> {
        let mut training = LocalTraining::default();
        for step in steps {
            match self.train_step(step) {
                Ok(outcome) => training.outcomes.push(outcome),
                Err(error @ EngineError::Range { .. }) => {
                    self.zero_gradient();
                    training.stopped = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(training)
    }
    /// Takes one step with the engine's own gradient.
    ///
    /// # Errors
    /// As [`TrainingEngine::accumulate_gradient`] and [`TrainingEngine::apply_own_gradient`].
    fn train_step(&mut self, step: &LocalStep<'_>) -> Result<LocalOutcome, EngineError> {
        self.zero_gradient();
        let mut losses = Vec::with_capacity(step.micro_batches.len());
        for micro_batch in step.micro_batches {
            losses.push(self.accumulate_gradient(micro_batch.tokens, micro_batch.sequences, &micro_batch.key)?);
        }
        let report = self.apply_own_gradient(step.micro_batches.len() as u32, step.numbers)?;
        Ok(LocalOutcome { losses, report })
    }
    /// Loss and hits of `sequences` rows of tokens.
    ///
    /// # Errors
    /// As [`TrainingEngine::accumulate_gradient`].
    fn evaluate(&mut self, tokens: &[u32], sequences: usize) -> Result<Evaluation, EngineError>;
    /// The logits of the token after `context`.
    ///
    /// # Errors
    /// As [`TrainingEngine::accumulate_gradient`].
    fn next_token_logits(&mut self, context: &[u32]) -> Result<Vec<f32>, EngineError>;
    /// blake3 of the parameters.
    ///
    /// # Errors
    /// The device was lost.
    fn parameter_hash(&mut self) -> Result<[u8; 32], EngineError>;
    /// blake3 of the optimiser state.
    ///
    /// # Errors
    /// The device was lost.
    fn optimizer_hash(&mut self) -> Result<[u8; 32], EngineError>;
}

/// Forwards to the inherent methods; `$ok` makes results of those that cannot fail.
macro_rules! training_engine {
    ($engine:ty, $ok:expr, $vector:expr $(, $train_steps:item)?) => {
        impl TrainingEngine for $engine {
            $($train_steps)?
            fn config(&self) -> &ModelConfig {
                self.config()
            }
            fn arithmetic(&self) -> &ArithmeticSpec {
                self.arithmetic()
            }
            fn layout(&self) -> &Layout {
                self.layout()
            }
            fn initialize(&mut self, run_seed: [u8; 32]) -> Result<(), EngineError> {
                $ok(self.initialize(run_seed))
            }
            fn load_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
                self.load_parameters(flat)
            }
            fn set_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
                self.set_parameters(flat)
            }
            fn read_parameters(&mut self) -> Result<Vec<f32>, EngineError> {
                $vector(self.parameters())
            }
            fn zero_gradient(&mut self) {
                self.zero_gradient();
            }
            fn accumulate_gradient(
                &mut self,
                tokens: &[u32],
                sequences: usize,
                key: &MicroBatchKey,
            ) -> Result<LossSum, EngineError> {
                self.accumulate_gradient(tokens, sequences, key)
            }
            fn read_gradient(&mut self) -> Result<Vec<f32>, EngineError> {
                $vector(self.gradient())
            }
            fn apply_gradient(
                &mut self,
                gradient_sum: &[f32],
                micro_batches: u32,
                step: StepNumbers,
            ) -> Result<StepReport, EngineError> {
                self.apply_gradient(gradient_sum, micro_batches, step)
            }
            fn apply_own_gradient(&mut self, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError> {
                self.apply_own_gradient(micro_batches, step)
            }
            fn evaluate(&mut self, tokens: &[u32], sequences: usize) -> Result<Evaluation, EngineError> {
                self.evaluate(tokens, sequences)
            }
            fn next_token_logits(&mut self, context: &[u32]) -> Result<Vec<f32>, EngineError> {
                self.next_token_logits(context)
            }
            fn parameter_hash(&mut self) -> Result<[u8; 32], EngineError> {
                $ok(Self::parameter_hash(self))
            }
            fn optimizer_hash(&mut self) -> Result<[u8; 32], EngineError> {
                $ok(Self::optimizer_hash(self))
            }
        }
    };
}

/// A copy of values that an engine keeps, or the values themselves.
fn owned<'a>(values: impl Into<Cow<'a, [f32]>>) -> Result<Vec<f32>, EngineError> {
    Ok(values.into().into_owned())
}

training_engine!(Engine, Ok, owned);
training_engine!(
    GpuEngine,
    std::convert::identity,
    std::convert::identity,
    fn train_steps(&mut self, steps: &[LocalStep<'_>]) -> Result<LocalTraining, EngineError> {
        self.train_steps(steps)
    }
);
