//! [`GpuEngine`]: the engine of `model/engine.rs` with everything on a device.
//!
//! Each call submits once and reads back once; [`GpuEngine::train_steps`] does so for
//! a whole sequence of steps. A call that fails has changed neither parameters nor
//! optimiser state nor the accumulated gradient, unless the device itself was lost,
//! and then all of them with it.

mod replay;
mod work;

use super::compile::Pipelines;
use super::memory;
use super::model::Model;
use super::muon::Orthogonalizer;
use super::pass::{Passes, SLOTS};
use super::program::Program;
use crate::admission::AdmittedDevice;
use crate::arithmetic::canon;
use crate::buffers::{Buffer, bits, floats};
use crate::cpu::adamw::NORM_BLOCK;
use crate::cpu::embedding::Segments;
use crate::cpu::pack::Along;
use crate::cpu::rope::Rotary;
use crate::device::{Device, DeviceError, DeviceReport};
use crate::error::EngineError;
use crate::model::config::ModelConfig;

use crate::model::init::initialize;
use crate::model::layout::Layout;
use crate::model::muon::Shape;
use crate::model::options::{MemoryPlan, Recompute};
use crate::model::state::{OPTIMIZER_CONTEXT, PARAMETER_CONTEXT, TrainingState, hash_vectors};
use crate::reduce::check;
use crate::spec::{ArithmeticSpec, OptimizerConfig, OptimizerKind};
use replay::ReplayMemory;

/// Trains one model on a graphics device, bit for bit as [`crate::Engine`] does.
pub struct GpuEngine {
    device: Device,
    pipelines: Pipelines,
    optimizer: OptimizerConfig,
    layout: Layout,
    model: Model,
    rotary: Rotary,
    first_moment: Buffer,
    second_moment: Buffer,
    gradient: Buffer,
    /// The gradient under way, or one that came from outside.
    micro_gradient: Buffer,
    norm_sums: Buffer,
    /// Norm and scale of the gradient.
    scale: Buffer,
    /// Where the optimiser needs one.
    orthogonalizer: Option<Orthogonalizer>,
    flags: Buffer,
    pack_forward: Program,
    pack_backward: Program,
    optimizer_program: Option<OptimizerProgram>,
    replay: ReplayMemory,
    passes: Passes,
    segments: Segments,
    forward_packed: bool,
    backward_packed: bool,
    /// The gradient counts as zero whatever the device holds.
    gradient_is_zero: bool,
    recompute: Recompute,
    /// What that comes to on this device.
    recomputes: bool,
}

/// The dispatches of an optimiser step, whose numbers are those of the last one.
struct OptimizerProgram {
    /// With the accumulated gradient, not with one from outside.
    own: bool,
    program: Program,
}

impl GpuEngine {
    /// Allocates a model with all parameters zero; call [`GpuEngine::initialize`]
    /// or [`GpuEngine::load_parameters`] next.
    ///
    /// # Errors
    /// A field out of range, or a device that is lost, has less memory than training takes, binds
    /// less at once than a tensor of the model has, or runs shorter loops than it needs.
    pub fn new(
        model: ModelConfig,
        optimizer: OptimizerConfig,
        arithmetic: ArithmeticSpec,
        device: &AdmittedDevice,
    ) -> Result<Self, EngineError> {
        Self::with_recompute(model, optimizer, arithmetic, device, Recompute::Auto)
    }

    /// [`GpuEngine::new`] with a choice about activations. Left to itself, the engine computes
    /// them again where the device has too little memory, or turns out to have.
    ///
    /// # Errors
    /// As [`GpuEngine::new`].
    pub fn with_recompute(
        model: ModelConfig,
        optimizer: OptimizerConfig,
        arithmetic: ArithmeticSpec,
        device: &AdmittedDevice,
        recompute: Recompute,
    ) -> Result<Self, EngineError> {
        model.validate()?;
        arithmetic.validate(&model)?;
        device.check_axes(&model, &arithmetic)?;
        Self::with_pipelines(model, optimizer, arithmetic, device.pipelines(), recompute)
    }

    /// What training takes of a device's memory, and whether activations are then computed again.
    ///
    /// # Errors
    /// A tensor that is larger than the device's buffers or bindings, or more in all than its memory.
    pub fn memory_plan(
        model: &ModelConfig,
        arithmetic: &ArithmeticSpec,
        optimizer: OptimizerKind,
        device: &DeviceReport,
        recompute: Recompute,
    ) -> Result<MemoryPlan, DeviceError> {
        memory::plan(model, (arithmetic, optimizer), device, recompute)
    }

    /// Whether activations are computed again on the way back.
    pub fn recomputes(&self) -> bool {
        self.recomputes
    }

    /// Allocates a model with all parameters zero on the device of these kernels.
    pub(crate) fn with_pipelines(
        config: ModelConfig,
        optimizer: OptimizerConfig,
        spec: ArithmeticSpec,
        mut pipelines: Pipelines,
        recompute: Recompute,
    ) -> Result<Self, EngineError> {
        let device = &pipelines.device.clone();
        config.validate()?;
        spec.validate(&config)?;
        optimizer.validate()?;
        let plan = memory::plan(&config, (&spec, optimizer.kind), device.report(), recompute)?;
        let layout = Layout::new(&config);
        let angles = device.allocate("rotary angles", config.max_position_embeddings * config.head_dim)?;
        let model = Model::new(device, &config, &spec, &layout, angles)?;
        let flags = device.allocate("check flags", SLOTS)?;
        let pack_forward = model.pack_weights(&mut pipelines, &flags, Along::Rows)?;
        let pack_backward = model.pack_weights(&mut pipelines, &flags, Along::Columns)?;
        let shapes = Shape::all(optimizer.kind, &layout).map(|(_, shape)| shape);
        let orthogonalizer = Orthogonalizer::new(device, &mut pipelines, shapes)?;
        let vector = |tensor| device.allocate_large(tensor, layout.len());
        Ok(Self {
            device: device.clone(),
            pipelines,
            optimizer,
            rotary: Rotary::of(&config),
            first_moment: vector("first moment")?,
            second_moment: vector("second moment")?,
            gradient: vector("gradient")?,
            micro_gradient: vector("gradient of a micro-batch")?,
            norm_sums: device.allocate("norm sums", layout.len().div_ceil(NORM_BLOCK))?,
            scale: device.allocate("gradient scale", 2)?,
            orthogonalizer,
            flags,
            pack_forward,
            pack_backward,
            optimizer_program: None,
            replay: ReplayMemory::default(),
            passes: Passes::default(),
            segments: Segments::default(),
            forward_packed: false,
            backward_packed: false,
            gradient_is_zero: true,
            recompute,
            recomputes: plan.recomputes,
            layout,
            model,
        })
    }

    /// Sets the parameters to the Gaussian initial values of `run_seed`, and
    /// optimiser state and gradient to zero.
    ///
    /// # Errors
    /// The device was lost.
    pub fn initialize(&mut self, run_seed: [u8; 32]) -> Result<(), EngineError> {
        let mut parameters = vec![0.0; self.layout.len()];
        initialize(&self.model.config, &self.layout, &run_seed, &mut parameters);
        self.write_parameters(&parameters, true)
    }

    /// Sets the parameters to `flat` (in the order of [`GpuEngine::layout`],
    /// canonised), and optimiser state and gradient to zero.
    ///
    /// # Errors
    /// A wrong length, an element that is not a number under 2⁴⁰, or a lost device.
    pub fn load_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
        let flat = self.checked_parameters(flat)?;
        self.write_parameters(&flat, true)
    }

    /// Sets the parameters to `flat` (canonised) and the gradient to zero, but
    /// keeps the optimiser state: a member of a run does so after each outer step.
    ///
    /// # Errors
    /// A wrong length, an element that is not a number under 2⁴⁰, or a lost device.
    pub fn set_parameters(&mut self, flat: Vec<f32>) -> Result<(), EngineError> {
        let flat = self.checked_parameters(flat)?;
        self.write_parameters(&flat, false)
    }

    fn checked_parameters(&self, mut flat: Vec<f32>) -> Result<Vec<f32>, EngineError> {
        self.check_length("parameters", flat.len())?;
        check("parameters", &flat)?;
        flat.iter_mut().for_each(|value| *value = canon(*value));
        Ok(flat)
    }

    /// Parameters and moments, read back from the device.
    ///
    /// # Errors
    /// The device was lost.
    pub fn state(&self) -> Result<TrainingState, EngineError> {
        let vectors = [&self.model.parameters, &self.first_moment, &self.second_moment];
        let contents =
            self.device.submit_and_read(self.device.encoder(), &vectors.map(|vector| (vector, vector.len)))?;
        let [parameters, first_moment, second_moment] = [0, 1, 2].map(|place| floats(&contents[place]));
        Ok(TrainingState { parameters, first_moment, second_moment })
    }

    /// Goes on from `state`, which an engine of the same model gave; the
    /// gradient is forgotten.
    ///
    /// # Errors
    /// A wrong length, an element that no step leaves behind, or a lost device.
    pub fn load_state(&mut self, state: &TrainingState) -> Result<(), EngineError> {
        state.check(&self.layout, self.optimizer.kind)?;
        self.device.check()?;
        self.device.write(&self.model.parameters, &bits(&state.parameters));
        self.device.write(&self.first_moment, &bits(&state.first_moment));
        self.device.write(&self.second_moment, &bits(&state.second_moment));
        self.gradient_is_zero = true;
        self.parameters_changed();
        Ok(self.device.check()?)
    }

    fn write_parameters(&mut self, parameters: &[f32], clear_moments: bool) -> Result<(), EngineError> {
        self.device.check()?;
        self.device.write(&self.model.parameters, &bits(parameters));
        if clear_moments {
            let mut encoder = self.device.encoder();
            encoder.clear_buffer(&self.first_moment.raw, 0, None);
            encoder.clear_buffer(&self.second_moment.raw, 0, None);
            self.device.submit(encoder);
        }
        self.gradient_is_zero = true;
        self.parameters_changed();
        Ok(self.device.check()?)
    }

    fn parameters_changed(&mut self) {
        self.forward_packed = false;
        self.backward_packed = false;
    }

    fn check_length(&self, what: &'static str, found: usize) -> Result<(), EngineError> {
        if found == self.layout.len() {
            return Ok(());
        }
        Err(EngineError::Length { what, expected: self.layout.len().to_string(), found })
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The arithmetic specification.
    pub fn arithmetic(&self) -> &ArithmeticSpec {
        &self.model.spec
    }

    /// Where each tensor lies in the flat vectors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All parameters, flat, read back from the device.
    ///
    /// # Errors
    /// The device was lost.
    pub fn parameters(&self) -> Result<Vec<f32>, EngineError> {
        Ok(floats(&self.device.read(&self.model.parameters)?))
    }

    /// The accumulated gradient, flat, read back from the device: the sum over
    /// micro-batches of the gradient of each one's mean token loss.
    ///
    /// # Errors
    /// The device was lost.
    pub fn gradient(&self) -> Result<Vec<f32>, EngineError> {
        if self.gradient_is_zero {
            return Ok(vec![0.0; self.layout.len()]);
        }
        Ok(floats(&self.device.read(&self.gradient)?))
    }

    /// Forgets the accumulated gradient.
    pub fn zero_gradient(&mut self) {
        self.gradient_is_zero = true;
    }

    /// blake3 of the parameters: equal on all peers of a run after every step.
    ///
    /// # Errors
    /// The device was lost.
    pub fn parameter_hash(&self) -> Result<[u8; 32], EngineError> {
        Ok(hash_vectors(PARAMETER_CONTEXT, &[&self.parameters()?]))
    }

    /// blake3 of first and second moments.
    ///
    /// # Errors
    /// The device was lost.
    pub fn optimizer_hash(&self) -> Result<[u8; 32], EngineError> {
        let (first, second) = (&self.first_moment, &self.second_moment);
        let contents =
            self.device.submit_and_read(self.device.encoder(), &[(first, first.len), (second, second.len)])?;
        Ok(hash_vectors(OPTIMIZER_CONTEXT, &[&floats(&contents[0]), &floats(&contents[1])]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::software_adapter;
    use crate::gpu::kernel::{Form, Kernel};
    use crate::gpu::tiling::Tiling;
    use crate::model::step::{MicroBatchKey, StepNumbers};
    use std::sync::atomic::Ordering::Relaxed;

    fn config() -> ModelConfig {
        ModelConfig {
            vocab_size: 7,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 4,
            max_position_embeddings: 8,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.05,
        }
    }

    fn engine(device: &Device) -> GpuEngine {
        engine_of(device, 1, Recompute::Auto)
    }

    fn engine_of(device: &Device, num_hidden_layers: usize, recompute: Recompute) -> GpuEngine {
        let config = ModelConfig { num_hidden_layers, ..config() };
        let spec = ArithmeticSpec { micro_batch_sequences: 1, sequence_length: 4, ..ArithmeticSpec::default() };
        let pipelines = Pipelines::new(device.clone(), Form::default(), Vec::new(), None);
        let mut engine =
            GpuEngine::with_pipelines(config, OptimizerConfig::default(), spec, pipelines, recompute).unwrap();
        engine.initialize([1; 32]).unwrap();
        engine
    }

    #[test]
    fn activations_are_computed_again_once_memory_has_run_out() {
        let Some(device) = software_adapter() else { return };
        let step = |engine: &mut GpuEngine| {
            let loss = engine.accumulate_gradient(&[1, 2, 3, 4, 5], 1, &KEY)?;
            let report = engine.apply_own_gradient(1, StepNumbers::in_order(0))?;
            Ok::<_, EngineError>((loss, report, engine.parameter_hash()?))
        };
        let expected = step(&mut engine_of(&device, 3, Recompute::Never)).unwrap();
        let mut tight = engine_of(&device, 3, Recompute::Auto);
        let mut strict = engine_of(&device, 3, Recompute::Never);
        assert!(!tight.recomputes());
        device.allocations_left.store(9, Relaxed);
        assert_eq!(step(&mut tight), Ok(expected));
        assert!(tight.recomputes());
        device.allocations_left.store(9, Relaxed);
        let refused = step(&mut strict);
        assert!(matches!(refused, Err(EngineError::Device(DeviceError::OutOfMemory { .. }))), "{refused:?}");
        assert_eq!(step(&mut strict), Ok(expected), "nothing was changed");
    }

    const KEY: MicroBatchKey = MicroBatchKey { run_seed: [1; 32], step: 0, micro_batch: 0 };

    #[test]
    fn work_that_is_cut_into_parts_gives_the_same_bits() {
        let Some(device) = software_adapter() else { return };
        let step = |engine: &mut GpuEngine| {
            let before = device.activity().submissions;
            let loss = engine.accumulate_gradient(&[1, 2, 3, 4, 5], 1, &KEY).unwrap();
            let report = engine.apply_own_gradient(1, StepNumbers::in_order(0)).unwrap();
            let hashes = (engine.parameter_hash().unwrap(), engine.optimizer_hash().unwrap());
            ((loss, report, hashes), device.activity().submissions - before)
        };
        let (whole, few) = step(&mut engine(&device));
        // A quarter of a second is a few thousand operations now.
        device.pace.set(20_000);
        let mut slow = engine(&device);
        let (cut, many) = step(&mut slow);
        assert_eq!(cut, whole);
        assert!(many > few + 2, "{many} submissions instead of {few}");
        let pieces = |engine: &GpuEngine| engine.passes.last().map_or(0, |pass| pass.program.steps.len());
        device.pace.set(200_000_000);
        let mut quick = engine(&device);
        step(&mut quick);
        assert!(pieces(&slow) > pieces(&quick), "{} dispatches instead of {}", pieces(&slow), pieces(&quick));
    }

    #[test]
    fn sums_in_parts_give_the_same_bits() {
        let Some(device) = software_adapter() else { return };
        let config = ModelConfig { hidden_size: 40, intermediate_size: 24, num_attention_heads: 2, ..config() };
        let config = ModelConfig { max_position_embeddings: 40, ..config };
        let spec = ArithmeticSpec { micro_batch_sequences: 2, sequence_length: 40, ..ArithmeticSpec::default() };
        let tokens: Vec<u32> = (0..2 * 41).map(|place| place * place % 7).collect();
        let train = |splits| {
            let mut pipelines = Pipelines::new(device.clone(), Form::default(), Vec::new(), None);
            pipelines.forced = Some(Tiling { splits, ..Tiling::DEFAULT });
            let optimizer = OptimizerConfig::default();
            let mut engine =
                GpuEngine::with_pipelines(config.clone(), optimizer, spec.clone(), pipelines, Recompute::Auto).unwrap();
            engine.initialize([1; 32]).unwrap();
            let mut losses = Vec::new();
            for step in 0..2 {
                losses.push(engine.accumulate_gradient(&tokens, 2, &MicroBatchKey { step, ..KEY }).unwrap());
                engine.apply_own_gradient(1, StepNumbers::in_order(step)).unwrap();
            }
            let kernels = engine
                .passes
                .last()
                .map_or(0, |pass| pass.program.steps.iter().filter(|step| step.kernel == Kernel::MatmulSum).count());
            (losses, engine.parameter_hash().unwrap(), engine.optimizer_hash().unwrap(), kernels)
        };
        let whole = train(1);
        assert_eq!(whole.3, 0);
        // Forward, way back and weight gradient of five linear maps, as far as the sums find space: in
        // three parts those of gate and up do not. There may be more parts than pieces of 16.
        for (splits, least) in [(2, 15), (3, 14), (16, 4)] {
            let (losses, parameters, optimizer, kernels) = train(splits);
            assert_eq!((&losses, parameters, optimizer), (&whole.0, whole.1, whole.2), "{splits} parts");
            assert!((least..=15).contains(&kernels), "{kernels} products in {splits} parts");
        }
    }

    #[test]
    fn a_lost_device_is_an_error_and_no_panic() {
        let Some(device) = software_adapter() else { return };
        let mut engine = engine(&device);
        let tokens = [1, 2, 3, 4, 5];
        engine.accumulate_gradient(&tokens, 1, &KEY).unwrap();
        device.device.destroy();
        let lost = |error: Option<EngineError>| {
            assert!(matches!(error, Some(EngineError::Device(DeviceError::Lost { .. }))), "{error:?}");
        };
        lost(engine.accumulate_gradient(&tokens, 1, &KEY).err());
        lost(engine.apply_own_gradient(1, StepNumbers::in_order(0)).err());
        lost(engine.evaluate(&tokens, 1).err());
        lost(engine.parameters().err());
        lost(engine.initialize([2; 32]).err());
    }
}
