//! Binary Merkle trees, as RFC 6962 (§2.1) shapes them, over blake3.
//!
//! A leaf is hashed behind a zero byte and an inner node behind a one, so that
//! no node passes for a leaf; the root is hashed behind a two together with the
//! number of leaves, so that a proof fixes the place, too.

use crate::ids::Hash;
use serde::{Deserialize, Serialize};

/// Most nodes beside a path: enough for 2³² leaves.
pub const PATH_MAX: usize = 32;

/// Shows that a leaf is at a place in the tree of a known root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    /// Place of the leaf, from 0.
    pub index: u64,
    /// Number of leaves.
    pub count: u64,
    /// The nodes beside the path from the leaf up.
    pub path: Vec<Hash>,
}

/// The leaf of a list's entry.
pub fn leaf(bytes: &[u8]) -> Hash {
    joined(0, &[bytes])
}

/// The leaf of a map's entry; the key is led by its length.
pub fn entry(key: &[u8], value: &[u8]) -> Hash {
    joined(0, &[&(key.len() as u32).to_le_bytes(), key, value])
}

/// The root over these leaves, which may be none.
pub fn root(leaves: &[Hash]) -> Hash {
    crown(leaves.len() as u64, subtree(leaves))
}

/// The proof for the leaf at `index`; `None` if there is none.
pub fn prove(leaves: &[Hash], index: usize) -> Option<Inclusion> {
    if index >= leaves.len() {
        return None;
    }
    let (mut part, mut at, mut path) = (leaves, index, Vec::new());
    while part.len() > 1 {
        let (left, right) = part.split_at(split(part.len() as u64) as usize);
        if at < left.len() {
            path.push(subtree(right));
            part = left;
        } else {
            path.push(subtree(left));
            at -= left.len();
            part = right;
        }
    }
    path.reverse();
    Some(Inclusion { index: index as u64, count: leaves.len() as u64, path })
}

impl Inclusion {
    /// The root that the tree has if `leaf` is where this says; `None` if the
    /// path does not fit the place.
    pub fn root(&self, leaf: Hash) -> Option<Hash> {
        if self.index >= self.count || self.path.len() > PATH_MAX {
            return None;
        }
        // The turns from the root down to the leaf.
        let (mut at, mut count, mut turns) = (self.index, self.count, Vec::new());
        while count > 1 {
            let left = split(count);
            let is_left = at < left;
            turns.push(is_left);
            (at, count) = if is_left { (at, left) } else { (at - left, count - left) };
            if turns.len() > PATH_MAX {
                return None;
            }
        }
        if turns.len() != self.path.len() {
            return None;
        }
        let top = self.path.iter().zip(turns.iter().rev()).fold(leaf, |node, (beside, is_left)| match is_left {
            true => inner(&node, beside),
            false => inner(beside, &node),
        });
        Some(crown(self.count, top))
    }
}

/// The largest power of two below `count`, which is at least two.
fn split(count: u64) -> u64 {
    1 << (63 - (count - 1).leading_zeros())
}

fn subtree(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash([0; 32]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
            inner(&subtree(left), &subtree(right))
        }
    }
}

fn inner(left: &Hash, right: &Hash) -> Hash {
    joined(1, &[left.as_bytes(), right.as_bytes()])
}

fn crown(count: u64, top: Hash) -> Hash {
    joined(2, &[&count.to_le_bytes(), top.as_bytes()])
}

fn joined(tag: u8, parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[tag]);
    for part in parts {
        hasher.update(part);
    }
    Hash(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|number| leaf(&number.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_of_every_tree_is_proven_and_nothing_else() {
        for count in 0..40 {
            let all = leaves(count);
            let top = root(&all);
            for (index, leaf) in all.iter().enumerate() {
                let proof = prove(&all, index).expect("the leaf is there");
                assert_eq!(proof.root(*leaf), Some(top), "leaf {index} of {count}");
                assert_ne!(proof.root(Hash::of(b"another")), Some(top));
                let moved = Inclusion { index: (index as u64 + 1) % count as u64, ..proof.clone() };
                assert!(count == 1 || moved.root(*leaf) != Some(top), "leaf {index} of {count} moved");
                let grown = Inclusion { count: count as u64 + 1, ..proof };
                assert_ne!(grown.root(*leaf), Some(top), "leaf {index} of {count} and one more");
            }
            assert_eq!(prove(&all, count), None);
        }
    }

    #[test]
    fn hostile_proofs_are_refused_without_much_work() {
        let path = vec![Hash([0; 32]); PATH_MAX + 1];
        for proof in [
            Inclusion { index: 0, count: 0, path: Vec::new() },
            Inclusion { index: u64::MAX - 1, count: u64::MAX, path: path[..PATH_MAX].to_vec() },
            Inclusion { index: 0, count: u64::MAX, path: path.clone() },
            Inclusion { index: 5, count: 5, path },
        ] {
            assert_eq!(proof.root(Hash([0; 32])), None, "{proof:?}");
        }
    }
}
