//! The rules of the tenant: as files for the program under test, and as a simple matcher for the
//! truth.
//!
//! The rules use every part of a rule's definition: words, a file of words, allowed phrases, each kind
//! of scope and direction; two rules are incomplete and must stay inactive.

use std::collections::HashSet;

use serde::Serialize;

use crate::org::{Org, Party};
use crate::scanner::{FoldedText, Scanner, Span};

/// Name of the word file that one rule refers to.
pub const WORDS_FILE: &str = "bribery-words.txt";

const BRIBERY_WORDS: &[&str] = &[
    "回扣",
    "回扣返点",
    "好处费",
    "返点给个人",
    "ＶＩＰ客户有额外返佣",
    "走KB",
    "这次的kb",
    "封口费",
];

/// Which messages of a watched person are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Messages sent and received.
    Either,
    /// Messages sent.
    Sent,
    /// Messages received.
    Received,
}

/// The watched persons.
#[derive(Clone, Debug, Serialize)]
pub struct Scope {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    all: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    departments: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<Direction>,
}

/// A rule as written to its file.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its id.
    pub id: &'static str,
    name: &'static str,
    category: &'static str,
    /// Its severity.
    pub severity: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    words: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    words_file: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    allow: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
}

/// A file of rules.
#[derive(Clone, Debug, Serialize)]
pub struct RuleFile {
    #[serde(skip)]
    name: &'static str,
    rule: Vec<Rule>,
}

fn scope(direction: Option<Direction>) -> Scope {
    Scope {
        all: false,
        members: Vec::new(),
        departments: Vec::new(),
        direction,
    }
}

fn everybody(direction: Option<Direction>) -> Scope {
    Scope {
        all: true,
        ..scope(direction)
    }
}

fn departments(departments: &[u32], direction: Option<Direction>) -> Scope {
    Scope {
        departments: departments.to_vec(),
        ..scope(direction)
    }
}

/// Returns the rules of a tenant; some of them name members.
pub fn rule_files(org: &Org) -> Vec<RuleFile> {
    vec![
        sales_rules(org),
        conduct_rules(org),
        medical_rules(),
        draft_rules(),
    ]
}

/// Returns the ids of every `step`-th member, at most `count` of them.
fn every_nth_member(org: &Org, step: usize, count: usize) -> Vec<String> {
    org.members
        .iter()
        .step_by(step)
        .take(count)
        .map(|member| member.id.clone())
        .collect()
}

fn sales_rules(org: &Org) -> RuleFile {
    RuleFile {
        name: "sales.toml",
        rule: vec![
            Rule {
                id: "private-deal",
                name: "私下交易监控",
                category: "sensitive_word",
                severity: "high",
                words: &[
                    "转我私账",
                    "加我微信",
                    "私下转账",
                    "转账到个人",
                    "打到我个人卡",
                    "不走平台",
                ],
                words_file: None,
                allow: &["不会让您加我微信", "不要加我微信", "不能转账到员工个人"],
                scope: Some(departments(&[10, 20, 50], None)),
            },
            Rule {
                id: "guaranteed-return",
                name: "承诺保本保收益",
                category: "sensitive_word",
                severity: "critical",
                words: &["保本保收益", "稳赚不赔", "零风险", "保底"],
                words_file: None,
                allow: &[
                    "不承诺保本保收益",
                    "说稳赚不赔的都是骗局",
                    "不存在零风险",
                    "别说保本保收益",
                ],
                scope: Some(everybody(Some(Direction::Sent))),
            },
            Rule {
                id: "divert",
                name: "引流到私人账号",
                category: "contact",
                severity: "low",
                words: &["vx", "wechat", "QQ群"],
                words_file: None,
                allow: &[],
                scope: Some(Scope {
                    members: every_nth_member(org, 2, 400),
                    departments: vec![60],
                    ..scope(Some(Direction::Either))
                }),
            },
        ],
    }
}

fn conduct_rules(org: &Org) -> RuleFile {
    RuleFile {
        name: "conduct.toml",
        rule: vec![
            Rule {
                id: "leak-data",
                name: "客户信息外泄",
                category: "sensitive_word",
                severity: "critical",
                words: &[
                    "客户名单发我",
                    "导出客户名单",
                    "身份证号发我",
                    "客户资料打包",
                    "通讯录导出",
                ],
                words_file: None,
                allow: &["不许私自导出客户名单"],
                scope: Some(departments(&[1], Some(Direction::Sent))),
            },
            Rule {
                id: "insult",
                name: "辱骂与不文明用语",
                category: "sensitive_word",
                severity: "medium",
                words: &["傻子", "你有病吧", "滚蛋", "听不懂人话", "骗子"],
                words_file: None,
                allow: &[],
                scope: Some(everybody(None)),
            },
            Rule {
                id: "bribery",
                name: "商业贿赂",
                category: "sensitive_word",
                severity: "high",
                words: &["个点的回扣"],
                words_file: Some(WORDS_FILE),
                allow: &["严禁收受回扣"],
                scope: Some(Scope {
                    members: every_nth_member(org, 3, 300),
                    ..scope(None)
                }),
            },
            Rule {
                id: "complaint",
                name: "客户投诉",
                category: "service",
                severity: "medium",
                words: &["我要投诉", "12315", "退钱", "去监管部门投诉", "退一赔三"],
                words_file: None,
                allow: &["我要投诉的不是你"],
                scope: Some(departments(&[1], Some(Direction::Received))),
            },
        ],
    }
}

fn medical_rules() -> RuleFile {
    RuleFile {
        name: "medical.toml",
        rule: vec![Rule {
            id: "off-label",
            name: "夸大疗效",
            category: "sensitive_word",
            severity: "high",
            words: &["包治百病", "无副作用", "根治糖尿病", "吃了就能停药", "抗癌"],
            words_file: None,
            allow: &["不是包治百病", "没有无副作用"],
            scope: Some(departments(&[30, 32], Some(Direction::Sent))),
        }],
    }
}

fn draft_rules() -> RuleFile {
    RuleFile {
        name: "drafts.toml",
        rule: vec![
            Rule {
                id: "no-words-yet",
                name: "待补充词库",
                category: "sensitive_word",
                severity: "low",
                words: &[],
                words_file: None,
                allow: &[],
                scope: Some(everybody(None)),
            },
            Rule {
                id: "no-scope-yet",
                name: "待确定范围",
                category: "sensitive_word",
                severity: "low",
                words: &["您好", "好的", "收到"],
                words_file: None,
                allow: &[],
                scope: None,
            },
        ],
    }
}

impl RuleFile {
    /// Returns its name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Returns the text of [`WORDS_FILE`].
pub fn words_file() -> String {
    format!("# 商业贿赂词库\n\n{}\n", BRIBERY_WORDS.join("\n"))
}

/// The active rules, matched without optimisation for the truth.
#[derive(Clone, Debug)]
pub struct RuleMatcher {
    rules: Vec<(Rule, Scope, Scanner)>,
}

/// A rule that a message breaks.
#[derive(Clone, Debug)]
pub struct RuleHit<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Positions of the words in the content.
    pub spans: Vec<Span>,
}

impl RuleMatcher {
    /// Creates a matcher for the active rules of these files.
    pub fn new(files: &[RuleFile]) -> Self {
        let rules = files
            .iter()
            .flat_map(|file| &file.rule)
            .filter_map(|rule| {
                let scope = rule.scope.clone()?;
                let from_file = if rule.words_file.is_some() {
                    BRIBERY_WORDS
                } else {
                    &[]
                };
                let words: HashSet<&str> = rule.words.iter().chain(from_file).copied().collect();
                (!words.is_empty()).then(|| {
                    let scanner = Scanner::new(words, rule.allow.iter().copied());
                    (rule.clone(), scope, scanner)
                })
            })
            .collect();
        Self { rules }
    }

    /// Returns the rules that a message breaks.
    pub fn check<'a>(&'a self, content: &str, from: &Party, to: &[&Party]) -> Vec<RuleHit<'a>> {
        if content.is_empty() {
            return Vec::new();
        }
        let text = FoldedText::new(content);
        let own_words = own_words(content);
        self.rules
            .iter()
            .filter_map(|(rule, scope, scanner)| {
                let mut spans = scanner.find(&text);
                spans.retain(|span| span.1 > own_words);
                (!spans.is_empty() && scope.covers(from, to)).then_some(RuleHit { rule, spans })
            })
            .collect()
    }
}

/// Returns the character at which the sender's own words begin. What a reply quotes was written by somebody else; the
/// simulator writes quotations in two forms (`render/words.rs`).
fn own_words(content: &str) -> u32 {
    let separator = if content.starts_with('「') {
        "」\n- - - - - - - - - - - - - - -\n"
    } else if content.starts_with("这是一条引用/回复消息：") {
        "\"\n------\n"
    } else {
        return 0;
    };
    let quoted = content.split_once(separator).map(|(quoted, _)| quoted);
    quoted.map_or(0, |quoted| {
        (quoted.chars().count() + separator.chars().count()) as u32
    })
}

impl Scope {
    fn watches(&self, party: &Party) -> bool {
        self.all
            || self.members.contains(&party.id)
            || self
                .departments
                .iter()
                .any(|id| party.departments_above.contains(id))
    }

    fn covers(&self, from: &Party, to: &[&Party]) -> bool {
        let sent = || self.watches(from);
        let received = || to.iter().any(|party| self.watches(party));
        match self.direction.unwrap_or(Direction::Either) {
            Direction::Either => sent() || received(),
            Direction::Sent => sent(),
            Direction::Received => received(),
        }
    }
}
