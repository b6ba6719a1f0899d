//! Ledgers of 4 to 64 real nodes on virtual time.
//!
//! The machines of [`crate::simulate`] train; those here keep a ledger, which
//! needs other disks, other checkers and other faults, and no trainers. Clock,
//! schedule, network, faults and scenarios are the same.
//!
//! - [`options`]: what to simulate, and [`scenario`]: the same from a file;
//! - `machine`: one node with its clock, its [`disk`] and its inbox;
//! - `world`: the loop; `driver`: inputs and effects of one machine; `carrier`:
//!   gossip and frames; `trouble`: faults;
//! - `checks`: a replica of the chain that judges what machines make durable;
//! - [`report`]: how it went.

mod carrier;
mod checks;
pub mod disk;
mod driver;
mod machine;
pub mod options;
pub mod report;
pub mod scenario;
mod trouble;
mod world;

pub(crate) use driver::honest_result;
pub use options::Options;
pub use report::Summary;
pub use world::simulate;
