//! The Llama-family decoder: its shape, its parameters and one training step.

mod backward;
pub mod config;
pub mod cost;
pub mod engine;
pub(crate) mod forward;
pub(crate) mod init;
pub(crate) mod input;
pub mod layout;
pub(crate) mod muon;
pub(crate) mod optimizer;
pub mod options;
pub mod profile;
pub mod state;
pub mod step;
pub(crate) mod weights;
mod workspace;
