//! A training run: what it is, how its rounds go, how gradients are averaged.

pub mod allreduce;
pub(crate) mod machine;
mod patience;
pub mod report;
pub mod spec;

pub use allreduce::{AllReduce, ChunkPlan, Phase};
pub use spec::RunSpec;
