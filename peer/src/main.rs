//! Scratch.
#![allow(dead_code)]
mod checkpoint;
mod data;
mod store;
fn main() {}
