//! The map, enforced: what the pure part may use, and where the field's old words may stand.

#![allow(clippy::unwrap_used, reason = "tests: a failure is a panic that says where")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {under}");
    found
}

/// Lines of code that hold any of `words`, comments left out.
fn offenders(under: &str, words: &[&str], except: &[&str]) -> Vec<String> {
    let mut bad = Vec::new();
    for (path, text) in sources(under) {
        if except.iter().any(|end| path.ends_with(end)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if words.iter().any(|word| code.contains(word)) {
                bad.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    bad
}

const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::process",
    "async fn",
    ".await",
    "clock::",
    "rand::",
    "Utc::now",
    "Instant",
];

#[test]
fn model_is_pure() {
    let words: Vec<&str> = IMPURE
        .iter()
        .copied()
        .chain(["crate::decide", "crate::execute", "crate::mysql", "crate::manager"])
        .collect();
    let bad = offenders("src/model", &words, &[]);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn deciding_is_pure_and_knows_only_the_model() {
    let words: Vec<&str> = IMPURE
        .iter()
        .copied()
        .chain(["crate::execute", "crate::mysql", "crate::manager", "crate::agent", "crate::config"])
        .collect();
    let bad = offenders("src/decide", &words, &[]);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn executing_knows_nothing_of_servers() {
    let bad = offenders(
        "src/execute",
        &["crate::mysql", "crate::agent", "crate::manager", "crate::store", "crate::config"],
        &[],
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_planted_impurity_would_be_found() {
    assert!(!offenders("src/execute", &[".await"], &[]).is_empty());
}
