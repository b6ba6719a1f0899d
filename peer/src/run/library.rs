//! Who may read which blobs: the members of a run those of its data and state,
//! the owner of a finished run its result.
//!
//! Data and results are blobs on the disk; states are in memory, whole, and
//! shared with every reader: no copy is made for any of them.

use crate::data::manifest::Manifest;
use crate::net::bulk::BlobSource;
use crate::run::state::Cut;
use crate::store::blobs::BlobStore;
use bytes::Bytes;
use manta_protocol::{Hash, OrderId, PeerId, RunId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The library; shared among threads.
#[derive(Debug, Default)]
pub(crate) struct Library {
    shelves: RwLock<BTreeMap<Shelf, Holding>>,
}

/// What blobs are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shelf {
    /// The data of an order that may become a run.
    Order(OrderId),
    /// The data of a run that goes on.
    Data(RunId),
    /// A state of a run, in memory.
    State(RunId),
    /// The result of a run, for its owner.
    Result(RunId),
}

#[derive(Debug, Default)]
struct Holding {
    on_disk: HashSet<Hash>,
    in_memory: HashMap<Hash, Bytes>,
    readers: BTreeSet<PeerId>,
    /// Whether all is here: a half-filled shelf would send readers away.
    open: bool,
}

impl Library {
    /// Keeps the data of `manifest`, and what else is given; nobody else may read
    /// it until it is [opened](Self::open).
    pub(crate) fn keep_data(
        &self,
        shelf: Shelf,
        root: Hash,
        manifest: &Manifest,
        others: impl IntoIterator<Item = Hash>,
        readers: BTreeSet<PeerId>,
    ) {
        let on_disk = manifest.blobs().map(|(hash, _)| hash).chain([root]).chain(others).collect();
        self.write().insert(shelf, Holding { on_disk, readers, ..Holding::default() });
    }

    /// Lets `readers` read a state, in place of the one before.
    pub(crate) fn show_state(&self, run: RunId, cut: Cut, readers: BTreeSet<PeerId>) {
        let holding = Holding { in_memory: cut.blobs, readers, open: true, ..Holding::default() };
        self.write().insert(Shelf::State(run), holding);
    }

    /// Keeps a result on the disk for `owner`.
    pub(crate) fn show_result(&self, run: RunId, blobs: HashSet<Hash>, owner: PeerId) {
        let holding = Holding { on_disk: blobs, readers: [owner].into(), open: true, ..Holding::default() };
        self.write().insert(Shelf::Result(run), holding);
    }

    /// All of it is here now.
    pub(crate) fn open(&self, shelf: Shelf) {
        if let Some(holding) = self.write().get_mut(&shelf) {
            holding.open = true;
        }
    }

    /// From now on these are who may read data and state of `run`.
    pub(crate) fn set_readers(&self, run: RunId, readers: &BTreeSet<PeerId>) {
        let mut shelves = self.write();
        for shelf in [Shelf::Data(run), Shelf::State(run)] {
            if let Some(holding) = shelves.get_mut(&shelf) {
                holding.readers.clone_from(readers);
            }
        }
    }

    /// The blobs are not needed for this any more.
    pub(crate) fn close(&self, shelf: Shelf) {
        self.write().remove(&shelf);
    }

    /// Whether anything here needs the blob on the disk.
    pub(crate) fn needs(&self, blob: &Hash) -> bool {
        self.read().values().any(|holding| holding.on_disk.contains(blob))
    }

    /// Where the blob is, if `peer` may read it.
    fn find(&self, blob: &Hash, peer: &PeerId) -> Option<Place> {
        let shelves = self.read();
        let mut readable = shelves.values().filter(|holding| holding.open && holding.readers.contains(peer));
        readable.find_map(|holding| match holding.in_memory.get(blob) {
            Some(bytes) => Some(Place::Memory(bytes.clone())),
            None => holding.on_disk.contains(blob).then_some(Place::Disk),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Shelf, Holding>> {
        self.shelves.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Shelf, Holding>> {
        self.shelves.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq)]
enum Place {
    Memory(Bytes),
    Disk,
}

/// The blobs of `library`, for those who may read them.
pub(crate) fn source(store: Arc<BlobStore>, library: Arc<Library>) -> impl BlobSource {
    move |hash: &Hash, peer: &PeerId| match library.find(hash, peer)? {
        Place::Memory(bytes) => Some(bytes),
        Place::Disk => {
            // A blob that was damaged on our disk is not there: the reader asks somebody else.
            let blob = store.get(hash).inspect_err(|error| tracing::warn!(%error, "a blob could not be read"));
            blob.ok().flatten().map(Bytes::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataSet;
    use crate::data::tokenizer::Tokenizer;
    use crate::run::state::RunState;

    const RUN: RunId = RunId([1; 32]);
    const MEMBER: PeerId = PeerId([2; 32]);
    const LATE: PeerId = PeerId([3; 32]);

    #[test]
    fn only_members_read_and_only_what_is_whole() {
        let library = Library::default();
        let data = DataSet { training: b"training".to_vec().into(), validation: b"validation".to_vec().into() };
        let manifest = Manifest::of(&data, &Tokenizer::Bytes);
        let root = manifest.root();
        let initial = Hash::of(b"initial parameters");
        library.keep_data(Shelf::Data(RUN), root, &manifest, [initial], [MEMBER].into());
        assert!([root, manifest.chunks[0], initial].iter().all(|hash| library.needs(hash)));
        assert_eq!(library.find(&root, &MEMBER), None, "not all of it is here yet");
        library.open(Shelf::Data(RUN));
        assert_eq!((library.find(&root, &MEMBER), library.find(&root, &LATE)), (Some(Place::Disk), None));

        let cut = |value| RunState { exchange: 4, vectors: vec![vec![value; 10]] }.cut(RUN);
        let (first, second) = (cut(1.0), cut(2.0));
        let (first_root, second_root) = (first.root, second.root);
        library.show_state(RUN, first, [MEMBER].into());
        library.set_readers(RUN, &[MEMBER, LATE].into());
        assert_eq!(library.find(&root, &LATE), Some(Place::Disk));
        assert!(matches!(library.find(&first_root, &LATE), Some(Place::Memory(_))));
        assert!(!library.needs(&first_root), "it is not on the disk");
        library.show_state(RUN, second, [LATE].into());
        assert_eq!(library.find(&first_root, &LATE), None, "it was replaced");
        assert!(library.find(&second_root, &LATE).is_some() && library.find(&second_root, &MEMBER).is_none());

        library.close(Shelf::Data(RUN));
        library.close(Shelf::State(RUN));
        assert_eq!((library.find(&root, &MEMBER), library.find(&second_root, &LATE)), (None, None));
        assert!(!library.needs(&root));
        library.show_result(RUN, [root].into(), MEMBER);
        assert!(library.needs(&root));
        assert_eq!((library.find(&root, &MEMBER), library.find(&root, &LATE)), (Some(Place::Disk), None));
    }
}
