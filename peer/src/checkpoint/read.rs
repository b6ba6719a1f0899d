//! Reads a model folder, as if a stranger had made it.
//!
//! Sizes are compared with the configuration before anything is allocated; each
//! tensor must have the expected name, type and shape, every value must be
//! finite, and where there is a record of the run, the parameters must have the
//! hash it gives. Each error names the file and the field or tensor.

use super::config;
use super::write::parameters_hash;
use super::{CONFIG_FILE, CheckpointError, MODEL_FILE, RUN_FILE, RunFile, TOKENIZER_FILE};
use crate::data::tokenizer::TokenizerKind;
use manta_gpu_kernels::model::config::ModelConfig;
use manta_gpu_kernels::model::layout::{Layout, Tensor};
use safetensors::tensor::{Dtype, Metadata};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Longest JSON file, and longest header of the parameter file, in bytes.
const JSON_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A model from disk.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The architecture.
    pub(crate) config: ModelConfig,
    /// All parameters, in the order of the model's [`Layout`].
    pub(crate) parameters: Vec<f32>,
    /// Its tokenizer.
    pub(crate) tokenizer: TokenizerKind,
    /// How it came about, if Manta trained it.
    pub(crate) run: Option<Value>,
}

/// Reads the model in `folder`.
///
/// # Errors
/// [`CheckpointError`] names what is missing, malformed or not as expected.
pub(crate) fn read(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let path = folder.join(CONFIG_FILE);
    let config = config::from_json(&read_json(&path)?).map_err(|problem| CheckpointError::Field {
        path,
        field: problem.field,
        expected: problem.expected,
        found: problem.found,
    })?;
    let tokenizer = read_tokenizer(&folder.join(TOKENIZER_FILE), &config)?;
    let path = folder.join(MODEL_FILE);
    let parameters = ParameterFile { path: &path }.read(&Layout::new(&config))?;
    let path = folder.join(RUN_FILE);
    let run = match read_json::<RunFile>(&path) {
        Ok(file) => Some(check_run(file, &parameters, folder)?),
        // Models of other makers have no such file.
        Err(CheckpointError::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Checkpoint { config, parameters, tokenizer, run })
}

fn read_tokenizer(path: &Path, config: &ModelConfig) -> Result<TokenizerKind, CheckpointError> {
    let tokenizer = TokenizerKind::of_tokenizer_json(&read_json(path)?).ok_or_else(|| CheckpointError::Malformed {
        path: path.into(),
        problem: "not the byte-level tokenizer, which is the only one that this version of Manta knows".into(),
    })?;
    if config.vocab_size < tokenizer.vocab_size() {
        return Err(CheckpointError::Field {
            path: path.with_file_name(CONFIG_FILE),
            field: "vocab_size".into(),
            expected: format!("at least the tokenizer's {}", tokenizer.vocab_size()),
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

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| failed(path, source))?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(malformed(path, format!("longer than {JSON_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| malformed(path, format!("not the expected JSON: {error}")))
}

/// A `model.safetensors` being read: eight bytes of length, a JSON header, and
/// the tensors' bytes without gaps.
struct ParameterFile<'a> {
    path: &'a Path,
}

impl ParameterFile<'_> {
    fn read(&self, layout: &Layout) -> Result<Vec<f32>, CheckpointError> {
        let file = open(self.path)?;
        let file_bytes = file.metadata().map_err(|source| failed(self.path, source))?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let (metadata, header_bytes) = self.read_header(&mut file, file_bytes)?;
        self.check_tensors(&metadata, layout)?;
        // All tensors are f32 of the expected shapes and lie without gaps, so this is their length.
        let expected = header_bytes + layout.len() as u64 * 4;
        if file_bytes != expected {
            return Err(malformed(
                self.path,
                format!("{file_bytes} bytes long, its header needs {expected}; it is cut or has more behind"),
            ));
        }
        let mut parameters = vec![0.0; layout.len()];
        for name in metadata.offset_keys() {
            let Some(tensor) = layout.tensor(&name) else { continue };
            self.read_tensor(&mut file, tensor, &mut parameters[tensor.range()])?;
        }
        Ok(parameters)
    }

    /// The header, and the number of bytes before the first tensor.
    fn read_header(&self, file: &mut impl Read, file_bytes: u64) -> Result<(Metadata, u64), CheckpointError> {
        let cut = || malformed(self.path, format!("{file_bytes} bytes long, which ends within its header"));
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|error| self.read_failed(error, cut))?;
        let length = u64::from_le_bytes(length);
        if length > JSON_BYTES_MAX {
            return Err(malformed(
                self.path,
                format!("a header of {length} bytes; at most {JSON_BYTES_MAX} are accepted"),
            ));
        }
        if file_bytes - 8.min(file_bytes) < length {
            return Err(cut());
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(|error| self.read_failed(error, cut))?;
        let metadata = serde_json::from_slice(&header)
            .map_err(|error| malformed(self.path, format!("its header is not that of a safetensors file: {error}")))?;
        Ok((metadata, length + 8))
    }

    fn check_tensors(&self, metadata: &Metadata, layout: &Layout) -> Result<(), CheckpointError> {
        let problem = |tensor: &str, expected: String, found: String| CheckpointError::Tensor {
            path: self.path.into(),
            tensor: tensor.into(),
            expected,
            found,
        };
        for tensor in layout.tensors() {
            let info = metadata
                .info(&tensor.name)
                .ok_or_else(|| problem(&tensor.name, format!("f32 of shape {:?}", tensor.shape), "nothing".into()))?;
            if info.dtype != Dtype::F32 {
                return Err(problem(&tensor.name, "type F32".into(), format!("type {:?}", info.dtype)));
            }
            if info.shape != tensor.shape {
                return Err(problem(
                    &tensor.name,
                    format!("shape {:?}", tensor.shape),
                    format!("shape {:?}", info.shape),
                ));
            }
        }
        match metadata.offset_keys().into_iter().find(|name| layout.tensor(name).is_none()) {
            Some(extra) => Err(problem(&extra, "no tensor of this name in the model".into(), "one".into())),
            None => Ok(()),
        }
    }

    fn read_tensor(&self, file: &mut impl Read, tensor: &Tensor, values: &mut [f32]) -> Result<(), CheckpointError> {
        let mut word = [0; 4];
        for (index, value) in values.iter_mut().enumerate() {
            let cut = || malformed(self.path, format!("ends within tensor `{}`", tensor.name));
            file.read_exact(&mut word).map_err(|error| self.read_failed(error, cut))?;
            *value = f32::from_le_bytes(word);
            if !value.is_finite() {
                return Err(CheckpointError::Tensor {
                    path: self.path.into(),
                    tensor: tensor.name.clone(),
                    expected: "finite numbers".into(),
                    found: format!("{value} at element {index}"),
                });
            }
        }
        Ok(())
    }

    fn read_failed(&self, source: io::Error, cut: impl Fn() -> CheckpointError) -> CheckpointError {
        if source.kind() == io::ErrorKind::UnexpectedEof { cut() } else { failed(self.path, source) }
    }
}

fn open(path: &Path) -> Result<File, CheckpointError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::Missing { path: path.into() },
        _ => failed(path, source),
    })
}

fn failed(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.into(), action: "read", source }
}

fn malformed(path: &Path, problem: String) -> CheckpointError {
    CheckpointError::Malformed { path: path.into(), problem }
}
