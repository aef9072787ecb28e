//! Tables of rules: each rule has a test that shows it, and the test exists.
//!
//! A crate's `RULES.md` says what must hold and what shows it. A row names tests between back quotes, or
//! says in italics why there is none; a name of a test that is gone, or never was, would be a promise that
//! nobody keeps.

use std::collections::BTreeSet;

use super::{Finding, Source};

/// The tables among the sources.
pub fn tables(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources
        .iter()
        .filter(|source| source.path.ends_with("/RULES.md"))
}

/// The names of all functions without parameters, among which the tests are.
pub fn functions(sources: &[Source]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".rs")) {
        for (at, _) in source.text.match_indices("fn ") {
            let rest = &source.text[at + 3..];
            if let Some((name, _)) = rest.split_once("()")
                && is_name(name)
            {
                names.insert(name);
            }
        }
    }
    names
}

/// The rows of a table that show nothing.
pub fn check(table: &Source, functions: &BTreeSet<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_rows = false;
    for (index, line) in table.text.lines().enumerate() {
        let mut find = |what: String| {
            findings.push(Finding {
                path: table.path.clone(),
                line: index + 1,
                what,
            });
        };
        // The header is above the line of dashes.
        if !line.starts_with('|') || line.starts_with("|-") {
            in_rows = line.starts_with("|-");
            continue;
        }
        if !in_rows {
            continue;
        }
        // Every other piece between back quotes is code; a test's name is a sentence.
        let names: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let names = names
            .into_iter()
            .filter(|name| is_name(name) && name.matches('_').count() > 1);
        let mut shown = 0;
        for name in names {
            shown += 1;
            if !functions.contains(name) {
                find(format!("no test is called {name}"));
            }
        }
        if shown == 0 && !line.contains('*') {
            find("neither a test nor the reason why there is none".to_owned());
        }
    }
    findings
}

fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_without_a_test_is_found() {
        let source = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let table = "\
| rule | what | where | shown by |
|---|---|---|---|
| 1 | kept | `a/src/b.rs` | `what_is_there_is_found` |
| 2 | lost | `a` | `what_is_gone_is_found`, `what_is_there_is_found` |
| 3 | bare | `a::b` | |
| 4 | *not done*: later | | |
";
        let sources = [
            source("a/RULES.md", table),
            source("a/src/b.rs", "#[test]\nfn what_is_there_is_found() {}\n"),
        ];
        let functions = functions(&sources);
        let found: Vec<String> = tables(&sources)
            .flat_map(|table| check(table, &functions))
            .map(|finding| finding.to_string())
            .collect();
        assert_eq!(
            found,
            [
                "a/RULES.md:4: no test is called what_is_gone_is_found",
                "a/RULES.md:5: neither a test nor the reason why there is none",
            ]
        );
    }
}
