//! Sends the chunks of one peer, several at a time, each until its receipt.

use super::chunk::{ChunkHeader, Receipt};
use super::connections::{broken, connection};
use super::{BulkEvent, BulkFailure, Shared};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use manta_protocol::ids::PeerId;
use quinn::{ReadExactError, WriteError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Chunks on their way to one peer; enough to fill its window with chunks of 1 MiB.
const MAX_IN_FLIGHT: usize = 32;
/// Pause before the one repetition over a new connection.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// A chunk that waits for its turn.
pub(super) struct Job {
    pub(super) header: ChunkHeader,
    /// At most [`super::MAX_CHUNK_BYTES`].
    pub(super) bytes: Bytes,
}

/// Works until the queue is closed and empty, the peer is given up, or nobody reads events any more.
pub(super) async fn run(
    shared: Arc<Shared>,
    to: PeerId,
    mut jobs: mpsc::Receiver<Job>,
    given_up: watch::Receiver<bool>,
) {
    let mut in_flight = FuturesUnordered::new();
    let mut open = true;
    while open || !in_flight.is_empty() {
        tokio::select! {
            biased;
            () = lost(given_up.clone()) => break,
            job = jobs.recv(), if open && in_flight.len() < MAX_IN_FLIGHT => match job {
                Some(job) => in_flight.push(deliver(&shared, to, job, given_up.clone())),
                None => open = false,
            },
            Some(event) = in_flight.next() => if shared.events.send(event).await.is_err() {
                return;
            },
        }
    }
    // The peer was given up, or there is nothing left. All bytes go before the first event, which may have to wait.
    let mut events: Vec<BulkEvent> = in_flight.collect().await;
    while let Ok(job) = jobs.try_recv() {
        events.push(BulkEvent::ChunkFailed { to, header: job.header, failure: BulkFailure::PeerLost });
    }
    for event in events {
        if shared.events.send(event).await.is_err() {
            return;
        }
    }
}

/// Completes when the peer is given up; not when its queue is closed, for what waits there is still sent.
async fn lost(mut given_up: watch::Receiver<bool>) {
    if given_up.wait_for(|lost| *lost).await.is_err() {
        std::future::pending().await
    }
}

async fn deliver(shared: &Arc<Shared>, to: PeerId, job: Job, given_up: watch::Receiver<bool>) -> BulkEvent {
    let outcome = tokio::select! {
        biased;
        () = shared.admission.released(&job.header.run) => Err(BulkFailure::Released),
        () = lost(given_up) => Err(BulkFailure::PeerLost),
        outcome = send_twice(shared, &to, &job) => outcome,
    };
    match outcome {
        Ok(()) => BulkEvent::ChunkDelivered { to, header: job.header },
        Err(failure) => BulkEvent::ChunkFailed { to, header: job.header, failure },
    }
}

/// Repeats once what failed for want of a working connection.
async fn send_twice(shared: &Arc<Shared>, to: &PeerId, job: &Job) -> Result<(), BulkFailure> {
    match send_once(shared, to, job).await {
        Err(BulkFailure::Broken(_) | BulkFailure::Unreachable(_)) => {
            tokio::time::sleep(RETRY_PAUSE).await;
            send_once(shared, to, job).await
        }
        outcome => outcome,
    }
}

async fn send_once(shared: &Arc<Shared>, to: &PeerId, job: &Job) -> Result<(), BulkFailure> {
    let connection = connection(shared, to).await?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| broken(&error))?;
    let length = u32::try_from(job.bytes.len()).map_err(|_| BulkFailure::TooLarge)?;
    let mut parts = [Bytes::copy_from_slice(&job.header.encode(length)), job.bytes.clone()];
    match send.write_all_chunks(&mut parts).await {
        // Stopped means refused; the receipt says why.
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(broken(&error)),
        Err(error) => return Err(BulkFailure::Broken(error.to_string())),
    }
    shared.counters.tensor_sent_bytes.fetch_add(u64::from(length), Ordering::Relaxed);
    // Fails only if the receiver has stopped the stream.
    let _ = send.finish();
    let mut receipt = [Receipt::Malformed as u8];
    match receive.read_exact(&mut receipt).await {
        Ok(()) => Receipt::outcome(receipt[0]),
        Err(ReadExactError::FinishedEarly(_)) => Err(BulkFailure::Broken("no receipt was given".to_owned())),
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => Err(broken(&error)),
        Err(ReadExactError::ReadError(error)) => Err(BulkFailure::Broken(error.to_string())),
    }
}
