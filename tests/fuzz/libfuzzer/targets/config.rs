//! Drives `chatledger_fuzz::config` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::config(bytes));
