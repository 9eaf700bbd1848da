//! Checks that the files and constants named in `pipeline/ARCHITECTURE.md` exist, and that the
//! capacities in it are those of the program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = "pipeline/ARCHITECTURE.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts between backticks, outside code blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let prose = text
        .split("```")
        .enumerate()
        .filter(|(part, _)| part % 2 == 0);
    prose.flat_map(|(_, prose)| prose.split('`').skip(1).step_by(2))
}

/// The folders that names in the document may be relative to.
const FOLDERS: &[&str] = &[
    "",
    "pipeline",
    "pipeline/engine/src",
    "pipeline/engine/src/direct",
    "pipeline/app/src",
    "pipeline/app",
    "pipeline/engine",
    "pipeline/rules/src",
    "connectors",
    "schemas",
    "schemas/src",
    "tests/simulator/src",
];

fn find(name: &str) -> Option<PathBuf> {
    let places = FOLDERS.iter().map(|folder| root().join(folder).join(name));
    places.into_iter().find(|place| place.exists())
}

#[test]
fn files_named_in_the_architecture_exist() {
    let text = read(ARCHITECTURE);
    let is_file = |name: &&str| {
        let source = [".rs", ".sql", ".toml"]
            .iter()
            .any(|end| name.ends_with(end));
        source
            && !name.contains(['*', ' ', '<'])
            && !name.contains("000N")
            && !name.contains("NAME")
    };
    let named: Vec<&str> = quoted(&text).filter(is_file).collect();
    assert!(named.len() > 30, "only {} files were found", named.len());
    for name in named {
        assert!(
            find(name).is_some(),
            "{ARCHITECTURE}: {name} does not exist"
        );
    }
}

/// The values of the constants of a source file, by name.
fn constants(source: &str) -> BTreeMap<&str, &str> {
    let lines = source.lines().filter_map(|line| {
        let (_, rest) = line.split_once("const ")?;
        let (name, rest) = rest.split_once(':')?;
        let (_, value) = rest.split_once(" = ")?;
        Some((name, value.trim_end_matches(';')))
    });
    lines.collect()
}

/// The numbers of a text, thousands separated by commas.
fn numbers(text: &str) -> Vec<u64> {
    let digits = |word: &str| word.replace(',', "").parse().ok();
    text.split_whitespace()
        .filter_map(|word| digits(word.trim_end_matches([';', '.', ','])))
        .collect()
}

#[test]
fn capacities_in_the_architecture_are_those_of_the_program() {
    let text = read(ARCHITECTURE);
    let mut compared = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, stated, source_of] = cells[..] else {
            continue;
        };
        let names: Vec<&str> = quoted(source_of).collect();
        let is_rust = |file: &&str| Path::new(file).extension().is_some_and(|end| end == "rs");
        let Some((file, names)) = names.split_last().filter(|(file, _)| is_rust(file)) else {
            continue;
        };
        let source = std::fs::read_to_string(find(file).expect(file)).unwrap();
        let constants = constants(&source);
        for (position, name) in names.iter().enumerate() {
            let name = name.rsplit("::").next().unwrap();
            let Some(value) = constants.get(name) else {
                // In the table of tests and changes a cell may name other things than constants.
                assert!(
                    !name.chars().all(|c| c.is_ascii_uppercase() || c == '_'),
                    "{file} has no constant {name}"
                );
                continue;
            };
            if let Ok(value) = value.replace('_', "").parse::<u64>() {
                let stated = numbers(stated).get(position).copied();
                assert_eq!(stated, Some(value), "{name} of {file}: {row}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 7, "only {compared} capacities were compared");
}
