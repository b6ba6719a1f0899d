//! Reads a model folder, as if a stranger had made it.
//!
//! Configuration, tokenizer and parameters must fit each other, and where there
//! is a record of the run, the parameters must have the hash it gives. Each
//! error names the file and the field or tensor.

use super::config::{self, SpecialTokens};
use super::parameters;
use super::write::parameters_hash;
use super::{
    CONFIG_FILE, CheckpointError, JSON_BYTES_MAX, MODEL_FILE, RUN_FILE, RunFile, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
};
use crate::data::tokenizer::{Tokenizer, TokenizerError};
use manta_gpu_kernels::model::config::ModelConfig;
use manta_gpu_kernels::model::layout::Layout;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

/// A model from disk.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The architecture.
    pub(crate) config: ModelConfig,
    /// All parameters, in the order of the model's [`Layout`].
    pub(crate) parameters: Vec<f32>,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// How it came about, if Manta trained it.
    pub(crate) run: Option<Value>,
}

/// Reads the model in `folder`.
///
/// # Errors
/// [`CheckpointError`] names what is missing, malformed or not as expected.
pub(crate) fn read(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let (config, special) = read_config(folder)?;
    let tokenizer = read_tokenizer(folder, &config, special)?;
    let parameters = parameters::read(folder, &Layout::new(&config))?;
    let path = folder.join(RUN_FILE);
    let run = match read_json::<RunFile>(&path) {
        Ok(file) => Some(check_run(file, &parameters, folder)?),
        // Models of other makers have no such file.
        Err(CheckpointError::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Checkpoint { config, parameters, tokenizer, run })
}

fn read_config(folder: &Path) -> Result<(ModelConfig, SpecialTokens), CheckpointError> {
    let path = folder.join(CONFIG_FILE);
    config::from_json(&read_json(&path)?).map_err(|problem| CheckpointError::Field {
        path,
        field: problem.field,
        expected: problem.expected,
        found: problem.found,
    })
}

/// The tokenizer at `path`: a `tokenizer.json`, or a folder that has one.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_tokenizer_at(path: &Path) -> Result<Tokenizer, CheckpointError> {
    let file = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.into() };
    let other = match read_bytes(&file.with_file_name(TOKENIZER_CONFIG_FILE)) {
        Err(CheckpointError::Missing { .. }) => None,
        other => Some(other?),
    };
    Tokenizer::of_files(read_bytes(&file)?, other, SpecialTokens::default())
        .map_err(|error| malformed(&file, error.to_string()))
}

fn read_tokenizer(folder: &Path, config: &ModelConfig, special: SpecialTokens) -> Result<Tokenizer, CheckpointError> {
    let path = folder.join(TOKENIZER_FILE);
    let content = read_bytes(&path)?;
    let other = match read_bytes(&folder.join(TOKENIZER_CONFIG_FILE)) {
        Err(CheckpointError::Missing { .. }) => None,
        other => Some(other?),
    };
    let tokenizer = Tokenizer::of_files(content, other, special).map_err(|error| match error {
        TokenizerError::NoSuchToken { field, id } => CheckpointError::Field {
            path: folder.join(CONFIG_FILE),
            field: field.into(),
            expected: format!("a token of {TOKENIZER_FILE}"),
            found: id.to_string(),
        },
        unreadable => malformed(&path, unreadable.to_string()),
    })?;
    if config.vocab_size < tokenizer.vocab_size() {
        return Err(CheckpointError::Field {
            path: folder.join(CONFIG_FILE),
            field: "vocab_size".into(),
            expected: format!("at least the {} of {TOKENIZER_FILE}", tokenizer.vocab_size()),
            found: config.vocab_size.to_string(),
        });
    }
    Ok(tokenizer)
}

fn check_run(file: RunFile, parameters: &[f32], folder: &Path) -> Result<Value, CheckpointError> {
    let found = parameters_hash(parameters);
    if found == file.parameters_blake3 {
        return Ok(file.run);
    }
    Err(CheckpointError::Malformed {
        path: folder.join(MODEL_FILE),
        problem: format!(
            "its parameters have the hash {found}, {RUN_FILE} says {}; one of the two was changed: train again or restore them",
            file.parameters_blake3
        ),
    })
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(&read_bytes(path)?)
        .map_err(|error| malformed(path, format!("not the expected JSON: {error}")))
}

/// All of a file that must not be long.
fn read_bytes(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| failed(path, source))?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(malformed(path, format!("longer than {JSON_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// What Git leaves in the place of a large file that has not been fetched begins with this.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a file of the folder, which is not a pointer to another.
pub(super) fn open(path: &Path) -> Result<File, CheckpointError> {
    let mut file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::Missing { path: path.into() },
        _ => failed(path, source),
    })?;
    let mut start = Vec::with_capacity(LFS_POINTER.len());
    file.by_ref().take(LFS_POINTER.len() as u64).read_to_end(&mut start).map_err(|source| failed(path, source))?;
    if start == LFS_POINTER {
        return Err(CheckpointError::Pointer { path: path.into() });
    }
    file.rewind().map_err(|source| failed(path, source))?;
    Ok(file)
}

pub(super) fn failed(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.into(), action: "read", source }
}

pub(super) fn malformed(path: &Path, problem: String) -> CheckpointError {
    CheckpointError::Malformed { path: path.into(), problem }
}
