//! Who this peer is: one ed25519 key in a data directory that one process owns.
//!
//! Input: a directory (created with mode 0700 if absent). Output: the locked
//! directory and the identity kept in its `identity.key` (32 secret bytes,
//! mode 0600). Invariant: a key file, once written, is never overwritten here;
//! a damaged or readable-by-others file stops the peer instead of being repaired,
//! because a silently new identity would lose reputation and leases.

use libp2p::identity::{Keypair, PublicKey, ed25519};
use manta_protocol::ids::PeerId;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

const KEY_FILE: &str = "identity.key";
const LOCK_FILE: &str = "lock";
const SECRET_BYTES: usize = 32;
/// Multihash code and length of the inlined protobuf of an ed25519 key, then the protobuf's own head
/// (libp2p peer-ids specification: `PublicKey { Type: Ed25519, Data: 32 bytes }`).
const ED25519_PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Why the identity or its directory cannot be used; each message says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Another process holds the directory's lock.
    #[error(
        "the data directory {} is in use by another manta process; stop that one, or give this one its own with --data-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The key file can be read by other users of the machine.
    #[error(
        "the key file {path} has mode {mode:04o}, so other users could act as this peer; if it was never copied, run: chmod 600 {path}",
        path = .path.display()
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is not 32 bytes.
    #[error(
        "the key file {} is damaged: expected {SECRET_BYTES} bytes, found {}{found_bytes}; restore it from a backup, or move it away to start as a new peer",
        .path.display(),
        if *.found_bytes > SECRET_BYTES as u64 { "at least " } else { "" }
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// Its length, as far as it was read.
        found_bytes: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}; check the path, its owner and the free space", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// A libp2p peer id that does not hold an ed25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer {0} does not use an ed25519 key; every Manta peer does, so it is not one")]
pub(crate) struct NotEd25519(pub(crate) libp2p::PeerId);

/// A data directory that this process owns until the value is dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    /// Held for its advisory lock only.
    _lock: File,
}

impl DataDirectory {
    /// Creates `path` (mode 0700) if needed and locks it.
    ///
    /// # Errors
    /// [`IdentityError::InUse`] if another process has it, [`IdentityError::Io`] otherwise.
    pub(crate) fn open(path: &Path) -> Result<Self, IdentityError> {
        create_private_directory(path).map_err(|source| io_error("create the directory", path, source))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|source| io_error("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(IdentityError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io_error("lock", &lock_path, source)),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An ed25519 identity. `Debug` shows the public half only.
#[derive(Clone)]
pub(crate) struct Identity {
    secret: [u8; SECRET_BYTES],
    keypair: Keypair,
    peer: PeerId,
}

impl Identity {
    /// Reads the identity of `directory`, or creates and stores a new one.
    ///
    /// # Errors
    /// A key file that is too open, damaged or unreadable.
    pub(crate) fn load_or_create(directory: &DataDirectory) -> Result<Self, IdentityError> {
        let path = directory.path().join(KEY_FILE);
        match File::open(&path) {
            Ok(file) => read_key(file, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate();
                store_key(&identity.secret, directory.path(), &path)
                    .map_err(|source| io_error("store the new key in", &path, source))?;
                Ok(identity)
            }
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    /// A fresh identity that is stored nowhere.
    pub(crate) fn generate() -> Self {
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(ed25519::SecretKey::generate().as_ref());
        Self::from_secret(secret)
    }

    /// The identity of an ed25519 secret (RFC 8032 seed).
    pub(crate) fn from_secret(secret: [u8; SECRET_BYTES]) -> Self {
        let mut copy = secret;
        // Every 32-byte string is a valid ed25519 seed, so this cannot fail.
        let key = ed25519::SecretKey::try_from_bytes(&mut copy).expect("32 bytes are an ed25519 seed");
        let pair = ed25519::Keypair::from(key);
        let peer = PeerId(pair.public().to_bytes());
        Self { secret, keypair: pair.into(), peer }
    }

    /// The public key, which is the peer's name.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// The same key for libp2p and for TLS certificates.
    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The RFC 8032 seed, for signing envelopes.
    pub(crate) fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The libp2p name of a peer, or `None` if the 32 bytes are not a point of the curve.
pub(crate) fn to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(peer.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The 32-byte key inside a libp2p peer id.
///
/// # Errors
/// [`NotEd25519`] for ids that are hashes or hold keys of another kind.
pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> Result<PeerId, NotEd25519> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&ED25519_PEER_ID_HEAD).and_then(|key| <[u8; 32]>::try_from(key).ok());
    match key {
        // A name that is no curve point can never complete a handshake.
        Some(key) if ed25519::PublicKey::try_from_bytes(&key).is_ok() => Ok(PeerId(key)),
        _ => Err(NotEd25519(*peer)),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.to_owned(), source }
}

fn create_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn read_key(file: File, path: &Path) -> Result<Identity, IdentityError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = file.metadata().map_err(|source| io_error("inspect", path, source))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
        }
    }
    let mut bytes = Vec::with_capacity(SECRET_BYTES + 1);
    file.take(SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|source| io_error("read", path, source))?;
    match <[u8; SECRET_BYTES]>::try_from(bytes.as_slice()) {
        Ok(secret) => Ok(Identity::from_secret(secret)),
        Err(_) => Err(IdentityError::Damaged { path: path.to_owned(), found_bytes: bytes.len() as u64 }),
    }
}

/// Writes the whole key or nothing: temporary file (0600), sync, link, sync of the directory.
fn store_key(secret: &[u8; SECRET_BYTES], directory: &Path, path: &Path) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(secret)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    // A directory cannot be opened for syncing on every system; the rename itself is atomic everywhere.
    if let Ok(directory) = File::open(directory) {
        directory.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("peer");
        (root, path)
    }

    #[test]
    fn an_identity_survives_a_restart_and_is_private() {
        let (_root, path) = directory();
        let first = {
            let directory = DataDirectory::open(&path).expect("opens");
            Identity::load_or_create(&directory).expect("creates").peer()
        };
        let directory = DataDirectory::open(&path).expect("opens again");
        assert_eq!(Identity::load_or_create(&directory).expect("loads").peer(), first);
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(KEY_FILE)), 0o600);
    }

    #[test]
    fn two_owners_of_one_directory_are_refused() {
        let (_root, path) = directory();
        let first = DataDirectory::open(&path).expect("opens");
        let error = DataDirectory::open(&path).expect_err("is locked");
        assert!(matches!(&error, IdentityError::InUse(at) if *at == path));
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        drop(first);
        DataDirectory::open(&path).expect("is free again");
    }

    #[test]
    fn a_readable_or_damaged_key_is_refused_with_advice_and_left_alone() {
        let (_root, path) = directory();
        let directory = DataDirectory::open(&path).expect("opens");
        let key = path.join(KEY_FILE);
        for length in [0, 31, 33, 4096] {
            fs::write(&key, vec![7; length]).expect("writes");
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("sets the mode");
            let error = Identity::load_or_create(&directory).expect_err("wrong length");
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(&key).expect("still there").len(), length);
        }
        fs::write(&key, [7; 32]).expect("writes");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("sets the mode");
        let error = Identity::load_or_create(&directory).expect_err("too open");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn libp2p_names_convert_both_ways_and_other_keys_are_refused() {
        let identity = Identity::from_secret([9; 32]);
        let name = to_libp2p(&identity.peer()).expect("a curve point");
        assert_eq!(name, identity.keypair().public().to_peer_id());
        assert_eq!(from_libp2p(&name), Ok(identity.peer()));
        // A random id has an identity multihash of 32 bytes without the protobuf head.
        let random = libp2p::PeerId::random();
        assert_eq!(from_libp2p(&random), Err(NotEd25519(random)));
    }

    #[test]
    fn the_public_key_is_that_of_rfc_8032_test_1() {
        let secret =
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse::<PeerId>().expect("hex").0;
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(Identity::from_secret(secret).peer().to_string(), public);
    }
}
