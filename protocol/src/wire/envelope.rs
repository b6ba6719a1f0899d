//! The envelope: who says what, in which swarm, until when, signed.
//!
//! The signature is ed25519 (RFC 8032) over blake3, in its key-derivation mode
//! with [`SIGNING_DOMAIN`], of the envelope's canonical bytes without the
//! signature. An envelope is the only thing that peers tell each other; the
//! bulk transport moves nothing that an envelope did not announce.

use super::codec::{self, CodecError};
use super::limits::ENVELOPE_BYTES_MAX;
use super::message::{Kind, Message};
use crate::election::VrfSecret;
use crate::ids::{Hash, NetworkId, PeerId, Signature};
use crate::memory;
use crate::time::Time;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Separates envelope signatures from any other use of the same key.
pub const SIGNING_DOMAIN: &str = "manta 2026-11 envelope signature v1";

/// The only envelope version there is.
pub const ENVELOPE_VERSION: u8 = 1;

/// A checked envelope: decoded, of this network, with a valid signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Hash of the envelope's bytes: its name for deduplication.
    pub id: Hash,
    /// Who signed it.
    pub author: PeerId,
    /// Rises with each message of an author and kind.
    pub seq: u64,
    /// After this it means nothing any more.
    pub expires_at: Time,
    /// What it says.
    pub message: Message,
}

/// Why an envelope was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The outer bytes or the body are not canonical.
    #[error("envelope: {0}")]
    Codec(#[from] CodecError),
    /// Made by another version of the protocol.
    #[error("envelope version {found}, this peer speaks version {ENVELOPE_VERSION}: update the older of the two")]
    Version {
        /// The version that was claimed.
        found: u8,
    },
    /// Made for another swarm.
    #[error("envelope of network {found:?}, this peer is in {expected:?}")]
    WrongNetwork {
        /// The network that was named.
        found: NetworkId,
        /// Our own.
        expected: NetworkId,
    },
    /// No such kind of message.
    #[error("unknown kind of message {0}")]
    UnknownKind(u8),
    /// The author's key or the signature is not valid.
    #[error("the signature does not fit the author {0:?}")]
    BadSignature(PeerId),
    /// A field of the body is out of its limits.
    #[error("{kind:?}: {problem}")]
    Invalid {
        /// The kind of message.
        kind: Kind,
        /// The field, what it held and what is accepted.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Unsigned {
    network: NetworkId,
    kind: u8,
    version: u8,
    author: PeerId,
    seq: u64,
    expires_at: Time,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    unsigned: Unsigned,
    signature: Signature,
}

/// The secret side of a [`PeerId`].
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity of a 32-byte ed25519 secret seed.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&secret) }
    }

    /// The public name.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }

    /// The key that takes part in elections; it follows from this identity.
    pub fn vrf(&self) -> VrfSecret {
        VrfSecret::derive(self.key.as_bytes())
    }

    /// A secret of this identity for one purpose, which `context` names: by
    /// blake3's key derivation from its ed25519 secret.
    pub(crate) fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.key.as_bytes())
    }

    /// Signs `message` into the bytes of an envelope.
    pub fn seal(&self, network: NetworkId, seq: u64, expires_at: Time, message: &Message) -> Vec<u8> {
        let unsigned = Unsigned {
            network,
            kind: message.kind() as u8,
            version: ENVELOPE_VERSION,
            author: self.peer_id(),
            seq,
            expires_at,
            body: message.encode_body(),
        };
        let signature = self.sign(SIGNING_DOMAIN, &codec::encode(&unsigned));
        codec::encode(&Signed { unsigned, signature })
    }

    /// Signs `bytes` for one purpose: the ed25519 signature over their blake3
    /// hash in key-derivation mode with `domain`.
    pub(crate) fn sign(&self, domain: &str, bytes: &[u8]) -> Signature {
        Signature(self.key.sign(&blake3::derive_key(domain, bytes)).to_bytes())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.peer_id())
    }
}

impl Envelope {
    /// Checks `bytes` and opens them: size, encoding, version, network, kind,
    /// signature and every limit of the body. Time is not judged here.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn open(bytes: &[u8], network: NetworkId) -> Result<Self, EnvelopeError> {
        let Signed { unsigned, signature } = codec::decode(bytes, ENVELOPE_BYTES_MAX)?;
        if unsigned.version != ENVELOPE_VERSION {
            return Err(EnvelopeError::Version { found: unsigned.version });
        }
        if unsigned.network != network {
            return Err(EnvelopeError::WrongNetwork { found: unsigned.network, expected: network });
        }
        let kind = Kind::from_number(unsigned.kind).ok_or(EnvelopeError::UnknownKind(unsigned.kind))?;
        let author = unsigned.author;
        if !is_signed_by(&author, SIGNING_DOMAIN, &codec::encode(&unsigned), &signature) {
            return Err(EnvelopeError::BadSignature(author));
        }
        let message = Message::decode_body(kind, &unsigned.body)?;
        message.validate().map_err(|problem| EnvelopeError::Invalid { kind, problem })?;
        Ok(Self { id: Hash::of(bytes), author, seq: unsigned.seq, expires_at: unsigned.expires_at, message })
    }
}

/// Whether `signature` is `signer`'s over `bytes` for this purpose. Small-order
/// keys and malleable signatures are not.
pub(crate) fn is_signed_by(signer: &PeerId, domain: &str, bytes: &[u8], signature: &Signature) -> bool {
    let digest = blake3::derive_key(domain, bytes);
    memory::signature([signer.as_bytes(), &digest, &signature.0], || {
        VerifyingKey::from_bytes(signer.as_bytes())
            .and_then(|key| key.verify_strict(&digest, &signature.0.into()))
            .is_ok()
    })
}
