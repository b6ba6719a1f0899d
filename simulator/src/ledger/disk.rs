//! What a machine keeps of its ledger, and what of it outlives a crash.
//!
//! Genesis document, consensus log, sealed blocks and a snapshot. Each write is
//! synced before the next effect is carried out. Records and blocks are appended
//! with checksums, so one that was torn by a crash is as good as not written: of
//! a write that was not synced all or nothing is there afterwards.

use crate::draws::Draws;
use manta_protocol::trust::Kept;
use std::collections::BTreeMap;

/// One write of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A ledger begins; what was kept of another one is put aside.
    Begin(Vec<u8>),
    /// A record of the consensus log of this height, which drops those of other heights.
    Log(u64, Vec<u8>),
    /// A recovery that is followed from now on.
    Recovery(Vec<u8>),
    /// The sealed block of this height.
    Block(u64, Vec<u8>),
    /// The state after this height.
    Snapshot(u64, Vec<u8>),
}

/// One machine's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    genesis: Option<Vec<u8>>,
    snapshot: Option<(u64, Vec<u8>)>,
    recoveries: Vec<Vec<u8>>,
    blocks: BTreeMap<u64, Vec<u8>>,
    log: (u64, Vec<Vec<u8>>),
    unsynced: Option<Write>,
}

impl Disk {
    /// A disk with this genesis document, as an operator would copy it there.
    pub fn with_genesis(genesis: Vec<u8>) -> Self {
        Self { genesis: Some(genesis), ..Self::default() }
    }

    /// Something is being written.
    pub fn begin(&mut self, write: Write) {
        self.unsynced = Some(write);
    }

    /// What was begun is durable.
    pub fn end(&mut self) {
        match self.unsynced.take() {
            None => {}
            Some(Write::Begin(genesis)) => *self = Self::with_genesis(genesis),
            Some(Write::Log(height, record)) => {
                if self.log.0 != height {
                    self.log = (height, Vec::new());
                }
                self.log.1.push(record);
            }
            Some(Write::Recovery(recovery)) => self.recoveries.push(recovery),
            Some(Write::Block(height, block)) => drop(self.blocks.insert(height, block)),
            Some(Write::Snapshot(height, state)) => self.snapshot = Some((height, state)),
        }
    }

    /// The height of the last block.
    pub fn height(&self) -> u64 {
        self.blocks.keys().next_back().copied().unwrap_or(0)
    }

    /// Sealed blocks from a height on, as many as fit, at least one if it is there.
    pub fn read(&self, from: u64, bytes_max: usize) -> Vec<Vec<u8>> {
        let (mut bytes, mut read) = (0, Vec::new());
        for block in
            self.blocks.range(from..).zip(from..).map_while(|((height, block), due)| (*height == due).then_some(block))
        {
            bytes += block.len();
            if bytes > bytes_max && !read.is_empty() {
                break;
            }
            read.push(block.clone());
        }
        read
    }

    /// What a node is told when it starts again. `forgetful` leaves the log out.
    pub fn kept(&self, forgetful: bool) -> Option<Kept> {
        let after = self.snapshot.as_ref().map_or(0, |(height, _)| *height);
        Some(Kept {
            genesis: self.genesis.clone()?,
            snapshot: self.snapshot.as_ref().map(|(_, state)| state.clone()),
            recoveries: self.recoveries.clone(),
            blocks: self.blocks.range(after + 1..).map(|(_, block)| block.clone()).collect(),
            log: if forgetful { Vec::new() } else { self.log.1.clone() },
        })
    }

    /// The machine stopped without warning.
    pub fn crash(&mut self, draws: &mut Draws) {
        if draws.happens(500_000) {
            self.end();
        }
        self.unsynced = None;
    }

    /// The last two blocks are gone, for a machine that breaks the rules: the last
    /// alone can follow again from the consensus log.
    pub fn lose_blocks(&mut self) {
        self.blocks.pop_last();
        self.blocks.pop_last();
    }

    /// All that was written is gone.
    pub fn lose(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manta_protocol::Seed;

    #[test]
    fn what_was_synced_outlives_a_crash_and_the_rest_is_there_or_not() {
        let mut draws = Draws::new(Seed::from_number(1));
        let mut there = 0;
        for _ in 0..200 {
            let mut disk = Disk::default();
            let writes =
                [Write::Begin(vec![1]), Write::Log(1, vec![2]), Write::Log(1, vec![3]), Write::Block(1, vec![4; 10])];
            for write in writes {
                disk.begin(write);
                disk.end();
            }
            disk.begin(Write::Log(2, vec![5]));
            disk.crash(&mut draws);
            let kept = disk.kept(false).expect("there is a ledger");
            assert_eq!((kept.genesis, kept.blocks), (vec![1], vec![vec![4; 10]]));
            there += usize::from(kept.log == [[5]]);
            assert!(kept.log == [[5]] || kept.log == [[2], [3]], "{:?}", kept.log);
        }
        assert!((70..130).contains(&there), "{there} of 200 records survived");
    }

    #[test]
    fn blocks_are_read_as_many_as_fit_and_a_snapshot_saves_the_ones_before_it() {
        let mut disk = Disk::with_genesis(vec![1]);
        for height in 1..=5 {
            disk.begin(Write::Block(height, vec![height as u8; 10]));
            disk.end();
        }
        assert_eq!(disk.read(2, 25).len(), 2);
        assert_eq!(disk.read(2, 5).len(), 1, "one at least");
        assert!(disk.read(6, 25).is_empty() && disk.height() == 5);
        disk.begin(Write::Snapshot(4, vec![9]));
        disk.end();
        assert_eq!(disk.kept(false).map(|kept| kept.blocks.len()), Some(1));
        disk.begin(Write::Begin(vec![2]));
        disk.end();
        assert!(disk.height() == 0 && disk.kept(false).is_some_and(|kept| kept.snapshot.is_none()));
    }
}
