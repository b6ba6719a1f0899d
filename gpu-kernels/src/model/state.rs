//! What training has come to: enough to go on with it on another engine.

use super::forward::TASK_ELEMENTS;
use super::layout::Layout;
use crate::error::EngineError;
use crate::reduce::check;
use crate::spec::OptimizerKind;

/// Domain of the hash of the parameters.
pub(crate) const PARAMETER_CONTEXT: &str = "manta arithmetic 1 parameters";
/// Domain of the hash of the moments.
pub(crate) const OPTIMIZER_CONTEXT: &str = "manta arithmetic 1 optimizer state";

/// Parameters and moments, each flat in the order of [`Layout`]. An engine
/// that goes on from here gives the bits that the first one would have given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingState {
    /// All parameters.
    pub parameters: Vec<f32>,
    /// AdamW's mean of gradients, or Muon's.
    pub first_moment: Vec<f32>,
    /// AdamW's mean of squared gradients; zero where Muon steps.
    pub second_moment: Vec<f32>,
}

impl TrainingState {
    /// Refuses vectors of another model, and values that no step of this optimiser leaves behind.
    pub(crate) fn check(&self, layout: &Layout, kind: OptimizerKind) -> Result<(), EngineError> {
        let vectors = [
            ("parameters", &self.parameters),
            ("first_moment", &self.first_moment),
            ("second_moment", &self.second_moment),
        ];
        for (what, vector) in vectors {
            if vector.len() != layout.len() {
                return Err(EngineError::Length { what, expected: layout.len().to_string(), found: vector.len() });
            }
            check(what, vector)?;
        }
        // Muon has no second moment: its place is zero, and memory of steps on devices.
        for tensor in layout.tensors().iter().filter(|tensor| kind.orthogonalizes(tensor)) {
            if let Some(index) = tensor.range().find(|&index| self.second_moment[index].to_bits() != 0) {
                return Err(EngineError::Value { what: "second_moment", index, value: self.second_moment[index] });
            }
        }
        Ok(())
    }
}

/// blake3 in key-derivation mode over little-endian f32 bytes.
pub(crate) fn hash_vectors(context: &str, vectors: &[&[f32]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    let mut bytes = Vec::with_capacity(4 * TASK_ELEMENTS);
    for values in vectors.iter().flat_map(|vector| vector.chunks(TASK_ELEMENTS)) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}
