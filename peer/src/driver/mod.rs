//! The only loop: what happens → the node → what it wants done.
//!
//! The node decides; this module carries out: [`inputs`] brings what happens to
//! it, [`effects`] does what it wants; [`members`] lets members in and out,
//! [`recovery`] moves whole states; [`orders`] and [`ending`] stand at both ends
//! of a run. It owns the chunks that wait ([`OpenRun`]) and tells the board what
//! to show. File work and fetching run as tasks that report back through `tasks`.
//!
//! Fail-stop: once a promise cannot be made durable, nothing is said any more.

mod answers;
mod effects;
mod ending;
mod inputs;
mod invitations;
pub(crate) mod ledger;
mod ledger_recovery;
mod members;
mod open_run;
mod orders;
mod recovery;

use crate::api::{Control, OrderRequest};
use crate::board::Board;
use crate::device::Machine;
use crate::drill::Driller;
use crate::net::bulk::{BulkEvent, BulkHandle};
use crate::net::swarm::{GossipMessageId, NetCommand, NetEvent, NetHandle, NetSnapshot};
use crate::net::ticket::Ticket;
use crate::papers::Papers;
use crate::run::fetch::Fetched;
use crate::run::keeper::{Found, Keeper, KeptOrder};
use crate::run::library::Library;
use crate::run::order::Prepared;
use crate::run::save::Saved;
use crate::run::state::{Cut, RunState};
use crate::run::trainer::{Trainer, Work};
use crate::status::{OrderState, Status};
use crate::store::blobs::BlobStore;
use crate::store::state_file::StateFolder;
use crate::store::tables::Tables;
use ledger::Book;
use manta_protocol::effect::RunStart;
use manta_protocol::market::listing::{Address, Listing};
use manta_protocol::run::report::AbortReason;
use manta_protocol::wire::Identity;
use manta_protocol::wire::limits::ADDRESSES_MAX;
use manta_protocol::{Command, Hash, Input, NetworkId, Node, OrderId, PeerId, RunId, Time};
use open_run::OpenRun;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
    /// The data, and the own state where the run goes on after a restart.
    DataFetched(Arc<RunStart>, Result<(Fetched, Option<RunState>), String>),
    /// A state that newcomers may fetch; the number tells the latest.
    StateCut(RunId, u64, u64, Result<Cut, String>),
    StateFetched(RunId, u64, Result<RunState, String>),
    Checkpointed(RunId, u64, Result<(), String>),
    ResultFetched(RunId, Result<RunState, String>),
    Saved(RunId, Result<Saved, String>),
    /// The result is kept for its owner.
    Kept(RunId, Hash, Result<(), String>),
}

/// An order until its run has ended.
#[derive(Debug)]
struct OpenOrder {
    request: OrderRequest,
    /// Entropy of the training unigram model on the validation part, once the data is read.
    unigram_loss: Option<f64>,
    run: Option<RunId>,
}

/// What the driver works with.
pub(crate) struct Parts {
    pub(crate) network: NetworkId,
    pub(crate) node: Node,
    /// Signs invitations.
    pub(crate) identity: Identity,
    pub(crate) papers: Papers,
    /// Of this peer, where it is now; it invites nobody.
    pub(crate) ticket: Ticket,
    /// Where the papers lie.
    pub(crate) data_dir: PathBuf,
    pub(crate) net: NetHandle,
    pub(crate) bulk: BulkHandle,
    pub(crate) trainer: Trainer,
    pub(crate) store: Arc<BlobStore>,
    pub(crate) library: Arc<Library>,
    pub(crate) tables: Tables,
    pub(crate) keeper: Keeper,
    pub(crate) states: StateFolder,
    /// The ledger on disk, and how this peer takes part in it.
    pub(crate) book: Book,
    pub(crate) driller: Driller,
    /// Where diaries of runs are kept, if at all.
    pub(crate) diaries: Option<PathBuf>,
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
    connected: BTreeMap<PeerId, Option<IpAddr>>,
    orders: BTreeMap<OrderId, OpenOrder>,
    next_order: u64,
    addresses_changed: bool,
    run: Option<OpenRun>,
    /// Runs whose results are kept here for their owners; the node says how long.
    results: BTreeSet<RunId>,
    /// The machine can compute nothing any more.
    withdrawn: bool,
    /// Why nothing may be promised any more.
    fatal: Option<String>,
    last_now: Time,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let (tasks, tasks_done) = mpsc::channel(TASK_CAPACITY);
        let mut board = Board::new(parts.node.peer_id(), parts.status.clone());
        board.status.membership = invitations::membership(&parts);
        Self {
            parts,
            board,
            tasks,
            tasks_done,
            gossip: BTreeMap::new(),
            next_gossip: 0,
            connected: BTreeMap::new(),
            orders: BTreeMap::new(),
            next_order: 1,
            addresses_changed: false,
            run: None,
            results: BTreeSet::new(),
            withdrawn: false,
            fatal: None,
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
            // What comes after a promise that could not be kept must not be done.
            if self.fatal.is_none() {
                self.perform(effect);
            }
        }
    }

    /// Runs until `stop` is done; then leaves the run and withdraws the offer.
    ///
    /// # Errors
    /// Why nothing can be promised any more.
    pub(crate) async fn run(mut self, mut sources: Sources, stop: impl Future<Output = ()>) -> Result<(), String> {
        tokio::pin!(stop);
        for event in std::mem::take(&mut sources.early) {
            self.net_event(event);
        }
        // The offer says where we are, for those whom we come back to.
        self.offer();
        self.resume();
        let mut show = tokio::time::interval(SHOW_INTERVAL);
        let mut remember = tokio::time::interval(REMEMBER_INTERVAL);
        loop {
            if let Some(fatal) = self.fatal {
                return Err(fatal);
            }
            let wait = self.parts.node.poll_timeout().since(self.now());
            tokio::select! {
                () = &mut stop => break,
                Some(event) = sources.net.recv() => self.net_event(event),
                Some(event) = sources.bulk.recv() => self.bulk_event(event),
                Some((run, answer)) = self.parts.trainer.answers.recv() => self.trainer_answer(run, answer),
                Some(done) = self.tasks_done.recv() => self.task_done(done),
                Some(()) = self.parts.driller.measured.recv() => self.begin_ledger(),
                Some(finished) = self.parts.driller.finished.recv() => self.drilled(finished),
                Some(control) = sources.control.recv() => self.control(control),
                _ = show.tick() => {
                    self.follow_addresses().await;
                    self.begin_ledger();
                    self.show();
                }
                _ = remember.tick() => self.remember().await,
                () = tokio::time::sleep(Duration::from_nanos(wait.0)) => self.input(Input::Tick),
            }
        }
        self.leave(&mut sources).await;
        Ok(())
    }

    async fn leave(&mut self, sources: &mut Sources) {
        // An own run goes on without us, and we with it after the next start.
        if let Some(run) = self.run.as_ref().filter(|open| !self.is_own(open.start.run)).map(|open| open.start.run) {
            self.input(Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }));
        }
        self.input(Input::Command(Command::Withdraw));
        self.stand_by();
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

    /// Goes on with what was going on before a restart.
    fn resume(&mut self) {
        let Found { records, orders } = self.parts.keeper.found();
        for (run, KeptOrder { request, unigram_loss }) in orders {
            let order = OrderId(self.next_order);
            self.next_order += 1;
            self.board.order_placed(order);
            self.board.order_matched(order, run);
            let unigram_loss = Some(unigram_loss);
            self.orders.insert(order, OpenOrder { request, unigram_loss, run: Some(run) });
        }
        for (run, record) in records {
            self.input(Input::Command(Command::Resume { record }));
            if self.open_run(run).is_some() {
                tracing::info!(run = %run.short(), "goes on with a run after a restart");
            }
        }
        // A run that is over, or never began, leaves nothing to be done for its order.
        let over: Vec<_> = self.orders.iter().filter_map(|(order, open)| Some((*order, open.run?))).collect();
        for (order, run) in over {
            if self.open_run(run).is_none() {
                tracing::info!(run = %run.short(), "an own run was over before the restart");
                self.orders.remove(&order);
                self.board.order_is(
                    order,
                    OrderState::Failed,
                    "its run was over before this peer was restarted".into(),
                );
                self.forget_kept_order(run);
            }
        }
    }

    /// Whether a run came of an order of this peer.
    fn is_own(&self, run: RunId) -> bool {
        self.orders.values().any(|order| order.run == Some(run))
    }

    /// Unix time, never backwards.
    fn now(&mut self) -> Time {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = Time(u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX));
        self.last_now = self.last_now.max(now);
        self.last_now
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
        self.show_ledger();
        let (node, now) = (&self.parts.node, self.last_now);
        self.board.show_listings(node.listings(), |peer| invitations::relation(node, peer, now));
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
        let me = self.parts.node.peer_id();
        self.parts.ticket = Ticket::new(self.parts.network, me, snapshot.advertised.clone())
            .in_swarm(self.parts.papers.genesis.clone());
        self.board.status.ticket = self.parts.ticket.to_string();
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
