//! The data of a run: fetched from its owner, checked, kept, and served to the
//! other members.
//!
//! Data is a tree of blobs: a manifest names the chunks by their hashes. Only
//! members of a run may read its blobs.

use crate::data::DataSet;
use crate::data::manifest::{self, Manifest};
use crate::net::bulk::{BlobSource, BulkHandle};
use crate::store::blobs::BlobStore;
use bytes::Bytes;
use futures::StreamExt;
use manta_protocol::effect::RunStart;
use manta_protocol::{Hash, PeerId, RunId};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// Chunks that are asked for at a time: enough to fill a long link.
const FETCHES: usize = 4;

/// Who may read which blobs: the members of a run those of its data.
#[derive(Debug, Default)]
pub(crate) struct Library {
    readers: RwLock<BTreeMap<RunId, Readers>>,
}

#[derive(Debug)]
struct Readers {
    blobs: HashSet<Hash>,
    members: BTreeSet<PeerId>,
}

impl Library {
    /// Lets the members of `start` read its data.
    pub(crate) fn open(&self, start: &RunStart, manifest: &Manifest) {
        let blobs = manifest.chunks.iter().copied().chain([start.spec.data_root]).collect();
        let members = start.members.iter().map(|member| member.peer).collect();
        self.write().insert(start.run, Readers { blobs, members });
    }

    /// Lets nobody read the data of `run` any more.
    pub(crate) fn close(&self, run: &RunId) {
        self.write().remove(run);
    }

    fn may_read(&self, peer: &PeerId, blob: &Hash) -> bool {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        readers.values().any(|readers| readers.members.contains(peer) && readers.blobs.contains(blob))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<RunId, Readers>> {
        self.readers.write().unwrap_or_else(PoisonError::into_inner)
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
    let root = start.spec.data_root;
    let from_owner = async |hash: Hash| {
        let bytes = bulk
            .fetch_blob(start.owner, hash)
            .await
            .map_err(|error| format!("the data cannot be fetched from its owner {}: {error}", start.owner.short()))?;
        keep(&store, bytes.clone()).await?;
        Ok::<_, String>(bytes)
    };
    let known = read(&store, root).await?;
    let encoded = match known {
        Some(bytes) => bytes,
        None => from_owner(root).await?.to_vec(),
    };
    let manifest = Manifest::decode(&encoded).map_err(|error| error.to_string())?;
    let found = manifest.training_bytes + manifest.validation_bytes;
    if found != start.spec.data_bytes {
        return Err(format!(
            "the run's data was announced with {} bytes, its manifest says {found}",
            start.spec.data_bytes
        ));
    }
    // The owner has everything and is asked at once; whoever is admitted may ask.
    if start.owner == start.me() {
        library.open(&start, &manifest);
    }
    let chunk_bytes = start.spec.chunk_elements.saturating_mul(4);
    bulk.admit(start.run, start.members.iter().map(|member| member.peer).collect(), chunk_bytes);
    let missing: Vec<Hash> = manifest.chunks.iter().copied().filter(|hash| !store.contains(hash)).collect();
    tracing::info!(chunks = manifest.chunks.len(), missing = missing.len(), "the data of the run");
    let mut fetches = futures::stream::iter(missing).map(from_owner).buffer_unordered(FETCHES);
    while let Some(fetched) = fetches.next().await {
        fetched?;
    }
    drop(fetches);
    // Open to the others only now: a half-fetched set would send them away.
    library.open(&start, &manifest);
    let store = store.clone();
    blocking(move || manifest::assemble(&manifest, &store).map_err(|error| error.to_string())).await
}

async fn read(store: &Arc<BlobStore>, hash: Hash) -> Result<Option<Vec<u8>>, String> {
    let store = store.clone();
    blocking(move || store.get(&hash).map_err(|error| error.to_string())).await
}

async fn keep(store: &Arc<BlobStore>, bytes: Bytes) -> Result<(), String> {
    let store = store.clone();
    blocking(move || store.put(&bytes).map(|_| ()).map_err(|error| error.to_string())).await
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("a file task ended early; see the log".into()))
}
