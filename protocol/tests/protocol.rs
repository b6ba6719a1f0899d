//! The protocol from outside: wire bytes, hostile input, state machines.

#[path = "protocol/agreement.rs"]
mod agreement;
#[path = "protocol/allreduce.rs"]
mod allreduce;
#[path = "protocol/bench.rs"]
mod bench;
#[path = "protocol/cluster.rs"]
mod cluster;
#[path = "protocol/ends.rs"]
mod ends;
#[path = "protocol/golden.rs"]
mod golden;
#[path = "protocol/hostile.rs"]
mod hostile;
#[path = "protocol/largest.rs"]
mod largest;
#[path = "protocol/leases.rs"]
mod leases;
#[path = "protocol/liveness.rs"]
mod liveness;
#[path = "protocol/market.rs"]
mod market;
#[path = "protocol/member.rs"]
mod member;
#[path = "protocol/membership.rs"]
mod membership;
#[path = "protocol/recoveries.rs"]
mod recoveries;
#[path = "protocol/recovery.rs"]
mod recovery;
#[path = "protocol/run.rs"]
mod run;
#[path = "protocol/samples.rs"]
mod samples;
#[path = "protocol/trust.rs"]
mod trust;
