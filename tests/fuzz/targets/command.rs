//! Parses one command line.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::command(input));
