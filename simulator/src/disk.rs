//! A virtual disk: what a machine has written, and what of it outlives a crash.
//!
//! A journal record replaces the run's one before as a whole, for its own
//! checksum tells a torn one: after a crash during its sync either the old or
//! the new one is there. A checkpoint lies in one file, which is written, then
//! synced. A crash in between leaves the old file, the new one, or a torn one,
//! as a file system may that orders nothing before a sync.

use crate::draws::Draws;
use manta_protocol::{Hash, RunId};
use std::collections::BTreeMap;

/// A state on the disk: a run's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The exchange before which the state is.
    pub exchange: u64,
    /// The state's bytes.
    pub bytes: Vec<u8>,
    /// The hash that was written with them.
    pub hash: Hash,
}

impl File {
    /// The file of a state.
    pub fn new(exchange: u64, bytes: Vec<u8>) -> Self {
        Self { exchange, hash: Hash::of(&bytes), bytes }
    }

    /// Whether it is what was written.
    pub fn is_whole(&self) -> bool {
        Hash::of(&self.bytes) == self.hash
    }

    /// A part of the file reached the disk, the rest holds what was there before.
    fn tear(&mut self, draws: &mut Draws) {
        let from = draws.up_to(self.bytes.len().saturating_sub(1) as u64) as usize;
        self.bytes[from..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// What one run has on a disk.
#[derive(Clone, Debug, Default)]
struct Shelf {
    record: Option<Vec<u8>>,
    /// The record before, for a broken machine that forgets the last one.
    record_before: Option<Vec<u8>>,
    syncing: Option<Option<Vec<u8>>>,
    checkpoint: Option<File>,
    unsynced: Option<File>,
    result: Option<Hash>,
    /// Whether the run has been saved in this life: what is journalled from here on is its end.
    saved: bool,
    /// Whether its end is in the journal.
    ended: bool,
}

impl Shelf {
    fn end_record(&mut self) {
        if let Some(record) = self.syncing.take() {
            self.ended |= self.saved && record.is_some();
            self.record_before = std::mem::replace(&mut self.record, record);
        }
    }
}

/// One machine's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    runs: BTreeMap<RunId, Shelf>,
}

impl Disk {
    /// A record is being made durable.
    pub fn begin_record(&mut self, run: RunId, record: Option<Vec<u8>>) {
        self.runs.entry(run).or_default().syncing = Some(record);
    }

    /// What was begun is durable.
    pub fn end_record(&mut self, run: RunId) {
        self.runs.entry(run).or_default().end_record();
    }

    /// A checkpoint has been written, but not synced.
    pub fn write_checkpoint(&mut self, run: RunId, file: File) {
        self.runs.entry(run).or_default().unsynced = Some(file);
    }

    /// The checkpoint of this exchange is durable; `false` if another was written since.
    pub fn sync_checkpoint(&mut self, run: RunId, exchange: u64) -> bool {
        let shelf = self.runs.entry(run).or_default();
        match shelf.unsynced.take_if(|file| file.exchange == exchange) {
            Some(file) => shelf.checkpoint = Some(file),
            None => return false,
        }
        true
    }

    /// The checkpoint of `run`, whatever state it is in.
    pub fn checkpoint(&self, run: RunId) -> Option<&File> {
        self.runs.get(&run)?.checkpoint.as_ref()
    }

    /// Keeps the result of a run.
    pub fn keep_result(&mut self, run: RunId, root: Hash) {
        let shelf = self.runs.entry(run).or_default();
        (shelf.result, shelf.saved) = (Some(root), true);
    }

    /// The result of a run is not needed any more.
    pub fn drop_result(&mut self, run: RunId) {
        self.runs.entry(run).or_default().result = None;
    }

    /// Whether the journal says that this machine has ended the run well.
    pub fn has_ended(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|shelf| shelf.ended)
    }

    /// The result of a run, if it is kept here.
    pub fn result(&self, run: RunId) -> Option<Hash> {
        self.runs.get(&run)?.result
    }

    /// Records that are there after a restart. `forgetful` gives the one before the last.
    pub fn records(&self, forgetful: bool) -> Vec<(RunId, Vec<u8>)> {
        let of = |shelf: &Shelf| match &shelf.record_before {
            Some(before) if forgetful && shelf.record.is_some() => Some(before.clone()),
            _ => shelf.record.clone(),
        };
        self.runs.iter().filter_map(|(run, shelf)| Some((*run, of(shelf)?))).collect()
    }

    /// The machine stopped without warning.
    pub fn crash(&mut self, draws: &mut Draws) {
        for shelf in self.runs.values_mut() {
            if shelf.syncing.is_some() && draws.happens(500_000) {
                shelf.end_record();
            }
            (shelf.syncing, shelf.saved) = (None, shelf.ended);
            let Some(mut file) = shelf.unsynced.take() else { continue };
            match draws.up_to(2) {
                0 => {}
                1 => shelf.checkpoint = Some(file),
                _ => {
                    file.tear(draws);
                    shelf.checkpoint = Some(file);
                }
            }
        }
    }

    /// All that was written is gone.
    pub fn lose(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manta_protocol::Seed;

    const RUN: RunId = RunId([3; 32]);

    #[test]
    fn a_crash_spares_what_was_synced_and_gambles_with_the_rest() {
        let mut draws = Draws::new(Seed::from_number(1));
        let (mut old, mut new, mut torn, mut records) = (0, 0, 0, 0);
        for _ in 0..300 {
            let mut disk = Disk::default();
            disk.begin_record(RUN, Some(vec![1]));
            disk.end_record(RUN);
            disk.write_checkpoint(RUN, File::new(4, vec![7; 64]));
            assert!(!disk.sync_checkpoint(RUN, 3), "another exchange is on its way");
            assert!(disk.sync_checkpoint(RUN, 4));
            disk.begin_record(RUN, Some(vec![2]));
            disk.write_checkpoint(RUN, File::new(6, vec![8; 64]));
            disk.crash(&mut draws);
            records += usize::from(disk.records(false)[0].1 == [2]);
            match disk.checkpoint(RUN).expect("there was one") {
                file if !file.is_whole() => torn += 1,
                file if file.exchange == 4 => old += 1,
                _ => new += 1,
            }
        }
        assert!([old, new, torn].iter().all(|count| (70..130).contains(count)), "{old} {new} {torn}");
        assert!((110..190).contains(&records), "{records} of 300 records survived");
    }

    #[test]
    fn a_forgetful_machine_gets_the_record_before() {
        let mut disk = Disk::default();
        for record in [Some(vec![1]), Some(vec![2])] {
            disk.begin_record(RUN, record);
            disk.end_record(RUN);
        }
        assert_eq!(disk.records(false), [(RUN, vec![2])]);
        assert_eq!(disk.records(true), [(RUN, vec![1])]);
        disk.begin_record(RUN, None);
        disk.end_record(RUN);
        assert!(disk.records(true).is_empty(), "a run that is over is not resumed");
        disk.keep_result(RUN, Hash::of(b"model"));
        disk.lose();
        assert_eq!(disk.result(RUN), None);
    }

    #[test]
    fn an_end_is_known_once_it_is_journalled() {
        let mut disk = Disk::default();
        disk.begin_record(RUN, Some(vec![1]));
        disk.end_record(RUN);
        disk.keep_result(RUN, Hash::of(b"model"));
        assert!(!disk.has_ended(RUN));
        let mut lost = disk.clone();
        lost.crash(&mut Draws::new(Seed::from_number(1)));
        lost.begin_record(RUN, Some(vec![2]));
        lost.end_record(RUN);
        assert!(!lost.has_ended(RUN), "it goes on from before the end");
        disk.begin_record(RUN, Some(vec![2]));
        disk.end_record(RUN);
        disk.drop_result(RUN);
        assert!(disk.has_ended(RUN) && disk.result(RUN).is_none());
    }
}
