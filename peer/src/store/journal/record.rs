//! The bytes of a journal: how they are written, and what is still true of them after a crash.
//!
//! ```text
//! header   magic "mantajnl" | version u32 | salt 16 bytes | checksum 8 bytes
//! record   value length u32 | kind u8 (1 put, 2 remove) | key 32 bytes | value | checksum 8 bytes
//! ```
//! Integers are little-endian. A record's checksum is the first 8 bytes of
//! blake3, keyed from the salt, over the checksum before it and the record's
//! other bytes; so a record counts only where it was written, in the file that
//! it was written to, and no value that came from a stranger can pass for one.
//!
//! Invariant that the reading relies on: each record is synced before the next
//! one is begun, so a crash damages the last record only.

use super::{Key, VALUE_BYTES_MAX};
use std::collections::BTreeMap;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 36;
/// Bytes of a record besides its value.
pub(super) const RECORD_OVERHEAD_BYTES: usize = HEAD_BYTES + CHECKSUM_BYTES;
/// Bytes of the longest record: more cannot be torn by one crash.
pub(super) const RECORD_BYTES_MAX: usize = RECORD_OVERHEAD_BYTES + VALUE_BYTES_MAX;
/// Version of the format.
pub(super) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"mantajnl";
const SALT_BYTES: usize = 16;
const HEAD_BYTES: usize = 4 + 1 + 32;
const CHECKSUM_BYTES: usize = 8;
const KIND_PUT: u8 = 1;
const KIND_REMOVE: u8 = 2;
/// What looking for a record behind a damaged place may cost, in bytes hashed (about a second).
const SEARCH_BYTES_MAX: u64 = 1 << 30;

type Checksum = [u8; CHECKSUM_BYTES];

/// Writes records one after the other.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    checksum_key: [u8; 32],
    last: Checksum,
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Replay {
    /// The newest value of each key that was not removed.
    pub(super) entries: BTreeMap<Key, Box<[u8]>>,
    /// Where the last whole record ends; what is behind it was torn by a crash.
    pub(super) end: usize,
}

/// Why a file cannot be taken as a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// It does not begin with a whole header.
    Header,
    /// The format is of another release.
    Version(u32),
    /// The record at this offset is damaged, and it is not the last one.
    Middle { offset: usize },
}

impl Chain {
    /// Begins a file: the chain and the header's bytes. `salt` must differ from file to file.
    pub(super) fn begin(salt: [u8; SALT_BYTES]) -> (Self, Vec<u8>) {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&salt);
        let checksum_key = blake3::derive_key("manta 2026-11 journal checksums v1", &salt);
        let last = checksum(&checksum_key, &[0; CHECKSUM_BYTES], &header);
        header.extend_from_slice(&last);
        (Self { checksum_key, last }, header)
    }

    /// Appends the record that gives `key` a value, or takes it away.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, key: &Key, value: Option<&[u8]>) {
        let begin = out.len();
        let body = value.unwrap_or_default();
        // The caller has checked it against `VALUE_BYTES_MAX`.
        let length = u32::try_from(body.len()).expect("a value's length fits in 32 bits");
        out.extend_from_slice(&length.to_le_bytes());
        out.push(if value.is_some() { KIND_PUT } else { KIND_REMOVE });
        out.extend_from_slice(key);
        out.extend_from_slice(body);
        self.last = checksum(&self.checksum_key, &self.last, &out[begin..]);
        out.extend_from_slice(&self.last);
    }
}

/// Reads a file from its header to its last whole record.
///
/// # Errors
/// [`Damage`], if more than the last record is amiss.
pub(super) fn replay(bytes: &[u8]) -> Result<Replay, Damage> {
    let chain = read_header(bytes)?;
    let (mut entries, mut end, mut last) = (BTreeMap::new(), HEADER_BYTES, chain.last);
    while let Some(record) = Record::at(bytes, end)
        && record.checksum == checksum(&chain.checksum_key, &last, record.covered)
    {
        match record.value {
            Some(value) => entries.insert(record.key, Box::from(value)),
            None => entries.remove(&record.key),
        };
        (end, last) = (record.end, record.checksum);
    }
    if is_middle(&chain.checksum_key, bytes, end, last) {
        return Err(Damage::Middle { offset: end });
    }
    Ok(Replay { entries, end })
}

fn read_header(bytes: &[u8]) -> Result<Chain, Damage> {
    let header = bytes.get(..HEADER_BYTES).ok_or(Damage::Header)?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (version, rest) = rest.split_first_chunk().ok_or(Damage::Header)?;
    let salt = rest.first_chunk().ok_or(Damage::Header)?;
    let version = u32::from_le_bytes(*version);
    if magic != MAGIC {
        return Err(Damage::Header);
    }
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let (chain, expected) = Chain::begin(*salt);
    if header == expected { Ok(chain) } else { Err(Damage::Header) }
}

/// Whether the damage at `at` has records behind it, or is more than one crash can do.
fn is_middle(checksum_key: &[u8; 32], bytes: &[u8], at: usize, last: Checksum) -> bool {
    if bytes.len() - at > RECORD_BYTES_MAX {
        return true;
    }
    // Only the checksum may be damaged: then the next record follows from what it should have been.
    if let Some(damaged) = Record::at(bytes, at)
        && let Some(next) = Record::at(bytes, damaged.end)
        && next.checksum == checksum(checksum_key, &checksum(checksum_key, &last, damaged.covered), next.covered)
    {
        return true;
    }
    let mut hashed = 0_u64;
    for begin in at + 1..bytes.len() {
        let Some(record) = Record::at(bytes, begin) else { continue };
        let Some(before) = bytes[..begin].last_chunk() else { continue };
        hashed += record.covered.len() as u64;
        // Content that looks like records everywhere: it cannot be told in time, and losing promises is worse.
        if hashed > SEARCH_BYTES_MAX || record.checksum == checksum(checksum_key, before, record.covered) {
            return true;
        }
    }
    false
}

/// A record by its form; its checksum is yet to be compared.
struct Record<'a> {
    key: Key,
    value: Option<&'a [u8]>,
    /// All but the checksum.
    covered: &'a [u8],
    checksum: Checksum,
    end: usize,
}

impl<'a> Record<'a> {
    fn at(bytes: &'a [u8], begin: usize) -> Option<Self> {
        let (length, rest) = bytes.get(begin..)?.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > VALUE_BYTES_MAX || rest.len() < length + CHECKSUM_BYTES {
            return None;
        }
        let value = match *kind {
            KIND_PUT => Some(&rest[..length]),
            KIND_REMOVE if length == 0 => None,
            _ => return None,
        };
        let covered_end = begin + HEAD_BYTES + length;
        let end = covered_end + CHECKSUM_BYTES;
        let checksum = *bytes[covered_end..end].first_chunk()?;
        Some(Self { key: *key, value, covered: &bytes[begin..covered_end], checksum, end })
    }
}

fn checksum(key: &[u8; 32], before: &Checksum, covered: &[u8]) -> Checksum {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(before).update(covered);
    let mut first = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut first);
    first
}
