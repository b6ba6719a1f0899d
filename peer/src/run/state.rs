//! What a member needs to go on with a run, as it travels and rests: vectors of
//! f32, cut into pieces that are named by their hashes.
//!
//! Where gradients are averaged, the vectors are parameters and both moments;
//! where members take steps of their own, the anchor and the outer momentum
//! (moments are everybody's own); of a finished run, the parameters alone. All
//! members hold the same bits before an exchange, so all cut the same pieces,
//! and a newcomer may ask any of them for any piece.

use bytes::{BufMut as _, Bytes, BytesMut};
use manta_protocol::wire::codec;
use manta_protocol::{Hash, RunId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Bytes of a piece, the last one excepted.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// Longest encoded manifest, in bytes: what one blob can hold.
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most vectors: parameters and two moments.
const VECTORS_MAX: u8 = 3;

/// The state before an exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunState {
    /// The exchange that comes next.
    pub(crate) exchange: u64,
    /// Each flat and of the same length; see the module.
    pub(crate) vectors: Vec<Vec<f32>>,
}

/// What a state's pieces are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateManifest {
    pub(crate) run: RunId,
    /// The exchange that comes next.
    pub(crate) exchange: u64,
    /// How many vectors follow each other.
    pub(crate) vectors: u8,
    /// Of each vector.
    pub(crate) elements: u64,
    /// blake3 of each piece.
    pub(crate) pieces: Vec<Hash>,
}

/// A state that was cut, ready to be read by others.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Hash of the manifest.
    pub(crate) root: Hash,
    /// Manifest and pieces by their hashes.
    pub(crate) blobs: HashMap<Hash, Bytes>,
}

/// Why a state from elsewhere was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    #[error("state manifest: {0}")]
    Encoding(String),
    #[error("the manifest is of another run, exchange or model")]
    Another,
    #[error("state manifest: {found} pieces; its sizes need {expected}")]
    PieceCount { found: usize, expected: u64 },
    #[error("a piece of the state has {found} bytes, expected {expected}")]
    PieceLength { found: usize, expected: usize },
}

impl StateManifest {
    /// Reads a manifest that a peer sent.
    ///
    /// # Errors
    /// [`StateError`] unless it is canonical, and of `run` and `elements` parameters.
    pub(crate) fn decode(bytes: &[u8], run: RunId, elements: u64) -> Result<Self, StateError> {
        let manifest: Self =
            codec::decode(bytes, MANIFEST_BYTES_MAX).map_err(|error| StateError::Encoding(error.to_string()))?;
        let sizes_fit = (1..=VECTORS_MAX).contains(&manifest.vectors) && manifest.elements == elements;
        if manifest.run != run || !sizes_fit {
            return Err(StateError::Another);
        }
        let expected = manifest.bytes().div_ceil(PIECE_BYTES as u64);
        if manifest.pieces.len() as u64 != expected {
            return Err(StateError::PieceCount { found: manifest.pieces.len(), expected });
        }
        Ok(manifest)
    }

    /// The pieces of a state of `run` that was cut on this machine.
    ///
    /// # Errors
    /// [`StateError`] unless it is the manifest of one.
    pub(crate) fn pieces_of(bytes: &[u8], run: RunId) -> Result<Vec<Hash>, StateError> {
        let manifest: Self =
            codec::decode(bytes, MANIFEST_BYTES_MAX).map_err(|error| StateError::Encoding(error.to_string()))?;
        if manifest.run == run { Ok(manifest.pieces) } else { Err(StateError::Another) }
    }

    fn bytes(&self) -> u64 {
        self.elements.saturating_mul(4 * u64::from(self.vectors))
    }

    /// Puts the state together from its pieces, in order.
    ///
    /// # Errors
    /// [`StateError::PieceLength`].
    pub(crate) fn assemble(&self, pieces: &[Bytes]) -> Result<RunState, StateError> {
        let mut left = usize::try_from(self.bytes()).map_err(|_| StateError::Another)?;
        for piece in pieces {
            let expected = left.min(PIECE_BYTES);
            if piece.len() != expected {
                return Err(StateError::PieceLength { found: piece.len(), expected });
            }
            left -= expected;
        }
        if left != 0 {
            return Err(StateError::PieceCount { found: pieces.len(), expected: self.pieces.len() as u64 });
        }
        // Pieces are whole values: the cut is a multiple of four.
        let mut values = pieces.iter().flat_map(|piece| values_of(piece));
        let elements = self.elements as usize;
        let vectors = (0..self.vectors).map(|_| values.by_ref().take(elements).collect()).collect();
        Ok(RunState { exchange: self.exchange, vectors })
    }
}

impl RunState {
    /// Cuts the state for others to read.
    pub(crate) fn cut(&self, run: RunId) -> Cut {
        let mut blobs = HashMap::new();
        let mut pieces = Vec::new();
        let mut keep = |piece: Bytes| {
            let hash = Hash::of(&piece);
            blobs.insert(hash, piece);
            hash
        };
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        for value in self.vectors.iter().flatten() {
            piece.put_f32_le(*value);
            if piece.len() == PIECE_BYTES {
                pieces.push(keep(std::mem::replace(&mut piece, BytesMut::with_capacity(PIECE_BYTES)).freeze()));
            }
        }
        if !piece.is_empty() {
            pieces.push(keep(piece.freeze()));
        }
        let manifest = StateManifest {
            run,
            exchange: self.exchange,
            vectors: self.vectors.len() as u8,
            elements: self.vectors.first().map_or(0, |vector| vector.len() as u64),
            pieces,
        };
        let root = keep(codec::encode(&manifest).into());
        Cut { root, blobs }
    }
}

/// Values as they travel: little-endian.
pub(crate) fn bytes_of(values: &[f32]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4 * values.len());
    values.iter().for_each(|value| bytes.put_f32_le(*value));
    bytes.freeze()
}

/// The values of a payload; its length has been found to be a multiple of four.
pub(crate) fn values_of(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId([3; 32]);

    fn state(elements: usize) -> RunState {
        let vector = |seed: usize| (0..elements).map(|at| (at * 7 + seed) as f32 / 3.0).collect();
        RunState { exchange: 9, vectors: vec![vector(1), vector(2), vector(3)] }
    }

    #[test]
    fn a_state_comes_back_from_its_pieces() {
        for elements in [1, 1000, PIECE_BYTES / 12, PIECE_BYTES / 12 + 1] {
            let state = state(elements);
            let cut = state.cut(RUN);
            assert_eq!(state.clone().cut(RUN).root, cut.root, "equal states have equal roots");
            let manifest = StateManifest::decode(&cut.blobs[&cut.root], RUN, elements as u64).unwrap();
            assert_eq!(cut.blobs.len(), manifest.pieces.len() + 1);
            let pieces: Vec<Bytes> = manifest.pieces.iter().map(|hash| cut.blobs[hash].clone()).collect();
            assert!(pieces.iter().zip(&manifest.pieces).all(|(piece, hash)| Hash::of(piece) == *hash));
            assert_eq!(manifest.assemble(&pieces).unwrap(), state);
            assert_eq!(StateManifest::pieces_of(&cut.blobs[&cut.root], RUN).unwrap(), manifest.pieces);
            assert_eq!(StateManifest::pieces_of(&cut.blobs[&cut.root], RunId([4; 32])), Err(StateError::Another));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cut = state(1000).cut(RUN);
        let bytes = &cut.blobs[&cut.root];
        assert_eq!(StateManifest::decode(bytes, RunId([4; 32]), 1000), Err(StateError::Another));
        assert_eq!(StateManifest::decode(bytes, RUN, 1001), Err(StateError::Another));
        assert!(matches!(StateManifest::decode(&bytes[1..], RUN, 1000), Err(StateError::Encoding(_))));
        let manifest = StateManifest::decode(bytes, RUN, 1000).unwrap();
        let changed = |change: fn(&mut StateManifest)| {
            let mut manifest = manifest.clone();
            change(&mut manifest);
            StateManifest::decode(&codec::encode(&manifest), RUN, manifest.elements)
        };
        assert_eq!(changed(|manifest| manifest.vectors = 0), Err(StateError::Another));
        assert_eq!(changed(|manifest| manifest.vectors = VECTORS_MAX + 1), Err(StateError::Another));
        let endless = changed(|manifest| manifest.elements = u64::MAX);
        assert!(matches!(endless, Err(StateError::PieceCount { found: 1, .. })), "{endless:?}");
        let missing = changed(|manifest| manifest.pieces.clear());
        assert_eq!(missing, Err(StateError::PieceCount { found: 0, expected: 1 }));
        let piece = cut.blobs[&manifest.pieces[0]].clone();
        assert_eq!(
            manifest.assemble(&[piece.slice(4..)]),
            Err(StateError::PieceLength { found: 11_996, expected: 12_000 })
        );
        assert!(manifest.assemble(&[]).is_err());
        assert!(manifest.assemble(&[piece.clone(), piece]).is_err());
    }
}
