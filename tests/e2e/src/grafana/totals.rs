//! The expected totals of the panels.
//!
//! Each entry names a panel by dashboard and title, a measure of its rows, and a function that computes
//! the expected value from the truth. Totals apply to a view of all messages of one corp, with all list
//! values selected and empty text boxes.
//!
//! Not here: panels whose value the truth does not determine, such as the change against a period
//! without messages.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use super::truth::{PanelTruth, external, shanghai_day, top};

/// What is measured of a panel's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The number of rows.
    Rows,
    /// The sum of these columns over all rows.
    Sum(&'static [&'static str]),
    /// The sum of all columns except these over all rows.
    SumExcept(&'static [&'static str]),
}

/// The expected total of a panel's rows.
#[derive(Clone, Copy, Debug)]
pub struct Total {
    /// What is measured.
    pub measure: Measure,
    /// Computes the expected value from the truth.
    pub truth: fn(&PanelTruth) -> f64,
}

impl Measure {
    /// Measures rows in ClickHouse's format `JSONEachRow`; numbers can be quoted.
    ///
    /// # Errors
    /// A named column is missing, or a value is not a number.
    pub fn of(self, rows: &[Map<String, Value>]) -> Result<f64> {
        fn number(column: &str, value: &Value) -> Result<f64> {
            match value {
                Value::String(text) => text.parse().ok(),
                other => other.as_f64(),
            }
            .with_context(|| format!("column {column}: {value} is not a number"))
        }
        let mut sum = 0.0;
        match self {
            Self::Rows => sum = rows.len() as f64,
            Self::Sum(columns) => {
                for (row, column) in rows
                    .iter()
                    .flat_map(|r| columns.iter().map(move |c| (r, c)))
                {
                    let value = row
                        .get(*column)
                        .with_context(|| format!("no column {column}"))?;
                    sum += number(column, value)?;
                }
            }
            Self::SumExcept(columns) => {
                for (column, value) in rows.iter().flatten() {
                    if !columns.contains(&column.as_str()) {
                        sum += number(column, value)?;
                    }
                }
            }
        }
        Ok(sum)
    }
}

impl Total {
    /// Compares a panel's rows with the truth.
    ///
    /// # Errors
    /// The total differs, or the rows cannot be measured.
    pub fn check(&self, rows: &[Map<String, Value>], truth: &PanelTruth) -> Result<()> {
        let (got, expected) = (self.measure.of(rows)?, (self.truth)(truth));
        // Both sides compute shares and means by the same division; sums of integers are exact.
        let close = (got - expected).abs() <= 1e-9 * expected.abs().max(1.0);
        ensure!(close, "{:?} is {got}, expected {expected}", self.measure);
        Ok(())
    }
}

/// Returns the expected total of a panel, if it has one.
pub fn of(dashboard: &str, panel: &str) -> Option<Total> {
    TOTALS
        .iter()
        .find(|(d, p, _, _)| *d == dashboard && *p == panel)
        .map(|&(_, _, measure, truth)| Total { measure, truth })
}

/// Returns dashboard and panel of every entry.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    TOTALS
        .iter()
        .map(|&(dashboard, panel, _, _)| (dashboard, panel))
}

use Measure::{Rows, Sum, SumExcept};

type TotalEntry = (&'static str, &'static str, Measure, fn(&PanelTruth) -> f64);

const CHATS: &str = "chatledger-chats";
const MESSAGES: &str = "chatledger-messages";
const VIOLATIONS: &str = "chatledger-violations";
const PIPELINE: &str = "chatledger-pipeline";

fn messages(t: &PanelTruth) -> f64 {
    t.messages.len() as f64
}

fn conversations(t: &PanelTruth) -> f64 {
    t.distinct(|m| Some(&m.conversation_id))
}

fn violations(t: &PanelTruth) -> f64 {
    t.violations.len() as f64
}

fn sent_by_members(t: &PanelTruth) -> f64 {
    t.count(|m| m.from_kind == "member")
}

fn members(t: &PanelTruth) -> f64 {
    t.distinct(|m| (m.from_kind == "member").then_some(&m.from_id))
}

#[rustfmt::skip]
const TOTALS: &[TotalEntry] = &[
    (CHATS, "会话数", Sum(&["会话数"]), conversations),
    (CHATS, "消息数", Sum(&["消息数"]), messages),
    (CHATS, "活跃成员", Sum(&["活跃成员"]), members),
    (CHATS, "活跃客户", Sum(&["活跃客户"]), |t| t.distinct(|m| (m.from_kind == "customer").then_some(&m.from_id))),
    (CHATS, "对外会话占比", Sum(&["对外会话占比"]), |t| {
        t.distinct(|m| external(&m.conversation_kind).then_some(&m.conversation_id)) / conversations(t)
    }),
    (CHATS, "响应时间中位数", Sum(&["响应时间中位数"]), |t| {
        let mut waits: Vec<i64> = t.replies().into_iter().map(|r| r.wait_ms).collect();
        waits.sort_unstable();
        waits.get(waits.len() / 2).map_or(0.0, |wait| *wait as f64 / 1000.0)
    }),
    (CHATS, "每日会话数（按类型）", Sum(&["会话数"]), |t| {
        t.distinct(|m| Some((shanghai_day(m.msgtime), &m.conversation_kind, &m.conversation_id)))
    }),
    (CHATS, "会话类型分布", Sum(&["会话数"]), |t| t.distinct(|m| Some((&m.conversation_kind, &m.conversation_id)))),
    (CHATS, "内部与对外消息占比", Sum(&["内部", "对外"]), messages),
    (CHATS, "客户响应时间", Rows, |t| {
        t.replies().iter().map(|r| shanghai_day(r.asked_at)).collect::<BTreeSet<_>>().len() as f64
    }),
    (CHATS, "沟通热力图（星期 × 小时）", SumExcept(&["星期"]), messages),
    (CHATS, "最活跃的成员", Sum(&["发送条数"]), PanelTruth::sent_by_busiest_members),
    (CHATS, "最活跃的群聊", Sum(&["消息数"]), |t| {
        top(t.messages.iter().map(|m| &m.room_id).filter(|room| !room.is_empty()), 50)
    }),
    (CHATS, "成员响应时间", Sum(&["回复次数"]), |t| top(t.replies().into_iter().map(|r| r.member), 100)),
    (CHATS, "待回复的客户", Rows, |t| t.unanswered().min(200.0)),

    (MESSAGES, "消息总数", Sum(&["消息总数"]), messages),
    (MESSAGES, "成员发送", Sum(&["成员发送"]), sent_by_members),
    (MESSAGES, "客户发送", Sum(&["客户发送"]), |t| t.count(|m| m.from_kind == "customer")),
    (MESSAGES, "成员人均发送", Sum(&["成员人均发送"]), |t| sent_by_members(t) / members(t)),
    (MESSAGES, "撤回消息", Sum(&["撤回消息"]), |t| t.count(|m| m.action == "recall")),
    (MESSAGES, "文本平均字数", Sum(&["文本平均字数"]), |t| {
        let texts = || t.messages.iter().filter(|m| m.msgtype == "text");
        texts().map(|m| m.content.chars().count() as f64).sum::<f64>() / texts().count() as f64
    }),
    (MESSAGES, "消息量（按类型）", Sum(&["消息数"]), messages),
    (MESSAGES, "消息类型占比", Sum(&["消息数"]), messages),
    (MESSAGES, "消息量（按方向）", Sum(&["消息数"]), messages),
    (MESSAGES, "文本长度分布", Sum(&["消息数"]), |t| t.count(|m| m.msgtype == "text")),
    (MESSAGES, "消息量（按部门）", Sum(&["消息数"]), messages),
    (MESSAGES, "发送排行", Sum(&["消息数"]), |t| {
        top(t.messages.iter().filter(|m| m.from_kind == "member").map(|m| &m.from_id), 100)
    }),
    (MESSAGES, "消息检索", Rows, |t| messages(t).min(500.0)),
    (MESSAGES, "会话上下文", Rows, |t| t.newest_conversation().min(1000.0)),

    (VIOLATIONS, "违规数", Sum(&["违规数"]), violations),
    (VIOLATIONS, "涉及人员", Sum(&["涉及人员"]), |t| t.violating().map(|m| &m.from_id).collect::<BTreeSet<_>>().len() as f64),
    (VIOLATIONS, "涉及会话", Sum(&["涉及会话"]), |t| {
        t.violating().map(|m| &m.conversation_id).collect::<BTreeSet<_>>().len() as f64
    }),
    (VIOLATIONS, "每千条消息的违规消息", Sum(&["每千条消息的违规消息"]), |t| {
        let broken = t.violations.iter().map(|v| &v.msgid).collect::<BTreeSet<_>>().len();
        1000.0 * broken as f64 / messages(t)
    }),
    (VIOLATIONS, "违规走势（按等级）", Sum(&["严重", "高", "中", "低"]), violations),
    (VIOLATIONS, "与上一周期对比", Sum(&["本期"]), violations),
    (VIOLATIONS, "按规则", Sum(&["本期"]), violations),
    (VIOLATIONS, "按类别", Sum(&["违规数"]), violations),
    (VIOLATIONS, "命中最多的词", Sum(&["命中次数"]), |t| top(t.violations.iter().flat_map(|v| &v.matched), 50)),
    (VIOLATIONS, "按部门", Sum(&["违规数"]), violations),
    (VIOLATIONS, "按人员", Sum(&["违规数"]), |t| top(t.violating().map(|m| &m.from_id), 100)),
    (VIOLATIONS, "最新违规", Rows, |t| violations(t).min(500.0)),

    (PIPELINE, "死信原因汇总", Sum(&["条数"]), |t| t.dead_letters.len() as f64),
    (PIPELINE, "最新死信", Rows, |t| (t.dead_letters.len() as f64).min(200.0)),
    (PIPELINE, "已归档概况", Sum(&["消息数"]), messages),
    (PIPELINE, "最近一次对账", Sum(&["ClickHouse"]), messages),
];
