//! What comes in from the network, the trainer and finished tasks, as inputs of the node.

use super::open_run::Waiting;
use super::{Driver, TaskDone};
use crate::net::bulk::{BulkEvent, ChunkHeader};
use crate::net::frame::FrameAnswer;
use crate::net::swarm::{NetCommand, NetEvent};
use crate::run::fetch::Fetched;
use crate::run::library::Shelf;
use crate::run::state::RunState;
use crate::run::trainer::{Answer, Work};
use crate::status::OrderState;
use bytes::Bytes;
use manta_protocol::effect::{Entry, RunStart};
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
                tracing::debug!(peer = %to.short(), %failure, "a chunk was not delivered");
                let ChunkHeader { run, exchange, phase, index: chunk, .. } = header;
                self.input(Input::BulkFailed { run, peer: to, exchange, phase, chunk });
            }
        }
    }

    pub(super) fn chunk_arrived(&mut self, from: PeerId, header: ChunkHeader, bytes: Bytes) {
        let ChunkHeader { run, exchange, view, phase, index: chunk } = header;
        let Some(open) = self.open_run(run) else { return };
        // A broken length is left to the node to name: one more than whole values is never the planned length.
        let elements = (bytes.len() as u64).div_ceil(4) + u64::from(!bytes.len().is_multiple_of(4));
        open.next_transfer += 1;
        let transfer = open.next_transfer;
        open.waiting.insert(transfer, Waiting { exchange, phase, chunk, from, bytes });
        self.input(Input::ChunkArrived { transfer, from, run, view, exchange, phase, chunk, elements });
    }

    pub(super) fn trainer_answer(&mut self, run: RunId, answer: Answer) {
        let now = self.now();
        let Some(open) = self.run.as_mut().filter(|open| open.start.run == run) else { return };
        let me = open.start.me;
        let done = match answer {
            Answer::StateNotLoaded { exchange, problem } => return self.state_not_loaded(run, exchange, &problem),
            Answer::StateLoaded { exchange } => Done::StateLoaded { exchange },
            Answer::Prepared { parameter_hash } => {
                open.prepared = true;
                if let Some(state) = open.result.take() {
                    self.ask(run, Work::LoadResult { run, state });
                }
                self.board.prepared(run, parameter_hash);
                Done::Prepared { parameter_hash }
            }
            Answer::Computed { exchange, plan, loss, compute_ms, values } => {
                if !open.computed(exchange, plan, &values, now) {
                    return;
                }
                Done::Computed { exchange, plan, loss, compute_ms }
            }
            Answer::Reduced { exchange, view, chunk, sum } => {
                open.desk.keep(exchange, Phase::Sum, chunk, me, sum);
                Done::Reduced { exchange, view, chunk }
            }
            Answer::Applied { exchange } => Done::Applied { exchange },
            Answer::Hashed { exchange, parameter_hash } => Done::Hashed { exchange, parameter_hash },
            Answer::State { purpose, state } => return self.state_given(run, purpose, state),
            Answer::ResultLoaded => return self.ask(run, Work::Export { run, evaluate: true }),
            Answer::DeviceFailed { problem, gone, rescued } => {
                return self.device_failed(run, &problem, gone, rescued);
            }
            Answer::Exported(export) => return self.exported(run, *export),
            Answer::Failed { problem, culprit } => return self.cannot_compute(run, problem, culprit),
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
            if open.retrieving && open.prepared {
                return self.not_retrieved(run, &problem);
            }
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
            TaskDone::DataFetched(start, Ok((fetched, state))) => self.data_fetched(start, fetched, state),
            TaskDone::DataFetched(start, Err(problem)) => self.cannot_compute(start.run, problem, None),
            TaskDone::StateCut(run, number, exchange, cut) => self.state_cut(run, number, exchange, cut),
            TaskDone::StateFetched(run, exchange, fetched) => self.state_fetched(run, exchange, fetched),
            TaskDone::Checkpointed(run, exchange, written) => self.checkpointed(run, exchange, written),
            TaskDone::ResultFetched(run, fetched) => self.result_fetched(run, fetched),
            TaskDone::Saved(run, saved) => self.saved(run, saved),
            TaskDone::Kept(run, root, kept) => self.result_kept(run, root, kept),
        }
    }

    /// The data of a run is here; what the engine begins with follows from how we come to it.
    fn data_fetched(&mut self, start: Arc<RunStart>, fetched: Fetched, state: Option<RunState>) {
        let run = start.run;
        let Some(open) = self.open_run(run) else {
            // The run was closed meanwhile; what the fetching has opened is closed after it.
            return self.parts.library.close(Shelf::Data(run));
        };
        open.tokenizer = fetched.tokenizer.clone();
        // Who came or went while the data was fetched.
        let admitted = open.admitted.clone();
        self.parts.library.set_readers(run, &admitted);
        if let (Entry::Again { checkpoint: Some(exchange) }, None) = (start.entry, &state) {
            self.state_not_loaded(run, exchange, "the own checkpoint is not there any more");
        }
        let Fetched { data, initial, .. } = fetched;
        self.ask(run, Work::Prepare { start, data: Arc::new(data), initial, state });
    }
}
