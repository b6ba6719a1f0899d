//! [`GpuEngine`]: the engine of `model/engine.rs` with everything on a device.
//!
//! Each call submits once and reads back once. A call that fails has changed
//! neither parameters nor optimiser state nor the accumulated gradient, unless
//! the device itself was lost, and then all of them with it.

use super::kernel::{Form, Pipelines};
use super::model::Model;
use super::ops::adamw::State;
use super::optimizer;
use super::pass::{GradientBuffers, Passes, SLOTS, outcome};
use super::program::Program;
use super::workspace::Extent;
use crate::admission::AdmittedDevice;
use crate::arithmetic::canon;
use crate::buffers::{Buffer, bits, floats};
use crate::cpu::adamw::NORM_BLOCK;
use crate::cpu::embedding::Segments;
use crate::cpu::pack::Along;
use crate::cpu::rope::Rotary;
use crate::device::Device;
use crate::error::EngineError;
use crate::model::config::ModelConfig;
use crate::model::engine::{
    OPTIMIZER_CONTEXT, PARAMETER_CONTEXT, check_context, check_sequences, checked_batch, hash_vectors, split_targets,
};
use crate::model::forward::{Batch, Purpose};
use crate::model::init::initialize;
use crate::model::layout::Layout;
use crate::model::state::TrainingState;
use crate::model::step::{
    Evaluation, LAYER_SITES, LossSum, MicroBatchKey, OpKeys, RoundingSite, StepNumbers, StepReport,
};
use crate::reduce::check;
use crate::spec::{ArithmeticSpec, OptimizerConfig};

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
    flags: Buffer,
    pack_forward: Program,
    pack_backward: Program,
    passes: Passes,
    segments: Segments,
    forward_packed: bool,
    backward_packed: bool,
    /// The gradient counts as zero whatever the device holds.
    gradient_is_zero: bool,
}

impl GpuEngine {
    /// Allocates a model with all parameters zero; call [`GpuEngine::initialize`]
    /// or [`GpuEngine::load_parameters`] next.
    ///
    /// # Errors
    /// A field out of range, or a device that is lost, out of memory, binds less
    /// at once than a tensor of the model has, or runs shorter loops than it needs.
    pub fn new(
        model: ModelConfig,
        optimizer: OptimizerConfig,
        arithmetic: ArithmeticSpec,
        device: &AdmittedDevice,
    ) -> Result<Self, EngineError> {
        model.validate()?;
        arithmetic.validate(&model)?;
        device.check_axes(&model, &arithmetic)?;
        Self::with_form(model, optimizer, arithmetic, device.device(), device.forms())
    }

    /// Allocates a model with all parameters zero on a device whose kernels are compiled in this form.
    pub(crate) fn with_form(
        config: ModelConfig,
        optimizer: OptimizerConfig,
        spec: ArithmeticSpec,
        device: &Device,
        (form, soft_kernels): (Form, Vec<&'static str>),
    ) -> Result<Self, EngineError> {
        config.validate()?;
        spec.validate(&config)?;
        optimizer.validate()?;
        let layout = Layout::new(&config);
        let mut pipelines = Pipelines::new(device.clone(), form, soft_kernels);
        let angles = device.allocate("rotary angles", config.max_position_embeddings * config.head_dim)?;
        let model = Model::new(device, &config, &spec, &layout, angles)?;
        let flags = device.allocate("check flags", SLOTS)?;
        let pack_forward = model.pack_weights(&mut pipelines, &flags, Along::Rows)?;
        let pack_backward = model.pack_weights(&mut pipelines, &flags, Along::Columns)?;
        let vector = |tensor| device.allocate(tensor, layout.len());
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
            flags,
            pack_forward,
            pack_backward,
            passes: Passes::default(),
            segments: Segments::default(),
            forward_packed: false,
            backward_packed: false,
            gradient_is_zero: true,
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
    /// A wrong length, an element that is not a number under 2⁴⁰, or a lost device.
    pub fn load_state(&mut self, state: &TrainingState) -> Result<(), EngineError> {
        state.check(&self.layout)?;
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

    /// Adds the gradient of one micro-batch and returns its loss; see
    /// [`crate::Engine::accumulate_gradient`].
    ///
    /// # Errors
    /// As there, or a device that is lost or out of memory.
    pub fn accumulate_gradient(
        &mut self,
        tokens: &[u32],
        sequences: usize,
        key: &MicroBatchKey,
    ) -> Result<LossSum, EngineError> {
        check_sequences(&self.model.spec, sequences)?;
        let batch = checked_batch(&self.model.config, &self.model.spec, tokens, sequences)?;
        let (inputs, targets) = split_targets(tokens, batch.length);
        self.device.write(&self.model.keys, &self.site_keys(key));
        let (losses, _) = self.run(&inputs, &targets, batch, Purpose::Train)?;
        Ok(loss_sum(&losses))
    }

    /// Takes the optimiser step of these numbers with the sum of the gradients of
    /// `micro_batches` micro-batches, and forgets the accumulated gradient.
    ///
    /// # Errors
    /// As [`crate::Engine::apply_gradient`], or a lost device.
    pub fn apply_gradient(
        &mut self,
        gradient_sum: &[f32],
        micro_batches: u32,
        step: StepNumbers,
    ) -> Result<StepReport, EngineError> {
        self.check_length("gradient_sum", gradient_sum.len())?;
        check("gradient_sum", gradient_sum)?;
        self.device.write(&self.micro_gradient, &bits(gradient_sum));
        self.apply(self.micro_gradient.clone(), micro_batches, step)
    }

    /// [`GpuEngine::apply_gradient`] with the gradient accumulated here, which
    /// does not leave the device.
    ///
    /// # Errors
    /// As [`GpuEngine::apply_gradient`].
    pub fn apply_own_gradient(&mut self, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError> {
        self.apply(self.gradient.clone(), micro_batches, step)
    }

    fn apply(&mut self, gradient: Buffer, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError> {
        if micro_batches == 0 {
            return Err(EngineError::Length { what: "micro_batches", expected: "at least 1".into(), found: 0 });
        }
        let state = State {
            gradient,
            scale: self.scale.clone(),
            parameters: self.model.parameters.clone(),
            first_moment: self.first_moment.clone(),
            second_moment: self.second_moment.clone(),
        };
        let place = (micro_batches, step);
        let (dispatches, checks) = optimizer::record(&self.optimizer, &self.layout, &state, &self.norm_sums, place);
        let program = Program::new(&mut self.pipelines, &self.flags, &dispatches)?;
        let mut encoder = self.encoder();
        program.encode(&self.device, &mut encoder);
        let reads = [(&self.flags, checks.len() + 1), (&self.scale, 1)];
        let contents = self.device.submit_and_read(encoder, &reads)?;
        self.gradient_is_zero = false;
        outcome(&contents[0], &checks)?;
        self.parameters_changed();
        self.zero_gradient();
        let learning_rate = self.optimizer.learning_rate_at(step.schedule);
        Ok(StepReport { gradient_norm: f32::from_bits(contents[1][0]), learning_rate })
    }

    /// Loss and hits of `sequences` rows of tokens; see [`crate::Engine::evaluate`].
    ///
    /// # Errors
    /// As there, or a device that is lost or out of memory.
    pub fn evaluate(&mut self, tokens: &[u32], sequences: usize) -> Result<Evaluation, EngineError> {
        let batch = checked_batch(&self.model.config, &self.model.spec, tokens, sequences)?;
        let mut sum = Evaluation::default();
        for tokens in tokens.chunks(self.model.spec.micro_batch_sequences * (batch.length + 1)) {
            let batch = Batch { sequences: tokens.len() / (batch.length + 1), ..batch };
            let (inputs, targets) = split_targets(tokens, batch.length);
            let (losses, _) = self.run(&inputs, &targets, batch, Purpose::Evaluate)?;
            sum = sum + Evaluation { loss: loss_sum(&losses), hits: hits(&losses) };
        }
        Ok(sum)
    }

    /// The logits of the token after `context`; see [`crate::Engine::next_token_logits`].
    ///
    /// # Errors
    /// As there, or a device that is lost or out of memory.
    pub fn next_token_logits(&mut self, context: &[u32]) -> Result<Vec<f32>, EngineError> {
        check_context(&self.model.config, context)?;
        let batch = Batch { sequences: 1, length: context.len() };
        let (_, logits) = self.run(context, &[], batch, Purpose::NextToken)?;
        Ok(floats(&logits))
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

    /// The keys of all roundings of a micro-batch.
    fn site_keys(&self, key: &MicroBatchKey) -> Vec<u32> {
        let (keys, layers) = (OpKeys::new(key), self.model.config.num_hidden_layers);
        let mut words = vec![0; self.model.keys.len];
        debug_assert_eq!(words.len(), 2 * (layers + 1) * LAYER_SITES as usize);
        for layer in 0..=layers {
            for site in RoundingSite::ALL {
                let place = 2 * site.number(layer) as usize;
                words[place..place + 2].copy_from_slice(&keys.site(layer, site));
            }
        }
        words
    }

    /// Commands that begin by forgetting earlier outcomes and, if it counts as zero, the gradient.
    fn encoder(&self) -> wgpu::CommandEncoder {
        let mut encoder = self.device.encoder();
        encoder.clear_buffer(&self.flags.raw, 0, None);
        if self.gradient_is_zero {
            encoder.clear_buffer(&self.gradient.raw, 0, None);
        }
        encoder
    }

    /// Makes the table of angles long enough.
    fn extend_angles(&mut self, positions: usize) {
        let known = self.rotary.positions();
        if known < positions {
            self.rotary.extend_to(positions);
            let table: Vec<u32> =
                self.rotary.angles().flat_map(|(cosine, sine)| [cosine.to_bits(), sine.to_bits()]).collect();
            self.device.write(&self.model.angles, &table);
        }
    }

    /// Runs a pass; the fixed-point losses of its rows, and for `NextToken` the logits instead.
    fn run(
        &mut self,
        inputs: &[u32],
        targets: &[u32],
        batch: Batch,
        purpose: Purpose,
    ) -> Result<(Vec<u32>, Vec<u32>), EngineError> {
        self.extend_angles(batch.length);
        let mut encoder = self.encoder();
        if !self.forward_packed {
            self.pack_forward.encode(&self.device, &mut encoder);
        }
        if purpose == Purpose::Train && !self.backward_packed {
            self.pack_backward.encode(&self.device, &mut encoder);
        }
        let extent = Extent {
            sequences: batch.sequences,
            length: batch.length,
            logit_rows: if purpose == Purpose::NextToken { 1 } else { batch.tokens() },
            training: purpose == Purpose::Train,
        };
        let gradient = GradientBuffers { micro: &self.micro_gradient, sum: &self.gradient };
        let pass = self.passes.get(&self.model, &mut self.pipelines, &self.flags, &gradient, (extent, purpose))?;
        let workspace = &pass.workspace;
        self.device.write(&workspace.tokens, inputs);
        self.device.write(&workspace.targets, targets);
        if let Some(backward) = &workspace.backward {
            self.segments.sort(inputs, self.model.config.vocab_size);
            self.device.write(&backward.segments, self.segments.offsets());
            self.device.write(&backward.places, self.segments.all_places());
        }
        pass.program.encode(&self.device, &mut encoder);
        let (losses, logits) = match purpose {
            Purpose::NextToken => (0, self.model.config.vocab_size),
            _ => (batch.tokens(), 0),
        };
        let reads = [(&self.flags, pass.checks.len() + 1), (&workspace.losses, losses), (&workspace.logits, logits)];
        let mut contents = self.device.submit_and_read(encoder, &reads)?;
        self.gradient_is_zero = false;
        self.forward_packed = true;
        self.backward_packed |= purpose == Purpose::Train;
        outcome(&contents[0], &pass.checks)?;
        let logits = contents.pop().unwrap_or_default();
        let losses = contents.pop().unwrap_or_default();
        Ok((losses, logits))
    }
}

/// The bit of a row's loss that says whether its target is a hit; losses are under 2³¹.
const HIT: u32 = 1 << 31;

/// The sum of fixed-point losses, in any order.
fn loss_sum(losses: &[u32]) -> LossSum {
    LossSum { fixed: losses.iter().map(|&loss| i64::from(loss & !HIT)).sum(), tokens: losses.len() as u64 }
}

fn hits(losses: &[u32]) -> u64 {
    losses.iter().map(|&loss| u64::from(loss / HIT)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceChoice, DeviceError};

    #[test]
    fn a_lost_device_is_an_error_and_no_panic() {
        let device = match Device::open(&DeviceChoice::Software) {
            Ok(device) => device,
            Err(error) if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("gpu")) => {
                eprintln!("skipped as MANTA_TEST_SKIP asks: {error}");
                return;
            }
            Err(error) => panic!("{error} (MANTA_TEST_SKIP=gpu skips this test)"),
        };
        let config = ModelConfig {
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
        };
        let spec = ArithmeticSpec { micro_batch_sequences: 1, sequence_length: 4, ..ArithmeticSpec::default() };
        let forms = (Form::default(), Vec::new());
        let mut engine = GpuEngine::with_form(config, OptimizerConfig::default(), spec, &device, forms).unwrap();
        engine.initialize([1; 32]).unwrap();
        let key = MicroBatchKey { run_seed: [1; 32], step: 0, micro_batch: 0 };
        let tokens = [1, 2, 3, 4, 5];
        engine.accumulate_gradient(&tokens, 1, &key).unwrap();
        device.device.destroy();
        let lost = |error: Option<EngineError>| {
            assert!(matches!(error, Some(EngineError::Device(DeviceError::Lost { .. }))), "{error:?}");
        };
        lost(engine.accumulate_gradient(&tokens, 1, &key).err());
        lost(engine.apply_own_gradient(1, StepNumbers::in_order(0)).err());
        lost(engine.evaluate(&tokens, 1).err());
        lost(engine.parameters().err());
        lost(engine.initialize([2; 32]).err());
    }
}
