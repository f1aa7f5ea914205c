//! Runs a whole connection to the receiver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::receiver(input));
