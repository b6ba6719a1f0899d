//! A part of the state: values under ordered keys, each a leaf of the state's
//! Merkle tree.
//!
//! A leaf's hash is kept until its value is touched, so that the root of a
//! large state costs a block only what the block has changed.

use super::merkle;
use crate::ids::Hash;
use crate::wire::codec;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// A key of the state.
pub(crate) trait Key: Copy + Ord {
    /// Its bytes in a leaf; they ascend as the keys do.
    fn bytes(&self) -> Vec<u8>;
}

impl Key for Hash {
    fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl Key for crate::ids::PeerId {
    fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl Key for u64 {
    fn bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
}

/// Values under keys, with the hashes of their leaves.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    values: BTreeMap<K, V>,
    leaves: BTreeMap<K, Hash>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), leaves: BTreeMap::new() }
    }
}

impl<K: Key, V: Serialize> Table<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.leaves.remove(key);
        self.values.get_mut(key)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.leaves.remove(&key);
        self.values.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.leaves.remove(key);
        self.values.remove(key)
    }

    /// The value under `key`, the default one if there is none.
    pub(crate) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.leaves.remove(&key);
        self.values.entry(key).or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.values.iter()
    }

    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.values.keys()
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.values.values()
    }

    /// Drops the lowest keys until at most `max` are left.
    pub(crate) fn keep_last(&mut self, max: usize) {
        while self.values.len() > max {
            let Some((key, _)) = self.values.pop_first() else { return };
            self.leaves.remove(&key);
        }
    }

    /// Hashes what was touched since the last time.
    pub(crate) fn refresh(&mut self, tag: u8) {
        for (key, value) in &self.values {
            self.leaves.entry(*key).or_insert_with(|| leaf(tag, key, value));
        }
    }

    /// The leaf of each value, in order of keys.
    pub(crate) fn leaves(&self, tag: u8) -> impl Iterator<Item = (K, Hash)> {
        self.values
            .iter()
            .map(move |(key, value)| (*key, self.leaves.get(key).copied().unwrap_or_else(|| leaf(tag, key, value))))
    }
}

fn leaf<K: Key, V: Serialize>(tag: u8, key: &K, value: &V) -> Hash {
    let mut name = vec![tag];
    name.extend(key.bytes());
    merkle::entry(&name, &codec::encode(value))
}

impl<K: PartialEq, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<K: Eq, V: Eq> Eq for Table<K, V> {}

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|values| Self { values, leaves: BTreeMap::new() })
    }
}
