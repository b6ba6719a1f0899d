//! The parameters of a model folder: one `model.safetensors`, or several with
//! `model.safetensors.index.json` that says which tensor is in which.
//!
//! Headers are compared with the model before anything is allocated; then each
//! tensor is converted piece by piece into its place in the flat vector, so
//! that nothing but that vector and a buffer is in memory. Values are bf16, f16
//! or f32 and come out canonical; one that the arithmetic cannot hold is refused.

use super::read::{failed, malformed, open, read_json};
use super::{CheckpointError, INDEX_FILE, JSON_BYTES_MAX, MODEL_FILE};
use crate::host;
use manta_gpu_kernels::arithmetic::{canon, in_range};
use manta_gpu_kernels::model::layout::{Layout, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most shards of a model.
const SHARDS_MAX: usize = 1024;
/// Bytes that are converted at a time.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Index {
    /// Which tensor is in which file.
    weight_map: BTreeMap<String, String>,
}

/// Reads the parameters of a model of this layout from `folder`.
///
/// # Errors
/// [`CheckpointError`] names the file and the tensor.
pub(super) fn read(folder: &Path, layout: &Layout) -> Result<Vec<f32>, CheckpointError> {
    let shards = shards(folder)?;
    for tensor in layout.tensors() {
        if !shards.iter().any(|shard| shard.holds(&tensor.name)) {
            let path = shards.first().map_or_else(|| folder.join(MODEL_FILE), |shard| shard.path.clone());
            let expected = format!("a tensor of shape {:?}", tensor.shape);
            return Err(CheckpointError::Tensor {
                path,
                tensor: tensor.name.clone(),
                expected,
                found: "nothing".into(),
            });
        }
    }
    shards.iter().try_for_each(|shard| shard.check(layout))?;
    let (needed_bytes, free_bytes) = (4 * layout.len() as u64, host::available_memory_bytes());
    if needed_bytes > free_bytes {
        return Err(CheckpointError::DoesNotFit { path: folder.into(), needed_bytes, free_bytes });
    }
    let mut parameters = vec![0.0; layout.len()];
    shards.iter().try_for_each(|shard| shard.read_into(layout, &mut parameters))?;
    Ok(parameters)
}

/// The files, with their headers read.
fn shards(folder: &Path) -> Result<Vec<Shard>, CheckpointError> {
    let path = folder.join(INDEX_FILE);
    let index: Index = match read_json(&path) {
        Err(CheckpointError::Missing { .. }) => return Ok(vec![Shard::open(folder.join(MODEL_FILE), None)?]),
        index => index?,
    };
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        // A name from a stranger must not lead out of the folder.
        let plain = Path::new(&file).file_name().is_some_and(|name| name == file.as_str());
        if !plain {
            let (expected, found) = ("the name of a file in the same folder".into(), file);
            return Err(CheckpointError::Tensor { path, tensor, expected, found });
        }
        files.entry(file).or_default().insert(tensor);
    }
    if files.len() > SHARDS_MAX {
        return Err(malformed(&path, format!("{} files; at most {SHARDS_MAX} are accepted", files.len())));
    }
    let open = |(file, tensors): (String, BTreeSet<String>)| {
        let count = tensors.len();
        Shard::open(folder.join(file), Some(tensors)).map_err(|error| match error {
            CheckpointError::Missing { path } => CheckpointError::MissingShard { path, tensors: count },
            other => other,
        })
    };
    files.into_iter().map(open).collect()
}

/// Whether `transformers` leaves the tensor aside, too: a table that old versions
/// saved with the parameters, or a head beside an embedding that it is tied to.
fn is_left_aside(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
}

/// A `.safetensors` file: eight bytes of length, a JSON header, and the tensors'
/// bytes without gaps.
struct Shard {
    path: PathBuf,
    metadata: Metadata,
    /// Bytes before the first tensor.
    header_bytes: u64,
    /// What is to be read of it, where an index says so.
    listed: Option<BTreeSet<String>>,
}

impl Shard {
    fn open(path: PathBuf, listed: Option<BTreeSet<String>>) -> Result<Self, CheckpointError> {
        let mut file = open(&path)?;
        let file_bytes = file.metadata().map_err(|source| failed(&path, source))?.len();
        let (metadata, header_bytes) = read_header(&path, &mut file, file_bytes)?;
        let expected = header_bytes.saturating_add(metadata.data_len() as u64);
        if file_bytes != expected {
            return Err(malformed(
                &path,
                format!("{file_bytes} bytes long, its header needs {expected}; it is cut or has more behind"),
            ));
        }
        let shard = Self { path, metadata, header_bytes, listed };
        match shard.listed.iter().flatten().find(|tensor| shard.metadata.info(tensor).is_none()) {
            Some(absent) => Err(shard.problem(absent, format!("the tensor, as {INDEX_FILE} says"), "nothing".into())),
            None => Ok(shard),
        }
    }

    fn holds(&self, tensor: &str) -> bool {
        self.listed.as_ref().is_none_or(|listed| listed.contains(tensor)) && self.metadata.info(tensor).is_some()
    }

    fn problem(&self, tensor: &str, expected: String, found: String) -> CheckpointError {
        CheckpointError::Tensor { path: self.path.clone(), tensor: tensor.into(), expected, found }
    }

    /// Compares names, types and shapes with the model.
    fn check(&self, layout: &Layout) -> Result<(), CheckpointError> {
        for name in self.metadata.offset_keys() {
            let (Some(info), Some(tensor)) = (self.metadata.info(&name), layout.tensor(&name)) else {
                if is_left_aside(&name) {
                    continue;
                }
                return Err(self.problem(&name, "no tensor of this name in the model".into(), "one".into()));
            };
            let types = [Dtype::F32, Dtype::F16, Dtype::BF16];
            if !types.contains(&info.dtype) {
                return Err(self.problem(&name, "type F32, F16 or BF16".into(), format!("type {:?}", info.dtype)));
            }
            if info.shape != tensor.shape {
                let (expected, found) = (format!("shape {:?}", tensor.shape), format!("shape {:?}", info.shape));
                return Err(self.problem(&name, expected, found));
            }
        }
        Ok(())
    }

    /// Reads its tensors into their places, in the order in which they lie.
    fn read_into(&self, layout: &Layout, parameters: &mut [f32]) -> Result<(), CheckpointError> {
        let mut file = open(&self.path)?;
        for name in self.metadata.offset_keys().into_iter().filter(|name| self.holds(name)) {
            let (Some(info), Some(tensor)) = (self.metadata.info(&name), layout.tensor(&name)) else { continue };
            let start = self.header_bytes + info.data_offsets.0 as u64;
            file.seek(SeekFrom::Start(start)).map_err(|source| failed(&self.path, source))?;
            self.read_tensor(&mut file, tensor, info, &mut parameters[tensor.range()])?;
        }
        Ok(())
    }

    fn read_tensor(
        &self,
        file: &mut File,
        tensor: &Tensor,
        info: &TensorInfo,
        values: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let width = if info.dtype == Dtype::F32 { 4 } else { 2 };
        let mut bytes = vec![0; PIECE_BYTES.min(width * values.len())];
        for (piece, values) in values.chunks_mut(PIECE_BYTES / width).enumerate() {
            let bytes = &mut bytes[..width * values.len()];
            file.read_exact(bytes).map_err(|error| {
                let cut = || malformed(&self.path, format!("ends within tensor `{}`", tensor.name));
                read_failed(&self.path, error, cut)
            })?;
            convert(info.dtype, bytes, values);
            if let Some(index) = values.iter().position(|value| !in_range(*value)) {
                let (at, value) = (piece * (PIECE_BYTES / width) + index, values[index]);
                let found = format!("{value} at element {at}");
                return Err(self.problem(&tensor.name, "finite numbers under 2^40".into(), found));
            }
            values.iter_mut().for_each(|value| *value = canon(*value));
        }
        Ok(())
    }
}

/// Little-endian numbers of one of the accepted types to f32, which holds all of them exactly.
fn convert(dtype: Dtype, bytes: &[u8], values: &mut [f32]) {
    let words = || bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
    match dtype {
        Dtype::BF16 => {
            values.iter_mut().zip(words()).for_each(|(value, bits)| *value = f32::from_bits(u32::from(bits) << 16));
        }
        Dtype::F16 => values.iter_mut().zip(words()).for_each(|(value, bits)| *value = from_f16(bits)),
        _ => values
            .iter_mut()
            .zip(bytes.chunks_exact(4))
            .for_each(|(value, four)| *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]])),
    }
}

/// IEEE 754 binary16 to binary32.
fn from_f16(bits: u16) -> f32 {
    let (sign, field, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    let magnitude = match field {
        // Subnormal: a multiple of 2⁻²⁴.
        0 => (fraction as f32 * f32::from_bits(103 << 23)).to_bits(),
        31 => 255 << 23 | fraction << 13,
        _ => (field + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The header, and the number of bytes before the first tensor.
fn read_header(path: &Path, file: &mut impl Read, file_bytes: u64) -> Result<(Metadata, u64), CheckpointError> {
    let cut = || malformed(path, format!("{file_bytes} bytes long, which ends within its header"));
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|error| read_failed(path, error, cut))?;
    let length = u64::from_le_bytes(length);
    if length > JSON_BYTES_MAX {
        return Err(malformed(path, format!("a header of {length} bytes; at most {JSON_BYTES_MAX} are accepted")));
    }
    if file_bytes - 8.min(file_bytes) < length {
        return Err(cut());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|error| read_failed(path, error, cut))?;
    let metadata = serde_json::from_slice(&header)
        .map_err(|error| malformed(path, format!("its header is not that of a safetensors file: {error}")))?;
    Ok((metadata, length + 8))
}

fn read_failed(path: &Path, source: io::Error, cut: impl Fn() -> CheckpointError) -> CheckpointError {
    if source.kind() == io::ErrorKind::UnexpectedEof { cut() } else { failed(path, source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_exact() {
        for (bits, expected) in [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x0001, 2f32.powi(-24)),
            (0x83ff, -1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3c00, 1.0),
            (0xbc01, -1.000_976_6),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(from_f16(bits).to_bits(), expected.to_bits(), "{bits:04x}");
        }
        assert!(from_f16(0x7e00).is_nan());
        let mut values = [0.0; 2];
        convert(Dtype::BF16, &[0x80, 0x3f, 0x49, 0xc0], &mut values);
        assert_eq!(values, [1.0, -3.140_625]);
    }
}
