//! Drives `chatledger_fuzz::envelope` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::envelope(bytes));
