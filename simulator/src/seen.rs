//! Which gossip messages came before: the latest so many, as gossipsub remembers them.

use manta_protocol::Hash;
use std::collections::{BTreeSet, VecDeque};

/// The ids of the latest messages.
#[derive(Debug)]
pub(crate) struct Seen {
    most: usize,
    ids: BTreeSet<Hash>,
    order: VecDeque<Hash>,
}

impl Seen {
    /// Remembers `most` of them.
    pub(crate) fn of_latest(most: usize) -> Self {
        Self { most, ids: BTreeSet::new(), order: VecDeque::new() }
    }

    /// Whether the message came before.
    pub(crate) fn knows(&self, id: &Hash) -> bool {
        self.ids.contains(id)
    }

    /// Whether the message is new; from now on it is not.
    pub(crate) fn first_sight(&mut self, id: Hash) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ids.len().max(self.order.len())
    }

    /// Forgets all, as a restart does.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more() {
        let id = |number: u64| Hash::of(&number.to_le_bytes());
        let mut seen = Seen::of_latest(3);
        for number in 0..9 {
            assert!(seen.first_sight(id(number)));
            assert!(!seen.first_sight(id(number)));
        }
        assert_eq!(seen.len(), 3);
        assert!(seen.knows(&id(6)) && !seen.knows(&id(5)));
        seen.clear();
        assert!(!seen.knows(&id(8)));
    }
}
