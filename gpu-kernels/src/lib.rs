//! The exact arithmetic of a training step: bit for bit the same on every device.

pub mod model;
pub mod reference;
