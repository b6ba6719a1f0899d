//! `peer.json`: how the commands of one user find the peer that runs.

use crate::api::PeerFile;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why there is nobody to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerFileError {
    /// There is no file, so no peer runs with this data directory.
    #[error("no peer is running with the data directory {}; start one with `manta up`", .0.display())]
    Missing(PathBuf),
    /// It is there and unreadable.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// It is not what a peer writes.
    #[error("{} is damaged ({problem}); restart the peer with `manta up`", .path.display())]
    Damaged { path: PathBuf, problem: String },
}

impl PeerFile {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("peer.json")
    }

    /// Reads the file of the peer that runs with this data directory.
    ///
    /// # Errors
    /// Missing, unreadable or damaged, each with what to do.
    pub(crate) fn read(data_dir: &Path) -> Result<Self, PeerFileError> {
        let path = Self::path(data_dir);
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => PeerFileError::Missing(data_dir.to_owned()),
            _ => PeerFileError::Unreadable { path: path.clone(), source },
        };
        let damaged = |problem: String| PeerFileError::Damaged { path: path.clone(), problem };
        let bytes = fs::metadata(&path).map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(damaged(format!("{bytes} bytes, expected at most {FILE_BYTES_MAX}")));
        }
        serde_json::from_slice(&fs::read(&path).map_err(unreadable)?).map_err(|error| damaged(error.to_string()))
    }

    /// Writes the file for the user's eyes only; readers see all of it or none.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub(crate) fn write(&self, data_dir: &Path) -> io::Result<()> {
        // Temporary files are created with mode 0600 on Unix.
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.persist(Self::path(data_dir))?;
        Ok(())
    }

    /// Removes the file if it is still this peer's.
    ///
    /// # Errors
    /// When it cannot be removed, which is harmless: whoever reads it finds
    /// nobody at the address.
    pub(crate) fn remove(&self, data_dir: &Path) -> io::Result<()> {
        match Self::read(data_dir) {
            Ok(found) if found == *self => fs::remove_file(Self::path(data_dir)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_file(process_id: u32) -> PeerFile {
        PeerFile {
            http: ([127, 0, 0, 1], 8420).into(),
            control_token: "secret".into(),
            peer_id: "ab".into(),
            ticket: "t".into(),
            process_id,
        }
    }

    #[test]
    fn it_is_private_and_is_removed_only_by_its_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (peer_file(1), peer_file(2));
        first.write(folder.path()).expect("writes");
        second.write(folder.path()).expect("replaces");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(PeerFile::path(folder.path())).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        first.remove(folder.path()).expect("leaves it");
        assert_eq!(PeerFile::read(folder.path()).expect("still there"), second);
        second.remove(folder.path()).expect("removes it");
        let error = PeerFile::read(folder.path()).expect_err("gone").to_string();
        assert!(error.contains("`manta up`") && error.contains(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_damaged_or_huge_file_is_an_error_with_a_next_step() {
        let folder = tempfile::tempdir().expect("a folder");
        for bytes in [b"{\"http\":1}".to_vec(), Vec::new(), vec![b' '; 100_000]] {
            fs::write(PeerFile::path(folder.path()), &bytes).expect("writes");
            let error = PeerFile::read(folder.path()).expect_err("damaged").to_string();
            assert!(error.contains("damaged") && error.contains("`manta up`"), "{error}");
        }
    }
}
