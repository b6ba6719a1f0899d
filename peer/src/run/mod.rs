//! A run on this machine: the data it needs, the thread that computes it, the engine, the
//! chunks that wait, the spec it was ordered by and the model it leaves.

pub(crate) mod desk;
pub(crate) mod diary;
pub(crate) mod engine;
pub(crate) mod fetch;
pub(crate) mod gather;
pub(crate) mod initial;
pub(crate) mod keeper;
pub(crate) mod library;
pub(crate) mod order;
pub(crate) mod save;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod trainer;
