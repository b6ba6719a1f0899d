//! Many real protocol nodes on virtual time.
//!
//! Every machine runs the same [`manta_protocol::Node`] as the peer program.
//! The network, the clocks, the disks and the trainers around it are simulated
//! from one seed, so that equal seeds give equal histories to the byte, faults
//! come from the same seed, and checkers watch what really happens.
//! `docs/simulator.md` says what is modelled.

pub mod attacks;
pub mod checkers;
pub mod clock;
pub mod disk;
pub mod draws;
pub mod faults;
pub mod host;
pub mod ledger;
mod many;
pub mod network;
pub mod options;
pub mod report;
pub mod scenario;
pub mod schedule;
mod seen;
pub mod tamper;
pub mod training;
pub mod transport;
pub mod workload;
mod world;

pub use many::{in_order, simulate_many};
pub use options::Options;
pub use world::simulate;
