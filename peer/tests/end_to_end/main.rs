//! The whole program, as a person or a script uses it: real processes, real
//! sockets on loopback or between network namespaces, real files.

mod bad_input;
mod demo;
mod devices;
mod failure;
mod inspection;
mod invite;
mod ledger;
mod models;
mod namespaces;
mod support;
