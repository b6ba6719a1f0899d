//! All-reduce as a state machine, among all ranks, in any order of delivery.

use manta_protocol::run::allreduce::{Action, Refusal};
use manta_protocol::run::{AllReduce, ChunkPlan, Phase};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Something on its way: a chunk between two ranks, or a rank's own work.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Local { rank: usize },
    Chunk { from: usize, to: usize, phase: Phase, chunk: u32 },
    Reduced { rank: usize, chunk: u32 },
}

/// All ranks' machines over vectors of u64, where each element of a rank's
/// vector is a distinct power of 17: sums show who was added how often.
struct Group {
    plan: ChunkPlan,
    ranks: Vec<AllReduce>,
    pending: Vec<Pending>,
    contributions: BTreeMap<(usize, u32), u32>,
    sums: BTreeMap<(usize, u32), u32>,
    complete: Vec<u32>,
}

impl Group {
    fn new(plan: ChunkPlan) -> Self {
        let ranks = plan.ranks();
        Self {
            ranks: (0..ranks).map(|me| AllReduce::new(plan.clone(), Some(me))).collect(),
            pending: (0..ranks).map(|rank| Pending::Local { rank }).collect(),
            contributions: BTreeMap::new(),
            sums: BTreeMap::new(),
            complete: vec![0; ranks],
            plan,
        }
    }

    fn length(&self, chunk: u32) -> u64 {
        self.plan.elements(chunk).map_or(0, |range| range.end - range.start)
    }

    fn happen(&mut self, index: usize) {
        let rank = match self.pending.swap_remove(index) {
            Pending::Local { rank } => {
                self.ranks[rank].local_ready();
                rank
            }
            Pending::Chunk { from, to, phase, chunk } => {
                let length = self.length(chunk);
                assert_eq!(self.ranks[to].chunk_arrived(from, phase, chunk, length), Ok(()));
                assert_eq!(self.ranks[to].chunk_arrived(from, phase, chunk, length), Err(Refusal::Again));
                let counts = if phase == Phase::Sum { &mut self.sums } else { &mut self.contributions };
                *counts.entry((to, chunk)).or_default() += 1;
                to
            }
            Pending::Reduced { rank, chunk } => {
                let others = self.plan.ranks() as u32 - 1;
                assert_eq!(
                    self.contributions.get(&(rank, chunk)).copied().unwrap_or(0),
                    others,
                    "added while incomplete"
                );
                self.ranks[rank].chunk_reduced(chunk);
                *self.sums.entry((rank, chunk)).or_default() += 1;
                rank
            }
        };
        while let Some(action) = self.ranks[rank].poll_action() {
            self.act(rank, action);
        }
    }

    fn act(&mut self, rank: usize, action: Action) {
        let pending = match action {
            Action::SendContribution { to, chunk } => {
                Pending::Chunk { from: rank, to, phase: Phase::Contribution, chunk }
            }
            Action::SendSum { chunk } => {
                let others = (0..self.plan.ranks()).filter(|to| *to != rank);
                let sent = others.map(|to| Pending::Chunk { from: rank, to, phase: Phase::Sum, chunk });
                return self.pending.extend(sent);
            }
            Action::Reduce { chunk } => Pending::Reduced { rank, chunk },
            Action::Complete => {
                for phase in [Phase::Contribution, Phase::Sum] {
                    assert_eq!(self.ranks[rank].waiting_for(phase), [0usize; 0]);
                }
                return self.complete[rank] += 1;
            }
        };
        self.pending.push(pending);
    }
}

fn plans() -> impl Strategy<Value = ChunkPlan> {
    (1..200u64, 1..=6usize, 1..40u32)
        .prop_map(|(elements, ranks, chunk)| ChunkPlan::new(elements, ranks, chunk).expect("few chunks"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_covers_each_element_once_and_knows_its_owner(
        elements in 1..1_000_000u64, ranks in 1..=16usize, chunk_elements in 500..300_000u32,
    ) {
        let plan = ChunkPlan::new(elements, ranks, chunk_elements).expect("few chunks");
        let mut next = 0;
        for rank in 0..ranks {
            let part = elements as u128 * rank as u128 / ranks as u128..elements as u128 * (rank as u128 + 1) / ranks as u128;
            for chunk in plan.owned(rank) {
                let range = plan.elements(chunk).expect("a chunk");
                prop_assert_eq!(plan.owner(chunk), Some(rank));
                prop_assert_eq!(range.start, next, "no gap and no overlap");
                prop_assert!(range.end > range.start && range.end - range.start <= u64::from(chunk_elements));
                prop_assert!(part.contains(&u128::from(range.start)) && u128::from(range.end) <= part.end);
                next = range.end;
            }
        }
        prop_assert_eq!(next, elements);
        prop_assert_eq!((plan.owner(plan.chunks()), plan.elements(plan.chunks())), (None, None));
    }

    #[test]
    fn all_ranks_complete_in_any_order_of_delivery(
        plan in plans(), order in prop::collection::vec(any::<prop::sample::Index>(), 1..64),
    ) {
        let mut group = Group::new(plan.clone());
        let mut order = order.iter().cycle();
        while !group.pending.is_empty() {
            let index = order.next().expect("endless").index(group.pending.len());
            group.happen(index);
        }
        prop_assert_eq!(&group.complete, &vec![1; plan.ranks()], "each rank completes exactly once");
        for rank in 0..plan.ranks() {
            for chunk in 0..plan.chunks() {
                prop_assert_eq!(group.sums.get(&(rank, chunk)), Some(&1), "one sum of chunk {} at rank {}", chunk, rank);
            }
        }
    }

    /// Hostile chunks between honest ones change nothing.
    #[test]
    fn refused_chunks_leave_no_trace(
        plan in plans(), from in 0..8usize, sum in any::<bool>(), chunk in 0..300u32, elements in 0..50u64, ready in any::<bool>(),
    ) {
        let mut machine = AllReduce::new(plan, Some(0));
        if ready {
            machine.local_ready();
        }
        let before = format!("{machine:?}");
        let phase = if sum { Phase::Sum } else { Phase::Contribution };
        if machine.chunk_arrived(from, phase, chunk, elements).is_err() {
            prop_assert_eq!(before, format!("{machine:?}"));
        }
        let before = format!("{machine:?}");
        machine.chunk_reduced(chunk.saturating_add(100_000));
        prop_assert_eq!(before, format!("{machine:?}"), "a sum that was not asked for");
    }
}

#[test]
fn each_refusal_has_its_reason() {
    let plan = ChunkPlan::new(10, 2, 3).unwrap();
    assert_eq!((plan.owned(0), plan.owned(1)), (0..2, 2..4));
    let mut machine = AllReduce::new(plan, Some(0));
    assert_eq!(machine.waiting_for(Phase::Contribution), [0, 1]);
    let cases = [
        ("no such chunk", 1, Phase::Contribution, 4, 3, Err(Refusal::NotYours)),
        ("another's part", 1, Phase::Contribution, 2, 3, Err(Refusal::NotYours)),
        ("no such rank", 2, Phase::Contribution, 0, 3, Err(Refusal::NotYours)),
        ("from ourselves", 0, Phase::Contribution, 0, 3, Err(Refusal::NotYours)),
        ("a sum of a part that is not its", 1, Phase::Sum, 0, 3, Err(Refusal::NotYours)),
        ("a sum before our own values", 1, Phase::Sum, 2, 3, Err(Refusal::NotYours)),
        ("too long", 1, Phase::Contribution, 0, 4, Err(Refusal::Length)),
        ("empty", 1, Phase::Contribution, 0, 0, Err(Refusal::Length)),
        ("early, but right", 1, Phase::Contribution, 0, 3, Ok(())),
        ("twice", 1, Phase::Contribution, 0, 3, Err(Refusal::Again)),
        ("the last chunk of a part is short", 1, Phase::Contribution, 1, 2, Ok(())),
    ];
    for (why, from, phase, chunk, elements, expected) in cases {
        assert_eq!(machine.chunk_arrived(from, phase, chunk, elements), expected, "{why}");
    }
    assert_eq!(machine.waiting_for(Phase::Contribution), [0], "only our own values are missing");
    assert_eq!(machine.waiting_for(Phase::Sum), [0, 1]);
    assert_eq!(machine.poll_action(), None, "nothing is added before the own values are there");
}

#[test]
fn plans_that_cannot_be_cut_are_refused() {
    assert!(ChunkPlan::new(0, 2, 1).is_none());
    assert!(ChunkPlan::new(1, 0, 1).is_none());
    assert!(ChunkPlan::new(1, 1, 0).is_none());
    assert!(ChunkPlan::new(65_536, 1, 1).is_some());
    assert!(ChunkPlan::new(65_537, 1, 1).is_none());
    assert!(ChunkPlan::new(u64::MAX, 16, u32::MAX).is_none());
    let few = ChunkPlan::new(2, 5, 8).expect("fewer elements than ranks");
    assert_eq!((0..5).map(|rank| few.owned(rank).len()).sum::<usize>(), 2);
}
