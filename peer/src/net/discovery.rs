//! How a peer finds the others: bootstrap addresses, then Kademlia.
//!
//! Rounds come quickly after the start and after a loss, then ever more seldom.
//! A round dials bootstrap peers that are not connected, refreshes the routing
//! table, looks up a random key, and dials known peers up to a target count.
//! Peers that could not be reached are left alone for a growing while.

use super::addresses::{self, MAX_ADDRESSES_PER_PEER};
use super::behaviour::Behaviour;
use libp2p::swarm::dial_opts::DialOpts;
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
        if self.wants(swarm, &peer) {
            let addresses = addresses.into_iter().take(MAX_ADDRESSES_PER_PEER).collect();
            dial(swarm, DialOpts::peer_id(peer).addresses(addresses).extend_addresses_through_behaviour().build());
        }
    }

    /// A connection to `peer` stands.
    pub(crate) fn connected(&mut self, peer: &PeerId) {
        self.failures.remove(peer);
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

    fn dial_bootstrap(&self, swarm: &mut Swarm<Behaviour>) {
        let lonely = swarm.connected_peers().next().is_none();
        let mut known: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (address, named) in &self.bootstrap {
            match named {
                Some(peer) if *peer == self.local || swarm.is_connected(peer) => {}
                Some(peer) => known.entry(*peer).or_default().push(address.clone()),
                // Whose address this is shows only after dialling it: once is enough.
                None if lonely => dial(swarm, DialOpts::unknown_peer_id().address(address.clone()).build()),
                None => {}
            }
        }
        for (peer, addresses) in known {
            dial(swarm, DialOpts::peer_id(peer).addresses(addresses).extend_addresses_through_behaviour().build());
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
/// (already connected or dialling, no address left, a limit).
fn dial(swarm: &mut Swarm<Behaviour>, options: DialOpts) {
    if let Err(error) = swarm.dial(options) {
        tracing::debug!(%error, "not dialled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        discovery.connected(&peer);
        assert!(!discovery.failures.contains_key(&peer));
    }
}
