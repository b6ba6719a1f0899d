//! What the simulated users want and the simulated machines offer.

use crate::options::{Mode, Setup};
use manta_protocol::input::Wish;
use manta_protocol::market::demand::Share;
use manta_protocol::market::listing::{Device, DeviceKind, Listing};
use manta_protocol::run::RunSpec;
use manta_protocol::run::spec::{DigitsSpec, F32Bits, ModelSpec, OptimizerSpec, OuterSpec};
use manta_protocol::{Hash, Seed};

/// The spec of a simulated run: a model of 408 parameters.
pub fn spec(setup: &Setup, seed: Seed) -> RunSpec {
    let f32 = F32Bits::from;
    let outer = OuterSpec { learning_rate: f32(0.7), momentum: f32(0.5) };
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
        micro_batches: setup.micro_batches,
        rounds: setup.rounds,
        steps_per_round: setup.steps_per_round,
        outer: (setup.mode == Mode::LocalSteps).then_some(outer),
        chunk_elements: setup.chunk_elements,
        solo: setup.solo,
    }
}

/// A search for the members of a run.
pub fn wish(setup: &Setup) -> Wish {
    Wish {
        members_min: setup.members,
        members_max: setup.members_max,
        memory_bytes: 1 << 28,
        disk_bytes: 1 << 21,
        duration_s: 600,
        patience_ms: 2_000,
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
