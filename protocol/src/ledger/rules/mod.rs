//! What transactions and heights do to the state, one rule a file. Each rule
//! checks everything before it changes anything.

pub(super) mod account;
pub(super) mod commit;
pub(super) mod evidence;
pub(super) mod lease;
pub(super) mod probation;
pub(super) mod probe;
pub(super) mod reveal;
pub(super) mod schedule;
pub(super) mod settle;
mod share;
pub(super) mod stage;
pub(super) mod verdict;
