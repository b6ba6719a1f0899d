//! Attacks on drills, power and the ledger, each with what is predicted and what
//! is measured, and a threshold between working and broken.
//!
//! Most run on [`arena`]: every rule of the ledger, in one process, with scripted
//! [`agent`]s. Each scenario is a function of a seed and a scale; `table` runs
//! them all. Each has a canary: the same measurement with the defence taken away,
//! which has to fail the threshold.

mod agent;
mod arena;
mod beacon;
mod cost;
mod leases;
mod lies;
mod shares;
mod table;
mod theory;

pub use table::{Outcome, Scale, canaries, table};
