//! Writes the model of a run: into the folder of its order, or into the store
//! for an owner who may come for it.

use crate::api::OrderRequest;
use crate::checkpoint::write::{Foreign, Model, write};
use crate::data::tokenizer::Tokenizer;
use crate::run::library::Library;
use crate::run::spec;
use crate::run::state::{RunState, StateManifest};
use crate::run::trainer::Export;
use crate::store::blobs::BlobStore;
use manta_protocol::effect::RunStart;
use manta_protocol::{Hash, PeerId, RunId};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be saved.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) start: Arc<RunStart>,
    /// The order, if it is ours.
    pub(crate) request: Option<OrderRequest>,
    /// Where the model goes if it cannot go where the request says, or there is none.
    pub(crate) refuge: PathBuf,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) unigram_loss: Option<f64>,
    /// Training loss of each round.
    pub(crate) losses: Vec<f64>,
    /// Why the run ended early, if it did.
    pub(crate) failure: Option<&'static str>,
    pub(crate) export: Export,
}

/// What was saved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Saved {
    pub(crate) out: PathBuf,
    pub(crate) parameter_hash: Hash,
    /// Nats a token.
    pub(crate) val_loss: Option<f64>,
    pub(crate) unigram_loss: Option<f64>,
    /// What went wrong on the way.
    pub(crate) warning: Option<String>,
}

impl Job {
    fn val_loss(&self) -> Option<f64> {
        self.export.validation.and_then(|evaluation| evaluation.loss.nats_per_token())
    }

    /// The run's record, kept beside the model.
    fn record(&self) -> Value {
        let (start, run_spec) = (&self.start, &self.start.spec);
        let steps = self.export.exchange * u64::from(run_spec.steps_per_round / run_spec.exchanges_per_round().max(1));
        let optimizer = &run_spec.optimizer;
        let schedule = json!({
            "learning_rate": optimizer.learning_rate.value(),
            "warmup_steps": optimizer.warmup_steps,
            "decay_start_step": optimizer.decay_start_step,
            "decay": optimizer.decay,
            "final_fraction": optimizer.final_fraction.value(),
        });
        json!({
            "run": start.run,
            "owner": start.owner,
            "members": start.members.iter().map(|member| member.peer).collect::<Vec<_>>(),
            "arithmetic_version": run_spec.arithmetic_version,
            "digits": run_spec.digits,
            "schedule": schedule,
            "optimizer": optimizer.kind,
            "preset": self.request.as_ref().map(|request| &request.preset),
            "from": self.request.as_ref().and_then(|request| request.basis.from.as_ref()),
            "initial_root": run_spec.initial,
            "seed": self.request.as_ref().map(|request| request.seed),
            "data_root": run_spec.data_root,
            "data_bytes": run_spec.data_bytes,
            "rounds": run_spec.rounds,
            "steps_per_round": run_spec.steps_per_round,
            "local_steps": run_spec.outer.is_some(),
            "steps_done": steps,
            "exchanges_done": self.export.exchange,
            "sequence_length": run_spec.sequence_length,
            "micro_batch_sequences": run_spec.micro_batch_sequences,
            "micro_batches": run_spec.micro_batches,
            "spec_hash": run_spec.hash(),
            "parameter_hash": self.export.parameter_hash,
            "loss_by_round": self.losses,
            "val_loss": self.val_loss(),
            "val_accuracy": self.export.validation.and_then(|evaluation| evaluation.accuracy()),
            "unigram_loss": self.unigram_loss,
            "ended_early": self.failure,
        })
    }

    /// Writes to `wanted`, else to the refuge.
    fn write(&self, wanted: &Path, foreign: Foreign) -> Result<(PathBuf, Option<String>), String> {
        let (config, record) = (spec::model_config(&self.start.spec.model), self.record());
        let parameters = &self.export.parameters;
        let model = Model { config: &config, parameters, tokenizer: &self.tokenizer, run: &record };
        write_somewhere(wanted, foreign, &self.refuge, model)
    }
}

/// Writes the model folder of an own order.
///
/// # Errors
/// What could not be written where, and what to do.
pub(crate) fn save(job: Job) -> Result<Saved, String> {
    let overwrite = job.request.as_ref().is_some_and(|request| request.overwrite);
    let wanted = job.request.as_ref().map_or(&job.refuge, |request| &request.out);
    let foreign = if overwrite { Foreign::MoveAside } else { Foreign::Refuse };
    let (out, warning) = job.write(wanted, foreign)?;
    let Job { unigram_loss, ref export, .. } = job;
    Ok(Saved { out, parameter_hash: export.parameter_hash, val_loss: job.val_loss(), unigram_loss, warning })
}

/// Keeps the model of somebody else's run: as blobs that the owner can fetch by
/// the hash that is returned, and if it is gone (`folder`) also as a model folder.
///
/// # Errors
/// Beside the hash: what does not fit where.
pub(crate) fn keep(
    job: Job,
    owner: PeerId,
    folder: bool,
    store: &BlobStore,
    library: &Library,
) -> (Hash, Result<(), String>) {
    let run = job.start.run;
    let parameters = job.export.parameters.clone();
    let cut = RunState { exchange: job.export.exchange, vectors: vec![parameters] }.cut(run);
    let kept = || -> Result<(), String> {
        let bytes: usize = cut.blobs.values().map(bytes::Bytes::len).sum();
        // Shown first: what is about to be written must not make room for itself.
        library.show_result(run, cut.blobs.keys().copied().collect(), owner);
        let put = || {
            store.make_room(bytes as u64, |blob| library.needs(blob) || cut.blobs.contains_key(blob))?;
            cut.blobs.values().try_for_each(|blob| store.put(blob).map(drop))
        };
        put().map_err(|error| error.to_string())?;
        if folder {
            job.write(&job.refuge, Foreign::MoveAside)?;
        }
        Ok(())
    };
    let kept = kept().inspect_err(|_| library.close(crate::run::library::Shelf::Result(run)));
    (cut.root, kept)
}

/// The blobs of a result that was [kept](keep) before a restart; `None` if they are not all there.
pub(crate) fn find_kept(run: RunId, root: Hash, store: &BlobStore) -> Option<HashSet<Hash>> {
    let manifest = store.get(&root).inspect_err(|error| tracing::warn!(%error, "a blob could not be read")).ok()??;
    let pieces = StateManifest::pieces_of(&manifest, run).ok()?;
    pieces.iter().all(|piece| store.contains(piece)).then(|| pieces.into_iter().chain([root]).collect())
}

/// Writes to `wanted`, or if that fails (a full disk, a folder that changed
/// during the run) to `refuge`: hours of training must not end in nothing.
fn write_somewhere(
    wanted: &Path,
    foreign: Foreign,
    refuge: &Path,
    model: Model<'_>,
) -> Result<(PathBuf, Option<String>), String> {
    let Err(problem) = write(wanted, foreign, model) else { return Ok((wanted.to_owned(), None)) };
    match write(refuge, Foreign::MoveAside, model) {
        Ok(()) => {
            Ok((refuge.to_owned(), Some(format!("{problem}; the model was saved in {} instead", refuge.display()))))
        }
        Err(second) => Err(format!("{problem}; nor could it be saved elsewhere: {second}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::read::read;
    use crate::preset::Preset;
    use manta_gpu_kernels::Layout;

    #[test]
    fn a_model_that_cannot_go_where_it_should_is_saved_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let config = Preset::find("nano").unwrap().model(256);
        let parameters = vec![0.25; Layout::new(&config).len()];
        let run = json!({});
        let model = Model { config: &config, parameters: &parameters, tokenizer: &Tokenizer::Bytes, run: &run };
        let (wanted, refuge) = (folder.path().join("wanted"), folder.path().join("refuge"));
        std::fs::write(&wanted, "a file where the folder should be").unwrap();
        let (out, warning) = write_somewhere(&wanted, Foreign::Refuse, &refuge, model).unwrap();
        assert_eq!(out, refuge);
        let warning = warning.unwrap();
        assert!(warning.contains("wanted") && warning.contains("refuge"), "{warning}");
        assert_eq!(read(&refuge).unwrap().parameters, parameters);
        // Neither place can be had: both are named.
        let nowhere = wanted.join("below a file");
        let problem = write_somewhere(&wanted, Foreign::Refuse, &nowhere, model).unwrap_err();
        assert!(problem.contains("wanted") && problem.contains("nor could it"), "{problem}");
    }
}
