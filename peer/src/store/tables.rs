//! What a peer remembers over a restart and could also do without: whom it has met.
//!
//! This is the only module that names `sled`. It syncs lazily, so nothing that
//! was promised to anybody may live here; a table that cannot be read is put
//! aside and begun anew.

use manta_protocol::PeerId;
use manta_protocol::wire::codec;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Peers that are remembered.
const KNOWN_PEERS_MAX: usize = 1024;
/// Longest record, in bytes.
const RECORD_BYTES_MAX: usize = 4096;
/// How long to wait for whoever had the folder before. sled lets go of it on a thread of its own, some time after the last
/// user, and a child that is being started holds it until it becomes another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why the tables cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tables in {path} cannot be used ({source}); if no other manta runs there, remove that folder: it holds only addresses of other peers"
)]
pub(crate) struct TablesError {
    path: PathBuf,
    source: sled::Error,
}

/// Where a peer was last seen: binary multiaddrs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownPeer {
    addresses: Vec<serde_bytes::ByteBuf>,
}

/// The tables of one data directory.
#[derive(Debug)]
pub(crate) struct Tables {
    known_peers: sled::Tree,
}

/// Opens the database in `folder`, once nobody else has it.
fn open_when_free(folder: &Path) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match sled::Config::new().path(folder).cache_capacity(1 << 20).flush_every_ms(Some(5_000)).open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_LOOK_AGAIN);
            }
            opened => return opened,
        }
    }
}

/// Whether this is sled's way to say that somebody else has the folder: its kind is lost, its text is not.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

impl Tables {
    /// Opens the tables in `folder`, making them if need be. Blocks for a while if somebody has them yet.
    ///
    /// # Errors
    /// [`TablesError`] if the folder cannot be used even after a damaged table was put aside.
    pub(crate) fn open(folder: &Path) -> Result<Self, TablesError> {
        let fail = |source| TablesError { path: folder.to_owned(), source };
        let database = match open_when_free(folder) {
            Err(sled::Error::Corruption { .. }) => {
                let aside = folder.with_extension("damaged");
                tracing::warn!(folder = %folder.display(), aside = %aside.display(), "a damaged table was put aside");
                let _ = std::fs::remove_dir_all(&aside);
                std::fs::rename(folder, &aside).map_err(|error| fail(error.into()))?;
                open_when_free(folder).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        let known_peers = database.open_tree("known-peers-1").map_err(fail)?;
        Ok(Self { known_peers })
    }

    /// The peers that were met before, with their addresses. Unreadable records are dropped.
    pub(crate) fn known_peers(&self) -> Vec<(PeerId, Vec<Vec<u8>>)> {
        let records = self.known_peers.iter().filter_map(Result::ok).take(KNOWN_PEERS_MAX);
        let read = |(key, value): (sled::IVec, sled::IVec)| {
            let peer = PeerId(key.as_ref().try_into().ok()?);
            let known: KnownPeer = codec::decode(&value, RECORD_BYTES_MAX).ok()?;
            Some((peer, known.addresses.into_iter().map(serde_bytes::ByteBuf::into_vec).collect()))
        };
        records.filter_map(read).collect()
    }

    /// Remembers where a peer is; beyond the bound, newcomers are not remembered.
    pub(crate) fn remember(&self, peer: PeerId, addresses: &[Vec<u8>]) {
        let known = KnownPeer { addresses: addresses.iter().cloned().map(serde_bytes::ByteBuf::from).collect() };
        let room = self.known_peers.len() < KNOWN_PEERS_MAX;
        if (room || self.known_peers.contains_key(peer.as_bytes()).unwrap_or(false))
            && let Err(error) = self.known_peers.insert(peer.as_bytes(), codec::encode(&known))
        {
            tracing::debug!(%error, "a peer's addresses were not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_when_whoever_has_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tables");
        let tables = Tables::open(&path).unwrap();
        let taken = sled::Config::new().path(&path).open().unwrap_err();
        assert!(matches!(&taken, sled::Error::Io(error) if is_locked(error)), "{taken}");
        let peer = PeerId([7; 32]);
        tables.remember(peer, &[vec![1]]);
        let next = std::thread::spawn(move || Tables::open(&path).map(|tables| tables.known_peers()));
        drop(tables);
        assert_eq!(next.join().unwrap().unwrap(), vec![(peer, vec![vec![1]])]);
    }

    #[test]
    fn peers_are_remembered_and_damaged_records_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tables");
        let tables = Tables::open(&path).unwrap();
        let (first, second) = (PeerId([1; 32]), PeerId([2; 32]));
        tables.remember(first, &[vec![1, 2, 3]]);
        tables.remember(second, &[]);
        tables.remember(second, &[vec![4]]);
        tables.known_peers.insert([3; 32], &b"not a record"[..]).unwrap();
        tables.known_peers.insert(b"not a peer", &b"x"[..]).unwrap();
        drop(tables);
        let again = Tables::open(&path).unwrap();
        assert_eq!(again.known_peers(), vec![(first, vec![vec![1, 2, 3]]), (second, vec![vec![4]])]);
    }
}
