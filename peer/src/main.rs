//! `manta`: the one program. Every participant runs the same peer.

mod account;
mod api;
mod board;
mod checkpoint;
mod cli;
mod data;
mod device;
mod digits;
mod drill;
mod driver;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod http;
mod identity;
mod joining;
mod metrics;
mod net;
mod optimizer;
mod papers;
mod preset;
mod recovery;
mod run;
mod schedule;
mod status;
mod store;
mod up;

fn main() -> std::process::ExitCode {
    host::quiet_graphics_loader();
    cli::main()
}
