//! A training run: what it is, how its rounds go, how gradients are averaged.

pub mod allreduce;
mod decide;
pub(crate) mod ends;
pub mod ledger;
pub(crate) mod machine;
mod patience;
pub(crate) mod record;
pub mod report;
pub mod spec;
pub mod view;

pub use allreduce::{AllReduce, ChunkPlan, Phase};
pub use spec::RunSpec;
