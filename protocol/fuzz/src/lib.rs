//! What is fuzzed of the protocol: functions of bytes that must not panic.
//!
//! `fuzz_targets` hands them to libFuzzer; `tests/fuzz.rs` of the protocol
//! includes the same modules and runs them on the stable compiler.

mod cursor;
mod decoders;
mod moves;
mod player;
#[path = "../../tests/protocol/samples.rs"]
mod samples;
mod views;

/// Bytes as they come from the network.
pub fn envelope(bytes: &[u8]) {
    decoders::envelope(bytes);
}

/// The kind of a message, then its body, in a properly signed envelope.
pub fn body(bytes: &[u8]) {
    decoders::body(bytes);
}

/// A record of the journal, from which a run is resumed.
pub fn record(bytes: &[u8]) {
    decoders::record(bytes);
}

/// Everything that can happen to one member of a run.
pub fn story(bytes: &[u8]) {
    moves::story(bytes);
}
