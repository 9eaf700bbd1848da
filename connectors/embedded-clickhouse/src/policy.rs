//! Decides which statements clients may run.
//!
//! The engine parses a statement and writes it back in its own canonical form (`formatQuerySingleLine`):
//! one blank between tokens, no comments, keywords in upper case, `name(` for a call. This module reads
//! only that form, so that no way of writing a statement can hide what it does. Statements, functions,
//! table functions, table engines, dictionary sources and formats are allowed by list; anything else is
//! refused with a clear error.
//!
//! This gives clear answers. What a statement could still reach, for example through an expression in the
//! data of `INSERT … VALUES` or in the text of a setting, is refused by the kernel
//! ([`crate::confine`]).
//!
//! Not here: parsing, and running anything.

mod lists;

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::exception::Exception;
use crate::lexer::{Lexer, Token, TokenKind};
use lists::{
    CLAUSES, COMBINATORS, ENGINES, FORMATS, FUNCTIONS, REFUSED_FUNCTIONS, REFUSED_SETTINGS,
    STATEMENTS, TABLE_FUNCTIONS,
};

static ALLOWED_CALLS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    FUNCTIONS
        .split_ascii_whitespace()
        .chain(TABLE_FUNCTIONS.iter().copied())
        .chain(CLAUSES.iter().copied())
        .map(str::to_owned)
        .chain(ENGINES.iter().map(|name| name.to_ascii_lowercase()))
        .collect()
});

/// Returns whether the function or type `name` may be called.
fn allows_call(name: &str) -> bool {
    fn allows(name: &str) -> bool {
        ALLOWED_CALLS.contains(name)
            || COMBINATORS
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .any(allows)
    }
    allows(&name.to_ascii_lowercase())
}

/// Checks the name of a format.
pub(crate) fn check_format(name: &str) -> Result<(), Exception> {
    if FORMATS.contains(&name.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(Exception::new(
        73,
        "UNKNOWN_FORMAT",
        format!("The embedded server does not know or allow the format {name}"),
    ))
}

/// Checks the name of a setting.
pub(crate) fn check_setting(name: &str) -> Result<(), Exception> {
    if REFUSED_SETTINGS.contains(&name) {
        return Err(refused(&format!("the setting {name}")));
    }
    Ok(())
}

/// Checks the value of a bound parameter, which can be an identifier.
pub(crate) fn check_parameter(value: &str) -> Result<(), Exception> {
    if REFUSED_FUNCTIONS.contains(&value.trim().to_ascii_lowercase().as_str()) {
        return Err(refused(&format!("the function {value}")));
    }
    Ok(())
}

/// Checks a statement in the engine's canonical form.
pub(crate) fn check(canonical: &[u8]) -> Result<(), Exception> {
    let statement = CanonicalStatement {
        text: canonical,
        tokens: Lexer::new(canonical).collect(),
    };
    statement.check_kind()?;
    for at in 0..statement.tokens.len() {
        statement.check_name(at)?;
        statement.check_clause(at)?;
    }
    Ok(())
}

struct CanonicalStatement<'a> {
    text: &'a [u8],
    tokens: Vec<Token>,
}

impl CanonicalStatement<'_> {
    fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at)
    }

    /// The text of a token, without quotes; empty after the end.
    fn bare(&self, at: usize) -> &str {
        let Some(token) = self.token(at) else {
            return "";
        };
        let text = std::str::from_utf8(&self.text[token.start..token.end]).unwrap_or_default();
        match token.kind {
            TokenKind::QuotedName | TokenKind::Text => text
                .get(1..text.len().saturating_sub(1))
                .unwrap_or_default(),
            _ => text,
        }
    }

    /// Whether the keyword `word` stands at `at`; the engine writes keywords in upper case.
    fn is_keyword(&self, at: usize, word: &str) -> bool {
        self.token(at)
            .is_some_and(|token| token.kind == TokenKind::Word)
            && self.bare(at) == word
    }

    fn is_symbol(&self, at: usize, symbol: u8) -> bool {
        self.token(at).is_some_and(|token| token.is_symbol(symbol))
    }

    fn is_name(&self, at: usize) -> bool {
        self.token(at)
            .is_some_and(|token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedName))
    }

    /// Whether a parenthesis follows directly, as after the name of a function.
    fn is_called(&self, at: usize) -> bool {
        self.is_symbol(at + 1, b'(')
            && self
                .token(at)
                .zip(self.token(at + 1))
                .is_some_and(|(name, parenthesis)| name.end == parenthesis.start)
    }

    fn check_kind(&self) -> Result<(), Exception> {
        let first = (0..self.tokens.len())
            .find(|at| !self.is_symbol(*at, b'('))
            .unwrap_or_default();
        let starts = |beginning: &&&str| {
            beginning
                .split(' ')
                .enumerate()
                .all(|(offset, word)| self.is_keyword(first + offset, word))
        };
        if STATEMENTS.iter().any(|beginning| starts(&beginning)) {
            return Ok(());
        }
        let words: Vec<_> = (first..first + 2).map(|at| self.bare(at)).collect();
        Err(refused(&format!(
            "a statement that begins with {}",
            words.join(" ").trim()
        )))
    }

    /// Checks a name that may be a function's.
    fn check_name(&self, at: usize) -> Result<(), Exception> {
        if !self.is_name(at) {
            return Ok(());
        }
        let name = self.bare(at);
        // As an argument (`arrayMap(file, …)`) or after APPLY, a name without parentheses is called too.
        let is_qualified = self.is_symbol(at + 1, b'.')
            || at
                .checked_sub(1)
                .is_some_and(|before| self.is_symbol(before, b'.'));
        if !is_qualified && REFUSED_FUNCTIONS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(refused(&format!(
                "{name} (write a column of that name with its table, as in table.{name})"
            )));
        }
        if !self.is_called(at) || allows_call(name) {
            return Ok(());
        }
        let reads_table = ["FROM", "JOIN", "FUNCTION", "TABLE"].iter().any(|word| {
            at.checked_sub(1)
                .is_some_and(|before| self.is_keyword(before, word))
        });
        if reads_table {
            return Err(refused(&format!("the table function {name}")));
        }
        Err(Exception::new(
            46,
            "UNKNOWN_FUNCTION",
            format!("The embedded server does not know or allow the function {name}"),
        ))
    }

    fn check_clause(&self, at: usize) -> Result<(), Exception> {
        let creates = ["CREATE", "REPLACE"]
            .iter()
            .any(|word| self.is_keyword(0, word));
        if self.is_keyword(at, "INTO") && self.is_keyword(at + 1, "OUTFILE") && at != 1 {
            return Err(Exception::new(
                358,
                "INTO_OUTFILE_NOT_ALLOWED",
                "INTO OUTFILE is not allowed",
            ));
        }
        if self.is_keyword(at, "INFILE") {
            return Err(Exception::not_implemented(
                "FROM INFILE reads files of the client, not of the server; send the data in the body",
            ));
        }
        if self.is_keyword(at, "FORMAT") && self.is_name(at + 1) && self.ends_query(at + 2) {
            check_format(self.bare(at + 1))?;
        }
        if creates
            && self.is_keyword(at, "ENGINE")
            && self.is_symbol(at + 1, b'=')
            && !ENGINES.contains(&self.bare(at + 2))
        {
            return Err(refused(&format!("the engine {}", self.bare(at + 2))));
        }
        if creates && self.is_keyword(at, "SOURCE") && self.is_called(at) {
            self.check_source(at + 2)?;
        }
        let is_set = self.is_symbol(at + 1, b'=') && self.is_name(at);
        if is_set {
            check_setting(self.bare(at))?;
            if self.bare(at).starts_with("param_") {
                check_parameter(self.bare(at + 2))?;
            }
        }
        Ok(())
    }

    /// A format is named at the end of a query, before its settings.
    fn ends_query(&self, at: usize) -> bool {
        self.token(at).is_none() || self.is_symbol(at, b')') || self.is_keyword(at, "SETTINGS")
    }

    /// A dictionary reads a table of this database, or nothing. A query or a condition would be text that
    /// is parsed later.
    fn check_source(&self, at: usize) -> Result<(), Exception> {
        let name = self.bare(at);
        if !matches!(name, "CLICKHOUSE" | "NULL") {
            return Err(refused(&format!("a dictionary with the source {name}")));
        }
        let mut depth = 0_u32;
        for at in at + 1..self.tokens.len() {
            match self.tokens[at].kind {
                TokenKind::Symbol(b'(') => depth += 1,
                TokenKind::Symbol(b')') => depth = depth.saturating_sub(1),
                TokenKind::Word
                    if !matches!(
                        self.bare(at),
                        "DB" | "TABLE" | "UPDATE_FIELD" | "UPDATE_LAG"
                    ) =>
                {
                    return Err(refused(&format!(
                        "{} in the source of a dictionary (allowed: DB, TABLE, UPDATE_FIELD, UPDATE_LAG)",
                        self.bare(at)
                    )));
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        Ok(())
    }
}

fn refused(what: &str) -> Exception {
    Exception::new(
        497,
        "ACCESS_DENIED",
        format!("The embedded server does not allow {what}"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_refused(canonical: &str, code: i32) {
        assert_eq!(
            check(canonical.as_bytes()).unwrap_err().code(),
            code,
            "{canonical}"
        );
    }

    #[track_caller]
    fn check_allowed(canonical: &str) {
        assert_eq!(check(canonical.as_bytes()), Ok(()), "{canonical}");
    }

    #[test]
    fn functions_that_reach_outside_are_refused_wherever_they_stand() {
        for canonical in [
            "SELECT file('/etc/passwd')",
            "SELECT arrayMap(file, ['x'])",
            "SELECT arrayMap(x -> FILE(x), ['x'])",
            "SELECT * APPLY(file) FROM t",
            "SELECT aiGenerate('x')",
            "SELECT * FROM url('http://x', 'CSV')",
            "INSERT INTO FUNCTION s3('x') SELECT 1",
            "CREATE VIEW v AS SELECT `file`('x')",
        ] {
            check_refused(canonical, 497);
        }
        check_refused("SELECT newFunction(1)", 46);
        check_allowed(
            "SELECT t.file, sumIf(a, b), quantilesTDigestArrayIf(0.5)(a, b), quantileExactOrNull(0.5)(a) FROM t",
        );
    }

    #[test]
    fn statements_engines_sources_and_settings_are_allowed_by_list() {
        for canonical in [
            "BACKUP TABLE t TO Disk('a', 'b')",
            "ATTACH TABLE t FROM '/x' (`a` UInt8) ENGINE = Log",
            "CREATE FUNCTION f AS x -> 1",
            "CREATE TABLE t (`a` UInt8) ENGINE = File(CSV)",
            "CREATE TABLE t (`a` UInt8) ENGINE = Filesystem",
            "CREATE DICTIONARY d (`a` UInt64) PRIMARY KEY a SOURCE(HTTP(URL 'x')) LAYOUT(FLAT())",
            "CREATE DICTIONARY d (`a` UInt64) PRIMARY KEY a SOURCE(CLICKHOUSE(HOST 'x')) LAYOUT(FLAT())",
            "SET dialect = 'kusto'",
            "SET param_f = 'file'",
            "SELECT 1 SETTINGS format_schema = '/x'",
            "GRANT ALL ON *.* TO x",
        ] {
            check_refused(canonical, 497);
        }
        check_allowed("SELECT engine = name FROM system.tables WHERE engine = 'File'");
        check_allowed(
            "CREATE DICTIONARY d (`a` UInt64) PRIMARY KEY a SOURCE(CLICKHOUSE(DB 'x' TABLE 'y')) \
             LIFETIME(MIN 0 MAX 1) LAYOUT(COMPLEX_KEY_HASHED())",
        );
    }

    #[test]
    fn files_and_formats_that_use_files_are_refused() {
        check_refused("SELECT 1 INTO OUTFILE 'x' FORMAT CSV", 358);
        check_refused("INSERT INTO t FROM INFILE 'x' FORMAT CSV", 48);
        check_refused("SELECT 1 FORMAT Template", 73);
        check_refused("SELECT 1 FORMAT Protobuf SETTINGS a = 1", 73);
        check_allowed("INSERT INTO OUTFILE (a) FORMAT CSV");
        check_allowed("SELECT 1 FORMAT JSONCompact SETTINGS max_threads = 1");
        assert_eq!(check_format("template").unwrap_err().code(), 73);
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_a_panic(text: Vec<u8>) {
            let _ = check(&text);
        }
    }
}
