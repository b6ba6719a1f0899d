//! What comes in from the network, the trainer and finished tasks, as inputs of the node.

use super::{Driver, TaskDone};
use crate::net::bulk::{BulkEvent, ChunkHeader};
use crate::net::frame::FrameAnswer;
use crate::net::swarm::{NetCommand, NetEvent};
use crate::run::fetch::Shelf;
use crate::run::trainer::{Answer, Work};
use crate::status::OrderState;
use bytes::Bytes;
use manta_protocol::effect::RunStart;
use manta_protocol::input::Done;
use manta_protocol::run::Phase;
use manta_protocol::{Command, Input, PeerId, RunId};
use std::sync::Arc;

impl Driver {
    pub(super) fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::PeerConnected { peer, remote_ip } => {
                self.connected.insert(peer, remote_ip);
                tracing::info!(peer = %peer.short(), "connected");
                self.input(Input::PeerConnected { peer });
            }
            NetEvent::PeerDisconnected { peer } => {
                tracing::info!(peer = %peer.short(), "disconnected");
                self.connected.remove(&peer);
                // What is on its way to it fails now, and is sent again if it turns out to be there.
                self.parts.bulk.drop_peer(&peer);
                self.input(Input::PeerDisconnected { peer });
            }
            NetEvent::Guarded { peer } => {
                tracing::debug!(peer = %peer.short(), "a crash of this member will show at once")
            }
            // Somebody listens now who did not before: what was said is said again.
            NetEvent::Subscribed { peer, topic } => {
                tracing::debug!(peer = %peer.short(), topic, "listens");
                self.input(Input::PeerConnected { peer });
            }
            NetEvent::Gossip { message, from, topic, bytes } => {
                tracing::trace!(from = %from.short(), topic, bytes = bytes.len(), "gossip");
                self.next_gossip += 1;
                self.gossip.insert(self.next_gossip, message);
                self.input(Input::Gossip { message: self.next_gossip, bytes });
            }
            NetEvent::Frame { from, bytes, reply } => {
                self.command(NetCommand::AnswerFrame { reply, answer: FrameAnswer::Accepted });
                self.input(Input::Frame { from, bytes });
            }
            NetEvent::FrameDelivered { id } => self.input(Input::FrameDelivered { id: manta_protocol::EffectId(id) }),
            NetEvent::FrameFailed { id, failure } => {
                tracing::debug!(%failure, "a direct message was not delivered");
                self.input(Input::FrameFailed { id: manta_protocol::EffectId(id) });
            }
            NetEvent::PublishFailed { topic, failure } => tracing::debug!(topic, %failure, "not gossiped"),
            NetEvent::ForeignPeer { peer, protocol } => {
                tracing::warn!(peer = %peer.short(), protocol, "a peer of another network was disconnected");
            }
            NetEvent::Listening { address } => {
                tracing::info!(%address, "listening");
                self.addresses_changed = true;
            }
            NetEvent::ListeningEnded { address, reason } => {
                tracing::warn!(%address, ?reason, "not listening any more");
                self.addresses_changed = true;
            }
        }
    }

    pub(super) fn bulk_event(&mut self, event: BulkEvent) {
        match event {
            BulkEvent::Chunk { from, header, bytes } => self.chunk_arrived(from, header, bytes),
            BulkEvent::ChunkDelivered { to, header } => tracing::trace!(peer = %to.short(), ?header, "chunk delivered"),
            BulkEvent::ChunkFailed { to, header, failure } => {
                tracing::warn!(peer = %to.short(), %failure, "a chunk was not delivered");
                self.input(Input::BulkFailed { run: header.run, peer: to });
            }
        }
    }

    pub(super) fn chunk_arrived(&mut self, from: PeerId, header: ChunkHeader, bytes: Bytes) {
        let Some(open) = self.run.as_ref().filter(|open| open.start.run == header.run) else { return };
        let Some(rank) = open.start.rank_of(&from) else { return };
        let Some(step) = global_step(&open.start, header.round, header.step) else { return };
        // A broken length is left to the node to name: one more than whole values is never the planned length.
        let elements = (bytes.len() as u64).div_ceil(4) + u64::from(!bytes.len().is_multiple_of(4));
        self.next_transfer += 1;
        let (transfer, chunk, phase) = (self.next_transfer, header.index, header.phase);
        self.arriving = Some((step, phase, chunk, rank, bytes));
        self.input(Input::ChunkArrived { transfer, from, run: header.run, step, phase, chunk, elements });
        self.arriving = None;
    }

    pub(super) fn trainer_answer(&mut self, run: RunId, answer: Answer) {
        let Some(open) = self.run.as_mut().filter(|open| open.start.run == run) else { return };
        let done = match answer {
            Answer::Prepared { parameter_hash } => {
                self.board.prepared(run, parameter_hash);
                Done::Prepared { parameter_hash }
            }
            Answer::Gradient { step, loss, compute_ms, chunks } => {
                let rank = open.start.rank;
                for (chunk, bytes) in (0..).zip(chunks) {
                    open.desk.keep(step, Phase::Contribution, chunk, rank, bytes);
                }
                Done::Gradient { step, loss, compute_ms }
            }
            Answer::Reduced { step, chunk, sum } => {
                let rank = open.start.rank;
                open.desk.keep(step, Phase::Sum, chunk, rank, sum);
                Done::Reduced { step, chunk }
            }
            Answer::Applied { step } => Done::Applied { step },
            Answer::Hashed { round, parameter_hash } => Done::Hashed { round, parameter_hash },
            Answer::DeviceFailed { problem, gone, rescued } => {
                return self.device_failed(run, &problem, gone, rescued);
            }
            Answer::Exported(export) => return self.save(run, *export),
            Answer::Failed { problem, culprit } => {
                let culprit = culprit.map(|rank| open.start.members[rank].peer);
                return self.cannot_compute(run, problem, culprit);
            }
        };
        self.input(Input::Trainer { run, done });
    }

    /// The graphics device has failed. What is offered from now on is what is
    /// left; a machine that cannot even finish its run natively offers nothing.
    pub(super) fn device_failed(&mut self, run: RunId, problem: &str, gone: bool, rescued: bool) {
        tracing::error!(run = %run.short(), problem, rescued, "the graphics device has failed; the processor goes on");
        self.board.device_failed(run, problem);
        if gone {
            self.parts.machine.retreat(problem);
            self.board.computes_on(&self.parts.machine);
            self.parts.listing.devices = vec![self.parts.machine.listed.clone()];
            if rescued {
                self.offer();
            }
        }
        if !rescued {
            tracing::error!("the offer of this machine is withdrawn; restart this peer when the device works again");
            self.withdrawn = true;
            self.input(Input::Command(Command::Withdraw));
        }
    }

    pub(super) fn cannot_compute(&mut self, run: RunId, problem: String, culprit: Option<PeerId>) {
        tracing::error!(run = %run.short(), problem, "the run cannot be computed here");
        if let Some(open) = self.run.as_mut().filter(|open| open.start.run == run) {
            open.problem = Some(problem);
            if open.failure.is_some() {
                return self.close(run);
            }
        }
        self.input(Input::TrainerFailed { run, culprit });
    }

    pub(super) fn task_done(&mut self, done: TaskDone) {
        match done {
            TaskDone::OrderRead(order, Ok(prepared)) => self.order_read(order, prepared),
            TaskDone::OrderRead(order, Err(problem)) => {
                self.forget_order(order);
                self.board.order_is(order, OrderState::Failed, problem);
            }
            TaskDone::DataFetched(start, Ok(data)) => {
                if self.run.as_ref().is_some_and(|open| open.start.run == start.run) {
                    self.ask(start.run, Work::Prepare { start: start.clone(), data: Arc::new(data) });
                } else {
                    // The run was closed meanwhile; what the fetching has opened is closed after it.
                    self.parts.bulk.release(&start.run);
                    self.parts.library.close(Shelf::Run(start.run));
                }
            }
            TaskDone::DataFetched(start, Err(problem)) => self.cannot_compute(start.run, problem, None),
            TaskDone::Saved(run, saved) => self.saved(run, saved),
        }
    }
}

/// The step of the run, from the round and the step within it that a stranger
/// named; `None` if there is no such step in a round.
fn global_step(start: &RunStart, round: u32, step: u32) -> Option<u64> {
    let per_round = start.spec.steps_per_round;
    (step < per_round).then(|| u64::from(round) * u64::from(per_round) + u64::from(step))
}
