//! The ledger's effects and events: what is kept on the disk, what is drilled,
//! what the user asks of it.
//!
//! What has to be durable is carried out at once, as records of runs are: a few
//! milliseconds at worst, and nothing is said before. A peer whose disk cannot
//! keep it stops.

use super::Driver;
use crate::account::{LedgerPlan, RecentBlock, TransferRequest};
use crate::drill::{Finished, Job, Outcome, Refused};
use crate::store::chain::{BLOCK_BYTES_MAX, ChainError, ChainStore};
use manta_gpu_kernels::drill::GemmShape;
use manta_protocol::consensus::sync::Decision;
use manta_protocol::ledger::{Action, Block, DrillClass, DrillResult, Parameters, Transfer};
use manta_protocol::power::MicroPower;
use manta_protocol::trust::words::BLOCKS_BYTES_MAX;
use manta_protocol::trust::{Kept, LedgerOptions};
use manta_protocol::wire::codec;
use manta_protocol::{Command, Effect, Event, Hash, Input};
use std::time::{Duration, Instant};

/// How long to listen for a ledger before founding one: alone, and where others are known.
const FOUND_ALONE: Duration = Duration::from_secs(3);
const FOUND_BESIDE: Duration = Duration::from_secs(15);
/// How long to wait for the machine's speed before going on without.
const MEASURE_MAX: Duration = Duration::from_secs(10);
/// Shortest time that a unit is given.
const UNIT_MIN: Duration = Duration::from_millis(200);

/// What the driver keeps of the ledger.
#[derive(Debug)]
pub(crate) struct Book {
    pub(super) store: ChainStore,
    pub(super) plan: LedgerPlan,
    /// What this peer would call a ledger of its own.
    pub(super) name: String,
    found_after: Duration,
    /// What was kept before the start, until the node has it.
    kept: Option<Kept>,
    /// Since when the speed of the machine is waited for; `None` once the node keeps the ledger.
    begun: Option<Instant>,
    /// Units that are being computed.
    units: Vec<Hash>,
    /// Why the last command was refused.
    refusal: Option<String>,
}

impl Book {
    /// Reads what was kept. `joins`: whether somebody is known who may have a ledger.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn open(mut store: ChainStore, plan: LedgerPlan, name: &str, joins: bool) -> Result<Self, ChainError> {
        let kept = match store.genesis()? {
            None => None,
            Some(genesis) => {
                let snapshot = store.snapshot()?;
                let after = snapshot.as_ref().map_or(0, |(height, _)| *height);
                let blocks = store.read(after + 1, usize::MAX)?;
                tracing::info!(height = store.last_height(), replayed = blocks.len(), "reads the ledger that was kept");
                let recoveries = store.recoveries()?.into_iter().map(|(_, recovery)| recovery).collect();
                let snapshot = snapshot.map(|(_, state)| state);
                Some(Kept { genesis, snapshot, recoveries, blocks, log: store.log()? })
            }
        };
        let found_after = if joins { FOUND_BESIDE } else { FOUND_ALONE };
        let found_after = plan.epoch.filter(|_| !joins).map_or(found_after, |epoch| epoch.min(found_after));
        let (name, begun) = (name.to_owned(), Some(Instant::now()));
        Ok(Self { store, plan, name, found_after, kept, begun, units: Vec::new(), refusal: None })
    }

    /// Forgets why an earlier command was refused.
    pub(super) fn clear_refusal(&mut self) {
        self.refusal = None;
    }

    /// Why the last command was refused.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    fn options(&mut self, operations_per_s: u64) -> LedgerOptions {
        let parameters = match self.plan.epoch {
            None => Parameters::lan(),
            Some(epoch) => watched(millis(epoch)),
        };
        LedgerOptions {
            parameters,
            name: self.name.clone(),
            found_after_ms: millis(self.found_after),
            operations_per_s,
            takes_part: self.plan.takes_part,
            kept: self.kept.take(),
        }
    }
}

impl Driver {
    /// Hands the ledger to the node once the speed of the machine is known.
    pub(super) fn begin_ledger(&mut self) {
        let Some(begun) = self.parts.book.begun else { return };
        let speed = self.parts.driller.operations_per_s();
        if speed.is_none() && begun.elapsed() < MEASURE_MAX {
            return;
        }
        self.parts.book.begun = None;
        let options = self.parts.book.options(speed.unwrap_or(0));
        self.input(Input::Command(Command::KeepLedger(Box::new(options))));
        self.show_ledger();
    }

    /// What the ledger wants done.
    pub(super) fn ledger_effect(&mut self, effect: Effect) {
        let store = &mut self.parts.book.store;
        let kept = match &effect {
            Effect::LedgerBegin { genesis } => tokio::task::block_in_place(|| store.begin(genesis)),
            Effect::LedgerLog { height, record } => tokio::task::block_in_place(|| store.append_log(*height, record)),
            Effect::LedgerBlock { height, block } => tokio::task::block_in_place(|| store.append(*height, block)),
            Effect::LedgerRecovery { height, recovery } => {
                tokio::task::block_in_place(|| store.append_recovery(*height, recovery))
            }
            Effect::LedgerSnapshot { height, state } => {
                tokio::task::block_in_place(|| store.keep_snapshot(*height, state))
            }
            _ => Ok(()),
        };
        if let Err(error) = kept {
            tracing::error!(%error, "this peer stops, for it cannot keep its promises");
            self.fatal = Some(error.to_string());
            return;
        }
        match effect {
            Effect::LedgerBegin { .. } => {
                // Units of another ledger are of no use.
                for task in std::mem::take(&mut self.parts.book.units) {
                    self.parts.driller.stop(&task);
                }
                self.board.status.ledger = None;
            }
            Effect::LedgerBlock { block, .. } => self.block_kept(&block),
            Effect::ReadBlocks { to, from, count_max, bytes_max } => {
                let bytes_max = bytes_max.min(BLOCKS_BYTES_MAX);
                let store = &mut self.parts.book.store;
                let read = tokio::task::block_in_place(|| store.read(from, bytes_max));
                let mut blocks = read.unwrap_or_else(|error| {
                    tracing::error!(%error, "blocks cannot be read for another peer");
                    Vec::new()
                });
                blocks.truncate(count_max as usize);
                self.input_later(Input::BlocksRead { to, from, blocks });
            }
            Effect::Drill { task, class, challenge, owed } => self.drill(task, class, challenge, owed),
            _ => {}
        }
    }

    /// Shows a block that has become final.
    fn block_kept(&mut self, sealed: &[u8]) {
        let Ok(sealed) = codec::decode::<Decision>(sealed, BLOCK_BYTES_MAX) else { return };
        let Ok(block) = Block::decode(&sealed.bytes) else { return };
        self.board.block_made(RecentBlock {
            height: block.header.height,
            time_ms: block.header.time_ms,
            proposer: block.header.proposer.to_string(),
            state_root: block.header.state.to_string(),
            transactions: block.transactions.len(),
        });
    }

    fn drill(&mut self, task: Hash, class: DrillClass, challenge: Option<Hash>, owed: bool) {
        let Some(parameters) = self.parts.node.ledger().map(|state| state.parameters()) else { return };
        let blocks = if owed { parameters.reveal_blocks } else { class.commit_blocks };
        // Half of it is for the way into a block.
        let within = Duration::from_millis(parameters.epoch_ms.saturating_mul(blocks.into()) / 2).max(UNIT_MIN);
        let [rows, columns, depth] = [class.rows, class.columns, class.depth].map(|size| size as usize);
        let job = Job::Gemm { shape: GemmShape { rows, columns, depth }, seed: task, challenge };
        match self.parts.driller.ask(task, job, within, owed) {
            Ok(()) => self.parts.book.units.push(task),
            // It is being computed: the result will come.
            Err(Refused::Twice) => {}
            Err(refused) => {
                tracing::debug!(task = %task.short(), %refused, "a unit of drilling was declined");
                self.input_later(Input::Drilled { task, result: None });
            }
        }
    }

    /// A unit is over.
    pub(super) fn drilled(&mut self, finished: Finished) {
        let Finished { task, outcome, used_ms, elapsed_ms } = finished;
        self.parts.book.units.retain(|unit| *unit != task);
        let result = match outcome {
            Outcome::Gemm(result) => {
                tracing::debug!(task = %task.short(), used_ms, elapsed_ms, "a unit of drilling was computed");
                Some(if self.parts.book.plan.lies && self.has_weight() { lie(&result) } else { result })
            }
            Outcome::Stopped => None,
            Outcome::Failed { problem } => {
                tracing::warn!(task = %task.short(), problem, "a unit of drilling failed");
                None
            }
            other => {
                tracing::error!(task = %task.short(), ?other, "a unit that nobody asked for");
                None
            }
        };
        self.input(Input::Drilled { task, result });
    }

    /// Whether elections can draw this peer: before, a lie would only cost it its probation.
    fn has_weight(&self) -> bool {
        let node = &self.parts.node;
        node.ledger().is_some_and(|state| state.weight(&node.peer_id()).is_some_and(|weight| weight > 0))
    }

    /// What happened to the ledger.
    pub(super) fn ledger_event(&mut self, event: Event) {
        match event {
            Event::LedgerFounded { ledger } => {
                tracing::info!(ledger = %ledger.short(), "this peer has founded the swarm's ledger");
            }
            Event::LedgerJoined { ledger } => tracing::info!(ledger = %ledger.short(), "follows the swarm's ledger"),
            Event::LedgersDiffer { ours, theirs } => {
                let (ours, theirs) = (ours.short(), theirs.short());
                tracing::error!(
                    ours,
                    theirs,
                    "others of this swarm keep another ledger, or go on with this one from another recovery, and neither \
                     can be given up by itself: agree on one; those who keep the other stop, move the folder `ledger` of \
                     their data away, and start again"
                );
            }
            Event::RecoveryOffered { recovery, height } => tracing::warn!(
                recovery = recovery.short(),
                height,
                "others have replaced the ledger's committee; this peer follows them only if you say so: see \
                 `manta ledger status`"
            ),
            Event::LedgerRecovered { recovery, height } => {
                tracing::warn!(recovery = recovery.short(), height, "the ledger goes on with another committee");
            }
            Event::LedgerUnreadable { why } => {
                tracing::error!(
                    why,
                    "the ledger that was kept here cannot be used, as one that another version has written; this peer \
                     follows that of the peers it finds, or founds one, and then puts the former aside as `ledger.left`"
                );
            }
            Event::BlockFinal { height, root } => {
                tracing::debug!(height, root = %root.short(), "a block is final");
                self.show_ledger();
            }
            elsewhere => unreachable!("{elsewhere:?} is no event of the ledger"),
        }
    }

    /// Steps back before a stop, where somebody is left to go on without us.
    pub(super) fn stand_by(&mut self) {
        if self.parts.node.ledger().is_some() && !self.connected.is_empty() {
            self.input(Input::Command(Command::StandBy));
        }
    }

    /// Gives credits to another account: the transaction's id.
    pub(super) fn transfer(&mut self, request: &TransferRequest) -> Result<String, String> {
        let TransferRequest { to, amount } = request;
        if *amount == 0 {
            return Err("nothing to transfer: the amount is 0".into());
        }
        let (to, amount) = (self.named_peer(to)?, *amount);
        self.parts.book.clear_refusal();
        let before = self.parts.node.ledger_waiting().len();
        self.input(Input::Command(Command::Transfer { to, amount }));
        let waiting = self.parts.node.ledger_waiting();
        let is_it = |action: &Action| *action == Action::Transfer(Transfer { to, amount });
        match waiting.iter().rev().find(|transaction| is_it(&transaction.action)) {
            Some(transaction) if waiting.len() > before => Ok(transaction.id().to_string()),
            _ => {
                let refusal = self.parts.book.take_refusal();
                Err(refusal.unwrap_or_else(|| "it was not taken; see the log of the peer".into()))
            }
        }
    }

    /// Remembers why something was refused, for whoever asked for it.
    pub(super) fn refused(&mut self, why: &str) {
        self.parts.book.refusal = Some(why.to_owned());
    }
}

/// Rules of a swarm that is watched for a minute: units of some milliseconds, of
/// which one weighs about what a founder starts with, and many for newcomers, so
/// that weights come near to each other while one looks.
fn watched(epoch_ms: u64) -> Parameters {
    let class = DrillClass { rows: 128, columns: 128, depth: 256, commit_blocks: 2 };
    Parameters {
        epoch_ms,
        operations_per_power: class.operations() * 4,
        classes: vec![class],
        probation_weight_max: 100_000,
        probation_milli: 2_000,
        penalty: MicroPower(250_000),
        ..Parameters::demo()
    }
}

/// Another result, in the form of one: a check is told only where one is owed.
fn lie(result: &DrillResult) -> DrillResult {
    let another = |hash: &Hash| if *hash == Hash([0; 32]) { *hash } else { Hash::of(hash.as_bytes()) };
    DrillResult { digest: another(&result.digest), check: another(&result.check) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
