//! Why the ledger cannot be kept or read, and what to do about it.

use super::{BLOCK_BYTES_MAX, LOG_RECORD_BYTES_MAX};
use crate::store::FileError;
use std::io;
use std::path::{Path, PathBuf};

/// Why the ledger cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    /// A file does not say what its checksum promises, and no crash does that.
    #[error(
        "the ledger file {} is damaged: {what}; nothing was altered: check the disk, restore it from a backup, or move the \
         folder away, and this peer fetches the ledger from others", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        what: String,
    },
    /// A block or a recovery that does not follow, or that is too long: a fault of the caller.
    #[error(
        "block or recovery {height} of {found_bytes} bytes for a chain whose next height is {expected}; at most {BLOCK_BYTES_MAX} bytes"
    )]
    Unfit {
        /// Its height.
        height: u64,
        /// Its length.
        found_bytes: usize,
        /// The height that follows.
        expected: u64,
    },
    /// A record of the log that is too long: a fault of the caller.
    #[error("a record of the consensus log of {found_bytes} bytes, at most {LOG_RECORD_BYTES_MAX}")]
    LongRecord {
        /// Its length.
        found_bytes: usize,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// A file that is not as it was written.
pub(super) fn damaged(path: &Path, what: &str) -> ChainError {
    ChainError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

/// What the operating system refused.
pub(super) fn fail(action: &'static str, path: &Path, source: io::Error) -> ChainError {
    FileError { action, path: path.to_owned(), source }.into()
}
