//! Units of runs: exchanges computed again, and models judged, by the code that trains.

use crate::data::DataSet;
use crate::host;
use crate::run::engine::Means;
use crate::run::state::{RunState, bytes_of, values_of};
use crate::run::trainer::Fault;
use crate::run::trainer::model::{Model, Own, Values};
use manta_gpu_kernels::admission::AdmittedDevice;
use manta_gpu_kernels::device::DeviceError;
use manta_gpu_kernels::drill::GemmShape;
use manta_gpu_kernels::reduce;
use manta_protocol::drill::{EvaluateUnit, Evaluation, SegmentResult, SegmentUnit, Unit};
use manta_protocol::run::{RunSpec, ledger};
use manta_protocol::{Hash, PeerId, RunId};
use std::sync::Arc;

/// A unit with all that executing it takes.
#[derive(Debug)]
pub(crate) enum Job {
    /// With a second digest under the challenge, where there is one.
    Gemm {
        shape: GemmShape,
        seed: Hash,
        challenge: Option<Hash>,
    },
    Segment(Box<SegmentJob>),
    Evaluate(Box<EvaluateJob>),
}

/// A part of a run.
#[derive(Debug)]
pub(crate) struct SegmentJob {
    pub(crate) unit: SegmentUnit,
    pub(crate) spec: RunSpec,
    pub(crate) data: Arc<DataSet>,
    /// Before the first exchange.
    pub(crate) state: RunState,
    /// Each member's, as [`moments`] has them, where the unit names some.
    pub(crate) moments: Vec<Option<RunState>>,
}

/// A model and the text to judge it by.
#[derive(Debug)]
pub(crate) struct EvaluateJob {
    pub(crate) unit: EvaluateUnit,
    pub(crate) spec: RunSpec,
    pub(crate) data: Arc<DataSet>,
    pub(crate) state: RunState,
}

impl Job {
    /// The unit's operations.
    pub(crate) fn operations(&self) -> u64 {
        match self {
            Self::Gemm { shape, .. } => shape.operations(),
            Self::Segment(job) => Unit::Segment { unit: Box::new(job.unit.clone()) }.operations(),
            Self::Evaluate(job) => Unit::Evaluate { unit: job.unit }.operations(),
        }
    }
}

/// What computes.
#[derive(Clone, Copy)]
pub(crate) struct On<'a> {
    /// `None` for the native engine.
    pub(crate) device: Option<&'a AdmittedDevice>,
    /// Of the native engine, 0 for all.
    pub(crate) threads: usize,
}

impl On<'_> {
    /// Units are done in whatever memory there is.
    fn means(&self) -> Means {
        Means { threads: self.threads, ..Means::default() }
    }
}

/// What came of a job, if it was not stopped, and whether the device failed on the
/// way: then it was ended natively, with the same result.
pub(crate) type Executed<T> = Result<(Option<T>, Option<DeviceError>), Fault>;

/// What a member keeps to itself, as it is given out: both moments.
pub(crate) fn moments(own: &Own, exchange: u64) -> Option<RunState> {
    own.moments.as_ref().map(|moments| RunState { exchange, vectors: moments.to_vec() })
}

fn check(what: &str, state: &RunState, run: RunId, root: Hash) -> Result<(), Fault> {
    let found = state.cut(run).root;
    if found == root {
        return Ok(());
    }
    Err(format!("{what} has the root {}, the unit names {}", found.short(), root.short()).into())
}

impl SegmentJob {
    fn members(&mut self, parameters: u64) -> Result<Vec<Own>, Fault> {
        let members = self.unit.members.len();
        if self.moments.len() != members {
            return Err(format!("moments of {} members, the unit names {members}", self.moments.len()).into());
        }
        // Two vectors each, beside what the engine itself needs.
        let (needed, free) = (8 * parameters * members as u64, host::available_memory_bytes());
        if needed > free {
            return Err(format!("the members' moments take {needed} bytes, of which {free} are free").into());
        }
        let (run, first) = (self.unit.run, self.unit.first);
        let each = self.unit.members.iter().zip(std::mem::take(&mut self.moments));
        let own = each.map(|(own, state)| match (own.moments, state) {
            (None, None) => Ok(Own { steps: own.steps, moments: None }),
            (Some(root), Some(state)) if state.exchange == first => {
                check("a member's moments", &state, run, root)?;
                let wrong = |vectors: Vec<Vec<f32>>| format!("moments of {} vectors, expected 2", vectors.len());
                let moments: [Vec<f32>; 2] = state.vectors.try_into().map_err(wrong)?;
                if moments.iter().any(|vector| vector.len() as u64 != parameters) {
                    return Err(Fault::from("moments of another model"));
                }
                Ok(Own { steps: own.steps, moments: Some(moments) })
            }
            _ => Err(Fault::from("moments of a member that the unit does not name, or of another exchange")),
        });
        own.collect()
    }

    /// Does the exchanges again; `None` if it may not go on.
    ///
    /// # Errors
    /// What was given is not what the unit names, or cannot be computed here.
    pub(crate) fn execute(mut self, on: On<'_>, may_go_on: &mut dyn FnMut() -> bool) -> Executed<SegmentResult> {
        let unit = Unit::Segment { unit: Box::new(self.unit.clone()) };
        unit.validate()?;
        self.spec.validate()?;
        unit.check_spec(&self.spec)?;
        if self.state.exchange != self.unit.first {
            return Err(format!("the state before exchange {}, not {}", self.state.exchange, self.unit.first).into());
        }
        check("the state", &self.state, self.unit.run, self.unit.from)?;
        let parameters = self.spec.model.parameters().ok_or("a model without end")?;
        let mut members = self.members(parameters)?;
        let Self { unit, spec, data, state, .. } = self;
        let mut model = Model::prepare(unit.run, &spec, data, None, on.device, on.means())?;
        model.load(state)?;
        let mut losses = Vec::new();
        let mut sum = vec![0.0; usize::try_from(parameters)?];
        for (number, exchange) in (unit.first..).zip(&unit.exchanges) {
            let mut batches = 0;
            sum.fill(0.0);
            for (place, spans) in exchange.contributors.iter().enumerate().filter(|(_, spans)| !spans.is_empty()) {
                if let Some(own) = members.get(place) {
                    model.stand_in(own)?;
                }
                let values = model.values(spans, exchange.schedule_step, || !may_go_on())?;
                let Some(Values { losses: of_batches, values }) = values else { return Ok((None, None)) };
                losses.extend(of_batches);
                reduce::accumulate(&mut sum, &values_of(&values).collect::<Vec<_>>())?;
                batches += ledger::count(spans);
                if let Some(own) = members.get_mut(place) {
                    *own = model.own()?;
                }
            }
            model.apply(number, batches, exchange.schedule_step, &[(PeerId([0; 32]), bytes_of(&sum))])?;
        }
        let after = unit.first + unit.exchanges.len() as u64;
        let state = model.state(after)?.cut(unit.run).root;
        let trouble = model.take_trouble().map(|(trouble, _)| trouble);
        Ok((Some(SegmentResult { state, losses }), trouble))
    }
}

impl EvaluateJob {
    /// Judges the model; `None` if it may not go on.
    ///
    /// # Errors
    /// As [`SegmentJob::execute`].
    pub(crate) fn execute(self, on: On<'_>, may_go_on: &mut dyn FnMut() -> bool) -> Executed<Evaluation> {
        let unit = Unit::Evaluate { unit: self.unit };
        unit.validate()?;
        self.spec.validate()?;
        unit.check_spec(&self.spec)?;
        check("the state", &self.state, self.unit.run, self.unit.state)?;
        let Self { unit, spec, data, state } = self;
        let mut model = Model::prepare(unit.run, &spec, data, None, on.device, on.means())?;
        let RunState { exchange, mut vectors } = state;
        // Whatever the state has beside them is of no use here.
        vectors.truncate(1);
        model.load_result(RunState { exchange, vectors })?;
        let found = model.evaluate(unit.windows as usize, may_go_on)?;
        Ok((found, model.take_trouble().map(|(trouble, _)| trouble)))
    }
}
