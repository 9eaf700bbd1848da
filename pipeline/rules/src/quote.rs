//! Finds the quoted part of a reply.
//!
//! A reply has no form of its own: WeCom puts the quoted message in front of the text (`connectors/wecom/WECOM.md` §4.2). Its
//! words are those of the person quoted, not of the sender. A text that only resembles a quotation is the sender's own.

/// Header of a quotation from a member.
const HEADER: &str = "这是一条引用/回复消息：";
/// Fewest dashes of the line between quotation and reply.
const MIN_DASHES: usize = 5;

/// Returns the offset in bytes at which the sender's own words begin; 0 without a quotation.
pub(crate) fn own_words(content: &str) -> usize {
    let end = if content.starts_with('「') {
        end_of_bracketed(content)
    } else if let Some(quoted) = content.strip_prefix(HEADER) {
        end_of_headed(quoted).map(|end| end + HEADER.len())
    } else {
        None
    };
    end.unwrap_or(0)
}

/// `「NAME：TEXT」`, a line of dashes, the reply.
fn end_of_bracketed(content: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, character) in content.char_indices() {
        match character {
            '「' => depth += 1,
            '」' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            let inside = &content['「'.len_utf8()..at];
            let first_line = inside.lines().next().unwrap_or_default();
            if !first_line.contains(['：', ':']) {
                return None;
            }
            let after = at + '」'.len_utf8();
            return line_of_dashes(&content[after..]).map(|end| after + end);
        }
    }
    None
}

/// A line feed, `"NAME:`, a line feed, `TEXT"`, a line of dashes, the reply.
fn end_of_headed(quoted: &str) -> Option<usize> {
    let text = quoted.trim_start_matches(['\r', '\n']);
    let from = quoted.len() - text.len();
    if !text.starts_with('"') || !text.lines().next()?.trim_end().ends_with([':', '：']) {
        return None;
    }
    let mut searched = from + 1;
    while let Some(at) = quoted[searched..].find('"') {
        let after = searched + at + 1;
        if let Some(end) = line_of_dashes(&quoted[after..]) {
            return Some(after + end);
        }
        searched = after;
    }
    None
}

/// Returns the length of a line end and the line of dashes after it, if that is how `text` begins.
fn line_of_dashes(text: &str) -> Option<usize> {
    let line = text
        .strip_prefix("\r\n")
        .or_else(|| text.strip_prefix('\n'))?;
    let dashes = line
        .find(|character| !matches!(character, '-' | ' '))
        .unwrap_or(line.len());
    let count = line[..dashes].bytes().filter(|byte| *byte == b'-').count();
    let rest = &line[dashes..];
    let ends = rest.is_empty() || rest.starts_with('\n') || rest.starts_with('\r');
    (count >= MIN_DASHES && ends).then(|| text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(content: &str) -> &str {
        content[own_words(content)..].trim()
    }

    #[test]
    fn words_of_the_quoted_person_are_not_the_senders() {
        for (content, reply) in [
            (
                "「客户甲：打你私账行吗」\n- - - - - - - - - - - - - - -\n不行",
                "不行",
            ),
            ("「甲：一\n二「三」」\r\n- - - - - - -\r\n「四」", "「四」"),
            ("「甲：「乙：一」\n- - - - - -\n二」\n- - - - - -\n三", "三"),
            (
                "这是一条引用/回复消息：\n\"甲:\n打你\"私账\"行吗\"\n------\n不行",
                "不行",
            ),
            ("「甲：[图片]」\n- - - - - - - - -", ""),
        ] {
            assert_eq!(own(content), reply, "{content}");
        }
    }

    #[test]
    fn text_that_only_resembles_a_quotation_is_the_senders_own() {
        for content in [
            "",
            "打私账",
            "「打私账」",
            "「打私账」\n- - - - - - -\n好",
            "「甲：打私账」好\n- - - - - - -",
            "「甲：打私账\n- - - - - - -\n好",
            "「甲：打私账」\n--\n好",
            "「甲：打私账」\n- - - - - - - 好",
            "这是一条引用/回复消息：\n打私账\n------\n好",
            "说：「甲：打私账」\n- - - - - - -\n好",
        ] {
            assert_eq!(own_words(content), 0, "{content}");
        }
    }
}
