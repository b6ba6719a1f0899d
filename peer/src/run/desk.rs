//! Where chunks of gradients wait between the network and the trainer.
//!
//! Bounded by the protocol: a chunk is kept only on the node's word, once for
//! each rank, for the present step and the next.

use bytes::Bytes;
use manta_protocol::run::Phase;
use std::collections::BTreeMap;

/// The chunks of one run.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    contributions: BTreeMap<(u64, u32, usize), Bytes>,
    sums: BTreeMap<(u64, u32), Bytes>,
}

impl Desk {
    /// Keeps what came from `rank`.
    pub(crate) fn keep(&mut self, step: u64, phase: Phase, chunk: u32, rank: usize, bytes: Bytes) {
        match phase {
            Phase::Contribution => self.contributions.insert((step, chunk, rank), bytes),
            Phase::Sum => self.sums.insert((step, chunk), bytes),
        };
    }

    /// The own values of a chunk, or the sum of an own chunk, to be sent.
    pub(crate) fn outgoing(&self, step: u64, phase: Phase, chunk: u32, me: usize) -> Option<Bytes> {
        match phase {
            Phase::Contribution => self.contributions.get(&(step, chunk, me)).cloned(),
            Phase::Sum => self.sums.get(&(step, chunk)).cloned(),
        }
    }

    /// All ranks' values of a chunk, in rank order.
    pub(crate) fn contributions(&self, step: u64, chunk: u32) -> Vec<Bytes> {
        self.contributions.range((step, chunk, 0)..=(step, chunk, usize::MAX)).map(|(_, bytes)| bytes.clone()).collect()
    }

    /// The sums of all chunks of a step, in order; what the step needed is dropped.
    pub(crate) fn finish(&mut self, step: u64) -> Vec<Bytes> {
        self.contributions.retain(|(of, _, _), _| *of > step);
        let later = self.sums.split_off(&(step + 1, 0));
        std::mem::replace(&mut self.sums, later)
            .into_iter()
            .filter(|((of, _), _)| *of == step)
            .map(|(_, sum)| sum)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: u8) -> Bytes {
        Bytes::copy_from_slice(&[value])
    }

    #[test]
    fn chunks_come_out_in_order_and_finished_steps_are_dropped() {
        let mut desk = Desk::default();
        for rank in [2, 0, 1] {
            desk.keep(4, Phase::Contribution, 7, rank, bytes(rank as u8));
        }
        desk.keep(5, Phase::Contribution, 7, 0, bytes(9));
        assert_eq!(desk.contributions(4, 7), [bytes(0), bytes(1), bytes(2)]);
        assert_eq!(desk.outgoing(4, Phase::Contribution, 7, 1), Some(bytes(1)));
        for chunk in [1, 0] {
            desk.keep(4, Phase::Sum, chunk, 0, bytes(chunk as u8));
        }
        desk.keep(5, Phase::Sum, 0, 0, bytes(5));
        assert_eq!(desk.finish(4), [bytes(0), bytes(1)]);
        assert!(desk.contributions(4, 7).is_empty());
        assert_eq!(desk.contributions(5, 7), [bytes(9)]);
        assert_eq!(desk.outgoing(5, Phase::Sum, 0, 0), Some(bytes(5)));
        assert!(desk.finish(4).is_empty());
    }
}
