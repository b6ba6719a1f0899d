//! The loop that owns the libp2p swarm; its contract is in [`super::swarm`].

use super::addresses::{self, MAX_ADDRESSES_PER_PEER};
use super::behaviour::{Behaviour, BehaviourEvent, MAX_GOSSIP_BYTES, ProtocolNames};
use super::control::Guards;
use super::discovery::Discovery;
use super::frame::{FrameAnswer, FrameFailure, Outbox};
use super::swarm::{
    EVENT_BACKLOG_MAX, FrameReply, GossipMessageId, KnownPeer, NetCommand, NetConfig, NetCounters, NetEvent,
    NetSnapshot, PublishFailure, Verdict, count,
};
use crate::identity::{from_libp2p, to_libp2p};
use futures::StreamExt as _;
use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use libp2p::request_response::{self, Message};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, Swarm, identify, kad, mdns};
use manta_protocol::ids::PeerId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Addresses of one peer in the routing table; beyond it the ones no longer told are dropped.
const MAX_ROUTED_ADDRESSES: usize = 2 * MAX_ADDRESSES_PER_PEER;
/// The most peers reported by a snapshot.
const MAX_KNOWN_PEERS: usize = 256;

/// The swarm with all bookkeeping around it.
pub(super) struct SwarmTask {
    swarm: Swarm<Behaviour>,
    names: ProtocolNames,
    topics: HashSet<String>,
    discovery: Discovery,
    guards: Guards,
    outbox: Outbox,
    /// Of each connected peer, which process of it has introduced itself.
    processes: HashMap<libp2p::PeerId, String>,
    listening: Vec<Multiaddr>,
    /// Events that found the channel full.
    backlog: VecDeque<NetEvent>,
    counters: Arc<NetCounters>,
}

impl SwarmTask {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        names: ProtocolNames,
        config: NetConfig,
        counters: Arc<NetCounters>,
    ) -> Self {
        let discovery = Discovery::new(*swarm.local_peer_id(), config.bootstrap, config.target_connections);
        let guards = Guards::new(*swarm.local_peer_id());
        Self {
            swarm,
            names,
            topics: config.topics.into_iter().collect(),
            discovery,
            guards,
            outbox: Outbox::default(),
            processes: HashMap::new(),
            listening: Vec::new(),
            backlog: VecDeque::new(),
            counters,
        }
    }

    /// Works until `Shutdown`, or until nobody holds the other ends of the channels.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<NetCommand>, events: mpsc::Sender<NetEvent>) {
        loop {
            // A command brings at most one event at once, so this keeps the backlog below its maximum.
            let takes_commands = self.backlog.len() < EVENT_BACKLOG_MAX;
            let polls_swarm = self.backlog.len() < EVENT_BACKLOG_MAX / 2;
            tokio::select! {
                permit = events.reserve(), if !self.backlog.is_empty() => match (permit, self.backlog.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    _ => return,
                },
                command = commands.recv(), if takes_commands => match command {
                    Some(command) => if self.on_command(command).is_break() { return },
                    None => return,
                },
                event = self.swarm.select_next_some(), if polls_swarm => self.on_swarm_event(event),
                () = self.discovery.due(), if polls_swarm => self.discovery.round(&mut self.swarm),
                () = self.guards.due(), if polls_swarm => self.guards.dial_due(&mut self.swarm),
            }
        }
    }

    fn emit(&mut self, event: NetEvent) {
        self.backlog.push_back(event);
    }

    fn on_command(&mut self, command: NetCommand) -> ControlFlow<()> {
        match command {
            NetCommand::Publish { topic, bytes } => self.publish(topic, bytes),
            NetCommand::Verdict { message, verdict } => self.decide(&message, verdict),
            NetCommand::SendFrame { id, to, bytes } => self.send_frame(id, &to, bytes),
            NetCommand::AnswerFrame { reply: FrameReply(channel), answer } => {
                if self.swarm.behaviour_mut().frames.send_response(channel, answer).is_err() {
                    tracing::debug!("a frame was answered too late");
                }
            }
            NetCommand::AddAddresses { peer, addresses } => self.add_addresses(&peer, &addresses),
            NetCommand::Guard { peer, addresses } => {
                if let Some((name, told)) = self.dialable(&peer, &addresses)
                    && self.guards.guard(&mut self.swarm, name, told)
                {
                    self.emit(NetEvent::Guarded { peer });
                }
            }
            NetCommand::Unguard { peer } => {
                if let Some(name) = to_libp2p(&peer) {
                    self.guards.unguard(&name);
                }
            }
            NetCommand::Disconnect { peer } => self.shut_out(&peer),
            NetCommand::Snapshot { reply } => {
                // The asker may have gone, which is no concern of ours.
                let _ = reply.send(self.snapshot());
            }
            NetCommand::Shutdown => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn publish(&mut self, topic: String, bytes: Vec<u8>) {
        let length = bytes.len();
        let failure = if length > MAX_GOSSIP_BYTES {
            PublishFailure::TooLarge { found_bytes: length, limit_bytes: MAX_GOSSIP_BYTES }
        } else if !self.topics.contains(&topic) {
            PublishFailure::UnknownTopic
        } else {
            match self.swarm.behaviour_mut().gossip.publish(self.names.topic(&topic), bytes) {
                Ok(_) => {
                    count(&self.counters.gossip_published, 1);
                    count(&self.counters.gossip_published_bytes, length);
                    return;
                }
                // The swarm has it already, which is what was wanted.
                Err(PublishError::Duplicate) => return,
                Err(PublishError::NoPeersSubscribedToTopic) => PublishFailure::NoPeers,
                Err(PublishError::AllQueuesFull(_)) => PublishFailure::Congested,
                Err(error) => PublishFailure::Other(error.to_string()),
            }
        };
        self.emit(NetEvent::PublishFailed { topic, failure });
    }

    fn decide(&mut self, message: &GossipMessageId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => {
                count(&self.counters.gossip_rejected, 1);
                MessageAcceptance::Reject
            }
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if !gossip.report_message_validation_result(&message.id, &message.source, acceptance) {
            tracing::debug!("a verdict came after the message had left the cache");
        }
    }

    fn send_frame(&mut self, id: u64, to: &PeerId, bytes: Vec<u8>) {
        let receiver = to_libp2p(to).filter(|receiver| receiver != self.swarm.local_peer_id());
        let queued = receiver.ok_or(FrameFailure::BadReceiver).and_then(|receiver| {
            self.outbox.push(id, receiver, bytes)?;
            Ok(receiver)
        });
        match queued {
            Ok(receiver) => {
                self.guards.before_frame(&mut self.swarm, receiver);
                self.pump_frames(receiver);
            }
            Err(failure) => self.frame_failed(id, failure),
        }
    }

    fn pump_frames(&mut self, to: libp2p::PeerId) {
        let frames = &mut self.swarm.behaviour_mut().frames;
        self.outbox.pump(to, |bytes| {
            count(&self.counters.frame_sent_bytes, bytes.len());
            frames.send_request(&to, bytes)
        });
    }

    fn frame_failed(&mut self, id: u64, failure: FrameFailure) {
        count(&self.counters.frames_failed, 1);
        self.emit(NetEvent::FrameFailed { id, failure });
    }

    fn add_addresses(&mut self, peer: &PeerId, addresses: &[Vec<u8>]) {
        if let Some((name, told)) = self.dialable(peer, addresses) {
            self.route(&name, told);
            self.discovery.hurry();
        }
    }

    /// Another peer's libp2p name, and which of the addresses told of it are of use.
    fn dialable(&self, peer: &PeerId, addresses: &[Vec<u8>]) -> Option<(libp2p::PeerId, Vec<Multiaddr>)> {
        let name = to_libp2p(peer).filter(|name| name != self.swarm.local_peer_id())?;
        let parsed = addresses.iter().filter_map(|bytes| addresses::from_bytes(bytes));
        let told = addresses::dialable(&name, parsed, self.on_loopback());
        Some((name, told))
    }

    /// What is on its way to the peer is lost with its connections.
    fn shut_out(&mut self, peer: &PeerId) {
        let Some(name) = to_libp2p(peer) else { return };
        self.discovery.failed(name);
        self.swarm.behaviour_mut().kad.remove_peer(&name);
        self.disconnect(name);
    }

    /// Whether this peer can be reached from its own machine only, as in a demo.
    fn on_loopback(&self) -> bool {
        self.listening.iter().all(|address| addresses::ip(address).is_some_and(|ip| ip.is_loopback()))
    }

    /// Puts what was told of a peer into the routing table, within bounds: a peer may tell something new for ever.
    fn route(&mut self, peer: &libp2p::PeerId, told: Vec<Multiaddr>) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        for address in &told {
            kad.add_address(peer, address.clone());
        }
        let known = addresses::routed(kad, peer);
        if known.len() > MAX_ROUTED_ADDRESSES {
            for stale in known.iter().filter(|address| !told.contains(&addresses::split_peer((*address).clone()).0)) {
                kad.remove_address(peer, stale);
            }
        }
    }

    fn snapshot(&mut self) -> NetSnapshot {
        let mut known = Vec::new();
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            for entry in bucket.iter() {
                let name = entry.node.key.preimage();
                let Ok(peer) = from_libp2p(name) else { continue };
                let addresses = addresses::dialable(name, entry.node.value.iter().cloned(), true);
                let addresses: Vec<_> = addresses.iter().map(Multiaddr::to_vec).collect();
                if known.len() < MAX_KNOWN_PEERS && !addresses.is_empty() {
                    known.push(KnownPeer { peer, addresses });
                }
            }
        }
        NetSnapshot { advertised: addresses::advertised(&self.listening), known }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                self.discovery.connected(&peer_id, connection_id);
                let Ok(peer) = from_libp2p(&peer_id) else { return self.disconnect(peer_id) };
                let control = self.guards.established(peer_id, connection_id, endpoint.get_remote_address());
                if num_established.get() == 1 {
                    self.note_peer_count();
                    self.discovery.hurry();
                    let remote_ip = addresses::ip(endpoint.get_remote_address());
                    self.emit(NetEvent::PeerConnected { peer, remote_ip });
                }
                if control {
                    self.emit(NetEvent::Guarded { peer });
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                tracing::debug!(peer = %peer_id, left = num_established, ?cause, "a connection has ended");
                if self.guards.closed(connection_id, cause.as_ref()) && num_established > 0 {
                    self.disconnect(peer_id);
                }
                if num_established == 0
                    && let Ok(peer) = from_libp2p(&peer_id)
                {
                    self.processes.remove(&peer_id);
                    self.note_peer_count();
                    self.discovery.hurry();
                    self.emit(NetEvent::PeerDisconnected { peer });
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.discovery.dial_ended(connection_id);
                if let Some(peer) = peer_id {
                    self.guards.dial_failed(&peer, connection_id);
                    self.on_dial_failure(peer, &error)
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if !self.listening.contains(&address) {
                    self.listening.push(address.clone());
                    self.emit(NetEvent::Listening { address });
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_listening_ended(address, None),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                let reason = reason.err().map(|error| error.to_string());
                for address in addresses {
                    self.on_listening_ended(address, reason.clone());
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener had an error and goes on"),
            other => tracing::trace!(event = ?other, "swarm"),
        }
    }

    /// Closes all connections to a peer.
    fn disconnect(&mut self, peer: libp2p::PeerId) {
        self.guards.closing(&peer);
        // Nothing to do if it is gone already.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn note_peer_count(&self) {
        self.counters.peers_connected.store(self.swarm.connected_peers().count() as u64, Ordering::Relaxed);
    }

    fn on_dial_failure(&mut self, peer: libp2p::PeerId, error: &DialError) {
        tracing::debug!(%peer, %error, "could not connect");
        // Those say nothing about the peer.
        let ours =
            matches!(error, DialError::DialPeerConditionFalse(_) | DialError::Aborted | DialError::Denied { .. });
        if !ours {
            self.discovery.failed(peer);
        }
        // Whoever answers first decides a dial: at this address it would always be somebody else, whatever else is known.
        if let DialError::WrongPeerId { address, .. } = error {
            self.swarm.behaviour_mut().kad.remove_address(&peer, address);
            self.guards.moved_away(&peer, address);
        }
    }

    fn on_listening_ended(&mut self, address: Multiaddr, reason: Option<String>) {
        if let Some(at) = self.listening.iter().position(|known| *known == address) {
            self.listening.swap_remove(at);
            self.emit(NetEvent::ListeningEnded { address, reason });
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Frames(event) => self.on_frame_event(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(result),
                ..
            }) => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let same_host = self.on_loopback();
                for found in peers {
                    let addresses = addresses::dialable(&found.peer_id, found.addrs, same_host);
                    self.discovery.found(&mut self.swarm, found.peer_id, addresses);
                }
            }
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, is_new_peer: true, .. }) => {
                self.discovery.found(&mut self.swarm, peer, Vec::new());
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let same_host = self.on_loopback();
                for (peer, address) in found {
                    let addresses = addresses::dialable(&peer, [address], same_host);
                    self.discovery.found(&mut self.swarm, peer, addresses);
                }
            }
            other => tracing::trace!(event = ?other, "behaviour"),
        }
    }

    fn on_identified(&mut self, peer: libp2p::PeerId, info: identify::Info) {
        if info.protocol_version != self.names.identify() {
            self.discovery.failed(peer);
            self.disconnect(peer);
            if let Ok(peer) = from_libp2p(&peer) {
                let protocol = info.protocol_version.chars().take(64).collect();
                self.emit(NetEvent::ForeignPeer { peer, protocol });
            }
            return;
        }
        if self.has_restarted(peer, info.agent_version) {
            tracing::info!(%peer, "has restarted; connects anew");
            return self.disconnect(peer);
        }
        // The address at which the peer sees us tells whether it is on this machine.
        let same_host = addresses::ip(&info.observed_addr).is_some_and(|ip| ip.is_loopback());
        self.route(&peer, addresses::dialable(&peer, info.listen_addrs, same_host));
    }

    /// Whether another process of the peer speaks than before, whose connections still stand: over QUIC a process
    /// that was killed goes on for a while. Protocols say what a newcomer must know upon its first connection (as
    /// gossip its topics), so the new process would never hear it unless all connections end.
    fn has_restarted(&mut self, peer: libp2p::PeerId, process: String) -> bool {
        if !self.swarm.is_connected(&peer) {
            return false;
        }
        let first = self.processes.entry(peer).or_insert_with(|| process.clone());
        *first != process
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source: source, message_id: id, message } => {
                let topic = self.names.topic_name(&message.topic).map(str::to_owned);
                let (Ok(from), Some(topic)) = (from_libp2p(&source), topic) else { return };
                count(&self.counters.gossip_received, 1);
                count(&self.counters.gossip_received_bytes, message.data.len());
                let message_id = GossipMessageId { id, source };
                if message.data.len() > MAX_GOSSIP_BYTES {
                    return self.decide(&message_id, Verdict::Reject);
                }
                self.emit(NetEvent::Gossip { message: message_id, from, topic, bytes: message.data });
            }
            gossipsub::Event::Subscribed { peer_id, topic, .. } => {
                let topic = self.names.topic_name(&topic).map(str::to_owned);
                if let (Ok(peer), Some(topic)) = (from_libp2p(&peer_id), topic) {
                    self.emit(NetEvent::Subscribed { peer, topic });
                }
            }
            other => tracing::debug!(event = ?other, "gossip"),
        }
    }

    fn on_frame_event(&mut self, event: request_response::Event<Vec<u8>, FrameAnswer>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    let Ok(from) = from_libp2p(&peer) else { return };
                    count(&self.counters.frames_received, 1);
                    count(&self.counters.frame_received_bytes, request.len());
                    self.emit(NetEvent::Frame { from, bytes: request, reply: FrameReply(channel) });
                }
                Message::Response { request_id, response } => {
                    let Some((id, to)) = self.outbox.finish(request_id) else { return };
                    match response {
                        FrameAnswer::Accepted => {
                            count(&self.counters.frames_delivered, 1);
                            self.emit(NetEvent::FrameDelivered { id });
                        }
                        FrameAnswer::Refused => self.frame_failed(id, FrameFailure::Refused),
                        FrameAnswer::Busy => self.frame_failed(id, FrameFailure::Busy),
                    }
                    self.pump_frames(to);
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                let Some((id, to)) = self.outbox.finish(request_id) else { return };
                self.frame_failed(id, error.into());
                self.pump_frames(to);
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a frame could not be received or answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }
}
