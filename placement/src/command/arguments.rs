//! The arguments of the command.

use super::usage;
use crate::error::Result;
use crate::solve::{Config, Solver};

/// Parsed arguments.
#[derive(Debug)]
pub(super) struct Arguments {
    pub verb: Verb,
    pub state: String,
    pub policies: Vec<String>,
    pub time_limit_us: Option<u64>,
    pub config: Config,
    pub json: Format,
    pub table: Option<String>,
    pub key: Option<String>,
    pub column: Option<String>,
    pub changes: Vec<String>,
    pub new_policies: Option<String>,
    pub candidate: Option<String>,
    pub force: Force,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Solve,
    Plan,
    Explain,
    WhatIf,
    Check,
}

impl Verb {
    fn of(text: &str) -> Result<Verb> {
        Ok(match text {
            "solve" => Verb::Solve,
            "plan" => Verb::Plan,
            "explain" => Verb::Explain,
            "whatif" => Verb::WhatIf,
            "check" => Verb::Check,
            other => return usage(format!("unknown verb {other:?}")),
        })
    }
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

/// Whether what is not proved may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    No,
    Yes,
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T> {
    text.parse()
        .or_else(|_| usage(format!("{flag} needs a number, not {text:?}")))
}

/// Reads the arguments.
pub(super) fn arguments(args: &[String]) -> Result<Arguments> {
    let Some((verb, mut rest)) = args.split_first() else {
        return usage("which verb?");
    };
    let mut parsed = Arguments {
        verb: Verb::of(verb)?,
        state: String::new(),
        policies: Vec::new(),
        time_limit_us: None,
        config: Config::default(),
        json: Format::Text,
        table: None,
        key: None,
        column: None,
        changes: Vec::new(),
        new_policies: None,
        candidate: None,
        force: Force::No,
    };
    while let Some((flag, tail)) = rest.split_first() {
        if flag == "--json" || flag == "--force" {
            match flag.as_str() {
                "--json" => parsed.json = Format::Json,
                _ => parsed.force = Force::Yes,
            }
            rest = tail;
            continue;
        }
        let Some((value, tail)) = tail.split_first() else {
            return usage(format!("{flag} needs a value"));
        };
        rest = tail;
        match flag.as_str() {
            "--state" => parsed.state.clone_from(value),
            "--policies" => parsed.policies.push(value.clone()),
            "--time-limit-ms" => {
                parsed.time_limit_us = Some(number::<u64>(flag, value)?.saturating_mul(1000));
            }
            "--solver" => {
                parsed.config.solver = match value.as_str() {
                    "auto" => Solver::Auto,
                    "search" => Solver::Search,
                    "exact" => Solver::Exact,
                    "flow" => Solver::Flow,
                    "greedy" => Solver::Greedy,
                    other => return usage(format!("no solver is called {other:?}")),
                }
            }
            "--table" => parsed.table = Some(value.clone()),
            "--key" => parsed.key = Some(value.clone()),
            "--column" => parsed.column = Some(value.clone()),
            "--change" => parsed.changes.push(value.clone()),
            "--new-policies" => parsed.new_policies = Some(value.clone()),
            "--candidate" => parsed.candidate = Some(value.clone()),
            "--seed" => parsed.config.seed = number(flag, value)?,
            "--threads" => parsed.config.threads = number::<u32>(flag, value)?.max(1),
            "--solutions" => parsed.config.solutions = number(flag, value)?,
            other => return usage(format!("unknown option {other}")),
        }
    }
    if parsed.state.is_empty() || parsed.policies.is_empty() {
        return usage("--state and --policies are needed");
    }
    Ok(parsed)
}
