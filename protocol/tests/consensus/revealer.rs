//! What the last revealer gains: a proposer may withhold its block, and with it
//! its share of the next beacon, but not choose that share.

use manta_protocol::election::{Beacon, VrfOutput, lottery};
use manta_protocol::{Hash, PeerId, Seed};

const TRIALS: u64 = 8_000;

/// The output that a key would prove: fixed by key and beacon, known to its owner alone.
fn output(key: &PeerId, beacon: &Beacon) -> VrfOutput {
    let mut bytes = [0; 64];
    blake3::Hasher::new().update(key.as_bytes()).update(beacon.0.as_bytes()).finalize_xof().fill(&mut bytes);
    VrfOutput(bytes)
}

/// How often one of the first `owned` of `keys` equal keys, which have one owner,
/// is drawn first for the next height, if the owner withholds every block whose
/// beacon would draw none of them.
fn wins(keys: u8, owned: usize, withholds: bool) -> u64 {
    let mut weights: Vec<_> = (0..keys).map(|n| (PeerId(*Hash::of(&[n]).as_bytes()), 1)).collect();
    weights.sort_unstable();
    let is_owned = |key: &PeerId| weights[..owned].iter().any(|(owned, _)| owned == key);
    let drawn = |beacon: &Beacon, height, round| lottery::draw(&beacon.lottery_seed(height, round), &weights).unwrap();
    let wins = |beacon: &Beacon| is_owned(&drawn(beacon, 2, 0));
    let trial = |trial: &u64| {
        let before = Beacon(Seed::from_number(*trial).0);
        let next_of = |round| {
            let proposer = drawn(&before, 1, round);
            let next = before.next(&output(&proposer, &before));
            (!withholds || !is_owned(&proposer) || wins(&next)).then_some(next)
        };
        wins(&(0..).find_map(next_of).unwrap())
    };
    (0..TRIALS).filter(trial).count() as u64
}

/// With a share a of the weight, an event of probability p happens with
/// probability p / (1 - a (1 - p)) to the owner of many keys, and with
/// p + a p (1 - p) to that of one, whose output is the same in all rounds.
#[test]
fn withholding_blocks_gains_what_the_formula_says_and_no_more() {
    let cases = [
        ("honest", wins(4, 1, false), TRIALS / 4),
        ("one key", wins(4, 1, true), TRIALS * 19 / 64),
        ("many keys", wins(200, 50, true), TRIALS * 4 / 13),
    ];
    for (who, found, expected) in cases {
        // Three standard deviations of a binomial with p < 1/3.
        let deviation = 3 * (TRIALS * 2 / 9).isqrt();
        assert!(found.abs_diff(expected) <= deviation, "{who}: {found} of {TRIALS}, expected {expected}");
    }
}
