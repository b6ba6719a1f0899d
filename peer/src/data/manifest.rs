//! A data set as content-addressed blobs.
//!
//! The tokens of each part are cut into chunks of [`CHUNK_BYTES`] (the last one
//! shorter); a [`Manifest`] lists their hashes, the training part's first. The
//! manifest is a blob too: the hash of its canonical bytes is the *data root*,
//! the one name that fixes every token a run is trained and validated on. It
//! also names the tokenizer's files, which only travel with the model: members
//! compute with ids, whatever these mean.
//!
//! A manifest comes from a stranger: [`Manifest::decode`] accepts only one whose
//! sizes are within limits and agree with its number of chunks.

use super::DataSet;
use super::corpus::CORPUS_BYTES_MAX;
use super::tokenizer::{Tokenizer, TokenizerFiles};
use super::tokens::{IdWidth, Tokens};
use crate::store::blobs::{BlobStore, StoreError};
use manta_protocol::ids::Hash;
use manta_protocol::wire::codec::{self, CodecError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bytes of a chunk, the last of each part excepted.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;
/// Most chunks: a full corpus, with a part-filled last chunk in each part.
const CHUNKS_MAX: u64 = CORPUS_BYTES_MAX / CHUNK_BYTES as u64 + 1;
/// Most bytes of a tokenizer's files.
const TOKENIZER_BYTES_MAX: u64 = 160 << 20;
/// Longest encoded manifest, in bytes: a hash takes 34.
pub(crate) const MANIFEST_BYTES_MAX: usize = (CHUNKS_MAX as usize + (TOKENIZER_BYTES_MAX >> 20) as usize) * 34 + 160;

/// What a data set consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// What the tokens are of.
    pub(crate) tokenizer: TokenizerKind,
    /// Length of the training part, in bytes of its ids.
    pub(crate) training_bytes: u64,
    /// Length of the validation part, in bytes of its ids.
    pub(crate) validation_bytes: u64,
    /// blake3 of each chunk: those of the training part, then those of the validation part.
    pub(crate) chunks: Vec<Hash>,
}

/// A tokenizer by the hashes of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TokenizerKind {
    /// One token a byte.
    Bytes,
    /// Files.
    Files {
        /// The largest id and one; it tells how wide ids are.
        vocab_size: u32,
        /// Length of the encoded files.
        bytes: u64,
        /// blake3 of each piece of [`CHUNK_BYTES`] (the last one shorter).
        pieces: Vec<Hash>,
    },
}

impl TokenizerKind {
    /// The largest id and one.
    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Files { vocab_size, .. } => *vocab_size as usize,
        }
    }

    fn pieces(&self) -> &[Hash] {
        match self {
            Self::Bytes => &[],
            Self::Files { pieces, .. } => pieces,
        }
    }
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
    #[error(
        "data manifest: {bytes} bytes of a tokenizer in {pieces} pieces; expected one for each MiB, at most {TOKENIZER_BYTES_MAX} bytes"
    )]
    Tokenizer { bytes: u64, pieces: usize },
    #[error("the tokenizer of the data is not what the manifest says: {0}")]
    WrongTokenizer(String),
    #[error("the data has the token {id}, its tokenizer's vocabulary is {vocab_size}")]
    Token { id: u32, vocab_size: usize },
    #[error("the run's initial parameters: {0}")]
    Initial(String),
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
    pub(crate) fn of(data: &DataSet, tokenizer: &Tokenizer) -> Self {
        Self {
            tokenizer: kind_of(tokenizer).0,
            training_bytes: data.training.as_bytes().len() as u64,
            validation_bytes: data.validation.as_bytes().len() as u64,
            chunks: chunks(data).map(Hash::of).collect(),
        }
    }

    /// Everything that it names on the disk.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (Hash, usize)> {
        let chunks = self.chunks.iter().enumerate().map(|(index, hash)| (*hash, self.chunk_bytes(index)));
        chunks.chain(self.tokenizer.pieces().iter().map(|hash| (*hash, CHUNK_BYTES)))
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
        let width = IdWidth::of_vocabulary(manifest.tokenizer.vocab_size()).bytes() as u64;
        let whole = training.is_multiple_of(width) && validation.is_multiple_of(width);
        if training == 0 || validation == 0 || total.is_none() || !whole {
            return Err(ManifestError::Size { training, validation });
        }
        if let TokenizerKind::Files { bytes, pieces, .. } = &manifest.tokenizer
            && (*bytes > TOKENIZER_BYTES_MAX || bytes.div_ceil(CHUNK_BYTES as u64) != pieces.len() as u64)
        {
            return Err(ManifestError::Tokenizer { bytes: *bytes, pieces: pieces.len() });
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

/// Keeps all chunks of `data`, the tokenizer's files and the manifest in `store`.
///
/// # Errors
/// [`StoreError`] if they do not fit or the disk failed.
pub(crate) fn publish(data: &DataSet, tokenizer: &Tokenizer, store: &BlobStore) -> Result<Manifest, StoreError> {
    let (kind, files) = kind_of(tokenizer);
    let mut manifest = Manifest {
        tokenizer: kind,
        training_bytes: data.training.as_bytes().len() as u64,
        validation_bytes: data.validation.as_bytes().len() as u64,
        chunks: Vec::new(),
    };
    for chunk in chunks(data) {
        manifest.chunks.push(store.put(chunk)?);
    }
    files.chunks(CHUNK_BYTES).try_for_each(|piece| store.put(piece).map(drop))?;
    store.put(&manifest.encode())?;
    Ok(manifest)
}

/// The tokenizer as a manifest names it, and the bytes that it names.
fn kind_of(tokenizer: &Tokenizer) -> (TokenizerKind, Vec<u8>) {
    let Tokenizer::Files(files) = tokenizer else { return (TokenizerKind::Bytes, Vec::new()) };
    let encoded = codec::encode(files.as_ref());
    let kind = TokenizerKind::Files {
        vocab_size: tokenizer.vocab_size() as u32,
        bytes: encoded.len() as u64,
        pieces: encoded.chunks(CHUNK_BYTES).map(Hash::of).collect(),
    };
    (kind, encoded)
}

/// Puts the data set together from the blobs in `store`.
///
/// # Errors
/// [`ManifestError`] names the chunk that is missing (or was corrupt) or whose
/// length does not fit, or a token that is out of the vocabulary.
pub(crate) fn assemble(manifest: &Manifest, store: &BlobStore) -> Result<DataSet, ManifestError> {
    let training_chunks = manifest.training_bytes.div_ceil(CHUNK_BYTES as u64) as usize;
    let vocab_size = manifest.tokenizer.vocab_size();
    let none = || Tokens::new(IdWidth::of_vocabulary(vocab_size));
    let mut data = DataSet { training: none(), validation: none() };
    for (index, &hash) in manifest.chunks.iter().enumerate() {
        let chunk = store.get(&hash)?.ok_or(ManifestError::MissingChunk { index, hash })?;
        let expected = manifest.chunk_bytes(index);
        if chunk.len() != expected {
            return Err(ManifestError::ChunkLength { index, hash, found: chunk.len(), expected });
        }
        let part = if index < training_chunks { &mut data.training } else { &mut data.validation };
        part.extend_from_bytes(&chunk);
    }
    let largest = data.training.max_id().max(data.validation.max_id());
    match largest.filter(|id| *id as usize >= vocab_size) {
        Some(id) => Err(ManifestError::Token { id, vocab_size }),
        None => Ok(data),
    }
}

/// Puts the tokenizer together from the blobs in `store`, without understanding it.
///
/// # Errors
/// [`ManifestError`] names the piece that is missing, or what does not fit.
pub(crate) fn assemble_tokenizer(kind: &TokenizerKind, store: &BlobStore) -> Result<Tokenizer, ManifestError> {
    let TokenizerKind::Files { vocab_size, bytes, pieces } = kind else { return Ok(Tokenizer::Bytes) };
    let mut encoded = Vec::new();
    for (index, &hash) in pieces.iter().enumerate() {
        encoded.extend_from_slice(&store.get(&hash)?.ok_or(ManifestError::MissingChunk { index, hash })?);
        if encoded.len() as u64 > *bytes {
            break;
        }
    }
    if encoded.len() as u64 != *bytes {
        return Err(ManifestError::WrongTokenizer(format!("{} bytes, expected {bytes}", encoded.len())));
    }
    let files: TokenizerFiles = codec::decode(&encoded, TOKENIZER_BYTES_MAX as usize)
        .map_err(|error| ManifestError::WrongTokenizer(error.to_string()))?;
    let tokenizer = Tokenizer::Files(Arc::new(files));
    match tokenizer.vocab_size() {
        found if found as u64 == u64::from(*vocab_size) => Ok(tokenizer),
        found => Err(ManifestError::WrongTokenizer(format!("a vocabulary of {found}, expected {vocab_size}"))),
    }
}

/// The chunks in the order of the manifest.
fn chunks(data: &DataSet) -> impl Iterator<Item = &[u8]> {
    data.training.as_bytes().chunks(CHUNK_BYTES).chain(data.validation.as_bytes().chunks(CHUNK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(training_bytes: usize, validation_bytes: usize) -> DataSet {
        let bytes = |n: usize, salt: usize| (0..n).map(|i| (i * 31 + i / 251 + salt) as u8).collect::<Vec<u8>>();
        DataSet {
            training: Tokens::from(bytes(training_bytes, 0)),
            validation: Tokens::from(bytes(validation_bytes, 7)),
        }
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
            let published = publish(&data, &Tokenizer::Bytes, &store).unwrap();
            assert_eq!(published, Manifest::of(&data, &Tokenizer::Bytes));
            let bytes = store.get(&published.root()).unwrap().unwrap();
            let manifest = Manifest::decode(&bytes).unwrap();
            assert_eq!(assemble(&manifest, &store).unwrap(), data);
        }
    }

    #[test]
    fn the_root_of_a_given_data_set_is_pinned() {
        let manifest = Manifest::of(&data(CHUNK_BYTES + 3, 100), &Tokenizer::Bytes);
        assert_eq!(manifest.root().short(), "d24e373d");
    }

    #[test]
    fn missing_and_ill_fitting_chunks_are_named() {
        let (directory, store) = store();
        let data = data(CHUNK_BYTES + 5, 9);
        let manifest = publish(&data, &Tokenizer::Bytes, &store).unwrap();
        let mut wrong = manifest.clone();
        wrong.chunks.swap(1, 2);
        let error = assemble(&wrong, &store).unwrap_err();
        assert!(matches!(error, ManifestError::ChunkLength { index: 1, found: 9, expected: 5, .. }), "{error}");
        std::fs::write(directory.path().join(manifest.chunks[1].to_string()), b"other").unwrap();
        let error = assemble(&manifest, &store).unwrap_err();
        assert!(matches!(error, ManifestError::MissingChunk { index: 1, .. }), "{error}");
        assert!(error.to_string().contains(&manifest.chunks[1].to_string()), "{error}");
    }

    /// A tokenizer of files, and text in its tokens.
    fn trained() -> (Tokenizer, DataSet) {
        let text = "the cat and the hat\n".repeat(300);
        let files = crate::data::tokenizer::train::train(&text, 270).unwrap();
        let tokenizer = Tokenizer::of_files(files, Some(b"{}\n".to_vec()), Default::default()).unwrap();
        let codec = tokenizer.codec().unwrap();
        let tokens = |text: &str| codec.encode_corpus(text.to_owned().into_bytes()).unwrap();
        (tokenizer, DataSet { training: tokens(&text), validation: tokens("the hat") })
    }

    #[test]
    fn a_tokenizer_of_files_goes_along() {
        let (directory, store) = store();
        let (tokenizer, data) = trained();
        let published = publish(&data, &tokenizer, &store).unwrap();
        assert_eq!(published, Manifest::of(&data, &tokenizer));
        assert_eq!(published.training_bytes, 2 * data.training.len() as u64);
        let manifest = Manifest::decode(&published.encode()).unwrap();
        assert_eq!(assemble(&manifest, &store).unwrap(), data);
        assert_eq!(assemble_tokenizer(&manifest.tokenizer, &store).unwrap(), tokenizer);
        assert!(manifest.blobs().all(|(hash, _)| store.contains(&hash)));
        let TokenizerKind::Files { vocab_size, bytes, pieces } = manifest.tokenizer.clone() else { panic!("files") };
        // What the manifest claims of it must be so.
        for kind in [
            TokenizerKind::Files { vocab_size: vocab_size + 1, bytes, pieces: pieces.clone() },
            TokenizerKind::Files { vocab_size, bytes: bytes - 1, pieces: pieces.clone() },
        ] {
            assert!(matches!(assemble_tokenizer(&kind, &store), Err(ManifestError::WrongTokenizer(_))));
        }
        let with = |tokenizer, training_bytes| {
            Manifest::decode(&Manifest { tokenizer, training_bytes, ..manifest.clone() }.encode())
        };
        let many = TokenizerKind::Files { vocab_size, bytes, pieces: vec![pieces[0]; 2] };
        assert!(matches!(with(many, manifest.training_bytes), Err(ManifestError::Tokenizer { pieces: 2, .. })));
        let odd = with(manifest.tokenizer.clone(), manifest.training_bytes - 1);
        assert!(matches!(odd, Err(ManifestError::Size { .. })), "half a token");
        // A smaller vocabulary of ids that are as wide.
        let small = Manifest { tokenizer: TokenizerKind::Files { vocab_size: 257, bytes, pieces }, ..manifest.clone() };
        assert!(matches!(assemble(&small, &store), Err(ManifestError::Token { vocab_size: 257, .. })));
        let TokenizerKind::Files { pieces, .. } = &manifest.tokenizer else { panic!("files") };
        std::fs::remove_file(directory.path().join(pieces[0].to_string())).unwrap();
        let error = assemble_tokenizer(&manifest.tokenizer, &store).unwrap_err();
        assert!(matches!(error, ManifestError::MissingChunk { index: 0, .. }), "{error}");
    }

    #[test]
    fn sizes_and_counts_that_cannot_be_are_refused() {
        let good = Manifest::of(&data(10, 10), &Tokenizer::Bytes);
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
