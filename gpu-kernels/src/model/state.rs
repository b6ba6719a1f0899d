//! What training has come to: enough to go on with it on another engine.

use super::layout::Layout;
use crate::error::EngineError;
use crate::reduce::check;

/// Parameters and moments, each flat in the order of [`Layout`]. An engine
/// that goes on from here gives the bits that the first one would have given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingState {
    /// All parameters.
    pub parameters: Vec<f32>,
    /// AdamW's mean of gradients.
    pub first_moment: Vec<f32>,
    /// AdamW's mean of squared gradients.
    pub second_moment: Vec<f32>,
}

impl TrainingState {
    /// Refuses vectors of another model, and values that no step leaves behind.
    pub(crate) fn check(&self, layout: &Layout) -> Result<(), EngineError> {
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
        Ok(())
    }
}
