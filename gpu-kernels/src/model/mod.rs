//! The Llama-family decoder: its shape, its parameters and one training step.

mod backward;
pub mod config;
pub mod engine;
mod forward;
mod init;
pub mod layout;
pub(crate) mod optimizer;
pub mod step;
mod weights;
mod workspace;
