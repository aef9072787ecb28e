//! `cargo xtask tidy`: what a reviewer should not have to look for.
//!
//! * [`arrows`]: which crate may depend on which.
//! * [`ambient`]: the cores take time, randomness, files and threads from outside.
//! * [`text`]: left-over markers, paths of someone's machine, wide lines.
//! * [`length`]: functions and files that want to be split. What is too long already stands in
//!   `xtask/ratchet.txt` with its length, and may only get shorter.
//! * [`rules`]: tables of rules name tests that exist.

mod ambient;
mod arrows;
mod length;
mod rules;
mod text;

use std::{fmt, fs, path::Path, process::Command};

use crate::workspace;

/// A source file of the repository.
pub struct Source {
    /// Its path from the root.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Something to mend.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: String,
    /// The line, from 1; 0: the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Runs the task.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let bless = match arguments {
        [] => false,
        [flag] if flag == "--bless" => true,
        _ => return Err("tidy knows only --bless".to_owned()),
    };
    let sources = sources()?;
    let ratchet_path = workspace::root().join("xtask/ratchet.txt");
    let measured = length::measure(&sources);
    if bless {
        return fs::write(&ratchet_path, length::ratchet(&measured))
            .map_err(|error| format!("cannot write {}: {error}", ratchet_path.display()));
    }
    let ratchet = fs::read_to_string(&ratchet_path).unwrap_or_default();
    let mut findings = arrows::check(&workspace::packages()?);
    for source in &sources {
        findings.extend(text::check(source));
        if source.path.ends_with(".rs") {
            findings.extend(ambient::check(source));
        }
    }
    let functions = rules::functions(&sources);
    for table in rules::tables(&sources) {
        findings.extend(rules::check(table, &functions));
    }
    findings.extend(length::check(&measured, &ratchet)?);
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err("tidy has found something".to_owned()),
        count => Err(format!("tidy has found {count} things")),
    }
}

/// The text files that git keeps, or would keep.
fn sources() -> Result<Vec<Source>, String> {
    let output = Command::new("git")
        .current_dir(workspace::root())
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .output()
        .map_err(|error| format!("cannot run git: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "git ls-files: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let paths = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_ours = |path: &&str| !path.is_empty() && *path != "Cargo.lock";
    let mut sources = Vec::new();
    for path in paths.split('\0').filter(is_ours) {
        // Binary files, and files that are deleted and not committed yet, have no lines.
        if let Ok(text) = fs::read_to_string(workspace::root().join(Path::new(path))) {
            sources.push(Source {
                path: path.to_owned(),
                text,
            });
        }
    }
    Ok(sources)
}

/// The lines of a source that are neither tests nor comments, with their numbers from 1.
///
/// Tests are the module `tests` at the end of a file, by the project's convention.
fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let tests = source
        .text
        .find("\n#[cfg(test)]\nmod ")
        .unwrap_or(source.text.len());
    source.text[..tests]
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}
