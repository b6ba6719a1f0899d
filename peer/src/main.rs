//! The one program of Manta.
#![allow(dead_code)]

mod api;
mod board;
mod checkpoint;
mod data;
mod driver;
mod host;
mod identity;
mod net;
mod preset;
mod run;
mod status;
mod store;
mod up;

fn main() {}
