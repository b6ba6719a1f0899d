//! One machine's part in one run: a small vector model in real f32 arithmetic,
//! so that an addition in another order, left out or done twice gives other
//! bits and so another hash.
//!
//! The gradient of a batch depends on its number and on the parameters: members
//! that differ once differ for ever. Values and sums are kept as the protocol
//! asks for: values until their exchange is applied, sums one exchange longer.

use crate::draws::Draws;
use crate::tamper::Break;
use manta_protocol::effect::{Entry, RunStart};
use manta_protocol::run::ledger::Span;
use manta_protocol::run::view::View;
use manta_protocol::run::{ChunkPlan, Phase};
use manta_protocol::wire::limits::LISTEN_AHEAD_MAX;
use manta_protocol::{Hash, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The values of a chunk.
pub type Values = Arc<[f32]>;

/// Learning rate of every simulated step.
const RATE: f32 = 0.1;

/// Everything that the next exchange depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Exchanges that led here.
    pub exchange: u64,
    /// The model.
    pub parameters: Vec<f32>,
    /// The outer optimiser's momentum.
    pub momentum: Vec<f32>,
}

impl State {
    /// The state as a file or a donor gives it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.parameters.iter().chain(&self.momentum);
        self.exchange.to_le_bytes().into_iter().chain(values.flat_map(|value| value.to_bits().to_le_bytes())).collect()
    }

    /// The state of these bytes; `None` if they are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (exchange, values) = bytes.split_first_chunk()?;
        let values: Vec<f32> = values.as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect();
        let (parameters, momentum) = values.split_at(values.len() / 2);
        let [parameters, momentum] = [parameters, momentum].map(<[f32]>::to_vec);
        Some(Self { exchange: u64::from_le_bytes(*exchange), parameters, momentum })
    }

    /// The hash of all of it: its name as a checkpoint.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// The hash of the parameters: what members compare.
    pub fn parameter_hash(&self) -> Hash {
        let bytes: Vec<u8> = self.parameters.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
        Hash::of(&bytes)
    }
}

/// From which exchange on the vector is cut for how many ranks.
#[derive(Clone, Copy, Debug)]
struct Mark {
    from: u64,
    plan: u32,
    ranks: usize,
}

/// One machine's part in one run.
pub struct Training {
    start: Arc<RunStart>,
    broken: Option<Break>,
    marks: Vec<Mark>,
    state: State,
    /// Whether data and model are there.
    pub prepared: bool,
    /// Whom the transport lets in.
    pub admitted: BTreeSet<PeerId>,
    snapshot: Option<(u64, Hash, State)>,
    computing: Option<(u64, u32)>,
    reducing: BTreeSet<(u64, u32, u32)>,
    own: BTreeMap<u64, Vec<f32>>,
    received: BTreeMap<(u64, u32, PeerId), Values>,
    sums: BTreeMap<(u64, u32), Values>,
}

impl Training {
    /// The initial model; `None` if the spec has no size.
    pub fn new(start: Arc<RunStart>, broken: Option<Break>) -> Option<Self> {
        let elements = start.spec.model.parameters()? as usize;
        let seed = match broken {
            Some(Break::WrongStart) => start.spec.seed.child("another", 0),
            _ => start.spec.seed,
        };
        let mut draws = Draws::new(seed.child("initial", 0));
        let parameters = (0..elements).map(|_| unit(draws.bits())).collect();
        let state = State { exchange: 0, parameters, momentum: vec![0.0; elements] };
        let first = Mark { from: 0, plan: 0, ranks: start.members.len() };
        let marks = if start.entry == Entry::First { vec![first] } else { Vec::new() };
        Some(Self {
            admitted: start.members.iter().map(|member| member.peer).chain([start.owner]).collect(),
            start,
            broken,
            marks,
            state,
            prepared: false,
            snapshot: None,
            computing: None,
            reducing: BTreeSet::new(),
            own: BTreeMap::new(),
            received: BTreeMap::new(),
            sums: BTreeMap::new(),
        })
    }

    /// The run as it began here.
    pub fn start(&self) -> &RunStart {
        &self.start
    }

    /// The state as it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Another state, from the disk or from donors.
    pub fn load(&mut self, state: State) {
        self.state = state;
    }

    /// The members are these from now on.
    pub fn view_changed(&mut self, view: &View) {
        if self.marks.iter().all(|mark| mark.plan != view.plan) {
            self.marks.retain(|mark| mark.from < view.from);
            self.marks.push(Mark { from: view.from, plan: view.plan, ranks: view.full().count() });
        }
    }

    /// Number of the view whose plan an exchange follows.
    pub fn plan_of(&self, exchange: u64) -> Option<u32> {
        self.mark(exchange).map(|mark| mark.plan)
    }

    fn mark(&self, exchange: u64) -> Option<Mark> {
        self.marks.iter().rev().find(|mark| mark.from <= exchange).copied()
    }

    fn cut(&self, exchange: u64) -> Option<ChunkPlan> {
        self.start.spec.chunk_plan(self.mark(exchange)?.ranks)
    }

    /// The elements of a chunk as indices.
    pub fn range(&self, exchange: u64, chunk: u32) -> Option<Range<usize>> {
        self.cut(exchange)?.elements(chunk).map(|range| range.start as usize..range.end as usize)
    }

    // ---- computing ----

    /// Batches are to be computed; what was begun before is of no more use.
    pub fn begin_compute(&mut self, exchange: u64, plan: u32) {
        self.computing = Some((exchange, plan));
    }

    /// The contribution of these batches, from the state as it is; `None` if it
    /// is not wanted any more.
    pub fn end_compute(&mut self, exchange: u64, plan: u32, batches: &[Span]) -> Option<&[f32]> {
        self.computing.take_if(|begun| *begun == (exchange, plan))?;
        let contribution = self.contribution(batches);
        self.own.insert(exchange, contribution);
        self.own.get(&exchange).map(Vec::as_slice)
    }

    /// Sum over batches: of gradients, or of how far each batch's share of local
    /// steps moved the parameters.
    fn contribution(&self, batches: &[Span]) -> Vec<f32> {
        let numbers: Vec<u64> = batches.iter().flat_map(|span| span.first..span.first + span.count).collect();
        let mut sum = vec![0.0; self.state.parameters.len()];
        if self.start.spec.outer.is_none() {
            numbers.iter().for_each(|batch| self.add_gradient(*batch, &self.state.parameters, 1.0, &mut sum));
            return sum;
        }
        let per_step = numbers.len().div_ceil(self.start.spec.steps_per_round as usize).max(1);
        let mut local = self.state.parameters.clone();
        for step in numbers.chunks(per_step) {
            let mut gradient = vec![0.0; local.len()];
            step.iter().for_each(|batch| self.add_gradient(*batch, &local, 1.0 / step.len() as f32, &mut gradient));
            local.iter_mut().zip(gradient).for_each(|(parameter, slope)| *parameter -= RATE * slope);
        }
        let weight = numbers.len() as f32;
        let moved = self.state.parameters.iter().zip(&local).map(|(before, after)| (before - after) * weight);
        sum.iter_mut().zip(moved).for_each(|(sum, moved)| *sum = moved);
        sum
    }

    fn add_gradient(&self, batch: u64, parameters: &[f32], weight: f32, sum: &mut [f32]) {
        let mut targets = Draws::new(self.start.spec.seed.child("batch", batch));
        for (sum, parameter) in sum.iter_mut().zip(parameters) {
            *sum += (parameter - unit(targets.bits())) * weight;
        }
    }

    // ---- exchanging ----

    /// The values of a chunk to send; `None` if they are not there.
    pub fn outgoing(&self, exchange: u64, phase: Phase, chunk: u32) -> Option<Values> {
        match phase {
            Phase::Contribution => Some(self.own.get(&exchange)?.get(self.range(exchange, chunk)?)?.into()),
            Phase::Sum => self.sums.get(&(exchange, chunk)).cloned(),
        }
    }

    /// Keeps a chunk that came from `from`; whether it is the first of its kind.
    pub fn keep(&mut self, from: PeerId, exchange: u64, phase: Phase, chunk: u32, values: Values) -> bool {
        match phase {
            Phase::Contribution => self.received.insert((exchange, chunk, from), values).is_none(),
            Phase::Sum => self.sums.insert((exchange, chunk), values).is_none(),
        }
    }

    /// A chunk of these members' values is to be added up in `view`: what they
    /// are, in this order; `None` if some are missing.
    pub fn begin_reduce(&mut self, exchange: u64, view: u32, chunk: u32, of: &[PeerId]) -> Option<Vec<Values>> {
        self.reducing.insert((exchange, view, chunk));
        let held: Vec<PeerId> = match self.broken {
            Some(Break::StaleSums) => self.holders(exchange, chunk),
            _ => of.to_vec(),
        };
        let me = self.start.me;
        let values = |peer: &PeerId| match self.received.get(&(exchange, chunk, *peer)) {
            Some(values) => Some(values.clone()),
            None if *peer == me => self.outgoing(exchange, Phase::Contribution, chunk),
            None => None,
        };
        let mut parts = held.iter().map(values).collect::<Option<Vec<_>>>()?;
        match self.broken {
            Some(Break::WrongOrder) => parts.reverse(),
            Some(Break::SkipContribution) => drop(parts.pop()),
            Some(Break::DoubleCount) => parts.extend(self.outgoing(exchange, Phase::Contribution, chunk)),
            _ => {}
        }
        Some(parts)
    }

    fn holders(&self, exchange: u64, chunk: u32) -> Vec<PeerId> {
        let of_chunk = (exchange, chunk, PeerId([0; 32]))..=(exchange, chunk, PeerId([255; 32]));
        let mut peers: BTreeSet<_> = self.received.range(of_chunk).map(|((_, _, peer), _)| *peer).collect();
        peers.insert(self.start.me);
        peers.into_iter().collect()
    }

    /// A chunk was added up; `None` if the sum is not wanted any more.
    pub fn end_reduce(&mut self, exchange: u64, view: u32, chunk: u32, parts: &[Values]) -> Option<Values> {
        if !self.reducing.remove(&(exchange, view, chunk)) {
            return None;
        }
        let mut sum = vec![0.0f32; self.range(exchange, chunk)?.len()];
        for part in parts {
            sum.iter_mut().zip(part.iter()).for_each(|(sum, value)| *sum += value);
        }
        let sum: Values = sum.into();
        self.sums.insert((exchange, chunk), sum.clone());
        Some(sum)
    }

    /// Sums of an exchange are to be made anew.
    pub fn drop_sums(&mut self, exchange: u64) {
        self.sums.retain(|(of, _), _| *of != exchange);
        self.reducing.retain(|(of, _, _)| *of != exchange);
    }

    /// An exchange and all after it are to be made anew.
    pub fn drop_exchange(&mut self, first: u64) {
        self.computing.take_if(|(exchange, _)| *exchange >= first);
        self.own.split_off(&first);
        self.received.retain(|(exchange, _, _), _| *exchange < first);
        self.sums.retain(|(exchange, _), _| *exchange < first);
        self.reducing.retain(|(exchange, _, _)| *exchange < first);
    }

    /// The whole vector of an exchange's sums; `None` if one is missing.
    pub fn gather(&self, exchange: u64) -> Option<Vec<f32>> {
        let chunks = self.cut(exchange)?.chunks();
        let sums = (0..chunks).map(|chunk| self.sums.get(&(exchange, chunk)));
        Some(sums.collect::<Option<Vec<_>>>()?.into_iter().flat_map(|sum| sum.iter().copied()).collect())
    }

    /// Makes the optimiser's step with the sum over `batches` batches.
    pub fn apply(&mut self, exchange: u64, sum: &[f32], batches: u64) {
        let divisor = match self.broken {
            Some(Break::WrongDivisor) => batches + 1,
            _ => batches,
        } as f32;
        let outer = self.start.spec.outer.clone();
        let State { parameters, momentum, .. } = &mut self.state;
        for ((parameter, momentum), sum) in parameters.iter_mut().zip(momentum).zip(sum) {
            let mean = sum / divisor;
            if let Some(outer) = &outer {
                *momentum = outer.momentum.value() * *momentum + mean;
                *parameter -= outer.learning_rate.value() * (mean + outer.momentum.value() * *momentum);
            } else {
                *parameter -= RATE * mean;
            }
        }
        if self.broken == Some(Break::CorruptStep) && exchange == 1 {
            parameters[0] += 1.0;
        }
        self.state.exchange = exchange + 1;
        self.own.retain(|of, _| *of > exchange);
        self.received.retain(|(of, _, _), _| *of > exchange);
        self.sums.retain(|(of, _), _| *of >= exchange);
    }

    // ---- saving ----

    /// The hash that the machine reports after a round.
    pub fn reported_hash(&self) -> Hash {
        match self.broken {
            Some(Break::LieAboutHash) => Hash::of(b"a lie"),
            _ => self.state.parameter_hash(),
        }
    }

    /// Keeps the state for newcomers and names it.
    pub fn take_snapshot(&mut self, exchange: u64) -> Hash {
        let root = self.state.hash();
        self.snapshot = Some((exchange, root, self.state.clone()));
        root
    }

    /// The state that is kept for newcomers, if it is this one.
    pub fn snapshot(&self, exchange: u64, root: Hash) -> Option<&State> {
        self.snapshot.as_ref().filter(|kept| (kept.0, kept.1) == (exchange, root)).map(|(_, _, state)| state)
    }

    /// Nobody needs the kept state any more.
    pub fn drop_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Chunks that are held in memory.
    pub fn chunks_held(&self) -> usize {
        self.received.len() + self.sums.len()
    }

    /// Most chunks that an honest member ever holds: all values and sums of an
    /// exchange and the next one's, and the sums of the one before; a listener
    /// holds the sums of some more.
    pub fn chunks_held_max(&self, members: usize) -> usize {
        let chunks = self.start.spec.chunk_plan(members).map_or(0, |plan| plan.chunks() as usize);
        chunks * (2 * members + 3 + LISTEN_AHEAD_MAX as usize)
    }
}

/// A number in [-1, 1) with 24 significant bits, none of which f32 loses.
fn unit(value: u64) -> f32 {
    (value >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_bytes_and_any_change_is_another_hash() {
        let state = State { exchange: 5, parameters: vec![1.5, -0.25], momentum: vec![0.0, 3.0] };
        assert_eq!(State::from_bytes(&state.to_bytes()), Some(state.clone()));
        let mut other = state.clone();
        other.momentum[1] = 2.0;
        assert_ne!(other.hash(), state.hash());
        assert_eq!(other.parameter_hash(), state.parameter_hash());
        assert_eq!(State::from_bytes(&[1, 2]), None);
    }
}
