//! Measures consensus: one-way delays until a block is final, processor time a
//! member and height, and the time to verify one certificate. Prints rows as
//! `docs/benchmarks/README.md` describes them (Linux; set `HARDWARE` and `DATE`).
//!
//! ```text
//! cargo run --release -p manta-protocol --example consensus_speed
//! ```

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/consensus/swarm.rs"]
mod swarm;

use manta_protocol::Duration;
use manta_protocol::consensus::Certificate;
use std::time::Instant;
use swarm::{Setup, Swarm, chain_id};

const DELAY_MS: u64 = 50;
const HEIGHTS: u64 = 2;
const SAMPLES: u64 = 5;

fn main() {
    let mut rows = Vec::new();
    for members in [4, 16, 64] {
        let runs: Vec<_> = (0..SAMPLES).map(|seed| run(members, seed)).collect();
        let delays = runs.iter().map(|run| run.delays).collect();
        let cpu_ms = runs.iter().map(|run| run.cpu_ms).collect();
        rows.push(row(&format!("finality among {members} members without faults"), "one-way delays", delays));
        rows.push(row(&format!("processor time a member and height, {members} members"), "ms", cpu_ms));
        if members == 64 {
            rows.push(row(
                "verify a certificate of 64 equal members",
                "ms",
                runs.iter().map(|run| run.verify_ms).collect(),
            ));
        }
    }
    println!("[\n  {}\n]", rows.join(",\n  "));
}

struct Run {
    delays: f64,
    cpu_ms: f64,
    verify_ms: f64,
}

fn run(members: usize, seed: u64) -> Run {
    let mut swarm = Swarm::new(Setup { delay_ms: (DELAY_MS, DELAY_MS), ..Setup::new(seed, members) });
    let before_ns = cpu_ns();
    assert!(swarm.run_to_height(HEIGHTS, Duration::from_s(60)), "no faults, so heights follow");
    let cpu_ms = (cpu_ns() - before_ns) as f64 / 1e6 / (HEIGHTS * members as u64) as f64;
    let blocks = swarm.hosts.iter().flat_map(|host| host.chain.iter().take(HEIGHTS as usize));
    let slowest = blocks.map(|block| block.decided_at.since(swarm.proposed_at[&block.certificate.height]).as_ms());
    let delays = slowest.max().unwrap_or(0) as f64 / DELAY_MS as f64;
    Run { delays, cpu_ms, verify_ms: verify_ms(&swarm.hosts[0].chain[0].certificate, &swarm) }
}

/// The least of several: others use the processor, too.
fn verify_ms(certificate: &Certificate, swarm: &Swarm) -> f64 {
    let once = |_| {
        let before = Instant::now();
        certificate.verify(&chain_id(), &swarm.hosts[0].committee).expect("a decided block has a certificate");
        before.elapsed().as_secs_f64() * 1e3
    };
    (0..7).map(once).fold(f64::INFINITY, f64::min)
}

/// Processor time of this thread: the engines and the virtual network around them.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts processor time");
    stat.split_whitespace().next().and_then(|text| text.parse().ok()).expect("the first number is nanoseconds")
}

fn row(name: &str, unit: &str, samples: Vec<f64>) -> String {
    let samples: Vec<_> = samples.iter().map(|sample| format!("{sample:.3}")).collect();
    let hardware = std::env::var("HARDWARE").unwrap_or_default();
    let date = std::env::var("DATE").unwrap_or_default();
    format!(
        "{{\"name\": \"{name}\", \"peer\": \"\", \"unit\": \"{unit}\", \"better\": \"lower\", \"ours\": [{}], \"theirs\": [], \
         \"ratio\": null, \"command\": \"cargo run --release -p manta-protocol --example consensus_speed\", \
         \"versions\": \"manta {}, arc-malachitebft-core-driver 0.8.2\", \
         \"hardware\": \"{hardware}\", \"date\": \"{date}\"}}",
        samples.join(", "),
        env!("CARGO_PKG_VERSION"),
    )
}
