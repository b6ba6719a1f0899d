//! Steps of local training one after another without waiting for the device in between: each is
//! one submission (more if it would take too long), and only losses and norms are read, at the end.
//!
//! A check that fails stays failed, and nothing is accumulated or stepped after it: the
//! parameters are then those of the last step that was whole.

use super::GpuEngine;
use super::work::loss_sum;
use crate::buffers::Buffer;
use crate::device::DeviceError;
use crate::error::EngineError;
use crate::gpu::pass::SLOTS;
use crate::gpu::program::Commands;
use crate::model::forward::{Batch, Purpose};
use crate::model::input::{check_sequences, checked_batch, split_targets};
use crate::model::step::StepReport;
use crate::training::{LocalOutcome, LocalStep, LocalTraining, MicroBatch};
use std::collections::VecDeque;

/// Submitted steps that the device may be behind.
const IN_FLIGHT_MAX: usize = 4;

/// Memory of replays, kept for the next one.
#[derive(Default)]
pub(super) struct ReplayMemory {
    /// Of each micro-batch of a step its keys, tokens, targets, segments and places.
    inputs: Option<Buffer>,
    /// Of each step the losses of its micro-batches' rows, the gradient's norm, and slot 0 of the checks.
    results: Option<Buffer>,
}

impl GpuEngine {
    /// Takes steps with the engine's own gradients, one after another; the accumulated gradient is
    /// forgotten first. It is the same as [`GpuEngine::accumulate_gradient`] and
    /// [`GpuEngine::apply_own_gradient`] in turns, but the device is not waited for in between.
    ///
    /// # Errors
    /// Before anything is done: bad tokens, or no micro-batches. Later: a device that is lost or out
    /// of memory. An op that leaves the range is no error, but ends the training early.
    pub fn train_steps(&mut self, steps: &[LocalStep<'_>]) -> Result<LocalTraining, EngineError> {
        let step_batches = steps.iter().map(|step| self.checked_step(step)).collect::<Result<Vec<_>, _>>()?;
        let Some(last) = steps.len().checked_sub(1) else { return Ok(LocalTraining::default()) };
        let starts = result_starts(&step_batches);
        let words = starts[steps.len()];
        let results = self.replay_memory(|memory| &mut memory.results, "replayed results", words)?;
        let device = self.device.clone();
        let mut in_flight = VecDeque::new();
        for (number, (step, batches)) in steps.iter().zip(&step_batches).enumerate() {
            let mut commands = Commands::new(&device);
            if number == 0 {
                commands.clear(&self.flags);
            }
            self.record_step(&mut commands, step, batches, (&results, starts[number]))?;
            if number == last {
                // So that the last wait tells how long one step takes.
                if let Some(before) = in_flight.pop_back() {
                    device.wait_for(Some(before))?;
                }
                let contents = commands.submit_and_read(&[(&results, words), (&self.flags, SLOTS)])?;
                return Ok(self.judge(steps, &step_batches, &contents));
            }
            in_flight.push_back(commands.submit());
            if in_flight.len() > IN_FLIGHT_MAX {
                device.wait_for(in_flight.pop_front())?;
            }
        }
        unreachable!("the last step returns")
    }

    fn checked_step(&self, step: &LocalStep<'_>) -> Result<Vec<Batch>, EngineError> {
        if step.micro_batches.is_empty() {
            return Err(EngineError::Length { what: "micro_batches", expected: "at least 1".into(), found: 0 });
        }
        let (config, spec) = (&self.model.config, &self.model.spec);
        let checked = |micro_batch: &MicroBatch<'_>| {
            check_sequences(spec, micro_batch.sequences)?;
            checked_batch(config, spec, micro_batch.tokens, micro_batch.sequences)
        };
        step.micro_batches.iter().map(checked).collect()
    }

    /// Records a whole step, whose results go to `results` from `start` on.
    fn record_step(
        &mut self,
        commands: &mut Commands<'_>,
        step: &LocalStep<'_>,
        batches: &[Batch],
        (results, start): (&Buffer, usize),
    ) -> Result<(), EngineError> {
        let (words, starts) = self.step_inputs(step, batches);
        let inputs = self.replay_memory(|memory| &mut memory.inputs, "replayed inputs", words.len())?;
        self.device.write(&inputs, &words);
        commands.clear(&self.gradient);
        self.gradient_is_zero = false;
        self.parameters_changed();
        self.pack_for(commands, Purpose::Train);
        let mut result = start;
        for (batch, input) in batches.iter().zip(starts) {
            self.record_micro_batch(commands, *batch, (&inputs, input), (results, result))?;
            result += batch.tokens();
        }
        self.bind_optimizer(true, batches.len() as u32, step.numbers)?;
        self.run_optimizer(commands);
        commands.copy((&self.scale, 0), (results, result), 1);
        commands.copy((&self.flags, 0), (results, result + 1), 1);
        self.parameters_changed();
        self.gradient_is_zero = true;
        Ok(())
    }

    fn record_micro_batch(
        &mut self,
        commands: &mut Commands<'_>,
        batch: Batch,
        (inputs, mut input): (&Buffer, usize),
        (results, result): (&Buffer, usize),
    ) -> Result<(), DeviceError> {
        let keys = self.model.keys.clone();
        let pass = self.pass(batch, Purpose::Train)?;
        let workspace = &pass.workspace;
        let Some(backward) = &workspace.backward else { unreachable!("training passes have a way back") };
        for place in [&keys, &workspace.tokens, &workspace.targets, &backward.segments, &backward.places] {
            commands.copy((inputs, input), (place, 0), place.len);
            input += place.len;
        }
        commands.run(&pass.program);
        commands.copy((&workspace.losses, 0), (results, result), batch.tokens());
        Ok(())
    }

    /// All inputs of a step, one micro-batch after another, and where each begins.
    fn step_inputs(&mut self, step: &LocalStep<'_>, batches: &[Batch]) -> (Vec<u32>, Vec<usize>) {
        let (mut words, mut starts) = (Vec::new(), Vec::new());
        for (MicroBatch { tokens, key, .. }, batch) in step.micro_batches.iter().zip(batches) {
            self.extend_angles(batch.length);
            let (inputs, targets) = split_targets(tokens, batch.length);
            self.segments.sort(&inputs, self.model.config.vocab_size);
            starts.push(words.len());
            words.extend(self.site_keys(key));
            words.extend(inputs);
            words.extend(targets);
            words.extend(self.segments.offsets());
            words.extend(self.segments.all_places());
        }
        (words, starts)
    }

    /// Memory of at least so many words, the same as last time if it is large enough.
    fn replay_memory(
        &mut self,
        which: impl Fn(&mut ReplayMemory) -> &mut Option<Buffer>,
        tensor: &'static str,
        words: usize,
    ) -> Result<Buffer, DeviceError> {
        let place = which(&mut self.replay);
        match place {
            Some(buffer) if buffer.len >= words => Ok(buffer.clone()),
            _ => Ok(place.insert(self.device.allocate_large(tensor, words)?).clone()),
        }
    }

    /// What the steps came to, from the words that were read.
    fn judge(&self, steps: &[LocalStep<'_>], step_batches: &[Vec<Batch>], contents: &[Vec<u32>]) -> LocalTraining {
        let (mut results, flags) = (contents[0].as_slice(), &contents[1]);
        let mut take = |words: usize| {
            let (taken, rest) = results.split_at(words);
            results = rest;
            taken
        };
        let mut training = LocalTraining::default();
        for (step, batches) in steps.iter().zip(step_batches) {
            let losses = batches.iter().map(|batch| loss_sum(take(batch.tokens()))).collect();
            let [norm, failed] = [take(1)[0], take(1)[0]];
            if failed != 0 {
                training.stopped = self.failure(flags);
                break;
            }
            let learning_rate = self.optimizer.learning_rate_at(step.numbers.schedule);
            let report = StepReport { gradient_norm: f32::from_bits(norm), learning_rate };
            training.outcomes.push(LocalOutcome { losses, report });
        }
        training
    }
}

/// Where the results of each step begin, and the end of the last.
fn result_starts(step_batches: &[Vec<Batch>]) -> Vec<usize> {
    let mut starts = vec![0];
    for batches in step_batches {
        let tokens: usize = batches.iter().map(Batch::tokens).sum();
        starts.push(starts[starts.len() - 1] + tokens + 2);
    }
    starts
}
