//! Splits ClickHouse SQL into tokens, as far as the front needs it.
//!
//! Guarantees: never panics; skips comments and whitespace; handles quotes, here-documents and nested
//! comments, so that a keyword inside a string is not mistaken for one. Works on bytes, because binary
//! data can follow the text of an `INSERT`.
//!
//! Not here: a grammar. The front passes invalid statements to the engine, which rejects them.

/// The kind of a [`Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A keyword or a bare identifier.
    Word,
    /// An identifier in backticks or double quotes.
    QuotedName,
    /// A string literal or a here-document.
    Text,
    /// A number.
    Number,
    /// One byte of punctuation.
    Symbol(u8),
}

/// A token: its kind and its range of bytes, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// Its kind.
    pub(crate) kind: TokenKind,
    /// First byte.
    pub(crate) start: usize,
    /// One past the last byte.
    pub(crate) end: usize,
}

impl Token {
    /// Returns whether this is the unquoted word `keyword`, in upper or lower case.
    pub(crate) fn is_word(&self, text: &[u8], keyword: &str) -> bool {
        self.kind == TokenKind::Word
            && text
                .get(self.start..self.end)
                .is_some_and(|word| word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Returns whether this is the punctuation `byte`.
    pub(crate) fn is_symbol(&self, byte: u8) -> bool {
        self.kind == TokenKind::Symbol(byte)
    }
}

/// Iterates over the tokens of `text`.
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// Starts at the first byte of `text`.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts_with(&self, what: &[u8]) -> bool {
        self.text[self.at..].starts_with(what)
    }

    fn skip_line(&mut self) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'\n' {
                break;
            }
        }
    }

    /// ClickHouse nests `/* */`.
    fn skip_block_comment(&mut self) {
        let mut depth = 0_u32;
        while self.at < self.text.len() {
            if self.starts_with(b"/*") {
                depth += 1;
                self.at += 2;
            } else if self.starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.at += 1;
            }
        }
    }

    fn skip_blank(&mut self) {
        loop {
            match self.peek(0) {
                Some(byte) if byte.is_ascii_whitespace() || byte == 0x0b => self.at += 1,
                Some(b'-') if self.starts_with(b"--") => self.skip_line(),
                Some(b'#') if self.starts_with(b"# ") || self.starts_with(b"#!") => {
                    self.skip_line();
                }
                Some(b'/') if self.starts_with(b"/*") => self.skip_block_comment(),
                _ => return,
            }
        }
    }

    /// Skips a quoted text that begins with `quote`. A backslash or a doubled quote escapes.
    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'\\' {
                self.at = (self.at + 1).min(self.text.len());
            } else if byte == quote {
                if self.peek(0) != Some(quote) {
                    return;
                }
                self.at += 1;
            }
        }
    }

    /// Skips `$tag$ … $tag$`; returns false if this dollar sign does not begin one.
    fn skip_heredoc(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let Some(length) = rest
            .iter()
            .skip(1)
            .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))
        else {
            return false;
        };
        if rest.get(length + 1) != Some(&b'$') {
            return false;
        }
        let tag = &rest[..length + 2];
        let body = &rest[tag.len()..];
        self.at += match body.windows(tag.len()).position(|window| window == tag) {
            Some(end) => tag.len() + end + tag.len(),
            None => rest.len(),
        };
        true
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        let kind = match self.peek(0)? {
            b'\'' => {
                self.skip_quoted(b'\'');
                TokenKind::Text
            }
            quote @ (b'`' | b'"') => {
                self.skip_quoted(quote);
                TokenKind::QuotedName
            }
            b'$' if self.skip_heredoc() => TokenKind::Text,
            byte if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 => {
                while self.peek(0).is_some_and(|byte| {
                    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
                }) {
                    self.at += 1;
                }
                TokenKind::Word
            }
            byte if byte.is_ascii_digit() => {
                while self
                    .peek(0)
                    .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                {
                    self.at += 1;
                }
                TokenKind::Number
            }
            byte => {
                self.at += 1;
                TokenKind::Symbol(byte)
            }
        };
        Some(Token {
            kind,
            start,
            end: self.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<&str> {
        Lexer::new(text.as_bytes())
            .map(|token| &text[token.start..token.end])
            .collect()
    }

    #[test]
    fn comments_and_blanks_are_skipped() {
        assert_eq!(
            words("-- one\nSELECT /* a /* b */ c */ 1 # rest\n,2"),
            ["SELECT", "1", ",", "2"]
        );
    }

    #[test]
    fn quoted_text_is_one_token() {
        assert_eq!(
            words(r"'it''s; FORMAT \' x' `a``b` $q$ ; ' $q$ x"),
            [r"'it''s; FORMAT \' x'", "`a``b`", "$q$ ; ' $q$", "x"]
        );
    }

    #[test]
    fn unfinished_quotes_end_with_the_text() {
        assert_eq!(words(r"'abc\"), [r"'abc\"]);
        assert_eq!(words("$t$ abc"), ["$t$ abc"]);
        assert_eq!(words("/* abc"), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn any_bytes_give_ordered_tokens_inside_the_text(text: Vec<u8>) {
            let mut at = 0;
            for token in Lexer::new(&text) {
                prop_assert!(at <= token.start && token.start < token.end);
                prop_assert!(token.end <= text.len());
                at = token.end;
            }
        }
    }
}
