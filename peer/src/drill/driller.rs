//! The thread that executes work units; see the module.

use super::pace::Pace;
use super::segment::{Job, On};
use super::share::{Budget, Share};
use crate::host;
use crate::run::trainer::{Busy, Fault};
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::device::DeviceError;
use manta_gpu_kernels::drill::{GemmDigests, GemmDriller};
use manta_gpu_kernels::{EngineError, SimdPath};
use manta_protocol::Hash;
use manta_protocol::drill::{Evaluation, SegmentResult};
use manta_protocol::ledger::DrillResult;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Units that may wait.
const JOBS_MAX: usize = 8;
/// Results that may wait to be taken; beyond it the thread rests.
const RESULTS_MAX: usize = 2 * JOBS_MAX;
/// How long a unit is measured.
const MEASURE_MS: u64 = 100;
/// Operations of a gemm that take as long as one of a training step, before any
/// was measured: those are on several digits, and beside them is much else.
const TRAINING_COST: u64 = 32;
/// How long to wait for the trainer before looking again whether to stop.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why a unit was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the speed of this machine is not known yet")]
    NotMeasured,
    #[error("{JOBS_MAX} units wait already")]
    Full,
    #[error("the unit of this task was taken already")]
    Twice,
    #[error("the unit takes about {needed:?}, the share of this machine has {free:?} until its deadline")]
    NoRoom { needed: Duration, free: Duration },
    #[error("the thread that executes units has ended")]
    Gone,
}

/// What a unit came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The digest is equal for everyone who executes the unit.
    Gemm(DrillResult),
    Segment {
        digest: Hash,
        result: SegmentResult,
    },
    Evaluated {
        digest: Hash,
        evaluation: Evaluation,
    },
    /// As was asked.
    Stopped,
    Failed {
        problem: String,
    },
}

/// A unit that is over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) task: Hash,
    pub(crate) outcome: Outcome,
    /// Device time that it took.
    pub(crate) used_ms: u64,
    /// Wall time since it was begun.
    pub(crate) elapsed_ms: u64,
}

/// The way to the thread; dropping it stops the thread after its present block.
#[derive(Debug)]
pub(crate) struct Driller {
    jobs: SyncSender<Request>,
    shared: Arc<Shared>,
    /// Tells once when the speed of this machine is known.
    pub(crate) measured: mpsc::Receiver<()>,
    pub(crate) finished: mpsc::Receiver<Finished>,
}

#[derive(Debug)]
struct Request {
    task: Hash,
    job: Job,
    /// Its deadline.
    until: Instant,
    expected: Duration,
}

/// What both sides see.
#[derive(Debug)]
struct Shared {
    budget: Mutex<Budget>,
    /// The tasks that are not over, and whether they are to be stopped.
    open: Mutex<BTreeMap<Hash, bool>>,
    /// Of gemm units, 0 until it is measured.
    gemm_operations_per_s: AtomicU64,
    /// Of units of runs, 0 until it is measured.
    run_operations_per_s: AtomicU64,
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is guarded here is left half-done by a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// How long a job takes here; `None` until that is known.
    fn expected(&self, job: &Job) -> Option<Duration> {
        let gemm = self.gemm_operations_per_s.load(Ordering::Relaxed);
        let speed = match (job, self.run_operations_per_s.load(Ordering::Relaxed)) {
            (Job::Gemm { .. }, _) => gemm,
            (_, 0) => gemm / TRAINING_COST,
            (_, measured) => measured,
        };
        (speed > 0).then(|| Duration::from_secs_f64((job.operations() as f64 / speed as f64).min(1e9)))
    }

    fn is_stopped(&self, task: &Hash) -> bool {
        self.ended.load(Ordering::Relaxed) || lock(&self.open).get(task).copied().unwrap_or(true)
    }
}

impl Driller {
    /// Starts the thread, which computes on `device`, or natively with `threads`
    /// threads, 0 for as many as there are, and lets `trainer` go first.
    pub(crate) fn start(
        device: Option<AdmittedDevice>,
        threads: usize,
        share: Share,
        trainer: Arc<Busy>,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        let (done, finished) = mpsc::channel(RESULTS_MAX);
        let (know, measured) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            budget: Mutex::new(Budget::new(share, Instant::now())),
            open: Mutex::default(),
            gemm_operations_per_s: AtomicU64::new(0),
            run_operations_per_s: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let mut worker = Worker { device, threads, gemm: None, trainer, shared: shared.clone() };
        std::thread::Builder::new().name("driller".into()).spawn(move || {
            host::yield_to_others();
            worker.measure();
            if worker.shared.gemm_operations_per_s.load(Ordering::Relaxed) > 0 {
                // Nobody may want to know any more.
                let _ = know.try_send(());
            }
            drop(know);
            worker.work(&waiting, &done);
        })?;
        Ok(Self { jobs, shared, measured, finished })
    }

    /// Operations per second of gemm units on this machine; `None` until it is measured.
    pub(crate) fn operations_per_s(&self) -> Option<u64> {
        Some(self.shared.gemm_operations_per_s.load(Ordering::Relaxed)).filter(|speed| *speed > 0)
    }

    /// Takes a unit that must be done `within` so long, and reserves its time. One that
    /// is `owed`, for its result is promised, takes what it takes.
    ///
    /// # Errors
    /// [`Refused`]; nothing is reserved then.
    pub(crate) fn ask(&self, task: Hash, job: Job, within: Duration, owed: bool) -> Result<(), Refused> {
        let expected = self.shared.expected(&job).ok_or(Refused::NotMeasured)?;
        let now = Instant::now();
        let mut open = lock(&self.shared.open);
        if open.contains_key(&task) {
            return Err(Refused::Twice);
        }
        let no_room = |free| Refused::NoRoom { needed: expected, free };
        if owed {
            lock(&self.shared.budget).promise(expected);
        } else {
            lock(&self.shared.budget).reserve(expected, within, now).map_err(no_room)?;
        }
        match self.jobs.try_send(Request { task, job, until: now + within, expected }) {
            Ok(()) => {
                open.insert(task, false);
                Ok(())
            }
            Err(refusal) => {
                lock(&self.shared.budget).release(expected);
                Err(if matches!(refusal, TrySendError::Full(_)) { Refused::Full } else { Refused::Gone })
            }
        }
    }

    /// Stops a unit that was taken; it is reported as stopped.
    pub(crate) fn stop(&self, task: &Hash) {
        if let Some(stopped) = lock(&self.shared.open).get_mut(task) {
            *stopped = true;
        }
    }
}

impl Drop for Driller {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    device: Option<AdmittedDevice>,
    threads: usize,
    /// Built when it is first needed.
    gemm: Option<GemmDriller>,
    trainer: Arc<Busy>,
    shared: Arc<Shared>,
}

impl Worker {
    fn work(&mut self, jobs: &Receiver<Request>, done: &mpsc::Sender<Finished>) {
        while let Ok(request) = jobs.recv() {
            let (task, expected) = (request.task, request.expected);
            let finished = self.perform(request);
            lock(&self.shared.budget).release(expected);
            lock(&self.shared.open).remove(&task);
            if self.shared.ended.load(Ordering::Relaxed) || done.blocking_send(finished).is_err() {
                return;
            }
        }
    }

    /// Measures gemm units, on the processor if the device fails.
    fn measure(&mut self) {
        let measured = loop {
            let measured = self.gemm().and_then(|gemm| gemm.measure_operations_per_s(MEASURE_MS));
            match measured {
                Err(EngineError::Device(trouble)) if self.device.is_some() => self.give_up_device(&trouble),
                measured => break measured,
            }
        };
        match measured {
            Ok(speed) => self.shared.gemm_operations_per_s.store(speed.max(1), Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "this machine cannot drill"),
        }
    }

    fn gemm(&mut self) -> Result<&mut GemmDriller, EngineError> {
        let gemm = match (self.gemm.take(), &self.device) {
            (Some(gemm), _) => gemm,
            (None, Some(device)) => GemmDriller::on_device(device)?,
            (None, None) => GemmDriller::native(self.threads, SimdPath::Auto)?,
        };
        Ok(self.gemm.insert(gemm))
    }

    fn give_up_device(&mut self, trouble: &DeviceError) {
        tracing::warn!(%trouble, "drilling goes on without the graphics device");
        (self.device, self.gemm) = (None, None);
        self.shared.run_operations_per_s.store(0, Ordering::Relaxed);
    }

    fn perform(&mut self, request: Request) -> Finished {
        let Request { task, job, until, expected } = request;
        let begun = Instant::now();
        let within = until.saturating_duration_since(begun);
        let (shared, trainer) = (self.shared.clone(), self.trainer.clone());
        let mut course = Course { pace: Pace::new(begun, within, expected), since: begun, task, shared, trainer };
        let of_gemm = matches!(job, Job::Gemm { .. }).then(|| job.operations());
        let shared_speed = &self.shared.clone().gemm_operations_per_s;
        let of_run = (!matches!(job, Job::Gemm { .. })).then(|| job.operations());
        let outcome = self.execute(job, &mut course).unwrap_or_else(|fault| Outcome::Failed { problem: fault.problem });
        course.charge();
        let used = course.pace.used();
        if let (Some(operations), Outcome::Gemm(_)) = (of_gemm, &outcome) {
            // The machine may have been busier, or less, when it was measured.
            let speed = (operations as f64 / used.as_secs_f64().max(1e-6)) as u64;
            let before = shared_speed.load(Ordering::Relaxed);
            shared_speed.store((before / 4 * 3).saturating_add(speed / 4).max(1), Ordering::Relaxed);
        }
        if let (Some(operations), Outcome::Segment { .. } | Outcome::Evaluated { .. }) = (of_run, &outcome) {
            let speed = operations as f64 / used.as_secs_f64().max(1e-6);
            self.shared.run_operations_per_s.store((speed as u64).max(1), Ordering::Relaxed);
        }
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Finished { task, outcome, used_ms: ms(used), elapsed_ms: ms(begun.elapsed()) }
    }

    fn execute(&mut self, job: Job, course: &mut Course) -> Result<Outcome, Fault> {
        let mut may_go_on = || course.may_go_on();
        match job {
            Job::Gemm { shape, seed, challenge } => {
                let challenge = challenge.as_ref().map(Hash::as_bytes);
                let found =
                    self.gemm().and_then(|gemm| gemm.execute(&shape, seed.as_bytes(), challenge, &mut may_go_on));
                if let Err(EngineError::Device(trouble)) = &found {
                    // Too late to do this one natively, but the next ones are.
                    self.give_up_device(trouble);
                    self.measure();
                }
                let outcome = |found: GemmDigests| {
                    Outcome::Gemm(DrillResult { digest: Hash(found.digest), check: Hash(found.check) })
                };
                Ok(found?.map_or(Outcome::Stopped, outcome))
            }
            Job::Segment(job) => {
                let unit = job.unit.clone();
                let (result, trouble) = job.execute(self.on(), &mut may_go_on)?;
                self.note(trouble);
                let outcome = |result| Outcome::Segment { digest: unit.digest(&result), result };
                Ok(result.map_or(Outcome::Stopped, outcome))
            }
            Job::Evaluate(job) => {
                let unit = job.unit;
                let (result, trouble) = job.execute(self.on(), &mut may_go_on)?;
                self.note(trouble);
                let outcome = |evaluation| Outcome::Evaluated { digest: unit.digest(&evaluation), evaluation };
                Ok(result.map_or(Outcome::Stopped, outcome))
            }
        }
    }

    fn on(&self) -> On<'_> {
        On { device: self.device.as_ref(), threads: self.threads }
    }

    /// A device may be too small for one model and good for the next unit.
    fn note(&mut self, trouble: Option<DeviceError>) {
        match trouble {
            None | Some(DeviceError::Binding { .. } | DeviceError::OutOfMemory { .. } | DeviceError::Axis { .. }) => {}
            Some(trouble) => {
                self.give_up_device(&trouble);
                self.measure();
            }
        }
    }
}

/// One unit under way.
struct Course {
    pace: Pace,
    /// When its present block was begun.
    since: Instant,
    task: Hash,
    shared: Arc<Shared>,
    trainer: Arc<Busy>,
}

impl Course {
    /// Accounts for the block that has ended.
    fn charge(&mut self) {
        let now = Instant::now();
        let used = now.saturating_duration_since(self.since);
        self.since = now;
        self.pace.charge(used);
        lock(&self.shared.budget).charge(used, now);
    }

    /// Waits for the trainer as long as there is time; `false` if the unit is to be stopped.
    fn may_go_on(&mut self) -> bool {
        self.charge();
        loop {
            if self.shared.is_stopped(&self.task) {
                return false;
            }
            let patience = self.pace.patience(Instant::now());
            if patience.is_zero() || self.trainer.wait_idle(patience.min(LOOK_AGAIN)) {
                break;
            }
        }
        self.since = Instant::now();
        true
    }
}
