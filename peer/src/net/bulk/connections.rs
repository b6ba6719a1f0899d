//! The live connections by peer, and how new ones are made.
//!
//! Two peers that dial each other at once get two connections; either carries
//! streams. At most one dial to a peer is under way: whoever asks meanwhile
//! waits for its result, good or bad.

use super::endpoint::{OpenEndpoint, remote_peer};
use super::{BulkFailure, MAX_PEERS, Shared, serve};
use manta_protocol::ids::PeerId;
use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Close codes, seen by the other end.
pub(super) const CLOSE_DONE: VarInt = VarInt::from_u32(0);
pub(super) const CLOSE_NOT_ADMITTED: VarInt = VarInt::from_u32(1);
pub(super) const CLOSE_WRONG_PEER: VarInt = VarInt::from_u32(2);
pub(super) const CLOSE_SUPERSEDED: VarInt = VarInt::from_u32(3);

/// Connections of one peer that are kept: both of a simultaneous open, and one that may be dying.
const MAX_CONNECTIONS_PER_PEER: usize = 4;
/// The most addresses kept of one peer.
const MAX_ADDRESSES: usize = 8;
/// Every peer answers to this name; who it is, its certificate says.
const SERVER_NAME: &str = "manta";

/// The registry.
pub(super) struct Connections {
    endpoint: Endpoint,
    client: quinn::ClientConfig,
    dial_timeout: Duration,
    peers: Mutex<HashMap<PeerId, PeerEntry>>,
}

#[derive(Default)]
struct PeerEntry {
    addresses: Vec<SocketAddr>,
    /// Oldest first.
    connections: Vec<Connection>,
    dial: Arc<tokio::sync::Mutex<LastDial>>,
}

/// The failure of the last dial and its time; guards that there is one dial at a time.
#[derive(Default)]
struct LastDial(Option<(Instant, BulkFailure)>);

impl Connections {
    pub(super) fn new(open: OpenEndpoint) -> Self {
        let OpenEndpoint { endpoint, client, dial_timeout } = open;
        Self { endpoint, client, dial_timeout, peers: Mutex::default() }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn local_address(&self) -> SocketAddr {
        // The socket is bound, so it has an address.
        self.endpoint.local_addr().expect("a bound socket has an address")
    }

    pub(super) fn set_addresses(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        let mut peers = self.lock();
        if peers.len() < MAX_PEERS || peers.contains_key(&peer) {
            let usable = addresses.into_iter().filter(|at| at.port() != 0 && !at.ip().is_unspecified());
            peers.entry(peer).or_default().addresses = usable.take(MAX_ADDRESSES).collect();
        }
    }

    pub(super) fn forget(&self, peer: &PeerId) {
        if let Some(entry) = self.lock().remove(peer) {
            for connection in entry.connections {
                connection.close(CLOSE_DONE, b"forgotten");
            }
        }
    }

    /// Closes the connections to a peer; its addresses are kept.
    pub(super) fn hang_up(&self, peer: &PeerId) {
        if let Some(entry) = self.lock().get_mut(peer) {
            for connection in entry.connections.drain(..) {
                connection.close(CLOSE_DONE, b"lost");
            }
        }
    }

    /// Keeps a proven connection; the oldest one goes if there are too many.
    pub(super) fn add(&self, peer: PeerId, connection: Connection) {
        let mut peers = self.lock();
        let entry = peers.entry(peer).or_default();
        entry.connections.retain(|known| known.close_reason().is_none());
        if entry.connections.len() >= MAX_CONNECTIONS_PER_PEER {
            entry.connections.remove(0).close(CLOSE_SUPERSEDED, b"too many connections");
        }
        entry.connections.push(connection);
    }

    /// Drops a connection that has ended, and all trace of a peer that nothing else is known of.
    pub(super) fn remove(&self, peer: &PeerId, connection: &Connection) {
        let mut peers = self.lock();
        if let Some(entry) = peers.get_mut(peer) {
            entry.connections.retain(|known| known.stable_id() != connection.stable_id());
            if entry.connections.is_empty() && entry.addresses.is_empty() {
                peers.remove(peer);
            }
        }
    }

    pub(super) async fn close(&self) {
        self.lock().clear();
        self.endpoint.close(CLOSE_DONE, b"shutdown");
        self.endpoint.wait_idle().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, PeerEntry>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest live connection: after a restart of the peer the older ones are dead and do not know it yet.
    fn live(&self, peer: &PeerId) -> Option<Connection> {
        let peers = self.lock();
        let connections = &peers.get(peer)?.connections;
        connections.iter().rev().find(|connection| connection.close_reason().is_none()).cloned()
    }

    /// Tries the addresses in turn.
    async fn dial(&self, peer: &PeerId) -> Result<Connection, BulkFailure> {
        let addresses = self.lock().get(peer).map(|entry| entry.addresses.clone()).unwrap_or_default();
        let mut failure = BulkFailure::NoAddress;
        let mut reasons = Vec::new();
        for address in addresses {
            let reason = match self.connect(address).await {
                Ok(connection) => match remote_peer(&connection) {
                    Ok(found) if found == *peer => return Ok(connection),
                    Ok(found) => {
                        connection.close(CLOSE_WRONG_PEER, b"another peer was expected");
                        failure = BulkFailure::WrongPeer { expected: *peer, found };
                        continue;
                    }
                    Err(reason) => {
                        connection.close(CLOSE_WRONG_PEER, b"no Manta peer");
                        reason
                    }
                },
                Err(reason) => reason,
            };
            reasons.push(format!("{address}: {reason}"));
        }
        if !reasons.is_empty() && failure == BulkFailure::NoAddress {
            failure = BulkFailure::Unreachable(reasons.join("; "));
        }
        Err(failure)
    }

    async fn connect(&self, address: SocketAddr) -> Result<Connection, String> {
        let connecting =
            self.endpoint.connect_with(self.client.clone(), address, SERVER_NAME).map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.dial_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", self.dial_timeout.as_millis())),
        }
    }
}

/// A live connection to `peer`, made if needed.
pub(super) async fn connection(shared: &Arc<Shared>, peer: &PeerId) -> Result<Connection, BulkFailure> {
    let connections = &shared.connections;
    if let Some(live) = connections.live(peer) {
        return Ok(live);
    }
    let asked_at = Instant::now();
    let dial = connections.lock().get(peer).map(|entry| Arc::clone(&entry.dial)).ok_or(BulkFailure::NoAddress)?;
    let mut last = dial.lock().await;
    if let Some(live) = connections.live(peer) {
        return Ok(live);
    }
    if let Some((failed_at, failure)) = &last.0
        && *failed_at >= asked_at
    {
        return Err(failure.clone());
    }
    match connections.dial(peer).await {
        Ok(connection) => {
            connections.add(*peer, connection.clone());
            tokio::spawn(serve::connection(Arc::clone(shared), *peer, connection.clone()));
            last.0 = None;
            Ok(connection)
        }
        Err(failure) => {
            last.0 = Some((Instant::now(), failure.clone()));
            Err(failure)
        }
    }
}

/// What the end of a connection means to a transfer.
pub(super) fn broken(error: &ConnectionError) -> BulkFailure {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_NOT_ADMITTED => BulkFailure::NotAdmitted,
        other => BulkFailure::Broken(other.to_string()),
    }
}
