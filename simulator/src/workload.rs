//! What the simulated machines compute: a small vector model, in real f32
//! arithmetic, so that an addition in another order, left out or done twice
//! gives other bits and so another hash.
//!
//! The gradient of a rank depends on its parameters: members that differ once
//! differ for ever.

use manta_protocol::effect::RunStart;
use manta_protocol::input::Wish;
use manta_protocol::market::demand::Share;
use manta_protocol::market::listing::{Device, DeviceKind, Listing};
use manta_protocol::run::spec::{DigitsSpec, F32Bits, ModelSpec, OptimizerSpec};
use manta_protocol::run::{ChunkPlan, Phase, RunSpec};
use manta_protocol::{Hash, PeerId, Seed};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A way in which one simulated machine breaks the rules, to show that the
/// checkers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// Adds contributions in the reverse order of ranks.
    WrongOrder,
    /// Leaves the last rank's contribution out of its sums.
    SkipContribution,
    /// Adds its own contribution twice.
    DoubleCount,
    /// Reports a hash that is not that of its parameters.
    LieAboutHash,
    /// Makes one optimiser step with a wrong sum.
    CorruptStep,
    /// Starts from other parameters than the rest.
    WrongStart,
    /// Says that it cannot compute when asked for its second gradient.
    GiveUp,
    /// Vanishes after its second gradient: nothing is sent or taken any more.
    Crash,
    /// Falls silent after its second gradient, while its transport still takes messages.
    Freeze,
    /// Never ends its second gradient, though it goes on to say that it is alive.
    Hang,
    /// Does not send one of its chunks of the second step, and nobody notices.
    LoseChunk,
}

/// The spec of the simulated run: `rounds` rounds of two steps.
pub fn spec(rounds: u32, seed: Seed) -> RunSpec {
    let f32 = F32Bits::from;
    RunSpec {
        arithmetic_version: 1,
        digits: DigitsSpec { activations: 1, weights: 1, gradients: 1, logit_gradient: 2, attention: 2 },
        model: ModelSpec {
            vocab_size: 16,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 2,
            max_position_embeddings: 16,
            rope_theta: f32(10_000.0),
            rms_norm_eps: f32(1e-5),
            tie_word_embeddings: true,
            initializer_range: f32(0.02),
        },
        optimizer: OptimizerSpec {
            learning_rate: f32(0.01),
            beta1: f32(0.9),
            beta2: f32(0.95),
            epsilon: f32(1e-8),
            weight_decay: f32(0.0),
            gradient_clip_norm: f32(1.0),
            warmup_steps: 1,
            decay_start_step: 1,
            final_fraction: f32(0.1),
        },
        seed,
        data_root: Hash::of(b"simulated data"),
        data_bytes: 1 << 20,
        sequence_length: 16,
        micro_batch_sequences: 1,
        micro_batches: 1,
        rounds,
        steps_per_round: 2,
        chunk_elements: 24,
    }
}

/// A search for exactly `members` members.
pub fn wish(members: u16) -> Wish {
    Wish {
        members_min: members,
        members_max: members,
        memory_bytes: 1 << 28,
        disk_bytes: 1 << 21,
        duration_s: 600,
        patience_ms: 3_000,
        deadline_ms: 60_000,
        share: Share::Open,
    }
}

/// What every simulated machine offers.
pub fn listing(speed: u64) -> Listing {
    Listing {
        devices: vec![Device {
            kind: DeviceKind::Cpu,
            name: "simulated processor".into(),
            units: 2,
            memory_bytes: 1 << 30,
            multiply_adds_per_s: speed,
        }],
        disk_free_bytes: 1 << 30,
        region: String::new(),
        duration_max_s: 3_600,
        arithmetic_version: 1,
        busy: false,
        bulk_port: 4_001,
        addresses: Vec::new(),
    }
}

/// One machine's part in one run.
pub struct Training {
    start: Arc<RunStart>,
    plan: ChunkPlan,
    broken: Option<Break>,
    parameters: Vec<f32>,
    gradients: BTreeMap<u64, Vec<f32>>,
    received: BTreeMap<(u64, u32, usize), Vec<f32>>,
    sums: BTreeMap<(u64, u32), Vec<f32>>,
}

impl Training {
    /// The initial model; `None` if the spec's gradient cannot be cut.
    pub fn new(start: Arc<RunStart>, broken: Option<Break>) -> Option<Self> {
        let plan = start.spec.chunk_plan(start.members.len())?;
        let elements = start.spec.model.parameters()?;
        let seed = match broken {
            Some(Break::WrongStart) => start.spec.seed.child("another", 0),
            _ => start.spec.seed,
        };
        let parameters = (0..elements).map(|index| unit(seed.value("initial", index))).collect();
        let (gradients, received, sums) = Default::default();
        Some(Self { start, plan, broken, parameters, gradients, received, sums })
    }

    /// The run as it began.
    pub fn start(&self) -> &RunStart {
        &self.start
    }

    /// The elements of a chunk as indices.
    pub fn range(&self, chunk: u32) -> Option<Range<usize>> {
        self.plan.elements(chunk).map(|range| range.start as usize..range.end as usize)
    }

    /// Computes the gradient of the own batch of `step`.
    pub fn compute_gradient(&mut self, step: u64) -> &[f32] {
        let batch = self.start.spec.seed.child("batch", step).child("rank", self.start.rank as u64);
        let towards = |(index, parameter): (usize, &f32)| parameter - unit(batch.value("target", index as u64));
        let gradient = self.parameters.iter().enumerate().map(towards).collect();
        self.gradients.entry(step).or_insert(gradient)
    }

    /// The values of a chunk to send; `None` if they are not there.
    pub fn chunk(&self, step: u64, phase: Phase, chunk: u32) -> Option<Vec<f32>> {
        match phase {
            Phase::Contribution => Some(self.gradients.get(&step)?[self.range(chunk)?].to_vec()),
            Phase::Sum => self.sums.get(&(step, chunk)).cloned(),
        }
    }

    /// Keeps a chunk that came from `from`; whether it is the first of its kind.
    pub fn keep(&mut self, from: &PeerId, step: u64, phase: Phase, chunk: u32, values: Vec<f32>) -> bool {
        let Some(rank) = self.start.rank_of(from) else { return false };
        match phase {
            Phase::Contribution => self.received.insert((step, chunk, rank), values).is_none(),
            Phase::Sum => self.sums.insert((step, chunk), values).is_none(),
        }
    }

    /// Adds up a chunk in rank order; `None` if a rank's values are missing.
    pub fn reduce(&mut self, step: u64, chunk: u32) -> Option<&[f32]> {
        let own = self.chunk(step, Phase::Contribution, chunk)?;
        let mut parts = Vec::with_capacity(self.plan.ranks());
        for rank in 0..self.plan.ranks() {
            let received = self.received.remove(&(step, chunk, rank));
            parts.push(if rank == self.start.rank { own.clone() } else { received? });
        }
        match self.broken {
            Some(Break::WrongOrder) => parts.reverse(),
            Some(Break::SkipContribution) => drop(parts.pop()),
            Some(Break::DoubleCount) => parts.push(own.clone()),
            _ => {}
        }
        let mut sum = vec![0.0; own.len()];
        for part in parts {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        Some(self.sums.entry((step, chunk)).or_insert(sum))
    }

    /// Makes the optimiser's step from the sums; `false` if one is missing.
    pub fn apply(&mut self, step: u64) -> bool {
        let ranks = self.plan.ranks() as f32;
        for chunk in 0..self.plan.chunks() {
            let (Some(sum), Some(range)) = (self.sums.remove(&(step, chunk)), self.range(chunk)) else { return false };
            for (parameter, sum) in self.parameters[range].iter_mut().zip(sum) {
                *parameter -= 0.1 * (sum / ranks);
            }
        }
        if self.broken == Some(Break::CorruptStep) && step == 1 {
            self.parameters[0] += 1.0;
        }
        self.gradients.remove(&step);
        true
    }

    /// The hash of the parameters as they are.
    pub fn parameter_hash(&self) -> Hash {
        let bytes: Vec<u8> = self.parameters.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
        Hash::of(&bytes)
    }

    /// The hash that the machine reports after a round.
    pub fn reported_hash(&self) -> Hash {
        match self.broken {
            Some(Break::LieAboutHash) => Hash::of(b"a lie"),
            _ => self.parameter_hash(),
        }
    }

    /// Chunks that are held in memory.
    pub fn chunks_held(&self) -> usize {
        self.received.len() + self.sums.len()
    }

    /// Most chunks that an honest run ever holds: a step's and the next one's.
    pub fn chunks_held_max(&self) -> usize {
        2 * (self.plan.owned(self.start.rank).len() * self.plan.ranks() + self.plan.chunks() as usize)
    }
}

/// A number in [-1, 1) with 24 significant bits, none of which f32 loses.
fn unit(value: u64) -> f32 {
    (value >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}
