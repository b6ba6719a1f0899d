//! The only loop: what happens → the node → what it wants done.
//!
//! The node decides; this file carries out. It owns the chunks that wait
//! ([`Desk`]) and tells the board what to show. File work and fetching run as
//! tasks that report back through `tasks`.

use crate::api::{Control, OrderAccepted, OrderRequest};
use crate::board::{Board, describe_failure, describe_no_match};
use crate::data::DataSet;
use crate::data::tokenizer::TokenizerKind;
use crate::device::Machine;
use crate::net::addresses;
use crate::net::bulk::{BulkEvent, BulkHandle, ChunkHeader};
use crate::net::frame::FrameAnswer;
use crate::net::swarm::{self, GossipMessageId, NetCommand, NetEvent, NetHandle, NetSnapshot};
use crate::net::ticket::Ticket;
use crate::run::desk::Desk;
use crate::run::fetch::{Library, Shelf, blocking, fetch};
use crate::run::order::{self, Prepared};
use crate::run::save::{self, Saved};
use crate::run::trainer::{Answer, Trainer, Work};
use crate::status::{OrderState, RunState, Status};
use crate::store::blobs::BlobStore;
use crate::store::tables::Tables;
use bytes::Bytes;
use manta_protocol::effect::{RunFailure, RunStart, Verdict};
use manta_protocol::input::Done;
use manta_protocol::market::listing::{Address, Listing};
use manta_protocol::run::Phase;
use manta_protocol::run::report::AbortReason;
use manta_protocol::wire::limits::ADDRESSES_MAX;
use manta_protocol::{Command, Effect, Event, Input, NetworkId, Node, OrderId, PeerId, RunId, Time};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Finished tasks that may wait.
pub(crate) const TASK_CAPACITY: usize = 64;
/// How often the board is shown while nothing else makes it.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);
/// How often the peers that are known are written down.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(30);
/// The only gossip topic: kinds of messages do not yet come in such numbers that they would need their own.
pub(crate) const TOPIC: &str = "market";

/// What a task of the driver brings back.
#[derive(Debug)]
pub(crate) enum TaskDone {
    OrderRead(OrderId, Result<Box<Prepared>, String>),
    DataFetched(Arc<RunStart>, Result<DataSet, String>),
    Saved(RunId, Result<Saved, String>),
}

/// An order until its run has ended.
#[derive(Debug)]
struct OpenOrder {
    request: OrderRequest,
    prepared: Option<Box<Prepared>>,
    run: Option<RunId>,
}

/// The run that goes on here.
#[derive(Debug)]
struct OpenRun {
    start: Arc<RunStart>,
    desk: Desk,
    /// What went wrong here, for the message to people.
    problem: Option<String>,
    /// Why it has ended early; the parameters may still be on their way to disk.
    failure: Option<RunFailure>,
}

/// What the driver works with.
pub(crate) struct Parts {
    pub(crate) network: NetworkId,
    pub(crate) node: Node,
    pub(crate) net: NetHandle,
    pub(crate) bulk: BulkHandle,
    pub(crate) trainer: Trainer,
    pub(crate) store: Arc<BlobStore>,
    pub(crate) library: Arc<Library>,
    pub(crate) tables: Tables,
    /// Models are saved below this folder if they cannot go where they should.
    pub(crate) models: PathBuf,
    /// What is offered.
    pub(crate) listing: Listing,
    /// To everybody, or only to orders of this peer.
    pub(crate) offer_public: bool,
    pub(crate) status: Status,
    pub(crate) show: watch::Sender<Arc<Status>>,
    pub(crate) machine: Machine,
}

/// What comes in from outside.
pub(crate) struct Sources {
    /// What came while the peer started.
    pub(crate) early: Vec<NetEvent>,
    pub(crate) net: mpsc::Receiver<NetEvent>,
    pub(crate) bulk: mpsc::Receiver<BulkEvent>,
    pub(crate) control: mpsc::Receiver<Control>,
}

/// The driver; see the module.
pub(crate) struct Driver {
    parts: Parts,
    board: Board,
    tasks: mpsc::Sender<TaskDone>,
    tasks_done: mpsc::Receiver<TaskDone>,
    gossip: BTreeMap<u64, GossipMessageId>,
    next_gossip: u64,
    /// The chunk that the node is being asked about.
    arriving: Option<(u64, Phase, u32, usize, Bytes)>,
    next_transfer: u64,
    connected: BTreeMap<PeerId, Option<IpAddr>>,
    orders: BTreeMap<OrderId, OpenOrder>,
    next_order: u64,
    addresses_changed: bool,
    run: Option<OpenRun>,
    /// The machine can compute nothing any more.
    withdrawn: bool,
    last_now: Time,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let (tasks, tasks_done) = mpsc::channel(TASK_CAPACITY);
        let board = Board::new(parts.node.peer_id(), parts.status.clone());
        Self {
            parts,
            board,
            tasks,
            tasks_done,
            gossip: BTreeMap::new(),
            next_gossip: 0,
            arriving: None,
            next_transfer: 0,
            connected: BTreeMap::new(),
            orders: BTreeMap::new(),
            next_order: 1,
            addresses_changed: false,
            run: None,
            withdrawn: false,
            last_now: Time(0),
        }
    }

    /// Offers the machine, at the addresses where it is now.
    fn offer(&mut self) {
        if self.withdrawn {
            return;
        }
        let listing = Box::new(self.parts.listing.clone());
        let command = if self.parts.offer_public { Command::Offer(listing) } else { Command::OfferToSelf(listing) };
        self.input(Input::Command(command));
    }

    /// Hands one input to the node and carries out all that follows.
    pub(crate) fn input(&mut self, input: Input) {
        let now = self.now();
        self.parts.node.handle(input, now);
        while let Some(effect) = self.parts.node.poll_effect() {
            self.perform(effect);
        }
    }

    /// Runs until `stop` is done; then leaves the run and withdraws the offer.
    pub(crate) async fn run(mut self, mut sources: Sources, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        for event in std::mem::take(&mut sources.early) {
            self.net_event(event);
        }
        self.offer();
        let mut show = tokio::time::interval(SHOW_INTERVAL);
        let mut remember = tokio::time::interval(REMEMBER_INTERVAL);
        loop {
            let wait = self.parts.node.poll_timeout().since(self.now());
            tokio::select! {
                () = &mut stop => break,
                Some(event) = sources.net.recv() => self.net_event(event),
                Some(event) = sources.bulk.recv() => self.bulk_event(event),
                Some((run, answer)) = self.parts.trainer.answers.recv() => self.trainer_answer(run, answer),
                Some(done) = self.tasks_done.recv() => self.task_done(done),
                Some(control) = sources.control.recv() => self.control(control),
                _ = show.tick() => {
                    self.follow_addresses().await;
                    self.show();
                }
                _ = remember.tick() => self.remember().await,
                () = tokio::time::sleep(Duration::from_nanos(wait.0)) => self.input(Input::Tick),
            }
        }
        self.leave(&mut sources).await;
    }

    async fn leave(&mut self, sources: &mut Sources) {
        if let Some(run) = self.run.as_ref().map(|run| run.start.run) {
            self.input(Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }));
        }
        self.input(Input::Command(Command::Withdraw));
        // What was just said gets this long to reach the others.
        let grace = tokio::time::sleep(Duration::from_millis(300));
        tokio::pin!(grace);
        loop {
            tokio::select! {
                () = &mut grace => break,
                Some(event) = sources.net.recv() => self.net_event(event),
                Some((run, answer)) = self.parts.trainer.answers.recv() => self.trainer_answer(run, answer),
                Some(done) = self.tasks_done.recv() => self.task_done(done),
            }
        }
        self.remember().await;
        self.show();
        self.command(NetCommand::Shutdown);
        self.parts.bulk.shutdown().await;
    }

    /// Unix time, never backwards.
    fn now(&mut self) -> Time {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = Time(u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX));
        self.last_now = self.last_now.max(now);
        self.last_now
    }

    fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::PeerConnected { peer, remote_ip } => {
                self.connected.insert(peer, remote_ip);
                tracing::info!(peer = %peer.short(), "connected");
                self.input(Input::PeerConnected { peer });
            }
            NetEvent::PeerDisconnected { peer } => {
                tracing::info!(peer = %peer.short(), "disconnected");
                self.connected.remove(&peer);
                self.input(Input::PeerDisconnected { peer });
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

    fn bulk_event(&mut self, event: BulkEvent) {
        match event {
            BulkEvent::Chunk { from, header, bytes } => self.chunk_arrived(from, header, bytes),
            BulkEvent::ChunkDelivered { to, header } => tracing::trace!(peer = %to.short(), ?header, "chunk delivered"),
            BulkEvent::ChunkFailed { to, header, failure } => {
                tracing::warn!(peer = %to.short(), %failure, "a chunk was not delivered");
                self.input(Input::BulkFailed { run: header.run, peer: to });
            }
        }
    }

    fn chunk_arrived(&mut self, from: PeerId, header: ChunkHeader, bytes: Bytes) {
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

    fn trainer_answer(&mut self, run: RunId, answer: Answer) {
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
    fn device_failed(&mut self, run: RunId, problem: &str, gone: bool, rescued: bool) {
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

    fn cannot_compute(&mut self, run: RunId, problem: String, culprit: Option<PeerId>) {
        tracing::error!(run = %run.short(), problem, "the run cannot be computed here");
        if let Some(open) = self.run.as_mut().filter(|open| open.start.run == run) {
            open.problem = Some(problem);
            if open.failure.is_some() {
                return self.close(run);
            }
        }
        self.input(Input::TrainerFailed { run, culprit });
    }

    fn task_done(&mut self, done: TaskDone) {
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

    fn control(&mut self, control: Control) {
        match control {
            Control::Order(request, answer) => {
                let order = OrderId(self.next_order);
                self.next_order += 1;
                self.board.order_placed(order);
                // Whoever asked looks for it at once.
                self.show();
                self.orders.insert(order, OpenOrder { request: (*request).clone(), prepared: None, run: None });
                let (store, library) = (self.parts.store.clone(), self.parts.library.clone());
                let speed = self.parts.machine.listed.multiply_adds_per_s;
                self.spawn(async move {
                    let read = blocking(move || order::prepare(order, &request, &store, &library, speed)).await;
                    TaskDone::OrderRead(order, read.map(Box::new))
                });
                // Whoever asked may have gone; the order stands all the same.
                let _ = answer.send(Ok(OrderAccepted { order: order.0 }));
            }
            Control::Stop(name, answer) => {
                let _ = answer.send(self.stop(&name));
            }
        }
    }

    fn stop(&mut self, name: &str) -> Result<(), String> {
        if let Some(run) = self.run.as_ref().map(|open| open.start.run).filter(|run| run.to_string().starts_with(name))
        {
            self.input(Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }));
            return Ok(());
        }
        let order = name
            .parse()
            .ok()
            .map(OrderId)
            .filter(|order| self.orders.get(order).is_some_and(|open| open.run.is_none()));
        if let Some(order) = order {
            self.forget_order(order);
            self.board.order_is(order, OrderState::Failed, "stopped by its user".into());
            self.input(Input::Command(Command::CancelOrder { order }));
            return Ok(());
        }
        Err(format!("nothing named {name} goes on here; `manta status` shows what does"))
    }

    fn order_read(&mut self, order: OrderId, prepared: Box<Prepared>) {
        let Some(open) = self.orders.get_mut(&order) else { return };
        tracing::info!(order = order.0, "{}", prepared.summary);
        self.board.order_is(order, OrderState::Searching, format!("looking for peers; {}", prepared.summary));
        let (spec, wish) = (Box::new(prepared.spec.clone()), prepared.wish.clone());
        open.prepared = Some(prepared);
        self.input(Input::Command(Command::Order { order, spec, wish }));
    }

    fn perform(&mut self, effect: Effect) {
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

    fn prepare(&mut self, start: Arc<RunStart>) {
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
            self.command(NetCommand::AddAddresses { peer: member.peer, addresses: known_at });
        }
        self.run = Some(OpenRun { start: start.clone(), desk: Desk::default(), problem: None, failure: None });
        let (bulk, store, library) = (self.parts.bulk.clone(), self.parts.store.clone(), self.parts.library.clone());
        self.spawn(async move { TaskDone::DataFetched(start.clone(), fetch(start, bulk, store, library).await) });
    }

    fn send_chunk(&mut self, run: RunId, to: PeerId, step: u64, phase: Phase, chunk: u32) {
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

    fn begin_saving(&mut self, run: RunId) {
        self.board.run_is(run, RunState::Saving);
        if self.orders.values().any(|order| order.run == Some(run)) {
            self.ask(run, Work::Export { run, evaluate: true });
        } else {
            self.input_later(Input::Trainer { run, done: Done::Saved });
        }
    }

    /// The node is done with a run. After a failure the owner's parameters are
    /// saved all the same, if any step was made.
    fn closed(&mut self, run: RunId, failure: Option<RunFailure>) {
        let owned = self.orders.values().any(|order| order.run == Some(run));
        let Some(open) = self.run.as_mut().filter(|open| open.start.run == run) else { return };
        match failure {
            None => {
                self.board.run_is(run, RunState::Finished);
                self.close(run);
            }
            Some(failure) => {
                tracing::error!(run = %run.short(), "{}", describe_failure(failure, open.start.me(), open.problem.as_deref()));
                let saves_already = open.failure.replace(failure).is_some();
                let trained = self.board.run(run).is_some_and(|status| status.rounds_done > 0);
                if owned && trained && !saves_already {
                    self.board.run_is(run, RunState::Saving);
                    self.ask(run, Work::Export { run, evaluate: false });
                } else {
                    self.close(run);
                }
            }
        }
    }

    fn forget_order(&mut self, order: OrderId) {
        self.orders.remove(&order);
        self.parts.library.close(Shelf::Order(order));
    }

    /// Frees all that the run holds here, and says how it ended.
    fn close(&mut self, run: RunId) {
        self.parts.bulk.release(&run);
        self.parts.library.close(Shelf::Run(run));
        self.parts.trainer.ask(Work::Close { run });
        let ended = self.orders.iter().find(|(_, order)| order.run == Some(run)).map(|(order, _)| *order);
        ended.into_iter().for_each(|order| self.forget_order(order));
        if let Some(open) = self.run.take_if(|open| open.start.run == run) {
            if let Some(failure) = open.failure {
                self.board.run_failed(run, failure, open.problem.as_deref());
            }
            open.start.members.iter().for_each(|member| self.parts.bulk.forget_peer(&member.peer));
        }
    }

    fn save(&mut self, run: RunId, export: crate::run::trainer::Export) {
        let Some(open) = self.run.as_ref().filter(|open| open.start.run == run) else { return };
        let Some(order) = self.orders.values().find(|order| order.run == Some(run)) else { return };
        let Some(status) = self.board.run(run) else { return };
        let job = save::Job {
            start: open.start.clone(),
            request: order.request.clone(),
            refuge: self.parts.models.join(run.to_string()),
            tokenizer: order.prepared.as_ref().map_or(TokenizerKind::Bytes, |prepared| prepared.tokenizer),
            unigram_loss: order.prepared.as_ref().map_or(0.0, |prepared| prepared.unigram_loss),
            losses: status.losses.clone(),
            failure: open.failure.map(|failure| failure.reason.describe()),
            export,
        };
        self.spawn(async move { TaskDone::Saved(run, blocking(move || save::save(job)).await) });
    }

    fn saved(&mut self, run: RunId, saved: Result<Saved, String>) {
        match saved {
            Ok(saved) => {
                if let Some(status) = self.board.run(run) {
                    status.val_loss = saved.val_loss;
                    status.unigram_loss = Some(saved.unigram_loss);
                    status.out = Some(saved.out.display().to_string());
                    status.warning = saved.warning;
                }
                if self.run.as_ref().is_some_and(|open| open.failure.is_some()) {
                    return self.close(run);
                }
                self.board.run_is(run, RunState::Finished);
                self.input(Input::Trainer { run, done: Done::Saved });
            }
            Err(problem) => self.cannot_compute(run, problem, None),
        }
    }

    fn event(&mut self, event: Event) {
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

    /// Gives work to the trainer; a trainer that cannot take it ends the run.
    fn ask(&mut self, run: RunId, work: Work) {
        if !self.parts.trainer.ask(work) {
            tracing::error!("the trainer thread is gone or overrun; restart this peer");
            self.input_later(Input::TrainerFailed { run, culprit: None });
        }
    }

    /// An input that follows from an effect: handled right after it.
    fn input_later(&mut self, input: Input) {
        let now = self.last_now;
        self.parts.node.handle(input, now);
    }

    fn command(&self, command: NetCommand) {
        if let Err(error) = self.parts.net.command(command) {
            tracing::warn!(%error, "the network task did not take a command");
        }
    }

    fn spawn(&self, task: impl Future<Output = TaskDone> + Send + 'static) {
        let tasks = self.tasks.clone();
        tokio::spawn(async move {
            // The driver outlives its tasks, except when the peer stops.
            let _ = tasks.send(task.await).await;
        });
    }

    fn show(&mut self) {
        let (net, bulk) = (self.parts.net.counters(), self.parts.bulk.counters());
        self.board.status.stored_bytes = self.parts.store.stored_bytes();
        self.board.status.traffic = crate::board::traffic(net, bulk);
        self.board.status.connected_peers = self.connected.keys().map(ToString::to_string).collect();
        self.board.show_listings(self.parts.node.listings());
        self.parts.show.send_replace(Arc::new(self.board.status.clone()));
    }

    /// A machine that has moved (another network, a cable pulled) is offered where it is now.
    async fn follow_addresses(&mut self) {
        if !std::mem::take(&mut self.addresses_changed) {
            return;
        }
        let Some(snapshot) = self.snapshot().await else { return };
        let shown: Vec<_> = snapshot.advertised.iter().map(ToString::to_string).collect();
        if shown.is_empty() || shown == self.board.status.addresses {
            return;
        }
        self.board.status.ticket =
            Ticket::new(self.parts.network, self.parts.node.peer_id(), snapshot.advertised.clone()).to_string();
        self.board.status.addresses = shown;
        let addresses = snapshot.advertised.iter().take(ADDRESSES_MAX).map(|address| Address(address.to_vec()));
        self.parts.listing.addresses = addresses.collect();
        self.offer();
    }

    /// What the network task knows; `None` if it is too busy to say.
    async fn snapshot(&self) -> Option<NetSnapshot> {
        // Not for long: it may be waiting for us to take its events.
        tokio::time::timeout(Duration::from_millis(200), self.parts.net.snapshot()).await.ok()?.ok()
    }

    /// Writes down which peers are known, for the next start.
    async fn remember(&mut self) {
        let Some(snapshot) = self.snapshot().await else { return };
        for known in snapshot.known {
            self.parts.tables.remember(known.peer, &known.addresses);
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

/// The step of the run, from the round and the step within it that a stranger
/// named; `None` if there is no such step in a round.
fn global_step(start: &RunStart, round: u32, step: u32) -> Option<u64> {
    let per_round = start.spec.steps_per_round;
    (step < per_round).then(|| u64::from(round) * u64::from(per_round) + u64::from(step))
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
