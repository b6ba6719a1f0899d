//! What the node wants done, carried out.

use super::{Driver, OpenRun, TOPIC, TaskDone};
use crate::board::{describe_left_out, describe_no_match};
use crate::net::addresses;
use crate::net::bulk::ChunkHeader;
use crate::net::swarm::{self, NetCommand};
use crate::run::desk::Desk;
use crate::run::fetch::fetch;
use crate::run::trainer::Work;
use crate::status::OrderState;
use manta_protocol::effect::{RunStart, Verdict};
use manta_protocol::run::Phase;
use manta_protocol::{Effect, Event, PeerId, RunId};
use std::net::SocketAddr;
use std::sync::Arc;

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Publish { bytes } => self.command(NetCommand::Publish { topic: TOPIC.into(), bytes }),
            Effect::GossipVerdict { message, verdict } => {
                if let Some(message) = self.gossip.remove(&message) {
                    self.command(NetCommand::Verdict { message, verdict: verdict_of(verdict) });
                }
            }
            Effect::SendFrame { id, to, bytes } => {
                if self.parts.net.command(NetCommand::SendFrame { id: id.0, to, bytes }).is_err() {
                    tracing::warn!(peer = %to.short(), "the network task is behind: a message was not sent");
                }
            }
            Effect::Misbehaviour { peer, what } => {
                tracing::warn!(peer = %peer.short(), what, "a peer breaks the rules")
            }
            Effect::Disconnect { peer, why } => self.shut_out(peer, why),
            Effect::Prepare(start) => self.prepare(start),
            Effect::ComputeGradient { run, step } => {
                let now = self.last_now;
                self.board.step_began(run, step, now);
                self.ask(run, Work::Gradient { run, step });
            }
            Effect::ChunkVerdict { keep, .. } => {
                if let (true, Some((step, phase, chunk, rank, bytes))) = (keep, self.arriving.take())
                    && let Some(open) = &mut self.run
                {
                    open.desk.keep(step, phase, chunk, rank, bytes);
                }
            }
            Effect::SendChunk { run, to, step, phase, chunk } => self.send_chunk(run, to, step, phase, chunk),
            Effect::Reduce { run, step, chunk } => {
                let contributions = self.run.as_ref().map(|open| open.desk.contributions(step, chunk));
                self.ask(run, Work::Reduce { run, step, chunk, contributions: contributions.unwrap_or_default() });
            }
            Effect::Apply { run, step } => {
                let sums = self.run.as_mut().map(|open| open.desk.finish(step)).unwrap_or_default();
                self.ask(run, Work::Apply { run, step, sums });
            }
            Effect::HashParameters { run, round } => self.ask(run, Work::Hash { run, round }),
            Effect::Save { run } => self.begin_saving(run),
            Effect::Close { run, failure } => self.closed(run, failure),
            Effect::Notify(event) => self.event(event),
        }
    }

    pub(super) fn prepare(&mut self, start: Arc<RunStart>) {
        let now = self.last_now;
        tracing::info!(run = %start.run.short(), members = start.members.len(), rank = start.rank, "a run begins");
        self.board.run_began(&start, now);
        for member in start.members.iter().filter(|member| member.peer != start.me()) {
            let known_at: Vec<Vec<u8>> = member.addresses.iter().map(|address| address.0.clone()).collect();
            let known = self.connected.get(&member.peer).copied().flatten();
            let ips = known
                .into_iter()
                .chain(known_at.iter().filter_map(|bytes| addresses::ip(&addresses::from_bytes(bytes)?)));
            let sockets = dedup(ips.map(|ip| SocketAddr::new(ip, member.bulk_port)));
            self.parts.bulk.set_peer_addresses(member.peer, sockets);
            self.command(NetCommand::AddAddresses { peer: member.peer, addresses: known_at.clone() });
            self.command(NetCommand::Guard { peer: member.peer, addresses: known_at });
        }
        self.run = Some(OpenRun { start: start.clone(), desk: Desk::default(), problem: None, failure: None });
        let (bulk, store, library) = (self.parts.bulk.clone(), self.parts.store.clone(), self.parts.library.clone());
        self.spawn(async move { TaskDone::DataFetched(start.clone(), fetch(start, bulk, store, library).await) });
    }

    pub(super) fn send_chunk(&mut self, run: RunId, to: PeerId, step: u64, phase: Phase, chunk: u32) {
        let Some(open) = self.run.as_ref() else { return };
        let steps_per_round = u64::from(open.start.spec.steps_per_round);
        let header = ChunkHeader {
            run,
            round: u32::try_from(step / steps_per_round).unwrap_or(u32::MAX),
            step: u32::try_from(step % steps_per_round).unwrap_or(u32::MAX),
            phase,
            index: chunk,
        };
        let sent = match open.desk.outgoing(step, phase, chunk, open.start.rank) {
            Some(bytes) => self.parts.bulk.send_chunk(to, header, bytes).map_err(|error| error.to_string()),
            None => Err("the chunk is not here".into()),
        };
        if let Err(problem) = sent {
            tracing::error!(peer = %to.short(), problem, "a chunk cannot be sent");
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::ListingHeard { peer } => {
                tracing::debug!(peer = %peer.short(), "an offer was heard");
                if let Some(listing) =
                    self.parts.node.listings().find(|(of, _)| **of == peer).map(|(_, listing)| listing)
                {
                    let addresses = listing.addresses.iter().map(|address| address.0.clone()).collect();
                    self.command(NetCommand::AddAddresses { peer, addresses });
                }
            }
            Event::DemandHeard { .. } => self.board.status.demands_heard += 1,
            Event::Refused { why } => {
                self.board.status.envelopes_refused += 1;
                tracing::debug!(why, "an envelope was refused");
            }
            Event::ReservationAnswered { order, peer, answer } => {
                tracing::info!(order = order.0, peer = %peer.short(), ?answer, "a reservation was answered");
            }
            Event::OrderMatched { order, run } => {
                self.board.order_matched(order, run);
                if let Some(open) = self.orders.get_mut(&order) {
                    open.run = Some(run);
                }
            }
            Event::RunNotBegun { run, why } => {
                tracing::error!(run = %run.short(), why, "a run cannot begin on this machine");
                if let Some(order) = self.orders.iter().find(|(_, open)| open.run == Some(run)).map(|(order, _)| *order)
                {
                    self.orders.remove(&order);
                    let message = format!("the run could not begin: {why}; order again");
                    self.board.order_is(order, OrderState::Failed, message);
                }
            }
            Event::OrderFailed { order, found, needed, listings, mismatches, refused } => {
                self.forget_order(order);
                let why = describe_no_match(found, needed, listings, &mismatches, refused);
                self.board.order_is(order, OrderState::Failed, why);
            }
            Event::LeftOut { order, peers, share } => {
                let why = describe_left_out(peers, share);
                tracing::warn!(order = order.0, "{why}");
                self.board.left_out(order, why);
            }
            Event::Admitted { peer, permission } => self.admitted(peer, &permission),
            Event::Revoked(revocation) => self.revocation_heard(*revocation),
            Event::Dismissed => self.dismissed(),
            Event::MemberReady { run, peer } => self.board.member_ready(run, peer),
            Event::StepDone { run, step } => self.board.step_done(run, step),
            Event::RoundDone { run, reports } => {
                let now = self.last_now;
                self.board.round_done(run, &reports, now);
                let last = self.board.run(run).and_then(|status| status.losses.last().copied());
                tracing::info!(run = %run.short(), round = reports.first().map(|report| report.round), loss = last, "round done");
            }
        }
    }
}

fn verdict_of(verdict: Verdict) -> swarm::Verdict {
    match verdict {
        Verdict::Accept => swarm::Verdict::Accept,
        Verdict::Ignore => swarm::Verdict::Ignore,
        Verdict::Reject => swarm::Verdict::Reject,
    }
}

fn dedup(sockets: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut kept = Vec::new();
    for socket in sockets.filter(|socket| socket.port() != 0) {
        if !kept.contains(&socket) {
            kept.push(socket);
        }
    }
    kept
}
