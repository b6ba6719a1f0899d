//! Splittable seeds: the only source of chance in this crate.
//!
//! A seed is 32 bytes; a child seed is blake3's key derivation of its parent
//! and a label, so that every consumer draws from its own stream and adding one
//! does not move the others.

use crate::ids::Hash;
use serde::{Deserialize, Serialize};

/// A seed from which values and other seeds are derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub Hash);

impl Seed {
    /// The seed that a person writes as a number.
    pub fn from_number(number: u64) -> Self {
        Self(Hash(blake3::derive_key("manta 2026-11 seed from number v1", &number.to_le_bytes())))
    }

    /// The child seed under `label` and `index`.
    pub fn child(&self, label: &str, index: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(self.0.as_bytes());
        hasher.update(label.as_bytes());
        // The label is ended by its length, so that no two (label, index) pairs collide.
        hasher.update(&(label.len() as u64).to_le_bytes());
        hasher.update(&index.to_le_bytes());
        Self(Hash(*hasher.finalize().as_bytes()))
    }

    /// A uniform 64-bit value under `label` and `index`.
    pub fn value(&self, label: &str, index: u64) -> u64 {
        let child = self.child(label, index);
        let mut low = [0; 8];
        low.copy_from_slice(&child.0.as_bytes()[..8]);
        u64::from_le_bytes(low)
    }

    /// A uniform value below `bound` (which must not be zero), by rejection.
    pub fn below(&self, label: &str, index: u64, bound: u64) -> u64 {
        assert!(bound > 0, "a bound of zero leaves no value to draw");
        let zone = u64::MAX - u64::MAX % bound;
        let stream = self.child(label, index);
        (0..).map(|attempt| stream.value("draw", attempt)).find(|value| *value < zone).map_or(0, |value| value % bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_differ_by_label_and_index() {
        let seed = Seed::from_number(7);
        assert_ne!(seed.child("a", 0), seed.child("a", 1));
        assert_ne!(seed.child("a", 0), seed.child("b", 0));
        assert_eq!(seed.child("a", 0), Seed::from_number(7).child("a", 0));
        assert!((0..1000).all(|i| seed.below("die", i, 6) < 6));
    }
}
