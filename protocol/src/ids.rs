//! Names of things: 32-byte hashes and keys, and local counters.
//!
//! On the wire each 32-byte name is one CBOR byte string of exactly that
//! length. They print as lower-case hexadecimal; `Debug` prints the first eight
//! digits.

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! bytes_newtype {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self).ok_or(ParseIdError { what: $what, digits: 2 * $len })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    deserializer.deserialize_bytes(FixedBytes::<$len>).map(Self)
                }
            }
        }
    };
}

bytes_newtype!(
    /// A blake3 hash of content.
    Hash, 32, "a hash"
);
bytes_newtype!(
    /// A peer's ed25519 public key (RFC 8032), which is its name.
    PeerId, 32, "a peer id"
);
bytes_newtype!(
    /// The swarm's name: peers with different network ids never mix.
    NetworkId, 32, "a network id"
);
bytes_newtype!(
    /// The name of one training run: the hash of its owner, spec and time of issue.
    RunId, 32, "a run id"
);
bytes_newtype!(
    /// The number of one permission, drawn at random by its issuer.
    Serial, 16, "a serial"
);
bytes_newtype!(
    /// An ed25519 signature (RFC 8032).
    Signature, 64, "a signature"
);

bytes_newtype!(
    /// A VRF public key (ECVRF-RISTRETTO255-SHA512): the encoding of a group element.
    VrfPublic, 32, "a VRF public key"
);
bytes_newtype!(
    /// A VRF proof: group element Γ (32 bytes), challenge c (16) and response s (32), as RFC 9381 §5.1 joins them.
    VrfProof, 80, "a VRF proof"
);
bytes_newtype!(
    /// A VRF output, β of RFC 9381: what chance gave to one key for one input.
    VrfOutput, 64, "a VRF output"
);

/// Names an asynchronous effect, so that its outcome can be reported as an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId(pub u64);

/// Names one order that a local user placed on this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub u64);

impl NetworkId {
    /// The id of the network of this name.
    pub fn from_name(name: &str) -> Self {
        Self(blake3::derive_key("manta 2026-11 network id v1", name.as_bytes()))
    }
}

impl Hash {
    /// The blake3 hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// A text is not the hexadecimal name that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {what}: {digits} hexadecimal digits")]
pub struct ParseIdError {
    what: &'static str,
    digits: usize,
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

struct FixedBytes<const N: usize>;

impl<const N: usize> Visitor<'_> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a byte string of {N} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_round_trips_and_bad_text_is_refused() {
        let hash = Hash::of(b"manta");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.short(), hash.to_string()[..8]);
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(bad.parse::<Hash>().is_err(), "{bad:?}");
        }
    }
}
