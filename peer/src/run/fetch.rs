//! What a run needs from others: its data, the parameters that it starts from if
//! these are given, and, for who comes late, its state.
//!
//! Data is a tree of blobs: a manifest names the chunks by their hashes; a state
//! likewise. Whoever has them is asked, several at once, and every blob is
//! checked against its hash.

use crate::data::DataSet;
use crate::data::manifest::{self, MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::data::tokenizer::Tokenizer;
use crate::net::bulk::BulkHandle;
use crate::run::gather::{FetchFailure, gather};
use crate::run::initial;
use crate::run::library::{Library, Shelf};
use crate::run::state::{self, PIECE_BYTES, RunState, StateManifest};
use crate::store::blobs::BlobStore;
use bytes::Bytes;
use manta_protocol::effect::RunStart;
use manta_protocol::{Hash, PeerId, RunId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The data of a run.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) data: DataSet,
    pub(crate) tokenizer: Tokenizer,
    /// What the run starts from, if its spec names it.
    pub(crate) initial: Option<Vec<f32>>,
}

/// What names everything that a run needs.
struct Manifests {
    data: Manifest,
    initial: Option<StateManifest>,
}

impl Manifests {
    /// What the data's manifest does not name, and its length at most.
    fn others(&self) -> impl Iterator<Item = (Hash, usize)> {
        self.initial.iter().flat_map(|initial| initial.pieces.iter().map(|hash| (*hash, PIECE_BYTES)))
    }
}

/// Brings the data of a run here, where `readers` may read it once it is whole.
///
/// # Errors
/// What was missing or wrong, whose it was, and what to do.
pub(crate) async fn fetch_data(
    start: Arc<RunStart>,
    readers: BTreeSet<PeerId>,
    bulk: BulkHandle,
    store: Arc<BlobStore>,
    library: Arc<Library>,
) -> Result<Fetched, String> {
    let fetcher = Fetcher { start: &start, bulk: &bulk, store: &store, library: &library };
    let manifests = Manifests { data: fetcher.manifest().await?, initial: fetcher.initial().await? };
    let others = manifests.others().map(|(hash, _)| hash).chain(start.spec.initial);
    library.keep_data(Shelf::Data(start.run), start.spec.data_root, &manifests.data, others, readers);
    if start.owner == start.me {
        // The owner has everything and is asked at once.
        library.open(Shelf::Data(start.run));
    }
    let manifests = Arc::new(manifests);
    let fetched = match fetcher.blobs(&manifests).await {
        // A chunk that was damaged on our disk is gone now, and fetched anew.
        Err(ManifestError::MissingChunk { .. }) => fetcher.blobs(&manifests).await,
        other => other,
    }
    .map_err(|error| error.to_string())?;
    library.open(Shelf::Data(start.run));
    Ok(fetched)
}

/// What a fetching works with.
struct Fetcher<'a> {
    start: &'a RunStart,
    bulk: &'a BulkHandle,
    store: &'a Arc<BlobStore>,
    library: &'a Arc<Library>,
}

impl Fetcher<'_> {
    /// The manifest, from here or from a donor.
    async fn manifest(&self) -> Result<Manifest, String> {
        let encoded = self.root(self.start.spec.data_root, MANIFEST_BYTES_MAX).await?;
        let manifest = Manifest::decode(&encoded).map_err(|error| error.to_string())?;
        let (announced, found) = (self.start.spec.data_bytes, manifest.training_bytes + manifest.validation_bytes);
        if found != announced {
            return Err(format!("the run's data was announced with {announced} bytes, its manifest says {found}"));
        }
        let (model, tokenizer) = (self.start.spec.model.vocab_size as usize, manifest.tokenizer.vocab_size());
        if model < tokenizer {
            return Err(format!(
                "the run's model has a vocabulary of {model}, its data's tokenizer one of {tokenizer}"
            ));
        }
        Ok(manifest)
    }

    /// The manifest of the parameters that the run starts from.
    async fn initial(&self) -> Result<Option<StateManifest>, String> {
        let Some(root) = self.start.spec.initial else { return Ok(None) };
        let encoded = self.root(root, state::MANIFEST_BYTES_MAX).await?;
        let elements = self.start.spec.model.parameters().ok_or("a model without end")?;
        initial::manifest(&encoded, elements).map(Some).map_err(|error| error.to_string())
    }

    /// The bytes of a manifest.
    async fn root(&self, root: Hash, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut encoded = self.read(root).await?;
        if encoded.is_none() {
            self.make_room(bytes_max as u64).await.map_err(|error| error.to_string())?;
            self.bring([root]).await.map_err(|error| error.to_string())?;
            encoded = self.read(root).await?;
        }
        encoded.ok_or_else(|| format!("the manifest {} was damaged on this disk; check the disk", root.short()))
    }

    async fn read(&self, hash: Hash) -> Result<Option<Vec<u8>>, String> {
        self.on_disk(move |store| Ok(store.get(&hash)?)).await.map_err(|error| error.to_string())
    }

    /// All that the manifests name; what is missing here comes from the donors.
    async fn blobs(&self, manifests: &Arc<Manifests>) -> Result<Fetched, ManifestError> {
        let all = || manifests.data.blobs().chain(manifests.others());
        let missing: Vec<(Hash, usize)> = all().filter(|(hash, _)| !self.store.contains(hash)).collect();
        tracing::info!(blobs = all().count(), missing = missing.len(), "the data of the run");
        self.make_room(missing.iter().map(|(_, bytes)| *bytes as u64).sum()).await?;
        self.bring(missing.into_iter().map(|(hash, _)| hash)).await?;
        let manifests = manifests.clone();
        let assemble = move |store: &BlobStore| {
            Ok(Fetched {
                data: manifest::assemble(&manifests.data, store)?,
                tokenizer: manifest::assemble_tokenizer(&manifests.data.tokenizer, store)?,
                initial: manifests.initial.as_ref().map(|initial| initial::assemble(initial, store)).transpose()?,
            })
        };
        self.on_disk(assemble).await
    }

    /// Fetches blobs from whoever has them, and keeps them.
    async fn bring(&self, wanted: impl IntoIterator<Item = Hash>) -> Result<(), ManifestError> {
        let fetch = |donor, hash| async move {
            let bytes = self.bulk.fetch_blob(donor, hash).await.map_err(FetchFailure::Donor)?;
            let kept = self.on_disk(move |store| Ok(store.put(&bytes)?)).await;
            kept.map(drop).map_err(|error| FetchFailure::Here(error.to_string()))
        };
        let donors = &self.start.donors;
        gather(donors, wanted, fetch).await.map(drop).map_err(|error| ManifestError::NotFetched(error.to_string()))
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

/// Which state to fetch.
#[derive(Clone, Debug)]
pub(crate) struct StateWanted {
    pub(crate) run: RunId,
    /// Hash of its manifest.
    pub(crate) root: Hash,
    /// Parameters of the model.
    pub(crate) elements: u64,
    /// Who have it.
    pub(crate) donors: Vec<PeerId>,
}

/// Brings a state here.
///
/// # Errors
/// What was missing or wrong, and whose it was.
pub(crate) async fn fetch_state(wanted: StateWanted, bulk: BulkHandle) -> Result<RunState, String> {
    let StateWanted { run, root, elements, donors } = wanted;
    let fetch = |donor, hash| {
        let bulk = bulk.clone();
        async move { bulk.fetch_blob(donor, hash).await.map_err(FetchFailure::Donor) }
    };
    let mut manifest = gather(&donors, [root], fetch).await.map_err(|error| error.to_string())?;
    let manifest = manifest.remove(&root).ok_or("the manifest did not come")?;
    let manifest = StateManifest::decode(&manifest, run, elements).map_err(|error| error.to_string())?;
    let pieces = gather(&donors, manifest.pieces.iter().copied(), fetch).await.map_err(|error| error.to_string())?;
    blocking(move || {
        // Equal pieces came once; the bytes are shared.
        let pieces: Option<Vec<Bytes>> = manifest.pieces.iter().map(|hash| pieces.get(hash).cloned()).collect();
        manifest.assemble(&pieces.ok_or("a piece did not come")?).map_err(|error| error.to_string())
    })
    .await
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("a file task ended early; see the log".into()))
}
