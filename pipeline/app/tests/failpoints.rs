//! The program has fail points only with the cargo feature `failpoints`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[test]
fn fail_points_are_compiled_in_only_with_the_feature() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_chatledger")).unwrap();
    let variable = b"CHATLEDGER_FAILPOINTS";
    let found = program
        .windows(variable.len())
        .any(|bytes| bytes == variable);
    assert_eq!(found, cfg!(feature = "failpoints"));
}
