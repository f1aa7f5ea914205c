//! Parses one path or mailbox.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::path(input));
