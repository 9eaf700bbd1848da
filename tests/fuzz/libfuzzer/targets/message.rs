//! Drives `chatledger_fuzz::message` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::message(bytes));
