//! What this peer keeps on disk.

pub(crate) mod blobs;
pub(crate) mod chain;
pub(crate) mod fault;
pub(crate) mod journal;
pub(crate) mod state_file;
pub(crate) mod tables;

use std::io;
use std::path::PathBuf;

/// The operating system refused what was to be done with a file or a folder.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {action} {path}: {source}; {advice}", path = .path.display(),
    advice = if is_disk_full(.source) { "free some space" } else { "check the path, its owner and the disk" }
)]
pub(crate) struct FileError {
    /// What was being done.
    pub(crate) action: &'static str,
    /// To which file or folder.
    pub(crate) path: PathBuf,
    /// What the system answered.
    pub(crate) source: io::Error,
}

/// Whether a write failed because no space (or no quota) is left, so that the
/// message can say how much is needed instead of an error number.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
