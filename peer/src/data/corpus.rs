//! Reads the text to train on: one file, a folder, or a glob pattern.
//!
//! Files are read in the order of [`super::walk`] with [`SEPARATOR`] between
//! them, so equal files give equal bytes on every machine. A file whose size or
//! time of change differs before and after the reading is refused.

use super::walk::{FILES_MAX, Glob, WalkError, files_below};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Least text that can be split into two useful parts, in bytes.
pub(crate) const CORPUS_BYTES_MIN: u64 = 16 * 1024;
/// Most text, in bytes: each peer of a run holds all of it in memory.
pub(crate) const CORPUS_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Stands between two files: an empty line.
pub(crate) const SEPARATOR: &[u8] = b"\n\n";

/// A file is judged by this many bytes before the rest of it is read.
const SNIFF_BYTES: u64 = 8 * 1024;

/// The text, and where it came from.
#[derive(Debug)]
pub(crate) struct Corpus {
    /// All files' bytes in order.
    pub(crate) bytes: Vec<u8>,
    /// Their origin.
    pub(crate) sources: Sources,
}

/// The files that a corpus was read from, and what was left out.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<(PathBuf, Stamp)>,
    /// Files and folders skipped because their names begin with a dot.
    pub(crate) skipped_hidden: usize,
    /// Files skipped because they are not UTF-8 text.
    pub(crate) skipped_binary: usize,
    /// Symbolic links and special files skipped.
    pub(crate) skipped_not_files: usize,
}

/// Why a corpus was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CorpusError {
    #[error(
        "{path}: there is no such file or folder; give --data a text file, a folder or a pattern such as 'books/*.txt'"
    )]
    Missing { path: PathBuf },
    #[error("{path}: no file matches this pattern (hidden files and links are not looked at)")]
    NoMatch { path: PathBuf },
    #[error("{path}: neither a file nor a folder")]
    NotAFile { path: PathBuf },
    #[error("{path}: cannot read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path}: not UTF-8 text (first bad byte at {offset}); convert it, or leave it out")]
    NotText { path: PathBuf, offset: usize },
    #[error("{path}: no text in it ({skipped_binary} files were skipped as binary, {skipped_hidden} as hidden)")]
    Empty { path: PathBuf, skipped_binary: usize, skipped_hidden: usize },
    #[error("{path}: {found} bytes of text; at least {needed} are needed")]
    TooSmall { path: PathBuf, found: u64, needed: u64 },
    #[error("{path}: more than {limit} bytes of text; leave some out")]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{path}: more than {FILES_MAX} files; name a smaller folder")]
    TooManyFiles { path: PathBuf },
    #[error("{path}: changed while it was in use; let it be finished, then start again")]
    Changed { path: PathBuf },
}

impl CorpusError {
    pub(super) fn from_walk(error: WalkError, input: &Path) -> Self {
        match error {
            WalkError::Unreadable { path, source } => Self::Unreadable { path, source },
            WalkError::TooManyFiles => Self::TooManyFiles { path: input.into() },
        }
    }
}

/// Reads the file, folder or pattern that `input` names, to train on.
///
/// # Errors
/// [`CorpusError`], which names the path and says what is accepted.
pub(crate) fn read(input: &str) -> Result<Corpus, CorpusError> {
    read_at_least(input, CORPUS_BYTES_MIN)
}

/// The same, of at least so many bytes.
///
/// # Errors
/// [`CorpusError`], which names the path and says what is accepted.
pub(crate) fn read_at_least(input: &str, bytes_min: u64) -> Result<Corpus, CorpusError> {
    let path = Path::new(input);
    let mut reader = Reader::new(CORPUS_BYTES_MAX);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => reader.add_file(path)?,
        Ok(metadata) if metadata.is_dir() => {
            reader.add_folder(path, path, |_| true)?;
        }
        Ok(_) => return Err(CorpusError::NotAFile { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(glob) = Glob::parse(input).filter(|glob| glob.base().is_dir()) else {
                return Err(CorpusError::Missing { path: path.into() });
            };
            if reader.add_folder(glob.base(), path, |file| glob.matches(file))? == 0 {
                return Err(CorpusError::NoMatch { path: path.into() });
            }
        }
        Err(source) => return Err(CorpusError::Unreadable { path: path.into(), source }),
    }
    reader.finish(path, bytes_min)
}

impl Sources {
    /// Number of files read.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Checks that no file was changed, replaced or removed since it was read.
    ///
    /// # Errors
    /// [`CorpusError::Changed`] names the first that was.
    pub(crate) fn check_unchanged(&self) -> Result<(), CorpusError> {
        for (path, stamp) in &self.files {
            let now = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
            if now != Some(*stamp) {
                return Err(CorpusError::Changed { path: path.clone() });
            }
        }
        Ok(())
    }
}

/// What of a file changes when its content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// Appends files to one byte string, up to a limit.
pub(super) struct Reader {
    bytes: Vec<u8>,
    sources: Sources,
    limit_bytes: u64,
}

impl Reader {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { bytes: Vec::new(), sources: Sources::default(), limit_bytes }
    }

    /// Appends the files of a folder; says how many there were, the skipped binary ones included.
    fn add_folder(
        &mut self,
        folder: &Path,
        input: &Path,
        keep: impl Fn(&[String]) -> bool,
    ) -> Result<usize, CorpusError> {
        let found = files_below(folder, keep).map_err(|error| CorpusError::from_walk(error, input))?;
        self.sources.skipped_hidden += found.hidden;
        self.sources.skipped_not_files += found.not_files;
        for file in &found.files {
            match self.add_file(file) {
                Err(CorpusError::NotText { .. }) => self.sources.skipped_binary += 1,
                added => added?,
            }
        }
        Ok(found.files.len())
    }

    /// Appends the text of one file; on an error nothing is appended.
    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), CorpusError> {
        let start = self.bytes.len();
        let stamp = self.append(path).inspect_err(|_| self.bytes.truncate(start))?;
        self.sources.files.push((path.into(), stamp));
        Ok(())
    }

    fn append(&mut self, path: &Path) -> Result<Stamp, CorpusError> {
        let unreadable = |source| CorpusError::Unreadable { path: path.into(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
        if !self.sources.files.is_empty() {
            self.bytes.extend_from_slice(SEPARATOR);
        }
        let start = self.bytes.len();
        file.by_ref().take(SNIFF_BYTES).read_to_end(&mut self.bytes).map_err(unreadable)?;
        // The size is judged after the first bytes, so that a film in the folder is skipped, not refused.
        check_text(&self.bytes[start..], stamp.bytes <= SNIFF_BYTES)
            .map_err(|offset| CorpusError::NotText { path: path.into(), offset })?;
        if (start as u64).checked_add(stamp.bytes).is_none_or(|total| total > self.limit_bytes) {
            return Err(CorpusError::TooLarge { path: path.into(), limit: self.limit_bytes });
        }
        // One byte more than there should be, to see a file that grows.
        let rest = stamp.bytes.saturating_sub(SNIFF_BYTES) + 1;
        file.take(rest).read_to_end(&mut self.bytes).map_err(unreadable)?;
        check_text(&self.bytes[start..], true).map_err(|offset| CorpusError::NotText { path: path.into(), offset })?;
        let after = fs::metadata(path).map(|metadata| Stamp::of(&metadata)).ok();
        if after != Some(stamp) || (self.bytes.len() - start) as u64 != stamp.bytes {
            return Err(CorpusError::Changed { path: path.into() });
        }
        Ok(stamp)
    }

    pub(super) fn finish(self, input: &Path, bytes_min: u64) -> Result<Corpus, CorpusError> {
        let Self { bytes, sources, .. } = self;
        let text_bytes: u64 = sources.files.iter().map(|(_, stamp)| stamp.bytes).sum();
        if text_bytes == 0 {
            let Sources { skipped_binary, skipped_hidden, .. } = sources;
            return Err(CorpusError::Empty { path: input.into(), skipped_binary, skipped_hidden });
        }
        let found = bytes.len() as u64;
        if found < bytes_min {
            return Err(CorpusError::TooSmall { path: input.into(), found, needed: bytes_min });
        }
        Ok(Corpus { bytes, sources })
    }
}

/// Text is UTF-8 without NUL; a beginning may stop within a character.
/// The error is where it is not.
fn check_text(bytes: &[u8], complete: bool) -> Result<(), usize> {
    if let Some(offset) = bytes.iter().position(|&byte| byte == 0) {
        return Err(offset);
    }
    match std::str::from_utf8(bytes) {
        Err(error) if complete || error.error_len().is_some() => Err(error.valid_up_to()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
