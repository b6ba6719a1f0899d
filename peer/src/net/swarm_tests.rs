//! Swarms of real sockets on loopback, each step awaited by its event.

use super::frame::{FrameAnswer, FrameFailure, MAX_FRAME_BYTES};
use super::swarm::{
    COMMAND_CAPACITY, CommandError, DEFAULT_TARGET_CONNECTIONS, EVENT_BACKLOG_MAX, Net, NetCommand, NetConfig,
    NetEvent, PublishFailure, Verdict, start,
};
use super::ticket::Ticket;
use crate::identity::{Identity, to_libp2p};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use manta_protocol::ids::{NetworkId, PeerId};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "market";

struct TestPeer {
    peer: PeerId,
    net: Net,
}

fn network() -> NetworkId {
    NetworkId::from_name("swarm tests")
}

fn loopback() -> Vec<Multiaddr> {
    ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"].map(|text| text.parse().expect("an address")).into()
}

fn config(listen: Vec<Multiaddr>, bootstrap: Vec<Multiaddr>) -> NetConfig {
    NetConfig {
        identity: Identity::generate(),
        network: network(),
        listen: Some(listen),
        bootstrap,
        topics: vec![TOPIC.to_owned()],
        mdns: false,
        target_connections: DEFAULT_TARGET_CONNECTIONS,
    }
}

impl NetConfig {
    /// A peer of its own for a test, which listens nowhere yet.
    pub(super) fn on_loopback() -> Self {
        config(Vec::new(), Vec::new())
    }
}

impl TestPeer {
    fn start(config: NetConfig) -> Self {
        let peer = config.identity.peer();
        Self { peer, net: start(config).expect("starts") }
    }

    /// A peer on loopback; returns once it knows its addresses.
    async fn listening(bootstrap: Vec<Multiaddr>) -> (Self, Vec<Multiaddr>) {
        let mut peer = Self::start(config(loopback(), bootstrap));
        let mut addresses = Vec::new();
        while addresses.len() < 2 {
            addresses.push(
                peer.wait(|event| match event {
                    NetEvent::Listening { address } => Some(address),
                    _ => None,
                })
                .await,
            );
        }
        let name = to_libp2p(&peer.peer).expect("a curve point");
        for address in &mut addresses {
            address.push(Protocol::P2p(name));
        }
        (peer, addresses)
    }

    /// The first event that `pick` wants; others are dropped.
    async fn wait<T>(&mut self, mut pick: impl FnMut(NetEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self.net.events.recv().await.expect("the task is alive");
                if let Some(picked) = pick(event) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the event comes in time")
    }

    /// Waits until each of `peers` has connected and listens to the topic.
    async fn meet(&mut self, peers: &[PeerId]) {
        let (mut connected, mut subscribed) = (peers.to_vec(), peers.to_vec());
        self.wait(|event| {
            match event {
                NetEvent::PeerConnected { peer, remote_ip } => {
                    assert!(remote_ip.is_some_and(|ip| ip.is_loopback()));
                    connected.retain(|missing| *missing != peer);
                }
                NetEvent::Subscribed { peer, topic } if topic == TOPIC => {
                    subscribed.retain(|missing| *missing != peer);
                }
                _ => {}
            }
            (connected.is_empty() && subscribed.is_empty()).then_some(())
        })
        .await;
    }

    fn command(&self, command: NetCommand) {
        self.net.handle.command(command).expect("there is room");
    }

    fn publish(&self, bytes: &[u8]) {
        self.command(NetCommand::Publish { topic: TOPIC.to_owned(), bytes: bytes.to_vec() });
    }

    async fn gossip(&mut self, verdict: impl Fn(&[u8]) -> Verdict) -> Vec<u8> {
        let (message, bytes) = self
            .wait(|event| match event {
                NetEvent::Gossip { message, topic, bytes, .. } if topic == TOPIC => Some((message, bytes)),
                _ => None,
            })
            .await;
        self.command(NetCommand::Verdict { message, verdict: verdict(&bytes) });
        bytes
    }

    async fn frame_result(&mut self) -> (u64, Result<(), FrameFailure>) {
        self.wait(|event| match event {
            NetEvent::FrameDelivered { id } => Some((id, Ok(()))),
            NetEvent::FrameFailed { id, failure } => Some((id, Err(failure))),
            _ => None,
        })
        .await
    }
}

#[tokio::test]
async fn three_peers_find_each_other_through_one_and_gossip_all_to_all() {
    let (a, addresses) = TestPeer::listening(Vec::new()).await;
    // B speaks QUIC to A, C speaks TCP: neither is told of the other.
    let (b, _) = TestPeer::listening(vec![addresses[0].clone()]).await;
    let (c, _) = TestPeer::listening(vec![addresses[1].clone()]).await;
    let mut peers = [a, b, c];
    let names = peers.each_ref().map(|peer| peer.peer);
    for (i, peer) in peers.iter_mut().enumerate() {
        let others: Vec<_> = names.iter().copied().enumerate().filter(|(j, _)| *j != i).map(|(_, name)| name).collect();
        peer.meet(&others).await;
    }
    for peer in &peers {
        peer.publish(peer.peer.as_bytes());
    }
    for (i, peer) in peers.iter_mut().enumerate() {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.push(peer.gossip(|_| Verdict::Accept).await);
        }
        heard.sort_unstable();
        let mut expected: Vec<_> =
            names.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, name)| name.as_bytes().to_vec()).collect();
        expected.sort_unstable();
        assert_eq!(heard, expected, "each message of the others once");
    }
    let snapshot = peers[1].net.handle.snapshot().await.expect("alive");
    assert!(snapshot.known.iter().any(|known| known.peer == names[2]), "B knows C by its addresses");
    let ticket = Ticket::new(network(), names[1], snapshot.advertised);
    assert_eq!(ticket.dial_addresses().len(), 2, "loopback is told where there is nothing else");
    for peer in peers {
        peer.command(NetCommand::Shutdown);
        peer.net.task.await.expect("ends without panic");
    }
}

#[tokio::test]
async fn a_peer_that_is_shut_out_is_disconnected_and_not_looked_for() {
    let (mut a, addresses) = TestPeer::listening(Vec::new()).await;
    let (mut b, _) = TestPeer::listening(addresses).await;
    let names = [a.peer, b.peer];
    a.meet(&names[1..]).await;
    b.meet(&names[..1]).await;
    a.command(NetCommand::Disconnect { peer: b.peer });
    for (peer, other) in [(&mut a, names[1]), (&mut b, names[0])] {
        peer.wait(|event| matches!(event, NetEvent::PeerDisconnected { peer } if peer == other).then_some(())).await;
    }
    let known = a.net.handle.snapshot().await.expect("the task is alive").known;
    assert!(known.iter().all(|known| known.peer != names[1]), "{known:?}");
}

#[tokio::test]
async fn a_rejected_message_is_not_forwarded() {
    let (mut hub, addresses) = TestPeer::listening(Vec::new()).await;
    // Both dial the hub and listen nowhere, so that every message between them passes it.
    let mut sender = TestPeer::start(config(Vec::new(), addresses[..1].to_vec()));
    let mut receiver = TestPeer::start(config(Vec::new(), addresses[1..].to_vec()));
    hub.meet(&[sender.peer, receiver.peer]).await;
    sender.meet(&[hub.peer]).await;
    receiver.meet(&[hub.peer]).await;
    let verdict = |bytes: &[u8]| if bytes == b"bad" { Verdict::Reject } else { Verdict::Accept };
    sender.publish(b"bad");
    assert_eq!(hub.gossip(verdict).await, b"bad");
    sender.publish(b"good");
    assert_eq!(hub.gossip(verdict).await, b"good");
    assert_eq!(receiver.gossip(verdict).await, b"good", "the first thing heard is what was accepted");
    assert_eq!(hub.net.handle.counters().gossip_rejected.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_cannot_be_published_is_reported() {
    let mut alone = TestPeer::start(config(Vec::new(), Vec::new()));
    let too_large = PublishFailure::TooLarge { found_bytes: 60 * 1024 + 1, limit_bytes: 60 * 1024 };
    for (topic, length, expected) in
        [(TOPIC, 1, PublishFailure::NoPeers), (TOPIC, 60 * 1024 + 1, too_large), ("x", 1, PublishFailure::UnknownTopic)]
    {
        alone.command(NetCommand::Publish { topic: topic.to_owned(), bytes: vec![0; length] });
        let found = alone.wait(|event| match event {
            NetEvent::PublishFailed { failure, .. } => Some(failure),
            _ => None,
        });
        assert_eq!(found.await, expected);
    }
}

#[tokio::test]
async fn frames_reach_their_peer_and_bring_its_answer() {
    let (mut a, addresses) = TestPeer::listening(Vec::new()).await;
    let (mut b, _) = TestPeer::listening(addresses).await;
    b.meet(&[a.peer]).await;
    let answers = [FrameAnswer::Accepted, FrameAnswer::Refused, FrameAnswer::Busy];
    let results = [Ok(()), Err(FrameFailure::Refused), Err(FrameFailure::Busy)];
    for (id, (answer, expected)) in answers.into_iter().zip(results).enumerate() {
        let frame = vec![id as u8; MAX_FRAME_BYTES - id];
        b.command(NetCommand::SendFrame { id: id as u64, to: a.peer, bytes: frame.clone() });
        let sender = b.peer;
        let reply = a.wait(|event| match event {
            NetEvent::Frame { from, bytes, reply } => {
                assert_eq!((from, bytes), (sender, frame.clone()));
                Some(reply)
            }
            _ => None,
        });
        let reply = reply.await;
        a.command(NetCommand::AnswerFrame { reply, answer });
        assert_eq!(b.frame_result().await, (id as u64, expected));
    }
    // A reply that is dropped is no acceptance.
    b.command(NetCommand::SendFrame { id: 9, to: a.peer, bytes: vec![1] });
    a.wait(|event| matches!(event, NetEvent::Frame { .. }).then_some(())).await;
    assert!(matches!(b.frame_result().await, (9, Err(FrameFailure::Broken(_)))));
    b.command(NetCommand::SendFrame { id: 10, to: a.peer, bytes: vec![0; MAX_FRAME_BYTES + 1] });
    let too_large = FrameFailure::TooLarge { found_bytes: MAX_FRAME_BYTES + 1 };
    assert_eq!(b.frame_result().await, (10, Err(too_large)));
}

#[tokio::test]
async fn frames_to_nobody_fail() {
    let mut alone = TestPeer::start(config(Vec::new(), Vec::new()));
    let (unknown, dead) = (Identity::generate().peer(), Identity::generate().peer());
    // Nothing listens on the port of a socket that has just been closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address");
    alone.command(NetCommand::AddAddresses { peer: dead, addresses: vec![address.to_vec(), vec![0xFF; 500]] });
    for (id, to, expected) in [
        (1, unknown, FrameFailure::Unreachable),
        (2, dead, FrameFailure::Unreachable),
        (3, alone.peer, FrameFailure::BadReceiver),
    ] {
        alone.command(NetCommand::SendFrame { id, to, bytes: vec![1] });
        assert_eq!(alone.frame_result().await, (id, Err(expected)));
    }
}

#[tokio::test]
async fn an_owner_that_reads_nothing_is_refused_commands_and_loses_no_answer() {
    let mut alone = TestPeer::start(config(Vec::new(), Vec::new()));
    let to = alone.peer;
    let mut taken = 0;
    loop {
        match alone.net.handle.command(NetCommand::SendFrame { id: taken, to, bytes: Vec::new() }) {
            Ok(()) => taken += 1,
            Err(CommandError::Full) if taken as usize > EVENT_BACKLOG_MAX + COMMAND_CAPACITY => break,
            // The task has not had its turn yet.
            Err(CommandError::Full) => tokio::task::yield_now().await,
            Err(CommandError::Ended) => panic!("the task is alive"),
        }
        assert!(taken < 10_000, "the queues are bounded");
    }
    for id in 0..taken {
        assert_eq!(alone.frame_result().await, (id, Err(FrameFailure::BadReceiver)));
    }
}

#[tokio::test]
async fn a_peer_of_another_network_is_sent_away() {
    let (mut a, addresses) = TestPeer::listening(Vec::new()).await;
    let mut foreign = config(loopback(), addresses);
    foreign.network = NetworkId::from_name("another network");
    let b = TestPeer::start(foreign);
    let other = b.peer;
    let protocol = a.wait(|event| match event {
        NetEvent::ForeignPeer { peer, protocol } if peer == other => Some(protocol),
        _ => None,
    });
    assert!(protocol.await.starts_with("/manta/"));
    a.wait(|event| matches!(event, NetEvent::PeerDisconnected { peer } if peer == other).then_some(())).await;
}

#[tokio::test]
async fn remembered_addresses_lead_back_into_the_swarm() {
    let (a, addresses) = TestPeer::listening(Vec::new()).await;
    let (mut b, _) = TestPeer::listening(Vec::new()).await;
    let bytes = addresses.iter().map(Multiaddr::to_vec).collect();
    b.command(NetCommand::AddAddresses { peer: a.peer, addresses: bytes });
    b.meet(&[a.peer]).await;
}

#[tokio::test]
async fn an_address_that_somebody_else_has_now_does_not_hide_the_right_one() {
    let (mut moved, addresses) = TestPeer::listening(Vec::new()).await;
    let (_stranger, strange) = TestPeer::listening(Vec::new()).await;
    let mut sender = TestPeer::start(config(Vec::new(), Vec::new()));
    // QUIC is dialled before TCP, and the first who answers is taken.
    let over = |addresses: Vec<Multiaddr>, transport| {
        let found = addresses.into_iter().find(|address| address.iter().any(|part| part.tag() == transport));
        found.expect("it listens on both")
    };
    let (right, wrong) = (over(addresses, "tcp"), over(strange, "quic-v1"));
    let told = [right, wrong].map(|mut address| {
        address.pop();
        address.to_vec()
    });
    sender.command(NetCommand::AddAddresses { peer: moved.peer, addresses: told.to_vec() });
    // It finds out with the first one, at the latest.
    for id in [1, 2] {
        sender.command(NetCommand::SendFrame { id, to: moved.peer, bytes: vec![1] });
        let (found, result) = tokio::select! {
            result = sender.frame_result() => result,
            never = async { loop {
                let reply = moved.wait(|event| match event {
                    NetEvent::Frame { reply, .. } => Some(reply),
                    _ => None,
                });
                let reply = reply.await;
                moved.command(NetCommand::AnswerFrame { reply, answer: FrameAnswer::Accepted });
            } } => never,
        };
        assert_eq!(found, id);
        assert!(id == 1 || result.is_ok(), "{result:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_advice() {
    let (_a, addresses) = TestPeer::listening(Vec::new()).await;
    for mut address in addresses {
        address.pop();
        let error = start(config(vec![address.clone()], Vec::new())).expect_err("the port is taken").to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
    }
    let websocket = "/ip4/127.0.0.1/udp/1".parse().expect("an address");
    let error = start(config(vec![websocket], Vec::new())).expect_err("not a transport of ours").to_string();
    assert!(error.contains("/ip4/0.0.0.0/udp/4001/quic-v1"), "{error}");
}

#[tokio::test]
#[ignore = "needs an interface with multicast and leaves this machine; run it with --ignored on a network of your own"]
async fn peers_of_a_local_network_find_each_other() {
    let local = || NetConfig { listen: None, mdns: true, ..config(Vec::new(), Vec::new()) };
    let (mut a, mut b) = (TestPeer::start(local()), TestPeer::start(local()));
    let names = [a.peer, b.peer];
    for (one, other) in [(&mut a, names[1]), (&mut b, names[0])] {
        let remote_ip = one.wait(|event| match event {
            NetEvent::PeerConnected { peer, remote_ip } if peer == other => remote_ip,
            _ => None,
        });
        assert!(!remote_ip.await.is_loopback());
    }
}
