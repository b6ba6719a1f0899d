//! Elections and power from outside: published vectors, independent oracles,
//! statistics, and golden values.

#[path = "election/golden.rs"]
mod golden;
#[path = "election/lottery.rs"]
mod lottery;
#[path = "election/power.rs"]
mod power;
#[path = "election/sortition.rs"]
mod sortition;
#[path = "election/vrf.rs"]
mod vrf;

use manta_protocol::election::{Beacon, VrfOutput};
use manta_protocol::{Hash, PeerId};

/// The peer whose id begins with `number`.
fn peer(number: u16) -> PeerId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    PeerId(bytes)
}

fn beacon(name: &str) -> Beacon {
    Beacon::genesis(&Hash::of(name.as_bytes()))
}

fn unhex<const N: usize>(digits: &str) -> [u8; N] {
    assert_eq!(digits.len(), 2 * N, "{digits}");
    std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hexadecimal digits"))
}

/// The output whose first 128 bits are `leading`, and the others ones.
fn output(leading: u128) -> VrfOutput {
    let mut bytes = [0xff; 64];
    bytes[..16].copy_from_slice(&leading.to_be_bytes());
    VrfOutput(bytes)
}
