//! Which messages are violations: words, allow phrases, folding, spans, scopes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use chatledger_rules::{InactiveReason, MAX_HITS, RuleState};
use chatledger_schemas::Severity;
use support::{list, message, no_departments, rules, try_rules};

/// Checks the spans of a rule with these words and allow phrases in a text, and that the violation
/// lists the text of each span.
fn check(words: &[&str], allow: &[&str], text: &str, expected: &[(u32, u32)]) {
    let set = rules(&format!(
        "[[rule]]\nid = 'r'\nname = 'r'\nseverity = 'low'\nscope.all = true\n\
         words = {}\nallow = {}\n",
        list(words),
        list(allow)
    ));
    let spans: Vec<_> = set.find(text).into_iter().map(|hit| hit.span).collect();
    assert_eq!(
        spans, expected,
        "{words:?} with allow phrases {allow:?} in {text:?}"
    );

    let violations = set.check(&[message(text)], no_departments, 7);
    assert_eq!(violations.len(), usize::from(!expected.is_empty()));
    for violation in violations {
        assert_eq!(violation.spans, expected);
        let chars: Vec<char> = text.chars().collect();
        let slices: Vec<String> = expected
            .iter()
            .map(|&(start, end)| chars[start as usize..end as usize].iter().collect())
            .collect();
        assert_eq!(violation.matched, slices);
    }
}

#[test]
fn words_are_found_at_any_position() {
    check(&["加我微信"], &[], "", &[]);
    check(&["加我微信"], &[], "加我微", &[]);
    check(&["加我微信"], &[], "加我微信", &[(0, 4)]);
    check(
        &["加我微信"],
        &[],
        "你加我微信吧，加我微信",
        &[(1, 5), (7, 11)],
    );
    check(&["返点", "私账"], &[], "返点打私账", &[(0, 2), (3, 5)]);
    check(&["酒"], &[], "酒酒，白酒", &[(0, 1), (1, 2), (4, 5)]);
    check(&["a"], &[], "a", &[(0, 1)]);
    check(&["ab", "b"], &[], "ab b", &[(0, 2), (3, 4)]);
}

#[test]
fn overlapping_words_are_all_hits_and_contained_ones_are_not() {
    check(&["aba"], &[], "ababa", &[(0, 3), (2, 5)]);
    check(
        &["私下转账", "转账付款"],
        &[],
        "请私下转账付款",
        &[(1, 5), (3, 7)],
    );
    check(&["转账", "私下转账"], &[], "私下转账", &[(0, 4)]);
    check(&["私下", "私下转账"], &[], "私下转账", &[(0, 4)]);
    check(&["下转", "私下转账"], &[], "私下转账", &[(0, 4)]);
    check(
        &["转账", "私下转账"],
        &[],
        "转账和私下转账",
        &[(0, 2), (3, 7)],
    );
    check(&["a", "aa", "aaa"], &[], "aaaa", &[(0, 3), (1, 4)]);
}

#[test]
fn hit_inside_an_allow_phrase_is_ignored() {
    let (words, allow) = (&["加我微信"], &["不要加我微信"]);
    check(words, allow, "不要加我微信", &[]);
    check(words, allow, "要加我微信", &[(1, 5)]);
    check(words, allow, "不要加我微信，加我微信", &[(7, 11)]);
    check(words, &["加我微信"], "加我微信", &[]);
    check(words, &["加我微信群"], "加我微信群，加我微信", &[(6, 10)]);
    // A hit that only overlaps an allow phrase is not inside it.
    check(words, &["微信群"], "加我微信群", &[(0, 4)]);
    check(words, &["请加我"], "请加我微信", &[(1, 5)]);
    check(words, &["请加", "微信群"], "请加我微信群", &[(1, 5)]);
    // The longer word is not inside the allow phrase; the shorter one inside it is no hit of its
    // own.
    check(&["微信", "微信转账"], &["加微信"], "加微信转账", &[(1, 5)]);
    check(&["信转", "微信"], &["加微信"], "加微信转", &[(2, 4)]);
}

#[test]
fn allow_phrase_applies_to_its_own_rule_only() {
    let set = rules(
        "[[rule]]\nid = 'a'\nname = 'a'\nseverity = 'low'\nscope.all = true\n\
         words = ['微信']\nallow = ['加微信']\n\
         [[rule]]\nid = 'b'\nname = 'b'\nseverity = 'low'\nscope.all = true\nwords = ['微信']\n",
    );
    let violations = set.check(&[message("加微信")], no_departments, 0);
    let ids: Vec<_> = violations.iter().map(|v| v.rule_id.as_str()).collect();
    assert_eq!(ids, ["b"]);
}

#[test]
fn case_and_width_do_not_matter() {
    check(&["VX"], &[], "加vx、Ｖx、ＶＸ", &[(1, 3), (4, 6), (7, 9)]);
    check(&["ｖＸ"], &[], "VX", &[(0, 2)]);
    check(&["100%"], &[], "保本１００％", &[(2, 6)]);
    check(&["a b"], &[], "A\u{3000}B", &[(0, 3)]);
    check(&["加VX"], &["不加vx"], "不加ＶＸ，加ｖx", &[(5, 8)]);
    check(&["ÜBER"], &[], "über u\u{308}ber", &[(0, 4), (5, 10)]);
}

#[test]
fn span_covers_the_whole_character_that_folds_to_several() {
    check(&["finance"], &[], "ﬁnance", &[(0, 6)]);
    check(&["f"], &[], "ﬁ", &[(0, 1)]);
    check(&["f", "i"], &[], "ﬁﬁ", &[(0, 1), (1, 2)]);
    check(&["kg"], &[], "5㎏重", &[(1, 2)]);
    check(&["5k", "g重"], &[], "5㎏重", &[(0, 2), (1, 3)]);
    check(&["5k", "5kg"], &[], "5㎏重", &[(0, 2)]);
    check(&["㎏"], &[], "KG", &[(0, 2)]);
    check(&["..."], &[], "等…等", &[(1, 2)]);
    check(&["tel"], &["tel:"], "℡:℡", &[(2, 3)]);
}

#[test]
fn span_covers_all_characters_that_fold_to_one() {
    check(&["ガス"], &[], "ｶﾞｽ", &[(0, 3)]);
    check(&["ｶﾞｽ"], &[], "ガス", &[(0, 2)]);
    check(&["パ"], &[], "ﾊﾟﾊﾟ", &[(0, 2), (2, 4)]);
    check(&["é"], &[], "xe\u{301}x", &[(1, 3)]);
    check(&["カ"], &[], "ｶﾞ", &[]);
    check(&["한"], &[], "\u{1112}\u{1161}\u{11ab}!", &[(0, 3)]);
    check(&["!"], &[], "\u{1112}\u{1161}\u{11ab}!", &[(3, 4)]);
}

#[test]
fn emoji_are_counted_in_scalar_values() {
    check(&["转账"], &[], "👍🏽转账👨‍👩‍👧转账", &[(2, 4), (9, 11)]);
    check(&["💰"], &[], "红包💰💰", &[(2, 3), (3, 4)]);
    check(&["👨‍👩‍👧"], &[], "a👨‍👩‍👧b", &[(1, 6)]);
}

#[test]
fn blank_and_repeated_words_are_ignored() {
    let set = rules(
        "[[rule]]\nid = 'r'\nname = 'r'\nseverity = 'low'\nscope.all = true\n\
         words = ['', ' ', '\u{3000}', 'VX', 'vx', 'ｖｘ']\nallow = ['', '\t']\n",
    );
    let rule = &set.rules()[0];
    assert_eq!((rule.words, rule.allow), (1, 0));
    assert_eq!(set.find("\u{3000} \t").len(), 0);
}

#[test]
fn violation_contains_the_fields_of_message_and_rule() {
    let set = rules(
        "[[rule]]\nid = 'private-deal'\nname = '私下交易监控'\nseverity = 'high'\n\
         words = ['转我私账', '加我微信']\nscope.all = true\n",
    );
    let message = message("加我微信，转我私账");
    let violations = set.check(std::slice::from_ref(&message), no_departments, 1_700_000);
    let [violation] = violations.as_slice() else {
        panic!("{violations:?}")
    };
    assert_eq!(violation.corp_id, message.corp_id);
    // xxh3_128 of "ww0123456789abcdef\0msg-1\0private-deal".
    let id = xxhash_rust::xxh3::xxh3_128(b"ww0123456789abcdef\0msg-1\0private-deal");
    assert_eq!(violation.violation_id, format!("{id:032x}"));
    assert_eq!(violation.msgid, "msg-1");
    assert_eq!(violation.seq, message.seq);
    assert_eq!(violation.msgtime, message.msgtime);
    assert_eq!(violation.conversation_id, message.conversation_id);
    assert_eq!(violation.from_id, "zhangsan");
    assert_eq!(violation.rule_id, "private-deal");
    assert_eq!(violation.rule_name, "私下交易监控");
    assert_eq!(violation.rule_version, set.rules()[0].version);
    assert_eq!(violation.category, "sensitive_word");
    assert_eq!(violation.severity, Severity::High);
    assert_eq!(violation.matched, ["加我微信", "转我私账"]);
    assert_eq!(violation.spans, [(0, 4), (5, 9)]);
    assert_eq!(violation.detected_at, 1_700_000);
}

#[test]
fn violations_are_ordered_by_message_then_by_rule() {
    let rule = |id: &str, word: &str| {
        format!(
            "[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\nscope.all = true\n\
             words = ['{word}']\n"
        )
    };
    let set = rules(&(rule("z", "甲") + &rule("a", "乙")));
    let mut messages = ["乙甲", "无", "甲", "乙"].map(message);
    for (seq, message) in (10..).zip(&mut messages) {
        message.seq = seq;
    }
    let violations = set.check(&messages, no_departments, 0);
    let found: Vec<_> = violations
        .iter()
        .map(|v| (v.seq, v.rule_id.as_str()))
        .collect();
    assert_eq!(found, [(10, "z"), (10, "a"), (12, "z"), (13, "a")]);
}

#[test]
fn scope_and_direction_are_combined() {
    // `a` sends to `b` and a customer. `a` is in department 3 (ancestors 2 and 1), `b` in 4
    // (ancestor 1).
    let departments = |id: &str| -> &[u32] {
        match id {
            "a" => &[3, 2, 1],
            "b" => &[4, 1],
            _ => &[],
        }
    };
    let mut said = message("加我微信");
    said.from_id = "a".into();
    said.to_ids = vec!["b".into(), "wmcustomer".into()];
    // Scope, and whether it covers the message with direction either, sent, received.
    for (scope, expected) in [
        ("all = true", [true, true, true]),
        ("all = true\nmembers = ['nobody']", [true, true, true]),
        ("members = ['a']", [true, true, false]),
        ("members = ['A']", [true, true, false]),
        ("members = ['b']", [true, false, true]),
        ("members = ['a', 'b']", [true, true, true]),
        ("members = ['c']", [false, false, false]),
        ("members = ['aa']", [false, false, false]),
        ("departments = [3]", [true, true, false]),
        ("departments = [2]", [true, true, false]),
        ("departments = [4]", [true, false, true]),
        ("departments = [1]", [true, true, true]),
        ("departments = [9, 4, 7]", [true, false, true]),
        ("departments = [34]", [false, false, false]),
        ("members = ['c']\ndepartments = [4]", [true, false, true]),
        ("members = ['b']\ndepartments = [9]", [true, false, true]),
    ] {
        let covered = ["", "either", "sent", "received"].map(|direction| {
            let direction = match direction {
                "" => String::new(),
                _ => format!("direction = '{direction}'\n"),
            };
            let set = rules(&format!(
                "[[rule]]\nid = 'r'\nname = 'r'\nseverity = 'low'\nwords = ['微信']\n\
                 [rule.scope]\n{scope}\n{direction}"
            ));
            let violations = set.check(std::slice::from_ref(&said), departments, 0);
            // `find` ignores the scope.
            assert_eq!(set.find(&said.content).len(), 1);
            !violations.is_empty()
        });
        let [default, explicit @ ..] = covered;
        assert_eq!(explicit, expected, "{scope}");
        assert_eq!(default, expected[0], "{scope}: either is the default");
    }
}

#[test]
fn rules_without_words_or_scope_are_listed_and_find_nothing() {
    let rule = |id: &str, rest: &str| {
        format!("[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\n{rest}\n")
    };
    let all = "scope.all = true";
    let set = rules(
        &[
            rule("no-scope", "words = ['微信']"),
            rule(
                "empty-scope",
                "words = ['微信']\nscope = { members = [], departments = [] }",
            ),
            rule(
                "direction-only",
                "words = ['微信']\nscope.direction = 'sent'",
            ),
            rule("no-words", all),
            rule(
                "blank-words",
                &format!("words = ['', ' ']\nallow = ['微信']\n{all}"),
            ),
            rule("nothing", ""),
        ]
        .concat(),
    );
    let states: Vec<_> = set
        .rules()
        .iter()
        .map(|r| (r.id.as_str(), r.state))
        .collect();
    assert_eq!(
        states,
        [
            ("no-scope", RuleState::Inactive(InactiveReason::NoScope)),
            ("empty-scope", RuleState::Inactive(InactiveReason::NoScope)),
            (
                "direction-only",
                RuleState::Inactive(InactiveReason::NoScope)
            ),
            ("no-words", RuleState::Inactive(InactiveReason::NoCondition)),
            (
                "blank-words",
                RuleState::Inactive(InactiveReason::NoCondition)
            ),
            (
                "nothing",
                RuleState::Inactive(InactiveReason::NoConditionNoScope)
            ),
        ]
    );
    assert!(set.is_empty());
    assert_eq!(set.check(&[message("微信")], |_| &[1], 0), []);
    assert!(!rules(&rule("active", &format!("words = ['微信']\n{all}"))).is_empty());
    assert!(try_rules(&[]).unwrap().is_empty());
}

#[test]
fn violation_lists_only_the_first_hits_of_a_message_with_very_many() {
    let set =
        rules("[[rule]]\nid='r'\nname='r'\nseverity='low'\nscope.all=true\nwords=['酒', '白酒']\n");
    let text = "白酒".repeat(MAX_HITS + 500);
    assert_eq!(set.find(&text).len(), MAX_HITS + 500);
    let violations = set.check(&[message(&text)], no_departments, 7);
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].matched.len(), MAX_HITS);
    assert_eq!(violations[0].spans.last(), Some(&(1998, 2000)));
}

#[test]
fn text_of_nested_words_is_checked_in_bounded_memory() {
    // A thousand words end at every position, which would be 300 million occurrences in total.
    let words: Vec<String> = (1..=1_000).map(|length| "a".repeat(length)).collect();
    let set = rules(&format!(
        "[[rule]]\nid='r'\nname='r'\nseverity='low'\nscope.all=true\nwords={}\n",
        list(&words)
    ));
    let violations = set.check(&[message(&"a".repeat(300_000))], no_departments, 7);
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].spans[0], (0, 1_000));
}

#[test]
fn quoted_words_are_no_violation_of_the_one_who_quotes_them() {
    let set = rules(
        "[[rule]]\nid = 'r'\nname = 'r'\nseverity = 'low'\nscope.all = true\nwords = ['私账']\n",
    );
    let spans = |text: &str, msgtype: &str| -> Vec<(u32, u32)> {
        let mut message = message(text);
        msgtype.clone_into(&mut message.msgtype);
        let violations = set.check(&[message], no_departments, 7);
        violations
            .into_iter()
            .flat_map(|violation| violation.spans)
            .collect()
    };
    let quoted = "「客户甲：打你私账行吗」\n- - - - - - - - - - - - - - -\n";
    assert_eq!(spans(&format!("{quoted}不行"), "text"), []);
    let both = format!("{quoted}打私账");
    let end = u32::try_from(both.chars().count()).unwrap();
    assert_eq!(spans(&both, "text"), [(end - 2, end)]);
    // No other type has quotations.
    assert_eq!(spans(&format!("{quoted}不行"), "link").len(), 1);
    assert_eq!(spans("「打私账」\n- - - - - - -\n好", "text").len(), 1);
}
