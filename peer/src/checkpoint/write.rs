//! Writes a model folder: whole, or not at all.
//!
//! The files are written and synced in a hidden folder beside the destination,
//! which is then renamed. A former output of Manta is replaced; a folder with
//! anything else in it is never touched unless the caller says so, and then it
//! is moved aside, not removed.

use super::config;
use super::{
    CONFIG_FILE, CheckpointError, FILES, MODEL_FILE, RUN_FILE, RunFile, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
};
use crate::data::tokenizer::Tokenizer;
use crate::store::blobs::sync_directory;
use crate::store::is_disk_full;
use manta_gpu_kernels::arithmetic::{canon, in_range};
use manta_gpu_kernels::model::config::ModelConfig;
use manta_gpu_kernels::model::layout::{Layout, Tensor};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What becomes of a destination that holds something Manta did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It is left as it is, and nothing is written.
    Refuse,
    /// It is renamed to `NAME.old-N`.
    MoveAside,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model<'a> {
    /// The architecture.
    pub(crate) config: &'a ModelConfig,
    /// All parameters, in the order of the model's [`Layout`].
    pub(crate) parameters: &'a [f32],
    /// The tokenizer it was trained with.
    pub(crate) tokenizer: &'a Tokenizer,
    /// How it came about: kept as given.
    pub(crate) run: &'a Value,
}

/// Checks that [`write`] could replace `destination`, so that a bad output
/// folder is known before the training and not after it. Writes nothing.
///
/// # Errors
/// [`CheckpointError`] if it is not a folder, cannot be read, or holds
/// something that Manta did not write (unless that is to be moved aside).
pub(crate) fn check_destination(destination: &Path, foreign: Foreign) -> Result<(), CheckpointError> {
    occupant(destination, foreign).map(|_| ())
}

/// Writes `model` to the folder `destination`, which it makes or replaces.
///
/// # Errors
/// [`CheckpointError`]; the destination is then as it was before.
pub(crate) fn write(destination: &Path, foreign: Foreign, model: Model<'_>) -> Result<(), CheckpointError> {
    let layout = Layout::new(model.config);
    check_model(&model, &layout)?;
    // A link to a folder is replaced where it points to.
    let destination = &fs::canonicalize(destination).unwrap_or_else(|_| destination.into());
    let occupant = occupant(destination, foreign)?;
    let name = destination.file_name().ok_or_else(|| CheckpointError::NotAFolder { path: destination.into() })?;
    let name = name.to_string_lossy();
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|source| failed(parent, "make the folder", source))?;
    let temporary = Temporary::new(parent, &name)?;
    write_files(&temporary.path, &model, &layout)?;
    exchange(&temporary.path, destination, occupant)?;
    sync_directory(parent).map_err(|source| failed(parent, "sync the folder", source))
}

fn check_model(model: &Model<'_>, layout: &Layout) -> Result<(), CheckpointError> {
    let unwritable = |problem: String| Err(CheckpointError::Unwritable { problem });
    if let Err(error) = model.config.validate() {
        return unwritable(error.to_string());
    }
    if model.parameters.len() != layout.len() {
        return unwritable(format!("{} parameters; its shape has {}", model.parameters.len(), layout.len()));
    }
    for tensor in layout.tensors() {
        // What is read back is canonical: what is written must be, too, for its hash to be the same.
        let is_canonical = |value: &f32| in_range(*value) && canon(*value).to_bits() == value.to_bits();
        if let Some(index) = model.parameters[tensor.range()].iter().position(|value| !is_canonical(value)) {
            return unwritable(format!("tensor `{}`: element {index} is not a canonical number", tensor.name));
        }
    }
    Ok(())
}

/// What is at the destination now.
enum Occupant {
    Nothing,
    /// An empty folder, or one with our files only.
    Ours,
    Foreign,
}

fn occupant(destination: &Path, foreign: Foreign) -> Result<Occupant, CheckpointError> {
    match fs::metadata(destination) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(CheckpointError::NotAFolder { path: destination.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nothing),
        Err(source) => return Err(failed(destination, "look at the output folder", source)),
    }
    let list = |source| failed(destination, "list the output folder", source);
    let mut names = Vec::new();
    for entry in fs::read_dir(destination).map_err(list)? {
        names.push(entry.map_err(list)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    // A model of someone else has files of the same names, but no record of a run.
    let ours = names.is_empty() || names.iter().any(|name| name == RUN_FILE);
    let stranger = names.iter().find(|name| !ours || !FILES.contains(&name.as_str()));
    match (stranger, foreign) {
        (None, _) => Ok(Occupant::Ours),
        (Some(_), Foreign::MoveAside) => Ok(Occupant::Foreign),
        (Some(file), Foreign::Refuse) => {
            Err(CheckpointError::ForeignFolder { path: destination.into(), file: file.clone() })
        }
    }
}

fn write_files(folder: &Path, model: &Model<'_>, layout: &Layout) -> Result<(), CheckpointError> {
    let config = config::to_json(model.config, &model.tokenizer.special_tokens())
        .map_err(|error| CheckpointError::Unwritable { problem: error.to_string() })?;
    let run = RunFile { parameters_blake3: parameters_hash(model.parameters), run: model.run.clone() };
    let run = serde_json::to_string_pretty(&run)
        .map_err(|error| CheckpointError::Unwritable { problem: format!("{RUN_FILE}: {error}") })?;
    let files = [
        (CONFIG_FILE, with_newline(config)),
        (TOKENIZER_FILE, model.tokenizer.tokenizer_json()),
        (TOKENIZER_CONFIG_FILE, model.tokenizer.config_json(model.config.max_position_embeddings)),
        (RUN_FILE, with_newline(run)),
    ];
    let needed_bytes = model.parameters.len() as u64 * 4;
    for (name, content) in files {
        let path = folder.join(name);
        write_file(&path, &content).map_err(|source| write_failed(&path, needed_bytes, source))?;
    }
    let path = folder.join(MODEL_FILE);
    write_parameters(&path, model.parameters, layout).map_err(|source| write_failed(&path, needed_bytes, source))?;
    sync_directory(folder).map_err(|source| failed(folder, "sync the folder", source))
}

fn with_newline(text: String) -> Vec<u8> {
    (text + "\n").into_bytes()
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn write_parameters(path: &Path, parameters: &[f32], layout: &Layout) -> io::Result<()> {
    let tensors = layout.tensors().iter().map(|tensor| (tensor.name.as_str(), Parameters { tensor, parameters }));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    serialize_to_file(tensors, Some(metadata), path).map_err(|error| match error {
        SafeTensorError::IoError(error) => error,
        error => io::Error::other(error),
    })?;
    // The library makes the file readable by its owner only; give it the usual mode.
    if let Some(sibling) = path.parent().map(|folder| folder.join(CONFIG_FILE)) {
        fs::set_permissions(path, fs::metadata(sibling)?.permissions())?;
    }
    File::open(path)?.sync_all()
}

/// One tensor of the flat vector, as `safetensors` wants to see it: converted
/// when it is written, so that the model is not in memory twice.
struct Parameters<'a> {
    tensor: &'a Tensor,
    parameters: &'a [f32],
}

impl View for Parameters<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.parameters[self.tensor.range()].iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.tensor.len() * 4
    }
}

/// blake3 of the parameters as little-endian f32, in hexadecimal.
pub(super) fn parameters_hash(parameters: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for part in parameters.chunks(64 * 1024) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Puts the finished folder in its place; on an error the destination is as it was.
fn exchange(finished: &Path, destination: &Path, occupant: Occupant) -> Result<(), CheckpointError> {
    let aside = match occupant {
        Occupant::Nothing => None,
        Occupant::Ours | Occupant::Foreign => Some(free_name(destination)),
    };
    if let Some(aside) = &aside {
        fs::rename(destination, aside).map_err(|source| failed(destination, "move the former folder aside", source))?;
    }
    if let Err(source) = fs::rename(finished, destination) {
        if let Some(aside) = &aside {
            fs::rename(aside, destination).map_err(|source| failed(aside, "move the former folder back", source))?;
        }
        return Err(failed(destination, "put the new folder in place", source));
    }
    match (aside, occupant) {
        (Some(aside), Occupant::Ours) => {
            fs::remove_dir_all(&aside).map_err(|source| failed(&aside, "remove the former output", source))
        }
        _ => Ok(()),
    }
}

/// `NAME.old-N` beside the folder, for the first N that is free.
fn free_name(folder: &Path) -> PathBuf {
    let mut number = 1_u64;
    loop {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!(".old-{number}"));
        let path = PathBuf::from(name);
        if fs::symlink_metadata(&path).is_err() {
            return path;
        }
        number += 1;
    }
}

/// A hidden folder beside the destination, removed unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn new(parent: &Path, name: &str) -> Result<Self, CheckpointError> {
        let mut number = 0_u64;
        loop {
            // `create_dir` gives the usual mode, unlike a library's private temporary folder.
            let path = parent.join(format!(".{name}.writing-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(failed(&path, "make a folder beside the output", source)),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.path.display(), %error, "an unfinished output folder is left behind");
        }
    }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.into(), action, source }
}

pub(super) fn write_failed(path: &Path, needed_bytes: u64, source: io::Error) -> CheckpointError {
    if is_disk_full(&source) {
        // The folder that the unfinished one lies in, which is the one the user named.
        let directory = path.ancestors().nth(2).unwrap_or(path).into();
        return CheckpointError::DiskFull { directory, needed_bytes };
    }
    failed(path, "write", source)
}
