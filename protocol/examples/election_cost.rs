//! Prints what elections cost: proofs, sortition, and one epoch of a peer in a swarm of a thousand.
//! Processor time on Linux, so that other load does not count; elsewhere time that goes by.
//!
//! `cargo run --release -p manta-protocol --example election_cost [seconds for each] [tasks an epoch]`

use manta_protocol::election::{Beacon, Domain, VrfOutput, VrfSecret, election_input, lottery, seats};
use manta_protocol::{Hash, PeerId};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Peers in the swarm, each of a tenth of the power of a core.
const PEERS: u64 = 1_000;
const WEIGHT: u64 = 100_000;

fn main() {
    let argument = |place| std::env::args().nth(place).and_then(|text| text.parse::<u64>().ok());
    let (seconds, tasks) = (argument(1).unwrap_or(2), argument(2).unwrap_or(32));
    let time = |what: &str, call: &mut dyn FnMut(u64)| {
        let (start, used_before, mut calls) = (Instant::now(), processor_time(), 0);
        while start.elapsed() < Duration::from_secs(seconds) {
            call(calls);
            calls += 1;
        }
        let used = processor_time().zip(used_before).map_or(start.elapsed(), |(after, before)| after - before);
        println!("{:10.2} µs  {what}", used.as_secs_f64() * 1e6 / calls as f64);
    };
    let secret = VrfSecret::derive(&[1; 32]);
    let public = secret.public();
    let beacon = Beacon::genesis(&Hash::of(b"election cost"));
    let input = election_input(Domain::Drill, &beacon, &[&[7; 32]]);
    let (output, proof) = secret.prove(&input);
    let chance = |number: u64| spread(beacon, number);

    time("derive a key from an identity", &mut |_| {
        black_box(VrfSecret::derive(&[1; 32]));
    });
    time("prove: output and proof of the own key", &mut |number| {
        black_box(secret.prove(&election_input(Domain::Drill, &beacon, &[&number.to_le_bytes()])));
    });
    time("verify another's proof", &mut |_| {
        black_box(public.verify(&input, &proof));
    });
    assert_eq!(public.verify(&input, &proof), Some(output));
    for expected in [1, 3, 64] {
        time(&format!("sortition of a thousandth of the weight, {expected} seats expected"), &mut |number| {
            black_box(seats(&chance(number), WEIGHT, PEERS * WEIGHT, expected * 1000));
        });
    }
    time("sortition of all the weight, 64 seats expected", &mut |number| {
        black_box(seats(&chance(number), PEERS * WEIGHT, PEERS * WEIGHT, 64_000));
    });
    let members: Vec<_> = (0..200u64).map(|peer| (PeerId(numbered(peer)), WEIGHT)).collect();
    time("draw the proposer from a committee of 200", &mut |number| {
        black_box(lottery::draw(&beacon.lottery_seed(number, 0), &members));
    });
    // The peer's own share of an epoch: one proof for all seats that the beacon
    // offers, one for the probes.
    time(&format!("own elections of an epoch: seats in {tasks} tasks and a probe"), &mut |epoch| {
        let (output, _) = secret.prove(&election_input(Domain::Drill, &beacon, &[&epoch.to_le_bytes()]));
        for task in 0..tasks {
            black_box(seats(&output.of_task(&numbered(task)), WEIGHT, PEERS * WEIGHT, 3_000));
        }
        let (output, _) = secret.prove(&election_input(Domain::Probe, &beacon, &[&epoch.to_le_bytes()]));
        black_box(seats(&output, WEIGHT, PEERS * WEIGHT, 1_000));
    });
    // What others' seats cost: of each task three commitments are checked.
    time(&format!("others' elections of an epoch: three proofs for each of {tasks} tasks"), &mut |_| {
        for task in 0..3 * tasks {
            let output = public.verify(&input, &proof).map(|output| output.of_task(&numbered(task)));
            black_box(output.map(|output| seats(&output, WEIGHT, PEERS * WEIGHT, 3_000)));
        }
    });
}

/// Time that this thread has run on a processor, where the system tells.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn numbered(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// An output as good as any, without the cost of a proof.
fn spread(beacon: Beacon, number: u64) -> VrfOutput {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(beacon.lottery_seed(number, 0).as_bytes());
    VrfOutput(bytes)
}
