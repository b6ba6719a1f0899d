//! A hundred thousand elections: who has a share of the power wins that share.

use crate::{beacon, peer};
use manta_protocol::election::{Domain, VrfOutput, VrfSecret, election_input, lottery, seats};
use manta_protocol::{Hash, PeerId};
use proptest::prelude::*;

const ELECTIONS: u64 = 100_000;
/// Weights of nine peers; the last two have just registered.
const WEIGHTS: [u64; 9] = [1, 250_000, 500_000, 1_000_000, 1_000_000, 2_000_000, 5_000_000, 0, 0];

fn total() -> u64 {
    WEIGHTS.iter().sum()
}

fn peers() -> Vec<(PeerId, u64)> {
    (0u16..).map(peer).zip(WEIGHTS).collect()
}

/// Asserts that `wins` lies within three standard deviations of what trials of
/// this mean and variance (each) give in `elections`.
fn assert_fair(who: usize, wins: u64, elections: u64, mean: f64, variance: f64) {
    let (expected, deviation) = (elections as f64 * mean, (elections as f64 * variance).sqrt());
    let distance = wins as f64 - expected;
    assert!(distance.abs() <= 3.0 * deviation, "peer {who}: {wins} wins, expected {expected:.1} ± {deviation:.1}");
}

#[test]
fn proposers_win_their_share_of_power() {
    let (beacon, peers) = (beacon("lottery"), peers());
    let mut wins = [0; WEIGHTS.len()];
    for height in 0..ELECTIONS {
        let winner = lottery::draw(&beacon.lottery_seed(height, 0), &peers).expect("there is weight");
        wins[peers.iter().position(|(id, _)| *id == winner).expect("a winner of the list")] += 1;
    }
    for (who, (wins, weight)) in wins.into_iter().zip(WEIGHTS).enumerate() {
        let share = weight as f64 / total() as f64;
        assert_fair(who, wins, ELECTIONS, share, share * (1.0 - share));
    }
    assert_eq!(wins.iter().sum::<u64>(), ELECTIONS);
    assert_eq!(wins[7..], [0, 0], "fresh keys win nothing");
}

/// Holds elections with three expected seats and asserts that each peer's seats
/// are its share of them.
fn sortition_is_fair(elections: u64, chance: impl Fn(usize, u64) -> VrfOutput) {
    let p = 3.0 / total() as f64;
    for (who, weight) in WEIGHTS.into_iter().enumerate() {
        let won = |election| u64::from(seats(&chance(who, election), weight, total(), 3_000));
        let wins: u64 = (0..elections).map(won).sum();
        assert_fair(who, wins, elections, weight as f64 * p, weight as f64 * p * (1.0 - p));
        assert!(weight > 0 || wins == 0, "fresh keys win nothing");
    }
}

#[test]
fn drillers_win_their_share_of_seats() {
    // One real output for each key, and from it those of a hundred thousand tasks.
    let outputs: Vec<_> = (0..WEIGHTS.len() as u8).map(|who| VrfSecret::derive(&[who; 32]).prove(b"drill").0).collect();
    sortition_is_fair(ELECTIONS, |who, election| outputs[who].of_task(&election.to_le_bytes()));
}

#[test]
fn drillers_win_their_share_with_a_proof_for_each_election() {
    let beacon = beacon("sortition");
    let secrets: Vec<_> = (0..WEIGHTS.len() as u8).map(|who| VrfSecret::derive(&[who; 32])).collect();
    sortition_is_fair(250, |who, election| {
        secrets[who].prove(&election_input(Domain::Drill, &beacon, &[&election.to_le_bytes()])).0
    });
}

#[test]
fn many_small_keys_win_what_one_large_key_does() {
    // A twelfth of the power, once in one key and once in a hundred.
    let (weight, total) = (1_000_000, 12_000_000);
    let chance = |key: u64, election: u64| {
        VrfSecret::derive(&[9; 32]).prove(&key.to_le_bytes()).0.of_task(&election.to_le_bytes())
    };
    let whole_key = chance(100, 0);
    let keys: Vec<_> = (0..100).map(|key| chance(key, 0)).collect();
    let elections = 4_000u64;
    let whole: u64 = (0..elections)
        .map(|election| u64::from(seats(&whole_key.of_task(&election.to_le_bytes()), weight, total, 3_000)))
        .sum();
    let split: u64 = keys
        .iter()
        .flat_map(|key| (0..elections).map(move |election| key.of_task(&election.to_le_bytes())))
        .map(|output| u64::from(seats(&output, weight / 100, total, 3_000)))
        .sum();
    assert_fair(0, whole, elections, 0.25, 0.25);
    assert_fair(1, split, elections, 0.25, 0.25);
}

#[test]
fn nobody_is_drawn_where_there_is_no_weight() {
    let seed = Hash::of(b"seed");
    assert_eq!(lottery::draw(&seed, &[]), None);
    assert_eq!(lottery::draw(&seed, &[(peer(1), 0), (peer(2), 0)]), None);
    assert_eq!(lottery::draw(&seed, &[(peer(1), 0), (peer(2), 1), (peer(3), 0)]), Some(peer(2)));
    assert_eq!(lottery::sample(&seed, &[(peer(1), 0), (peer(2), 1), (peer(3), 0)], 5), [peer(2)]);
    assert!(lottery::sample(&seed, &peers(), 0).is_empty());
}

#[test]
fn the_greatest_weights_do_not_overflow() {
    let peers: Vec<_> = (0..4).map(|number| (peer(number), u64::MAX)).collect();
    let drawn: std::collections::BTreeSet<_> =
        (0..100).filter_map(|height| lottery::draw(&beacon("great").lottery_seed(height, 0), &peers)).collect();
    assert_eq!(drawn.len(), 4);
}

#[test]
fn the_first_of_a_sample_is_the_draw_and_shares_hold_further_on() {
    let (beacon, peers, elections) = (beacon("sample"), peers(), 20_000);
    let mut seconds = [0u64; WEIGHTS.len()];
    for height in 0..elections {
        let seed = beacon.lottery_seed(height, 0);
        let sample = lottery::sample(&seed, &peers, 2);
        assert_eq!(Some(sample[0]), lottery::draw(&seed, &peers));
        assert_ne!(sample[0], sample[1]);
        seconds[peers.iter().position(|(id, _)| *id == sample[1]).expect("of the list")] += 1;
    }
    let total = total() as f64;
    for (who, (wins, weight)) in seconds.into_iter().zip(WEIGHTS).enumerate() {
        // Second after each other one, by the share of what is left.
        let others = WEIGHTS.iter().enumerate().filter(|(other, _)| *other != who).map(|(_, other)| *other as f64);
        let share: f64 = others.map(|first| first / total * weight as f64 / (total - first)).sum();
        assert_fair(who, wins, elections, share, share * (1.0 - share));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn who_is_drawn_does_not_depend_on_where_a_list_came_from(
        seed: [u8; 32], listed in proptest::collection::vec((0u16..50, 0u64..1_000), 1..40), times in 0usize..45,
    ) {
        let ascending: Vec<_> =
            listed.into_iter().map(|(id, weight)| (peer(id), weight)).collect::<std::collections::BTreeMap<_, _>>()
                .into_iter().collect();
        let without_zeros: Vec<_> = ascending.iter().copied().filter(|(_, weight)| *weight > 0).collect();
        let seed = Hash(seed);
        prop_assert_eq!(lottery::draw(&seed, &ascending), lottery::draw(&seed, &without_zeros));
        let mut sample = lottery::sample(&seed, &ascending, times);
        prop_assert_eq!(sample.len(), times.min(without_zeros.len()));
        sample.sort();
        sample.dedup();
        prop_assert_eq!(sample.len(), times.min(without_zeros.len()), "nobody twice");
    }
}
