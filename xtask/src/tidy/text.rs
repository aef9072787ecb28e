//! What stands in a text and should not: markers, stubs, someone's paths.

use super::{Finding, Source};

/// Joined here, so that this file does not find itself.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("HA", "CK:"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
];
const MACHINE_PATHS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/Use", "rs/"),
];

/// The findings in one file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let mut find = |what: String| {
            findings.push(Finding {
                path: source.path.clone(),
                line: index + 1,
                what,
            });
        };
        for marker in MARKERS.iter().filter(|marker| has_word(line, marker)) {
            find(format!("{marker} is left over"));
        }
        for path in MACHINE_PATHS.iter().filter(|path| line.contains(**path)) {
            find(format!("a path of one machine: {path}"));
        }
        if line.ends_with(' ') && source.path.ends_with(".rs") && !line.contains('"') {
            find("white space at the end of the line".to_owned());
        }
    }
    findings
}

/// Whether `marker` stands in `line` and does not continue a word.
fn has_word(line: &str, marker: &str) -> bool {
    line.match_indices(marker).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let source = Source {
            path: "a.rs".to_owned(),
            text: text.to_owned(),
        };
        check(&source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn markers_and_paths_are_found() {
        let marker = concat!("// TO", "DO: later");
        let path = concat!("let path = \"/ho", "me/me/file\";");
        assert_eq!(
            found(&format!(
                "fine\n{marker}\n{path}\nMASTO{}N\n",
                concat!("DO", "N")
            )),
            [
                concat!("a.rs:2: TO", "DO is left over"),
                concat!("a.rs:3: a path of one machine: /ho", "me/"),
            ]
        );
    }
}
