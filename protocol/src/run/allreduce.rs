//! Direct all-reduce: reduce-scatter, then all-gather, chunk by chunk.
//!
//! The vector is cut into one part a rank; each part is cut into chunks. Every
//! rank sends its values of a chunk to the chunk's owner; once the owner has
//! all of them it adds them *in rank order* and sends the sum to everyone. So
//! all members hold the same bits, whatever order the network delivers in, and
//! a chunk's sum is on its way while later chunks are still coming in.
//!
//! This machine counts chunks; the values themselves are moved and added by the
//! driver. Bound: 2 · chunks · ranks events a step; later ones are refused.

use crate::wire::limits::CHUNKS_MAX;
use std::collections::{BTreeSet, VecDeque};
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
    /// Send the sum of the own `chunk` to rank `to`.
    SendSum {
        /// Rank of the receiver.
        to: usize,
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

/// One step's all-reduce, as one rank sees it.
#[derive(Clone, Debug)]
pub struct AllReduce {
    plan: ChunkPlan,
    me: usize,
    local_ready: bool,
    contributions: BTreeSet<(u32, usize)>,
    sums: BTreeSet<u32>,
    reducing: BTreeSet<u32>,
    actions: VecDeque<Action>,
}

impl AllReduce {
    /// Starts with nothing; chunks of faster members may come before our own values.
    pub fn new(plan: ChunkPlan, me: usize) -> Self {
        assert!(me < plan.ranks(), "own rank lies within the plan");
        Self {
            plan,
            me,
            local_ready: false,
            contributions: BTreeSet::new(),
            sums: BTreeSet::new(),
            reducing: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// The own values are there: they go out, to each owner in turn so that no
    /// link waits for another, and count as our contribution to the own part.
    pub fn local_ready(&mut self) {
        if std::mem::replace(&mut self.local_ready, true) {
            return;
        }
        let ranks = self.plan.ranks();
        let longest = (0..ranks).map(|rank| self.plan.owned(rank).len()).max().unwrap_or(0);
        for index in 0..longest {
            for to in (1..ranks).map(|distance| (self.me + distance) % ranks) {
                if let Some(chunk) = self.plan.owned(to).nth(index) {
                    self.actions.push_back(Action::SendContribution { to, chunk });
                }
            }
        }
        for chunk in self.plan.owned(self.me) {
            self.contributions.insert((chunk, self.me));
            self.reduce_if_whole(chunk);
        }
    }

    /// A chunk of `elements` values came from rank `from`.
    ///
    /// # Errors
    /// [`Refusal`] if it must not be kept.
    pub fn chunk_arrived(&mut self, from: usize, phase: Phase, chunk: u32, elements: u64) -> Result<(), Refusal> {
        let owner = self.plan.owner(chunk).ok_or(Refusal::NotYours)?;
        let entitled = match phase {
            Phase::Contribution => owner == self.me && from != self.me && from < self.plan.ranks(),
            // No honest sum can be there before our own values went into it.
            Phase::Sum => owner == from && from != self.me && self.local_ready,
        };
        if !entitled {
            return Err(Refusal::NotYours);
        }
        if self.plan.elements(chunk).is_none_or(|range| range.end - range.start != elements) {
            return Err(Refusal::Length);
        }
        let new = match phase {
            Phase::Contribution => self.contributions.insert((chunk, from)),
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
        let ranks = self.plan.ranks();
        let receivers = (1..ranks).map(|distance| (self.me + distance) % ranks);
        self.actions.extend(receivers.map(|to| Action::SendSum { to, chunk }));
        self.complete_if_whole();
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Ranks whose values of own chunks, or whose sums, are still missing.
    pub fn waiting_for(&self, phase: Phase) -> Vec<usize> {
        let missing = |rank: &usize| match phase {
            Phase::Contribution => self.plan.owned(self.me).any(|chunk| !self.contributions.contains(&(chunk, *rank))),
            Phase::Sum => self.plan.owned(*rank).any(|chunk| !self.sums.contains(&chunk)),
        };
        (0..self.plan.ranks()).filter(missing).collect()
    }

    fn reduce_if_whole(&mut self, chunk: u32) {
        let whole = (0..self.plan.ranks()).all(|rank| self.contributions.contains(&(chunk, rank)));
        if whole && self.reducing.insert(chunk) {
            self.actions.push_back(Action::Reduce { chunk });
        }
    }

    fn complete_if_whole(&mut self) {
        if self.sums.len() == self.plan.chunks() as usize {
            self.actions.push_back(Action::Complete);
        }
    }
}
