//! Content-addressed blobs in one directory: a file is named by the blake3 hash
//! of its bytes, in lower-case hexadecimal.
//!
//! The one invariant: whoever gets bytes from here gets the bytes of the hash
//! asked for. They are hashed again on every read; a file that does not match
//! is removed and counts as missing, so that it is fetched again. A blob
//! appears whole or not at all: it is written under another name, synced, and
//! renamed.
//!
//! Calls block on the disk; call them from blocking threads.

use super::is_disk_full;
use manta_protocol::ids::Hash;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Longest blob, in bytes.
pub(crate) const BLOB_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Unfinished writes begin with this and are removed when the store is opened.
const TEMPORARY_PREFIX: &str = ".writing-";

/// Why a blob could not be kept or looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("a blob of {found} bytes; at most {BLOB_BYTES_MAX} are accepted")]
    TooLong { found: usize },
    #[error(
        "{directory}: {needed_bytes} more bytes do not fit: the data of runs may take {limit_bytes} there, and \
         {stored_bytes} are in use; free space on that disk and start the peer again, or choose a larger one with \
         --data-dir"
    )]
    LimitReached { directory: PathBuf, stored_bytes: u64, limit_bytes: u64, needed_bytes: u64 },
    #[error("{directory}: no space left on the disk for {needed_bytes} bytes; free some and try again")]
    DiskFull { directory: PathBuf, needed_bytes: u64 },
    #[error("{path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
}

/// A directory of blobs with a bound on their total size. Shared by reference
/// among threads; one directory belongs to one process.
#[derive(Debug)]
pub(crate) struct BlobStore {
    directory: PathBuf,
    limit_bytes: u64,
    /// Bytes of finished blobs and of those being written.
    stored_bytes: Mutex<u64>,
}

impl BlobStore {
    /// Opens `directory`, making it if needed, for at most `limit_bytes` in all.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be made or listed.
    pub(crate) fn open(directory: &Path, limit_bytes: u64) -> Result<Self, StoreError> {
        let fail = |action| move |source| StoreError::Io { path: directory.into(), action, source };
        fs::create_dir_all(directory).map_err(fail("make the folder"))?;
        let mut stored_bytes = 0_u64;
        for entry in fs::read_dir(directory).map_err(fail("list the folder"))? {
            let entry = entry.map_err(fail("list the folder"))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(TEMPORARY_PREFIX) {
                fs::remove_file(entry.path()).map_err(fail("remove an unfinished blob"))?;
            } else if name.parse::<Hash>().is_ok() {
                let bytes = entry.metadata().map_err(fail("list the folder"))?.len();
                stored_bytes = stored_bytes.saturating_add(bytes);
            }
        }
        Ok(Self { directory: directory.into(), limit_bytes, stored_bytes: Mutex::new(stored_bytes) })
    }

    /// Keeps `bytes` and returns their hash; they are on the disk when this
    /// returns. Bytes that are there already are not written again.
    ///
    /// # Errors
    /// [`StoreError`]: too long, over the limit, or the disk failed. Nothing is
    /// left behind then.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(StoreError::TooLong { found: bytes.len() });
        }
        let hash = Hash::of(bytes);
        // Reading it back, rather than looking for the name, also repairs a corrupt blob.
        if self.get(&hash)?.is_some() {
            return Ok(hash);
        }
        self.reserve(bytes.len())?;
        match self.write(&hash, bytes) {
            Ok(true) => Ok(hash),
            Ok(false) => {
                // Another thread wrote the same blob, and counted it.
                self.release(bytes.len() as u64);
                Ok(hash)
            }
            Err(source) => {
                self.release(bytes.len() as u64);
                Err(self.write_error(source, bytes.len()))
            }
        }
    }

    /// Removes blobs that nobody uses, oldest first, until `needed_bytes` more fit
    /// or none is left. Whether they fit then is told when they are put.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory cannot be listed or a blob not removed.
    pub(crate) fn make_room(&self, needed_bytes: u64, in_use: impl Fn(&Hash) -> bool) -> Result<(), StoreError> {
        let fits = || self.stored_bytes().saturating_add(needed_bytes) <= self.limit_bytes;
        if fits() {
            return Ok(());
        }
        let fail = |action| move |source| StoreError::Io { path: self.directory.clone(), action, source };
        let mut unused = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(fail("list the folder"))? {
            let entry = entry.map_err(fail("list the folder"))?;
            if let Ok(hash) = entry.file_name().to_string_lossy().parse::<Hash>()
                && !in_use(&hash)
            {
                let metadata = entry.metadata().map_err(fail("list the folder"))?;
                unused.push((metadata.modified().map_err(fail("list the folder"))?, entry.path()));
            }
        }
        unused.sort();
        for (_, path) in unused {
            if fits() {
                break;
            }
            self.remove(&path).map_err(fail("remove an unused blob"))?;
        }
        Ok(())
    }

    /// The bytes of `hash`, verified, or `None` if they are not here. A corrupt
    /// blob is removed, logged, and is not here.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file is there and cannot be read or removed.
    pub(crate) fn get(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(hash);
        let fail = |action| {
            let path = path.clone();
            move |source| StoreError::Io { path, action, source }
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail("open the blob")(error)),
        };
        let mut bytes = Vec::new();
        file.take(BLOB_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(fail("read the blob"))?;
        if bytes.len() <= BLOB_BYTES_MAX && Hash::of(&bytes) == *hash {
            return Ok(Some(bytes));
        }
        tracing::warn!(blob = %path.display(), "the blob's content no longer matches its hash; removing it");
        self.remove(&path).map_err(fail("remove the corrupt blob"))?;
        Ok(None)
    }

    /// Whether a blob of this name is here; its content is checked when it is read.
    pub(crate) fn contains(&self, hash: &Hash) -> bool {
        self.path(hash).is_file()
    }

    /// Bytes of all blobs, those being written included.
    pub(crate) fn stored_bytes(&self) -> u64 {
        *self.stored_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.directory.join(hash.to_string())
    }

    /// Writes, syncs and names the blob; `false` if it has appeared meanwhile.
    fn write(&self, hash: &Hash, bytes: &[u8]) -> io::Result<bool> {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&self.directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(self.path(hash)) {
            Ok(_) => sync_directory(&self.directory).map(|()| true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    fn write_error(&self, source: io::Error, needed: usize) -> StoreError {
        if is_disk_full(&source) {
            StoreError::DiskFull { directory: self.directory.clone(), needed_bytes: needed as u64 }
        } else {
            StoreError::Io { path: self.directory.clone(), action: "write a blob", source }
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // Under the lock, so that two readers of one corrupt blob release its bytes once.
        let mut stored = self.stored_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        fs::remove_file(path)?;
        *stored = stored.saturating_sub(bytes);
        Ok(())
    }

    fn reserve(&self, bytes: usize) -> Result<(), StoreError> {
        let mut stored = self.stored_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.checked_add(bytes as u64) {
            Some(total) if total <= self.limit_bytes => {
                *stored = total;
                Ok(())
            }
            _ => Err(StoreError::LimitReached {
                directory: self.directory.clone(),
                stored_bytes: *stored,
                limit_bytes: self.limit_bytes,
                needed_bytes: bytes as u64,
            }),
        }
    }

    fn release(&self, bytes: u64) {
        let mut stored = self.stored_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *stored = stored.saturating_sub(bytes);
    }
}

/// Makes renames in `directory` durable, where the system lets a folder be synced.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(limit_bytes: u64) -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&directory.path().join("blobs"), limit_bytes).unwrap();
        (directory, store)
    }

    #[test]
    fn a_blob_comes_back_and_is_counted_once() {
        let (_directory, store) = store(1000);
        let hash = store.put(b"some bytes").unwrap();
        assert_eq!(store.put(b"some bytes").unwrap(), hash);
        assert!(store.contains(&hash));
        assert_eq!(store.get(&hash).unwrap().as_deref(), Some(&b"some bytes"[..]));
        assert_eq!(store.stored_bytes(), 10);
        assert_eq!(store.get(&Hash::of(b"other")).unwrap(), None);
        assert!(!store.contains(&Hash::of(b"other")));
    }

    #[test]
    fn room_is_made_by_removing_the_oldest_unused_blobs() {
        let (_directory, store) = store(12);
        let [old, used, new] = [b"old.", b"used", b"new."].map(|bytes| store.put(bytes).unwrap());
        let age = |hash: &Hash, seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::options().write(true).open(store.path(hash)).unwrap().set_modified(time).unwrap();
        };
        age(&used, 1);
        age(&old, 2);
        age(&new, 3);
        store.make_room(0, |_| false).unwrap();
        assert_eq!(store.stored_bytes(), 12);
        store.make_room(3, |hash| *hash == used).unwrap();
        assert_eq!([old, used, new].map(|hash| store.contains(&hash)), [false, true, true]);
        // More than there can be: everything unused goes, and the put says that it does not fit.
        store.make_room(100, |hash| *hash == used).unwrap();
        assert_eq!([used, new].map(|hash| store.contains(&hash)), [true, false]);
        assert!(matches!(store.put(b"nine more"), Err(StoreError::LimitReached { stored_bytes: 4, .. })));
    }

    #[test]
    fn a_reopened_store_knows_its_blobs_and_forgets_unfinished_ones() {
        let (_directory, store) = store(1000);
        let hash = store.put(b"kept").unwrap();
        let unfinished = store.directory.join(format!("{TEMPORARY_PREFIX}x"));
        fs::write(&unfinished, b"half").unwrap();
        let store = BlobStore::open(&store.directory, 1000).unwrap();
        assert_eq!(store.stored_bytes(), 4);
        assert!(store.contains(&hash));
        assert!(!unfinished.exists());
    }

    #[test]
    fn a_corrupt_blob_is_removed_and_can_be_put_again() {
        let (_directory, store) = store(10_000_000);
        let hash = store.put(b"some bytes").unwrap();
        for corrupt in [b"some bytez".to_vec(), b"some".to_vec(), Vec::new(), vec![0; BLOB_BYTES_MAX + 2]] {
            let store = {
                fs::write(store.path(&hash), &corrupt).unwrap();
                BlobStore::open(&store.directory, 10_000_000).unwrap()
            };
            assert_eq!(store.get(&hash).unwrap(), None);
            assert!(!store.contains(&hash));
            assert_eq!(store.stored_bytes(), 0);
            fs::write(store.path(&hash), &corrupt).unwrap();
            assert_eq!(store.put(b"some bytes").unwrap(), hash, "put repairs a corrupt blob");
            assert_eq!(store.get(&hash).unwrap().as_deref(), Some(&b"some bytes"[..]));
        }
    }

    #[test]
    fn limits_hold_and_leave_nothing_behind() {
        let (_directory, store) = store(10);
        store.put(b"12345678").unwrap();
        let error = store.put(b"abc").unwrap_err();
        assert!(
            matches!(error, StoreError::LimitReached { stored_bytes: 8, limit_bytes: 10, needed_bytes: 3, .. }),
            "{error}"
        );
        store.put(b"ab").unwrap();
        assert!(matches!(store.put(&vec![0; BLOB_BYTES_MAX + 1]), Err(StoreError::TooLong { .. })));
        assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 2);
    }

    #[test]
    fn a_full_disk_is_named_with_the_bytes_needed() {
        let (_directory, store) = store(10);
        let message = store.write_error(io::ErrorKind::StorageFull.into(), 7).to_string();
        assert!(message.contains("no space left") && message.contains("7 bytes"), "{message}");
        assert!(message.contains(&*store.directory.to_string_lossy()), "{message}");
    }

    #[test]
    fn threads_that_put_the_same_blob_count_it_once() {
        let (_directory, store) = store(10_000);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| store.put(&[7; 1000]).unwrap());
            }
        });
        assert_eq!(store.stored_bytes(), 1000);
    }
}
