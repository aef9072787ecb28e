//! The command `placement`: arguments in, exit code and output out.
//!
//! Files and the clock are the caller's ([`Edge`]), so the command runs the same in the binary, in tests and in
//! a node.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::admission::Verdict;
use crate::answer::Answer;
use crate::error::{Error, ErrorKind, Result, Source};
use crate::explain::Explanation;
use crate::ordered::Plan;
use crate::problem::Problem;
use crate::solve::{Config, Solver};

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

/// How the command is used.
pub const USAGE: &str = "\
usage: placement solve|plan|explain|whatif|check --state STATE.sql --policies POLICIES.sql
         [--time-limit-ms N] [--solver auto|search|exact|flow|greedy] [--seed N] [--threads N]
         [--solutions N] [--json]
       explain: --table T --key JSON [--column C]
       whatif:  [--change SQL]... [--new-policies FILE] [--table T --key JSON [--column C]]
       check:   --candidate FILE [--force]
";

/// Parsed arguments.
#[derive(Debug)]
struct Arguments {
    verb: String,
    state: String,
    policies: Vec<String>,
    time_limit_us: Option<u64>,
    config: Config,
    json: Format,
    table: Option<String>,
    key: Option<String>,
    column: Option<String>,
    changes: Vec<String>,
    new_policies: Option<String>,
    candidate: Option<String>,
    force: Force,
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Whether what is not proved may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    No,
    Yes,
}

fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::bare(ErrorKind::Usage, message))
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T> {
    text.parse()
        .or_else(|_| usage(format!("{flag} needs a number, not {text:?}")))
}

fn arguments(args: &[String]) -> Result<Arguments> {
    let Some((verb, mut rest)) = args.split_first() else {
        return usage("which verb?");
    };
    let mut parsed = Arguments {
        verb: verb.clone(),
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

/// Runs the command.
pub fn run(args: &[String], edge: &mut Edge<'_>) -> Output {
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
    match arguments.verb.as_str() {
        "solve" => {
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
        "plan" => {
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
        "explain" => {
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
        "whatif" => {
            let new = match &arguments.new_policies {
                Some(path) => read(edge, path)?,
                None => String::new(),
            };
            what_if(&scripts, &new, &arguments, now_us, &mut abort)
        }
        "check" => {
            let accepted = policies.join("\n;\n");
            let (accepted, candidate) = match &arguments.candidate {
                Some(path) => (accepted, read(edge, path)?),
                // Without a candidate all policies are new.
                None => (String::new(), accepted),
            };
            check(&state, &accepted, &candidate, &arguments, &mut abort)
        }
        other => usage(format!("unknown verb {other:?}")),
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
    let changes = changes.map(|text| (text.as_str(), Source::State));
    let mut changed = scripts.to_vec();
    changed.splice(1..1, changes);
    changed.push((new_policies, Source::Policies));
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

fn plan_text(plan: &Plan) -> String {
    let status = serde_json::to_value(plan.status).unwrap_or_default();
    let mut out = format!("{}\n", status.as_str().unwrap_or_default());
    for (number, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(out, "step {}:", number + 1);
        for s in step {
            let key: Vec<String> = s.key.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let _ = writeln!(
                out,
                "  {}[{}].{}: {} -> {}",
                s.table,
                key.join(","),
                s.column,
                s.from,
                s.to
            );
        }
    }
    for row in &plan.blocked_by {
        let key: Vec<String> = row.row.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let _ = writeln!(out, "blocked by: {}[{}]", row.policy, key.join(","));
    }
    out
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    match serde_json::to_string(value) {
        Ok(text) => Ok(text + "\n"),
        Err(e) => usage(e.to_string()),
    }
}

/// The answer for people.
fn text(answer: &Answer) -> String {
    let mut out = String::new();
    let status = serde_json::to_value(answer.status).unwrap_or_default();
    let _ = writeln!(out, "{}", status.as_str().unwrap_or_default());
    for tier in &answer.tiers {
        let bound = match tier.bound {
            Some(bound) => format!("cannot be below {bound}"),
            None => "no bound is known".to_owned(),
        };
        let _ = writeln!(out, "tier {}: {} ({bound})", tier.tier, tier.value);
    }
    for a in &answer.assignments {
        let key: Vec<String> = a.key.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let moved = if a.current == a.value { "" } else { "  *" };
        let _ = writeln!(
            out,
            "{}[{}].{}: {} -> {}{moved}",
            a.table,
            key.join(","),
            a.column,
            a.current,
            a.value
        );
    }
    conflict(&mut out, answer);
    out
}

/// Cores of more rows than this are shown by policy: a core that is the whole cluster is read by nobody.
const ROWS_SHOWN_MAX: usize = 20;

fn conflict(out: &mut String, answer: &Answer) {
    if let (Some(needed), Some(available)) = (answer.needed, answer.available) {
        let _ = writeln!(out, "needed {needed}, available {available}");
    }
    if answer.core.len() > ROWS_SHOWN_MAX {
        let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &answer.core {
            *rows.entry(&row.policy).or_default() += 1;
        }
        for (policy, rows) in rows {
            let _ = writeln!(out, "conflict: {policy}, {rows} rows");
        }
        return;
    }
    for row in &answer.core {
        let key: Vec<String> = row.row.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let _ = writeln!(out, "conflict: {}[{}]", row.policy, key.join(","));
    }
}
