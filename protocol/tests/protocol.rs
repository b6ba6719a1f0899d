//! The protocol from outside: wire bytes, hostile input, state machines.

#[path = "protocol/allreduce.rs"]
mod allreduce;
#[path = "protocol/bench.rs"]
mod bench;
#[path = "protocol/cluster.rs"]
mod cluster;
#[path = "protocol/golden.rs"]
mod golden;
#[path = "protocol/hostile.rs"]
mod hostile;
#[path = "protocol/market.rs"]
mod market;
#[path = "protocol/recovery.rs"]
mod recovery;
#[path = "protocol/samples.rs"]
mod samples;
