//! The ledger from outside: blocks, transactions, drills, hostile bytes.

#[path = "ledger/accounts.rs"]
mod accounts;
#[path = "ledger/bench.rs"]
mod bench;
#[path = "ledger/blocks.rs"]
mod blocks;
#[path = "ledger/certificates.rs"]
mod certificates;
#[path = "ledger/drills.rs"]
mod drills;
#[path = "ledger/golden.rs"]
mod golden;
#[path = "ledger/hostile.rs"]
mod hostile;
#[path = "ledger/leases.rs"]
mod leases;
#[path = "ledger/newcomers.rs"]
mod newcomers;
#[path = "ledger/owners.rs"]
mod owners;
#[path = "ledger/pool.rs"]
mod pool;
#[path = "ledger/probes.rs"]
mod probes;
#[path = "ledger/rates.rs"]
mod rates;
#[path = "ledger/refusals.rs"]
mod refusals;
