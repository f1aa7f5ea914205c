//! Decodes mail data. The first byte is the limit, the second the length of the parts.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailslot::smtp::testing::data(input));
