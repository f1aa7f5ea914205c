//! Mail data: limit, cut, octets.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::data(input));
