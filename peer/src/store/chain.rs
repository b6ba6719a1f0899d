//! The ledger on disk: its genesis, its blocks with their certificates, and now
//! and then a snapshot of its state, so that a start need not replay everything.
//!
//! ```text
//! ledger/genesis                 checksum 32 bytes | the document
//! ledger/state                   checksum 32 bytes | height u64 | the snapshot
//! ledger/recoveries              checksum 32 bytes | a record for each recovery that is followed
//! ledger/blocks-0000000001 …     records of heights n·4096+1 to (n+1)·4096
//! ledger/log                     records of consensus, all of one height
//! record                         length u32 | height u64 | bytes | checksum 8 bytes
//! ```
//! Integers are little-endian; a checksum is blake3, cut where it is shorter, in
//! a mode of its own. `genesis`, `state` and `recoveries` change as a whole or not at all.
//!
//! Invariants:
//! - When [`ChainStore::append`] or [`ChainStore::append_log`] returns, the record
//!   is on the disk (fdatasync).
//! - Blocks follow each other without a gap, from height 1.
//! - The log has the records of its latest height, all of them in order: what a
//!   member has signed must not be forgotten while others may still hear it.
//! - Only the last record of a file can be torn by a crash; it is cut off at the next
//!   opening, for it was not acknowledged. Any other damage is an error: what a
//!   lone founder has lost nobody else can give back.
//!
//! What the bytes mean is the protocol's business. Calls block on the disk.

mod error;
mod record;

use super::blobs::sync_directory;
use super::fault::{FaultPoint, Step, What};
pub(crate) use error::ChainError;
use error::{damaged, fail};
use record::{CHECKSUM_BYTES, HEAD_BYTES, holds_record, read_record, record, record_bytes};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Heights in one file.
const HEIGHTS_PER_FILE: u64 = 4096;
/// Longest block with its certificate, in bytes.
pub(crate) const BLOCK_BYTES_MAX: usize = 128 << 10;
/// Longest recovery, in bytes.
const RECOVERY_BYTES_MAX: usize = 64 << 10;
/// Longest genesis or snapshot, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 256 << 20;
/// Longest record of the consensus log, in bytes.
const LOG_RECORD_BYTES_MAX: usize = 16 << 20;
/// Longest log that is read back, in bytes: far above what one height can need.
const LOG_BYTES_MAX: u64 = 256 << 20;
const RECORD_BYTES_MAX: usize = HEAD_BYTES + BLOCK_BYTES_MAX + CHECKSUM_BYTES;
const GENESIS: &str = "genesis";
const STATE: &str = "state";
const RECOVERIES: &str = "recoveries";
const LOG: &str = "log";
/// Begins the names of documents that are not whole yet.
const UNNAMED: &str = ".writing-";

/// The ledger of one data directory; see the module.
#[derive(Debug)]
pub(crate) struct ChainStore {
    folder: PathBuf,
    /// Height of the last block, 0 without any.
    last: u64,
    /// The file that is written to, once there is one, and where each of its records begins.
    open: Option<OpenFile>,
    /// Where the records of another file begin that was read last.
    read: Option<(u64, Vec<u64>)>,
    log: Option<LogFile>,
    fault: FaultPoint,
}

#[derive(Debug)]
struct LogFile {
    file: File,
    /// Of its records; 0 without any.
    height: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    first: u64,
    /// Where each record begins, and where the next one will.
    offsets: Vec<u64>,
}

/// A state of the ledger and the height after which it is so.
pub(crate) type Snapshot = (u64, Vec<u8>);

impl ChainStore {
    /// Opens the folder, making it if needed, and cuts off what a crash has torn.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn open(folder: &Path) -> Result<Self, ChainError> {
        fs::create_dir_all(folder).map_err(|source| fail("make the folder", folder, source))?;
        let fault = FaultPoint::default();
        let mut store = Self { folder: folder.to_owned(), last: 0, open: None, read: None, log: None, fault };
        store.remove_unnamed()?;
        let mut number = 0;
        while store.file(number).exists() {
            number += 1;
        }
        if let Some(number) = u64::checked_sub(number, 1) {
            let opened = store.open_file(number)?;
            store.last = opened.first + opened.offsets.len() as u64 - 2;
            store.open = Some(opened);
        }
        Ok(store)
    }

    /// The same, for a process that is to die at a point of this store.
    pub(crate) fn dying(self, fault: FaultPoint) -> Self {
        Self { fault, ..self }
    }

    /// Removes documents that a crash has kept from getting their names.
    fn remove_unnamed(&self) -> Result<(), ChainError> {
        let io = |source| fail("look through", &self.folder, source);
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name().to_string_lossy().starts_with(UNNAMED) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| fail("remove", &path, source))?;
            }
        }
        Ok(())
    }

    /// The document that the ledger began with; `None` if there is no ledger here.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn genesis(&self) -> Result<Option<Vec<u8>>, ChainError> {
        self.document(GENESIS)
    }

    /// The latest snapshot that was kept.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, ChainError> {
        let Some(document) = self.document(STATE)? else { return Ok(None) };
        let (height, state) = document
            .split_first_chunk()
            .ok_or_else(|| damaged(&self.folder.join(STATE), "it is shorter than a height"))?;
        Ok(Some((u64::from_le_bytes(*height), state.to_vec())))
    }

    /// All recoveries that are followed, each with the first height of its committee, in order.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn recoveries(&self) -> Result<Vec<(u64, Vec<u8>)>, ChainError> {
        let document = self.document(RECOVERIES)?.unwrap_or_default();
        let (mut rest, mut recoveries) = (&document[..], Vec::new());
        while !rest.is_empty() {
            let height = rest.get(4..HEAD_BYTES).and_then(|at| at.try_into().ok()).map_or(0, u64::from_le_bytes);
            match read_record(&mut rest, height, RECOVERY_BYTES_MAX) {
                Ok(Some((_, recovery))) => recoveries.push((height, recovery)),
                _ => return Err(damaged(&self.folder.join(RECOVERIES), "it ends with something that is no record")),
            }
        }
        Ok(recoveries)
    }

    /// Adds a recovery that is followed from `height` on; durable when it returns.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn append_recovery(&mut self, height: u64, bytes: &[u8]) -> Result<(), ChainError> {
        if height != self.last + 1 || bytes.len() > RECOVERY_BYTES_MAX || bytes.is_empty() {
            return Err(ChainError::Unfit { height, found_bytes: bytes.len(), expected: self.last + 1 });
        }
        let before = self.document(RECOVERIES)?.unwrap_or_default();
        self.put_document(RECOVERIES, &[&before, &record(height, bytes)])
    }

    /// Height of the last block, 0 without any.
    pub(crate) fn last_height(&self) -> u64 {
        self.last
    }

    /// What was appended to the consensus log for its latest height.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn log(&mut self) -> Result<Vec<Vec<u8>>, ChainError> {
        let path = self.folder.join(LOG);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(LOG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| fail("read", &path, source))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(fail("open", &path, source)),
        };
        if bytes.len() as u64 > LOG_BYTES_MAX {
            return Err(damaged(&path, "it is longer than any log of one height"));
        }
        let height = bytes.get(4..HEAD_BYTES).and_then(|at| at.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (mut rest, mut records) = (&bytes[..], Vec::new());
        // What follows is torn, or what another height's first record was about to replace.
        while let Ok(Some((_, record))) = read_record(&mut rest, height, LOG_RECORD_BYTES_MAX) {
            records.push(record);
        }
        let end = records.iter().map(|record| record_bytes(record.len())).sum::<usize>();
        let torn = &bytes[end..];
        // Of heights that have their block, nothing is needed any more.
        if holds_record(torn, self.last + 1..u64::MAX, LOG_RECORD_BYTES_MAX) {
            return Err(damaged(&path, &format!("what is at byte {end} is no record, and it is not the last")));
        }
        let mut log = self.open_log()?;
        if !torn.is_empty() {
            tracing::warn!(
                torn_bytes = torn.len(),
                "the last record of the consensus log was torn by a crash and cut off"
            );
            log.file.set_len(end as u64).map_err(|source| fail("cut", &path, source))?;
        }
        log.file.sync_data().map_err(|source| fail("sync", &path, source))?;
        log.file.seek(SeekFrom::Start(end as u64)).map_err(|source| fail("seek in", &path, source))?;
        log.height = if records.is_empty() { 0 } else { height };
        self.log = Some(log);
        Ok(records)
    }

    /// Adds a record of consensus on this height; durable when it returns. Those
    /// of another height are dropped.
    ///
    /// # Errors
    /// [`ChainError`]; after [`ChainError::Io`] the store must be opened again.
    pub(crate) fn append_log(&mut self, height: u64, bytes: &[u8]) -> Result<(), ChainError> {
        if bytes.len() > LOG_RECORD_BYTES_MAX {
            return Err(ChainError::LongRecord { found_bytes: bytes.len() });
        }
        if self.log.is_none() {
            // Reading it finds where its records end.
            self.log()?;
        }
        let path = self.folder.join(LOG);
        let mut log = match self.log.take() {
            Some(log) => log,
            None => self.open_log()?,
        };
        let is_another = log.height != height;
        let fault = &mut self.fault;
        let mut write = |file: &mut File| {
            if is_another {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                fault.pass(What::Log, Step::Cleared);
            }
            fault.write_synced(What::Log, file, &record(height, bytes))
        };
        write(&mut log.file).map_err(|source| fail("write", &path, source))?;
        log.height = height;
        self.log = Some(log);
        Ok(())
    }

    fn open_log(&self) -> Result<LogFile, ChainError> {
        let path = self.folder.join(LOG);
        let is_new = !path.exists();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| fail("open", &path, source))?;
        if is_new {
            sync_directory(&self.folder).map_err(|source| fail("sync the folder of", &path, source))?;
        }
        Ok(LogFile { file, height: 0 })
    }

    /// Begins another ledger. One that is here is put aside, in place of one that was put aside before.
    ///
    /// # Errors
    /// [`ChainError::Io`].
    pub(crate) fn begin(&mut self, genesis: &[u8]) -> Result<(), ChainError> {
        (self.open, self.read, self.log) = (None, None, None);
        if self.folder.join(GENESIS).exists() {
            let aside = self.folder.with_extension("left");
            let io = |source| fail("put aside the former ledger in", &self.folder, source);
            match fs::remove_dir_all(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
                _ => {}
            }
            fs::rename(&self.folder, &aside).map_err(io)?;
            self.fault.pass(What::Former, Step::Named);
            fs::create_dir_all(&self.folder).map_err(io)?;
        }
        self.last = 0;
        self.put_document(GENESIS, &[genesis])
    }

    /// Keeps the state after `height`, in place of an earlier snapshot.
    ///
    /// # Errors
    /// [`ChainError::Io`].
    pub(crate) fn keep_snapshot(&mut self, height: u64, state: &[u8]) -> Result<(), ChainError> {
        self.put_document(STATE, &[&height.to_le_bytes(), state])
    }

    /// Adds the next block; durable when it returns.
    ///
    /// # Errors
    /// [`ChainError`]; after [`ChainError::Io`] the store must be opened again.
    pub(crate) fn append(&mut self, height: u64, block: &[u8]) -> Result<(), ChainError> {
        if height != self.last + 1 || block.len() > BLOCK_BYTES_MAX || block.is_empty() {
            return Err(ChainError::Unfit { height, found_bytes: block.len(), expected: self.last + 1 });
        }
        let number = (height - 1) / HEIGHTS_PER_FILE;
        if self.open.as_ref().is_none_or(|open| open.first != first_of(number)) {
            self.open = Some(self.new_file(number)?);
        }
        let path = self.file(number);
        let Some(open) = self.open.as_mut() else {
            return Err(fail("write", &path, io::Error::other("the file has just been closed")));
        };
        let record = record(height, block);
        let written = self.fault.write_synced(What::Block, &mut open.file, &record);
        written.map_err(|source| fail("write", &path, source))?;
        let end = open.offsets.last().copied().unwrap_or(0) + record.len() as u64;
        open.offsets.push(end);
        self.last = height;
        Ok(())
    }

    /// Blocks from height `from` on, at least one if it is here, together at most `bytes_max` long.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn read(&mut self, from: u64, bytes_max: usize) -> Result<Vec<Vec<u8>>, ChainError> {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let mut height = from.max(1);
        while height <= self.last {
            let number = (height - 1) / HEIGHTS_PER_FILE;
            let path = self.file(number);
            let is_open = self.open.as_ref().is_some_and(|open| open.first == first_of(number));
            if !is_open && self.read.as_ref().is_none_or(|(read, _)| *read != number) {
                self.read = Some((number, self.scan(number)?));
            }
            let offsets = match (&self.open, &self.read) {
                (Some(open), _) if is_open => &open.offsets,
                (_, Some((_, offsets))) => offsets,
                _ => return Err(damaged(&path, "it cannot be found")),
            };
            let mut file = BufReader::new(File::open(&path).map_err(|source| fail("open", &path, source))?);
            let index = (height - first_of(number)) as usize;
            let begin = offsets.get(index).copied().ok_or_else(|| damaged(&path, "it ends too early"))?;
            file.seek(SeekFrom::Start(begin)).map_err(|source| fail("read", &path, source))?;
            while height <= self.last && height < first_of(number + 1) {
                let (_, block) = read_record(&mut file, height, BLOCK_BYTES_MAX)
                    .map_err(|source| fail("read", &path, source))?
                    .ok_or_else(|| damaged(&path, &format!("block {height} is not as it was written")))?;
                bytes += block.len();
                if bytes > bytes_max && !blocks.is_empty() {
                    return Ok(blocks);
                }
                blocks.push(block);
                height += 1;
            }
        }
        Ok(blocks)
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(format!("blocks-{:010}", first_of(number)))
    }

    fn new_file(&mut self, number: u64) -> Result<OpenFile, ChainError> {
        let path = self.file(number);
        let file = File::create_new(&path).map_err(|source| fail("make", &path, source))?;
        self.fault.pass(What::File, Step::Named);
        sync_directory(&self.folder).map_err(|source| fail("sync the folder of", &path, source))?;
        Ok(OpenFile { file, first: first_of(number), offsets: vec![0] })
    }

    /// Opens the last file for writing, without what a crash has torn.
    fn open_file(&self, number: u64) -> Result<OpenFile, ChainError> {
        let path = self.file(number);
        let offsets = self.scan(number)?;
        let end = offsets.last().copied().unwrap_or(0);
        let io = |action| {
            let path = path.clone();
            move |source| fail(action, &path, source)
        };
        let mut file = File::options().read(true).write(true).open(&path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("read"))?.len();
        if length > end {
            let mut rest = Vec::new();
            file.seek(SeekFrom::Start(end)).map_err(io("seek in"))?;
            (&file).take(RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut rest).map_err(io("read"))?;
            let next = first_of(number) + offsets.len() as u64;
            if rest.len() > RECORD_BYTES_MAX || holds_record(&rest, next..next + HEIGHTS_PER_FILE, BLOCK_BYTES_MAX) {
                return Err(damaged(&path, &format!("what is at byte {end} is no block, and it is not the last")));
            }
            tracing::warn!(file = %path.display(), torn_bytes = length - end, "the last block was torn by a crash and cut off");
            file.set_len(end).map_err(io("cut"))?;
        }
        // What is here may have been written and not synced before a crash.
        file.sync_data().map_err(io("sync"))?;
        file.seek(SeekFrom::Start(end)).map_err(io("seek in"))?;
        Ok(OpenFile { file, first: first_of(number), offsets })
    }

    /// Where the whole records of a file begin, and where the last of them ends.
    fn scan(&self, number: u64) -> Result<Vec<u64>, ChainError> {
        let path = self.file(number);
        let file = File::open(&path).map_err(|source| fail("open", &path, source))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut offsets = vec![0];
        for height in first_of(number)..first_of(number + 1) {
            let Some((length, _)) =
                read_record(&mut file, height, BLOCK_BYTES_MAX).map_err(|source| fail("read", &path, source))?
            else {
                break;
            };
            offsets.push(offsets.last().copied().unwrap_or(0) + length);
        }
        Ok(offsets)
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ChainError> {
        let path = self.folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(fail("open", &path, source)),
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).map_err(|source| fail("read", &path, source))?;
        match bytes.split_first_chunk::<32>() {
            Some((checksum, content)) if *checksum == document_checksum(name, &[content]) => Ok(Some(content.to_vec())),
            _ => Err(damaged(&path, "its content does not match its checksum")),
        }
    }

    fn put_document(&mut self, name: &str, parts: &[&[u8]]) -> Result<(), ChainError> {
        let path = self.folder.join(name);
        let fault = &mut self.fault;
        let mut write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(UNNAMED).tempfile_in(&self.folder)?;
            file.write_all(&document_checksum(name, parts))?;
            for (place, part) in parts.iter().enumerate() {
                let is_last = place + 1 == parts.len();
                if is_last { fault.write(What::Document, &mut file, part)? } else { file.write_all(part)? }
            }
            file.as_file().sync_all()?;
            fault.pass(What::Document, Step::Synced);
            file.persist(&path).map_err(|error| error.error)?;
            fault.pass(What::Document, Step::Named);
            sync_directory(&self.folder)
        };
        write().map_err(|source| fail("write", &path, source))
    }
}

fn first_of(number: u64) -> u64 {
    number * HEIGHTS_PER_FILE + 1
}

fn document_checksum(name: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 ledger document v1");
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod deaths;
#[cfg(test)]
mod tests;
