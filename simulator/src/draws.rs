//! Streams of random numbers, each under a seed of its own, so that one more
//! draw in one place does not move any other.

use manta_protocol::Seed;

/// Parts of a rate.
pub const MILLION: u64 = 1_000_000;

/// A stream of random numbers under one seed.
///
/// SplitMix64 (Steele, Lea and Flood 2014) from a seed of 32 bytes: a history
/// draws often, and a keyed hash for each draw would be most of its cost.
#[derive(Clone, Debug)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// The stream of `seed`.
    pub fn new(seed: Seed) -> Self {
        Self { state: seed.value("stream", 0) }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A value of 0 to `max`, both included; uniform but for 1 part in 2⁶⁴ ÷ `max`.
    pub fn up_to(&mut self, max: u64) -> u64 {
        ((u128::from(self.bits()) * (u128::from(max) + 1)) >> 64) as u64
    }

    /// A value of `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.up_to(high.saturating_sub(low))
    }

    /// Whether an event of `per_million` in a million happens.
    pub fn happens(&mut self, per_million: u64) -> bool {
        per_million > 0 && self.up_to(MILLION - 1) < per_million
    }

    /// One of `choices`, which must not be empty.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.up_to(choices.len() as u64 - 1) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_within_their_bounds_and_equal_under_equal_seeds() {
        let mut draws = Draws::new(Seed::from_number(1));
        let mut again = draws.clone();
        let mut counts = [0u32; 6];
        for _ in 0..6_000 {
            let die = draws.between(10, 15);
            assert_eq!(die, again.between(10, 15));
            counts[(die - 10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        assert_eq!(draws.up_to(0), 0);
        draws.up_to(u64::MAX);
        assert!(!draws.happens(0) && draws.happens(MILLION));
        assert_ne!(Draws::new(Seed::from_number(2)).bits(), Draws::new(Seed::from_number(1)).bits());
    }
}
