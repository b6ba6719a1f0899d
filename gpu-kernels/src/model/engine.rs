//! The engine: one model, its optimiser state, and the operations of training.
//!
//! Every call either succeeds or leaves parameters, optimiser state and
//! accumulated gradient as they were.

use super::backward::Backward;
use super::config::ModelConfig;
use super::forward::{Batch, Purpose, TASK_ELEMENTS};
use super::init::initialize;
use super::input::{check_context, check_sequences, checked_batch, split_targets};
use super::layout::Layout;
use super::muon::{self, Shape};
use super::optimizer::{Scratch, apply};
use super::options::{EngineOptions, MemoryPlan};
use super::profile::{Laps, OpClass, Profile};
use super::state::{OPTIMIZER_CONTEXT, PARAMETER_CONTEXT, TrainingState, hash_vectors};
use super::step::{Evaluation, LossSum, MicroBatchKey, OpKeys, StepNumbers, StepReport, check_range};
use super::weights::Weights;
use super::workspace::{TokenRows, Workspace};
use crate::arithmetic::canon;
use crate::cpu::adamw::{Peaks, State, UNKNOWN_PEAKS};
use crate::cpu::attention::BlockScratch;
use crate::cpu::cross_entropy::judge;
use crate::cpu::pool::Pool;
use crate::cpu::reduce::add_to;
use crate::cpu::rope::Rotary;
use crate::cpu::simd::Simd;
use crate::error::EngineError;
use crate::reduce::check;
use crate::spec::{ArithmeticSpec, OptimizerConfig};
use rayon::prelude::*;
use std::borrow::Cow;

/// What a pass reads.
pub(crate) struct Model<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) spec: &'a ArithmeticSpec,
    pub(crate) parameters: &'a [f32],
    pub(crate) weights: &'a Weights,
    pub(crate) rotary: &'a Rotary,
    pub(crate) pool: &'a Pool<BlockScratch>,
    pub(crate) simd: Simd,
    pub(crate) laps: &'a Laps,
}

/// Trains one model.
pub struct Engine {
    config: ModelConfig,
    optimizer: OptimizerConfig,
    spec: ArithmeticSpec,
    layout: Layout,
    simd: Simd,
    pool: Pool<BlockScratch>,
    parameters: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    /// The largest magnitudes of parameters and moments, where they are known.
    peaks: Peaks,
    gradient: Vec<f32>,
    /// Whether the gradient is zero, whatever stands in `gradient`.
    gradient_is_zero: bool,
    /// Gradient of the micro-batch at hand; scratch of the optimiser's step.
    micro_gradient: Vec<f32>,
    /// Empty where the optimiser needs none.
    muon: muon::Workspace,
    weights: Weights,
    rotary: Rotary,
    workspace: Workspace,
    laps: Laps,
}

impl Engine {
    /// Allocates a model with all parameters zero; call [`Engine::initialize`]
    /// or [`Engine::load_parameters`] next.
    ///
    /// # Errors
    /// A field out of range, too little memory allowed, an instruction set that
    /// the machine lacks, or threads that cannot be started.
    pub fn new(
        model: ModelConfig,
        optimizer: OptimizerConfig,
        arithmetic: ArithmeticSpec,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        model.validate()?;
        arithmetic.validate(&model)?;
        optimizer.validate()?;
        let pool = Pool::new(options.threads)?;
        let simd = options.simd.resolve()?;
        let counted = EngineOptions { threads: pool.threads(), ..options };
        let plan = MemoryPlan::of(&model, &arithmetic, optimizer.kind, &counted);
        plan.check(options.memory_bytes_max)?;
        let layout = Layout::new(&model);
        let zeros = || vec![0.0; layout.len()];
        Ok(Self {
            simd,
            pool,
            parameters: zeros(),
            first_moment: zeros(),
            second_moment: zeros(),
            peaks: UNKNOWN_PEAKS,
            gradient: zeros(),
            gradient_is_zero: true,
            micro_gradient: zeros(),
            muon: muon::Workspace::new(simd, Shape::all(optimizer.kind, &layout).map(|(_, shape)| shape)),
            weights: Weights::new(&model, &layout),
            rotary: Rotary::of(&model),
            workspace: Workspace::new(plan.recomputes),
            laps: Laps::new(),
            layout,
            config: model,
            optimizer,
            spec: arithmetic,
        })
    }

    /// Sets the parameters to the Gaussian initial values of `run_seed`, and
    /// optimiser state and gradient to zero.
    pub fn initialize(&mut self, run_seed: [u8; 32]) {
        let Self { config, layout, parameters, pool, .. } = self;
        pool.install(|| initialize(config, layout, &run_seed, parameters));
        self.reset();
    }

    /// Sets the parameters to `flat` (in the order of [`Engine::layout`],
    /// canonised), and optimiser state and gradient to zero.
    ///
    /// # Errors
    /// A wrong length, or an element that is not a number under 2⁴⁰.
    pub fn load_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
        self.set_parameters(flat)?;
        self.reset();
        Ok(())
    }

    /// Sets the parameters to `flat` (canonised) and the gradient to zero, but
    /// keeps the optimiser state: a member of a run does so after each outer step.
    ///
    /// # Errors
    /// A wrong length, or an element that is not a number under 2⁴⁰.
    pub fn set_parameters(&mut self, mut flat: Vec<f32>) -> Result<(), EngineError> {
        self.check_length("parameters", flat.len())?;
        check("parameters", &flat)?;
        flat.iter_mut().for_each(|value| *value = canon(*value));
        self.parameters = flat;
        self.zero_gradient();
        self.parameters_changed();
        Ok(())
    }

    /// A copy of parameters and moments.
    pub fn state(&self) -> TrainingState {
        TrainingState {
            parameters: self.parameters.clone(),
            first_moment: self.first_moment.clone(),
            second_moment: self.second_moment.clone(),
        }
    }

    /// Goes on from `state`, which an engine of the same model gave; the
    /// gradient is forgotten.
    ///
    /// # Errors
    /// A wrong length, or an element that no step leaves behind.
    pub fn load_state(&mut self, state: TrainingState) -> Result<(), EngineError> {
        state.check(&self.layout, self.optimizer.kind)?;
        let TrainingState { parameters, first_moment, second_moment } = state;
        (self.parameters, self.first_moment, self.second_moment) = (parameters, first_moment, second_moment);
        self.zero_gradient();
        self.parameters_changed();
        Ok(())
    }

    fn reset(&mut self) {
        self.first_moment.fill(0.0);
        self.second_moment.fill(0.0);
        self.zero_gradient();
        self.parameters_changed();
    }

    fn parameters_changed(&mut self) {
        self.weights.invalidate();
        self.peaks = UNKNOWN_PEAKS;
    }

    fn check_length(&self, what: &'static str, found: usize) -> Result<(), EngineError> {
        if found == self.layout.len() {
            return Ok(());
        }
        Err(EngineError::Length { what, expected: self.layout.len().to_string(), found })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The arithmetic specification.
    pub fn arithmetic(&self) -> &ArithmeticSpec {
        &self.spec
    }

    /// Where each tensor lies in the flat vectors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether activations are computed again on the way back.
    pub fn recomputes(&self) -> bool {
        self.workspace.recomputes
    }

    /// All parameters, flat.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// The accumulated gradient, flat: the sum over micro-batches of the
    /// gradient of each one's mean token loss.
    pub fn gradient(&self) -> Cow<'_, [f32]> {
        if self.gradient_is_zero { vec![0.0; self.gradient.len()].into() } else { (&self.gradient).into() }
    }

    /// Forgets the accumulated gradient.
    pub fn zero_gradient(&mut self) {
        // The next micro-batch's takes its place, so nothing is written for it.
        self.gradient_is_zero = true;
    }

    /// Adds the gradient of one micro-batch and returns its loss.
    ///
    /// `tokens` are `sequences` rows of `sequence_length + 1` tokens: each
    /// predicts the one after it. `sequences` is at most the specification's
    /// `micro_batch_sequences`.
    ///
    /// # Errors
    /// Tokens of a wrong number or outside of the vocabulary, or an op that
    /// leaves the range of the arithmetic.
    pub fn accumulate_gradient(
        &mut self,
        tokens: &[u32],
        sequences: usize,
        key: &MicroBatchKey,
    ) -> Result<LossSum, EngineError> {
        check_sequences(&self.spec, sequences)?;
        let batch = checked_batch(&self.config, &self.spec, tokens, sequences)?;
        let mut rows = std::mem::take(&mut self.workspace.rows);
        rows.split(tokens, batch.length);
        let outcome = self.accumulate(&rows, batch, key);
        self.workspace.rows = rows;
        outcome
    }

    fn accumulate(&mut self, rows: &TokenRows, batch: Batch, key: &MicroBatchKey) -> Result<LossSum, EngineError> {
        self.prepare(batch.length, true);
        let Self { workspace, gradient, gradient_is_zero, micro_gradient, .. } = self;
        let model = Model {
            config: &self.config,
            spec: &self.spec,
            parameters: &self.parameters,
            weights: &self.weights,
            rotary: &self.rotary,
            pool: &self.pool,
            simd: self.simd,
            laps: &self.laps,
        };
        self.pool.install(|| {
            model.forward(workspace, &rows.inputs, batch, Purpose::Train)?;
            let backward = Backward { model: &model, keys: OpKeys::new(key), gradient: &mut *micro_gradient };
            let judged = backward.run(workspace, rows, batch)?;
            // The sum of nothing and a canonical gradient is that gradient.
            if !*gradient_is_zero {
                let sums = gradient.par_chunks(TASK_ELEMENTS).zip(micro_gradient.par_chunks_mut(TASK_ELEMENTS));
                let peak = sums.map(|(sum, part)| add_to(model.simd, sum, part)).reduce(|| 0, u32::max);
                check_range("gradient sum", None, peak)?;
            }
            std::mem::swap(gradient, micro_gradient);
            *gradient_is_zero = false;
            model.laps.end(OpClass::GradientSums);
            Ok(LossSum { fixed: judged.fixed, tokens: batch.tokens() as u64 })
        })
    }

    /// Takes the optimiser step of these numbers with the sum of the gradients of
    /// `micro_batches` micro-batches, and forgets the accumulated gradient.
    ///
    /// # Errors
    /// A wrong length, an element that is not a number under 2⁴⁰, no
    /// micro-batches, or an update that leaves the range of the arithmetic.
    pub fn apply_gradient(
        &mut self,
        gradient_sum: &[f32],
        micro_batches: u32,
        step: StepNumbers,
    ) -> Result<StepReport, EngineError> {
        self.check_length("gradient_sum", gradient_sum.len())?;
        if micro_batches == 0 {
            return Err(EngineError::Length { what: "micro_batches", expected: "at least 1".into(), found: 0 });
        }
        self.laps.start();
        let Self { simd, optimizer, layout, pool, parameters, first_moment, second_moment, peaks, .. } = self;
        let state = State { parameters, first_moment, second_moment };
        let scratch = Scratch { values: &mut self.micro_gradient, muon: &mut self.muon };
        let place = (micro_batches, step);
        let report = pool.install(|| apply(*simd, optimizer, layout, gradient_sum, place, (state, peaks), scratch))?;
        self.weights.invalidate();
        self.zero_gradient();
        self.laps.end(OpClass::Optimizer);
        Ok(report)
    }

    /// [`Engine::apply_gradient`] with the gradient accumulated here.
    ///
    /// # Errors
    /// As [`Engine::apply_gradient`].
    pub fn apply_own_gradient(&mut self, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError> {
        let mut gradient = std::mem::take(&mut self.gradient);
        if self.gradient_is_zero {
            gradient.fill(0.0);
        }
        let outcome = self.apply_gradient(&gradient, micro_batches, step);
        self.gradient = gradient;
        outcome
    }

    /// Loss and hits of `sequences` rows of `sequence_length + 1` tokens, in pieces
    /// of a micro-batch. They do not depend on how rows are grouped.
    ///
    /// # Errors
    /// As [`Engine::accumulate_gradient`].
    pub fn evaluate(&mut self, tokens: &[u32], sequences: usize) -> Result<Evaluation, EngineError> {
        let batch = checked_batch(&self.config, &self.spec, tokens, sequences)?;
        self.prepare(batch.length, false);
        let (model, workspace) = self.model();
        let mut sum = Evaluation::default();
        for tokens in tokens.chunks(model.spec.micro_batch_sequences * (batch.length + 1)) {
            let batch = Batch { sequences: tokens.len() / (batch.length + 1), ..batch };
            let (inputs, targets) = split_targets(tokens, batch.length);
            let judged = model.pool.install(|| {
                model.forward(workspace, &inputs, batch, Purpose::Evaluate)?;
                judge(model.simd, &mut workspace.logits, &targets)
                    .ok_or(EngineError::Range { op: "cross_entropy", layer: None })
            })?;
            let loss = LossSum { fixed: judged.fixed, tokens: batch.tokens() as u64 };
            sum = sum + Evaluation { loss, hits: judged.hits };
        }
        Ok(sum)
    }

    /// The logits of the token after `context`, which has 1 to
    /// `max_position_embeddings` tokens.
    ///
    /// # Errors
    /// A context that is empty or too long, tokens outside of the vocabulary, or
    /// an op that leaves the range of the arithmetic.
    pub fn next_token_logits(&mut self, context: &[u32]) -> Result<Vec<f32>, EngineError> {
        check_context(&self.config, context)?;
        let batch = Batch { sequences: 1, length: context.len() };
        self.prepare(batch.length, false);
        let (model, workspace) = self.model();
        model.pool.install(|| model.forward(workspace, context, batch, Purpose::NextToken))?;
        Ok(workspace.logits.clone())
    }

    /// blake3 of the parameters: equal on all peers of a run after every step.
    pub fn parameter_hash(&self) -> [u8; 32] {
        hash_vectors(PARAMETER_CONTEXT, &[&self.parameters])
    }

    /// blake3 of first and second moments.
    pub fn optimizer_hash(&self) -> [u8; 32] {
        hash_vectors(OPTIMIZER_CONTEXT, &[&self.first_moment, &self.second_moment])
    }

    /// Where the time went since this was asked last, on the clock.
    pub fn take_profile(&mut self) -> Profile {
        self.laps.take()
    }

    /// Makes tables and packed weights ready for a pass.
    fn prepare(&mut self, length: usize, with_backward: bool) {
        self.rotary.extend_to(length);
        self.laps.start();
        let Self { weights, parameters, simd, spec, pool, .. } = self;
        pool.install(|| weights.pack(*simd, parameters, spec.weight_digits.into(), with_backward));
        self.laps.end(OpClass::PackWeights);
    }

    fn model(&mut self) -> (Model<'_>, &mut Workspace) {
        let model = Model {
            config: &self.config,
            spec: &self.spec,
            parameters: &self.parameters,
            weights: &self.weights,
            rotary: &self.rotary,
            pool: &self.pool,
            simd: self.simd,
            laps: &self.laps,
        };
        (model, &mut self.workspace)
    }
}
