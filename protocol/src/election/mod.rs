//! Elections: who drills, checks, judges and proposes.
//!
//! A chain of [`Beacon`]s is the public chance. From a beacon, each key draws
//! its private and provable share of it with a verifiable random function
//! ([`vrf`]); [`sortition`] turns that share and a weight into seats, so that
//! many small keys get what one large key gets; [`lottery`] draws one key from
//! the beacon alone, where all must know the winner in advance.
//!
//! Everything here is a pure function of its arguments, in integers: equal
//! inputs elect equal peers on every machine.

pub mod beacon;
pub mod lottery;
mod real;
pub mod sortition;
pub mod vrf;

pub use beacon::Beacon;
pub use sortition::seats;
pub use vrf::{Domain, VrfOutput, VrfProof, VrfPublic, VrfSecret, election_input};
