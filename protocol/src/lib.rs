//! Every decision of a Manta peer, without sockets, clocks, randomness, threads
//! or files.
//!
//! A [`Node`] takes an [`Input`] and the time, and answers with [`Effect`]s.
//! The peer program and the simulator drive the same `Node`: one with real
//! sockets, one on virtual time.
//!
//! ```text
//! loop {
//!     node.handle(input, now);
//!     while let Some(effect) = node.poll_effect() { perform(effect); }
//!     sleep_until(node.poll_timeout());          // or the next input
//! }
//! ```
//!
//! Bulk payloads (gradients, data, checkpoints) never pass through the node: it
//! decides on hashes, indices and sizes; the driver moves the bytes and reports
//! back with the id of the effect it carried out.

pub mod consensus;
pub mod drill;
pub mod effect;
pub mod election;
pub mod ids;
pub mod input;
pub mod ledger;
pub mod market;
pub mod membership;
pub mod memory;
mod node;
mod outbox;
pub mod power;
pub mod run;
pub mod seed;
pub mod time;
pub mod trust;
pub mod wire;

pub use effect::{Effect, Event};
pub use ids::{EffectId, Hash, NetworkId, OrderId, PeerId, RunId, Serial};
pub use input::{Command, Input};
pub use node::{Config, Node};
pub use seed::Seed;
pub use time::{Duration, Time};
