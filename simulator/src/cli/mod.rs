//! The program's other commands.

pub(crate) mod ledger;
