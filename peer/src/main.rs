//! Nothing runs yet; the modules are built and tested.
#![allow(dead_code)]

mod checkpoint;
mod data;
mod store;

fn main() {}
