#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| threadws::fuzzing::proxy(input));
