//! Weighted draws from a hash that all know: the proposer of a round, and the
//! members of a committee that is smaller than the swarm.
//!
//! Lists are strictly ascending by peer id, so that all who hold the same
//! weights draw the same peer. Draws are unbiased: a value of 128 bits is taken
//! modulo the sum of weights only if it lies below the largest multiple of it.

use crate::ids::{Hash, PeerId};

const DRAW_TAG: &[u8] = b"manta 2026-11 lottery draw v1";

/// One peer, each with the probability of its share of all weights; `None` if
/// there is no weight at all. `weights` ascend by peer id.
pub fn draw(seed: &Hash, weights: &[(PeerId, u64)]) -> Option<PeerId> {
    draw_where(seed, weights, |_| true)
}

/// The first in the order drawn of whom `may` holds; `None` if it holds of nobody
/// who weighs anything. Nobody changes who else is drawn by giving up its own
/// draw: those before it in the order stay before it. `weights` ascend by peer id.
pub fn draw_where(seed: &Hash, weights: &[(PeerId, u64)], may: impl Fn(&PeerId) -> bool) -> Option<PeerId> {
    debug_assert!(weights.is_sorted_by(|a, b| a.0 < b.0), "a draw needs peers in ascending order");
    // Nearly always the first will do.
    let first = weights[pick(seed, 0, weights)?].0;
    if may(&first) { Some(first) } else { order(seed, weights).find(may) }
}

/// At most `count` different peers of positive weight, in the order drawn: each
/// draw is weighted among those who are left. `weights` ascend by peer id.
pub fn sample(seed: &Hash, weights: &[(PeerId, u64)], count: usize) -> Vec<PeerId> {
    debug_assert!(weights.is_sorted_by(|a, b| a.0 < b.0), "a sample needs peers in ascending order");
    order(seed, weights).take(count).collect()
}

/// All peers of positive weight, in the order drawn.
fn order(seed: &Hash, weights: &[(PeerId, u64)]) -> impl Iterator<Item = PeerId> {
    let mut left = weights.to_vec();
    (0u64..).map_while(move |number| {
        let place = pick(seed, number, &left)?;
        // Who is drawn keeps its place with no weight: nothing has to move.
        left[place].1 = 0;
        Some(left[place].0)
    })
}

/// The place that draw `number` under `seed` falls on.
fn pick(seed: &Hash, number: u64, weights: &[(PeerId, u64)]) -> Option<usize> {
    let sum: u128 = weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
    if sum == 0 {
        return None;
    }
    let mut ticket = below(seed, number, sum);
    weights.iter().position(|(_, weight)| {
        let falls_here = ticket < u128::from(*weight);
        ticket = ticket.saturating_sub(u128::from(*weight));
        falls_here
    })
}

/// A uniform value below `bound`, which is not zero, by rejection.
fn below(seed: &Hash, number: u64, bound: u128) -> u128 {
    // 2¹²⁸ mod bound values at the top would favour the low remainders.
    let excess = (u128::MAX % bound + 1) % bound;
    let accepted = (0u64..).map(|attempt| value(seed, number, attempt)).find(|value| *value <= u128::MAX - excess);
    accepted.map_or(0, |value| value % bound)
}

fn value(seed: &Hash, number: u64, attempt: u64) -> u128 {
    let mut hasher = blake3::Hasher::new_keyed(seed.as_bytes());
    hasher.update(DRAW_TAG).update(&number.to_le_bytes()).update(&attempt.to_le_bytes());
    let mut low = [0; 16];
    low.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(low)
}
