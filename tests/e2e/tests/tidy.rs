//! Checks that apply to every file of the repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use chatledger_e2e::paths;
use chatledger_e2e::tidy::{TrackedFile, tracked};
use regex::{Captures, Regex};

/// Maximum lines of a source file.
const MAX_LINES: usize = 500;

/// Files and folders allowed at the top level of the repository.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
    ".typos.toml",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "connectors",
    "dashboards",
    "deploy",
    "pipeline",
    "schemas",
    "tests",
];

/// Runs `check` on every file and reports all failures.
fn check_files(check: impl Fn(&TrackedFile) -> Option<String>) {
    let wrong: Vec<String> = tracked()
        .unwrap()
        .iter()
        .filter_map(|file| check(file).map(|why| format!("{}: {why}", file.path)))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Returns number and text of the first line that contains one of these.
fn first_with(file: &TrackedFile, parts: &[&str]) -> Option<String> {
    let found = |line: &str| parts.iter().any(|part| line.contains(part));
    let (number, line) = file.lines().enumerate().find(|(_, line)| found(line))?;
    Some(format!("line {}: {}", number + 1, line.trim()))
}

#[test]
fn top_level_contains_only_allowed_files() {
    check_files(|file| {
        let top = file.path.split('/').next().unwrap();
        (!TOP.contains(&top)).then(|| "is not allowed at the top level".to_owned())
    });
}

#[test]
fn every_rust_file_begins_with_its_purpose() {
    check_files(|file| {
        let first = file.lines().next().unwrap_or_default();
        (file.is_rust() && !first.starts_with("//! ")).then(|| format!("begins with {first:?}"))
    });
}

#[test]
fn every_crate_states_what_it_does_not_know() {
    check_files(|file| {
        if !file.path.ends_with("src/lib.rs") {
            return None;
        }
        let head: Vec<&str> = file
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        let head = head.join(" ");
        let absent = [
            "not know",
            "knows no",
            "not here",
            "does not",
            "Not here",
            "nothing of",
        ];
        (!absent.iter().any(|words| head.contains(words)))
            .then(|| "its documentation does not state what it does not know".to_owned())
    });
}

#[test]
fn source_files_are_not_too_long() {
    check_files(|file| {
        let source = [".rs", ".py", ".sh"]
            .iter()
            .any(|end| file.path.ends_with(end));
        let lines = file.lines().count();
        (source && lines > MAX_LINES).then(|| format!("{lines} lines, at most {MAX_LINES} allowed"))
    });
}

#[test]
fn no_file_has_a_vague_name() {
    check_files(|file| {
        let vague = ["utils", "util", "common", "helpers", "helper", "misc"];
        let parts = file
            .path
            .split('/')
            .map(|part| part.split('.').next().unwrap());
        let found: Vec<&str> = parts.filter(|part| vague.contains(part)).collect();
        (!found.is_empty()).then(|| format!("{found:?} is vague"))
    });
}

#[test]
fn no_test_is_ignored_and_no_work_is_left_open() {
    // Each text is written in two parts, so that this file does not match.
    let parts = [
        concat!("#[ig", "nore"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("unimpl", "emented!("),
        concat!("dbg", "!("),
    ];
    check_files(|file| {
        if file.path.ends_with("Cargo.lock") || file.path.starts_with("tests/fuzz/corpus/") {
            None
        } else {
            first_with(file, &parts)
        }
    });
}

#[test]
fn sql_of_the_product_is_constant_with_bound_parameters() {
    // A value must not be formatted into a statement, because it could change the statement. This
    // finds the most common form of the mistake.
    let parts = [
        ".query(&format!(",
        ".query_raw(&format!(",
        ".query(format!(",
    ];
    check_files(|file| {
        let product = ["connectors/clickhouse/src/", "pipeline/app/src/"];
        if file.is_rust() && product.iter().any(|folder| file.path.starts_with(folder)) {
            first_with(file, &parts)
        } else {
            None
        }
    });
}

#[test]
fn no_file_contains_a_path_of_a_machine() {
    let parts = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
    ];
    check_files(|file| first_with(file, &parts));
}

#[test]
fn scripts_are_executable_and_stop_at_the_first_error() {
    use std::os::unix::fs::PermissionsExt;
    check_files(|file| {
        let first = file.lines().next().unwrap_or_default();
        if !first.starts_with("#!") {
            return None;
        }
        let mode = std::fs::metadata(paths::repository().join(&file.path)).unwrap();
        if mode.permissions().mode() & 0o111 == 0 {
            return Some("is not executable".to_owned());
        }
        let bash = first.contains("bash");
        (bash && !file.text.as_ref()?.contains("set -euo pipefail"))
            .then(|| "has no `set -euo pipefail`".to_owned())
    });
}

#[test]
fn documents_for_operators_exist() {
    let files: BTreeSet<String> = tracked()
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect();
    for path in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
        "pipeline/ARCHITECTURE.md",
        "deploy/config/direct.toml",
        "deploy/config/kafka.toml",
        "deploy/runbooks/README.md",
        "deploy/runbooks/exit-2.md",
        "deploy/runbooks/exit-3.md",
        "deploy/runbooks/exit-4.md",
        "deploy/compose/README.md",
        "dashboards/grafana/README.md",
    ] {
        assert!(files.contains(path), "{path} is missing");
    }
    let readme = std::fs::read_to_string(paths::repository().join("README.md")).unwrap();
    assert!(readme.lines().count() < 160, "README.md is too long");
}

#[test]
fn links_in_documents_are_valid() {
    check_files(|file| {
        if !file.has_extension("md") {
            return None;
        }
        let text = file.text.as_ref()?;
        let path = paths::repository().join(&file.path);
        let folder = path.parent()?;
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let broken: Vec<&str> = targets
            .map(|target| target.split('#').next().unwrap_or_default())
            .filter(|target| !target.is_empty() && !target.contains("://"))
            .filter(|target| !folder.join(target).exists())
            .collect();
        (!broken.is_empty()).then(|| format!("broken links: {broken:?}"))
    });
}

/// Retired words and phrases, each with its replacement. An entry of lowercase letters matches the word,
/// its plural, and both as a part of an identifier (`open_cut`, `CutWriter`); any other entry is a
/// regular expression.
const RETIRED: &[(&str, &str)] = &[
    ("letter", "dead letter"),
    ("parked", "dead-lettered"),
    (
        r"\b(a|an|the|open|pending|last|each) cuts?\b|[Cc]utWriter|\bCuts?\b|\b\w*_cut\b|\bcut_\w+",
        "batch, batch range, pending batch or open batch",
    ),
    ("extent", "batch range"),
    ("witness", "fingerprint"),
    ("claim", "sink checkpoint"),
    (
        r"\bMarks?(\b[^ ]|$)|[a-z]Marks\b|Mark(Reader|Writer|Store)|\b(the|a|its) marks?\b",
        "sink checkpoint",
    ),
    (r"\bheld\(", "sink checkpoint"),
    ("outlet", "replay sink"),
    ("desk", "control inbox"),
    (
        r"(?i)\btold\b( [^tn]|[^ ]|$)|told_|_told",
        "reported, or revision",
    ),
    ("fate", "outcome"),
    (r"wecom-api", "connectors/wecom/WECOM.md"),
    (r"(?i)\bfor good\b", "permanently"),
    (r"(?i)\b(do|does|done) without\b", "discard"),
    (r"(?i)\bwithout a word\b", "automatically"),
    (r"(?i)\b(is|are) meant\b", "matches"),
    (r"(?i)\bwhoever\b", "name the person or the component"),
    (
        r"(?i)\b(lies|lie|lay) (in|at|below|behind|across)\b",
        "is in",
    ),
    (r"(?i)\brather than taken\b", "say what happens instead"),
    (r"(?i)\bfor want of\b", "because … is missing"),
];

/// Texts in which a retired word is allowed: other meanings, and names that outlive a process.
const ALLOWED: &[&str] = &[
    r"(?i)dead[\s\\/#*_-]*letter(s|ed|ing)?",
    // The alphabet.
    r"(?i)\b(capital|lowercase|uppercase|latin) letters?\b|\bletters?(,| and| or) digits?\b",
    // Output of `chatledger dlq list --json`.
    r#""letters""#,
    // A column of the table `lanes`, and fields of files and commit metadata.
    r#""witness"|`witness`|SELECT [^"]*\bwitness\b|"cut"|`cut`"#,
    // A fault of the simulator, and the shell command.
    r"[@+]cut\b|e502, cut,|\bcut -[a-z]|\|cut\)",
];

/// Files that list the retired words.
const LISTS_OF_WORDS: &[&str] = &["tests/e2e/tests/tidy.rs", "pipeline/GLOSSARY.md"];

/// Extensions of files that contain English text. Scripts without an extension are checked too.
const WITH_TEXT: &[&str] = &["rs", "sh", "py", "md", "toml", "yml", "yaml", "json"];

fn has_text(file: &TrackedFile) -> bool {
    let script = file.lines().next().is_some_and(|l| l.starts_with("#!"));
    (script || WITH_TEXT.iter().any(|e| file.has_extension(e)))
        && !file.path.starts_with("tests/fuzz/corpus/")
}

/// Returns the regular expression of an entry of [`RETIRED`].
fn retired(entry: &str) -> Regex {
    if !entry.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Regex::new(entry).unwrap();
    }
    let (first, rest) = entry.split_at(1);
    let capitalised = first.to_ascii_uppercase() + rest;
    let word = format!(r"(?:\b|_)(?i:{entry}s?)(?:\b|_)|{capitalised}s?(?:\b|[A-Z_])");
    Regex::new(&word).unwrap()
}

/// Replaces the allowed texts with characters that match nothing, and keeps the lines.
fn without_allowed(text: &str, allowed: &[Regex]) -> String {
    allowed.iter().fold(text.to_owned(), |text, pattern| {
        let blank = |found: &Captures<'_>| -> String {
            let keep = |c: char| if c == '\n' { '\n' } else { '~' };
            found[0].chars().map(keep).collect()
        };
        pattern.replace_all(&text, blank).into_owned()
    })
}

#[test]
fn retired_words_are_not_used() {
    let words: Vec<(Regex, &str)> = RETIRED.iter().map(|(e, r)| (retired(e), *r)).collect();
    let allowed: Vec<Regex> = ALLOWED.iter().map(|p| Regex::new(p).unwrap()).collect();
    let mut found = Vec::new();
    for file in tracked().unwrap() {
        if !has_text(&file) || LISTS_OF_WORDS.contains(&file.path.as_str()) {
            continue;
        }
        // The first line checks the name of the file.
        let text = format!(
            "{}\n{}",
            file.path,
            file.text.as_deref().unwrap_or_default()
        );
        let text = without_allowed(&text, &allowed);
        for (number, line) in text.lines().enumerate() {
            for (word, replacement) in &words {
                if let Some(word) = word.find(line) {
                    let word = word.as_str();
                    let place = format!("{}:{number}", file.path);
                    found.push(format!("{place}: {word:?}; use: {replacement}"));
                }
            }
        }
    }
    let shown = found.len().min(200);
    assert!(
        found.is_empty(),
        "{} retired words:\n{}",
        found.len(),
        found[..shown].join("\n")
    );
}

#[test]
fn retired_words_are_found_in_text_and_identifiers_and_allowed_ones_are_not() {
    let allowed: Vec<Regex> = ALLOWED.iter().map(|p| Regex::new(p).unwrap()).collect();
    let is_found = |text: &str| {
        let text = without_allowed(text, &allowed);
        RETIRED.iter().any(|(e, _)| retired(e).is_match(&text))
    };
    for text in [
        "the letters of a corp",
        "OpenLetters",
        "let letter = 1;",
        "parked",
        "open_cut",
        "CutWriter",
        "a cut",
        "MarkReader",
        "Marks",
        "partition.held(1)",
        "struct Claim",
        "Whoever",
        "lies below",
    ] {
        assert!(is_found(text), "{text:?} is not found");
    }
    for text in [
        "dead letters",
        "a dead\n/// letter",
        "DeadLetter",
        "DEAD_LETTERS",
        "dead_letter_events",
        "dead-lettered",
        "letters and digits",
        "tr a b | cut -c1-16",
        "api=0.1@busy+cut",
        "shortcut",
        "markdown",
        "Markdown",
        "fn withheld(&self)",
        "#[serde(rename = \"witness\")]",
    ] {
        assert!(!is_found(text), "{text:?} is found");
    }
}

/// Returns the comment of a line.
fn comment<'a>(file: &TrackedFile, line: &'a str) -> Option<&'a str> {
    let start = if file.is_rust() { "//" } else { "#" };
    if file.has_extension("md") || file.has_extension("json") {
        return None;
    }
    line.find(start).map(|at| &line[at..])
}

#[test]
fn comments_name_only_files_that_exist() {
    let files: Vec<TrackedFile> = tracked().unwrap();
    // A path with a folder, or a document; other names without a folder can be files of a user.
    let path = r"`((?:[\w.-]+/)+[\w.-]+\.(?:md|rs|sql|toml|py|yml)|[\w.-]+\.md)`";
    let path = Regex::new(path).unwrap();
    let exists = |name: &str| {
        let end = format!("/{name}");
        files
            .iter()
            .any(|file| file.path == name || file.path.ends_with(&end))
    };
    check_files(|file| {
        if !has_text(file) {
            return None;
        }
        let comments = file.lines().filter_map(|line| comment(file, line));
        let missing: Vec<&str> = comments
            .flat_map(|comment| path.captures_iter(comment))
            .map(|found| found.get(1).unwrap().as_str())
            .filter(|name| !exists(name))
            .collect();
        (!missing.is_empty()).then(|| format!("names missing files: {missing:?}"))
    });
}
