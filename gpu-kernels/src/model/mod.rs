//! The Llama-family decoder: its shape, its parameters and one training step.

pub mod config;
pub mod layout;
