//! Drives `chatledger_fuzz::front` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::front(bytes));
