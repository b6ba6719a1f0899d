//! The fuzz targets of `fuzz/` on the stable compiler: every file of the corpora,
//! then a fixed number of mutations of them.

#[path = "fuzz/cbor.rs"]
mod cbor;
#[path = "../fuzz/src/cursor.rs"]
mod cursor;
#[path = "../fuzz/src/decoders.rs"]
mod decoders;
#[path = "fuzz/driver.rs"]
mod driver;
#[path = "../fuzz/src/moves.rs"]
mod moves;
#[path = "../fuzz/src/player.rs"]
mod player;
#[path = "protocol/samples.rs"]
mod samples;
#[path = "fuzz/seeds.rs"]
mod seeds;
#[path = "fuzz/stories.rs"]
mod stories;
#[path = "../fuzz/src/views.rs"]
mod views;

use driver::fuzz;

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn damaged_envelopes_are_refused() {
    fuzz(PACKAGE, "envelope", 10_000, decoders::envelope, Some(cbor::change));
}

#[test]
fn signed_bodies_of_any_bytes_have_one_encoding_or_are_refused() {
    fuzz(PACKAGE, "body", 10_000, decoders::body, Some(cbor::change_body));
}

#[test]
fn records_of_any_bytes_are_resumed_or_refused() {
    fuzz(PACKAGE, "record", 2_000, decoders::record, Some(cbor::change));
}

#[test]
fn a_member_of_a_run_survives_any_story() {
    fuzz(PACKAGE, "story", 600, moves::story, Some(stories::change));
}
