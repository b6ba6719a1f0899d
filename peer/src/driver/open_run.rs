//! The run that goes on here, as far as the driver has to remember it.

use super::Driver;
use crate::data::tokenizer::Tokenizer;
use crate::run::desk::Desk;
use crate::run::diary::Diary;
use crate::run::state::RunState;
use bytes::Bytes;
use manta_protocol::effect::{RunFailure, RunStart};
use manta_protocol::run::ledger::Span;
use manta_protocol::run::{ChunkPlan, Phase};
use manta_protocol::{PeerId, RunId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::AbortHandle;

/// A chunk that waits for the node's verdict.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) exchange: u64,
    pub(super) phase: Phase,
    pub(super) chunk: u32,
    pub(super) from: PeerId,
    pub(super) bytes: Bytes,
}

/// What was last to be computed here.
#[derive(Debug)]
struct Assigned {
    exchange: u64,
    plan: u32,
    cut: Option<ChunkPlan>,
    batches: Vec<Span>,
}

/// The run that goes on here.
#[derive(Debug)]
pub(super) struct OpenRun {
    pub(super) start: Arc<RunStart>,
    pub(super) desk: Desk,
    /// By transfer; bounded by the node, which gives each a verdict.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) next_transfer: u64,
    /// The latest own work, until it is done.
    assigned: Option<Assigned>,
    pub(super) diary: Diary,
    /// Who may send chunks and read the run's blobs.
    pub(super) admitted: BTreeSet<PeerId>,
    /// Numbers the states that were cut for newcomers.
    pub(super) cuts: u64,
    /// Ends the fetching of a state that another one has replaced.
    pub(super) fetching: Option<AbortHandle>,
    pub(super) tokenizer: Tokenizer,
    /// Whether the model is built.
    pub(super) prepared: bool,
    /// Whether the run is over elsewhere, and only its model is fetched.
    pub(super) retrieving: bool,
    /// A result that came before the model was built.
    pub(super) result: Option<RunState>,
    /// Whether the model is kept here for an owner who is gone.
    pub(super) for_owner: bool,
    /// What went wrong here, for the message to people.
    pub(super) problem: Option<String>,
    /// Why it has ended early; the parameters may still be on their way to disk.
    pub(super) failure: Option<RunFailure>,
}

impl OpenRun {
    pub(super) fn new(start: Arc<RunStart>, diary: Diary) -> Self {
        Self {
            start,
            assigned: None,
            diary,
            desk: Desk::default(),
            waiting: BTreeMap::new(),
            next_transfer: 0,
            admitted: BTreeSet::new(),
            cuts: 0,
            fetching: None,
            tokenizer: Tokenizer::Bytes,
            prepared: false,
            retrieving: false,
            result: None,
            for_owner: false,
            problem: None,
            failure: None,
        }
    }

    /// Notes what is to be computed; an earlier computation is of no more use.
    pub(super) fn assigned(&mut self, exchange: u64, plan: u32, ranks: u16, batches: &[Span]) {
        let cut = self.start.spec.chunk_plan(ranks.into());
        self.assigned = Some(Assigned { exchange, plan, cut, batches: batches.to_vec() });
    }

    /// Takes the own values, if they are still wanted.
    pub(super) fn computed(&mut self, exchange: u64, plan: u32, values: &Bytes, now: Time) -> bool {
        let wanted = |assigned: &Assigned| assigned.exchange == exchange && assigned.plan == plan;
        let Some(Assigned { cut: Some(cut), batches, .. }) = self.assigned.take_if(|assigned| wanted(assigned)) else {
            return false;
        };
        self.desk.keep_own(exchange, &cut, self.start.me, values);
        self.diary.computed(now, exchange, plan, &batches);
        true
    }

    /// Forgets an exchange and all after it.
    pub(super) fn drop_exchange(&mut self, first: u64) {
        self.desk.drop_exchange(first);
        self.assigned.take_if(|assigned| assigned.exchange >= first);
    }

    /// Stops what is being fetched.
    pub(super) fn stop_fetching(&mut self) {
        if let Some(task) = self.fetching.take() {
            task.abort();
        }
    }
}

impl Driver {
    /// The run of this name, if it goes on here.
    pub(super) fn open_run(&mut self, run: RunId) -> Option<&mut OpenRun> {
        self.run.as_mut().filter(|open| open.start.run == run)
    }
}
