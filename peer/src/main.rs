#![allow(dead_code)]
//! Declares the networking modules while they are built apart from the program.

mod identity;
mod net;

fn main() {}
