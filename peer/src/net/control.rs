//! Control connections: for each guarded peer, one TCP connection besides
//! whatever else stands, because the kernel of a machine ends the TCP
//! connections of a process that dies at once, while QUIC shows nothing until
//! it has been idle for too long.
//!
//! Of the two ends the one with the lower name dials; the other one tries only
//! if nothing has come after a while, as where the first is behind a NAT. When
//! the last TCP connection of a guarded peer ends without our doing, the peer is
//! taken for lost: its other connections are closed by the owner of the swarm,
//! so that frames in flight fail, and `PeerDisconnected` follows. Frames to such
//! a peer dial its TCP addresses besides, since a dead process refuses there and
//! is silent on UDP. (A dial that fails takes the waiting frames with it, so this
//! is done only where TCP has worked before.)
//!
//! It is a hint and no proof: a connection may break between live peers, and a
//! process that hangs keeps its connections. Who is lost the protocol decides.

use super::addresses::{self, MAX_ADDRESSES_PER_PEER};
use super::behaviour::Behaviour;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionError, ConnectionId};
use libp2p::{Multiaddr, PeerId, Swarm};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Peers that may be guarded at a time; more than a run has members.
pub(crate) const GUARDED_MAX: usize = 256;
/// How long the end with the higher name waits for the other one to dial.
const OTHERS_TURN: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The guarded peers and all TCP connections.
#[derive(Debug)]
pub(crate) struct Guards {
    local: PeerId,
    peers: HashMap<PeerId, Guard>,
    /// Of all peers: one may be guarded after it has connected. Bounded by the connection limits.
    tcp: HashMap<ConnectionId, PeerId>,
}

#[derive(Debug)]
struct Guard {
    /// TCP addresses that its owner told.
    addresses: Vec<Multiaddr>,
    /// A dial of ours that is under way.
    dialling: Option<ConnectionId>,
    /// A TCP connection has stood before.
    proven: bool,
    failures: u32,
    /// When to dial again, unless a TCP connection stands by then.
    next_at: Instant,
}

impl Guards {
    /// Guards nobody.
    pub(crate) fn new(local: PeerId) -> Self {
        Self { local, peers: HashMap::new(), tcp: HashMap::new() }
    }

    /// Guards `peer` from now on, at `told` and at the addresses that routing knows. True if a TCP connection
    /// stands already.
    pub(crate) fn guard(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId, told: Vec<Multiaddr>) -> bool {
        if self.peers.len() >= GUARDED_MAX && !self.peers.contains_key(&peer) {
            tracing::warn!(%peer, "{GUARDED_MAX} peers are guarded already; a crash of this one will show late");
            return false;
        }
        let addresses = told.into_iter().filter(addresses::is_tcp).collect();
        let next_at = Instant::now() + if self.local < peer { Duration::ZERO } else { OTHERS_TURN };
        let fresh = Guard { addresses: Vec::new(), dialling: None, proven: false, failures: 0, next_at };
        let stands = self.holds(&peer);
        let guard = self.peers.entry(peer).or_insert(fresh);
        guard.addresses = addresses;
        guard.proven |= stands;
        self.dial_due(swarm);
        stands
    }

    /// Guards `peer` no more; its connections stay.
    pub(crate) fn unguard(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Completes when [`Self::dial_due`] has something to do.
    pub(crate) async fn due(&self) {
        let waiting = self.peers.iter().filter(|(peer, guard)| guard.dialling.is_none() && !self.holds(peer));
        match waiting.map(|(_, guard)| guard.next_at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Dials those who are guarded, whose time has come, and who have no TCP connection.
    pub(crate) fn dial_due(&mut self, swarm: &mut Swarm<Behaviour>) {
        let now = Instant::now();
        let due: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(peer, guard)| guard.next_at <= now && guard.dialling.is_none() && !self.holds(peer))
            .map(|(peer, _)| *peer)
            .collect();
        due.into_iter().for_each(|peer| self.dial(swarm, peer));
    }

    /// A frame is about to be sent: a guarded peer that is not connected is asked where a dead one refuses.
    pub(crate) fn before_frame(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId) {
        let idle = self.peers.get(&peer).is_some_and(|guard| guard.proven && guard.dialling.is_none());
        if idle && !swarm.is_connected(&peer) {
            self.dial(swarm, peer);
        }
    }

    /// A connection stands. True if it is a control connection.
    #[must_use]
    pub(crate) fn established(&mut self, peer: PeerId, connection: ConnectionId, remote: &Multiaddr) -> bool {
        if !addresses::is_tcp(remote) {
            return false;
        }
        self.tcp.insert(connection, peer);
        let Some(guard) = self.peers.get_mut(&peer) else { return false };
        guard.dialling.take_if(|dialling| *dialling == connection);
        (guard.proven, guard.failures) = (true, 0);
        true
    }

    /// A connection has ended. True if the peer is guarded and this was its last TCP connection, ended by
    /// the other side or by an error: then its other connections are to be closed.
    #[must_use]
    pub(crate) fn closed(&mut self, connection: ConnectionId, cause: Option<&ConnectionError>) -> bool {
        let Some(peer) = self.tcp.remove(&connection) else { return false };
        if self.holds(&peer) {
            return false;
        }
        let Some(guard) = self.peers.get_mut(&peer) else { return false };
        guard.next_at = Instant::now() + FIRST_RETRY;
        matches!(cause, Some(ConnectionError::IO(_)))
    }

    /// We are closing all connections to `peer`: their ends are no news.
    pub(crate) fn closing(&mut self, peer: &PeerId) {
        self.tcp.retain(|_, of| of != peer);
    }

    /// A dial has failed.
    pub(crate) fn dial_failed(&mut self, peer: &PeerId, connection: ConnectionId) {
        if let Some(guard) = self.peers.get_mut(peer)
            && guard.dialling.take_if(|dialling| *dialling == connection).is_some()
        {
            let pause = FIRST_RETRY.saturating_mul(1 << guard.failures.min(16)).min(LAST_RETRY);
            guard.failures = guard.failures.saturating_add(1);
            guard.next_at = Instant::now() + pause;
        }
    }

    /// Somebody else is at this address of the peer now.
    pub(crate) fn moved_away(&mut self, peer: &PeerId, address: &Multiaddr) {
        let (address, _) = addresses::split_peer(address.clone());
        if let Some(guard) = self.peers.get_mut(peer) {
            guard.addresses.retain(|told| *told != address);
        }
    }

    /// Whether a TCP connection to the peer stands.
    fn holds(&self, peer: &PeerId) -> bool {
        self.tcp.values().any(|of| of == peer)
    }

    fn dial(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId) {
        let Some(guard) = self.peers.get_mut(&peer) else { return };
        if !guard.proven && !swarm.is_connected(&peer) {
            guard.next_at = Instant::now() + FIRST_RETRY;
            return;
        }
        let mut addresses = guard.addresses.clone();
        let routed = addresses::routed(&mut swarm.behaviour_mut().kad, &peer);
        for address in routed.into_iter().map(|address| addresses::split_peer(address).0) {
            if addresses::is_tcp(&address) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(2 * MAX_ADDRESSES_PER_PEER);
        let options = DialOpts::peer_id(peer)
            // Besides a QUIC connection, and besides a dial that waits for an answer over UDP.
            .condition(PeerCondition::Always)
            .addresses(addresses)
            // The same port at both ends would make one connection of two dials, with nobody in the listener's part.
            .allocate_new_port()
            .build();
        let connection = options.connection_id();
        guard.dialling = Some(connection);
        if let Err(error) = swarm.dial(options) {
            tracing::debug!(%peer, %error, "no control connection was dialled");
            self.dial_failed(&peer, connection);
        }
    }
}
