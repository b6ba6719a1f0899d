//! Drilling on this machine: executes work units beside whatever else it does.
//!
//! [`Driller`] is a thread of low priority with a queue of a few units. It takes a
//! unit only if the [share](share) of the machine that its owner allows has room for
//! it before its deadline, and works in blocks of some milliseconds, between which
//! the trainer goes first. [`segment`] computes parts of runs again, by the very code
//! that trains. Who asks fetches what a unit names beforehand: nothing here waits for
//! a network or a disk.

mod driller;
mod pace;
#[cfg_attr(not(test), expect(dead_code, reason = "the ledger draws no audits of runs yet"))]
mod segment;
mod share;
#[cfg(test)]
mod tests;

pub(crate) use driller::{Driller, Finished, Outcome, Refused};
pub(crate) use segment::Job;
#[cfg(test)]
pub(crate) use segment::{EvaluateJob, SegmentJob};
pub(crate) use share::Share;
