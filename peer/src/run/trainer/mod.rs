//! The one thread that owns engine and device: takes work, gives back what came of it.
//!
//! Tensors cross this boundary as little-endian f32 bytes, ready for the
//! network; nothing is shared with other threads. Work for a run that is closed,
//! or was never prepared, is dropped without an answer, and so is a computation
//! that a later one has made useless.

mod busy;
pub(crate) mod model;
#[cfg(test)]
pub(crate) mod tests;

use crate::data::DataSet;
use crate::run::engine::Means;
use crate::run::state::RunState;
pub(crate) use busy::Busy;
use bytes::Bytes;
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::device::DeviceError;
use manta_protocol::drill::Evaluation;
use manta_protocol::effect::RunStart;
use manta_protocol::run::ledger::Span;
use manta_protocol::run::report::LossSum;
use manta_protocol::{Hash, PeerId, RunId};
use model::Model;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Work that may wait: the reductions of two exchanges and a few more.
const WORK_CAPACITY: usize = 2 * manta_protocol::wire::limits::CHUNKS_MAX + 64;
/// Answers that may wait for the driver; beyond it the thread rests.
const DONE_CAPACITY: usize = 256;

/// What the trainer is asked.
#[derive(Debug)]
pub(crate) enum Work {
    /// Build the model of a run with its initial parameters, those of its seed where
    /// none are given, and go on from `state` if there is one; closes the run before.
    Prepare { start: Arc<RunStart>, data: Arc<DataSet>, initial: Option<Vec<f32>>, state: Option<RunState> },
    /// Compute own batches; `schedule_step` is where the learning rate stands.
    Compute { run: RunId, exchange: u64, plan: u32, batches: Vec<Span>, schedule_step: u64 },
    /// Add up these values of a chunk, in this order.
    Reduce { run: RunId, exchange: u64, view: u32, chunk: u32, contributions: Vec<(PeerId, Bytes)> },
    /// Make the optimiser's step with the sums of all chunks, in order, and who added them up.
    Apply { run: RunId, exchange: u64, batches: u64, schedule_step: u64, sums: Vec<(PeerId, Bytes)> },
    /// Hash the parameters.
    Hash { run: RunId, exchange: u64 },
    /// Give out the state before `exchange`.
    State { run: RunId, exchange: u64, purpose: Purpose },
    /// Go on from a state.
    Load { run: RunId, state: RunState },
    /// Take these parameters as the run's result.
    LoadResult { run: RunId, state: RunState },
    /// Give out the parameters, and evaluate them on the validation part if asked.
    Export { run: RunId, evaluate: bool },
    /// Free the model.
    Close { run: RunId },
}

/// What a state is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For newcomers to fetch.
    Snapshot,
    /// For this machine, through a restart.
    Checkpoint,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The state that was to be gone on from did not fit; of a checkpoint, said ahead of `Prepared`.
    StateNotLoaded {
        exchange: u64,
        problem: String,
    },
    Prepared {
        parameter_hash: Hash,
    },
    /// The own values of the whole vector.
    Computed {
        exchange: u64,
        plan: u32,
        loss: LossSum,
        compute_ms: u64,
        values: Bytes,
    },
    Reduced {
        exchange: u64,
        view: u32,
        chunk: u32,
        sum: Bytes,
    },
    Applied {
        exchange: u64,
    },
    Hashed {
        exchange: u64,
        parameter_hash: Hash,
    },
    State {
        purpose: Purpose,
        state: RunState,
    },
    StateLoaded {
        exchange: u64,
    },
    ResultLoaded,
    Exported(Box<Export>),
    /// The graphics device has failed; said before the answer to the work that met it.
    DeviceFailed {
        problem: String,
        /// Whether it is given up for later runs, too, or is only too small for this one.
        gone: bool,
        /// Whether the run goes on natively.
        rescued: bool,
    },
    /// It cannot be done; `culprit` is the member whose values were at fault.
    Failed {
        problem: String,
        culprit: Option<PeerId>,
    },
}

/// A model given out.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) parameters: Vec<f32>,
    pub(crate) parameter_hash: Hash,
    /// The exchange that would come next.
    pub(crate) exchange: u64,
    /// Loss and hits on the validation part, if asked for.
    pub(crate) validation: Option<Evaluation>,
}

/// The way to the trainer thread.
#[derive(Debug)]
pub(crate) struct Trainer {
    work: mpsc::Sender<(u64, Work)>,
    /// Counts the computations that were asked for; an earlier one is of no more use.
    turn: Arc<AtomicU64>,
    /// Whether the thread works, or has work waiting.
    busy: Arc<Busy>,
    pub(crate) answers: mpsc::Receiver<(RunId, Answer)>,
}

impl Trainer {
    /// Starts the thread, which computes on `device`, or natively.
    pub(crate) fn start(device: Option<AdmittedDevice>, means: Means) -> std::io::Result<Self> {
        let (work, mut jobs) = mpsc::channel(WORK_CAPACITY);
        let (done, answers) = mpsc::channel(DONE_CAPACITY);
        let turn = Arc::new(AtomicU64::new(0));
        let busy = Arc::new(Busy::default());
        let busy_there = busy.clone();
        let mut worker = Worker { device, means, turn: turn.clone(), model: None };
        std::thread::Builder::new().name("trainer".into()).spawn(move || {
            while let Some((turn, job)) = jobs.blocking_recv() {
                busy_there.set(true);
                let answers = worker.perform(job, turn);
                busy_there.set(!jobs.is_empty());
                for answer in worker.trouble().into_iter().chain(answers) {
                    if done.blocking_send(answer).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(Self { work, turn, busy, answers })
    }

    /// Whether the thread works: what may wait should wait for it.
    pub(crate) fn busy(&self) -> Arc<Busy> {
        self.busy.clone()
    }

    /// Hands over work without waiting. `false` if the thread is gone or
    /// behind by [`WORK_CAPACITY`] jobs, which no honest run brings about.
    pub(crate) fn ask(&self, work: Work) -> bool {
        if matches!(work, Work::Compute { .. } | Work::Load { .. } | Work::Close { .. }) {
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
        self.work.try_send((self.turn.load(Ordering::Relaxed), work)).is_ok()
    }
}

/// A failure with the member at fault.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) problem: String,
    culprit: Option<PeerId>,
}

impl<E: std::fmt::Display> From<E> for Fault {
    fn from(error: E) -> Self {
        Self { problem: error.to_string(), culprit: None }
    }
}

impl From<Fault> for Answer {
    fn from(Fault { problem, culprit }: Fault) -> Self {
        Self::Failed { problem, culprit }
    }
}

/// What the thread keeps.
struct Worker {
    /// `None` for the native engine.
    device: Option<AdmittedDevice>,
    means: Means,
    turn: Arc<AtomicU64>,
    model: Option<Model>,
}

impl Worker {
    fn perform(&mut self, work: Work, turn: u64) -> Vec<(RunId, Answer)> {
        let run = match &work {
            Work::Prepare { start, .. } => start.run,
            Work::Compute { run, .. }
            | Work::Reduce { run, .. }
            | Work::Apply { run, .. }
            | Work::Hash { run, .. }
            | Work::State { run, .. }
            | Work::Load { run, .. }
            | Work::LoadResult { run, .. }
            | Work::Export { run, .. }
            | Work::Close { run } => *run,
        };
        if let Work::Prepare { start, data, initial, state } = work {
            let answers = self.prepare(start, data, initial, state).unwrap_or_else(|fault| vec![fault.into()]);
            return answers.into_iter().map(|answer| (run, answer)).collect();
        }
        let Some(model) = self.model.as_mut().filter(|model| model.run() == run) else { return Vec::new() };
        let superseded = || self.turn.load(Ordering::Relaxed) != turn;
        let answer = match work {
            Work::Prepare { .. } | Work::Close { .. } => {
                self.model = None;
                return Vec::new();
            }
            Work::Compute { exchange, plan, batches, schedule_step, .. } => {
                match model.compute(exchange, plan, &batches, schedule_step, superseded) {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => return Vec::new(),
                    Err(fault) => Err(fault),
                }
            }
            Work::Reduce { exchange, view, chunk, contributions, .. } => {
                model::reduce(exchange, view, chunk, &contributions)
            }
            Work::Apply { exchange, batches, schedule_step, sums, .. } => {
                model.apply(exchange, batches, schedule_step, &sums)
            }
            Work::Hash { exchange, .. } => {
                model.parameter_hash().map(|parameter_hash| Answer::Hashed { exchange, parameter_hash })
            }
            Work::State { exchange, purpose, .. } => {
                model.state(exchange).map(|state| Answer::State { purpose, state })
            }
            Work::Load { state, .. } => {
                let exchange = state.exchange;
                Ok(match model.load(state) {
                    Ok(()) => Answer::StateLoaded { exchange },
                    Err(Fault { problem, .. }) => Answer::StateNotLoaded { exchange, problem },
                })
            }
            Work::LoadResult { state, .. } => model.load_result(state).map(|()| Answer::ResultLoaded),
            Work::Export { evaluate, .. } => model.export(evaluate).map(|export| Answer::Exported(Box::new(export))),
        };
        vec![(run, answer.unwrap_or_else(Answer::from))]
    }

    fn prepare(
        &mut self,
        start: Arc<RunStart>,
        data: Arc<DataSet>,
        initial: Option<Vec<f32>>,
        state: Option<RunState>,
    ) -> Result<Vec<Answer>, Fault> {
        // The memory of the model before is needed for this one.
        self.model = None;
        let model = Model::prepare(start.run, &start.spec, data, initial, self.device.as_ref(), self.means)?;
        let model = self.model.insert(model);
        let mut answers = Vec::new();
        if let Some(state) = state {
            let exchange = state.exchange;
            if let Err(Fault { problem, .. }) = model.load(state) {
                answers.push(Answer::StateNotLoaded { exchange, problem });
            }
        }
        let parameter_hash = model.parameter_hash()?;
        answers.push(Answer::Prepared { parameter_hash });
        Ok(answers)
    }

    /// What has become of the device in the work just done.
    fn trouble(&mut self) -> Option<(RunId, Answer)> {
        let model = self.model.as_mut()?;
        let (trouble, rescued) = model.take_trouble()?;
        // A device may be too small for one model and good for the next.
        let gone = !matches!(trouble, DeviceError::Binding { .. } | DeviceError::OutOfMemory { .. });
        if gone {
            self.device = None;
        }
        Some((model.run(), Answer::DeviceFailed { problem: trouble.to_string(), gone, rescued }))
    }
}
