//! Drilling: verifiable work that several peers do alike, and what it is worth.

pub mod class;
pub mod unit;

pub use class::GemmClass;
pub use unit::{EvaluateUnit, Evaluation, SegmentResult, SegmentUnit, Unit};
