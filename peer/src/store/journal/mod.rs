//! Promises that must survive a kill and a power loss: newest value by key, in
//! one append-only file.
//!
//! Invariants:
//! - When [`Journal::put`] or [`Journal::remove`] returns `Ok`, the change is on
//!   the disk (fdatasync); after a crash the journal gives the state after the
//!   last change that was acknowledged, or after the one that was under way, and
//!   never a mixture.
//! - After a failed write or sync nothing more is promised: the kernel may have
//!   dropped the dirty pages and report success next time, so every later change
//!   is refused until the journal is opened again.
//! - Opening writes the file anew. So what is read is durable also where an
//!   earlier process died between its write and its sync.
//!
//! The format is in [`record`], the files in [`disk`]. Calls block on the disk;
//! call them from blocking threads. What can be rebuilt from elsewhere belongs
//! into [`super::tables`].

mod disk;
mod record;
#[cfg(test)]
mod tests;

use super::FileError;
pub(crate) use disk::{Disk, Storage};
use record::{Chain, Damage, HEADER_BYTES, RECORD_OVERHEAD_BYTES};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest value, in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 20;
/// Keys that may have a value at a time.
pub(crate) const KEYS_MAX: usize = 4096;
/// Bytes of all current values, which are also held in memory.
pub(crate) const LIVE_BYTES_MAX: usize = 64 << 20;
/// The file is written anew when more than this is out of date …
const DEAD_BYTES_MIN: usize = 1 << 20;
/// … and more than this many times what is current.
const DEAD_PER_LIVE: usize = 4;

/// What a value is kept under; a hash of a domain and a name, by convention.
pub(crate) type Key = [u8; 32];

/// Why a journal cannot be opened or a change not be promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// Another process has it.
    #[error("the journal {} is in use by another process; stop that one first", .0.display())]
    InUse(PathBuf),
    /// The file does not begin as a journal does.
    #[error(
        "{} is not a journal, or its first {HEADER_BYTES} bytes are damaged; restore it from a backup, or move it away \
         and lose what this peer has promised to others", .0.display()
    )]
    NotAJournal(PathBuf),
    /// Another release wrote it.
    #[error(
        "the journal {path} has format {found}, this release reads {version}; start the release that wrote it",
        path = .path.display(), version = record::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format's number.
        found: u32,
    },
    /// A record is damaged that is not the last one: no crash does that.
    #[error(
        "the journal {path} is damaged at byte {offset} of {length_bytes}, before its end, so the disk or another \
         program has changed it; nothing was altered: check the disk, restore the file from a backup, or move it away \
         and lose what this peer has promised to others",
        path = .path.display()
    )]
    DamagedMiddle {
        /// The file.
        path: PathBuf,
        /// Where the first damaged record begins, in bytes.
        offset: usize,
        /// Bytes of the file.
        length_bytes: usize,
    },
    /// The value is too long.
    #[error("a value of {found_bytes} bytes for the journal; at most {VALUE_BYTES_MAX} are accepted")]
    ValueTooLong {
        /// Its length.
        found_bytes: usize,
    },
    /// There is no room for a further key or for so long a value.
    #[error(
        "the journal holds {keys} keys with {live_bytes} bytes and takes at most {KEYS_MAX} with {LIVE_BYTES_MAX}; \
         remove what is settled first"
    )]
    Full {
        /// Keys that have a value.
        keys: usize,
        /// Bytes of their values.
        live_bytes: usize,
    },
    /// A write or sync has failed before.
    #[error(
        "the journal {path} promises nothing more since this failed: {why}; free space or check the disk, then restart \
         this peer",
        path = .path.display()
    )]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// What has failed.
        why: String,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// An open journal; see the module.
#[derive(Debug)]
pub(crate) struct Journal<S = Disk> {
    storage: S,
    chain: Chain,
    entries: BTreeMap<Key, Box<[u8]>>,
    /// Bytes of the current values.
    live_bytes: usize,
    /// Bytes of the file.
    file_bytes: usize,
    /// Why nothing more is promised.
    poisoned: Option<String>,
}

impl Journal {
    /// Opens the journal at `path`, beginning one if there is none, and holds it
    /// against other processes until the value is dropped. A tail that a crash
    /// has torn is put aside with a warning.
    ///
    /// # Errors
    /// In use, not a journal, damaged before its end, or the disk refuses.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_on(Disk::lock(path)?)
    }
}

impl<S: Storage> Journal<S> {
    /// [`Journal::open`] on a storage that is held already.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open_on(mut storage: S) -> Result<Self, JournalError> {
        let path = storage.path().to_owned();
        let fail = |action| {
            let path = path.clone();
            move |source| FileError { action, path, source }
        };
        let mut entries = BTreeMap::new();
        if let Some(bytes) = storage.read().map_err(fail("read the journal"))? {
            let replay = record::replay(&bytes).map_err(|damage| match damage {
                Damage::Header => JournalError::NotAJournal(path.clone()),
                Damage::Version(found) => JournalError::Version { path: path.clone(), found },
                Damage::Middle { offset } => {
                    JournalError::DamagedMiddle { path: path.clone(), offset, length_bytes: bytes.len() }
                }
            })?;
            let torn = &bytes[replay.end..];
            if !torn.is_empty() {
                let aside = storage.put_aside(torn).map_err(fail("put aside the torn end of"))?;
                tracing::warn!(
                    journal = %path.display(), kept_bytes = replay.end, torn_bytes = torn.len(), aside = %aside.display(),
                    "the journal's last record was torn by a crash and put aside; it had not been promised"
                );
            }
            entries = replay.entries;
        }
        let live_bytes = entries.values().map(|value| value.len()).sum();
        let (chain, bytes) = image(&entries);
        storage.replace(&bytes).map_err(fail("write the journal"))?;
        Ok(Self { storage, chain, entries, live_bytes, file_bytes: bytes.len(), poisoned: None })
    }

    /// Gives `key` a value; durable when it returns.
    ///
    /// # Errors
    /// Too long, no room, or a disk failure; after the latter the change may be found at the next opening.
    pub(crate) fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), JournalError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(JournalError::ValueTooLong { found_bytes: value.len() });
        }
        let before = self.entries.get(key).map(|value| value.len());
        let live_bytes = self.live_bytes - before.unwrap_or(0) + value.len();
        if live_bytes > LIVE_BYTES_MAX || (before.is_none() && self.entries.len() >= KEYS_MAX) {
            return Err(JournalError::Full { keys: self.entries.len(), live_bytes: self.live_bytes });
        }
        self.write(key, Some(value))
    }

    /// Takes the value of `key` away, if it has one; durable when it returns.
    ///
    /// # Errors
    /// A disk failure, as in [`Self::put`].
    pub(crate) fn remove(&mut self, key: &Key) -> Result<(), JournalError> {
        self.write(key, None)
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &Key) -> Option<&[u8]> {
        self.entries.get(key).map(|value| &**value)
    }

    /// All keys with their values, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &[u8])> {
        self.entries.iter().map(|(key, value)| (key, &**value))
    }

    fn write(&mut self, key: &Key, value: Option<&[u8]>) -> Result<(), JournalError> {
        if let Some(why) = &self.poisoned {
            return Err(JournalError::Poisoned { path: self.storage.path().to_owned(), why: why.clone() });
        }
        if self.get(key) == value {
            return Ok(());
        }
        let mut record = Vec::with_capacity(RECORD_OVERHEAD_BYTES + value.map_or(0, <[u8]>::len));
        self.chain.write(&mut record, key, value);
        self.storage.append(&record).map_err(|source| self.poison("write", source))?;
        self.storage.sync().map_err(|source| self.poison("sync", source))?;
        self.file_bytes += record.len();
        let before = match value {
            Some(value) => self.entries.insert(*key, Box::from(value)),
            None => self.entries.remove(key),
        };
        self.live_bytes = self.live_bytes + value.map_or(0, <[u8]>::len) - before.map_or(0, |value| value.len());
        self.compact_if_due();
        Ok(())
    }

    /// Writes the file anew without what is out of date. The change just made is
    /// durable already, so a failure concerns the next one.
    fn compact_if_due(&mut self) {
        let live = HEADER_BYTES + self.live_bytes + self.entries.len() * RECORD_OVERHEAD_BYTES;
        let dead = self.file_bytes - live;
        if dead <= DEAD_BYTES_MIN || dead <= DEAD_PER_LIVE * live {
            return;
        }
        let (chain, bytes) = image(&self.entries);
        match self.storage.replace(&bytes) {
            Ok(()) => (self.chain, self.file_bytes) = (chain, bytes.len()),
            Err(source) => {
                let error = self.poison("write anew", source);
                tracing::error!(%error, "the journal promises nothing more; restart this peer");
            }
        }
    }

    fn poison(&mut self, action: &'static str, source: io::Error) -> JournalError {
        self.poisoned = Some(format!("cannot {action} it: {source}"));
        FileError { action, path: self.storage.path().to_owned(), source }.into()
    }
}

/// A whole file that says `entries` and nothing else.
fn image(entries: &BTreeMap<Key, Box<[u8]>>) -> (Chain, Vec<u8>) {
    let (mut chain, mut bytes) = Chain::begin(fresh_salt());
    for (key, value) in entries {
        chain.write(&mut bytes, key, Some(value));
    }
    (chain, bytes)
}

/// Another one at each call, and not to be guessed from afar.
fn fresh_salt() -> [u8; 16] {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 journal salt v1");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    hasher.update(&since.as_nanos().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&CALLS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let mut salt = [0; 16];
    hasher.finalize_xof().fill(&mut salt);
    salt
}
