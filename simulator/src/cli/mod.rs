//! The program's other commands.

pub(crate) mod attacks;
pub(crate) mod ledger;
