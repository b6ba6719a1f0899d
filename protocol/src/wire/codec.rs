//! The one encoding: CBOR (RFC 8949) as `serde_cbor` packs it.
//!
//! Structs are maps with ascending integer keys, unit variants are integers,
//! everything has a definite length, and there are no floats and no text keys.
//! `serde_cbor` itself reads more than it writes (long integers, unknown keys,
//! indefinite lengths, trailing bytes), so [`decode`] writes what it read again
//! and refuses unless the bytes are equal: one value has one encoding.
//!
//! This is the only module that names `serde_cbor`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than this kind may have; nothing was decoded.
    #[error("{found} bytes, at most {max} are accepted")]
    TooLong {
        /// Bytes given.
        found: usize,
        /// Bytes accepted.
        max: usize,
    },
    /// Not CBOR, or not of the expected shape.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Decodable, but not in the one encoding that is accepted.
    #[error("not in canonical form")]
    NotCanonical,
}

/// The canonical bytes of `value`.
///
/// # Panics
/// If the type cannot be encoded at all (a map with unsorted keys or an unsized
/// sequence), which is a fault in this crate and not in the value.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::ser::to_vec_packed(value).expect("wire types encode without failure")
}

/// Reads one value of at most `max_bytes` from exactly `bytes`.
///
/// # Errors
/// [`CodecError`] for bytes too many, malformed or not canonical.
pub fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8], max_bytes: usize) -> Result<T, CodecError> {
    if bytes.len() > max_bytes {
        return Err(CodecError::TooLong { found: bytes.len(), max: max_bytes });
    }
    let value: T = serde_cbor::from_slice(bytes).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}
