//! `manta`: the one program. Every participant runs the same peer.

#![allow(dead_code)] // Until the commands are merged.

mod api;
mod board;
mod checkpoint;
mod data;
mod driver;
mod host;
mod http;
mod identity;
mod metrics;
mod net;
mod preset;
mod run;
mod status;
mod store;
mod up;

fn main() {}
