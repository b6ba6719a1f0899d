//! Tensors and blobs between peers, over a QUIC endpoint of our own.
//!
//! Both ends of a connection prove their peer identity by libp2p-tls
//! certificates (ALPN `manta-bulk/1`). Every transfer is one bidirectional
//! stream: a *chunk* of a tensor is answered by a one-byte receipt, a *blob*
//! request by the blob. A peer is served only while [`BulkHandle::admit`] names
//! it a member of a run. Queues are bounded: chunks not yet taken by the owner
//! hold back their senders by QUIC flow control.
//!
//! A chunk may arrive twice (a receipt can be lost with its connection), never
//! in part; receivers tell repetitions by the header.

mod admission;
mod blob;
mod chunk;
mod connections;
mod endpoint;
mod sender;
mod serve;
#[cfg(test)]
mod tests;

pub(crate) use blob::{BlobError, BlobSource};
pub(crate) use chunk::{ChunkHeader, MAX_CHUNK_BYTES};
pub(crate) use endpoint::{BulkConfig, BulkStartError, Congestion};

use crate::identity::Identity;
use admission::Admission;
use bytes::Bytes;
use connections::Connections;
use manta_protocol::ids::{Hash, PeerId, RunId};
use sender::Job;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Events that may wait for the owner; a chunk event holds up to 1 MiB.
pub(crate) const EVENT_CAPACITY: usize = 64;
/// Chunks that may wait for one peer; their bytes are shared with the tensor that they are cut from.
pub(crate) const CHUNK_QUEUE_PER_PEER: usize = 4096;
/// Peers that chunks may wait for.
pub(crate) const MAX_PEERS: usize = 1024;

/// What the endpoint tells its owner.
#[derive(Debug)]
pub(crate) enum BulkEvent {
    /// A chunk of an admitted run has arrived.
    Chunk {
        /// The sender, proven by the transport.
        from: PeerId,
        /// What it is.
        header: ChunkHeader,
        /// Its payload.
        bytes: Bytes,
    },
    /// The receiver's owner-bound queue has taken a chunk of ours.
    ChunkDelivered {
        /// The receiver.
        to: PeerId,
        /// Which chunk.
        header: ChunkHeader,
    },
    /// A chunk of ours was not taken, or it is not known whether it was.
    ChunkFailed {
        /// The receiver.
        to: PeerId,
        /// Which chunk.
        header: ChunkHeader,
        /// Why.
        failure: BulkFailure,
    },
}

/// Why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BulkFailure {
    /// No address of the peer is known.
    #[error("no address of the peer is known")]
    NoAddress,
    /// No address answered.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody else answered at the peer's address.
    #[error("expected peer {} but found {} at its address", .expected.short(), .found.short())]
    WrongPeer {
        /// Who was expected.
        expected: PeerId,
        /// Who answered.
        found: PeerId,
    },
    /// The peer does not (yet, or any more) count us among the members of the run.
    #[error("the peer does not admit us to the run")]
    NotAdmitted,
    /// The peer takes smaller chunks only.
    #[error("the peer refused the chunk as too large")]
    TooLarge,
    /// The peer could not read what we sent; the releases may differ.
    #[error("the peer refused the chunk as malformed")]
    Malformed,
    /// The connection broke and could not be restored.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The run was released here before the chunk was delivered.
    #[error("the run was released")]
    Released,
    /// The peer was given up by [`BulkHandle::drop_peer`] before the chunk was delivered.
    #[error("the peer was lost")]
    PeerLost,
}

/// Why a chunk was not queued; the call has then no effect and brings no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// The peer is slow, or too many peers are waited for.
    #[error("{CHUNK_QUEUE_PER_PEER} chunks are waiting for the peer; wait for deliveries")]
    QueueFull,
    /// Longer than [`MAX_CHUNK_BYTES`].
    #[error("the chunk is longer than {MAX_CHUNK_BYTES} bytes; cut it smaller")]
    TooLarge,
}

/// What has passed so far, in payload bytes unless named otherwise; values only grow.
#[derive(Debug, Default)]
pub(crate) struct BulkCounters {
    /// Chunks handed to the transport, repetitions included.
    pub(crate) tensor_sent_bytes: AtomicU64,
    /// Chunks received whole.
    pub(crate) tensor_received_bytes: AtomicU64,
    /// Blobs handed to the transport.
    pub(crate) blob_sent_bytes: AtomicU64,
    /// Blobs received and verified.
    pub(crate) blob_received_bytes: AtomicU64,
    /// Chunks refused (number).
    pub(crate) chunks_refused: AtomicU64,
    /// Connections refused: strangers, or too many (number).
    pub(crate) connections_refused: AtomicU64,
    /// Blobs that did not match their hash (number).
    pub(crate) blobs_corrupt: AtomicU64,
}

/// What all tasks of the endpoint share.
struct Shared {
    local: PeerId,
    admission: Admission,
    connections: Connections,
    counters: BulkCounters,
    events: mpsc::Sender<BulkEvent>,
    source: Box<dyn BlobSource>,
    blob_readers: tokio::sync::Semaphore,
}

/// The way to the endpoint; cheap to clone.
#[derive(Clone)]
pub(crate) struct BulkHandle {
    shared: Arc<Shared>,
    /// Dropping the last handle ends the sending tasks.
    queues: Arc<Mutex<HashMap<PeerId, Queue>>>,
}

/// What waits for one peer.
struct Queue {
    jobs: mpsc::Sender<Job>,
    /// True once the peer is given up.
    lost: watch::Sender<bool>,
}

impl BulkHandle {
    /// Opens the endpoint. `source` gives the blobs that others may read. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A port in use, or a certificate that cannot be made.
    pub(crate) fn start(
        identity: &Identity,
        config: &BulkConfig,
        source: impl BlobSource,
    ) -> Result<(Self, mpsc::Receiver<BulkEvent>), BulkStartError> {
        let endpoint = endpoint::open(identity, config)?;
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let shared = Arc::new(Shared {
            local: identity.peer(),
            admission: Admission::new(config.admission_grace),
            connections: Connections::new(endpoint),
            counters: BulkCounters::default(),
            events,
            source: Box::new(source),
            blob_readers: tokio::sync::Semaphore::new(blob::MAX_CONCURRENT_READS),
        });
        tokio::spawn(serve::accept(Arc::clone(&shared)));
        Ok((Self { shared, queues: Arc::default() }, receiver))
    }

    /// Where the endpoint listens.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.shared.connections.local_address()
    }

    /// Serves `members` in `run` from now on, with chunks up to `max_chunk_bytes`; replaces an earlier admission.
    pub(crate) fn admit(&self, run: RunId, members: BTreeSet<PeerId>, max_chunk_bytes: u32) {
        self.shared.admission.admit(run, members, max_chunk_bytes.min(MAX_CHUNK_BYTES));
    }

    /// Ends a run: its chunks are refused, and those on their way out fail with [`BulkFailure::Released`].
    pub(crate) fn release(&self, run: &RunId) {
        self.shared.admission.release(run);
    }

    /// Where to reach a peer, best address first; replaces what was known. At most eight are kept.
    pub(crate) fn set_peer_addresses(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        self.shared.connections.set_addresses(peer, addresses);
    }

    /// Queues a chunk for `to`; its outcome comes as an event. Chunks of one peer start in order.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) fn send_chunk(&self, to: PeerId, header: ChunkHeader, bytes: Bytes) -> Result<(), SendError> {
        if bytes.len() > MAX_CHUNK_BYTES as usize {
            return Err(SendError::TooLarge);
        }
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if !queues.contains_key(&to) {
            if queues.len() >= MAX_PEERS {
                return Err(SendError::QueueFull);
            }
            let (jobs, waiting) = mpsc::channel(CHUNK_QUEUE_PER_PEER);
            let (lost, given_up) = watch::channel(false);
            tokio::spawn(sender::run(Arc::clone(&self.shared), to, waiting, given_up));
            queues.insert(to, Queue { jobs, lost });
        }
        queues[&to].jobs.try_send(Job { header, bytes }).map_err(|_| SendError::QueueFull)
    }

    /// Forgets a peer: its queue is closed once empty, its addresses are dropped.
    pub(crate) fn forget_peer(&self, peer: &PeerId) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
        self.shared.connections.forget(peer);
    }

    /// Gives up a peer that is lost: what waits for it or is on its way fails at once with
    /// [`BulkFailure::PeerLost`] and is freed, and its connections are closed, instead of when they have been
    /// idle for too long. Its addresses are kept: what is sent from now on dials anew.
    pub(crate) fn drop_peer(&self, peer: &PeerId) {
        if let Some(queue) = self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(peer) {
            queue.lost.send_replace(true);
        }
        self.shared.connections.hang_up(peer);
    }

    /// Fetches a blob from a peer and verifies it.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub(crate) async fn fetch_blob(&self, from: PeerId, hash: Hash) -> Result<Bytes, BlobError> {
        blob::fetch(&self.shared, from, hash).await
    }

    /// What has passed so far.
    pub(crate) fn counters(&self) -> &BulkCounters {
        &self.shared.counters
    }

    /// Closes all connections, ends all tasks, and waits until the peers were told.
    pub(crate) async fn shutdown(&self) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.connections.close().await;
    }
}
