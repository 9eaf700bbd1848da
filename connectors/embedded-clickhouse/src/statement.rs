//! Classifies a request's text, as far as the front needs it.
//!
//! The engine's C interface expects an `INSERT` without its `FORMAT` clause and with its data
//! separate, and runs several statements in one text, which a server refuses. Guarantees: the data of an
//! `INSERT` begins exactly where ClickHouse's parser (`ParserInsertQuery.cpp`) finds it.
//!
//! Not here: knowledge of tables, types or settings, and what is allowed ([`crate::policy`]).

use crate::exception::Exception;
use crate::lexer::{Lexer, Token, TokenKind};

/// The kind of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// An `INSERT` with data after it (or in the rest of the body).
    Insert {
        /// The statement without `VALUES`, `FORMAT` and data: `..head` of the text.
        head: usize,
        /// The data's format.
        format: String,
        /// Offset where the data begins: `data..` of the text.
        data: usize,
    },
    /// A query whose result can be fetched in blocks.
    Select {
        /// The format named in the text.
        format: Option<String>,
        /// Whether the result has parts (totals, extremes) that only a complete result contains in the
        /// right place.
        has_extras: bool,
    },
    /// Anything else: DDL, `INSERT … SELECT`, `SHOW`, `SET`, …
    Other {
        /// The format named in the text.
        format: Option<String>,
    },
    /// `SET` or `USE`, which change only the session.
    Session,
    /// Only whitespace and comments.
    Empty,
}

/// Classifies the beginning of a request's text. With `complete == false` there is more text, and `None`
/// means that more of it is needed.
///
/// # Errors
/// An [`Exception`] as a server would give it: several statements (62).
pub(crate) fn parse(text: &[u8], complete: bool) -> Result<Option<Statement>, Exception> {
    let mut lexer = Lexer::new(text);
    let mut tokens: Vec<Token> = Vec::new();
    let mut depth = 0_u32;
    while let Some(token) = lexer.next() {
        // A token at the end of an incomplete text may continue after it.
        if !complete && token.end == text.len() {
            return Ok(None);
        }
        match token.kind {
            TokenKind::Symbol(b'(' | b'[' | b'{') => depth += 1,
            TokenKind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            TokenKind::Symbol(b';') if depth == 0 => {
                return after_semicolon(text, lexer, complete)
                    .map(|()| finish(text, &tokens, complete));
            }
            _ => {}
        }
        if depth == 0
            && tokens
                .first()
                .is_some_and(|first| first.is_word(text, "INSERT"))
            && let Some(found) = insert_data(text, &tokens, token, &mut lexer, complete)?
        {
            return Ok(found.statement());
        }
        tokens.push(token);
    }
    Ok(finish(text, &tokens, complete))
}

/// Where the data of an `INSERT` is.
enum InsertData {
    Complete(Statement),
    /// The format's name is incomplete.
    Incomplete,
}

impl InsertData {
    fn statement(self) -> Option<Statement> {
        match self {
            Self::Complete(statement) => Some(statement),
            Self::Incomplete => None,
        }
    }
}

/// `before` are the tokens from `INSERT` up to `token`.
fn insert_data(
    text: &[u8],
    before: &[Token],
    token: Token,
    lexer: &mut Lexer<'_>,
    complete: bool,
) -> Result<Option<InsertData>, Exception> {
    // INSERT INTO [TABLE | FUNCTION] name …: the name may be a keyword.
    let mut name_at = 1;
    for keyword in ["INTO", "TABLE", "FUNCTION"] {
        if before
            .get(name_at)
            .is_some_and(|token| token.is_word(text, keyword))
        {
            name_at += 1;
        }
    }
    let follows_dot = before.last().is_some_and(|token| token.is_symbol(b'.'));
    let selects = before
        .iter()
        .skip(name_at + 1)
        .any(|token| token.is_word(text, "SELECT") || token.is_word(text, "WATCH"));
    if before.len() <= name_at || follows_dot || selects {
        return Ok(None);
    }
    if token.is_word(text, "VALUES") {
        return Ok(Some(InsertData::Complete(Statement::Insert {
            head: token.start,
            format: "Values".to_owned(),
            data: token.end,
        })));
    }
    if !token.is_word(text, "FORMAT") {
        return Ok(None);
    }
    let Some(name) = lexer.next() else {
        return if complete {
            Ok(None)
        } else {
            Ok(Some(InsertData::Incomplete))
        };
    };
    if !complete && name.end == text.len() {
        return Ok(Some(InsertData::Incomplete));
    }
    if !matches!(name.kind, TokenKind::Word | TokenKind::QuotedName) {
        return Ok(None);
    }
    let mut data = name.end;
    if text.get(data) == Some(&b';') {
        return Err(Exception::syntax(
            "You have excessive ';' symbol before data for INSERT",
        ));
    }
    while matches!(text.get(data), Some(b' ' | b'\t' | b'\x0c')) {
        data += 1;
    }
    if text.get(data) == Some(&b'\r') {
        data += 1;
    }
    if text.get(data) == Some(&b'\n') {
        data += 1;
    }
    if !complete && data == text.len() {
        return Ok(Some(InsertData::Incomplete));
    }
    Ok(Some(InsertData::Complete(Statement::Insert {
        head: token.start,
        format: name_of(text, name),
        data,
    })))
}

fn name_of(text: &[u8], token: Token) -> String {
    let bytes = &text[token.start..token.end];
    let bare = match token.kind {
        TokenKind::QuotedName if bytes.len() >= 2 => &bytes[1..bytes.len() - 1],
        _ => bytes,
    };
    String::from_utf8_lossy(bare).into_owned()
}

fn after_semicolon(text: &[u8], lexer: Lexer<'_>, complete: bool) -> Result<(), Exception> {
    for token in lexer {
        if !complete && token.end == text.len() {
            break;
        }
        if !token.is_symbol(b';') {
            return Err(Exception::syntax("Multi-statements are not allowed"));
        }
    }
    Ok(())
}

fn finish(text: &[u8], tokens: &[Token], complete: bool) -> Option<Statement> {
    if !complete {
        return None;
    }
    let Some(first) = tokens.iter().find(|token| !token.is_symbol(b'(')) else {
        return Some(Statement::Empty);
    };
    let has = |keyword: &str| tokens.iter().any(|token| token.is_word(text, keyword));
    if first.is_word(text, "SET") || first.is_word(text, "USE") {
        return Some(Statement::Session);
    }
    if first.is_word(text, "INSERT") && !has("SELECT") && !has("WATCH") {
        // The parser treats a missing FORMAT as VALUES.
        return Some(Statement::Insert {
            head: text.len(),
            format: "Values".to_owned(),
            data: text.len(),
        });
    }
    let format = trailing_format(text, tokens);
    let selects = first.is_word(text, "SELECT") || first.is_word(text, "WITH");
    Some(if selects && !has("INSERT") {
        let extras = ["TOTALS", "extremes", "output_format_json_array_of_rows"];
        Statement::Select {
            format,
            has_extras: extras.into_iter().any(has),
        }
    } else {
        Statement::Other { format }
    })
}

/// The name in `… FORMAT name [SETTINGS …]` at the end of a query.
fn trailing_format(text: &[u8], tokens: &[Token]) -> Option<String> {
    tokens
        .windows(2)
        .enumerate()
        .rev()
        .find(|(at, pair)| {
            pair[0].is_word(text, "FORMAT")
                && matches!(pair[1].kind, TokenKind::Word | TokenKind::QuotedName)
                && tokens
                    .get(at + 2)
                    .is_none_or(|next| next.is_word(text, "SETTINGS"))
        })
        .map(|(_, pair)| name_of(text, pair[1]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Statement {
        parse(text.as_bytes(), true).unwrap().unwrap()
    }

    fn code(text: &str) -> i32 {
        parse(text.as_bytes(), true).unwrap_err().code()
    }

    #[track_caller]
    fn check_insert(text: &str, head: &str, format: &str, data: &str) {
        match whole(text) {
            Statement::Insert {
                head: head_end,
                format: name,
                data: data_at,
            } => {
                assert_eq!(&text[..head_end], head);
                assert_eq!(name, format);
                assert_eq!(&text[data_at..], data);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn insert_data_begins_after_one_line_break() {
        check_insert(
            "INSERT INTO t(a, b) FORMAT RowBinary\n\n\x01",
            "INSERT INTO t(a, b) ",
            "RowBinary",
            "\n\x01",
        );
        check_insert(
            "insert into t format TSV  \r\n1\t2",
            "insert into t ",
            "TSV",
            "1\t2",
        );
        check_insert("insert into t format TSV 1", "insert into t ", "TSV", "1");
    }

    #[test]
    fn insert_values_begin_after_the_keyword() {
        check_insert(
            "INSERT INTO t VALUES (1);",
            "INSERT INTO t ",
            "Values",
            " (1);",
        );
        check_insert(
            "INSERT INTO t SETTINGS a = 1, format = 'x' VALUES (1), (2)",
            "INSERT INTO t SETTINGS a = 1, format = 'x' ",
            "Values",
            " (1), (2)",
        );
    }

    #[test]
    fn tables_may_have_keywords_as_names() {
        check_insert(
            "INSERT INTO values FORMAT CSV\n1",
            "INSERT INTO values ",
            "CSV",
            "1",
        );
        check_insert(
            "INSERT INTO d.format VALUES (1)",
            "INSERT INTO d.format ",
            "Values",
            " (1)",
        );
        check_insert(
            "INSERT INTO TABLE outfile VALUES (1)",
            "INSERT INTO TABLE outfile ",
            "Values",
            " (1)",
        );
        check_insert(
            "INSERT INTO outfile VALUES (1)",
            "INSERT INTO outfile ",
            "Values",
            " (1)",
        );
    }

    #[test]
    fn insert_select_is_not_an_insert_with_data() {
        assert_eq!(
            whole("INSERT INTO t SELECT 1 FORMAT Null"),
            Statement::Other {
                format: Some("Null".to_owned())
            }
        );
        assert_eq!(
            whole("WITH 1 AS x INSERT INTO t SELECT x"),
            Statement::Other { format: None }
        );
    }

    #[test]
    fn select_formats_are_found_at_the_end_only() {
        let format = |text: &str| match whole(text) {
            Statement::Select { format, .. } | Statement::Other { format } => format,
            other => panic!("{other:?}"),
        };
        assert_eq!(format("SELECT 1 AS format FROM t"), None);
        assert_eq!(format("SELECT 'FORMAT CSV'"), None);
        assert_eq!(
            format("SELECT insert FROM t FORMAT CSV"),
            Some("CSV".to_owned())
        );
        assert_eq!(format("SELECT 1 FORMAT CSV;"), Some("CSV".to_owned()));
        assert_eq!(
            format("SHOW TABLES FORMAT JSON SETTINGS a=1"),
            Some("JSON".to_owned())
        );
    }

    #[test]
    fn several_statements_are_refused() {
        assert_eq!(code("SELECT 1; SELECT 2"), 62);
        assert!(matches!(
            whole("SELECT ';' ;; -- end"),
            Statement::Select { .. }
        ));
    }

    #[test]
    fn session_statements_and_empty_text_are_recognised() {
        assert_eq!(whole("SET a = 1"), Statement::Session);
        assert_eq!(whole(" use d"), Statement::Session);
        assert_eq!(whole(" -- nothing\n"), Statement::Empty);
    }

    proptest! {
        #[test]
        fn incomplete_text_never_contradicts_the_complete_text(
            rest in proptest::collection::vec(any::<u8>(), 0..40),
            length in 0_usize..80,
        ) {
            let mut text = b"INSERT INTO a.b (x, y) FORMAT RowBinary\n".to_vec();
            text.extend(rest);
            let whole = parse(&text, true).unwrap().unwrap();
            let part = parse(&text[..length.min(text.len())], false).unwrap();
            if let Some(part) = part {
                prop_assert_eq!(part, whole);
            }
        }

        #[test]
        fn any_text_is_classified_or_refused(text: Vec<u8>, complete: bool) {
            let _ = parse(&text, complete);
        }
    }
}
