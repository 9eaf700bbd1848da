//! `numbers`: personal numbers of mainland China, recognized by their form and check digits.
//!
//! | value | finds |
//! |---|---|
//! | `mobile` | 11 digits that start with 13 to 19; written together, with `+86` directly before them, or in groups of 3, 4 and 4 |
//! | `id_card` | resident identity numbers (GB 11643): 17 digits and a check character, with a possible date of birth |
//! | `bank_card` | 16 to 19 digits with a valid check digit (ISO/IEC 7812, Luhn); written together or in groups of four |
//!
//! Groups are separated by single spaces or hyphens. A group, and a number that is written together,
//! is never part of a longer run of digits.
//!
//! The check character of an identity number lets one in eleven random numbers pass, that of a bank
//! card one in ten.

use std::ops::{Range, RangeInclusive};

use toml::de::DeValue;
use xxhash_rust::xxh3::Xxh3;

use super::{Condition, RuleKind};
use crate::RuleError;
use crate::rule::hash_field;
use crate::section::Section;

pub(crate) const KIND: RuleKind = RuleKind {
    key: "numbers",
    accepted: "an array of mobile, id_card, bank_card",
    read,
};

/// Years of birth that an identity number may contain. The check does not know the current year.
const YEARS: RangeInclusive<u32> = 1900..=2099;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NumberKind {
    Mobile,
    IdCard,
    BankCard,
}

impl NumberKind {
    const ALL: [Self; 3] = [Self::Mobile, Self::IdCard, Self::BankCard];

    /// Returns the value in the key `numbers`.
    fn as_str(self) -> &'static str {
        match self {
            Self::Mobile => "mobile",
            Self::IdCard => "id_card",
            Self::BankCard => "bank_card",
        }
    }

    fn parse(value: &DeValue<'_>) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

fn read(rule: &Section<'_>, errors: &mut Vec<RuleError>) -> Option<Box<dyn Condition>> {
    let mut kinds = rule.values(KIND.key, KIND.accepted, NumberKind::parse, errors);
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return None;
    }
    Some(Box::new(Numbers { kinds }))
}

/// The condition: at least one kind of number.
#[derive(Debug)]
struct Numbers {
    /// Sorted, without repetitions.
    kinds: Vec<NumberKind>,
}

impl Condition for Numbers {
    fn find(&self, text: &str, hits: &mut Vec<Range<usize>>) {
        let text = text.as_bytes();
        let mut runs = LastRuns::default();
        let mut at = 0;
        while let Some(skipped) = text[at..].iter().position(u8::is_ascii_digit) {
            let start = at + skipped;
            let digits = text[start..].iter().take_while(|b| b.is_ascii_digit());
            at = start + digits.count();
            runs.push(text, start..at);
            hits.extend(self.kinds.iter().filter_map(|kind| match kind {
                NumberKind::Mobile => mobile(text, &runs),
                NumberKind::IdCard => id_card(text, start..at),
                NumberKind::BankCard => bank_card(text, &runs),
            }));
        }
    }

    fn hash_into(&self, hash: &mut Xxh3) {
        hash.update(&(self.kinds.len() as u64).to_le_bytes());
        for kind in &self.kinds {
            hash_field(hash, kind.as_str().as_bytes());
        }
    }
}

/// The last run of digits in a text, and the runs before it that single spaces or hyphens join to
/// it. Places without a run are empty ranges.
#[derive(Default)]
struct LastRuns([Range<usize>; 5]);

impl LastRuns {
    fn push(&mut self, text: &[u8], run: Range<usize>) {
        let last = &self.0[4];
        let between = &text[last.end..run.start];
        if last.is_empty() || !matches!(between, b" " | b"-") {
            *self = Self::default();
        }
        self.0.rotate_left(1);
        self.0[4] = run;
    }

    fn lengths(&self) -> [usize; 5] {
        self.0.each_ref().map(ExactSizeIterator::len)
    }
}

/// Returns the mobile number that ends at the end of the last run.
fn mobile(text: &[u8], runs: &LastRuns) -> Option<Range<usize>> {
    let [.., last] = &runs.0;
    let (start, number) = match runs.lengths() {
        [.., 11] => (last.start, last.start),
        [.., 13] if text[..last.start + 2].ends_with(b"+86") => (last.start - 1, last.start + 2),
        [_, _, 3, 4, 4] => (runs.0[2].start, runs.0[2].start),
        _ => return None,
    };
    matches!(text[number..], [b'1', b'3'..=b'9', ..]).then_some(start..last.end)
}

/// Returns the identity number that consists of the run and, if it has 17 digits, an X after it.
fn id_card(text: &[u8], run: Range<usize>) -> Option<Range<usize>> {
    let end = match run.len() {
        17 if followed_by_x(&text[run.end..]) => run.end + 1,
        18 => run.end,
        _ => return None,
    };
    let number = &text[run.start..end];
    let year = decimal(&number[6..10]);
    let valid = number[0] != b'0'
        && YEARS.contains(&year)
        && (1..=days(year, decimal(&number[10..12]))).contains(&decimal(&number[12..14]))
        && mod_11_2(number);
    valid.then_some(run.start..end)
}

/// Whether the text starts with an X (lower case, because the text is folded) that is not part of a
/// word.
fn followed_by_x(text: &[u8]) -> bool {
    match text {
        [b'x', next, ..] => !next.is_ascii_alphanumeric(),
        [b'x'] => true,
        _ => false,
    }
}

/// Returns the bank card number that ends at the end of the last run.
fn bank_card(text: &[u8], runs: &LastRuns) -> Option<Range<usize>> {
    let first = match runs.lengths() {
        [.., 16..=19] => 4,
        [4, 4, 4, 4, 1..=3] => 0,
        [_, 4, 4, 4, 4] => 1,
        _ => return None,
    };
    let number = runs.0[first].start..runs.0[4].end;
    // No issuer has numbers that start with 0, but sixteen zeros have a valid check digit.
    let valid = text[number.start] != b'0' && luhn(&text[number.clone()]);
    valid.then_some(number)
}

/// Whether the last digit is the check digit of the others (ISO/IEC 7812-1). Other characters are
/// ignored.
fn luhn(number: &[u8]) -> bool {
    let digits = number.iter().rev().filter(|b| b.is_ascii_digit());
    let sum: u32 = digits
        .enumerate()
        .map(|(position, digit)| {
            let value = u32::from(digit - b'0') << (position % 2);
            value / 10 + value % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether the last character is the check character of the digits before it (ISO 7064, MOD 11-2).
fn mod_11_2(number: &[u8]) -> bool {
    let sum = number.iter().fold(0, |sum, &character| {
        let value = if character == b'x' {
            10
        } else {
            u32::from(character - b'0')
        };
        (sum * 2 + value) % 11
    });
    sum == 1
}

fn decimal(digits: &[u8]) -> u32 {
    let push = |value, digit: &u8| value * 10 + u32::from(digit - b'0');
    digits.iter().fold(0, push)
}

/// Returns the number of days of a month, 0 if there is no such month.
fn days(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(kinds: &[NumberKind], text: &str) -> Vec<Range<usize>> {
        let mut hits = Vec::new();
        Numbers {
            kinds: kinds.to_vec(),
        }
        .find(text, &mut hits);
        hits
    }

    /// Checks the parts of a text that are numbers of a kind.
    fn check(kind: NumberKind, text: &str, expected: &[&str]) {
        let found: Vec<_> = spans(&[kind], text)
            .into_iter()
            .map(|span| &text[span])
            .collect();
        assert_eq!(found, expected, "{kind:?} in {text:?}");
    }

    #[test]
    fn mobile_numbers_are_found_by_length_and_prefix() {
        let check = |text: &str, expected: &[&str]| check(NumberKind::Mobile, text, expected);
        check("", &[]);
        check("打13800138000找我", &["13800138000"]);
        check("13800138000", &["13800138000"]);
        check("13800138000 19912345678", &["13800138000", "19912345678"]);
        check("v13800138000x", &["13800138000"]);
        check("12800138000", &[]);
        check("23800138000", &[]);
        check("1380013800", &[]);
        check("138001380001", &[]);
        check("8613800138000", &[]);
        check("+8613800138000", &["+8613800138000"]);
        check("+8612800138000", &[]);
        check("+8513800138000", &[]);
        check("+86 13800138000", &["13800138000"]);
    }

    #[test]
    fn mobile_numbers_are_found_in_groups() {
        let check = |text: &str, expected: &[&str]| check(NumberKind::Mobile, text, expected);
        check("138 0013 8000", &["138 0013 8000"]);
        check("138-0013-8000。", &["138-0013-8000"]);
        check("+86 138 0013 8000", &["138 0013 8000"]);
        check("138  0013 8000", &[]);
        check("138,0013,8000", &[]);
        check("138 00138000", &[]);
        check("1138 0013 8000", &[]);
        check("138 0013 80001", &[]);
        check("128 0013 8000", &[]);
    }

    #[test]
    fn identity_numbers_need_a_date_and_the_check_character() {
        let check = |text: &str, expected: &[&str]| check(NumberKind::IdCard, text, expected);
        // The first number is an example of GB 11643-1999.
        check("11010519491231002x", &["11010519491231002x"]);
        check("证11010519491231002x。", &["11010519491231002x"]);
        check("110105194912310020", &[]);
        check("11010519491231002", &[]);
        check("11010519491231002xy", &[]);
        check("11010519491231002x1", &[]);
        check("111010519491231002x", &[]);
        check("11010519491231002 x", &[]);
        check("123456190001010010", &["123456190001010010"]);
        check("1123456190001010010", &[]);
    }

    #[test]
    fn identity_numbers_with_an_impossible_date_are_refused() {
        for (date, possible) in [
            ("19491231", true),
            ("19000101", true),
            ("20991231", true),
            ("18991231", false),
            ("21000101", false),
            ("19490001", false),
            ("19491301", false),
            ("19491200", false),
            ("19491232", false),
            ("19490431", false),
            ("20000229", true),
            ("20040229", true),
            ("20010229", false),
            ("19000229", false),
        ] {
            let number = identity_number(&format!("110105{date}002"));
            let expected = possible.then_some(number.as_str());
            check(NumberKind::IdCard, &number, expected.as_slice());
        }
        let number = identity_number("01010519491231002");
        check(NumberKind::IdCard, &number, &[]);
    }

    #[test]
    fn bank_cards_need_the_check_digit() {
        let check = |text: &str, expected: &[&str]| check(NumberKind::BankCard, text, expected);
        check("4111111111111111", &["4111111111111111"]);
        check("卡号4111111111111111元", &["4111111111111111"]);
        check("4111111111111112", &[]);
        check("0000000000000000", &[]);
        check("41111111111111111111", &[]);
        // Fifteen digits with a valid check digit.
        check("378282246310005", &[]);
        for length in 15..=20 {
            let number = card_number(&"6222021234567890123"[..length - 1]);
            let expected = (16..=19).contains(&length).then_some(number.as_str());
            check(&number, expected.as_slice());
        }
    }

    #[test]
    fn bank_cards_are_found_in_groups_of_four() {
        let check = |text: &str, expected: &[&str]| check(NumberKind::BankCard, text, expected);
        check("4111 1111 1111 1111", &["4111 1111 1111 1111"]);
        check("4111-1111-1111-1111", &["4111-1111-1111-1111"]);
        check("4111  1111 1111 1111", &[]);
        check("4111 - 1111 1111 1111", &[]);
        check("4111.1111.1111.1111", &[]);
        check("411 11111 1111 1111", &[]);
        check("4111 1111 1111 11111", &[]);
        check("14111 1111 1111 1111", &[]);
        let long = card_number("622202123456789012");
        let grouped = format!(
            "{} {} {} {} {}",
            &long[..4],
            &long[4..8],
            &long[8..12],
            &long[12..16],
            &long[16..]
        );
        check(&grouped, &[&grouped]);
        // A group before or after the number does not hide it.
        check("9 4111 1111 1111 1111", &["4111 1111 1111 1111"]);
        check("4111 1111 1111 1111 123", &["4111 1111 1111 1111"]);
    }

    #[test]
    fn long_run_of_digits_is_no_number() {
        for length in [20, 1_000, 100_000] {
            assert_eq!(spans(&NumberKind::ALL, &"1".repeat(length)), []);
        }
    }

    fn identity_number(digits: &str) -> String {
        let numbers = "0123456789x"
            .chars()
            .map(|check| format!("{digits}{check}"));
        let valid = |number: &String| {
            let weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
            let sum: u32 = (number.bytes().zip(weights))
                .map(|(digit, weight)| u32::from(digit - b'0') * weight)
                .sum();
            number.as_bytes()[17] == b"10x98765432"[sum as usize % 11]
        };
        numbers.filter(valid).collect()
    }

    fn card_number(digits: &str) -> String {
        let mut sum = 0;
        for (position, digit) in digits.bytes().rev().enumerate() {
            let digit = u32::from(digit - b'0');
            sum += match (position % 2, digit) {
                (0, 5..) => 2 * digit - 9,
                (0, _) => 2 * digit,
                _ => digit,
            };
        }
        format!("{digits}{}", (10 - sum % 10) % 10)
    }

    proptest! {
        #[test]
        fn any_text_gives_spans_between_characters(
            text in "(\\PC|[0-9]{1,4}|[0-9]{11}|[0-9]{16,19}|[x +\\-]){0,40}",
        ) {
            for span in spans(&NumberKind::ALL, &text) {
                let number = text.get(span);
                prop_assert!(number.is_some_and(|number| number.len() >= 11), "{number:?}");
            }
        }

        #[test]
        fn generated_numbers_are_found_and_each_wrong_digit_is_noticed(
            card in "[1-9][0-9]{14,17}",
            person in "[1-9][0-9]{5}(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])[0-9]{3}",
            position in 0..16_usize,
            shift in 1..10_u8,
        ) {
            for (kind, number) in [
                (NumberKind::BankCard, card_number(&card)),
                (NumberKind::IdCard, identity_number(&person)),
            ] {
                let text = format!("号{number}。");
                let whole = 3..3 + number.len();
                prop_assert_eq!(spans(&[kind], &text), [whole]);
                let mut wrong = number.into_bytes();
                wrong[position] = b'0' + (wrong[position] - b'0' + shift) % 10;
                let wrong: String = wrong.into_iter().map(char::from).collect();
                prop_assert_eq!(spans(&[kind], &wrong), []);
            }
        }
    }
}
