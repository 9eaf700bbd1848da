//! Drives `chatledger_fuzz::rules` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::rules(bytes));
