//! What the simulated users want and the simulated machines offer.

use crate::options::{Mode, Setup};
use manta_protocol::input::Wish;
use manta_protocol::market::demand::Share;
use manta_protocol::market::listing::{Device, DeviceKind, Listing};
use manta_protocol::run::RunSpec;
use manta_protocol::run::spec::{F32Bits, OuterSpec};
use manta_protocol::{Hash, Seed};

/// The spec of a simulated run: a model of 408 parameters.
pub fn spec(setup: &Setup, seed: Seed) -> RunSpec {
    let outer = OuterSpec { learning_rate: F32Bits::from(0.7), momentum: F32Bits::from(0.5) };
    RunSpec {
        micro_batches: setup.micro_batches,
        rounds: setup.rounds,
        steps_per_round: setup.steps_per_round,
        outer: (setup.mode == Mode::LocalSteps).then_some(outer),
        chunk_elements: setup.chunk_elements,
        solo: setup.solo,
        ..RunSpec::miniature(seed, Hash::of(b"simulated data"))
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
