//! `manta`: the one program. Every participant runs the same peer.

#![allow(dead_code)] // Until the driver that uses all of it is merged.

mod api;
mod checkpoint;
mod data;
mod http;
mod metrics;
mod preset;
mod status;
mod store;

fn main() {}
