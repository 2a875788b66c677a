#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bildkante_edge::fuzzing::original(data));
