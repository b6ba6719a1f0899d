//! What a trainer needs of an engine, whether it computes on the CPU or on a graphics device.

use crate::error::EngineError;
use crate::gpu::engine::GpuEngine;
use crate::model::config::ModelConfig;
use crate::model::engine::Engine;
use crate::model::layout::Layout;
use crate::model::step::{Evaluation, LossSum, MicroBatchKey, StepNumbers, StepReport};
use crate::spec::ArithmeticSpec;

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
    ($engine:ty, $ok:expr, $vector:expr) => {
        impl TrainingEngine for $engine {
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

training_engine!(Engine, Ok, |values: &[f32]| Ok(values.to_vec()));
training_engine!(GpuEngine, std::convert::identity, std::convert::identity);
