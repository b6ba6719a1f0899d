//! Direct all-reduce: reduce-scatter, then all-gather, chunk by chunk.
//!
//! The vector is cut into one part a rank; each part is cut into chunks. Every
//! rank sends its values of a chunk to the chunk's owner; once the owner has
//! all of them it adds them *in rank order* and sends the sum to everyone. So
//! all members hold the same bits, whatever order the network delivers in, and
//! a chunk's sum is on its way while later chunks are still coming in.
//!
//! When ranks are lost meanwhile, the others agree (see [`super::view`]) either
//! that everything stands, and hand out the sums that the lost ones owed, or
//! that the chunks are added up again without them, from the values that their
//! owners hold; the chunks that the lost ones owned get new owners.
//!
//! This machine counts chunks; the values themselves are moved and added by the
//! driver. Bound: 2 · chunks · ranks events an exchange; later ones are refused.

use super::view::Handover;
use crate::wire::limits::CHUNKS_MAX;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Which half of the all-reduce a chunk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// One rank's values, on the way to the chunk's owner.
    Contribution = 0,
    /// The sum over all ranks, on the way from the owner.
    Sum = 1,
}

impl Phase {
    /// The phase of this number on the bulk transport.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Contribution),
            1 => Some(Self::Sum),
            _ => None,
        }
    }
}

/// How a vector is cut into parts (one a rank) and chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPlan {
    elements: u64,
    ranks: usize,
    chunk_elements: u64,
    /// Index of the first chunk of each rank's part, and the number of chunks.
    first_chunks: Vec<u32>,
}

impl ChunkPlan {
    /// Cuts `elements` for `ranks` members into chunks of at most
    /// `chunk_elements`. `None` if there is nothing to cut, or too much.
    pub fn new(elements: u64, ranks: usize, chunk_elements: u32) -> Option<Self> {
        if elements == 0 || ranks == 0 || chunk_elements == 0 {
            return None;
        }
        let mut plan = Self {
            elements,
            ranks,
            chunk_elements: u64::from(chunk_elements),
            first_chunks: Vec::with_capacity(ranks + 1),
        };
        let mut next = 0u64;
        for rank in 0..ranks {
            plan.first_chunks.push(u32::try_from(next).ok()?);
            let part = plan.part(rank);
            next += (part.end - part.start).div_ceil(plan.chunk_elements);
            if next > CHUNKS_MAX as u64 {
                return None;
            }
        }
        plan.first_chunks.push(u32::try_from(next).ok()?);
        Some(plan)
    }

    /// Number of members.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Number of chunks of the whole vector.
    pub fn chunks(&self) -> u32 {
        self.first_chunks[self.ranks]
    }

    /// The chunks that `rank` owns.
    pub fn owned(&self, rank: usize) -> Range<u32> {
        self.first_chunks[rank]..self.first_chunks[rank + 1]
    }

    /// Who owns `chunk`; `None` if there is no such chunk.
    pub fn owner(&self, chunk: u32) -> Option<usize> {
        (chunk < self.chunks()).then(|| self.first_chunks.partition_point(|first| *first <= chunk) - 1)
    }

    /// The elements of `chunk` in the vector; `None` if there is no such chunk.
    pub fn elements(&self, chunk: u32) -> Option<Range<u64>> {
        let owner = self.owner(chunk)?;
        let part = self.part(owner);
        let start = part.start + u64::from(chunk - self.first_chunks[owner]) * self.chunk_elements;
        Some(start..(start + self.chunk_elements).min(part.end))
    }

    fn part(&self, rank: usize) -> Range<u64> {
        let cut = |rank: usize| (u128::from(self.elements) * rank as u128 / self.ranks as u128) as u64;
        cut(rank)..cut(rank + 1)
    }
}

/// What the machine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the own values of `chunk` to its owner `to`.
    SendContribution {
        /// Rank of the owner.
        to: usize,
        /// The chunk.
        chunk: u32,
    },
    /// All values of the own `chunk` are here: add them in rank order.
    Reduce {
        /// The chunk.
        chunk: u32,
    },
    /// Send the sum of `chunk` to everyone.
    SendSum {
        /// The chunk.
        chunk: u32,
    },
    /// Every chunk's sum is here.
    Complete,
}

/// Why a chunk was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such chunk, or not this sender's to send to us now.
    #[error("the chunk does not exist or is not the sender's to send here now")]
    NotYours,
    /// Its length is not the planned one.
    #[error("the chunk's length is not the planned one")]
    Length,
    /// It was here before.
    #[error("the chunk was here before")]
    Again,
}

/// One exchange's all-reduce, as one member sees it.
#[derive(Clone, Debug)]
pub struct AllReduce {
    plan: ChunkPlan,
    /// The own rank; `None` for a member that only follows the sums.
    me: Option<usize>,
    /// A bit for each rank whose values count.
    contributors: u16,
    /// Chunks that have another owner than planned.
    moved: BTreeMap<u32, usize>,
    local_ready: bool,
    /// What comes is kept, but the end must wait.
    frozen: bool,
    completed: bool,
    values: BTreeSet<(u32, usize)>,
    sums: BTreeSet<u32>,
    reducing: BTreeSet<u32>,
    actions: VecDeque<Action>,
}

impl AllReduce {
    /// Starts with nothing; chunks of faster members may come before our own values.
    pub fn new(plan: ChunkPlan, me: Option<usize>) -> Self {
        assert!(me.is_none_or(|me| me < plan.ranks()), "own rank lies within the plan");
        let contributors = u16::MAX >> (u16::BITS as usize - plan.ranks());
        Self {
            plan,
            me,
            contributors,
            moved: BTreeMap::new(),
            local_ready: false,
            frozen: false,
            completed: false,
            values: BTreeSet::new(),
            sums: BTreeSet::new(),
            reducing: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// How the vector is cut.
    pub fn plan(&self) -> &ChunkPlan {
        &self.plan
    }

    /// Who owns `chunk` now; `None` if there is no such chunk.
    pub fn owner(&self, chunk: u32) -> Option<usize> {
        self.moved.get(&chunk).copied().or_else(|| self.plan.owner(chunk))
    }

    /// Whether the values of `rank` count.
    pub fn counts(&self, rank: usize) -> bool {
        rank < self.plan.ranks() && self.contributors >> rank & 1 == 1
    }

    /// Whether the sum of `chunk` is here.
    pub fn has_sum(&self, chunk: u32) -> bool {
        self.sums.contains(&chunk)
    }

    /// A bit for each chunk whose sum is here, lowest first.
    pub fn sums_map(&self) -> Vec<u8> {
        let mut map = vec![0; self.plan.chunks().div_ceil(8) as usize];
        self.sums.iter().for_each(|chunk| map[*chunk as usize / 8] |= 1 << (chunk % 8));
        map
    }

    /// A bit for each rank all of whose values are here for the chunks that we
    /// have yet to add up.
    pub fn whole_map(&self) -> u16 {
        let Some(me) = self.me else { return 0 };
        let due: Vec<_> = self.owned(me).filter(|chunk| !self.sums.contains(chunk)).collect();
        let whole = |rank: &usize| due.iter().all(|chunk| self.values.contains(&(*chunk, *rank)));
        (0..self.plan.ranks()).filter(whole).fold(0, |map, rank| map | 1 << rank)
    }

    /// The own values are there: they go out, to each owner in turn so that no
    /// link waits for another, and count as our contribution to the own part.
    pub fn local_ready(&mut self) {
        let Some(me) = self.me.filter(|me| self.counts(*me)) else { return };
        if std::mem::replace(&mut self.local_ready, true) {
            return;
        }
        let ranks = self.plan.ranks();
        let longest = (0..ranks).map(|rank| self.plan.owned(rank).len()).max().unwrap_or(0);
        for index in 0..longest {
            for part in (0..ranks).map(|distance| (me + distance) % ranks) {
                if let Some(chunk) = self.plan.owned(part).nth(index) {
                    self.contribute(chunk, me);
                }
            }
        }
    }

    /// A chunk of `elements` values came from rank `from`.
    ///
    /// # Errors
    /// [`Refusal`] if it must not be kept.
    pub fn chunk_arrived(&mut self, from: usize, phase: Phase, chunk: u32, elements: u64) -> Result<(), Refusal> {
        let owner = self.owner(chunk).ok_or(Refusal::NotYours)?;
        let entitled = match phase {
            Phase::Contribution => Some(owner) == self.me && owner != from && self.counts(from),
            // No honest sum can be there before our own values went into it.
            Phase::Sum => {
                owner == from && self.me != Some(from) && self.me.is_none_or(|me| self.local_ready || !self.counts(me))
            }
        };
        if !entitled {
            return Err(Refusal::NotYours);
        }
        if self.plan.elements(chunk).is_none_or(|range| range.end - range.start != elements) {
            return Err(Refusal::Length);
        }
        let new = match phase {
            Phase::Contribution => self.values.insert((chunk, from)),
            Phase::Sum => self.sums.insert(chunk),
        };
        if !new {
            return Err(Refusal::Again);
        }
        match phase {
            Phase::Contribution => self.reduce_if_whole(chunk),
            Phase::Sum => self.complete_if_whole(),
        }
        Ok(())
    }

    /// The driver has added up the own `chunk`: the sum goes out.
    pub fn chunk_reduced(&mut self, chunk: u32) {
        if !self.reducing.remove(&chunk) {
            return;
        }
        self.sums.insert(chunk);
        self.actions.push_back(Action::SendSum { chunk });
        self.complete_if_whole();
    }

    /// Holds back the end until [`Self::keep`], [`Self::reduce_over`] or [`Self::thaw`]:
    /// what has been said about it to others must stay true.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Undoes [`Self::freeze`].
    pub fn thaw(&mut self) {
        self.frozen = false;
        self.complete_if_whole();
    }

    /// Everything stands: what lost ranks owed is sent by those who hold it.
    pub fn keep(&mut self, handovers: &[Handover]) {
        // A view comes from the network: it may name a rank that is not there.
        for handover in handovers.iter().filter(|handover| usize::from(handover.by) < self.plan.ranks()) {
            let by = usize::from(handover.by);
            for chunk in handover.first..handover.first.saturating_add(handover.count).min(self.plan.chunks()) {
                self.moved.insert(chunk, by);
                if self.me == Some(by) && self.sums.contains(&chunk) {
                    self.actions.push_back(Action::SendSum { chunk });
                }
            }
        }
        self.thaw();
    }

    /// Only the values of ranks in this map count: all sums are made anew. The
    /// chunks of the others go to these in turn.
    pub fn reduce_over(&mut self, contributors: u16) {
        self.contributors &= contributors;
        let owners: Vec<_> = (0..self.plan.ranks()).filter(|rank| self.counts(*rank)).collect();
        let orphans: Vec<_> = (0..self.plan.chunks())
            .filter(|chunk| self.owner(*chunk).is_none_or(|owner| !self.counts(owner)))
            .collect();
        self.sums.clear();
        self.reducing.clear();
        self.actions.retain(|action| matches!(action, Action::SendContribution { to, .. } if owners.contains(to)));
        let counted = self.contributors;
        self.values.retain(|(_, rank)| counted >> rank & 1 == 1);
        for (index, chunk) in orphans.into_iter().enumerate() {
            let Some(owner) = owners.get(index % owners.len().max(1)) else { return };
            self.moved.insert(chunk, *owner);
            if let Some(me) = self.me.filter(|me| self.local_ready && self.counts(*me)) {
                self.contribute(chunk, me);
            }
        }
        if let Some(me) = self.me {
            self.owned(me).collect::<Vec<_>>().into_iter().for_each(|chunk| self.reduce_if_whole(chunk));
        }
        self.thaw();
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Ranks whose values of own chunks, or whose sums, are still missing.
    pub fn waiting_for(&self, phase: Phase) -> Vec<usize> {
        let missing = |rank: &usize| match phase {
            Phase::Contribution => {
                self.counts(*rank)
                    && self.me.is_some_and(|me| {
                        self.owned(me)
                            .any(|chunk| !self.sums.contains(&chunk) && !self.values.contains(&(chunk, *rank)))
                    })
            }
            Phase::Sum => self.owned(*rank).any(|chunk| !self.sums.contains(&chunk)),
        };
        (0..self.plan.ranks()).filter(missing).collect()
    }

    /// The chunks that `rank` owns now.
    fn owned(&self, rank: usize) -> impl Iterator<Item = u32> {
        let planned = self.plan.owned(rank).filter(|chunk| !self.moved.contains_key(chunk));
        planned.chain(self.moved.iter().filter(move |(_, owner)| **owner == rank).map(|(chunk, _)| *chunk))
    }

    fn contribute(&mut self, chunk: u32, me: usize) {
        match self.owner(chunk) {
            Some(owner) if owner == me => {
                self.values.insert((chunk, me));
                self.reduce_if_whole(chunk);
            }
            Some(to) => self.actions.push_back(Action::SendContribution { to, chunk }),
            None => {}
        }
    }

    fn reduce_if_whole(&mut self, chunk: u32) {
        let ranks = 0..self.plan.ranks();
        let whole = ranks.into_iter().all(|rank| !self.counts(rank) || self.values.contains(&(chunk, rank)));
        if whole && !self.sums.contains(&chunk) && self.reducing.insert(chunk) {
            self.actions.push_back(Action::Reduce { chunk });
        }
    }

    fn complete_if_whole(&mut self) {
        let whole = self.sums.len() == self.plan.chunks() as usize;
        if whole && !self.frozen && !std::mem::replace(&mut self.completed, true) {
            self.actions.push_back(Action::Complete);
        }
    }
}
