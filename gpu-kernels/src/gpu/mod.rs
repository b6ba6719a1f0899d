//! The same training step on a graphics device: each op is a shader in
//! `shaders/` of the same name as its native twin, with its launcher here.

pub(crate) mod kernel;
pub(crate) mod ops;
pub(crate) mod program;
