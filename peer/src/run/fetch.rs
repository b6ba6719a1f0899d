//! The data of a run: fetched from its owner, checked, kept, and served to the
//! other members.
//!
//! Data is a tree of blobs: a manifest names the chunks by their hashes. Only
//! members of a run may read its blobs.

use crate::data::DataSet;
use crate::data::manifest::{self, MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::net::bulk::{BlobSource, BulkHandle};
use crate::store::blobs::BlobStore;
use bytes::Bytes;
use futures::StreamExt;
use manta_protocol::effect::RunStart;
use manta_protocol::{Hash, OrderId, PeerId, RunId};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Chunks that are asked for at a time: enough to fill a long link.
const FETCHES: usize = 4;

/// Who may read which blobs: the members of a run those of its data.
#[derive(Debug, Default)]
pub(crate) struct Library {
    shelves: RwLock<BTreeMap<Shelf, Readers>>,
}

/// What blobs are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shelf {
    /// An order that may become a run.
    Order(OrderId),
    /// A run that goes on.
    Run(RunId),
}

#[derive(Debug)]
struct Readers {
    blobs: HashSet<Hash>,
    members: BTreeSet<PeerId>,
}

impl Library {
    /// Keeps the data of `manifest`; nobody else may read it yet.
    pub(crate) fn keep(&self, shelf: Shelf, root: Hash, manifest: &Manifest) {
        self.put(shelf, root, manifest, BTreeSet::new());
    }

    /// Lets the members of `start` read its data.
    pub(crate) fn open(&self, start: &RunStart, manifest: &Manifest) {
        let members = start.members.iter().map(|member| member.peer).collect();
        self.put(Shelf::Run(start.run), start.spec.data_root, manifest, members);
    }

    /// The data is not needed for this any more.
    pub(crate) fn close(&self, shelf: Shelf) {
        self.write().remove(&shelf);
    }

    /// Whether anything here needs the blob.
    pub(crate) fn needs(&self, blob: &Hash) -> bool {
        self.read().values().any(|readers| readers.blobs.contains(blob))
    }

    fn may_read(&self, peer: &PeerId, blob: &Hash) -> bool {
        self.read().values().any(|readers| readers.members.contains(peer) && readers.blobs.contains(blob))
    }

    fn put(&self, shelf: Shelf, root: Hash, manifest: &Manifest, members: BTreeSet<PeerId>) {
        let blobs = manifest.chunks.iter().copied().chain([root]).collect();
        self.write().insert(shelf, Readers { blobs, members });
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Shelf, Readers>> {
        self.shelves.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Shelf, Readers>> {
        self.shelves.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blobs of `store`, for those whom `library` lets read them.
pub(crate) fn source(store: Arc<BlobStore>, library: Arc<Library>) -> impl BlobSource {
    move |hash: &Hash, peer: &PeerId| {
        if !library.may_read(peer, hash) {
            return None;
        }
        // A blob that was damaged on our disk is not there: the reader asks somebody else.
        let blob = store.get(hash).inspect_err(|error| tracing::warn!(%error, "a blob could not be read"));
        blob.ok().flatten().map(Bytes::from)
    }
}

/// Brings the data of a run here, admits the members on the bulk transport and
/// lets them read what is here.
///
/// # Errors
/// What was missing or wrong, whose it was, and what to do.
pub(crate) async fn fetch(
    start: Arc<RunStart>,
    bulk: BulkHandle,
    store: Arc<BlobStore>,
    library: Arc<Library>,
) -> Result<DataSet, String> {
    let fetcher = Fetcher { start: &start, bulk: &bulk, store: &store, library: &library };
    let manifest = fetcher.manifest().await?;
    if start.owner == start.me() {
        // The owner has everything and is asked at once; whoever is admitted may ask.
        library.open(&start, &manifest);
    } else {
        library.keep(Shelf::Run(start.run), start.spec.data_root, &manifest);
    }
    let chunk_bytes = start.spec.chunk_elements.saturating_mul(4);
    bulk.admit(start.run, start.members.iter().map(|member| member.peer).collect(), chunk_bytes);
    let data = match fetcher.chunks(&manifest).await {
        // A chunk that was damaged on our disk is gone now, and fetched anew.
        Err(ManifestError::MissingChunk { .. }) => fetcher.chunks(&manifest).await,
        other => other,
    }
    .map_err(|error| error.to_string())?;
    // Open to the others only now: a half-fetched set would send them away.
    library.open(&start, &manifest);
    Ok(data)
}

/// What a fetching works with.
struct Fetcher<'a> {
    start: &'a RunStart,
    bulk: &'a BulkHandle,
    store: &'a Arc<BlobStore>,
    library: &'a Arc<Library>,
}

impl Fetcher<'_> {
    /// The manifest, from here or from the owner.
    async fn manifest(&self) -> Result<Manifest, String> {
        let root = self.start.spec.data_root;
        let encoded = match self.on_disk(move |store| Ok(store.get(&root)?)).await.map_err(|error| error.to_string())? {
            Some(bytes) => bytes,
            None => {
                self.make_room(MANIFEST_BYTES_MAX as u64).await.map_err(|error| error.to_string())?;
                self.ask_owner(root).await.map_err(|error| error.to_string())?.to_vec()
            }
        };
        let manifest = Manifest::decode(&encoded).map_err(|error| error.to_string())?;
        let (announced, found) = (self.start.spec.data_bytes, manifest.training_bytes + manifest.validation_bytes);
        if found != announced {
            return Err(format!("the run's data was announced with {announced} bytes, its manifest says {found}"));
        }
        Ok(manifest)
    }

    /// The data set, whose missing chunks come from the owner.
    async fn chunks(&self, manifest: &Manifest) -> Result<DataSet, ManifestError> {
        let chunks = manifest.chunks.iter().copied().enumerate();
        let missing: Vec<(usize, Hash)> = chunks.filter(|(_, hash)| !self.store.contains(hash)).collect();
        tracing::info!(chunks = manifest.chunks.len(), missing = missing.len(), "the data of the run");
        self.make_room(missing.iter().map(|(index, _)| manifest.chunk_bytes(*index) as u64).sum()).await?;
        let fetches = missing.into_iter().map(|(_, hash)| self.ask_owner(hash));
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        let manifest = manifest.clone();
        self.on_disk(move |store| manifest::assemble(&manifest, store)).await
    }

    /// Fetches a blob from the owner and keeps it.
    async fn ask_owner(&self, hash: Hash) -> Result<Bytes, ManifestError> {
        let owner = self.start.owner;
        let fetched = self.bulk.fetch_blob(owner, hash).await;
        let bytes = fetched.map_err(|error| ManifestError::NotFetched { owner, problem: error.to_string() })?;
        let kept = bytes.clone();
        self.on_disk(move |store| Ok(store.put(&kept)?)).await?;
        Ok(bytes)
    }

    async fn make_room(&self, needed_bytes: u64) -> Result<(), ManifestError> {
        let library = self.library.clone();
        self.on_disk(move |store| Ok(store.make_room(needed_bytes, |blob| library.needs(blob))?)).await
    }

    /// Works with the store where it may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BlobStore) -> Result<T, ManifestError> + Send + 'static,
    ) -> Result<T, ManifestError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or(Err(ManifestError::Interrupted))
    }
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("a file task ended early; see the log".into()))
}
