//! How a run ends here: evaluated, saved, told, freed.

use super::{Driver, TaskDone};
use crate::board::describe_failure;
use crate::data::tokenizer::TokenizerKind;
use crate::net::swarm::NetCommand;
use crate::run::fetch::{Shelf, blocking};
use crate::run::save::{self, Saved};
use crate::run::trainer::Work;
use crate::status::RunState;
use manta_protocol::effect::RunFailure;
use manta_protocol::input::Done;
use manta_protocol::{Input, RunId};

impl Driver {
    pub(super) fn begin_saving(&mut self, run: RunId) {
        self.board.run_is(run, RunState::Saving);
        if self.orders.values().any(|order| order.run == Some(run)) {
            self.ask(run, Work::Export { run, evaluate: true });
        } else {
            self.input_later(Input::Trainer { run, done: Done::Saved });
        }
    }

    /// The node is done with a run. After a failure the owner's parameters are
    /// saved all the same, if any step was made.
    pub(super) fn closed(&mut self, run: RunId, failure: Option<RunFailure>) {
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

    /// Frees all that the run holds here, and says how it ended.
    pub(super) fn close(&mut self, run: RunId) {
        self.parts.bulk.release(&run);
        self.parts.library.close(Shelf::Run(run));
        self.parts.trainer.ask(Work::Close { run });
        let ended = self.orders.iter().find(|(_, order)| order.run == Some(run)).map(|(order, _)| *order);
        ended.into_iter().for_each(|order| self.forget_order(order));
        if let Some(open) = self.run.take_if(|open| open.start.run == run) {
            if let Some(failure) = open.failure {
                self.board.run_failed(run, failure, open.problem.as_deref());
            }
            for member in open.start.members.iter() {
                self.command(NetCommand::Unguard { peer: member.peer });
                self.parts.bulk.forget_peer(&member.peer);
            }
        }
    }

    pub(super) fn save(&mut self, run: RunId, export: crate::run::trainer::Export) {
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

    pub(super) fn saved(&mut self, run: RunId, saved: Result<Saved, String>) {
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
}
