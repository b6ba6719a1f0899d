//! The whole program, as a person or a script uses it: real processes, real
//! sockets on loopback or between network namespaces, real files.

mod bad_input;
mod demo;
mod devices;
mod failure;
mod founders;
mod inspection;
mod invite;
mod ledger;
mod ledger_deaths;
mod ledger_splits;
mod models;
mod namespaces;
mod recover;
mod support;
