//! `cargo xtask test`: everything that must hold before a change lands.
//!
//! Every step runs even when an earlier one failed, so that one run tells all that is wrong. The
//! output of the tools is shown as it comes; each step says how it ended, and the last line says how
//! many tests passed and failed, alone, for people and programs to find.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{tidy, workspace};

/// What a step runs.
type Step = fn() -> Result<Counts, String>;

const STEPS: &[(&str, Step)] = &[
    ("format", format),
    ("clippy", clippy),
    ("tidy", tidy_step),
    ("unit", unit),
    ("simulated", simulated),
];

/// Tests that ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Runs the task: the steps named, or all.
pub fn run(wanted: &[String]) -> Result<(), String> {
    if let Some(unknown) = wanted
        .iter()
        .find(|name| STEPS.iter().all(|(step, _)| step != name))
    {
        let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "there is no step {unknown}; there are {}",
            names.join(", ")
        ));
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|step| step == name);
    let mut total = Counts::default();
    let mut failures = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| is_wanted(name)) {
        println!("==> {name}");
        let started = Instant::now();
        let result = step();
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(counts) => {
                total.passed += counts.passed;
                total.failed += counts.failed;
                let Counts { passed, failed } = counts;
                println!("==> {name}: {passed} passed, {failed} failed, {seconds:.1} s");
                if failed > 0 {
                    failures.push(format!("{name}: {failed} tests failed"));
                }
            }
            Err(reason) => {
                // A step that could not say how many of its tests failed is one failure.
                total.failed += 1;
                println!("==> {name}: FAILED, {seconds:.1} s");
                failures.push(format!("{name}: {reason}"));
            }
        }
    }
    println!();
    for failure in &failures {
        println!("{failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if failures.is_empty() {
        Ok(())
    } else {
        Err("not everything holds".to_owned())
    }
}

/// A check that is one test.
fn check(command: &mut Command, advice: &str) -> Result<Counts, String> {
    let status = command
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() {
        Ok(Counts {
            passed: 1,
            failed: 0,
        })
    } else {
        Err(advice.to_owned())
    }
}

fn format() -> Result<Counts, String> {
    check(
        workspace::cargo().args(["fmt", "--all", "--check"]),
        "run cargo fmt --all",
    )
}

fn clippy() -> Result<Counts, String> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    check(
        workspace::cargo().args(arguments),
        "clippy has found something",
    )
}

fn tidy_step() -> Result<Counts, String> {
    tidy::run(&[]).map(|()| Counts {
        passed: 1,
        failed: 0,
    })
}

fn unit() -> Result<Counts, String> {
    // The process tests start the program: cargo builds it for them.
    count(workspace::cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

/// The production node in the simulator: its sockets, time and tasks.
fn simulated() -> Result<Counts, String> {
    count(workspace::simulated_cargo("test").args(["--no-fail-fast", "--package", "synod-chaos"]))
}

/// Runs tests, shows their output, and adds up what each test program says at its end.
fn count(command: &mut Command) -> Result<Counts, String> {
    let failed = |error| format!("cannot run cargo test: {error}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let output = child.stdout.take().ok_or("cargo test has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(failed)?).into_owned();
        println!("{line}");
        if let Some(result) = parse_result(&line) {
            counts.passed += result.passed;
            counts.failed += result.failed;
        }
    }
    let status = child.wait().map_err(failed)?;
    match (status.success(), counts.failed) {
        (true, 0) | (false, 1..) => Ok(counts),
        // It did not compile, or a test program ended before it could say anything.
        (false, 0) => Err("cargo test failed without naming a test".to_owned()),
        (true, 1..) => Err("cargo test succeeded although tests failed".to_owned()),
    }
}

/// Reads `test result: ok. 12 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, figures) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let figure = |name: &str| {
        figures
            .split("; ")
            .find_map(|figure| figure.strip_suffix(name)?.trim().parse().ok())
    };
    Some(Counts {
        passed: figure("passed")?,
        failed: figure("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_line_of_a_test_program() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(
            parse_result(line),
            Some(Counts {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(parse_result("test result_line ... ok"), None);
    }
}
