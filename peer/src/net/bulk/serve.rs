//! The receiving side: connections and streams that other peers open.
//!
//! A stranger costs little: a handshake slot, a small window, and the grace
//! period. Only the streams of a member of an admitted run are read beyond
//! their first bytes, and memory for a payload is taken after all checks.

use super::chunk::{CHUNK_MAGIC, ChunkHeader, HEADER_BYTES, HeaderError, PREFIX_BYTES, Receipt};
use super::connections::{CLOSE_NOT_ADMITTED, CLOSE_WRONG_PEER};
use super::endpoint::{CONNECTION_WINDOW_BYTES, remote_peer};
use super::{BulkEvent, Shared, blob};
use bytes::{Bytes, BytesMut};
use manta_protocol::ids::PeerId;
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections in total.
const MAX_CONNECTIONS: usize = 256;
/// Connections whose peer is not yet known to be a member.
const MAX_STRANGERS: usize = 32;
/// Payloads of one connection in memory at a time, besides those in the owner's queue.
const MAX_PAYLOADS_PER_CONNECTION: usize = 16;
/// A stream that gives nothing for so long is dropped.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const STOP_REFUSED: VarInt = VarInt::from_u32(1);

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    while let Some(incoming) = shared.connections.endpoint().accept().await {
        let full = shared.connections.endpoint().open_connections() >= MAX_CONNECTIONS;
        match Arc::clone(&strangers).try_acquire_owned() {
            Ok(slot) if !full => {
                tokio::spawn(greet(Arc::clone(&shared), incoming, slot));
            }
            _ => {
                incoming.refuse();
                shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Finds out who has come, waits until it is a member, then serves it.
async fn greet(shared: Arc<Shared>, incoming: Incoming, slot: OwnedSemaphorePermit) {
    let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming).await else {
        shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let refuse = |code, reason: &str| {
        connection.close(code, reason.as_bytes());
        shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
    };
    let peer = match remote_peer(&connection) {
        Ok(peer) if peer != shared.local => peer,
        Ok(_) => return refuse(CLOSE_WRONG_PEER, "this is yourself"),
        Err(reason) => return refuse(CLOSE_WRONG_PEER, &reason),
    };
    if shared.admission.within_grace(|table| table.is_member(&peer).then_some(())).await.is_none() {
        return refuse(CLOSE_NOT_ADMITTED, "no member of a run");
    }
    drop(slot);
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    shared.connections.add(peer, connection.clone());
    self::connection(shared, peer, connection).await;
}

/// Serves the streams of a connection until it ends.
pub(super) async fn connection(shared: Arc<Shared>, peer: PeerId, connection: Connection) {
    let payloads = Arc::new(Semaphore::new(MAX_PAYLOADS_PER_CONNECTION));
    let reason = loop {
        match connection.accept_bi().await {
            Ok((send, receive)) => {
                tokio::spawn(stream(Arc::clone(&shared), peer, Arc::clone(&payloads), send, receive));
            }
            Err(reason) => break reason,
        }
    };
    tracing::debug!(peer = %peer.short(), %reason, "bulk connection ended");
    shared.connections.remove(&peer, &connection);
}

async fn stream(
    shared: Arc<Shared>,
    peer: PeerId,
    payloads: Arc<Semaphore>,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let mut prefix = [0; PREFIX_BYTES];
    if !read_in_time(&mut receive, &mut prefix).await {
        return;
    }
    if prefix.starts_with(&CHUNK_MAGIC) {
        let receipt = chunk(&shared, peer, &payloads, prefix, &mut receive).await;
        if receipt != Receipt::Taken {
            shared.counters.chunks_refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %peer.short(), ?receipt, "chunk refused");
            // Fails only if all has been received already.
            let _ = receive.stop(STOP_REFUSED);
        }
        // A sender that has gone needs no receipt.
        let _ = send.write_all(&[receipt as u8]).await;
        let _ = send.finish();
    } else if prefix == blob::REQUEST_PREFIX {
        blob::serve(&shared, peer, send, receive).await;
    } else {
        shared.counters.chunks_refused.fetch_add(1, Ordering::Relaxed);
        let _ = receive.stop(STOP_REFUSED);
        let _ = send.write_all(&[Receipt::Malformed as u8]).await;
    }
}

/// Reads one chunk and hands it to the owner; waits while the owner's queue is full.
async fn chunk(
    shared: &Shared,
    from: PeerId,
    payloads: &Semaphore,
    prefix: [u8; PREFIX_BYTES],
    receive: &mut RecvStream,
) -> Receipt {
    let mut wire = [0; HEADER_BYTES];
    wire[..PREFIX_BYTES].copy_from_slice(&prefix);
    if !read_in_time(receive, &mut wire[PREFIX_BYTES..]).await {
        return Receipt::Malformed;
    }
    let (header, length) = match ChunkHeader::decode(&wire) {
        Ok(decoded) => decoded,
        Err(HeaderError::TooLarge(_)) => return Receipt::TooLarge,
        Err(error) => {
            tracing::debug!(peer = %from.short(), %error, "chunk header refused");
            return Receipt::Malformed;
        }
    };
    let limit = shared.admission.within_grace(|table| table.max_chunk_bytes(&header.run, &from)).await;
    match limit {
        None => return Receipt::NotAdmitted,
        Some(limit) if length > limit => return Receipt::TooLarge,
        Some(_) => {}
    }
    // Closed never: the semaphore lives as long as the connection's task.
    let Ok(_memory) = payloads.acquire().await else { return Receipt::Malformed };
    let Some(bytes) = payload(receive, length as usize).await else { return Receipt::Malformed };
    shared.counters.tensor_received_bytes.fetch_add(u64::from(length), Ordering::Relaxed);
    match shared.events.send(BulkEvent::Chunk { from, header, bytes }).await {
        Ok(()) => Receipt::Taken,
        // Nobody reads any more: the peer is shutting down.
        Err(_) => Receipt::NotAdmitted,
    }
}

/// Exactly `length` bytes and the end of the stream, or `None`.
pub(super) async fn payload(receive: &mut RecvStream, length: usize) -> Option<Bytes> {
    let mut bytes = BytesMut::with_capacity(length);
    loop {
        // One byte more than expected is asked for, so that a surplus shows.
        let wanted = length - bytes.len() + 1;
        let read = tokio::time::timeout(STALL_TIMEOUT, receive.read_chunk(wanted, true)).await.ok()?.ok()?;
        match read {
            Some(part) if bytes.len() + part.bytes.len() <= length => bytes.extend_from_slice(&part.bytes),
            Some(_) => return None,
            None => return (bytes.len() == length).then(|| bytes.freeze()),
        }
    }
}

/// Fills `buffer`; false if the stream ends, breaks or stalls before.
pub(super) async fn read_in_time(receive: &mut RecvStream, buffer: &mut [u8]) -> bool {
    matches!(tokio::time::timeout(STALL_TIMEOUT, receive.read_exact(buffer)).await, Ok(Ok(())))
}
