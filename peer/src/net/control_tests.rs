//! Real processes that are killed and stopped: whose end shows, whose does not, and how soon.

use super::frame::FrameFailure;
use super::swarm::{DEFAULT_TARGET_CONNECTIONS, Net, NetCommand, NetConfig, NetEvent, start};
use crate::identity::{Identity, to_libp2p};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use manta_protocol::ids::{NetworkId, PeerId};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where the other process shall listen, and whom it shall join.
const LISTEN: &str = "MANTA_TEST_CONTROL_LISTEN";
const JOIN: &str = "MANTA_TEST_CONTROL_JOIN";
/// From which word it makes its secret key, if it shall have a certain one.
const NAME: &str = "MANTA_TEST_CONTROL_NAME";
const TOPIC: &str = "market";
const BOTH: &str = "/ip4/127.0.0.1/udp/0/quic-v1 /ip4/127.0.0.1/tcp/0";

fn parse(text: &str) -> Vec<Multiaddr> {
    text.split_whitespace().map(|address| address.parse().expect("an address")).collect()
}

/// Joins on loopback; returns once it listens everywhere, with its name and addresses.
async fn join(listen: &str, bootstrap: &str) -> (PeerId, Net, Vec<Multiaddr>) {
    let named = std::env::var(NAME).map(|name| Identity::from_secret(*blake3::hash(name.as_bytes()).as_bytes()));
    let identity = named.unwrap_or_else(|_| Identity::generate());
    let peer = identity.peer();
    let listen = parse(listen);
    let count = listen.len();
    let mut net = start(NetConfig {
        identity,
        network: NetworkId::from_name("control tests"),
        listen: Some(listen),
        bootstrap: parse(bootstrap),
        topics: vec![TOPIC.to_owned()],
        mdns: false,
        target_connections: DEFAULT_TARGET_CONNECTIONS,
    })
    .expect("starts");
    let mut addresses = Vec::new();
    while addresses.len() < count {
        if let NetEvent::Listening { address } = net.events.recv().await.expect("the task is alive") {
            addresses.push(address);
        }
    }
    (peer, net, addresses)
}

/// Not a test by itself: the tests below start it in a process of its own.
#[tokio::test]
#[ignore = "it is the other process of these tests"]
async fn a_peer_in_a_process_of_its_own() {
    let (Ok(listen), Ok(bootstrap)) = (std::env::var(LISTEN), std::env::var(JOIN)) else { return };
    let (peer, mut net, addresses) = join(&listen, &bootstrap).await;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    println!("\npeer {peer} {}", addresses.join(" "));
    // It ends with the process that started it.
    let parent = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        _ = parent => {}
        () = async {
            while let Some(event) = net.events.recv().await {
                // Says which process it is to all who listen.
                if let NetEvent::Subscribed { topic, .. } = event {
                    let bytes = std::process::id().to_le_bytes().to_vec();
                    net.handle.command(NetCommand::Publish { topic, bytes }).expect("there is room");
                }
            }
        } => {}
    }
}

/// Another process; killed when dropped.
struct Other {
    child: Child,
    peer: PeerId,
    addresses: Vec<Vec<u8>>,
}

impl Other {
    fn start(listen: &str, bootstrap: &str) -> Self {
        Self::spawn(Command::new(std::env::current_exe().expect("this test")).env_remove(NAME), listen, bootstrap)
    }

    fn start_as(name: &str, listen: &str, bootstrap: &str) -> Self {
        Self::spawn(Command::new(std::env::current_exe().expect("this test")).env(NAME, name), listen, bootstrap)
    }

    fn spawn(command: &mut Command, listen: &str, bootstrap: &str) -> Self {
        let mut child = command
            .args(["net::control_tests::a_peer_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
            .env(LISTEN, listen)
            .env(JOIN, bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.find_map(|line| line.expect("text").strip_prefix("peer ").map(str::to_owned));
        let line = line.expect("it says who it is");
        let (peer, addresses) = line.split_once(' ').expect("a name and addresses");
        let peer = peer.parse().expect("a name");
        Self { child, peer, addresses: parse(addresses).iter().map(Multiaddr::to_vec).collect() }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("`kill` runs");
        assert!(sent.success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Watcher {
    net: Net,
    /// Over QUIC only.
    address: String,
}

impl Watcher {
    async fn new() -> Self {
        let (peer, net, addresses) = join(BOTH, "").await;
        let quic = addresses.into_iter().find(|address| address.iter().any(|part| part == Protocol::QuicV1));
        let address = quic.expect("it listens").with(Protocol::P2p(to_libp2p(&peer).expect("a curve point")));
        Self { net, address: address.to_string() }
    }

    async fn wait<T>(&mut self, mut pick: impl FnMut(NetEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(picked) = pick(self.net.events.recv().await.expect("the task is alive")) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the event comes in time")
    }

    /// A process that has connected over QUIC.
    async fn other(&mut self, listen: &str) -> Other {
        let other = Other::start(listen, &self.address);
        self.wait(|event| matches!(event, NetEvent::PeerConnected { peer, .. } if peer == other.peer).then_some(()))
            .await;
        other
    }

    /// The same, with a control connection.
    async fn guarded(&mut self) -> Other {
        let other = self.other(BOTH).await;
        self.command(NetCommand::Guard { peer: other.peer, addresses: other.addresses.clone() });
        self.wait(|event| matches!(event, NetEvent::Guarded { peer } if peer == other.peer).then_some(())).await;
        other
    }

    fn command(&self, command: NetCommand) {
        self.net.handle.command(command).expect("there is room");
    }

    /// Who shows as lost next, besides those who may at any time.
    async fn next_lost(&mut self, besides: &[PeerId]) -> PeerId {
        self.wait(|event| match event {
            NetEvent::PeerDisconnected { peer } if !besides.contains(&peer) => Some(peer),
            _ => None,
        })
        .await
    }

    async fn frame_fails(&mut self, to: PeerId) -> FrameFailure {
        self.command(NetCommand::SendFrame { id: 1, to, bytes: vec![1] });
        self.wait(|event| match event {
            NetEvent::FrameFailed { id: 1, failure } => Some(failure),
            NetEvent::FrameDelivered { .. } => panic!("nobody is there"),
            _ => None,
        })
        .await
    }
}

#[tokio::test]
async fn a_guarded_peer_that_is_killed_shows_before_silence_could() {
    let mut watcher = Watcher::new().await;
    let (mut shown_ms, mut refused_ms) = (Vec::new(), Vec::new());
    // Killed in earlier turns: they may show at any time.
    let mut silent = Vec::new();
    for _ in 0..5 {
        // Killed first, and known over QUIC only: its end is not what shows.
        let mut unguarded = watcher.other("/ip4/127.0.0.1/udp/0/quic-v1").await;
        let mut other = watcher.guarded().await;
        unguarded.kill();
        let begun = Instant::now();
        other.kill();
        assert_eq!(watcher.next_lost(&silent).await, other.peer);
        shown_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        assert_eq!(watcher.frame_fails(other.peer).await, FrameFailure::Unreachable);
        refused_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        watcher.command(NetCommand::Unguard { peer: other.peer });
        silent.push(unguarded.peer);
    }
    shown_ms.sort_by(f64::total_cmp);
    refused_ms.sort_by(f64::total_cmp);
    println!("from kill -9 to the report: median {:.1} ms of {shown_ms:.1?}", shown_ms[2]);
    println!("from a frame to its failure: median {:.1} ms of {refused_ms:.1?}", refused_ms[2]);
}

/// Over QUIC alone nothing tells that a process was killed: its connection stands beside those of the next one.
#[tokio::test]
async fn a_peer_that_restarts_before_its_end_shows_is_heard_again() {
    let mut watcher = Watcher::new().await;
    let mut lives = Vec::new();
    for _ in 0..2 {
        let mut other = Other::start_as("twice", "/ip4/127.0.0.1/udp/0/quic-v1", &watcher.address);
        let says = other.child.id().to_le_bytes();
        let heard = watcher.wait(|event| match event {
            NetEvent::Gossip { from, bytes, .. } if bytes == says => Some(from),
            _ => None,
        });
        assert_eq!(heard.await, other.peer);
        other.kill();
        lives.push(other.peer);
    }
    assert_eq!(lives[0], lives[1], "two processes of one peer");
}

#[tokio::test]
async fn a_guarded_peer_that_is_stopped_does_not_show() {
    let mut watcher = Watcher::new().await;
    let (mut stopped, mut killed) = (watcher.guarded().await, watcher.guarded().await);
    stopped.signal("-STOP");
    killed.kill();
    // Only the silence timer of the protocol can tell that a peer hangs: its kernel answers for it.
    assert_eq!(watcher.next_lost(&[]).await, killed.peer);
    // Two frames, as they take turns on the two connections: they wait, and fail when the connections end.
    for id in [1, 2] {
        watcher.command(NetCommand::SendFrame { id, to: stopped.peer, bytes: vec![1] });
    }
    stopped.kill();
    let (mut failed, mut lost) = (Vec::new(), false);
    watcher
        .wait(|event| {
            match event {
                NetEvent::FrameFailed { id, failure: FrameFailure::Broken(_) } => failed.push(id),
                NetEvent::PeerDisconnected { peer } => lost = peer == stopped.peer,
                _ => {}
            }
            (failed.len() == 2 && lost).then_some(())
        })
        .await;
}
