//! The same training step on a graphics device: each op is a shader in
//! `shaders/` of the same name as its native twin, with its launcher here. What
//! shaders share stands before them, from `shaders/parts/`.

mod backward;
pub(crate) mod compile;
pub(crate) mod engine;
mod forward;
pub(crate) mod kernel;
mod memory;
mod model;
mod muon;
pub(crate) mod ops;
mod optimizer;
pub(crate) mod pace;
mod pass;
pub(crate) mod program;
pub(crate) mod stopwatch;
pub(crate) mod tiling;
pub(crate) mod tuning;
mod workspace;
