//! How a peer finds the others: bootstrap addresses, then Kademlia.
//!
//! Rounds come quickly after the start and after a loss, then ever more seldom.
//! A round dials bootstrap peers that are not connected, refreshes the routing
//! table, looks up a random key, and dials known peers up to a target count.
//! Peers that could not be reached are left alone for a growing while.
//!
//! Invariant: an address that we were told is dialled though the peer is being
//! dialled elsewhere. libp2p gives each peer one dial at a time, and whoever keeps
//! sending frames to a peer that has moved keeps a dial to its old addresses going.

use super::addresses::{self, MAX_ADDRESSES_PER_PEER};
use super::behaviour::Behaviour;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Swarm};
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

const FIRST_INTERVAL: Duration = Duration::from_millis(500);
const LAST_INTERVAL: Duration = Duration::from_secs(300);
/// A peer without any connection keeps trying at this pace: its bootstrap peer may start later.
const LONELY_INTERVAL: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(600);
const MAX_REMEMBERED_FAILURES: usize = 1024;
/// The most peers dialled at a time, so that a large table does not start a storm.
const MAX_DIALS_PER_ROUND: usize = 16;

/// The state between rounds.
pub(crate) struct Discovery {
    local: PeerId,
    bootstrap: Vec<(Multiaddr, Option<PeerId>)>,
    target_connections: usize,
    rounds: u32,
    timer: Pin<Box<Sleep>>,
    failures: HashMap<PeerId, Failure>,
    /// Dials at told addresses that are under way: at most one a peer.
    dialling: HashMap<ConnectionId, PeerId>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    retry_at: Instant,
}

impl Discovery {
    /// The first round is due at once.
    pub(crate) fn new(local: PeerId, bootstrap: Vec<Multiaddr>, target_connections: usize) -> Self {
        Self {
            local,
            bootstrap: bootstrap.into_iter().map(addresses::split_peer).collect(),
            target_connections,
            rounds: 0,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            failures: HashMap::new(),
            dialling: HashMap::new(),
        }
    }

    /// Completes when a round is due.
    pub(crate) fn due(&mut self) -> impl Future<Output = ()> + '_ {
        &mut self.timer
    }

    /// Runs one round and sets the time of the next.
    pub(crate) fn round(&mut self, swarm: &mut Swarm<Behaviour>) {
        self.rounds = self.rounds.saturating_add(1);
        self.dial_bootstrap(swarm);
        // Refuses while nobody is known, which the bootstrap dials are about to change.
        if swarm.behaviour_mut().kad.bootstrap().is_ok() {
            swarm.behaviour_mut().kad.get_closest_peers(PeerId::random());
        }
        self.dial_known(swarm);
        let pause = interval(self.rounds, swarm.connected_peers().next().is_none());
        self.timer.as_mut().reset(Instant::now() + pause);
    }

    /// Begins the quick rounds again: the set of peers has changed.
    pub(crate) fn hurry(&mut self) {
        self.rounds = 0;
        // Never later than planned, or peers that come and go could put the next round off for ever.
        let soon = (Instant::now() + FIRST_INTERVAL).min(self.timer.deadline());
        self.timer.as_mut().reset(soon);
    }

    /// Dials a peer that somebody told us of, unless there are enough connections.
    pub(crate) fn found(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId, addresses: Vec<Multiaddr>) {
        if !self.wants(swarm, &peer) {
        } else if addresses.is_empty() {
            dial(swarm, DialOpts::peer_id(peer).build());
        } else {
            self.dial_told(swarm, peer, addresses.into_iter().take(MAX_ADDRESSES_PER_PEER).collect());
        }
    }

    /// A connection to `peer` stands.
    pub(crate) fn connected(&mut self, peer: &PeerId, connection: ConnectionId) {
        self.dialling.remove(&connection);
        self.failures.remove(peer);
    }

    /// A dial, which may have been one of ours, has ended without a connection.
    pub(crate) fn dial_ended(&mut self, connection: ConnectionId) {
        self.dialling.remove(&connection);
    }

    /// No connection to `peer` could be made, or it is of no use.
    pub(crate) fn failed(&mut self, peer: PeerId) {
        let now = Instant::now();
        if self.failures.len() >= MAX_REMEMBERED_FAILURES && !self.failures.contains_key(&peer) {
            self.failures.retain(|_, failure| failure.retry_at > now);
            if self.failures.len() >= MAX_REMEMBERED_FAILURES {
                return;
            }
        }
        let failure = self.failures.entry(peer).or_insert(Failure { count: 0, retry_at: now });
        let pause = FIRST_RETRY.saturating_mul(1 << failure.count.min(16)).min(LAST_RETRY);
        *failure = Failure { count: failure.count.saturating_add(1), retry_at: now + pause };
    }

    fn wants(&self, swarm: &Swarm<Behaviour>, peer: &PeerId) -> bool {
        let counters = swarm.network_info();
        let busy = counters.num_peers() + counters.connection_counters().num_pending_outgoing() as usize;
        let resting = self.failures.get(peer).is_some_and(|failure| failure.retry_at > Instant::now());
        *peer != self.local && !resting && busy < self.target_connections && !swarm.is_connected(peer)
    }

    fn dial_bootstrap(&mut self, swarm: &mut Swarm<Behaviour>) {
        let lonely = swarm.connected_peers().next().is_none();
        let mut known: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (address, named) in &self.bootstrap {
            match named {
                Some(peer) if *peer == self.local || swarm.is_connected(peer) => {}
                Some(peer) => known.entry(*peer).or_default().push(address.clone()),
                // Whose address this is shows only after dialling it: once is enough.
                None if lonely => {
                    dial(swarm, DialOpts::unknown_peer_id().address(address.clone()).build());
                }
                None => {}
            }
        }
        for (peer, addresses) in known {
            self.dial_told(swarm, peer, addresses);
        }
    }

    /// Dials a peer at these addresses and at those known already, besides any other dial to it.
    fn dial_told(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.dialling.values().any(|dialled| *dialled == peer) {
            return;
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        let connection = options.connection_id();
        if dial(swarm, options) {
            self.dialling.insert(connection, peer);
        }
    }

    fn dial_known(&self, swarm: &mut Swarm<Behaviour>) {
        let known: Vec<PeerId> = swarm
            .behaviour_mut()
            .kad
            .kbuckets()
            .flat_map(|bucket| bucket.iter().map(|entry| *entry.node.key.preimage()).collect::<Vec<_>>())
            .collect();
        let mut dialled = 0;
        for peer in known {
            if dialled == MAX_DIALS_PER_ROUND {
                break;
            }
            if self.wants(swarm, &peer) {
                dialled += 1;
                dial(swarm, DialOpts::peer_id(peer).build());
            }
        }
    }
}

/// Two rounds at each interval, doubling from [`FIRST_INTERVAL`] to [`LAST_INTERVAL`].
fn interval(rounds: u32, lonely: bool) -> Duration {
    let doublings = (rounds.saturating_sub(1) / 2).min(16);
    let longest = if lonely { LONELY_INTERVAL } else { LAST_INTERVAL };
    FIRST_INTERVAL.saturating_mul(1 << doublings).min(longest)
}

/// Failures of dials that could start come as events of the swarm; those that could not are expected here
/// (already connected or dialling, no address left, a limit). Whether it has started.
fn dial(swarm: &mut Swarm<Behaviour>, options: DialOpts) -> bool {
    swarm.dial(options).inspect_err(|error| tracing::debug!(%error, "not dialled")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::swarm::{self, NetConfig};
    use futures::StreamExt as _;
    use libp2p::swarm::SwarmEvent;

    #[test]
    fn rounds_are_quick_first_and_seldom_later() {
        let sum: Duration = (1..=8).map(|round| interval(round, false)).sum();
        assert_eq!(sum, Duration::from_millis(15_000));
        assert_eq!(interval(1, false), FIRST_INTERVAL);
        assert_eq!(interval(100, false), LAST_INTERVAL);
        assert_eq!(interval(100, true), LONELY_INTERVAL);
        assert_eq!(interval(u32::MAX, false), LAST_INTERVAL);
    }

    #[tokio::test]
    async fn peers_that_come_and_go_cannot_put_off_a_round() {
        let mut discovery = Discovery::new(PeerId::random(), Vec::new(), 32);
        discovery.timer.as_mut().reset(Instant::now() + LAST_INTERVAL);
        discovery.hurry();
        let planned = discovery.timer.deadline();
        assert!(planned <= Instant::now() + FIRST_INTERVAL);
        discovery.hurry();
        assert_eq!(discovery.timer.deadline(), planned);
    }

    /// A peer that has moved keeps being dialled at its old address, as by whoever sends it frames.
    #[tokio::test]
    async fn a_told_address_is_dialled_while_an_old_one_is() {
        let (listener, dialler) = (NetConfig::on_loopback(), NetConfig::on_loopback());
        let [mut moved, mut swarm] = [listener, dialler].map(|config| swarm::build(&config).expect("a swarm"));
        moved.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("listens");
        let peer = *moved.local_peer_id();
        let now_at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = moved.select_next_some().await {
                break address.with_p2p(peer).expect("its own name");
            }
        };
        // Nobody answers there, and nothing refuses.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let port = silent.local_addr().expect("an address").port();
        let before_at: Multiaddr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().expect("an address");
        swarm.behaviour_mut().kad.add_address(&peer, before_at);
        swarm.dial(peer).expect("the old address is dialled");

        let mut discovery = Discovery::new(*swarm.local_peer_id(), vec![now_at.clone()], 32);
        discovery.round(&mut swarm);
        discovery.round(&mut swarm);
        assert_eq!(discovery.dialling.len(), 1, "once besides the other dial");
        let reached = async {
            loop {
                tokio::select! {
                    _ = moved.select_next_some() => {}
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                            break (connection_id, endpoint.get_remote_address().clone());
                        }
                        SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                        _ => {}
                    }
                }
            }
        };
        let (connection, address) = tokio::time::timeout(Duration::from_secs(30), reached).await.expect("in time");
        assert_eq!(address, now_at);
        discovery.connected(&peer, connection);
        assert!(discovery.dialling.is_empty());
    }

    #[tokio::test]
    async fn failures_are_remembered_within_bounds() {
        let mut discovery = Discovery::new(PeerId::random(), Vec::new(), 32);
        let peer = PeerId::random();
        for _ in 0..100 {
            discovery.failed(peer);
        }
        let pause = discovery.failures[&peer].retry_at - Instant::now();
        assert!(pause <= LAST_RETRY && pause > LAST_RETRY / 2, "{pause:?}");
        for _ in 0..2 * MAX_REMEMBERED_FAILURES {
            discovery.failed(PeerId::random());
        }
        assert_eq!(discovery.failures.len(), MAX_REMEMBERED_FAILURES);
        discovery.connected(&peer, ConnectionId::new_unchecked(1));
        assert!(!discovery.failures.contains_key(&peer));
    }
}
