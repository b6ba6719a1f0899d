//! The peer's place in the libp2p swarm: one task that owns it, commands in, events out.
//!
//! The task never waits for its owner while holding work up unbounded: events
//! queue up to [`EVENT_BACKLOG_MAX`] besides the channel, and from half of it on
//! the swarm is not polled, so that the network feels the back-pressure.
//! Commands are handed over without waiting ([`NetHandle::command`]), so the two
//! tasks cannot wait for each other. Invariant: each `SendFrame` that was taken
//! is answered by exactly one `FrameDelivered` or `FrameFailed`.

use super::behaviour::{self, Behaviour, ProtocolNames};
use super::frame::{FrameAnswer, FrameFailure};
use super::swarm_task::SwarmTask;
use crate::identity::Identity;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::ResponseChannel;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, gossipsub, noise, tcp, yamux};
use manta_protocol::ids::{NetworkId, PeerId};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Commands that may wait for the swarm task.
pub(crate) const COMMAND_CAPACITY: usize = 512;
/// Events that may wait for the owner in the channel.
pub(crate) const EVENT_CAPACITY: usize = 256;
/// Events that may wait behind a full channel; from half of it on the swarm rests.
pub(crate) const EVENT_BACKLOG_MAX: usize = 1024;
/// Peers to be connected to, by default.
pub(crate) const DEFAULT_TARGET_CONNECTIONS: usize = 32;

/// What a peer may make us hold back on one connection; frames and gossip messages are at most 64 KiB.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// Streams that a peer may have open on one connection; with yamux each may hold back 256 KiB.
const MAX_STREAMS: u32 = 128;
/// Long: a swarm of our size keeps its connections, and discovery would only make them again.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3600);

/// How to join the swarm.
#[derive(Clone, Debug)]
pub(crate) struct NetConfig {
    /// Who we are.
    pub(crate) identity: Identity,
    /// Which swarm; peers of others are left alone.
    pub(crate) network: NetworkId,
    /// Where to listen; `None`: any free port of all interfaces, QUIC and TCP; empty: nowhere, only dial.
    pub(crate) listen: Option<Vec<Multiaddr>>,
    /// Peers to begin with, best with `/p2p/…`.
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Names of the gossip topics.
    pub(crate) topics: Vec<String>,
    /// Whether to look for peers on the local network.
    pub(crate) mdns: bool,
    /// Dial known peers until this many are connected.
    pub(crate) target_connections: usize,
}

/// Why the swarm could not be joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetStartError {
    /// A listening address cannot be used.
    #[error("cannot listen on {address}: {reason}; free the port or choose another address with --listen")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system answered.
        reason: String,
    },
    /// The transports could not be set up.
    #[error("cannot set up the network transports: {0}")]
    Transport(String),
    /// The gossip settings contradict each other.
    #[error("cannot set up gossip: {0}")]
    Gossip(String),
}

/// What the owner asks of the swarm.
#[derive(Debug)]
pub(crate) enum NetCommand {
    /// Gossip `bytes` (at most 60 KiB); failures come back as `PublishFailed`.
    Publish {
        /// One of the configured topics.
        topic: String,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Decide on a gossip message; until then it is not forwarded.
    Verdict {
        /// As it came with the message.
        message: GossipMessageId,
        /// The decision.
        verdict: Verdict,
    },
    /// Send a direct frame, connecting first if needed.
    SendFrame {
        /// Comes back in `FrameDelivered` or `FrameFailed`.
        id: u64,
        /// The receiver.
        to: PeerId,
        /// At most 64 KiB.
        bytes: Vec<u8>,
    },
    /// Answer a frame that came in.
    AnswerFrame {
        /// As it came with the frame.
        reply: FrameReply,
        /// What to say.
        answer: FrameAnswer,
    },
    /// Remember where a peer may be found.
    AddAddresses {
        /// The peer.
        peer: PeerId,
        /// Binary multiaddrs; unusable ones are left out.
        addresses: Vec<Vec<u8>>,
    },
    /// Keep a TCP connection to a member of the open run, so that its crash shows at once as `PeerDisconnected`.
    Guard {
        /// The peer.
        peer: PeerId,
        /// Binary multiaddrs, besides those known already.
        addresses: Vec<Vec<u8>>,
    },
    /// The run is over; connections stay.
    Unguard {
        /// The peer.
        peer: PeerId,
    },
    /// Close all connections to a peer, and do not look for it.
    Disconnect {
        /// The peer.
        peer: PeerId,
    },
    /// Report the present state.
    Snapshot {
        /// Where to.
        reply: oneshot::Sender<NetSnapshot>,
    },
    /// Leave the swarm and end the task.
    Shutdown,
}

/// What the swarm tells its owner.
#[derive(Debug)]
pub(crate) enum NetEvent {
    /// We can be reached here (wildcards are expanded to the interfaces' addresses).
    Listening {
        /// Without `/p2p/…`.
        address: Multiaddr,
    },
    /// A listening address is gone.
    ListeningEnded {
        /// The address.
        address: Multiaddr,
        /// Why, if it was not closed on purpose.
        reason: Option<String>,
    },
    /// The first connection to a peer stands.
    PeerConnected {
        /// The peer.
        peer: PeerId,
        /// Where it is.
        remote_ip: Option<IpAddr>,
    },
    /// A TCP connection to a guarded peer stands: from now on its crash shows at once.
    Guarded {
        /// The peer.
        peer: PeerId,
    },
    /// The last connection to a peer has ended; of a guarded one also when its TCP connection broke, whatever
    /// else stood. It is a hint: the peer may be reachable all the same.
    PeerDisconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer speaks for another network or is no Manta peer; it was disconnected.
    ForeignPeer {
        /// The peer.
        peer: PeerId,
        /// What it called its protocol.
        protocol: String,
    },
    /// A peer listens to a topic from now on: what it should know may be published again.
    Subscribed {
        /// The peer.
        peer: PeerId,
        /// The topic.
        topic: String,
    },
    /// A gossip message that waits for a verdict.
    Gossip {
        /// For the verdict.
        message: GossipMessageId,
        /// Who forwarded it, not necessarily who wrote it.
        from: PeerId,
        /// The topic.
        topic: String,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A message could not be gossiped.
    PublishFailed {
        /// The topic.
        topic: String,
        /// Why.
        failure: PublishFailure,
    },
    /// A direct frame that waits for an answer.
    Frame {
        /// The sender, proven by the transport.
        from: PeerId,
        /// The frame.
        bytes: Vec<u8>,
        /// For the answer; dropped, the sender is told that the connection broke.
        reply: FrameReply,
    },
    /// The receiver has accepted a frame.
    FrameDelivered {
        /// As given.
        id: u64,
    },
    /// A frame was not accepted, or it is not known whether it was.
    FrameFailed {
        /// As given.
        id: u64,
        /// Why.
        failure: FrameFailure,
    },
}

/// Why a message was not gossiped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishFailure {
    /// Nobody who is connected listens to the topic; publish again upon `Subscribed`.
    #[error("no connected peer listens to the topic yet")]
    NoPeers,
    /// All connections are too slow at the moment.
    #[error("the connections to all peers are congested")]
    Congested,
    /// It is longer than a gossip message may be.
    #[error("the message has {found_bytes} bytes, the limit is {limit_bytes}; gossip its hash instead")]
    TooLarge {
        /// Its length.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Not one of the configured topics.
    #[error("this peer has no such topic")]
    UnknownTopic,
    /// gossipsub refused it for another reason.
    #[error("gossipsub refused it: {0}")]
    Other(String),
}

/// Names a gossip message until its verdict.
#[derive(Clone, Debug)]
pub(crate) struct GossipMessageId {
    pub(super) id: gossipsub::MessageId,
    pub(super) source: libp2p::PeerId,
}

/// What to do with a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Valid: forward it.
    Accept,
    /// Useless but nobody's fault: do not forward it.
    Ignore,
    /// Invalid: do not forward it and hold it against those who sent it.
    Reject,
}

/// The right to answer one frame once.
#[derive(Debug)]
pub(crate) struct FrameReply(pub(super) ResponseChannel<FrameAnswer>);

/// A peer and where it may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownPeer {
    /// The peer.
    pub(crate) peer: PeerId,
    /// Binary multiaddrs without `/p2p/…`, for `AddAddresses` after a restart.
    pub(crate) addresses: Vec<Vec<u8>>,
}

/// The present state of the swarm.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetSnapshot {
    /// Addresses to tell others, best first.
    pub(crate) advertised: Vec<Multiaddr>,
    /// Peers of the routing table with their addresses, to be kept over a restart.
    pub(crate) known: Vec<KnownPeer>,
}

/// What has passed so far; each value only grows, except the peers.
#[derive(Debug, Default)]
pub(crate) struct NetCounters {
    /// Peers connected now.
    pub(crate) peers_connected: AtomicU64,
    /// Gossip messages published by us.
    pub(crate) gossip_published: AtomicU64,
    /// Payload bytes of them.
    pub(crate) gossip_published_bytes: AtomicU64,
    /// Gossip messages received, duplicates not counted.
    pub(crate) gossip_received: AtomicU64,
    /// Payload bytes of them.
    pub(crate) gossip_received_bytes: AtomicU64,
    /// Gossip messages that we rejected.
    pub(crate) gossip_rejected: AtomicU64,
    /// Frames accepted by their receivers.
    pub(crate) frames_delivered: AtomicU64,
    /// Frames that failed.
    pub(crate) frames_failed: AtomicU64,
    /// Frames received.
    pub(crate) frames_received: AtomicU64,
    /// Payload bytes of frames handed to the transport.
    pub(crate) frame_sent_bytes: AtomicU64,
    /// Payload bytes of frames received.
    pub(crate) frame_received_bytes: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// The swarm task has no room for a command, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// It is behind by [`COMMAND_CAPACITY`] commands.
    #[error("the network task is behind by {COMMAND_CAPACITY} commands; take its events first")]
    Full,
    /// It has ended.
    #[error("the network task has ended")]
    Ended,
}

/// The way to the swarm task.
#[derive(Clone, Debug)]
pub(crate) struct NetHandle {
    commands: mpsc::Sender<NetCommand>,
    counters: Arc<NetCounters>,
}

impl NetHandle {
    /// Hands over a command without waiting.
    ///
    /// # Errors
    /// See [`CommandError`]; the command has then no effect and brings no event.
    pub(crate) fn command(&self, command: NetCommand) -> Result<(), CommandError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommandError::Full,
            mpsc::error::TrySendError::Closed(_) => CommandError::Ended,
        })
    }

    /// The present state. Not to be awaited by the task that takes the events, unless it goes on taking them.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub(crate) async fn snapshot(&self) -> Result<NetSnapshot, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.command(NetCommand::Snapshot { reply })?;
        answer.await.map_err(|_| CommandError::Ended)
    }

    /// What has passed so far.
    pub(crate) fn counters(&self) -> &NetCounters {
        &self.counters
    }
}

/// A running swarm task.
#[derive(Debug)]
pub(crate) struct Net {
    /// Takes commands; when the last clone is gone the task ends.
    pub(crate) handle: NetHandle,
    /// Gives events; must be read, or the swarm comes to rest.
    pub(crate) events: mpsc::Receiver<NetEvent>,
    /// Ends after `Shutdown`.
    pub(crate) task: JoinHandle<()>,
}

/// Joins the swarm. Must be called within a tokio runtime.
///
/// # Errors
/// An address that cannot be listened on, or a transport that cannot be set up.
pub(crate) fn start(config: NetConfig) -> Result<Net, NetStartError> {
    let names = ProtocolNames::new(&config.network);
    let mut swarm = build(&config)?;
    listen(&mut swarm, config.listen.as_deref())?;
    let (commands, command_receiver) = mpsc::channel(COMMAND_CAPACITY);
    let (event_sender, events) = mpsc::channel(EVENT_CAPACITY);
    let counters = Arc::new(NetCounters::default());
    let task = SwarmTask::new(swarm, names, config, Arc::clone(&counters));
    let task = tokio::spawn(task.run(command_receiver, event_sender));
    Ok(Net { handle: NetHandle { commands, counters }, events, task })
}

/// A swarm that does nothing yet.
pub(super) fn build(config: &NetConfig) -> Result<Swarm<Behaviour>, NetStartError> {
    let names = ProtocolNames::new(&config.network);
    let keypair = config.identity.keypair();
    let behaviour = behaviour::build(keypair, config, &names)?;
    let transports = || {
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(MAX_STREAMS as usize);
        let builder = SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, || yamux)
            .map_err(|error| NetStartError::Transport(error.to_string()))?;
        Ok::<_, NetStartError>(builder.with_quic_config(|mut quic| {
            quic.max_connection_data = CONNECTION_WINDOW_BYTES;
            quic.max_stream_data = STREAM_WINDOW_BYTES;
            quic.max_concurrent_stream_limit = MAX_STREAMS;
            quic
        }))
    };
    // The two ways to resolve names give builders of different types.
    macro_rules! finish {
        ($builder:expr) => {{
            let Ok(builder) = $builder.with_behaviour(|_| behaviour);
            builder
                .with_swarm_config(|config| {
                    config.with_idle_connection_timeout(IDLE_CONNECTION_TIMEOUT).with_smart_dial()
                })
                .build()
        }};
    }
    match transports()?.with_dns() {
        Ok(builder) => Ok(finish!(builder)),
        Err(error) => {
            tracing::warn!(%error, "no name server is configured; only addresses with IP numbers can be dialled");
            let (resolver, options) = (libp2p::dns::ResolverConfig::default(), libp2p::dns::ResolverOpts::default());
            Ok(finish!(transports()?.with_dns_config(resolver, options)))
        }
    }
}

fn listen(swarm: &mut Swarm<Behaviour>, wanted: Option<&[Multiaddr]>) -> Result<(), NetStartError> {
    if let Some(wanted) = wanted {
        return wanted.iter().try_for_each(|address| listen_on(swarm, address));
    }
    let (udp, tcp, quic) = (Protocol::Udp(0), Protocol::Tcp(0), Protocol::QuicV1);
    for ip in [Protocol::Ip4([0, 0, 0, 0].into()), Protocol::Ip6([0; 8].into())] {
        let over_quic = Multiaddr::from(ip.clone()).with(udp.clone()).with(quic.clone());
        let over_tcp = Multiaddr::from(ip.clone()).with(tcp.clone());
        let result = listen_on(swarm, &over_quic).and_then(|()| listen_on(swarm, &over_tcp));
        match (ip, result) {
            // A machine without IPv6 is a normal machine.
            (Protocol::Ip6(_), Err(error)) => tracing::debug!(%error, "not listening on IPv6"),
            (_, result) => result?,
        }
    }
    Ok(())
}

fn listen_on(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<(), NetStartError> {
    let failed = |reason: String| NetStartError::Listen { address: address.clone(), reason };
    if let Some(socket) = tcp_socket(address) {
        // libp2p shares TCP ports (SO_REUSEPORT), so that two peers on one port would take turns unnoticed.
        drop(TcpListener::bind(socket).map_err(|error| failed(error.to_string()))?);
    }
    match swarm.listen_on(address.clone()) {
        Ok(_) => Ok(()),
        Err(libp2p::TransportError::MultiaddrNotSupported(_)) => {
            Err(failed("the address has a form that is not supported (examples: /ip4/0.0.0.0/udp/4001/quic-v1, /ip4/0.0.0.0/tcp/4001)".to_owned()))
        }
        Err(libp2p::TransportError::Other(error)) => Err(failed(root_cause(&error))),
    }
}

/// The socket of a TCP address with a port of its own.
fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) if port != 0 => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// libp2p wraps errors of the system several times; the innermost says what happened.
fn root_cause(error: &std::io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
