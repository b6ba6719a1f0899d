//! Records of the ledger's files: `length u32 | height u64 | bytes | checksum 8 bytes`.
//!
//! A record that a crash has torn is told from one that is damaged by what comes
//! after it: nothing follows a torn one.

use std::io::{self, Read};
use std::ops::Range;

pub(super) const HEAD_BYTES: usize = 4 + 8;
pub(super) const CHECKSUM_BYTES: usize = 8;

/// Of a whole record with so much content.
pub(super) fn record_bytes(content_bytes: usize) -> usize {
    HEAD_BYTES + content_bytes + CHECKSUM_BYTES
}

/// The record of `height`; the caller has checked how long it is.
pub(super) fn record(height: u64, block: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(record_bytes(block.len()));
    record.extend_from_slice(&(block.len() as u32).to_le_bytes());
    record.extend_from_slice(&height.to_le_bytes());
    record.extend_from_slice(block);
    let checksum = checksum(&record);
    record.extend_from_slice(&checksum);
    record
}

/// The next record's length and content; `None` if it is not whole, too long, or not of `height`.
pub(super) fn read_record(file: &mut impl Read, height: u64, bytes_max: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
    let whole = |result: io::Result<()>| match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let mut head = [0; HEAD_BYTES];
    if !whole(file.read_exact(&mut head))? {
        return Ok(None);
    }
    let (length, at) = head.split_at(4);
    let length = length.try_into().map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize);
    if length > bytes_max || at != height.to_le_bytes() {
        return Ok(None);
    }
    let mut record = vec![0; record_bytes(length)];
    record[..HEAD_BYTES].copy_from_slice(&head);
    if !whole(file.read_exact(&mut record[HEAD_BYTES..]))? {
        return Ok(None);
    }
    let (content, found) = record.split_at(HEAD_BYTES + length);
    let bytes = (record.len() as u64, content[HEAD_BYTES..].to_vec());
    Ok((found == checksum(content)).then_some(bytes))
}

/// Whether a whole record of one of `heights` is somewhere in `bytes`: then they were not torn by one crash.
pub(super) fn holds_record(bytes: &[u8], heights: Range<u64>, bytes_max: usize) -> bool {
    (1..bytes.len()).any(|begin| {
        let found = bytes[begin..].get(4..HEAD_BYTES).and_then(|at| at.try_into().ok()).map(u64::from_le_bytes);
        found
            .filter(|found| heights.contains(found))
            .is_some_and(|found| matches!(read_record(&mut &bytes[begin..], found, bytes_max), Ok(Some(_))))
    })
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 chain file v1");
    let mut first = [0; CHECKSUM_BYTES];
    hasher.update(content).finalize_xof().fill(&mut first);
    first
}
