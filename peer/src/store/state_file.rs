//! The large state of a run on disk: parameters, moments, whatever vectors of
//! f32 a peer needs to go on after a restart.
//!
//! ```text
//! magic "mantasta" | version u32 | blake3 of all that follows, 32 bytes
//! run 32 bytes | exchange u64 | elements u64 | vectors u8 | each vector's elements as f32
//! ```
//! Integers and floats are little-endian. A file appears whole or not at all,
//! and is durable when [`StateFolder::save`] returns; it is never changed
//! afterwards. Bytes pass through a buffer, so that a model is in memory once.
//! Invariant: what is read has the hash that was written.
//!
//! Calls block on the disk for as long as it takes; call them from blocking threads.

use super::FileError;
use super::blobs::sync_directory;
use manta_protocol::RunId;
use manta_protocol::ids::Hash;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Most vectors in a file: parameters, two moments, an outer momentum, and room.
pub(crate) const VECTORS_MAX: usize = 8;

const MAGIC: &[u8; 8] = b"mantasta";
const VERSION: u32 = 1;
/// Magic, version and hash.
const PREFIX_BYTES: usize = 8 + 4 + 32;
/// Run, exchange, elements and vectors.
const HEADER_BYTES: usize = 32 + 8 + 8 + 1;
/// How much is converted, hashed and written at a time.
const BUFFER_BYTES: usize = 1 << 20;
const ENDING: &str = "state";
/// Unfinished files begin with this and are removed when the folder is opened.
const TEMPORARY_PREFIX: &str = ".writing-";

/// Which state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateOf {
    /// The run.
    pub(crate) run: RunId,
    /// After how many exchanges of the run.
    pub(crate) exchange: u64,
}

/// Why a state cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateFileError {
    /// The vectors do not make a state file.
    #[error("a state has 1 to {VECTORS_MAX} vectors of one length; found lengths {found:?}")]
    Shape {
        /// Elements of each vector.
        found: Vec<usize>,
    },
    /// The file does not say what its name or its hash promises.
    #[error("the state file {} is damaged: {what}; delete it, and the peer fetches the state from another member", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        what: String,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// The folder of state files of a data directory; one process has it.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// Opens `path`, making it if needed, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// [`StateFileError::Io`].
    pub(crate) fn open(path: &Path) -> Result<Self, StateFileError> {
        let fail = |action| move |source| FileError { action, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(fail("make the folder"))?;
        for entry in fs::read_dir(path).map_err(fail("list the folder"))? {
            let entry = entry.map_err(fail("list the folder"))?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                fs::remove_file(entry.path()).map_err(fail("remove an unfinished state in"))?;
            }
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Keeps a state, in place of an earlier one of the same exchange; durable when it returns. Older states stay
    /// until [`Self::remove_older`]. Returns the hash of the content.
    ///
    /// # Errors
    /// [`StateFileError`]; nothing new is left behind then.
    pub(crate) fn save(&self, of: StateOf, vectors: &[&[f32]]) -> Result<Hash, StateFileError> {
        let elements = vectors.first().map_or(0, |first| first.len());
        let equal = vectors.iter().all(|vector| vector.len() == elements);
        if vectors.is_empty() || vectors.len() > VECTORS_MAX || !equal {
            return Err(StateFileError::Shape { found: vectors.iter().map(|vector| vector.len()).collect() });
        }
        let path = self.file(of);
        self.write(&path, &header(of, elements as u64, vectors.len() as u8), vectors)
            .map_err(|source| FileError { action: "write the state", path, source }.into())
    }

    /// Reads a state back, verified; `None` if it was never saved or was removed.
    ///
    /// # Errors
    /// [`StateFileError::Damaged`] or [`StateFileError::Io`].
    pub(crate) fn load(&self, of: StateOf) -> Result<Option<Vec<Vec<f32>>>, StateFileError> {
        let path = self.file(of);
        let fail = |source: io::Error| match source.kind() {
            // Shorter than it says, although its length was right when it was opened.
            io::ErrorKind::UnexpectedEof => damaged(&path, "it ends too early"),
            _ => FileError { action: "read the state", path: path.clone(), source }.into(),
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let length_bytes = file.metadata().map_err(fail)?.len();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let (mut prefix, mut head) = ([0; PREFIX_BYTES], [0; HEADER_BYTES]);
        file.read_exact(&mut prefix).map_err(fail)?;
        file.read_exact(&mut head).map_err(fail)?;
        let (magic_and_version, hash) = prefix.split_at(MAGIC.len() + 4);
        if magic_and_version != [&MAGIC[..], &VERSION.to_le_bytes()].concat() {
            return Err(damaged(&path, "it does not begin as a state file of this release does"));
        }
        let (elements, vectors) = shape(&head, length_bytes).map_err(|what| damaged(&path, what))?;
        if head != header(of, elements as u64, vectors as u8) {
            return Err(damaged(&path, "it is the state of another run or exchange"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head);
        let mut read = Vec::with_capacity(vectors);
        for _ in 0..vectors {
            read.push(read_vector(&mut file, elements, &mut hasher).map_err(fail)?);
        }
        if hasher.finalize().as_bytes() != hash {
            return Err(damaged(&path, "its content does not match its hash"));
        }
        Ok(Some(read))
    }

    /// The exchanges of which a state of `run` is here, oldest first.
    ///
    /// # Errors
    /// [`StateFileError::Io`] if the folder cannot be listed.
    pub(crate) fn exchanges(&self, run: RunId) -> Result<Vec<u64>, StateFileError> {
        let mut found: Vec<u64> = self.list()?.into_iter().filter(|of| of.run == run).map(|of| of.exchange).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Removes the states of the run that are older than `than`, which is here.
    ///
    /// # Errors
    /// [`StateFileError::Io`]; without `than` nothing is removed.
    pub(crate) fn remove_older(&self, than: StateOf) -> Result<(), StateFileError> {
        let path = self.file(than);
        fs::metadata(&path).map_err(|source| FileError { action: "find the newer state", path, source })?;
        self.remove(|of| of.run == than.run && of.exchange < than.exchange)
    }

    /// Removes all states of a run that has ended.
    ///
    /// # Errors
    /// [`StateFileError::Io`].
    pub(crate) fn remove_run(&self, run: RunId) -> Result<(), StateFileError> {
        self.remove(|of| of.run == run)
    }

    fn remove(&self, unwanted: impl Fn(&StateOf) -> bool) -> Result<(), StateFileError> {
        for of in self.list()?.into_iter().filter(unwanted) {
            let path = self.file(of);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError { action: "remove the state", path, source }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<StateOf>, StateFileError> {
        let fail = |source| FileError { action: "list the folder", path: self.path.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            found.extend(name.to_str().and_then(parse_name));
        }
        Ok(found)
    }

    fn file(&self, of: StateOf) -> PathBuf {
        self.path.join(format!("{}-{}.{ENDING}", of.run, of.exchange))
    }

    fn write(&self, path: &Path, header: &[u8; HEADER_BYTES], vectors: &[&[f32]]) -> io::Result<Hash> {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&self.path)?;
        let mut prefix = [0; PREFIX_BYTES];
        // The hash is known at the end; until then its place is empty.
        file.write_all(&prefix)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(header);
        file.write_all(header)?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        for part in vectors.iter().flat_map(|vector| vector.chunks(BUFFER_BYTES / 4)) {
            buffer.clear();
            buffer.extend(part.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&buffer);
            file.write_all(&buffer)?;
        }
        let hash = hasher.finalize();
        prefix[..8].copy_from_slice(MAGIC);
        prefix[8..12].copy_from_slice(&VERSION.to_le_bytes());
        prefix[12..].copy_from_slice(hash.as_bytes());
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&prefix)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_directory(&self.path)?;
        Ok(Hash(*hash.as_bytes()))
    }
}

fn header(of: StateOf, elements: u64, vectors: u8) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..32].copy_from_slice(of.run.as_bytes());
    bytes[32..40].copy_from_slice(&of.exchange.to_le_bytes());
    bytes[40..48].copy_from_slice(&elements.to_le_bytes());
    bytes[48] = vectors;
    bytes
}

/// Elements and vectors, which the file's length must agree with before memory is taken.
fn shape(head: &[u8; HEADER_BYTES], length_bytes: u64) -> Result<(usize, usize), &'static str> {
    let [elements @ .., vectors] = head.last_chunk::<9>().ok_or("it ends too early")?;
    let elements = u64::from_le_bytes(*elements);
    let vectors = usize::from(*vectors);
    if vectors == 0 || vectors > VECTORS_MAX {
        return Err("it says a number of vectors that none has");
    }
    let expected = elements
        .checked_mul(4 * vectors as u64)
        .and_then(|bytes| bytes.checked_add((PREFIX_BYTES + HEADER_BYTES) as u64));
    if expected != Some(length_bytes) {
        return Err("its length is not what it says");
    }
    Ok((usize::try_from(elements).map_err(|_| "it is larger than the memory of this machine")?, vectors))
}

fn read_vector(file: &mut impl Read, elements: usize, hasher: &mut blake3::Hasher) -> io::Result<Vec<f32>> {
    let mut vector = Vec::with_capacity(elements);
    let mut buffer = vec![0; BUFFER_BYTES.min(4 * elements)];
    while vector.len() < elements {
        let part = &mut buffer[..(4 * (elements - vector.len())).min(BUFFER_BYTES)];
        file.read_exact(part)?;
        hasher.update(part);
        vector.extend(part.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(vector)
}

fn parse_name(name: &str) -> Option<StateOf> {
    let (run, exchange) = name.strip_suffix(ENDING)?.strip_suffix('.')?.split_once('-')?;
    Some(StateOf { run: run.parse().ok()?, exchange: exchange.parse().ok()? })
}

fn damaged(path: &Path, what: &str) -> StateFileError {
    StateFileError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId([7; 32]);

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&parent.path().join("states")).unwrap();
        (parent, folder)
    }

    fn of(exchange: u64) -> StateOf {
        StateOf { run: RUN, exchange }
    }

    fn bits(vectors: &[impl AsRef<[f32]>]) -> Vec<Vec<u32>> {
        vectors.iter().map(|vector| vector.as_ref().iter().map(|value| value.to_bits()).collect()).collect()
    }

    #[test]
    fn states_come_back_bit_for_bit() {
        let (_parent, folder) = folder();
        // Sizes about the buffer's, and values that a careless conversion would change.
        for elements in [0, 1, 5, BUFFER_BYTES / 4 - 1, BUFFER_BYTES / 4, BUFFER_BYTES / 4 + 1] {
            let first: Vec<f32> =
                (0..elements).map(|at| f32::from_bits((at as u32).wrapping_mul(0x9E37_79B9))).collect();
            let second: Vec<f32> = first.iter().rev().copied().collect();
            let hash = folder.save(of(3), &[&first, &second]).unwrap();
            assert_eq!(folder.save(of(3), &[&first, &second]).unwrap(), hash, "the same content has the same hash");
            let read = folder.load(of(3)).unwrap().expect("it was saved");
            assert_eq!(bits(&read), bits(&[first, second]));
        }
        assert!(folder.load(of(4)).unwrap().is_none());
    }

    #[test]
    fn every_damage_is_noticed() {
        let (_parent, folder) = folder();
        folder.save(of(1), &[&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]]).unwrap();
        let path = folder.file(of(1));
        let good = fs::read(&path).unwrap();
        let refused = |content: &[u8], why: &str| {
            fs::write(&path, content).unwrap();
            let error = folder.load(of(1)).expect_err(why);
            assert!(matches!(error, StateFileError::Damaged { .. }), "{why}: {error}");
        };
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            refused(&flipped, &format!("byte {at} is flipped"));
            refused(&good[..at], &format!("only {at} bytes"));
        }
        refused(&[&good[..], &[0]].concat(), "a byte too many");
        let mut endless = good.clone();
        endless[PREFIX_BYTES + 40..PREFIX_BYTES + 48].fill(0xFF);
        refused(&endless, "more elements than there is memory");
        fs::write(folder.file(of(2)), &good).unwrap();
        assert!(folder.load(of(2)).unwrap_err().to_string().contains("another run or exchange"));
        fs::write(&path, &good).unwrap();
        assert!(folder.load(of(1)).unwrap().is_some());
    }

    #[test]
    fn older_states_go_only_when_the_newer_one_is_there() {
        let (_parent, folder) = folder();
        let other = StateOf { run: RunId([8; 32]), exchange: 1 };
        for exchange in [9, 10, 11] {
            folder.save(of(exchange), &[&[exchange as f32]]).unwrap();
        }
        folder.save(other, &[&[0.0]]).unwrap();
        folder.remove_older(of(12)).expect_err("there is no newer one");
        assert_eq!(folder.exchanges(RUN).unwrap(), [9, 10, 11]);
        folder.remove_older(of(10)).unwrap();
        assert_eq!(folder.exchanges(RUN).unwrap(), [10, 11]);
        folder.remove_run(RUN).unwrap();
        assert!(folder.exchanges(RUN).unwrap().is_empty());
        assert!(folder.load(other).unwrap().is_some());
    }

    #[test]
    fn unfinished_files_and_wrong_shapes_leave_nothing() {
        let (parent, folder) = folder();
        for bad in [&[][..], &[&[1.0][..], &[]], &[&[1.0][..]; VECTORS_MAX + 1]] {
            assert!(matches!(folder.save(of(1), bad), Err(StateFileError::Shape { .. })));
        }
        folder.save(of(1), &[&[1.0]]).unwrap();
        fs::write(folder.path.join(".writing-torn"), b"half").unwrap();
        fs::write(folder.path.join("notes.txt"), b"not ours").unwrap();
        let again = StateFolder::open(&parent.path().join("states")).unwrap();
        assert_eq!(again.exchanges(RUN).unwrap(), [1]);
        let mut names: Vec<_> = fs::read_dir(&again.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [format!("{RUN}-1.{ENDING}").as_str(), "notes.txt"]);
    }

    #[test]
    #[ignore = "a measurement, not a check"]
    fn throughput() {
        let (_parent, folder) = folder();
        let vector: Vec<f32> = (0..32 << 20).map(|at| at as f32).collect();
        let megabytes = (3 * 4 * vector.len()) as f64 / 1e6;
        let begun = std::time::Instant::now();
        folder.save(of(1), &[&vector, &vector, &vector]).unwrap();
        println!("saved at {:.0} MB/s, durably", megabytes / begun.elapsed().as_secs_f64());
        let begun = std::time::Instant::now();
        assert_eq!(folder.load(of(1)).unwrap().map(|vectors| vectors.len()), Some(3));
        println!("loaded at {:.0} MB/s, verified", megabytes / begun.elapsed().as_secs_f64());
    }
}
