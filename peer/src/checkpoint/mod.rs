//! A model on disk, in Hugging Face's layout, so that other tools read it.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | the architecture, as `LlamaForCausalLM` |
//! | `model.safetensors` | the parameters, f32; of other makers also f16 and bf16, and several files with an index |
//! | `tokenizer.json`, `tokenizer_config.json` | the tokenizer |
//! | `manta-run.json` | how the model came about, and the hash of its parameters |

mod config;
mod parameters;
pub(crate) mod read;
#[cfg(any(test, fuzzing))]
pub(crate) mod sample;
pub(crate) mod write;

pub(crate) use config::SpecialTokens;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::PathBuf;

const CONFIG_FILE: &str = "config.json";
const MODEL_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const RUN_FILE: &str = "manta-run.json";
/// Everything that a folder of ours holds.
const FILES: [&str; 5] = [CONFIG_FILE, MODEL_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, RUN_FILE];

/// Longest JSON file, and longest header of a parameter file, in bytes.
const JSON_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What [`RUN_FILE`] holds.
#[derive(Serialize, Deserialize)]
struct RunFile {
    /// blake3 of the parameters in the order of the layout, as little-endian f32; hexadecimal.
    parameters_blake3: String,
    /// The caller's record.
    run: Value,
}

/// Why a model folder could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("{path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{directory}: no space left on the disk for the model's {needed_bytes} bytes; free some and try again")]
    DiskFull { directory: PathBuf, needed_bytes: u64 },
    #[error("{path}: exists and is not a folder; choose another output folder")]
    NotAFolder { path: PathBuf },
    #[error(
        "{path}: holds `{file}`, which Manta did not write; choose another output folder, or let this one be moved aside with --overwrite"
    )]
    ForeignFolder { path: PathBuf, file: String },
    #[error("the model cannot be written: {problem}")]
    Unwritable { problem: String },
    #[error("{path}: there is no such file; a model folder has {}", FILES.join(", "))]
    Missing { path: PathBuf },
    #[error(
        "{path}: there is no such file, but {INDEX_FILE} says that it holds {tensors} of the model's tensors; fetch it again"
    )]
    MissingShard { path: PathBuf, tensors: usize },
    #[error(
        "{path}: is Git LFS's pointer to the file, not the file itself; run `git lfs pull` in its folder, or download it"
    )]
    Pointer { path: PathBuf },
    #[error("{path}: {problem}")]
    Malformed { path: PathBuf, problem: String },
    #[error("{path}: field `{field}`: expected {expected}, found {found}")]
    Field { path: PathBuf, field: String, expected: String, found: String },
    #[error(
        "{path}: its parameters take {needed_bytes} bytes as f32, of which {free_bytes} are free on this machine; free some, or choose a smaller model"
    )]
    DoesNotFit { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("{path}: tensor `{tensor}`: expected {expected}, found {found}")]
    Tensor { path: PathBuf, tensor: String, expected: String, found: String },
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transformers_tests;
