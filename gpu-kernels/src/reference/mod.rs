//! A plain floating-point decoder to compare the exact engine against.
//!
//! The same mathematics as the engine (Llama-family forward pass, its
//! derivative, AdamW and Muon) written the obvious way in ordinary `f32` or `f64` with
//! the platform's `exp`, `ln` and `sqrt`: one loop a formula, no quantisation,
//! no threads. It is the truth within rounding, never the definition of any
//! bit: results may differ between machines. Parameters and gradients are the
//! flat vector of [`crate::model::layout::Layout`].

mod adamw;
mod decoder;
mod layers;
mod muon;
mod real;

pub use adamw::{AdamW, learning_rate_at};
pub use decoder::{Batch, Decoder};
pub use muon::{Muon, newton_schulz};
pub use real::Real;

#[cfg(test)]
mod tests;
