//! How a run ends here: evaluated, saved or kept for its owner, told, freed.

use super::{Driver, TaskDone};
use crate::board::describe_failure;
use crate::run::fetch::blocking;
use crate::run::library::Shelf;
use crate::run::save::{self, Saved};
use crate::run::trainer::{Export, Work};
use crate::status::RunState as Shown;
use manta_protocol::effect::RunFailure;
use manta_protocol::input::Done;
use manta_protocol::{Hash, Input, RunId};

impl Driver {
    pub(super) fn begin_saving(&mut self, run: RunId, for_owner: bool) {
        self.board.run_is(run, Shown::Saving);
        let evaluate = for_owner || self.is_own(run);
        if let Some(open) = self.open_run(run) {
            open.for_owner = for_owner;
        }
        self.ask(run, Work::Export { run, evaluate });
    }

    /// The node is done with a run. After a failure the owner's parameters are
    /// saved all the same, if any step was made.
    pub(super) fn closed(&mut self, run: RunId, failure: Option<RunFailure>) {
        let owned = self.is_own(run);
        let Some(open) = self.open_run(run) else { return };
        match failure {
            None => {
                self.board.run_is(run, Shown::Finished);
                self.close(run);
            }
            Some(failure) => {
                tracing::error!(run = %run.short(), "{}", describe_failure(failure, open.start.me, open.problem.as_deref()));
                let saves_already = open.failure.replace(failure).is_some();
                let trained = self.board.run(run).is_some_and(|status| status.rounds_done > 0);
                if owned && trained && !saves_already {
                    self.board.run_is(run, Shown::Saving);
                    self.ask(run, Work::Export { run, evaluate: false });
                } else {
                    self.close(run);
                }
            }
        }
    }

    /// The run is over here for good.
    pub(super) fn close(&mut self, run: RunId) {
        self.release(run);
        if let Some(order) = self.order_of(run) {
            self.forget_order(order);
        }
        self.forget_kept_order(run);
        let states = self.parts.states.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = states.remove_run(run) {
                tracing::warn!(run = %run.short(), %error, "checkpoints of a run that is over are left behind");
            }
        });
    }

    /// Frees all that the run holds here, and says how it ended.
    pub(super) fn release(&mut self, run: RunId) {
        if self.results.contains(&run) {
            // Its owner may still come for the result.
            let owner = self.open_run(run).map(|open| open.start.owner);
            self.parts.bulk.admit(run, owner.into_iter().collect(), 0);
        } else {
            self.parts.bulk.release(&run);
        }
        self.parts.library.close(Shelf::Data(run));
        self.parts.library.close(Shelf::State(run));
        self.parts.trainer.ask(Work::Close { run });
        if let Some(mut open) = self.run.take_if(|open| open.start.run == run) {
            open.stop_fetching();
            if let Some(failure) = open.failure {
                self.board.run_failed(run, failure, open.problem.as_deref());
            }
            open.admitted.iter().for_each(|peer| self.depart(*peer));
        }
    }

    /// The order of a run is needed no more.
    pub(super) fn forget_kept_order(&mut self, run: RunId) {
        let keeper = &mut self.parts.keeper;
        if let Err(error) = tokio::task::block_in_place(|| keeper.order(run, None)) {
            tracing::warn!(%error, "an order that is done could not be forgotten; it will be seen again at the next start");
        }
    }

    /// The model came out of the trainer: to the folder of the order, or into the store for its owner.
    pub(super) fn exported(&mut self, run: RunId, export: Export) {
        let Some(open) = self.run.as_ref().filter(|open| open.start.run == run) else { return };
        let order = self.orders.values().find(|order| order.run == Some(run));
        let (losses, target_dir) = (self.board.run(run).map(|status| status.losses.clone()), &self.parts.models);
        let job = save::Job {
            start: open.start.clone(),
            request: order.map(|order| order.request.clone()),
            refuge: target_dir.join(run.to_string()),
            tokenizer: open.tokenizer.clone(),
            unigram_loss: order.and_then(|order| order.unigram_loss),
            losses: losses.unwrap_or_default(),
            failure: open.failure.map(|failure| failure.reason.describe()),
            export,
        };
        if order.is_some() {
            return self.spawn(async move { TaskDone::Saved(run, blocking(move || save::save(job)).await) });
        }
        let (owner, folder) = (open.start.owner, open.for_owner);
        let (store, library) = (self.parts.store.clone(), self.parts.library.clone());
        self.spawn(async move {
            let root = job.export.parameter_hash;
            match blocking(move || Ok(save::keep(job, owner, folder, &store, &library))).await {
                Ok((root, kept)) => TaskDone::Kept(run, root, kept),
                Err(problem) => TaskDone::Kept(run, root, Err(problem)),
            }
        });
    }

    pub(super) fn saved(&mut self, run: RunId, saved: Result<Saved, String>) {
        match saved {
            Ok(saved) => {
                let root = saved.parameter_hash;
                if let Some(status) = self.board.run(run) {
                    status.val_loss = saved.val_loss;
                    status.unigram_loss = saved.unigram_loss;
                    status.out = Some(saved.out.display().to_string());
                    status.warning = saved.warning;
                    status.parameter_hash = root.to_string();
                }
                if self.open_run(run).is_some_and(|open| open.failure.is_some()) {
                    return self.close(run);
                }
                self.board.run_is(run, Shown::Finished);
                self.input(Input::Trainer { run, done: Done::Saved { root, kept: true } });
            }
            Err(problem) => self.cannot_compute(run, problem, None),
        }
    }

    /// The result is kept for the owner, or (where the owner keeps its own) could not be.
    pub(super) fn result_kept(&mut self, run: RunId, root: Hash, kept: Result<(), String>) {
        let Some(open) = self.open_run(run) else { return };
        let here = kept.is_ok();
        match kept {
            Ok(()) => {
                tracing::info!(run = %run.short(), owner = %open.start.owner.short(), "the result is kept for its owner");
                self.results.insert(run);
            }
            Err(problem) if open.for_owner => return self.cannot_compute(run, problem, None),
            Err(problem) => tracing::info!(run = %run.short(), problem, "no second copy of the result is kept"),
        }
        self.board.run_is(run, Shown::Finished);
        self.input(Input::Trainer { run, done: Done::Saved { root, kept: here } });
    }

    /// The owner has its result, or there are too many.
    pub(super) fn let_go_of_result(&mut self, run: RunId) {
        tracing::info!(run = %run.short(), "the result is not kept any more");
        self.results.remove(&run);
        self.parts.library.close(Shelf::Result(run));
        if self.open_run(run).is_none() {
            self.parts.bulk.release(&run);
        }
        let folder = self.parts.models.join(run.to_string());
        tokio::task::spawn_blocking(move || {
            // Most results have no folder: their owners were there to the end.
            if folder.is_dir()
                && let Err(error) = std::fs::remove_dir_all(&folder)
            {
                tracing::warn!(folder = %folder.display(), %error, "a folder is left behind");
            }
        });
    }
}
