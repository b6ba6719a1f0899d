//! The header of a chunk of a tensor, and the receipt for it.
//!
//! A chunk stream is the header, the payload, and the end of the stream; all
//! integers are big-endian:
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | `MNTC` |
//! | 1 | version, 2 |
//! | 1 | phase: 0 contribution, 1 sum |
//! | 2 | zero |
//! | 32 | run id |
//! | 8 | exchange, from 0 |
//! | 4 | number of the view that the sender is in |
//! | 4 | chunk index |
//! | 4 | payload length, at most 1 MiB |
//!
//! The receipt is one byte, see [`Receipt`].

use super::BulkFailure;
use manta_protocol::ids::RunId;
use manta_protocol::run::Phase;

/// The longest payload of a chunk, in bytes.
pub(crate) const MAX_CHUNK_BYTES: u32 = 1 << 20;
/// The length of magic, version and the three bytes after it, which all streams share.
pub(super) const PREFIX_BYTES: usize = 8;
/// The length of a chunk's header, prefix included.
pub(super) const HEADER_BYTES: usize = 60;
pub(super) const CHUNK_MAGIC: [u8; 4] = *b"MNTC";
const VERSION: u8 = 2;

/// Names a chunk within the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkHeader {
    /// The training run.
    pub(crate) run: RunId,
    /// The exchange of the run, from 0.
    pub(crate) exchange: u64,
    /// The view that the sender is in.
    pub(crate) view: u32,
    /// The half of the all-reduce.
    pub(crate) phase: Phase,
    /// The chunk's place in the tensor.
    pub(crate) index: u32,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("expected a chunk header, found magic {0:02x?}")]
    Magic([u8; 4]),
    #[error("expected chunk version {VERSION}, found {0}")]
    Version(u8),
    #[error("unknown phase {0}")]
    Phase(u8),
    #[error("bytes that must be zero are not")]
    Reserved,
    #[error("the payload has {0} bytes, the limit is {MAX_CHUNK_BYTES}")]
    TooLarge(u32),
}

impl ChunkHeader {
    /// The header on the wire, for a payload of this length.
    pub(super) fn encode(&self, payload_bytes: u32) -> [u8; HEADER_BYTES] {
        let mut wire = [0; HEADER_BYTES];
        wire[..4].copy_from_slice(&CHUNK_MAGIC);
        wire[4] = VERSION;
        wire[5] = self.phase as u8;
        wire[8..40].copy_from_slice(self.run.as_bytes());
        wire[40..48].copy_from_slice(&self.exchange.to_be_bytes());
        for (field, value) in wire[48..].chunks_exact_mut(4).zip([self.view, self.index, payload_bytes]) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        wire
    }

    /// The header and the payload's length, which is within [`MAX_CHUNK_BYTES`].
    pub(super) fn decode(wire: &[u8; HEADER_BYTES]) -> Result<(Self, u32), HeaderError> {
        let [m0, m1, m2, m3, version, phase, reserved @ ..] = *wire;
        if [m0, m1, m2, m3] != CHUNK_MAGIC {
            return Err(HeaderError::Magic([m0, m1, m2, m3]));
        }
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let phase = Phase::from_number(phase).ok_or(HeaderError::Phase(phase))?;
        if reserved[..2] != [0, 0] {
            return Err(HeaderError::Reserved);
        }
        let mut run = [0; 32];
        run.copy_from_slice(&wire[8..40]);
        let mut exchange = [0; 8];
        exchange.copy_from_slice(&wire[40..48]);
        let exchange = u64::from_be_bytes(exchange);
        let number = |at: usize| u32::from_be_bytes([wire[at], wire[at + 1], wire[at + 2], wire[at + 3]]);
        let (view, index, payload_bytes) = (number(48), number(52), number(56));
        if payload_bytes > MAX_CHUNK_BYTES {
            return Err(HeaderError::TooLarge(payload_bytes));
        }
        Ok((Self { run: RunId(run), exchange, view, phase, index }, payload_bytes))
    }
}

/// What the receiver answers to a chunk, one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    /// It is in the queue of the receiver's owner.
    Taken = 0,
    /// The sender is no member of the run.
    NotAdmitted = 1,
    /// It is longer than the run allows.
    TooLarge = 2,
    /// The header cannot be read, or the payload has another length than it says.
    Malformed = 3,
}

impl Receipt {
    /// What a receipt byte means to the sender.
    pub(super) fn outcome(byte: u8) -> Result<(), BulkFailure> {
        match byte {
            0 => Ok(()),
            1 => Err(BulkFailure::NotAdmitted),
            2 => Err(BulkFailure::TooLarge),
            3 => Err(BulkFailure::Malformed),
            other => Err(BulkFailure::Broken(format!("unknown receipt {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> ChunkHeader {
        ChunkHeader { run: RunId([7; 32]), exchange: 1, view: 2, phase: Phase::Sum, index: 3 }
    }

    #[test]
    fn the_wire_form_is_fixed() {
        let wire = header().encode(0x0004_0506);
        let expected =
            [b"MNTC\x02\x01\0\0".as_slice(), &[7; 32], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 4, 5, 6]]
                .concat();
        assert_eq!(wire.as_slice(), expected);
    }

    #[test]
    fn each_bad_field_is_named() {
        let good = header().encode(9);
        let with = |at: usize, byte: u8| {
            let mut wire = good;
            wire[at] = byte;
            ChunkHeader::decode(&wire)
        };
        assert_eq!(with(0, b'X'), Err(HeaderError::Magic(*b"XNTC")));
        assert_eq!(with(4, 1), Err(HeaderError::Version(1)));
        assert_eq!(with(5, 2), Err(HeaderError::Phase(2)));
        assert_eq!(with(7, 1), Err(HeaderError::Reserved));
        assert_eq!(with(57, 0x10), Err(HeaderError::TooLarge(0x0010_0009)));
        assert_eq!(ChunkHeader::decode(&header().encode(MAX_CHUNK_BYTES)), Ok((header(), MAX_CHUNK_BYTES)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_only_one_way(
            mut wire in proptest::array::uniform32(any::<u8>()).prop_flat_map(|head| {
                (Just(head), proptest::array::uniform28(any::<u8>()))
            }).prop_map(|(head, tail)| {
                let mut wire = [0; HEADER_BYTES];
                wire[..32].copy_from_slice(&head);
                wire[32..].copy_from_slice(&tail);
                wire
            }),
            plausible in any::<bool>(),
        ) {
            if plausible {
                // Random magic is never right: go deeper by giving a good head.
                wire[..5].copy_from_slice(b"MNTC\x02");
                wire[5] &= 1;
                wire[6..8].fill(0);
                wire[56] = 0;
                wire[57] &= 0x0F;
            }
            match ChunkHeader::decode(&wire) {
                Ok((header, length)) => prop_assert_eq!(header.encode(length), wire),
                Err(_) => prop_assert!(!plausible),
            }
        }
    }
}
