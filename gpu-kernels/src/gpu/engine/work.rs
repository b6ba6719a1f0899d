//! What an engine computes, one call and one read-back at a time.

use super::{GpuEngine, OptimizerProgram};
use crate::buffers::{bits, floats};
use crate::device::DeviceError;
use crate::error::EngineError;
use crate::gpu::ops::adamw::State;
use crate::gpu::optimizer::{self, StepMemory};
use crate::gpu::pass::{GradientBuffers, Pass, SLOTS, failed_check};
use crate::gpu::program::{Commands, Program};
use crate::gpu::workspace::Extent;
use crate::model::forward::{Batch, Purpose};
use crate::model::input::{check_context, check_sequences, checked_batch, split_targets};
use crate::model::options::Recompute;
use crate::model::step::{
    Evaluation, LAYER_SITES, LossSum, MicroBatchKey, OpKeys, RoundingSite, StepNumbers, StepReport,
};
use crate::reduce::check;
use std::time::Duration;

/// The bit of a row's loss that says whether its target is a hit; losses are under 2³¹.
const HIT: u32 = 1 << 31;

impl GpuEngine {
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
        self.apply(false, micro_batches, step)
    }

    /// [`GpuEngine::apply_gradient`] with the gradient accumulated here, which
    /// does not leave the device.
    ///
    /// # Errors
    /// As [`GpuEngine::apply_gradient`].
    pub fn apply_own_gradient(&mut self, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError> {
        self.apply(true, micro_batches, step)
    }

    /// Steps with the accumulated gradient, or with the one that has come from outside.
    fn apply(&mut self, own: bool, micro_batches: u32, step: StepNumbers) -> Result<StepReport, EngineError> {
        if micro_batches == 0 {
            return Err(EngineError::Length { what: "micro_batches", expected: "at least 1".into(), found: 0 });
        }
        self.bind_optimizer(own, micro_batches, step)?;
        let mut commands = self.commands();
        self.run_optimizer(&mut commands);
        let contents = commands.submit_and_read(&[(&self.flags, SLOTS), (&self.scale, 1)])?;
        self.gradient_is_zero = false;
        if let Some(failure) = optimizer::failed_check(&contents[0]) {
            return Err(failure);
        }
        self.parameters_changed();
        self.zero_gradient();
        let learning_rate = self.optimizer.learning_rate_at(step.schedule);
        Ok(StepReport { gradient_norm: f32::from_bits(contents[1][0]), learning_rate })
    }

    /// Makes the optimiser's program that of this step.
    pub(super) fn bind_optimizer(
        &mut self,
        own: bool,
        micro_batches: u32,
        step: StepNumbers,
    ) -> Result<(), DeviceError> {
        let state = State {
            gradient: if own { self.gradient.clone() } else { self.micro_gradient.clone() },
            scale: self.scale.clone(),
            parameters: self.model.parameters.clone(),
            first_moment: self.first_moment.clone(),
            second_moment: self.second_moment.clone(),
        };
        let place = (micro_batches, step);
        let memory = StepMemory {
            norm_sums: &self.norm_sums,
            keys: &self.model.keys,
            orthogonalizer: self.orthogonalizer.as_ref(),
        };
        let dispatches = optimizer::record(&self.optimizer, &self.layout, &state, memory, place);
        match &self.optimizer_program {
            Some(known) if known.own == own => known.program.set_parameters(&self.device, &dispatches),
            _ => {
                let program = Program::new(&mut self.pipelines, &self.flags, &dispatches)?;
                self.optimizer_program = Some(OptimizerProgram { own, program });
            }
        }
        Ok(())
    }

    pub(super) fn run_optimizer(&self, commands: &mut Commands<'_>) {
        if let Some(OptimizerProgram { program, .. }) = &self.optimizer_program {
            commands.run(program);
        }
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

    /// What each dispatch of one micro-batch takes, by itself, with the packing of all weights.
    ///
    /// # Errors
    /// As [`GpuEngine::accumulate_gradient`]; the accumulated gradient is forgotten.
    pub fn profile(
        &mut self,
        tokens: &[u32],
        sequences: usize,
        key: &MicroBatchKey,
    ) -> Result<Vec<(String, Duration)>, EngineError> {
        self.accumulate_gradient(tokens, sequences, key)?;
        let batch = checked_batch(&self.model.config, &self.model.spec, tokens, sequences)?;
        let device = self.device.clone();
        let mut times = self.pack_forward.time(&device)?;
        times.extend(self.pack_backward.time(&device)?);
        times.extend(self.pass(batch, Purpose::Train)?.program.time(&device)?);
        self.zero_gradient();
        Ok(times.into_iter().map(|(kernel, time)| (kernel.describe(), time)).collect())
    }

    /// The keys of all roundings of a micro-batch.
    pub(super) fn site_keys(&self, key: &MicroBatchKey) -> Vec<u32> {
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
    fn commands(&self) -> Commands<'_> {
        let mut commands = Commands::new(&self.device);
        commands.clear(&self.flags);
        if self.gradient_is_zero {
            commands.clear(&self.gradient);
        }
        commands
    }

    /// Packs the weights that a pass needs, unless they are.
    pub(super) fn pack_for(&self, commands: &mut Commands<'_>, purpose: Purpose) {
        if !self.forward_packed {
            commands.run(&self.pack_forward);
        }
        if purpose == Purpose::Train && !self.backward_packed {
            commands.run(&self.pack_backward);
        }
    }

    /// Makes the table of angles long enough.
    pub(super) fn extend_angles(&mut self, positions: usize) {
        let known = self.rotary.positions();
        if known < positions {
            self.rotary.extend_to(positions);
            let table: Vec<u32> =
                self.rotary.angles().flat_map(|(cosine, sine)| [cosine.to_bits(), sine.to_bits()]).collect();
            self.device.write(&self.model.angles, &table);
        }
    }

    /// The pass over such a batch.
    pub(super) fn pass(&mut self, batch: Batch, purpose: Purpose) -> Result<&Pass, DeviceError> {
        let extent = Extent {
            sequences: batch.sequences,
            length: batch.length,
            logit_rows: if purpose == Purpose::NextToken { 1 } else { batch.tokens() },
            training: purpose == Purpose::Train,
            recomputes: purpose == Purpose::Train && self.recomputes,
            binding_words_max: self.device.report().binding_words_max(),
        };
        let gradient = GradientBuffers { micro: &self.micro_gradient, sum: &self.gradient };
        let place = (extent, purpose);
        match self.passes.prepare(&self.model, &mut self.pipelines, &self.flags, &gradient, place) {
            Err(DeviceError::OutOfMemory { .. })
                if extent.training && !extent.recomputes && self.recompute == Recompute::Auto =>
            {
                // From now on, for what other programs leave of the device's memory is not foretold.
                self.recomputes = true;
                let place = (Extent { recomputes: true, ..extent }, purpose);
                self.passes.prepare(&self.model, &mut self.pipelines, &self.flags, &gradient, place)?;
            }
            outcome => outcome?,
        }
        let Some(pass) = self.passes.last() else { unreachable!("it was made") };
        Ok(pass)
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
        self.segments.sort(inputs, self.model.config.vocab_size);
        self.pass(batch, purpose)?;
        let Some(pass) = self.passes.last() else { unreachable!("it was made") };
        let workspace = &pass.workspace;
        self.device.write(&workspace.tokens, inputs);
        self.device.write(&workspace.targets, targets);
        if let Some(backward) = &workspace.backward {
            self.device.write(&backward.segments, self.segments.offsets());
            self.device.write(&backward.places, self.segments.all_places());
        }
        let mut commands = self.commands();
        self.pack_for(&mut commands, purpose);
        commands.run(&pass.program);
        let (losses, logits) = match purpose {
            Purpose::NextToken => (0, self.model.config.vocab_size),
            _ => (batch.tokens(), 0),
        };
        let reads = [(&self.flags, pass.checks.len() + 1), (&workspace.losses, losses), (&workspace.logits, logits)];
        let mut contents = commands.submit_and_read(&reads)?;
        let failure = failed_check(&contents[0], &pass.checks);
        self.gradient_is_zero = false;
        self.forward_packed = true;
        self.backward_packed |= purpose == Purpose::Train;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let logits = contents.pop().unwrap_or_default();
        let losses = contents.pop().unwrap_or_default();
        Ok((losses, logits))
    }

    /// The first check that has failed in whatever was recorded last.
    pub(super) fn failure(&self, flags: &[u32]) -> Option<EngineError> {
        let pass = self.passes.last().and_then(|pass| failed_check(flags, &pass.checks));
        pass.or_else(|| optimizer::failed_check(flags))
    }
}

/// The sum of fixed-point losses, in any order.
pub(super) fn loss_sum(losses: &[u32]) -> LossSum {
    LossSum { fixed: losses.iter().map(|&loss| i64::from(loss & !HIT)).sum(), tokens: losses.len() as u64 }
}

fn hits(losses: &[u32]) -> u64 {
    losses.iter().map(|&loss| u64::from(loss / HIT)).sum()
}
