//! Many real protocol nodes on virtual time.
//!
//! Every machine runs the same [`manta_protocol::Node`] as the peer program.
//! The network, the clocks and the trainers around it are simulated from one
//! seed, so that equal seeds give equal histories to the byte, and checkers
//! watch what really happens. `docs/simulator.md` says what is modelled.

pub mod checkers;
pub mod clock;
pub mod faults;
pub mod host;
pub mod network;
mod options;
pub mod report;
pub mod schedule;
pub mod workload;
mod world;

pub use options::Options;
pub use world::simulate;
