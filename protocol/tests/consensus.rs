//! Consensus from outside: a swarm on virtual time, with lost messages, crashes
//! at every output, partitions and members who lie.

#[path = "consensus/basics.rs"]
mod basics;
#[path = "consensus/faults.rs"]
mod faults;
#[path = "consensus/swarm.rs"]
mod swarm;
