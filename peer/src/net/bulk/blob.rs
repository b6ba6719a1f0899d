//! Blobs: bytes that are asked for by their blake3 hash.
//!
//! The request is 40 bytes: `MNTB`, version 1, three zero bytes, the hash; then
//! the end of the stream. The answer is a status byte (0 found, 1 not available)
//! and, if found, a big-endian `u32` length of at most 4 MiB, the bytes, and the
//! end of the stream. What is missing and what is forbidden look the same.

use super::connections::{broken, connection};
use super::serve::{STALL_TIMEOUT, payload, read_in_time};
use super::{BulkFailure, Shared};
use bytes::Bytes;
use manta_protocol::ids::{Hash, PeerId};
use quinn::{RecvStream, SendStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The longest blob, in bytes.
pub(crate) const MAX_BLOB_BYTES: u32 = 4 << 20;
/// Reads from the source at a time; more requests wait.
pub(super) const MAX_CONCURRENT_READS: usize = 4;
/// What a blob request begins with.
pub(super) const REQUEST_PREFIX: [u8; 8] = [b'M', b'N', b'T', b'B', 1, 0, 0, 0];

const FOUND: u8 = 0;
const NOT_AVAILABLE: u8 = 1;
/// The other end may have to read from a slow disk behind other requests.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// However slowly the bytes come.
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// Gives the blobs that others may read.
pub(crate) trait BlobSource: Send + Sync + 'static {
    /// The blob of this hash, if it exists and `peer` may read it. Runs on a thread where blocking is allowed.
    fn read(&self, hash: &Hash, peer: &PeerId) -> Option<Bytes>;
}

impl<F: Fn(&Hash, &PeerId) -> Option<Bytes> + Send + Sync + 'static> BlobSource for F {
    fn read(&self, hash: &Hash, peer: &PeerId) -> Option<Bytes> {
        self(hash, peer)
    }
}

/// Why a blob was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlobError {
    /// The peer has it not, or does not let us read it.
    #[error("the peer does not have the blob {}, or does not let us read it", .0.short())]
    NotAvailable(Hash),
    /// The peer sent something else.
    #[error("the peer sent bytes that are not the blob {} (their hash is {}); do not ask it again", .expected.short(), .found.short())]
    Corrupt {
        /// What was asked for.
        expected: Hash,
        /// The hash of what came.
        found: Hash,
    },
    /// The peer broke the protocol.
    #[error("the peer answered with {0}")]
    Malformed(&'static str),
    /// The peer gave no answer, or gave it too slowly.
    #[error("the peer was too slow")]
    TimedOut,
    /// The peer could not be reached, or the connection broke.
    #[error(transparent)]
    Transport(#[from] BulkFailure),
}

/// Fetches and verifies a blob; a broken connection is replaced once.
pub(super) async fn fetch(shared: &Arc<Shared>, from: PeerId, hash: Hash) -> Result<Bytes, BlobError> {
    let twice = async {
        match fetch_once(shared, &from, &hash).await {
            Err(BlobError::Transport(BulkFailure::Broken(_) | BulkFailure::Unreachable(_))) => {
                tokio::time::sleep(RETRY_PAUSE).await;
                fetch_once(shared, &from, &hash).await
            }
            outcome => outcome,
        }
    };
    tokio::time::timeout(FETCH_TIMEOUT, twice).await.unwrap_or(Err(BlobError::TimedOut))
}

async fn fetch_once(shared: &Arc<Shared>, from: &PeerId, hash: &Hash) -> Result<Bytes, BlobError> {
    let connection = connection(shared, from).await?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| broken(&error))?;
    let lost = |error: &dyn std::fmt::Display| match connection.close_reason() {
        Some(reason) => broken(&reason),
        None => BulkFailure::Broken(error.to_string()),
    };
    let mut request = [0; 40];
    request[..8].copy_from_slice(&REQUEST_PREFIX);
    request[8..].copy_from_slice(hash.as_bytes());
    send.write_all(&request).await.map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;

    let mut status = [NOT_AVAILABLE];
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, receive.read_exact(&mut status)).await;
    answered.map_err(|_| BlobError::TimedOut)?.map_err(|error| lost(&error))?;
    match status {
        [FOUND] => {}
        [NOT_AVAILABLE] => return Err(BlobError::NotAvailable(*hash)),
        _ => return Err(BlobError::Malformed("an unknown status")),
    }
    let mut length = [0; 4];
    if !read_in_time(&mut receive, &mut length).await {
        return Err(lost(&"the answer ended early").into());
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_BLOB_BYTES {
        return Err(BlobError::Malformed("a length beyond the limit of 4 MiB"));
    }
    let Some(bytes) = payload(&mut receive, length as usize).await else {
        return Err(lost(&"the blob has another length than announced, or stalled").into());
    };
    let found = Hash::of(&bytes);
    if found != *hash {
        shared.counters.blobs_corrupt.fetch_add(1, Ordering::Relaxed);
        return Err(BlobError::Corrupt { expected: *hash, found });
    }
    shared.counters.blob_received_bytes.fetch_add(u64::from(length), Ordering::Relaxed);
    Ok(bytes)
}

/// Answers a request whose prefix has been read.
pub(super) async fn serve(shared: &Arc<Shared>, peer: PeerId, mut send: SendStream, mut receive: RecvStream) {
    let mut hash = [0; 32];
    if !read_in_time(&mut receive, &mut hash).await || !shared.admission.is_member(&peer) {
        // Dropping the streams would look like an empty answer; the status says what it is. The asker may be gone.
        let _ = send.write_all(&[NOT_AVAILABLE]).await;
        return;
    }
    let found = read_source(shared, Hash(hash), peer).await;
    let sent = match &found {
        Some((length, bytes)) => {
            let mut head = [FOUND, 0, 0, 0, 0];
            head[1..].copy_from_slice(&length.to_be_bytes());
            let mut parts = [Bytes::copy_from_slice(&head), bytes.clone()];
            tokio::time::timeout(FETCH_TIMEOUT, send.write_all_chunks(&mut parts)).await
        }
        None => tokio::time::timeout(STALL_TIMEOUT, send.write_all(&[NOT_AVAILABLE])).await,
    };
    match (sent, found) {
        (Ok(Ok(())), Some((length, _))) => {
            shared.counters.blob_sent_bytes.fetch_add(u64::from(length), Ordering::Relaxed);
        }
        (Ok(Ok(())), None) => {}
        // The asker is gone or too slow: cut the stream, so that it does not look complete.
        _ => drop(send.reset(quinn::VarInt::from_u32(1))),
    }
}

async fn read_source(shared: &Arc<Shared>, hash: Hash, peer: PeerId) -> Option<(u32, Bytes)> {
    // Closed never.
    let _turn = shared.blob_readers.acquire().await.ok()?;
    let source = Arc::clone(shared);
    let bytes = tokio::task::spawn_blocking(move || source.source.read(&hash, &peer)).await.ok()??;
    match u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_BLOB_BYTES) {
        Some(length) => Some((length, bytes)),
        None => {
            tracing::warn!(hash = %hash.short(), bytes = bytes.len(), "a blob is too long to be served; cut it smaller");
            None
        }
    }
}
