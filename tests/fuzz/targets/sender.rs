//! Feeds the replies of a server to the sender.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::sender(input));
