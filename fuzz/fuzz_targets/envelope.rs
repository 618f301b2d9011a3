#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| threadws::verify::fuzzing::envelope(input));
