//! Drives `chatledger_fuzz::native` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatledger_fuzz::native(bytes));
