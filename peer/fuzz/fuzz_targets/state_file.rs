#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| manta_peer_fuzz::fuzz::state_file(bytes));
