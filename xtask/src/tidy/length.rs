//! The length of functions and files, and the width of lines, as a ratchet.
//!
//! A function should fit a screen, a file one concept. Some do not. They are recorded with their
//! length: nothing new may be as long, and what is recorded may not grow. `cargo xtask tidy --bless`
//! records what is there now; the difference is for the reviewer to see.

use std::collections::BTreeMap;

use super::{Finding, Source};

/// Lines of a function, with its signature and its last brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 800;

/// Columns of a line. The formatter keeps code to 100; this is for what it leaves alone.
const LINE_COLUMNS_MAX: usize = 120;
/// What stands for a file's wide lines in the place of a function's name.
const WIDE_LINES: &str = "(wide lines)";

/// A thing that is measured: `path` for a file, `path::name` for a function (the longest of its name).
type Lengths = BTreeMap<String, usize>;

/// Everything that is longer than it should be.
pub fn measure(sources: &[Source]) -> Lengths {
    let mut lengths = Lengths::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".rs")) {
        let is_test = source.path.contains("/tests/");
        let tests = source
            .text
            .find("\n#[cfg(test)]\nmod ")
            .unwrap_or(source.text.len());
        let lines = source.text[..tests].lines().count();
        if !is_test && lines > FILE_LINES_MAX {
            lengths.insert(source.path.clone(), lines);
        }
        let wide = source.text.lines().filter(|line| is_wide(line)).count();
        if wide > 0 {
            lengths.insert(format!("{}::{WIDE_LINES}", source.path), wide);
        }
        for (name, lines) in functions(&source.text) {
            if lines > FUNCTION_LINES_MAX {
                let longest = lengths
                    .entry(format!("{}::{name}", source.path))
                    .or_default();
                *longest = lines.max(*longest);
            }
        }
    }
    lengths
}

/// A string that is one piece, such as an expected output, is not broken for its width.
fn is_wide(line: &str) -> bool {
    line.chars().count() > LINE_COLUMNS_MAX && !line.contains('"')
}

/// The ratchet that `lengths` would pass.
pub fn ratchet(lengths: &Lengths) -> String {
    let mut text = String::from(
        "# Functions and files that are longer than they should be; none may grow.\n\
         # Written by `cargo xtask tidy --bless`.\n",
    );
    for (name, lines) in lengths {
        text.push_str(&format!("{lines:>5} {name}\n"));
    }
    text
}

/// What is longer than it may be, given what the ratchet records.
pub fn check(lengths: &Lengths, ratchet: &str) -> Result<Vec<Finding>, String> {
    let mut recorded = Lengths::new();
    for line in ratchet
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let wrong = || format!("the ratchet has a line that is none: {line}");
        let (lines, name) = line.trim().split_once(' ').ok_or_else(wrong)?;
        recorded.insert(name.to_owned(), lines.parse().map_err(|_| wrong())?);
    }
    let too_long = lengths
        .iter()
        .filter(|&(name, lines)| recorded.get(name).is_none_or(|recorded| lines > recorded));
    Ok(too_long
        .map(|(name, lines)| {
            let (path, what, enough) = match name.split_once("::") {
                Some((path, WIDE_LINES)) => {
                    let what = format!("{lines} lines have more than {LINE_COLUMNS_MAX} columns");
                    (path, what, "none should".to_owned())
                }
                Some((path, function)) => {
                    let what = format!("function {function} has {lines} lines");
                    (path, what, format!("{FUNCTION_LINES_MAX} are enough"))
                }
                None => {
                    let what = format!("the file has {lines} lines");
                    (name.as_str(), what, format!("{FILE_LINES_MAX} are enough"))
                }
            };
            let allowed = match recorded.get(name) {
                Some(recorded) => format!("it had {recorded}"),
                None => enough,
            };
            let what = format!("{what}; {allowed}");
            Finding {
                path: path.to_owned(),
                line: 0,
                what,
            }
        })
        .collect())
}

/// The functions of a formatted source, with their lines. A function ends at the first line that is
/// its closing brace at its own indentation, which the formatter guarantees.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", &line[..indent]);
        let end = lines[start..].iter().position(|line| {
            // A declaration without a body ends with a semicolon.
            **line == closing || (line.ends_with(';') && is_at(line, indent))
        });
        if let Some(end) = end {
            functions.push((name.to_owned(), end + 1));
        }
    }
    functions
}

fn is_at(line: &str, indent: usize) -> bool {
    line.len() - line.trim_start().len() == indent
}

/// The name, if the line begins a function.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some(public) = rest.strip_prefix("pub") {
        rest = match public.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1,
            None => public,
        };
        rest = rest.trim_start();
    }
    for qualifier in ["const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(qualifier).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
    Some(&name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, lines: usize) -> Source {
        let body = "        x();\n".repeat(lines - 2);
        let text = format!("impl A {{\n    pub(crate) async fn long() {{\n{body}    }}\n}}\n");
        Source {
            path: path.to_owned(),
            text,
        }
    }

    fn found(sources: &[Source], ratchet: &str) -> Vec<String> {
        let findings = check(&measure(sources), ratchet).expect("the ratchet is well formed");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_new_has_a_limit_and_what_is_recorded_may_not_grow() {
        assert!(found(&[source("a.rs", 70)], "").is_empty());
        assert_eq!(
            found(&[source("a.rs", 71)], ""),
            ["a.rs: function long has 71 lines; 70 are enough"]
        );
        let recorded = ratchet(&measure(&[source("a.rs", 90)]));
        assert!(found(&[source("a.rs", 90)], &recorded).is_empty());
        assert!(found(&[source("a.rs", 80)], &recorded).is_empty());
        assert_eq!(
            found(&[source("a.rs", 91)], &recorded),
            ["a.rs: function long has 91 lines; it had 90"]
        );
        let wide = Source {
            path: "c.rs".to_owned(),
            text: format!("// {}\n", "x".repeat(118)),
        };
        assert_eq!(
            found(&[wide], ""),
            ["c.rs: 1 lines have more than 120 columns; none should"]
        );
        let file = source("b.rs", 900);
        assert_eq!(
            found(&[file], ""),
            [
                "b.rs: the file has 902 lines; 800 are enough",
                "b.rs: function long has 900 lines; 70 are enough",
            ]
        );
    }
}
