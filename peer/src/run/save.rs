//! Writes the model of a run that this peer has ordered, with the run's record.

use crate::api::OrderRequest;
use crate::checkpoint::write::{Foreign, Model, write};
use crate::data::tokenizer::TokenizerKind;
use crate::run::spec;
use crate::run::trainer::Export;
use manta_protocol::effect::RunStart;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be saved.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) start: Arc<RunStart>,
    pub(crate) request: OrderRequest,
    /// Where the model goes if it cannot go where the request says.
    pub(crate) refuge: PathBuf,
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
    /// What went wrong on the way.
    pub(crate) warning: Option<String>,
}

/// Writes the model folder.
///
/// # Errors
/// What could not be written where, and what to do.
pub(crate) fn save(job: Job) -> Result<Saved, String> {
    let Job { start, request, refuge, tokenizer, unigram_loss, losses, failure, export } = job;
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
    let (out, warning) = write_somewhere(&request.out, foreign, &refuge, model)?;
    Ok(Saved { out, val_loss, unigram_loss, warning })
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
        let model = Model { config: &config, parameters: &parameters, tokenizer: TokenizerKind::Bytes, run: &run };
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
