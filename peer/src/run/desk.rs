//! Where chunks of values and sums wait between the network and the trainer.
//!
//! Bounded by the protocol: a chunk is kept only on the node's word, values once
//! for each member, and only of the exchanges that the node follows.

use bytes::Bytes;
use manta_protocol::PeerId;
use manta_protocol::run::{ChunkPlan, Phase};
use std::collections::BTreeMap;

/// The chunks of one run.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// By exchange, chunk and whose they are.
    values: BTreeMap<(u64, u32, PeerId), Bytes>,
    /// By exchange and chunk: who added it up, and the sum.
    sums: BTreeMap<(u64, u32), (PeerId, Bytes)>,
}

impl Desk {
    /// Keeps what came from `from`.
    pub(crate) fn keep(&mut self, exchange: u64, phase: Phase, chunk: u32, from: PeerId, bytes: Bytes) {
        match phase {
            Phase::Contribution => drop(self.values.insert((exchange, chunk, from), bytes)),
            Phase::Sum => drop(self.sums.insert((exchange, chunk), (from, bytes))),
        }
    }

    /// Keeps the own values of an exchange, cut by `plan`; the bytes are shared, not copied.
    pub(crate) fn keep_own(&mut self, exchange: u64, plan: &ChunkPlan, me: PeerId, values: &Bytes) {
        for chunk in 0..plan.chunks() {
            let Some(range) = plan.elements(chunk) else { continue };
            let bytes = values.slice(4 * range.start as usize..4 * range.end as usize);
            self.values.insert((exchange, chunk, me), bytes);
        }
    }

    /// The own values of a chunk, or its sum, to be sent.
    pub(crate) fn outgoing(&self, exchange: u64, phase: Phase, chunk: u32, me: PeerId) -> Option<Bytes> {
        match phase {
            Phase::Contribution => self.values.get(&(exchange, chunk, me)).cloned(),
            Phase::Sum => self.sums.get(&(exchange, chunk)).map(|(_, bytes)| bytes.clone()),
        }
    }

    /// These members' values of a chunk, in this order; an error names whose are not here.
    pub(crate) fn contributions(
        &self,
        exchange: u64,
        chunk: u32,
        contributors: &[PeerId],
    ) -> Result<Vec<(PeerId, Bytes)>, PeerId> {
        let of =
            |peer: &PeerId| self.values.get(&(exchange, chunk, *peer)).map(|bytes| (*peer, bytes.clone())).ok_or(*peer);
        contributors.iter().map(of).collect()
    }

    /// The sums of all chunks of an exchange, in order. They can still be sent
    /// until the next exchange is applied; its values and all that is older are dropped.
    pub(crate) fn apply(&mut self, exchange: u64) -> Vec<(PeerId, Bytes)> {
        self.values.retain(|(of, _, _), _| *of > exchange);
        self.sums.retain(|(of, _), _| *of >= exchange);
        self.sums.range((exchange, 0)..=(exchange, u32::MAX)).map(|(_, sum)| sum.clone()).collect()
    }

    /// Forgets the sums of an exchange.
    pub(crate) fn drop_sums(&mut self, exchange: u64) {
        self.sums.retain(|(of, _), _| *of != exchange);
    }

    /// Forgets an exchange and all after it.
    pub(crate) fn drop_exchange(&mut self, first: u64) {
        self.values.retain(|(of, _, _), _| *of < first);
        self.sums.retain(|(of, _), _| *of < first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PeerId = PeerId([1; 32]);

    fn bytes(value: u8) -> Bytes {
        Bytes::copy_from_slice(&[value])
    }

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    #[test]
    fn values_come_out_as_they_are_asked_for() {
        let mut desk = Desk::default();
        for member in [3, 1, 2] {
            desk.keep(4, Phase::Contribution, 7, peer(member), bytes(member));
        }
        let of = |desk: &Desk, members: &[u8]| {
            let members: Vec<_> = members.iter().map(|member| peer(*member)).collect();
            desk.contributions(4, 7, &members).map(|values| values.into_iter().map(|(_, bytes)| bytes[0]).collect())
        };
        assert_eq!(of(&desk, &[1, 2, 3]), Ok(vec![1, 2, 3]));
        assert_eq!(of(&desk, &[1, 3]), Ok(vec![1, 3]), "who has left is left out");
        assert_eq!(of(&desk, &[1, 4]), Err::<Vec<u8>, _>(peer(4)));
        assert_eq!(desk.outgoing(4, Phase::Contribution, 7, ME), Some(bytes(1)));
        desk.drop_exchange(4);
        assert_eq!(of(&desk, &[1]), Err(ME));
    }

    #[test]
    fn own_values_are_cut_without_a_copy() {
        let values = Bytes::from((0..40).collect::<Vec<u8>>());
        let plan = ChunkPlan::new(10, 2, 3).expect("a plan");
        let mut desk = Desk::default();
        desk.keep_own(0, &plan, ME, &values);
        let chunks: Vec<_> = (0..4).filter_map(|chunk| desk.outgoing(0, Phase::Contribution, chunk, ME)).collect();
        assert_eq!(chunks.iter().map(|chunk| chunk.len() / 4).collect::<Vec<_>>(), [3, 2, 3, 2]);
        assert_eq!(chunks.concat(), values);
        assert_eq!(chunks[1].as_ptr(), values[12..].as_ptr());
    }

    #[test]
    fn sums_can_be_sent_until_the_next_exchange_is_applied() {
        let mut desk = Desk::default();
        desk.keep(5, Phase::Contribution, 0, ME, bytes(9));
        for exchange in [4, 5] {
            for chunk in [1, 0] {
                desk.keep(exchange, Phase::Sum, chunk, peer(2), bytes(chunk as u8));
            }
        }
        assert_eq!(desk.apply(4), [(peer(2), bytes(0)), (peer(2), bytes(1))]);
        assert_eq!(desk.outgoing(4, Phase::Sum, 1, ME), Some(bytes(1)));
        assert_eq!(desk.outgoing(5, Phase::Contribution, 0, ME), Some(bytes(9)));
        assert_eq!(desk.apply(5).len(), 2);
        assert_eq!(desk.outgoing(4, Phase::Sum, 1, ME), None);
        assert_eq!(desk.outgoing(5, Phase::Contribution, 0, ME), None);
        desk.drop_sums(5);
        assert_eq!(desk.outgoing(5, Phase::Sum, 0, ME), None);
    }
}
