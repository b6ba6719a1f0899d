//! The files of a journal, and the few things that it does with them.
//!
//! Beside `journal` lie `journal.lock` (held while it is open),
//! `journal.writing` (a new version not yet in place) and `journal.damaged-N`
//! (tails that a crash has torn, kept for whoever wants to look).

use super::JournalError;
use crate::store::FileError;
use crate::store::blobs::sync_directory;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Damaged tails that may lie beside a journal.
const DAMAGED_FILES_MAX: u32 = 100;
/// More is no journal of ours; see the bounds in [`super`].
const FILE_BYTES_MAX: u64 = 512 << 20;

/// What a journal needs of a disk. After an error the content is unknown until it is read again.
pub(crate) trait Storage {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The whole content; `None` if there is none yet.
    ///
    /// # Errors
    /// What the system answered.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Writes at the end; durable only after `sync`.
    ///
    /// # Errors
    /// What the system answered; a part may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// What the system answered; what was appended may be lost, whatever a later call says.
    fn sync(&mut self) -> io::Result<()>;

    /// Puts `bytes` in place of the content: a crash leaves the old or the new, and after it returns, the new.
    ///
    /// # Errors
    /// What the system answered; the old or the new content stands.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Keeps damaged bytes in a file of their own, durably; returns where.
    ///
    /// # Errors
    /// What the system answered.
    fn put_aside(&mut self, bytes: &[u8]) -> io::Result<PathBuf>;
}

/// A journal's files on a real disk.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// `None` until the first `replace`, which every opening begins with.
    file: Option<File>,
    /// Held for its advisory lock only.
    _lock: File,
}

impl Disk {
    /// Takes possession of the journal at `path`, which need not exist; its folder must.
    pub(super) fn lock(path: &Path) -> Result<Self, JournalError> {
        let lock_path = beside(path, "lock");
        let fail = |action, source| FileError { action, path: lock_path.clone(), source };
        let lock = File::options().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(|source| fail("open", source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), file: None, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(JournalError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(fail("lock", source).into()),
        }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the journal has not been opened yet"))
    }

    fn sync_folder(&self) -> io::Result<()> {
        sync_directory(self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
}

impl Storage for Disk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes, so it is no journal")));
        }
        Ok(Some(bytes))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Not written to any more, even if what follows fails; and some systems rename no file that is open.
        self.file = None;
        let writing = beside(&self.path, "writing");
        let mut file = File::create(&writing)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&writing, &self.path)?;
        self.sync_folder()?;
        // Its position is the end of what was written.
        self.file = Some(file);
        Ok(())
    }

    fn put_aside(&mut self, bytes: &[u8]) -> io::Result<PathBuf> {
        for number in 1..=DAMAGED_FILES_MAX {
            let path = beside(&self.path, &format!("damaged-{number}"));
            match File::create_new(&path) {
                Ok(mut file) => {
                    file.write_all(bytes)?;
                    file.sync_all()?;
                    self.sync_folder()?;
                    return Ok(path);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!(
            "{DAMAGED_FILES_MAX} damaged tails lie there already; the disk loses writes: check it, then move them away"
        )))
    }
}

/// `path` with `.ending` after its whole name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}
