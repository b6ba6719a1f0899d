//! The market for computing power: asks and bids are gossiped, matching is local
//! and deterministic, reservations are direct and expire by themselves.

pub mod book;
pub mod demand;
pub mod listing;
pub mod matching;
pub(crate) mod order;
pub mod reservation;
