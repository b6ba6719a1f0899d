//! The model of the present run, and each thing that is done with it.
//!
//! Two ways to train together. *Averaged*: a member gives the sum of the
//! gradients of its batches; the sum of all moves everybody's parameters by one
//! optimiser's step. *Local*: a member takes such steps of its own from the anchor,
//! with moments of its own, and gives how far it went; the sum of all moves the
//! anchor by one outer step (DiLoCo), and everybody starts again from there.

use super::{Answer, Export, Fault};
use crate::data::DataSet;
use crate::data::batches::{self, BatchKey, BatchShape};
use crate::host;
use crate::run::engine::{AnyEngine, Means, Recipe, RunEngine};
use crate::run::order::member_bytes;
use crate::run::spec;
use crate::run::state::{RunState, bytes_of, values_of};
use bytes::Bytes;
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::device::DeviceError;
use manta_gpu_kernels::{
    EngineError, EngineOptions, Layout, LocalStep, MicroBatch, MicroBatchKey, OuterOptimizer, OuterState, StepNumbers,
    TrainingState, reduce,
};
use manta_protocol::drill::Evaluation;
use manta_protocol::run::RunSpec;
use manta_protocol::run::ledger::{self, Span};
use manta_protocol::run::report::LossSum;
use manta_protocol::{Hash, PeerId, RunId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Windows of the validation part that are evaluated at most: enough for two
/// digits of the loss after the point, and a few seconds at the smallest preset.
pub(crate) const VALIDATION_WINDOWS_MAX: usize = 512;

/// The model of the present run.
pub(crate) struct Model {
    run: RunId,
    spec: RunSpec,
    data: Arc<DataSet>,
    engine: RunEngine,
    /// `None` where gradients are averaged.
    local: Option<Local>,
    /// Scratch for the sum over all members.
    sum: Vec<f32>,
    /// The exchange that comes next.
    exchange: u64,
}

/// What a member keeps to itself that takes steps of its own.
#[derive(Clone, Default)]
pub(crate) struct Own {
    /// Steps since its moments were zero.
    pub(crate) steps: u64,
    /// First and second; `None` while they are zero.
    pub(crate) moments: Option<[Vec<f32>; 2]>,
}

/// What a member gives to an exchange.
pub(crate) struct Values {
    /// Of each batch, in order.
    pub(crate) losses: Vec<LossSum>,
    /// Gradient or move, flat, little-endian.
    pub(crate) values: Bytes,
}

/// What there is of a member that takes steps of its own.
struct Local {
    outer: OuterOptimizer,
    /// Own steps since the own moments were zero, up to the anchor.
    steps: u64,
    /// Own steps since the anchor, that the engine has taken.
    ahead: u64,
}

/// A micro-batch with the key of its random bits.
type Batch = (Vec<u32>, MicroBatchKey);

/// How many steps are taken before it is asked again whether anybody still wants
/// them: many where they are quick, for a device has to be waited for then.
struct Portion {
    taken: usize,
    size: usize,
    begun: Instant,
}

impl Default for Portion {
    fn default() -> Self {
        Self { taken: 0, size: 0, begun: Instant::now() }
    }
}

impl Portion {
    /// How long a portion should take.
    const GOAL: Duration = Duration::from_millis(500);

    /// The steps that come next, if there are any left.
    fn next_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a [T]> {
        self.size = if self.begun.elapsed() < Self::GOAL { (2 * self.size).max(1) } else { 1 };
        self.begun = Instant::now();
        let rest = &all[self.taken..];
        let next = &rest[..rest.len().min(self.size)];
        self.taken += next.len();
        (!next.is_empty()).then_some(next)
    }
}

impl Model {
    /// The model with these parameters, or with the initial values of the run's seed.
    pub(crate) fn prepare(
        run: RunId,
        run_spec: &RunSpec,
        data: Arc<DataSet>,
        initial: Option<Vec<f32>>,
        device: Option<&AdmittedDevice>,
        means: Means,
    ) -> Result<Self, Fault> {
        let model = spec::model_config(&run_spec.model);
        let parameters = Layout::new(&model).len();
        // What a member holds beside its engine must fit, too.
        let beside_bytes = member_bytes(0, parameters as u64, spec::outer(run_spec).is_some());
        let memory_bytes_max = host::available_memory_bytes().saturating_sub(beside_bytes);
        let Means { threads, recompute } = means;
        let options = EngineOptions { threads, memory_bytes_max, recompute, ..EngineOptions::default() };
        let sum = vec![0.0; parameters];
        let (optimizer, arithmetic) = (spec::optimizer(run_spec), spec::arithmetic(run_spec));
        let recipe = Recipe { model, optimizer, arithmetic, options };
        let mut engine = RunEngine::new(recipe, device, *run_spec.seed.0.as_bytes(), initial)?;
        let local = match spec::outer(run_spec) {
            None => None,
            Some(config) => {
                let anchor = engine.run(|engine| Ok(engine.parameters()?.into_owned()))?;
                engine.settle()?;
                Some(Local { outer: OuterOptimizer::new(config, anchor)?, steps: 0, ahead: 0 })
            }
        };
        Ok(Self { run, spec: run_spec.clone(), data, engine, local, sum, exchange: 0 })
    }

    pub(super) fn run(&self) -> RunId {
        self.run
    }

    /// Why the device was given up, told once, and whether the run goes on without it.
    pub(crate) fn take_trouble(&mut self) -> Option<(DeviceError, bool)> {
        self.engine.take_trouble().map(|trouble| (trouble, self.engine.is_native()))
    }

    /// The own values of an exchange; `None` once they are `superseded`.
    pub(super) fn compute(
        &mut self,
        exchange: u64,
        plan: u32,
        spans: &[Span],
        schedule_step: u64,
        superseded: impl Fn() -> bool,
    ) -> Result<Option<Answer>, Fault> {
        let begun = Instant::now();
        let Some(Values { losses, values }) = self.values(spans, schedule_step, superseded)? else { return Ok(None) };
        let loss = losses.into_iter().fold(LossSum::default(), LossSum::plus);
        let compute_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Some(Answer::Computed { exchange, plan, loss, compute_ms, values }))
    }

    /// [`Self::compute`], with the loss of each batch.
    pub(crate) fn values(
        &mut self,
        spans: &[Span],
        schedule_step: u64,
        superseded: impl FnMut() -> bool,
    ) -> Result<Option<Values>, Fault> {
        if ledger::count(spans) == 0 {
            if let Some(local) = &mut self.local
                && std::mem::take(&mut local.ahead) > 0
            {
                self.engine.rewind()?;
            }
            return Ok(Some(Values { losses: Vec::new(), values: bytes_of(&vec![0.0; self.sum.len()]) }));
        }
        match self.local {
            Some(_) => self.local_steps(spans, schedule_step, superseded),
            None => self.gradient(spans, superseded),
        }
    }

    /// The gradient, summed over the batches.
    fn gradient(&mut self, spans: &[Span], mut superseded: impl FnMut() -> bool) -> Result<Option<Values>, Fault> {
        // Drawn before anything is computed, so that a failure is one of the data.
        let batches = Batches { spec: &self.spec, data: &self.data }.all(spans)?;
        let sequences = self.spec.micro_batch_sequences as usize;
        Ok(self.engine.run(|engine| {
            let mut losses = Vec::with_capacity(batches.len());
            engine.zero_gradient();
            for (tokens, key) in &batches {
                if superseded() {
                    return Ok(None);
                }
                losses.push(loss_sum(engine.accumulate_gradient(tokens, sequences, key)?));
            }
            Ok(Some(Values { losses, values: bytes_of(&engine.gradient()?) }))
        })?)
    }

    /// Steps of our own from the anchor; how far they went, weighted by the batches.
    fn local_steps(
        &mut self,
        spans: &[Span],
        schedule_step: u64,
        mut superseded: impl FnMut() -> bool,
    ) -> Result<Option<Values>, Fault> {
        let Some(local) = &mut self.local else { return Err("gradients are averaged in this run".into()) };
        if std::mem::take(&mut local.ahead) > 0 {
            self.engine.rewind()?;
        }
        let count = u32::try_from(ledger::count(spans)).map_err(|_| "more batches than can be counted")?;
        let batches = Batches { spec: &self.spec, data: &self.data }.all(spans)?;
        let micro_batches = batches.iter().map(|(tokens, key)| {
            let sequences = self.spec.micro_batch_sequences as usize;
            MicroBatch { tokens, sequences, key: *key }
        });
        let micro_batches: Vec<_> = micro_batches.collect();
        let per_step = self.spec.micro_batches.max(1) as usize;
        let step = |(number, micro_batches)| {
            let numbers = StepNumbers { adam: local.steps + number, schedule: schedule_step + number };
            LocalStep { micro_batches, numbers }
        };
        let steps: Vec<_> = (0..).zip(micro_batches.chunks(per_step)).map(step).collect();
        local.ahead = steps.len() as u64;
        let moved = self.engine.run(|engine| {
            let mut losses = Vec::with_capacity(micro_batches.len());
            let mut portion = Portion::default();
            while let Some(steps) = portion.next_of(&steps) {
                if superseded() {
                    return Ok(None);
                }
                let training = engine.train_steps(steps)?;
                if let Some(error) = training.stopped {
                    return Err(error);
                }
                losses.extend(training.outcomes.into_iter().flat_map(|outcome| outcome.losses).map(loss_sum));
            }
            Ok(Some((losses, engine.parameters()?.into_owned())))
        })?;
        let Some((losses, parameters)) = moved else { return Ok(None) };
        Ok(Some(Values { losses, values: bytes_of(&local.outer.delta(&parameters, count)?) }))
    }

    /// Moves the parameters by the sums over all members.
    pub(crate) fn apply(
        &mut self,
        exchange: u64,
        batches: u64,
        schedule_step: u64,
        sums: &[(PeerId, Bytes)],
    ) -> Result<Answer, Fault> {
        self.collect(sums)?;
        let batches = u32::try_from(batches).map_err(|_| "more batches than can be counted")?;
        // Without batches there is nothing to learn from: everybody stays where it is.
        match &mut self.local {
            _ if batches == 0 => {}
            None => {
                let numbers = StepNumbers { adam: exchange, schedule: schedule_step };
                self.engine.apply_gradient(&self.sum, batches, numbers)?;
            }
            Some(local) => {
                local.outer.apply(&self.sum, batches)?;
                let anchor = local.outer.anchor();
                self.engine.run(|engine| engine.set_parameters(anchor.to_vec()))?;
                self.engine.settle()?;
                local.steps += std::mem::take(&mut local.ahead);
            }
        }
        self.exchange = exchange + 1;
        Ok(Answer::Applied { exchange })
    }

    /// Puts the sums of all chunks together.
    fn collect(&mut self, sums: &[(PeerId, Bytes)]) -> Result<(), Fault> {
        let elements = self.sum.len();
        let mut rest = self.sum.as_mut_slice();
        for (from, bytes) in sums {
            let at_fault = |problem: String| Fault { problem, culprit: Some(*from) };
            let Some((place, after)) = rest.split_at_mut_checked(bytes.len() / 4) else {
                return Err(at_fault(format!("the sums have more than {elements} elements")));
            };
            place.iter_mut().zip(values_of(bytes)).for_each(|(place, value)| *place = value);
            reduce::check("sum", place).map_err(|error| at_fault(error.to_string()))?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err("sums of chunks are missing".into()) }
    }

    /// Of the parameters that all members share.
    pub(super) fn parameter_hash(&mut self) -> Result<Hash, Fault> {
        match &self.local {
            Some(local) => Ok(Hash(local.outer.parameter_hash())),
            None => Ok(Hash(self.engine.run(|engine| engine.parameter_hash())?)),
        }
    }

    /// All that another machine needs to go on from here.
    pub(crate) fn state(&mut self, exchange: u64) -> Result<RunState, Fault> {
        let vectors = match &self.local {
            Some(local) => vec![local.outer.anchor().to_vec(), local.outer.momentum().to_vec()],
            None => {
                let TrainingState { parameters, first_moment, second_moment } = self.engine.state()?;
                vec![parameters, first_moment, second_moment]
            }
        };
        Ok(RunState { exchange, vectors })
    }

    /// Goes on from a state.
    pub(crate) fn load(&mut self, state: RunState) -> Result<(), Fault> {
        let RunState { exchange, vectors } = state;
        let found = vectors.len();
        let wrong = |expected| format!("a state of {found} vectors, this run's has {expected}");
        match &mut self.local {
            None => {
                let [parameters, first_moment, second_moment] = vectors.try_into().map_err(|_| wrong(3))?;
                self.engine.load_state(TrainingState { parameters, first_moment, second_moment })?;
            }
            Some(local) => {
                let [anchor, momentum] = vectors.try_into().map_err(|_| wrong(2))?;
                local.outer.load_state(OuterState { anchor, momentum })?;
                let anchor = local.outer.anchor();
                // Moments are everybody's own, and begin at zero.
                self.engine.run(|engine| engine.load_parameters(anchor.to_vec()))?;
                self.engine.settle()?;
                (local.steps, local.ahead) = (0, 0);
            }
        }
        self.exchange = exchange;
        Ok(())
    }

    /// Takes the parameters of a run that others have finished.
    pub(crate) fn load_result(&mut self, state: RunState) -> Result<(), Fault> {
        let RunState { exchange, vectors } = state;
        let [parameters] = vectors.try_into().map_err(|_| "a result is one vector of parameters")?;
        if let Some(local) = &mut self.local {
            let momentum = vec![0.0; parameters.len()];
            local.outer.load_state(OuterState { anchor: parameters.clone(), momentum })?;
            local.ahead = 0;
        }
        self.engine.run(|engine| engine.load_parameters(parameters.clone()))?;
        self.exchange = exchange;
        Ok(())
    }

    /// The parameters that all members share, and their loss if asked for.
    pub(super) fn export(&mut self, evaluate: bool) -> Result<Export, Fault> {
        if let Some(local) = &mut self.local
            && std::mem::take(&mut local.ahead) > 0
        {
            self.engine.rewind()?;
        }
        let validation = if evaluate { self.evaluate(VALIDATION_WINDOWS_MAX, || true)? } else { None };
        Ok(Export {
            parameters: self.engine.run(|engine| Ok(engine.parameters()?.into_owned()))?,
            parameter_hash: self.parameter_hash()?,
            exchange: self.exchange,
            validation,
        })
    }

    /// How well the engine's parameters predict the validation part, judged by at
    /// most `windows` of it; `None` if it may not go on.
    pub(crate) fn evaluate(
        &mut self,
        windows: usize,
        mut may_go_on: impl FnMut() -> bool,
    ) -> Result<Option<Evaluation>, Fault> {
        let length = self.spec.sequence_length as usize;
        let starts = batches::validation_starts(self.data.validation.len(), length, windows)?;
        let mut sum = Evaluation::default();
        for starts in starts.chunks(self.spec.micro_batch_sequences as usize) {
            if !may_go_on() {
                return Ok(None);
            }
            let tokens = batches::tokens(&self.data.validation, starts, length);
            let found = self.engine.run(|engine: &mut AnyEngine| engine.evaluate(&tokens, starts.len()))?;
            sum = sum.plus(Evaluation { loss: loss_sum(found.loss), hits: found.hits });
        }
        Ok(Some(sum))
    }

    /// What this member keeps to itself, as it is now.
    pub(crate) fn own(&mut self) -> Result<Own, Fault> {
        let Some(local) = &self.local else { return Err("gradients are averaged in this run".into()) };
        let steps = local.steps + local.ahead;
        let TrainingState { first_moment, second_moment, .. } = self.engine.state()?;
        Ok(Own { steps, moments: (steps > 0).then_some([first_moment, second_moment]) })
    }

    /// Takes a member's place at the anchor: what is computed next is what it computes.
    pub(crate) fn stand_in(&mut self, own: &Own) -> Result<(), Fault> {
        let Some(local) = &mut self.local else { return Err("gradients are averaged in this run".into()) };
        let zeros = || vec![0.0; self.sum.len()];
        let [first_moment, second_moment] = own.moments.clone().unwrap_or_else(|| [zeros(), zeros()]);
        let parameters = local.outer.anchor().to_vec();
        (local.steps, local.ahead) = (own.steps, 0);
        self.engine.load_state(TrainingState { parameters, first_moment, second_moment })?;
        Ok(self.engine.settle()?)
    }
}

/// Adds up values of a chunk in the order given.
pub(super) fn reduce(exchange: u64, view: u32, chunk: u32, contributions: &[(PeerId, Bytes)]) -> Result<Answer, Fault> {
    let elements = contributions.first().map_or(0, |(_, bytes)| bytes.len() / 4);
    let mut sum = vec![0.0; elements];
    let mut values = Vec::with_capacity(elements);
    for (from, bytes) in contributions {
        values.clear();
        values.extend(values_of(bytes));
        let at_fault = |error: EngineError| Fault { problem: error.to_string(), culprit: Some(*from) };
        reduce::accumulate(&mut sum, &values).map_err(at_fault)?;
    }
    Ok(Answer::Reduced { exchange, view, chunk, sum: bytes_of(&sum) })
}

/// Where batches come from.
struct Batches<'a> {
    spec: &'a RunSpec,
    data: &'a DataSet,
}

impl Batches<'_> {
    fn all(&self, spans: &[Span]) -> Result<Vec<Batch>, Fault> {
        let numbers = spans.iter().flat_map(|span| span.first..span.first.saturating_add(span.count));
        numbers.map(|number| self.one(number)).collect()
    }

    /// Which text it is, and its random bits, follow from seed and number alone.
    fn one(&self, number: u64) -> Result<Batch, Fault> {
        let run_spec = self.spec;
        let shape = BatchShape {
            sequences: run_spec.micro_batch_sequences as usize,
            length: run_spec.sequence_length as usize,
        };
        let seed = *run_spec.seed.0.as_bytes();
        let training = &self.data.training;
        let starts = batches::window_starts(training.len(), &BatchKey { seed, batch: number }, shape)?;
        let tokens = batches::tokens(training, &starts, shape.length);
        Ok((tokens, MicroBatchKey { run_seed: seed, step: number, micro_batch: 0 }))
    }
}

fn loss_sum(sum: manta_gpu_kernels::LossSum) -> LossSum {
    LossSum { fixed: sum.fixed, tokens: sum.tokens }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_all_steps_in_their_order() {
        let steps: Vec<u32> = (0..100).collect();
        let mut portion = Portion::default();
        let mut portions = Vec::new();
        while let Some(next) = portion.next_of(&steps) {
            portions.push(next);
        }
        assert_eq!(portions.concat(), steps);
        assert_eq!(portions[0].len(), 1, "how long one takes is not known yet");
        assert!(Portion::default().next_of::<u32>(&[]).is_none());
    }
}
