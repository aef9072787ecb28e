//! The command `placement`: arguments in, exit code and output out.
//!
//! Files and the clock are the caller's ([`Edge`]), so the command runs the same in the binary, in tests and in
//! a node.

mod arguments;
mod help;
mod text;

use std::fmt::Write as _;

use arguments::{Arguments, Force, Format, Verb, arguments};
pub use help::USAGE;
use text::{plan_text, text};

use crate::admission::Verdict;
use crate::answer::Answer;
use crate::error::{Error, ErrorKind, Result, Source};
use crate::explain::Explanation;
use crate::problem::Problem;
use crate::solve::Config;

/// What the command needs of the world.
pub struct Edge<'a> {
    /// Reads a file.
    pub read: &'a mut dyn FnMut(&str) -> std::io::Result<String>,
    /// Microseconds since any fixed moment.
    pub now_us: &'a dyn Fn() -> u64,
}

/// What the command leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// 0 decided, 2 bad input, 3 infeasible or no safe order, 4 unknown.
    pub exit_code: u8,
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
}

fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::bare(ErrorKind::Usage, message))
}

/// Runs the command.
pub fn run(args: &[String], edge: &mut Edge<'_>) -> Output {
    if let Some(verb) = help::asked(args) {
        return Output {
            exit_code: 0,
            stdout: help::help(verb),
            stderr: String::new(),
        };
    }
    match try_run(args, edge) {
        Ok(output) => output,
        Err(e) => {
            let hint = if e.kind == ErrorKind::Usage {
                USAGE
            } else {
                ""
            };
            let json = args.iter().any(|a| a == "--json");
            let stdout = match json {
                true => format!("{}\n", error_json(&e)),
                false => String::new(),
            };
            Output {
                exit_code: 2,
                stdout,
                stderr: format!("{e}\n{hint}"),
            }
        }
    }
}

fn error_json(e: &Error) -> serde_json::Value {
    let mut error = serde_json::Map::new();
    error.insert("kind".to_owned(), e.kind.to_string().into());
    error.insert("message".to_owned(), e.message.clone().into());
    if let Some(place) = e.place {
        error.insert("source".to_owned(), place.source.to_string().into());
        error.insert("line".to_owned(), place.line.into());
        error.insert("column".to_owned(), place.column.into());
    }
    serde_json::json!({ "error": error })
}

fn read(edge: &mut Edge<'_>, path: &str) -> Result<String> {
    (edge.read)(path).or_else(|e| usage(format!("{path}: {e}")))
}

fn try_run(args: &[String], edge: &mut Edge<'_>) -> Result<Output> {
    let arguments = arguments(args)?;
    let started = (edge.now_us)();
    let state = read(edge, &arguments.state)?;
    let mut policies = Vec::new();
    for path in &arguments.policies {
        policies.push(read(edge, path)?);
    }
    let mut scripts: Vec<(&str, Source)> = vec![(&state, Source::State)];
    scripts.extend(
        policies
            .iter()
            .map(|text| (text.as_str(), Source::Policies)),
    );
    let now_us = edge.now_us;
    let deadline = arguments
        .time_limit_us
        .map(|limit| started.saturating_add(limit));
    let mut abort = || deadline.is_some_and(|d| now_us() >= d);
    let config = &arguments.config;
    match arguments.verb {
        Verb::Solve => {
            let mut warnings = String::new();
            let answer = solved(&scripts, config, started, now_us, &mut abort, &mut warnings)?;
            let stdout = match arguments.json {
                Format::Json => json(&answer)?,
                Format::Text => text(&answer),
            };
            Ok(Output {
                exit_code: answer.status.exit_code(),
                stdout,
                stderr: warnings,
            })
        }
        Verb::Plan => {
            let mut problem = Problem::load_scripts(&scripts)?;
            let plan = problem.plan(config, &crate::plan::Config::default(), &mut abort)?;
            let stdout = match arguments.json {
                Format::Json => json(&plan)?,
                Format::Text => plan_text(&plan),
            };
            Ok(Output {
                exit_code: plan.status.exit_code(),
                stdout,
                stderr: String::new(),
            })
        }
        Verb::Explain => {
            if arguments.table.is_none() {
                return usage("explain needs --table and --key");
            }
            let explanation = explained(&scripts, &arguments)?;
            Ok(Output {
                exit_code: 0,
                stdout: pretty(&explanation)?,
                stderr: String::new(),
            })
        }
        Verb::WhatIf => {
            let new = match &arguments.new_policies {
                Some(path) => read(edge, path)?,
                None => String::new(),
            };
            what_if(&scripts, &new, &arguments, now_us, &mut abort)
        }
        Verb::Check => {
            let accepted = policies.join("\n;\n");
            let (accepted, candidate) = match &arguments.candidate {
                Some(path) => (accepted, read(edge, path)?),
                // Without a candidate all policies are new.
                None => (String::new(), accepted),
            };
            check(&state, &accepted, &candidate, &arguments, &mut abort)
        }
    }
}

/// The answer, or the explanation of one row, without the changes and with them.
fn what_if(
    scripts: &[(&str, Source)],
    new_policies: &str,
    arguments: &Arguments,
    now_us: &dyn Fn() -> u64,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Output> {
    let changes = arguments.changes.iter();
    let changes = changes.map(|text| (text.as_str(), Source::Change));
    let mut changed = scripts.to_vec();
    changed.splice(1..1, changes);
    changed.push((new_policies, Source::NewPolicies));
    if arguments.table.is_some() {
        let before = explained(scripts, arguments)?;
        let after = explained(&changed, arguments)?;
        return Ok(Output {
            exit_code: 0,
            stdout: pretty(&serde_json::json!({ "before": before, "after": after }))?,
            stderr: String::new(),
        });
    }
    let mut warnings = String::new();
    let mut solved = |scripts: &[(&str, Source)]| {
        let started = now_us();
        solved(
            scripts,
            &arguments.config,
            started,
            now_us,
            abort,
            &mut warnings,
        )
    };
    let (before, after) = (solved(scripts)?, solved(&changed)?);
    let stdout = match arguments.json {
        Format::Json => json(&serde_json::json!({ "before": before, "after": after }))?,
        Format::Text => format!("before: {}\nafter: {}", text(&before), text(&after)),
    };
    Ok(Output {
        exit_code: after.status.exit_code(),
        stdout,
        stderr: warnings,
    })
}

/// Admission of a candidate.
fn check(
    state: &str,
    accepted: &str,
    candidate: &str,
    arguments: &Arguments,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Output> {
    let admission = crate::admission::admit(state, accepted, candidate, &arguments.config, abort)?;
    let exit_code = match (admission.verdict, arguments.force) {
        (Verdict::Accepted, _) | (Verdict::Unproven, Force::Yes) => 0,
        (Verdict::Refused, _) => 3,
        (Verdict::Unproven, Force::No) => 4,
    };
    let stdout = match arguments.json {
        Format::Json => json(&admission)?,
        Format::Text => pretty(&admission)?,
    };
    Ok(Output {
        exit_code,
        stdout,
        stderr: String::new(),
    })
}

/// The explanation of the row that `--table` and `--key` name.
fn explained(scripts: &[(&str, Source)], arguments: &Arguments) -> Result<Explanation> {
    let (Some(table), Some(key)) = (&arguments.table, &arguments.key) else {
        return usage("--table and --key go together");
    };
    let Ok(serde_json::Value::Object(key)) = serde_json::from_str(key) else {
        return usage(format!("--key needs a JSON object, not {key:?}"));
    };
    Problem::load_scripts(scripts)?.explain(table, &key, arguments.column.as_deref())
}

fn solved(
    scripts: &[(&str, Source)],
    config: &Config,
    started: u64,
    now_us: &dyn Fn() -> u64,
    abort: &mut dyn FnMut() -> bool,
    warnings: &mut String,
) -> Result<Answer> {
    let mut problem = Problem::load_scripts(scripts)?;
    for warning in problem.warnings() {
        let _ = writeln!(warnings, "{}: warning: {}", warning.place, warning.message);
    }
    let compiled = now_us();
    let mut answer = problem.solve(config, abort)?;
    answer.stats.compile_ms = compiled.saturating_sub(started) as f64 / 1000.0;
    answer.stats.solve_ms = now_us().saturating_sub(compiled) as f64 / 1000.0;
    Ok(answer)
}

fn pretty(value: &impl serde::Serialize) -> Result<String> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Ok(text + "\n"),
        Err(e) => usage(e.to_string()),
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    match serde_json::to_string(value) {
        Ok(text) => Ok(text + "\n"),
        Err(e) => usage(e.to_string()),
    }
}
