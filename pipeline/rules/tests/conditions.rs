//! Conditions besides words: together with words, allow phrases, folding and scopes.
#![allow(clippy::panic, reason = "a failed expectation is a failed test")]

mod support;

use chatledger_rules::{InactiveReason, MAX_HITS, RuleState};
use support::{message, no_departments, rules};

/// Checks what a rule with these lines finds in a text: start and text of each hit.
fn check(lines: &str, text: &str, expected: &[(u32, &str)]) {
    let set = rules(&format!(
        "[[rule]]\nid = 'r'\nname = 'r'\nseverity = 'low'\nscope.all = true\n{lines}\n"
    ));
    let spans: Vec<_> = expected
        .iter()
        .map(|&(start, text)| (start, start + text.chars().count() as u32))
        .collect();
    let found: Vec<_> = set.find(text).into_iter().map(|hit| hit.span).collect();
    assert_eq!(found, spans, "{lines:?} in {text:?}");
    let violations = set.check(&[message(text)], no_departments, 7);
    assert_eq!(violations.len(), usize::from(!expected.is_empty()));
    for violation in violations {
        let matched: Vec<_> = expected.iter().map(|&(_, text)| text).collect();
        assert_eq!(violation.matched, matched, "{lines:?} in {text:?}");
        assert_eq!(violation.spans, spans);
    }
}

#[test]
fn rule_without_words_finds_numbers() {
    let numbers = "numbers = ['mobile', 'id_card', 'bank_card']";
    check(numbers, "", &[]);
    check(numbers, "加我微信", &[]);
    check(
        numbers,
        "电话13800138000，卡4111 1111 1111 1111，证11010519491231002X",
        &[
            (2, "13800138000"),
            (15, "4111 1111 1111 1111"),
            (36, "11010519491231002X"),
        ],
    );
    check(
        "numbers = ['mobile']",
        "13800138000 4111111111111111",
        &[(0, "13800138000")],
    );
}

#[test]
fn full_width_numbers_are_found_with_spans_in_the_original() {
    let numbers = "numbers = ['mobile', 'id_card', 'bank_card']";
    check(
        numbers,
        "👍１３８００１３８０００",
        &[(1, "１３８００１３８０００")],
    );
    check(
        numbers,
        "ﬁ㎏，４１１１－１１１１\u{3000}１１１１\u{a0}1111",
        &[(3, "４１１１－１１１１\u{3000}１１１１\u{a0}1111")],
    );
    check(
        numbers,
        "１１０１０５１９４９１２３１００２Ｘ",
        &[(0, "１１０１０５１９４９１２３１００２Ｘ")],
    );
}

#[test]
fn hits_of_words_and_conditions_are_merged_in_order() {
    let rule = "numbers = ['mobile']\nwords = ['电话', '联系13800138000', '8000转', '138']";
    check(rule, "电话13800138000", &[(0, "电话"), (2, "13800138000")]);
    check(rule, "13800138000电话", &[(0, "13800138000"), (11, "电话")]);
    // A hit inside another is no hit of its own, one that only overlaps is.
    check(rule, "联系13800138000", &[(0, "联系13800138000")]);
    check(rule, "13800138000转1", &[(0, "13800138000"), (7, "8000转")]);
    // A word and a condition find the same characters.
    check(
        "numbers = ['mobile']\nwords = ['13800138000']",
        "13800138000",
        &[(0, "13800138000")],
    );
    // Two kinds of number in the same characters: an identity number that is also a valid card number.
    check(
        "numbers = ['id_card', 'bank_card']",
        "110105194912310150",
        &[(0, "110105194912310150")],
    );
}

#[test]
fn number_inside_an_allow_phrase_is_ignored() {
    let rule = "numbers = ['mobile']\nallow = ['客服13800138000', '转13']";
    check(rule, "客服13800138000", &[]);
    check(rule, "客服１３８００１３８０００", &[]);
    check(rule, "13800138000", &[(0, "13800138000")]);
    check(rule, "转13800138000", &[(1, "13800138000")]);
    check(rule, "客服13800138000或13900139000", &[(14, "13900139000")]);
}

#[test]
fn rules_with_and_without_conditions_do_not_influence_each_other() {
    let rule = |id: &str, lines: &str| {
        format!("[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\nscope.all = true\n{lines}\n")
    };
    let set = rules(
        &[
            rule("words", "words = ['138']"),
            rule("mobile", "numbers = ['mobile']"),
            rule("nothing", ""),
            rule("allowed", "numbers = ['mobile']\nallow = ['13800138000']"),
            rule("both", "numbers = ['mobile']\nwords = ['138']"),
        ]
        .concat(),
    );
    let violations = set.check(&[message("13800138000")], no_departments, 0);
    let found: Vec<_> = violations
        .iter()
        .map(|v| (v.rule_id.as_str(), v.spans.as_slice()))
        .collect();
    assert_eq!(
        found,
        [
            ("words", [(0, 3), (5, 8)].as_slice()),
            ("mobile", &[(0, 11)]),
            ("both", &[(0, 11)]),
        ]
    );
}

#[test]
fn condition_applies_only_to_messages_in_scope() {
    let set = rules(
        "[[rule]]\nid = 'r'\nname = 'n'\nseverity = 'low'\nnumbers = ['mobile']\nwords = ['微信']\n\
         scope = { departments = [7], direction = 'sent' }\n",
    );
    for text in ["13800138000", "微信", "微信13800138000"] {
        let found = |departments: fn(&str) -> &'static [u32]| {
            set.check(&[message(text)], departments, 0).len()
        };
        assert_eq!(found(|id| if id == "zhangsan" { &[7] } else { &[] }), 1);
        assert_eq!(found(|id| if id == "lisi" { &[7] } else { &[] }), 0);
        assert!(!set.find(text).is_empty());
    }
}

#[test]
fn rule_with_numbers_needs_a_scope_and_at_least_one_kind() {
    let state = |lines: &str| {
        rules(&format!(
            "[[rule]]\nid = 'r'\nname = 'n'\nseverity = 'low'\n{lines}\n"
        ))
        .rules()[0]
            .state
    };
    let inactive = RuleState::Inactive;
    for (lines, expected) in [
        ("numbers = ['mobile']\nscope.all = true", RuleState::Active),
        ("numbers = ['mobile']", inactive(InactiveReason::NoScope)),
        (
            "numbers = []\nscope.all = true",
            inactive(InactiveReason::NoCondition),
        ),
        ("numbers = []", inactive(InactiveReason::NoConditionNoScope)),
    ] {
        assert_eq!(state(lines), expected, "{lines:?}");
    }
}

#[test]
fn inactive_reasons_name_words_and_other_conditions() {
    assert_eq!(
        [
            InactiveReason::NoCondition,
            InactiveReason::NoScope,
            InactiveReason::NoConditionNoScope
        ]
        .map(|reason| reason.to_string()),
        [
            "it has no words and no other condition",
            "it has no scope",
            "it has no words, no other condition and no scope"
        ]
    );
}

#[test]
fn violation_lists_only_the_first_numbers_of_a_message_with_very_many() {
    let set =
        rules("[[rule]]\nid='r'\nname='r'\nseverity='low'\nscope.all=true\nnumbers=['mobile']\n");
    let text = "13800138000,".repeat(MAX_HITS + 500);
    assert_eq!(set.find(&text).len(), MAX_HITS + 500);
    let violations = set.check(&[message(&text)], no_departments, 7);
    assert_eq!(violations[0].spans.len(), MAX_HITS);
    assert_eq!(violations[0].spans.last(), Some(&(11_988, 11_999)));
}
