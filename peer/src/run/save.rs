//! Writes the model of a run that this peer has ordered, with the run's record.

use crate::api::OrderRequest;
use crate::checkpoint::write::{Foreign, Model, write};
use crate::data::tokenizer::TokenizerKind;
use crate::run::spec;
use crate::run::trainer::Export;
use manta_protocol::effect::RunStart;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// What is to be saved.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) start: Arc<RunStart>,
    pub(crate) request: OrderRequest,
    pub(crate) tokenizer: TokenizerKind,
    pub(crate) unigram_loss: f64,
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
    /// Nats a token.
    pub(crate) val_loss: Option<f64>,
    pub(crate) unigram_loss: f64,
}

/// Writes the model folder.
///
/// # Errors
/// What could not be written where, and what to do.
pub(crate) fn save(job: Job) -> Result<Saved, String> {
    let Job { start, request, tokenizer, unigram_loss, losses, failure, export } = job;
    let run_spec = &start.spec;
    let val_loss = export.validation.and_then(|loss| loss.nats_per_token());
    let record = json!({
        "run": start.run,
        "owner": start.owner,
        "members": start.members.iter().map(|member| member.peer).collect::<Vec<_>>(),
        "arithmetic_version": run_spec.arithmetic_version,
        "preset": request.preset,
        "seed": request.seed,
        "data_root": run_spec.data_root,
        "data_bytes": run_spec.data_bytes,
        "rounds": run_spec.rounds,
        "steps_per_round": run_spec.steps_per_round,
        "steps_done": export.steps,
        "sequence_length": run_spec.sequence_length,
        "micro_batch_sequences": run_spec.micro_batch_sequences,
        "micro_batches": run_spec.micro_batches,
        "spec_hash": run_spec.hash(),
        "parameter_hash": export.parameter_hash,
        "loss_by_round": losses,
        "val_loss": val_loss,
        "unigram_loss": unigram_loss,
        "ended_early": failure,
    });
    let config = spec::model_config(&run_spec.model);
    let foreign = if request.overwrite { Foreign::MoveAside } else { Foreign::Refuse };
    let model = Model { config: &config, parameters: &export.parameters, tokenizer, run: &record };
    write(&request.out, foreign, model).map_err(|error| error.to_string())?;
    Ok(Saved { out: request.out, val_loss, unigram_loss })
}
