//! Everything that touches the network.
//!
//! [`swarm`] owns libp2p (discovery, gossip, direct frames), [`bulk`] owns a
//! QUIC endpoint of our own for tensors and blobs, [`ticket`] is first contact.
//! All of them move opaque bytes between peers whose keys are proven by the
//! transport; what the bytes mean is decided in `manta_protocol`.

pub(crate) mod addresses;
mod behaviour;
pub(crate) mod bulk;
mod control;
#[cfg(all(test, unix))]
mod control_tests;
mod discovery;
pub(crate) mod frame;
pub(crate) mod swarm;
mod swarm_task;
#[cfg(test)]
mod swarm_tests;
pub(crate) mod ticket;
