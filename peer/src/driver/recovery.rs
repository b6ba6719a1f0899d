//! Whole states on their way: to newcomers, from other members, to the disk; and
//! what must be on the disk before anything else is said.

use super::{Driver, TaskDone};
use crate::run::fetch::{StateWanted, blocking, fetch_state};
use crate::run::save;
use crate::run::state::{Cut, RunState};
use crate::run::trainer::{Purpose, Work};
use crate::store::state_file::{StateFolder, StateOf};
use manta_protocol::input::Done;
use manta_protocol::{Command, Hash, Input, PeerId, RunId};

impl Driver {
    /// Makes the node's record of a run durable before anything else is done.
    pub(super) fn keep_record(&mut self, run: RunId, record: Option<&[u8]>) {
        let keeper = &mut self.parts.keeper;
        // A few milliseconds at worst; others on this thread go on elsewhere meanwhile.
        if let Err(error) = tokio::task::block_in_place(|| keeper.record(run, record)) {
            tracing::error!(%error, "this peer stops, for it cannot keep its promises");
            self.fatal = Some(error.to_string());
        }
    }

    /// A state came out of the trainer.
    pub(super) fn state_given(&mut self, run: RunId, purpose: Purpose, state: RunState) {
        let exchange = state.exchange;
        match purpose {
            Purpose::Snapshot => {
                let Some(open) = self.open_run(run) else { return };
                open.cuts += 1;
                let number = open.cuts;
                self.spawn(async move {
                    let cut = blocking(move || Ok(state.cut(run))).await;
                    TaskDone::StateCut(run, number, exchange, cut)
                });
            }
            Purpose::Checkpoint => {
                let states = self.parts.states.clone();
                self.spawn(async move {
                    let written = blocking(move || write(&states, run, &state)).await;
                    TaskDone::Checkpointed(run, exchange, written)
                });
            }
        }
    }

    /// A state was cut: members may read it from now on.
    pub(super) fn state_cut(&mut self, run: RunId, number: u64, exchange: u64, cut: Result<Cut, String>) {
        let library = self.parts.library.clone();
        let Some(open) = self.open_run(run).filter(|open| open.cuts == number) else { return };
        let cut = match cut {
            Ok(cut) => cut,
            Err(problem) => return tracing::warn!(run = %run.short(), problem, "no state was cut for newcomers"),
        };
        let root = cut.root;
        tracing::debug!(run = %run.short(), exchange, pieces = cut.blobs.len(), "a state is ready for newcomers");
        library.show_state(run, cut, open.admitted.clone());
        self.input(Input::Trainer { run, done: Done::Snapshot { exchange, root } });
    }

    /// Fetches a state, in place of one that is being fetched.
    pub(super) fn fetch_state(&mut self, run: RunId, exchange: u64, root: Hash, donors: Vec<PeerId>) {
        let Some(wanted) = self.state_wanted(run, root, donors) else { return };
        let (bulk, tasks) = (self.parts.bulk.clone(), self.tasks.clone());
        tracing::info!(run = %run.short(), exchange, donors = wanted.donors.len(), "fetches the state of the run");
        let task = tokio::spawn(async move {
            let fetched = fetch_state(wanted, bulk).await;
            // The driver outlives its tasks, except when the peer stops.
            let _ = tasks.send(TaskDone::StateFetched(run, exchange, fetched)).await;
        });
        if let Some(open) = self.open_run(run) {
            open.fetching = Some(task.abort_handle());
        }
    }

    /// Fetches the result of an own run that others have finished.
    pub(super) fn fetch_result(&mut self, run: RunId, root: Hash, from: PeerId) {
        // Who tells it is not the only one who has it.
        let members =
            self.open_run(run).map(|open| open.admitted.iter().copied().filter(|peer| *peer != from).collect());
        let donors = [vec![from], members.unwrap_or_default()].concat();
        let Some(wanted) = self.state_wanted(run, root, donors) else { return };
        if let Some(open) = self.open_run(run) {
            open.retrieving = true;
        }
        let bulk = self.parts.bulk.clone();
        tracing::info!(run = %run.short(), from = %from.short(), "fetches the model that others have finished");
        self.spawn(async move { TaskDone::ResultFetched(run, fetch_state(wanted, bulk).await) });
    }

    fn state_wanted(&mut self, run: RunId, root: Hash, donors: Vec<PeerId>) -> Option<StateWanted> {
        let open = self.open_run(run)?;
        open.stop_fetching();
        let elements = open.start.spec.model.parameters()?;
        Some(StateWanted { run, root, elements, donors })
    }

    pub(super) fn state_fetched(&mut self, run: RunId, exchange: u64, fetched: Result<RunState, String>) {
        match fetched {
            Ok(state) if state.exchange == exchange => self.ask(run, Work::Load { run, state }),
            Ok(state) => {
                let problem = format!("it is the state before exchange {}", state.exchange);
                self.state_not_loaded(run, exchange, &problem);
            }
            Err(problem) => self.state_not_loaded(run, exchange, &problem),
        }
    }

    pub(super) fn state_not_loaded(&mut self, run: RunId, exchange: u64, problem: &str) {
        tracing::warn!(run = %run.short(), exchange, problem, "the state of the run could not be had");
        self.input(Input::Trainer { run, done: Done::StateNotLoaded { exchange } });
    }

    /// The result of an own run could not be had or saved: the node asks again.
    pub(super) fn not_retrieved(&mut self, run: RunId, problem: &str) {
        let Some(open) = self.open_run(run) else { return };
        (open.retrieving, open.result) = (false, None);
        let warning = format!("others have finished the run, but {problem}; it is tried again");
        tracing::warn!(run = %run.short(), "{warning}");
        if let Some(status) = self.board.run(run) {
            status.warning = Some(warning);
        }
        self.input(Input::Trainer { run, done: Done::ResultNotFetched });
    }

    /// A result that was kept for its owner before a restart can be read again.
    pub(super) fn keep_result(&mut self, run: RunId, root: Hash, owner: PeerId) {
        let store = self.parts.store.clone();
        let Some(blobs) = tokio::task::block_in_place(|| save::find_kept(run, root, &store)) else {
            tracing::warn!(run = %run.short(), "the result that was kept for its owner is not here any more");
            return self.input_later(Input::Command(Command::ForgetResult { run }));
        };
        tracing::info!(run = %run.short(), owner = %owner.short(), "the result is still kept for its owner");
        self.parts.library.show_result(run, blobs, owner);
        self.parts.bulk.admit(run, [owner].into(), 0);
        self.results.insert(run);
    }

    pub(super) fn checkpointed(&mut self, run: RunId, exchange: u64, written: Result<(), String>) {
        match written {
            Ok(()) => self.input(Input::Trainer { run, done: Done::Checkpointed { exchange } }),
            Err(problem) => {
                tracing::warn!(run = %run.short(), exchange, problem, "no checkpoint was written; the run goes on");
                if let Some(status) = self.board.run(run) {
                    status.warning = Some(format!("no checkpoint could be written: {problem}"));
                }
            }
        }
    }

    /// The result of an own run is here: it is taken as if it had been computed here.
    pub(super) fn result_fetched(&mut self, run: RunId, fetched: Result<RunState, String>) {
        let Some(open) = self.open_run(run) else { return };
        match fetched {
            Ok(state) if open.prepared => self.ask(run, Work::LoadResult { run, state }),
            Ok(state) => open.result = Some(state),
            Err(problem) => self.not_retrieved(run, &problem),
        }
    }
}

/// Writes a state, and removes those that nobody can refer to any more. The one
/// before stays: the journal names it until it is told of the new one.
fn write(states: &StateFolder, run: RunId, state: &RunState) -> Result<(), String> {
    let vectors: Vec<&[f32]> = state.vectors.iter().map(Vec::as_slice).collect();
    let written = states.save(StateOf { run, exchange: state.exchange }, &vectors);
    written.map_err(|error| error.to_string())?;
    let older = states.exchanges(run).map_err(|error| error.to_string())?;
    let before = older.into_iter().rfind(|exchange| *exchange < state.exchange);
    before.map_or(Ok(()), |exchange| states.remove_older(StateOf { run, exchange }).map_err(|error| error.to_string()))
}
