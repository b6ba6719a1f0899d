#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| manta_protocol_fuzz::body(bytes));
