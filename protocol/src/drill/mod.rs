//! Drilling: verifiable work that several peers do alike, and what it is worth.

pub mod unit;

pub use unit::{EvaluateUnit, Evaluation, GemmClass, SegmentResult, SegmentUnit, Unit};
