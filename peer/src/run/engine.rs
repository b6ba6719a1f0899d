//! The engine of a run, on whatever computes; it outlives its device.
//!
//! A device may go at any moment, with all that it holds. So next to an engine
//! on a device, the host keeps a [`Past`]: parameters and moments as they were a
//! few steps ago, and the gradient sums of the steps since, which came through
//! the host anyway. When the device fails, the native engine is set to the
//! former and takes the optimiser's steps with the latter: element-wise work of
//! milliseconds that gives the very bits that the device held. Then what has
//! failed is done again natively.
//!
//! Where members take steps of their own, the past is where they began, and
//! also what [`RunEngine::rewind`] goes back to.

use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::arithmetic::canon;
use manta_gpu_kernels::device::DeviceError;
use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineError, EngineOptions, Evaluation, GpuEngine, LocalStep, LocalTraining, LossSum,
    MicroBatchKey, ModelConfig, OptimizerConfig, Recompute, StepNumbers, StepReport, TrainingEngine as _,
    TrainingState,
};
use std::borrow::Cow;

/// Optimiser steps after which parameters and moments are read back. Reading
/// moves 12 bytes a parameter, so 3 a step, beside 8 for gradient and sum.
const PAST_STEPS: usize = 4;

/// How this machine computes: a choice of its owner, which changes no bit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Means {
    /// Of the native engine, 0 for all.
    pub(crate) threads: usize,
    /// Whether activations are computed again on the way back.
    pub(crate) recompute: Recompute,
}

/// What an engine is built from.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) model: ModelConfig,
    pub(crate) optimizer: OptimizerConfig,
    pub(crate) arithmetic: ArithmeticSpec,
    /// Of the native engine; what they say of activations holds for devices, too.
    pub(crate) options: EngineOptions,
}

impl Recipe {
    fn native(&self) -> Result<Engine, EngineError> {
        Engine::new(self.model.clone(), self.optimizer.clone(), self.arithmetic.clone(), self.options.clone())
    }

    /// The engine on `device`, or the native one where there is none.
    ///
    /// # Errors
    /// A field out of range, too little memory, or a device that fails.
    pub(crate) fn build(&self, device: Option<&AdmittedDevice>) -> Result<AnyEngine, EngineError> {
        let engine = match device {
            None => AnyEngine::Native(Box::new(self.native()?)),
            Some(device) => {
                let (model, optimizer, arithmetic) =
                    (self.model.clone(), self.optimizer.clone(), self.arithmetic.clone());
                let recompute = self.options.recompute;
                let engine = GpuEngine::with_recompute(model, optimizer, arithmetic, device, recompute)?;
                AnyEngine::Gpu(Box::new(engine))
            }
        };
        if engine.recomputes() {
            tracing::info!(choice = %self.options.recompute, "activations are computed again on the way back");
        }
        Ok(engine)
    }
}

/// Either engine; both give the same bits.
pub(crate) enum AnyEngine {
    Native(Box<Engine>),
    Gpu(Box<GpuEngine>),
}

impl AnyEngine {
    fn recomputes(&self) -> bool {
        match self {
            Self::Native(engine) => engine.recomputes(),
            Self::Gpu(engine) => engine.recomputes(),
        }
    }

    pub(crate) fn initialize(&mut self, run_seed: [u8; 32]) -> Result<(), EngineError> {
        match self {
            Self::Native(engine) => engine.initialize(run_seed),
            Self::Gpu(engine) => engine.initialize(run_seed)?,
        }
        Ok(())
    }

    pub(crate) fn set_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
        match self {
            Self::Native(engine) => engine.set_parameters(flat),
            Self::Gpu(engine) => engine.set_parameters(flat),
        }
    }

    fn state(&self) -> Result<TrainingState, EngineError> {
        match self {
            Self::Native(engine) => Ok(engine.state()),
            Self::Gpu(engine) => engine.state(),
        }
    }

    fn load_state(&mut self, state: &TrainingState) -> Result<(), EngineError> {
        match self {
            Self::Native(engine) => engine.load_state(state.clone()),
            Self::Gpu(engine) => engine.load_state(state),
        }
    }

    pub(crate) fn load_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
        match self {
            Self::Native(engine) => engine.load_parameters(flat),
            Self::Gpu(engine) => engine.load_parameters(flat),
        }
    }

    /// All parameters, flat.
    pub(crate) fn parameters(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        match self {
            Self::Native(engine) => Ok(engine.parameters().into()),
            Self::Gpu(engine) => Ok(engine.parameters()?.into()),
        }
    }

    /// The accumulated gradient, flat.
    pub(crate) fn gradient(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        match self {
            Self::Native(engine) => Ok(engine.gradient()),
            Self::Gpu(engine) => Ok(engine.gradient()?.into()),
        }
    }

    pub(crate) fn zero_gradient(&mut self) {
        match self {
            Self::Native(engine) => engine.zero_gradient(),
            Self::Gpu(engine) => engine.zero_gradient(),
        }
    }

    pub(crate) fn accumulate_gradient(
        &mut self,
        tokens: &[u32],
        sequences: usize,
        key: &MicroBatchKey,
    ) -> Result<LossSum, EngineError> {
        match self {
            Self::Native(engine) => engine.accumulate_gradient(tokens, sequences, key),
            Self::Gpu(engine) => engine.accumulate_gradient(tokens, sequences, key),
        }
    }

    fn apply_gradient(
        &mut self,
        sum: &[f32],
        micro_batches: u32,
        step: StepNumbers,
    ) -> Result<StepReport, EngineError> {
        match self {
            Self::Native(engine) => engine.apply_gradient(sum, micro_batches, step),
            Self::Gpu(engine) => engine.apply_gradient(sum, micro_batches, step),
        }
    }

    /// Takes steps with own gradients; a device is not waited for in between.
    pub(crate) fn train_steps(&mut self, steps: &[LocalStep<'_>]) -> Result<LocalTraining, EngineError> {
        match self {
            Self::Native(engine) => engine.train_steps(steps),
            Self::Gpu(engine) => engine.train_steps(steps),
        }
    }

    pub(crate) fn evaluate(&mut self, tokens: &[u32], sequences: usize) -> Result<Evaluation, EngineError> {
        match self {
            Self::Native(engine) => engine.evaluate(tokens, sequences),
            Self::Gpu(engine) => engine.evaluate(tokens, sequences),
        }
    }

    pub(crate) fn next_token_logits(&mut self, context: &[u32]) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Native(engine) => engine.next_token_logits(context),
            Self::Gpu(engine) => engine.next_token_logits(context),
        }
    }

    pub(crate) fn parameter_hash(&self) -> Result<[u8; 32], EngineError> {
        match self {
            Self::Native(engine) => Ok(engine.parameter_hash()),
            Self::Gpu(engine) => engine.parameter_hash(),
        }
    }
}

/// An optimiser step that was taken.
struct Taken {
    step: StepNumbers,
    micro_batches: u32,
    sum: Vec<f32>,
}

/// What an engine's state can be computed from again.
#[derive(Default)]
struct Past {
    /// `None`: the initial values of the seed.
    base: Option<TrainingState>,
    /// The steps since.
    steps: Vec<Taken>,
}

/// The engine of one run; see the module.
pub(crate) struct RunEngine {
    recipe: Recipe,
    run_seed: [u8; 32],
    engine: AnyEngine,
    past: Past,
    /// Why the device was given up, until somebody asks.
    trouble: Option<DeviceError>,
}

impl RunEngine {
    /// The engine with these parameters, or with the initial values of the seed,
    /// on `device` if it takes this model.
    ///
    /// # Errors
    /// A field out of range, too little memory for the native engine, too, or
    /// parameters of another model.
    pub(crate) fn new(
        recipe: Recipe,
        device: Option<&AdmittedDevice>,
        run_seed: [u8; 32],
        initial: Option<Vec<f32>>,
    ) -> Result<Self, EngineError> {
        let base = initial.map(|initial| {
            let moments = || vec![0.0; initial.len()];
            let parameters = initial.iter().map(|value| canon(*value)).collect();
            TrainingState { parameters, first_moment: moments(), second_moment: moments() }
        });
        let start = |mut engine: AnyEngine| {
            match &base {
                Some(state) => engine.load_state(state)?,
                None => engine.initialize(run_seed)?,
            }
            Ok(engine)
        };
        let (engine, trouble) = match recipe.build(device).and_then(start) {
            Err(EngineError::Device(trouble)) => (start(recipe.build(None)?)?, Some(trouble)),
            started => (started?, None),
        };
        Ok(Self { recipe, run_seed, engine, past: Past { base, steps: Vec::new() }, trouble })
    }

    /// Why the device was given up, told once.
    pub(crate) fn take_trouble(&mut self) -> Option<DeviceError> {
        self.trouble.take()
    }

    /// Whether the processor computes.
    pub(crate) fn is_native(&self) -> bool {
        matches!(self.engine, AnyEngine::Native(_))
    }

    /// Does `work`; if the device fails, does all of it again natively.
    ///
    /// `work` must begin anew whenever it is called: nothing but parameters
    /// and moments outlives a device, and of these what was settled or came by
    /// [`Self::apply_gradient`].
    ///
    /// # Errors
    /// The work's own, or that the machine cannot go on natively.
    pub(crate) fn run<T>(
        &mut self,
        mut work: impl FnMut(&mut AnyEngine) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        match work(&mut self.engine) {
            Err(EngineError::Device(trouble)) => {
                self.fall_back(trouble)?;
                work(&mut self.engine)
            }
            outcome => outcome,
        }
    }

    /// Takes the optimiser step of these numbers.
    ///
    /// # Errors
    /// A sum or an update out of range, or a machine that cannot go on natively.
    pub(crate) fn apply_gradient(
        &mut self,
        sum: &[f32],
        micro_batches: u32,
        step: StepNumbers,
    ) -> Result<(), EngineError> {
        self.run(|engine| engine.apply_gradient(sum, micro_batches, step))?;
        let AnyEngine::Gpu(engine) = &self.engine else {
            self.past = Past::default();
            return Ok(());
        };
        self.past.steps.push(Taken { step, micro_batches, sum: sum.to_vec() });
        if self.past.steps.len() < PAST_STEPS {
            return Ok(());
        }
        match engine.state() {
            Ok(state) => self.past = Past { base: Some(state), steps: Vec::with_capacity(PAST_STEPS) },
            Err(EngineError::Device(trouble)) => self.fall_back(trouble)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Parameters and moments.
    ///
    /// # Errors
    /// A machine that cannot go on natively after its device has failed.
    pub(crate) fn state(&mut self) -> Result<TrainingState, EngineError> {
        self.run(|engine| engine.state())
    }

    /// Goes on from `state`.
    ///
    /// # Errors
    /// The state of another model, or one that no step leaves behind; or as [`Self::run`].
    pub(crate) fn load_state(&mut self, state: TrainingState) -> Result<(), EngineError> {
        self.run(|engine| engine.load_state(&state))?;
        self.past = Past { base: (!self.is_native()).then_some(state), steps: Vec::new() };
        Ok(())
    }

    /// Remembers this state as the one to [go back](Self::rewind) to.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn settle(&mut self) -> Result<(), EngineError> {
        self.past = Past { base: Some(self.state()?), steps: Vec::new() };
        Ok(())
    }

    /// Goes back to where it was last [settled](Self::settle); to the initial values if it never was.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn rewind(&mut self) -> Result<(), EngineError> {
        let base = self.past.base.take();
        let seed = self.run_seed;
        let outcome = self.run(|engine| match &base {
            Some(state) => engine.load_state(state),
            None => engine.initialize(seed),
        });
        self.past.base = base;
        outcome
    }

    /// Goes on natively from the past.
    fn fall_back(&mut self, trouble: DeviceError) -> Result<(), EngineError> {
        self.trouble = Some(trouble);
        let mut native = self.recipe.native()?;
        match &self.past.base {
            Some(state) => native.load_state(state.clone())?,
            None => native.initialize(self.run_seed),
        }
        for Taken { step, micro_batches, sum } in self.past.steps.drain(..) {
            native.apply_gradient(&sum, micro_batches, step)?;
        }
        self.engine = AnyEngine::Native(Box::new(native));
        Ok(())
    }
}
