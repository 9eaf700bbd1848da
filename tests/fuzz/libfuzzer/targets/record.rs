//! Drives `chatledger_fuzz::record` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::record(bytes));
