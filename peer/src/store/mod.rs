//! What this peer keeps on disk.

pub(crate) mod blobs;
pub(crate) mod chain;
pub(crate) mod fault;
pub(crate) mod journal;
pub(crate) mod state_file;
pub(crate) mod tables;

use std::io;

/// Whether a write failed because no space (or no quota) is left, so that the
/// message can say how much is needed instead of an error number.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
