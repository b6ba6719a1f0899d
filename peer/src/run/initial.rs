//! Parameters that a run starts from, as blobs: cut as a state is, under a name
//! of their own, for they are there before the run. The run's spec names the
//! root, so that nobody starts from others.

use crate::data::manifest::ManifestError;
use crate::run::state::{RunState, StateManifest};
use crate::store::blobs::{BlobStore, StoreError};
use bytes::Bytes;
use manta_protocol::{Hash, RunId};

/// Stands in the manifest where a state has its run.
const NO_RUN: RunId = RunId([0; 32]);

/// Parameters that were cut.
#[derive(Debug)]
pub(crate) struct Initial {
    /// Hash of the manifest.
    pub(crate) root: Hash,
    /// Manifest and pieces.
    blobs: Vec<(Hash, Bytes)>,
}

impl Initial {
    /// Cuts the parameters of a model, flat.
    pub(crate) fn of(parameters: Vec<f32>) -> Self {
        let cut = RunState { exchange: 0, vectors: vec![parameters] }.cut(NO_RUN);
        Self { root: cut.root, blobs: cut.blobs.into_iter().collect() }
    }

    /// The names of all blobs.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = Hash> {
        self.blobs.iter().map(|(hash, _)| *hash)
    }

    /// Their length.
    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Keeps all of it.
    ///
    /// # Errors
    /// [`StoreError`] if it does not fit or the disk failed.
    pub(crate) fn publish(&self, store: &BlobStore) -> Result<(), StoreError> {
        self.blobs.iter().try_for_each(|(_, bytes)| store.put(bytes).map(drop))
    }
}

/// Reads the manifest of a model's parameters that a peer sent.
///
/// # Errors
/// [`ManifestError::Initial`] unless it is one vector of so many elements.
pub(crate) fn manifest(encoded: &[u8], elements: u64) -> Result<StateManifest, ManifestError> {
    let manifest =
        StateManifest::decode(encoded, NO_RUN, elements).map_err(|error| ManifestError::Initial(error.to_string()))?;
    match manifest.vectors {
        1 => Ok(manifest),
        found => Err(ManifestError::Initial(format!("{found} vectors, expected 1"))),
    }
}

/// Puts the parameters together from the blobs in `store`.
///
/// # Errors
/// [`ManifestError`] names the piece that is missing, or what does not fit.
pub(crate) fn assemble(manifest: &StateManifest, store: &BlobStore) -> Result<Vec<f32>, ManifestError> {
    let piece = |(index, hash): (usize, &Hash)| {
        let bytes = store.get(hash)?.ok_or(ManifestError::MissingChunk { index, hash: *hash })?;
        Ok(Bytes::from(bytes))
    };
    let pieces: Vec<Bytes> = manifest.pieces.iter().enumerate().map(piece).collect::<Result<_, ManifestError>>()?;
    let state = manifest.assemble(&pieces).map_err(|error| ManifestError::Initial(error.to_string()))?;
    Ok(state.vectors.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_through_blobs_and_others_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path(), 16 << 20).unwrap();
        let parameters: Vec<f32> = (0..300_000).map(|at| at as f32 / 7.0).collect();
        let initial = Initial::of(parameters.clone());
        assert_eq!(Initial::of(parameters.clone()).root, initial.root);
        assert_ne!(Initial::of(parameters[1..].to_vec()).root, initial.root);
        assert!(initial.bytes() > 1_200_000 && initial.hashes().count() == 3);
        initial.publish(&store).unwrap();
        let encoded = store.get(&initial.root).unwrap().unwrap();
        let read = manifest(&encoded, 300_000).unwrap();
        assert_eq!(assemble(&read, &store).unwrap(), parameters);
        assert!(matches!(manifest(&encoded, 300_001), Err(ManifestError::Initial(_))));
        let two = RunState { exchange: 0, vectors: vec![vec![1.0; 4]; 2] }.cut(NO_RUN);
        let error = manifest(&two.blobs[&two.root], 4).unwrap_err();
        assert!(error.to_string().contains("2 vectors"), "{error}");
        let state = RunState { exchange: 0, vectors: vec![vec![1.0; 4]] }.cut(RunId([1; 32]));
        assert!(matches!(manifest(&state.blobs[&state.root], 4), Err(ManifestError::Initial(_))), "that of a run");
        std::fs::remove_file(directory.path().join(read.pieces[1].to_string())).unwrap();
        assert!(matches!(assemble(&read, &store), Err(ManifestError::MissingChunk { index: 1, .. })));
    }
}
