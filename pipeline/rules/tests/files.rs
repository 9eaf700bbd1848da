//! Rule files and words files: accepted and refused content, error texts, and versions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::error::Error as _;
use std::io;

use chatledger_rules::{RuleError, RuleFile, RuleSet, compile};
use support::{rules, try_rules};

const GOOD: &str = r#"
[[rule]]
id = "private-deal"
name = "私下交易监控"
category = "sensitive_word"
severity = "high"
words = ["转我私账", "加我微信"]
words_file = "more.txt"
allow = ["不要加我微信"]
[rule.scope]
all = false
members = ["zhangsan"]
departments = [12, 0x0d]
direction = "either"
"#;

fn with_words(rule_file: &str, words: &str) -> RuleSet {
    let source = RuleFile {
        name: "rules/a.toml",
        text: rule_file,
    };
    compile(&[source], |rule_file, name| {
        assert_eq!((rule_file, name), ("rules/a.toml", "more.txt"));
        Ok::<_, io::Error>(words.to_owned())
    })
    .unwrap()
}

/// Checks that files are refused with exactly these errors, in any order.
fn refused(files: &[(&str, &str)], expected: &[&str]) {
    let errors = try_rules(files).expect_err("must be refused");
    let mut errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    errors.sort();
    expected.sort();
    assert_eq!(errors, expected);
}

#[test]
fn words_file_adds_its_lines_to_the_words() {
    let set = with_words(
        GOOD,
        "\u{feff}返点\r\n\r\n  \r\n# 注释\r\n 回 扣 \n返点\n加我微信",
    );
    assert_eq!(set.rules()[0].words, 4);
    for (text, hits) in [
        ("返点", 1),
        ("# 注释", 0),
        (" 回 扣 ", 1),
        ("回 扣", 1),
        ("回扣", 0),
        ("\u{feff}", 0),
        ("转我私账", 1),
    ] {
        assert_eq!(set.find(text).len(), hits, "{text:?}");
    }
}

#[test]
fn unreadable_words_file_is_an_error_with_its_cause() {
    let source = RuleFile {
        name: "a.toml",
        text: GOOD,
    };
    let errors = compile(&[source], |_, _| {
        Err::<String, _>(io::Error::new(io::ErrorKind::NotFound, "gone"))
    })
    .unwrap_err();
    let [error @ RuleError::WordsFile { .. }] = errors.as_slice() else {
        panic!("{errors:?}")
    };
    assert_eq!(
        error.to_string(),
        r#"a.toml:8: rule[0].words_file: cannot read the words file "more.txt""#
    );
    assert_eq!(error.source().unwrap().to_string(), "gone");
}

#[test]
fn files_without_rules_are_accepted() {
    for text in ["", "# nothing yet\n", "rule = []", "\u{feff}"] {
        assert_eq!(rules(text).rules().len(), 0, "{text:?}");
    }
}

#[test]
fn all_errors_of_all_files_are_reported_together() {
    refused(
        &[
            (
                "a.toml",
                r#"
colour = "red"
[[rule]]
id = "a b"
severity = "hihg"
words = ["ok", 7, "fine", [1]]
category = "price"
words_file = ""
[rule.scope]
all = "yes"
members = "zhangsan"
departments = [1, 0, -3, 4294967296, "12"]
direction = "both"
people = 1
[[rule]]
name = " "
category = ""
allow = 3
scope = []
numbers = ["mobile", "x", 1]
[[rule]]
id = "c"
name = "c"
severity = "low"
numbers = "mobile"
"#,
            ),
            ("b.toml", "[[rule]]\nid = \n[[rule]\n"),
            ("c.toml", "rule = { id = 'x' }"),
            ("d.toml", "rule = [1]"),
        ],
        &[
            "a.toml:2: colour: unknown key; accepted: rule",
            r#"a.toml:4: rule[0].id: found "a b"; accepted: 1 to 64 characters without white space or control characters"#,
            "a.toml:3: rule[0].name: missing; accepted: a string that is not blank",
            r#"a.toml:5: rule[0].severity: found "hihg"; accepted: low, medium, high, critical"#,
            "a.toml:6: rule[0].words[1]: found 7; accepted: an array of strings of at most 1000 characters",
            "a.toml:6: rule[0].words[3]: found an array; accepted: an array of strings of at most 1000 characters",
            r#"a.toml:8: rule[0].words_file: found ""; accepted: a string that is not blank"#,
            r#"a.toml:10: rule[0].scope.all: found "yes"; accepted: true, false"#,
            r#"a.toml:11: rule[0].scope.members: found "zhangsan"; accepted: an array of userids"#,
            "a.toml:12: rule[0].scope.departments[1]: found 0; accepted: an array of department \
             ids, 1 to 4294967295",
            "a.toml:12: rule[0].scope.departments[2]: found -3; accepted: an array of department \
             ids, 1 to 4294967295",
            "a.toml:12: rule[0].scope.departments[3]: found 4294967296; accepted: an array of \
             department ids, 1 to 4294967295",
            r#"a.toml:12: rule[0].scope.departments[4]: found "12"; accepted: an array of department ids, 1 to 4294967295"#,
            r#"a.toml:13: rule[0].scope.direction: found "both"; accepted: either, sent, received"#,
            "a.toml:14: rule[0].scope.people: unknown key; accepted: all, members, \
             departments, direction",
            "a.toml:15: rule[1].id: missing; accepted: 1 to 64 characters without white \
             space or control characters",
            r#"a.toml:16: rule[1].name: found " "; accepted: a string that is not blank"#,
            r#"a.toml:17: rule[1].category: found ""; accepted: a string that is not blank"#,
            "a.toml:15: rule[1].severity: missing; accepted: low, medium, high, critical",
            "a.toml:18: rule[1].allow: found 3; accepted: an array of strings of at most 1000 characters",
            "a.toml:19: rule[1].scope: found an array; accepted: a table",
            r#"a.toml:20: rule[1].numbers[1]: found "x"; accepted: an array of mobile, id_card, bank_card"#,
            "a.toml:20: rule[1].numbers[2]: found 1; accepted: an array of mobile, id_card, bank_card",
            r#"a.toml:25: rule[2].numbers: found "mobile"; accepted: an array of mobile, id_card, bank_card"#,
            "b.toml:2: not valid TOML: string values must be quoted, expected literal string",
            "b.toml:3: not valid TOML: unclosed array table, expected `]`",
            "c.toml:1: rule: found a table; accepted: [[rule]] tables",
            "d.toml:1: rule[0]: found 1; accepted: [[rule]] tables",
        ],
    );
}

#[test]
fn long_refused_value_is_shortened_in_the_error() {
    let long = "长".repeat(5_000);
    let errors = try_rules(&[("a.toml", &format!("rule = '{long}'"))]).unwrap_err();
    let shown = errors[0].to_string();
    assert!(shown.contains(&format!("{}…", "长".repeat(40))), "{shown}");
    assert!(shown.chars().count() < 120, "{shown}");
}

#[test]
fn duplicate_ids_across_files_are_refused() {
    let rule = |id: &str| format!("[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\n");
    let first = rule("a") + &rule("b");
    let second = rule("c") + &rule("a") + &rule("c");
    refused(
        &[("one.toml", &first), ("two.toml", &second)],
        &[
            r#"two.toml:6: rule[1].id: the id "a" is already used by one.toml:2: rule[0].id"#,
            r#"two.toml:10: rule[2].id: the id "c" is already used by two.toml:2: rule[0].id"#,
        ],
    );
}

#[test]
fn version_changes_with_every_part_of_the_definition() {
    let words = "返点\n回扣\n";
    let original = with_words(GOOD, words);
    let version = original.rules()[0].version.clone();
    assert_eq!(version.len(), 16);
    assert!(version.bytes().all(|b| b.is_ascii_hexdigit()));
    let mut versions = vec![version];
    for (from, to) in [
        ("private-deal", "private-deals"),
        ("私下交易监控", "私下交易"),
        ("sensitive_word", "other"),
        ("high", "low"),
        ("\"转我私账\"", "\"转我账\""),
        ("\"不要加我微信\"", ""),
        ("\"不要加我微信\"", "\"不要加我微信\", \"返点\""),
        ("all = false", "all = true"),
        ("\"zhangsan\"", "\"lisi\""),
        ("\"zhangsan\"", "\"zhang\", \"san\""),
        ("[12, 0x0d]", "[12]"),
        ("either", "sent"),
        ("allow =", "numbers = ['mobile']\nallow ="),
        ("allow =", "numbers = ['mobile', 'bank_card']\nallow ="),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let changed = with_words(&GOOD.replace(from, to), words);
        assert_ne!(changed.version(), original.version(), "{from} → {to}");
        versions.push(changed.rules()[0].version.clone());
    }
    let changed = with_words(GOOD, "返点\n回扣\n佣金\n");
    assert_ne!(changed.version(), original.version());
    versions.push(changed.rules()[0].version.clone());
    let count = versions.len();
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), count);
}

#[test]
fn version_ignores_order_and_repetition_of_values_and_source_of_words() {
    let original = with_words(GOOD, "返点\n回扣\n");
    let numbers = |list: &str| {
        let rule_file = GOOD.replace("allow =", &format!("numbers = {list}\nallow ="));
        with_words(&rule_file, "").version()
    };
    assert_eq!(
        numbers("['mobile', 'id_card']"),
        numbers("['id_card', 'mobile', 'id_card']")
    );
    for (rule_file, words) in [
        (GOOD.to_owned(), "回扣\r\n# 佣金\r\n返点\r\n返点"),
        (
            GOOD.replace(
                "[\"转我私账\", \"加我微信\"]",
                "[\"加我微信\", \"返点\", \"转我私账\"]",
            ),
            "回扣",
        ),
        (GOOD.replace("[12, 0x0d]", "[13, 12, 13]"), "返点\n回扣"),
        (GOOD.replace("all = false", ""), "返点\n回扣"),
        (
            GOOD.replace("allow =", "numbers = []\nallow ="),
            "返点\n回扣",
        ),
        (GOOD.replace("direction = \"either\"", ""), "返点\n回扣"),
        (
            GOOD.replace("category = \"sensitive_word\"", ""),
            "返点\n回扣",
        ),
    ] {
        let same = with_words(&rule_file, words);
        assert_eq!(
            same.rules()[0].version,
            original.rules()[0].version,
            "{rule_file}{words}"
        );
        assert_eq!(same.version(), original.version());
    }
}

#[test]
fn version_of_a_rule_with_words_only_never_changes() {
    // Violations store the version, so it must stay comparable over releases.
    let set = with_words(GOOD, "返点\n回扣\n");
    assert_eq!(set.rules()[0].version, "f67203e3278a412e");
    assert_eq!(set.version(), "92b43407355d3c34");
    let minimal = rules("[[rule]]\nid = 'a'\nname = 'n'\nseverity = 'low'\n");
    assert_eq!(minimal.rules()[0].version, "f41fd2cb835ce32b");
}

#[test]
fn set_version_does_not_depend_on_the_order_of_rules() {
    let rule = |id: &str| format!("[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\n");
    let set = |ids: &[&str]| rules(&ids.iter().map(|id| rule(id)).collect::<String>()).version();
    assert_eq!(set(&["a", "b"]), set(&["b", "a"]));
    assert_ne!(set(&["a", "b"]), set(&["a"]));
    assert_ne!(set(&["a"]), set(&[]));
}

#[test]
fn words_beyond_the_limits_are_refused_with_their_location() {
    let long = "长".repeat(1_001);
    let fine = "长".repeat(1_000);
    let rule = |id: &str, words: &str| {
        format!("[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\n{words}\nscope.all = true\n")
    };
    rules(&rule("a", &format!("words = ['{fine}']")));
    let shown = "长".repeat(40);
    refused(
        &[("a.toml", &rule("a", &format!("words = ['x', '{long}']")))],
        &[&format!(
            "a.toml:5: rule[0].words[1]: found \"{shown}…\"; accepted: an array of strings of at \
             most 1000 characters"
        )],
    );
    let text = rule("a", "words_file = 'w.txt'");
    let source = RuleFile {
        name: "a.toml",
        text: &text,
    };
    let of_file = |words: String| compile(&[source], move |_, _| Ok::<_, io::Error>(words.clone()));
    let errors = of_file(format!("x\n{long}\n")).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(
        errors[0].to_string(),
        "a.toml:5: rule[0].words_file: \"w.txt\", line 2: longer than 1000 characters"
    );
    let many = "word\n".repeat(1_000_001);
    let errors = of_file(many).unwrap_err();
    assert!(
        matches!(
            errors[..],
            [RuleError::TooManyWords {
                found: 1_000_001,
                ..
            }]
        ),
        "{errors:?}"
    );
}

const RULE_WITH_FILE: &str = "[[rule]]\nid = 'a'\nname = 'a'\nseverity = 'low'\nwords_file = 'w.txt'\n[rule.scope]\nall = true\n";

#[test]
fn words_file_is_read_as_spreadsheets_and_editors_leave_it() {
    let words = |text: &str| -> Vec<String> {
        let rule = RULE_WITH_FILE;
        let file = RuleFile {
            name: "a.toml",
            text: rule,
        };
        let set = compile(&[file], |_, _| Ok::<_, std::io::Error>(text.to_owned())).unwrap();
        ["加我微信", "转我,私账", "说\"好\""]
            .into_iter()
            .filter(|word| !set.find(word).is_empty())
            .map(str::to_owned)
            .collect()
    };
    for text in [
        "加我微信\n转我,私账\n说\"好\"\n",
        "\u{feff}加我微信\r\n转我,私账\r\n说\"好\"",
        "加我微信\r转我,私账\r说\"好\"\r",
        "加我微信,,\r\n\"转我,私账\",,\r\n\"说\"\"好\"\"\",,\r\n,,\r\n",
        "加我微信\t\n\"转我,私账\"\t\t\n  说\"好\"\u{a0}\u{3000}\n\u{200b}\n# 注释\n",
    ] {
        assert_eq!(
            words(text),
            ["加我微信", "转我,私账", "说\"好\""],
            "{text:?}"
        );
    }
    let file = RuleFile {
        name: "a.toml",
        text: RULE_WITH_FILE,
    };
    let table = |_: &str, _: &str| Ok::<_, std::io::Error>("词\t级别\n加我微信\t高\n".to_owned());
    let errors = compile(&[file], table).unwrap_err();
    assert!(
        errors[0].to_string().contains("line 1: found a tab"),
        "{}",
        errors[0]
    );
}
