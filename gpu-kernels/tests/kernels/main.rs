//! The kernels as a peer uses them: the engines and the outer optimiser, from outside.
//!
//! `MANTA_WRITE_GOLDEN=1 cargo test …` writes the hashes found into the files in
//! `tests/golden` instead of comparing them; that is a new arithmetic version
//! and must be called one.

mod against_reference;
mod engine;
mod golden;
mod gpu;
mod gpu_long;
mod local_rounds;
mod local_training;
mod muon;
mod outer;
mod recompute;
mod support;
mod text;
