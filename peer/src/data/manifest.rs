//! A data set as content-addressed blobs.
//!
//! Each part is cut into chunks of [`CHUNK_BYTES`] (the last one shorter); a
//! [`Manifest`] lists their hashes, the training part's first. The manifest is a
//! blob too: the hash of its canonical bytes is the *data root*, the one name
//! that fixes every byte a run is trained and validated on.
//!
//! A manifest comes from a stranger: [`Manifest::decode`] accepts only one whose
//! sizes are within limits and agree with its number of chunks.

use super::DataSet;
use super::corpus::CORPUS_BYTES_MAX;
use super::tokenizer::TokenizerKind;
use crate::store::blobs::{BlobStore, StoreError};
use manta_protocol::ids::Hash;
use manta_protocol::wire::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

/// Bytes of a chunk, the last of each part excepted.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;
/// Most chunks: a full corpus, with a part-filled last chunk in each part.
const CHUNKS_MAX: u64 = CORPUS_BYTES_MAX / CHUNK_BYTES as u64 + 1;
/// Longest encoded manifest, in bytes: a chunk's hash takes 34.
pub(crate) const MANIFEST_BYTES_MAX: usize = CHUNKS_MAX as usize * 34 + 64;

/// What a data set consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// How the text is turned into tokens.
    pub(crate) tokenizer: TokenizerKind,
    /// Length of the training part.
    pub(crate) training_bytes: u64,
    /// Length of the validation part.
    pub(crate) validation_bytes: u64,
    /// blake3 of each chunk: those of the training part, then those of the validation part.
    pub(crate) chunks: Vec<Hash>,
}

/// Why a manifest, or the data it names, was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("data manifest: {0}")]
    Encoding(#[from] CodecError),
    #[error(
        "data manifest: parts of {training} and {validation} bytes; both must have some, together at most {CORPUS_BYTES_MAX}"
    )]
    Size { training: u64, validation: u64 },
    #[error("data manifest: {found} chunks; its sizes need {expected}")]
    ChunkCount { found: usize, expected: u64 },
    #[error("the data cannot be fetched: {0}")]
    NotFetched(String),
    #[error("a file task ended early; see the log")]
    Interrupted,
    #[error("chunk {index} ({hash}) of the data is not here; it must be fetched again")]
    MissingChunk { index: usize, hash: Hash },
    #[error("chunk {index} ({hash}) of the data has {found} bytes, expected {expected}; the manifest is wrong")]
    ChunkLength { index: usize, hash: Hash, found: usize, expected: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Manifest {
    /// Describes `data`, whose parts must not be empty, without keeping it.
    pub(crate) fn of(data: &DataSet, tokenizer: TokenizerKind) -> Self {
        Self {
            tokenizer,
            training_bytes: data.training.len() as u64,
            validation_bytes: data.validation.len() as u64,
            chunks: chunks(data).map(Hash::of).collect(),
        }
    }

    /// The canonical bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The data root: the hash of the canonical bytes.
    pub(crate) fn root(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// Reads a manifest that a peer sent.
    ///
    /// # Errors
    /// [`ManifestError`] unless it is canonical, within limits, and its chunks
    /// are as many as its sizes need.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = codec::decode(bytes, MANIFEST_BYTES_MAX)?;
        let (training, validation) = (manifest.training_bytes, manifest.validation_bytes);
        let total = training.checked_add(validation).filter(|&total| total <= CORPUS_BYTES_MAX);
        if training == 0 || validation == 0 || total.is_none() {
            return Err(ManifestError::Size { training, validation });
        }
        let expected = training.div_ceil(CHUNK_BYTES as u64) + validation.div_ceil(CHUNK_BYTES as u64);
        if manifest.chunks.len() as u64 != expected {
            return Err(ManifestError::ChunkCount { found: manifest.chunks.len(), expected });
        }
        Ok(manifest)
    }

    /// Length that chunk `index` must have.
    pub(crate) fn chunk_bytes(&self, index: usize) -> usize {
        let training_chunks = self.training_bytes.div_ceil(CHUNK_BYTES as u64);
        let (part_bytes, before) = match (index as u64).checked_sub(training_chunks) {
            None => (self.training_bytes, index as u64),
            Some(index) => (self.validation_bytes, index),
        };
        part_bytes.saturating_sub(before * CHUNK_BYTES as u64).min(CHUNK_BYTES as u64) as usize
    }
}

/// Keeps all chunks of `data` and its manifest in `store`.
///
/// # Errors
/// [`StoreError`] if they do not fit or the disk failed.
pub(crate) fn publish(data: &DataSet, tokenizer: TokenizerKind, store: &BlobStore) -> Result<Manifest, StoreError> {
    let mut manifest = Manifest {
        tokenizer,
        training_bytes: data.training.len() as u64,
        validation_bytes: data.validation.len() as u64,
        chunks: Vec::new(),
    };
    for chunk in chunks(data) {
        manifest.chunks.push(store.put(chunk)?);
    }
    store.put(&manifest.encode())?;
    Ok(manifest)
}

/// Puts the data set together from the blobs in `store`.
///
/// # Errors
/// [`ManifestError`] names the chunk that is missing (or was corrupt) or whose
/// length does not fit.
pub(crate) fn assemble(manifest: &Manifest, store: &BlobStore) -> Result<DataSet, ManifestError> {
    let training_chunks = manifest.training_bytes.div_ceil(CHUNK_BYTES as u64) as usize;
    let mut data = DataSet { training: Vec::new(), validation: Vec::new() };
    for (index, &hash) in manifest.chunks.iter().enumerate() {
        let chunk = store.get(&hash)?.ok_or(ManifestError::MissingChunk { index, hash })?;
        let expected = manifest.chunk_bytes(index);
        if chunk.len() != expected {
            return Err(ManifestError::ChunkLength { index, hash, found: chunk.len(), expected });
        }
        let part = if index < training_chunks { &mut data.training } else { &mut data.validation };
        part.extend_from_slice(&chunk);
    }
    Ok(data)
}

/// The chunks in the order of the manifest.
fn chunks(data: &DataSet) -> impl Iterator<Item = &[u8]> {
    data.training.chunks(CHUNK_BYTES).chain(data.validation.chunks(CHUNK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(training_bytes: usize, validation_bytes: usize) -> DataSet {
        let bytes = |n: usize, salt: usize| (0..n).map(|i| (i * 31 + i / 251 + salt) as u8).collect();
        DataSet { training: bytes(training_bytes, 0), validation: bytes(validation_bytes, 7) }
    }

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path(), 64 << 20).unwrap();
        (directory, store)
    }

    #[test]
    fn data_goes_through_blobs_unchanged() {
        let (_directory, store) = store();
        for (training, validation) in [(2 * CHUNK_BYTES + 5, CHUNK_BYTES), (CHUNK_BYTES, 1), (7, CHUNK_BYTES + 1)] {
            let data = data(training, validation);
            let published = publish(&data, TokenizerKind::Bytes, &store).unwrap();
            assert_eq!(published, Manifest::of(&data, TokenizerKind::Bytes));
            let bytes = store.get(&published.root()).unwrap().unwrap();
            let manifest = Manifest::decode(&bytes).unwrap();
            assert_eq!(assemble(&manifest, &store).unwrap(), data);
        }
    }

    #[test]
    fn the_root_of_a_given_data_set_is_pinned() {
        let manifest = Manifest::of(&data(CHUNK_BYTES + 3, 100), TokenizerKind::Bytes);
        assert_eq!(manifest.root().short(), "d24e373d");
    }

    #[test]
    fn missing_and_ill_fitting_chunks_are_named() {
        let (directory, store) = store();
        let data = data(CHUNK_BYTES + 5, 9);
        let manifest = publish(&data, TokenizerKind::Bytes, &store).unwrap();
        let mut wrong = manifest.clone();
        wrong.chunks.swap(1, 2);
        let error = assemble(&wrong, &store).unwrap_err();
        assert!(matches!(error, ManifestError::ChunkLength { index: 1, found: 9, expected: 5, .. }), "{error}");
        std::fs::write(directory.path().join(manifest.chunks[1].to_string()), b"other").unwrap();
        let error = assemble(&manifest, &store).unwrap_err();
        assert!(matches!(error, ManifestError::MissingChunk { index: 1, .. }), "{error}");
        assert!(error.to_string().contains(&manifest.chunks[1].to_string()), "{error}");
    }

    #[test]
    fn sizes_and_counts_that_cannot_be_are_refused() {
        let good = Manifest::of(&data(10, 10), TokenizerKind::Bytes);
        assert_eq!(Manifest::decode(&good.encode()).unwrap(), good);
        let with = |training_bytes, validation_bytes, chunks: usize| {
            let hash = Hash::of(b"");
            let manifest = Manifest { training_bytes, validation_bytes, chunks: vec![hash; chunks], ..good.clone() };
            Manifest::decode(&manifest.encode())
        };
        assert!(matches!(with(0, 10, 1), Err(ManifestError::Size { .. })));
        assert!(matches!(with(10, 0, 1), Err(ManifestError::Size { .. })));
        assert!(matches!(with(CORPUS_BYTES_MAX, 1, 4097), Err(ManifestError::Size { .. })));
        assert!(matches!(with(u64::MAX, u64::MAX, 1), Err(ManifestError::Size { .. })));
        assert!(matches!(with(1, u64::MAX, 1), Err(ManifestError::Size { .. })));
        assert!(matches!(with(10, 10, 1), Err(ManifestError::ChunkCount { found: 1, expected: 2 })));
        assert!(matches!(with(10, 10, 3), Err(ManifestError::ChunkCount { found: 3, expected: 2 })));
        assert!(with(CORPUS_BYTES_MAX - 1, 1, 4097).is_ok(), "the largest manifest is within its own limit");
        assert!(matches!(
            Manifest::decode(&vec![0; MANIFEST_BYTES_MAX + 1]),
            Err(ManifestError::Encoding(CodecError::TooLong { .. }))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(manifest) = Manifest::decode(&bytes) {
                prop_assert_eq!(manifest.encode(), bytes);
            }
        }

        #[test]
        fn a_changed_manifest_is_refused_or_another(
            training in 1..3 * CHUNK_BYTES as u64,
            validation in 1..3 * CHUNK_BYTES as u64,
            position in any::<prop::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let count = training.div_ceil(CHUNK_BYTES as u64) + validation.div_ceil(CHUNK_BYTES as u64);
            let chunks = (0..count).map(|i| Hash::of(&i.to_le_bytes())).collect();
            let manifest = Manifest {
                tokenizer: TokenizerKind::Bytes, training_bytes: training, validation_bytes: validation, chunks,
            };
            let mut bytes = manifest.encode();
            prop_assert_eq!(&Manifest::decode(&bytes).unwrap(), &manifest);
            let total: usize = (0..manifest.chunks.len()).map(|index| manifest.chunk_bytes(index)).sum();
            prop_assert_eq!(total as u64, training + validation);
            let position = position.index(bytes.len());
            prop_assert!(Manifest::decode(&bytes[..position]).is_err());
            bytes[position] ^= change;
            if let Ok(other) = Manifest::decode(&bytes) {
                prop_assert_ne!(other.root(), manifest.root());
            }
        }
    }
}
