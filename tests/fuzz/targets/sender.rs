//! What a server says to a client.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::sender(input));
