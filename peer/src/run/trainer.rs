//! The one thread that owns engine and device: takes work, gives back what came of it.
//!
//! Tensors cross this boundary as chunks of little-endian f32 bytes, ready for
//! the network; nothing is shared with other threads. Work for a run that is
//! closed, or was never prepared, is dropped without an answer.

use crate::data::DataSet;
use crate::data::batches::{self, BatchKey, BatchShape};
use crate::host;
use crate::run::engine::{Recipe, RunEngine};
use crate::run::spec;
use bytes::Bytes;
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::device::DeviceError;
use manta_gpu_kernels::{EngineError, EngineOptions, Layout, MicroBatchKey, StepNumbers, reduce};
use manta_protocol::effect::RunStart;
use manta_protocol::run::ChunkPlan;
use manta_protocol::run::report::LossSum;
use manta_protocol::{Hash, RunId};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Work that may wait: the reductions of one step and a few more.
const WORK_CAPACITY: usize = manta_protocol::wire::limits::CHUNKS_MAX + 16;
/// Answers that may wait for the driver; beyond it the thread rests.
const DONE_CAPACITY: usize = 256;
/// Windows of the validation part that are evaluated at most: enough for two
/// digits of the loss after the point, and a few seconds at the smallest preset.
const VALIDATION_WINDOWS_MAX: usize = 512;

/// What the trainer is asked.
#[derive(Debug)]
pub(crate) enum Work {
    /// Build the model of a run; closes the one before.
    Prepare { start: Arc<RunStart>, data: Arc<DataSet> },
    /// Compute the gradient of the own batches of `step`.
    Gradient { run: RunId, step: u64 },
    /// Add up all ranks' values of a chunk, in rank order.
    Reduce { run: RunId, step: u64, chunk: u32, contributions: Vec<Bytes> },
    /// Make the optimiser's step with the sums of all chunks, in order.
    Apply { run: RunId, step: u64, sums: Vec<Bytes> },
    /// Hash the parameters.
    Hash { run: RunId, round: u32 },
    /// Give out the parameters, and evaluate them on the validation part if asked.
    Export { run: RunId, evaluate: bool },
    /// Free the model.
    Close { run: RunId },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Prepared {
        parameter_hash: Hash,
    },
    /// The own values of all chunks, in order.
    Gradient {
        step: u64,
        loss: LossSum,
        compute_ms: u64,
        chunks: Vec<Bytes>,
    },
    Reduced {
        step: u64,
        chunk: u32,
        sum: Bytes,
    },
    Applied {
        step: u64,
    },
    Hashed {
        round: u32,
        parameter_hash: Hash,
    },
    Exported(Box<Export>),
    /// The graphics device has failed; said before the answer to the work that met it.
    DeviceFailed {
        problem: String,
        /// Whether it is given up for later runs, too, or is only too small for this one.
        gone: bool,
        /// Whether the run goes on natively.
        rescued: bool,
    },
    /// It cannot be done; `culprit` is the rank whose values were at fault.
    Failed {
        problem: String,
        culprit: Option<usize>,
    },
}

/// A model given out.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) parameters: Vec<f32>,
    pub(crate) parameter_hash: Hash,
    /// Steps that it was trained.
    pub(crate) steps: u64,
    /// Loss on the validation part, if asked for.
    pub(crate) validation: Option<LossSum>,
}

/// The way to the trainer thread.
#[derive(Debug)]
pub(crate) struct Trainer {
    work: mpsc::Sender<Work>,
    pub(crate) answers: mpsc::Receiver<(RunId, Answer)>,
}

impl Trainer {
    /// Starts the thread, which computes on `device`, or natively with
    /// `threads` threads, 0 for as many as there are.
    pub(crate) fn start(device: Option<AdmittedDevice>, threads: usize) -> std::io::Result<Self> {
        let (work, mut jobs) = mpsc::channel(WORK_CAPACITY);
        let (done, answers) = mpsc::channel(DONE_CAPACITY);
        std::thread::Builder::new().name("trainer".into()).spawn(move || {
            let mut worker = Worker { device, threads, model: None };
            while let Some(job) = jobs.blocking_recv() {
                let answer = worker.perform(job);
                for answer in worker.trouble().into_iter().chain(answer) {
                    if done.blocking_send(answer).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(Self { work, answers })
    }

    /// Hands over work without waiting. `false` if the thread is gone or
    /// behind by [`WORK_CAPACITY`] jobs, which no honest run brings about.
    pub(crate) fn ask(&self, work: Work) -> bool {
        self.work.try_send(work).is_ok()
    }
}

/// The model of the present run.
struct Model {
    start: Arc<RunStart>,
    data: Arc<DataSet>,
    plan: ChunkPlan,
    engine: RunEngine,
    steps_done: u64,
    gradient_sum: Vec<f32>,
}

/// A failure with the rank at fault.
struct Fault {
    problem: String,
    culprit: Option<usize>,
}

impl<E: std::fmt::Display> From<E> for Fault {
    fn from(error: E) -> Self {
        Self { problem: error.to_string(), culprit: None }
    }
}

/// What the thread keeps.
struct Worker {
    /// `None` for the native engine.
    device: Option<AdmittedDevice>,
    threads: usize,
    model: Option<Model>,
}

impl Worker {
    fn perform(&mut self, work: Work) -> Option<(RunId, Answer)> {
        if let Work::Prepare { start, data } = work {
            return Some((start.run, self.prepare(start, data).unwrap_or_else(Answer::from)));
        }
        let (Work::Gradient { run, .. }
        | Work::Reduce { run, .. }
        | Work::Apply { run, .. }
        | Work::Hash { run, .. }
        | Work::Export { run, .. }
        | Work::Close { run }) = work
        else {
            return None;
        };
        let present = self.model.as_mut().filter(|model| model.start.run == run)?;
        let answer = match work {
            Work::Gradient { step, .. } => present.gradient(step),
            Work::Reduce { step, chunk, contributions, .. } => present.reduce(step, chunk, &contributions),
            Work::Apply { step, sums, .. } => present.apply(step, &sums),
            Work::Hash { round, .. } => {
                present.parameter_hash().map(|parameter_hash| Answer::Hashed { round, parameter_hash })
            }
            Work::Export { evaluate, .. } => present.export(evaluate),
            Work::Prepare { .. } | Work::Close { .. } => {
                self.model = None;
                return None;
            }
        };
        Some((run, answer.unwrap_or_else(Answer::from)))
    }

    fn prepare(&mut self, start: Arc<RunStart>, data: Arc<DataSet>) -> Result<Answer, Fault> {
        // The memory of the model before is needed for this one.
        self.model = None;
        let prepared = Model::prepare(start, data, self.device.as_ref(), self.threads)?;
        let parameter_hash = self.model.insert(prepared).parameter_hash()?;
        Ok(Answer::Prepared { parameter_hash })
    }

    /// What has become of the device in the work just done.
    fn trouble(&mut self) -> Option<(RunId, Answer)> {
        let model = self.model.as_mut()?;
        let trouble = model.engine.take_trouble()?;
        let rescued = model.engine.is_native();
        // A device may be too small for one model and good for the next.
        let gone = !matches!(trouble, DeviceError::Binding { .. } | DeviceError::OutOfMemory { .. });
        if gone {
            self.device = None;
        }
        Some((model.start.run, Answer::DeviceFailed { problem: trouble.to_string(), gone, rescued }))
    }
}

impl From<Fault> for Answer {
    fn from(Fault { problem, culprit }: Fault) -> Self {
        Self::Failed { problem, culprit }
    }
}

impl Model {
    fn prepare(
        start: Arc<RunStart>,
        data: Arc<DataSet>,
        device: Option<&AdmittedDevice>,
        threads: usize,
    ) -> Result<Self, Fault> {
        let run_spec = &start.spec;
        let plan = run_spec.chunk_plan(start.members.len()).ok_or("the gradient cannot be cut for so many members")?;
        let memory_bytes_max = host::available_memory_bytes();
        let options = EngineOptions { threads, memory_bytes_max, ..EngineOptions::default() };
        let model = spec::model_config(&run_spec.model);
        let gradient_sum = vec![0.0; Layout::new(&model).len()];
        let (optimizer, arithmetic) = (spec::optimizer(run_spec), spec::arithmetic(run_spec));
        let recipe = Recipe { model, optimizer, arithmetic, options };
        let engine = RunEngine::new(recipe, device, *run_spec.seed.0.as_bytes())?;
        Ok(Self { start, data, plan, engine, steps_done: 0, gradient_sum })
    }

    fn gradient(&mut self, step: u64) -> Result<Answer, Fault> {
        let begun = Instant::now();
        let batches: Vec<_> = (0..u64::from(self.start.spec.micro_batches))
            .map(|micro_batch| self.batch(step, micro_batch))
            .collect::<Result<_, _>>()?;
        let sequences = self.start.spec.micro_batch_sequences as usize;
        let plan = &self.plan;
        let (loss, chunks) = self.engine.run(|engine| {
            let mut loss = LossSum::default();
            engine.zero_gradient();
            for (tokens, key) in &batches {
                loss = loss.plus(loss_sum(engine.accumulate_gradient(tokens, sequences, key)?));
            }
            let values = engine.gradient()?;
            let chunks = (0..plan.chunks()).filter_map(|chunk| plan.elements(chunk));
            let chunks = chunks.map(|range| to_bytes(&values[range.start as usize..range.end as usize])).collect();
            Ok((loss, chunks))
        })?;
        let compute_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Answer::Gradient { step, loss, compute_ms, chunks })
    }

    /// One micro-batch: which text it is follows from seed, round, step and rank.
    fn batch(&self, step: u64, micro_batch: u64) -> Result<(Vec<u32>, MicroBatchKey), Fault> {
        let run_spec = &self.start.spec;
        let steps_per_round = u64::from(run_spec.steps_per_round);
        let (rank, ranks) = (self.start.rank as u64, self.start.members.len() as u64);
        let key = BatchKey {
            seed: *run_spec.seed.0.as_bytes(),
            round: step / steps_per_round,
            step: step % steps_per_round,
            micro_batch,
            rank,
            ranks,
        };
        let shape = BatchShape {
            sequences: run_spec.micro_batch_sequences as usize,
            length: run_spec.sequence_length as usize,
        };
        let starts = batches::window_starts(self.data.training.len(), &key, shape)?;
        let tokens = batches::tokens(&self.data.training, &starts, shape.length);
        let key =
            MicroBatchKey { run_seed: *run_spec.seed.0.as_bytes(), step, micro_batch: micro_batch * ranks + rank };
        Ok((tokens, key))
    }

    fn parameter_hash(&mut self) -> Result<Hash, Fault> {
        Ok(Hash(self.engine.run(|engine| engine.parameter_hash())?))
    }

    fn reduce(&mut self, step: u64, chunk: u32, contributions: &[Bytes]) -> Result<Answer, Fault> {
        let range = self.plan.elements(chunk).ok_or("there is no such chunk")?;
        let mut sum = vec![0.0; (range.end - range.start) as usize];
        for (rank, bytes) in contributions.iter().enumerate() {
            let at_fault = |error: EngineError| Fault { problem: error.to_string(), culprit: Some(rank) };
            reduce::accumulate(&mut sum, &from_bytes(bytes)).map_err(at_fault)?;
        }
        Ok(Answer::Reduced { step, chunk, sum: to_bytes(&sum) })
    }

    fn apply(&mut self, step: u64, sums: &[Bytes]) -> Result<Answer, Fault> {
        for (chunk, bytes) in (0..).zip(sums) {
            let range = self.plan.elements(chunk).ok_or("there is no such chunk")?;
            let culprit = self.plan.owner(chunk);
            let values = from_bytes(bytes);
            let at_fault = |error: EngineError| Fault { problem: error.to_string(), culprit };
            reduce::check("sum", &values).map_err(at_fault)?;
            let place = &mut self.gradient_sum[range.start as usize..range.end as usize];
            if place.len() != values.len() {
                return Err(Fault { problem: format!("chunk {chunk} has a wrong length"), culprit });
            }
            place.copy_from_slice(&values);
        }
        let micro_batches = self.start.spec.micro_batches.saturating_mul(self.start.members.len() as u32);
        self.engine.apply_gradient(&self.gradient_sum, micro_batches, StepNumbers::in_order(step))?;
        self.steps_done = step + 1;
        Ok(Answer::Applied { step })
    }

    fn export(&mut self, evaluate: bool) -> Result<Answer, Fault> {
        let validation = if evaluate { Some(self.evaluate()?) } else { None };
        Ok(Answer::Exported(Box::new(Export {
            parameters: self.engine.run(|engine| Ok(engine.parameters()?.into_owned()))?,
            parameter_hash: self.parameter_hash()?,
            steps: self.steps_done,
            validation,
        })))
    }

    fn evaluate(&mut self) -> Result<LossSum, Fault> {
        let run_spec = &self.start.spec;
        let length = run_spec.sequence_length as usize;
        let starts = batches::validation_starts(self.data.validation.len(), length, VALIDATION_WINDOWS_MAX)?;
        let mut loss = LossSum::default();
        for starts in starts.chunks(run_spec.micro_batch_sequences as usize) {
            let tokens = batches::tokens(&self.data.validation, starts, length);
            loss = loss.plus(loss_sum(self.engine.run(|engine| engine.evaluate(&tokens, starts.len()))?));
        }
        Ok(loss)
    }
}

fn loss_sum(sum: manta_gpu_kernels::LossSum) -> LossSum {
    LossSum { fixed: sum.fixed, tokens: sum.tokens }
}

fn to_bytes(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The values of a chunk; a length that is no multiple of four was refused on arrival.
fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

#[cfg(test)]
mod tests;
