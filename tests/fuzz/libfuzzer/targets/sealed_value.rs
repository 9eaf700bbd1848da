//! Drives `chatledger_fuzz::sealed_value` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::sealed_value(bytes));
