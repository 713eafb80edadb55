//! See [`fuzz::dns_question`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dns_question(data));
