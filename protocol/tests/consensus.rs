//! Consensus from outside: a swarm on virtual time, with lost messages, crashes
//! at every output, partitions and members who lie.

#[path = "consensus/basics.rs"]
mod basics;
#[path = "consensus/bench.rs"]
mod bench;
#[path = "consensus/faults.rs"]
mod faults;
#[path = "consensus/follow.rs"]
mod follow;
#[path = "consensus/golden.rs"]
mod golden;
#[path = "consensus/hostile.rs"]
mod hostile;
#[path = "consensus/member.rs"]
mod member;
#[path = "consensus/revealer.rs"]
mod revealer;
#[path = "consensus/swarm.rs"]
mod swarm;
