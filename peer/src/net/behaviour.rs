//! The libp2p protocols of a peer and their limits.
//!
//! Every protocol name holds the first half of the network id, so peers of
//! different networks have no protocol in common beyond identify and ping.

use super::frame::{FrameCodec, MAX_STREAMS_PER_CONNECTION};
use super::swarm::{NetConfig, NetStartError};
use crate::identity::Identity;
use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity, MessageId, PeerScoreParams,
    PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode, WhitelistSubscriptionFilter,
};
use libp2p::kad::{self, store::MemoryStore};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, behaviour::toggle::Toggle};
use libp2p::{
    PeerId, StreamProtocol, connection_limits, identify, identity::Keypair, mdns, memory_connection_limits, ping,
};
use manta_protocol::ids::NetworkId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

/// gossipsub's limit for a whole message; envelopes are at most 60 KiB, which leaves room for its own fields.
pub(crate) const MAX_GOSSIP_WIRE_BYTES: usize = 64 * 1024;
/// The largest payload of a gossip message.
pub(crate) const MAX_GOSSIP_BYTES: usize = 60 * 1024;
/// The most topics that a peer may know.
pub(crate) const MAX_TOPICS: usize = 64;

/// New connections are refused while this process holds more of the machine's memory.
const MEMORY_SHARE_MAX: f64 = 0.9;
const MAX_PENDING_INCOMING: u32 = 64;
const MAX_PENDING_OUTGOING: u32 = 64;
const MAX_ESTABLISHED_INCOMING: u32 = 128;
const MAX_ESTABLISHED_OUTGOING: u32 = 96;
/// Two for a simultaneous open, as many for control connections, and room for those that are about to time out.
const MAX_ESTABLISHED_PER_PEER: u32 = 6;
const GOSSIP_HEARTBEAT: Duration = Duration::from_millis(700);
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
const KAD_QUERY_TIMEOUT: Duration = Duration::from_secs(20);

type Gossip = gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

/// Everything that a peer speaks over libp2p.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) kad: kad::Behaviour<MemoryStore>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) gossip: Gossip,
    pub(crate) frames: request_response::Behaviour<FrameCodec>,
}

/// The names that carry the network id.
#[derive(Clone, Debug)]
pub(crate) struct ProtocolNames {
    prefix: String,
}

impl ProtocolNames {
    pub(crate) fn new(network: &NetworkId) -> Self {
        let half: String = network.to_string().chars().take(32).collect();
        Self { prefix: format!("/manta/{half}") }
    }

    /// What identify reports; peers with another one are of another network.
    pub(crate) fn identify(&self) -> String {
        format!("{}/1", self.prefix)
    }

    /// The wire name of a gossip topic.
    pub(crate) fn topic(&self, name: &str) -> IdentTopic {
        IdentTopic::new(format!("{}/gossip/1/{name}", self.prefix))
    }

    /// The application's name of a wire topic of this network.
    pub(crate) fn topic_name<'a>(&self, topic: &'a TopicHash) -> Option<&'a str> {
        topic.as_str().strip_prefix(&self.prefix)?.strip_prefix("/gossip/1/")
    }

    fn stream(&self, suffix: &str) -> StreamProtocol {
        StreamProtocol::try_from_owned(format!("{}/{suffix}", self.prefix)).expect("the name begins with a slash")
    }
}

/// Builds all protocols and subscribes to the topics.
pub(crate) fn build(keypair: &Keypair, config: &NetConfig, names: &ProtocolNames) -> Result<Behaviour, NetStartError> {
    let local = keypair.public().to_peer_id();
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE_MAX),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(15))),
        identify: identify::Behaviour::new(
            identify::Config::new(names.identify(), keypair.public())
                .with_agent_version(agent(&config.identity))
                .with_push_listen_addr_updates(true),
        ),
        kad: kademlia(local, names),
        mdns: Toggle::from(config.mdns.then(|| local_discovery(local)).flatten()),
        gossip: gossip(&config.topics, names)?,
        frames: request_response::Behaviour::new(
            [(names.stream("frame/1"), ProtocolSupport::Full)],
            request_response::Config::default()
                .with_request_timeout(FRAME_TIMEOUT)
                .with_max_concurrent_streams(MAX_STREAMS_PER_CONNECTION),
        ),
    })
}

/// Program, release and process: another process of the same peer is told apart by it.
fn agent(identity: &Identity) -> String {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 process of a peer v1");
    hasher
        .update(identity.secret())
        .update(&started.as_nanos().to_le_bytes())
        .update(&std::process::id().to_le_bytes());
    let process: String = hasher.finalize().to_hex().chars().take(16).collect();
    format!("manta/{} {process}", env!("CARGO_PKG_VERSION"))
}

fn limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING))
        .with_max_established_incoming(Some(MAX_ESTABLISHED_INCOMING))
        // Room that strangers cannot fill, so that a peer is not eclipsed.
        .with_max_established_outgoing(Some(MAX_ESTABLISHED_OUTGOING))
        .with_max_established_per_peer(Some(MAX_ESTABLISHED_PER_PEER))
}

/// Kademlia for finding peers only: every peer answers, nobody can store records here.
fn kademlia(local: PeerId, names: &ProtocolNames) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(names.stream("kad/1"));
    config
        .set_query_timeout(KAD_QUERY_TIMEOUT)
        // Rounds are driven by `discovery`, fast at first and seldom later.
        .set_periodic_bootstrap_interval(None)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_replication_interval(None);
    let mut kad = kad::Behaviour::with_config(local, MemoryStore::new(local), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// mDNS, or none where the machine allows no multicast; the swarm works without it.
fn local_discovery(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    match mdns::tokio::Behaviour::new(mdns::Config::default(), local) {
        Ok(mdns) => Some(mdns),
        Err(error) => {
            tracing::warn!(%error, "peers on the local network cannot be found by themselves; use a ticket");
            None
        }
    }
}

fn gossip(topics: &[String], names: &ProtocolNames) -> Result<Gossip, NetStartError> {
    if topics.len() > MAX_TOPICS {
        return Err(NetStartError::Gossip(format!("{} topics, the limit is {MAX_TOPICS}", topics.len())));
    }
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        // Nothing is forwarded before the application has accepted it.
        .validate_messages()
        .message_id_fn(|message| MessageId::new(blake3::hash(&message.data).as_bytes()))
        .max_transmit_size(MAX_GOSSIP_WIRE_BYTES)
        .flood_publish(true)
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .connection_handler_queue_len(1024)
        .build()
        .map_err(|error| NetStartError::Gossip(error.to_string()))?;
    let wire_topics: Vec<IdentTopic> = topics.iter().map(|name| names.topic(name)).collect();
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(wire_topics.iter().map(IdentTopic::hash).collect()),
        max_subscribed_topics: MAX_TOPICS,
        max_subscriptions_per_request: MAX_TOPICS,
    };
    // The envelope's own signature is the only one: gossipsub adds neither author nor sequence number.
    let mut gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(|error| NetStartError::Gossip(error.to_owned()))?;
    gossip
        .with_peer_score(score_params(&wire_topics), PeerScoreThresholds::default())
        .map_err(NetStartError::Gossip)?;
    for topic in &wire_topics {
        gossip.subscribe(topic).map_err(|error| NetStartError::Gossip(error.to_string()))?;
    }
    Ok(gossip)
}

/// Peers lose standing by invalid messages and broken promises only: in a small or quiet swarm
/// few deliveries are normal, and many peers of one machine are as well.
fn score_params(topics: &[IdentTopic]) -> PeerScoreParams {
    let topic = TopicScoreParams {
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 10.0,
        time_in_mesh_weight: 0.1,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_cap: 50.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Squared: 4 invalid messages close together silence a peer's gossip, 9 make it ignored.
        invalid_message_deliveries_weight: -2.0,
        invalid_message_deliveries_decay: 0.97,
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: topics.iter().map(|name| (name.hash(), topic.clone())).collect(),
        topic_score_cap: 20.0,
        ip_colocation_factor_whitelist: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].into(),
        ..PeerScoreParams::default()
    }
}
