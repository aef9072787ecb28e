//! Admission: a policy is checked before it is accepted.
//!
//! Against the state as it is, and against the loss of each single row of each domain (a node) and of each zone
//! (the rows of a domain that share a value in its column `zone`). A policy is refused only for what it makes
//! infeasible that was feasible without it: three nodes that replicate three times survive no loss with or
//! without it, and must still accept policies.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::answer::{PolicyRow, Status};
use crate::compile::{Compiler, Goals};
use crate::error::{Result, Source};
use crate::problem::{Problem, model_error};
use crate::solve;
use crate::tables::quoted;

/// The column that groups the rows of a domain which fail together.
const ZONE: &str = "zone";

/// What admission says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing that was feasible becomes infeasible.
    Accepted,
    /// Some loss, or the present state, cannot be met any more.
    Refused,
    /// Not decided within the budget: accept it with force only.
    Unproven,
}

/// A loss that the candidate was checked against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `now`, `loss of nodes n1`, `loss of zone a`, ….
    pub scenario: String,
    /// Without the candidate.
    pub before: Status,
    /// With it.
    pub after: Status,
    /// Rows that cannot hold together.
    pub core: Vec<PolicyRow>,
    /// The fewest rows to give up so that the rest can hold.
    pub relaxation: Vec<PolicyRow>,
    /// Whether it is proved that fewer will not do; else they are the fewest that were found.
    pub relaxation_minimal: bool,
}

/// The answer of admission.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admission {
    /// Accepted, refused or unproven.
    pub verdict: Verdict,
    /// How many scenarios were checked; all of them, unless time was up.
    pub scenarios: usize,
    /// The scenarios that speak against the candidate.
    pub findings: Vec<Finding>,
}

/// Checks whether `candidate` may join `policies` over `state`.
pub fn admit(
    state: &str,
    policies: &str,
    candidate: &str,
    config: &solve::Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Admission> {
    let before = scripts(state, &[policies]);
    let mut after = before.clone();
    after.push((candidate.to_owned(), Source::NewPolicies));
    admit_scripts(before, after, config, abort)
}

/// Checks whether the policies `after` may take the place of those `before` over `state`. Each text is a script of its
/// own: the places of errors count in it.
pub fn admit_change(
    state: &str,
    before: &[&str],
    after: &[&str],
    config: &solve::Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Admission> {
    admit_scripts(scripts(state, before), scripts(state, after), config, abort)
}

type Scripts = Vec<(String, Source)>;

fn scripts(state: &str, policies: &[&str]) -> Scripts {
    let policies = policies.iter();
    let policies = policies.map(|text| ((*text).to_owned(), Source::Policies));
    std::iter::once((state.to_owned(), Source::State))
        .chain(policies)
        .collect()
}

fn admit_scripts(
    before: Scripts,
    with: Scripts,
    config: &solve::Config,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Admission> {
    // Errors of the candidate are errors of the input, whatever the scenario.
    let scenarios = scenarios(&Problem::load_scripts(&borrowed(&with))?);
    let mut findings = Vec::new();
    let mut verdict = Verdict::Accepted;
    let mut checked = 0;
    for (scenario, loss) in scenarios {
        // What could not be checked in time is not proved.
        if abort() {
            if verdict == Verdict::Accepted {
                verdict = Verdict::Unproven;
            }
            break;
        }
        checked += 1;
        let lost = |scripts: &[(String, Source)]| {
            let mut scripts = scripts.to_vec();
            scripts.insert(1, (loss.clone(), Source::State));
            scripts
        };
        let after = judge(&lost(&with), config, Reasons::Wanted, abort)?;
        if matches!(after.status, Status::Optimal | Status::Feasible) {
            continue;
        }
        let before = judge(&lost(&before), config, Reasons::Unwanted, abort)?;
        // What was infeasible before is not the candidate's doing.
        if before.status == Status::Infeasible {
            continue;
        }
        let proved = after.status == Status::Infeasible && before.status != Status::Unknown;
        verdict = match (verdict, proved) {
            (Verdict::Refused, _) | (_, true) => Verdict::Refused,
            (Verdict::Accepted | Verdict::Unproven, false) => Verdict::Unproven,
        };
        findings.push(Finding {
            scenario,
            before: before.status,
            after: after.status,
            core: after.core,
            relaxation: after.relaxation,
            relaxation_minimal: after.relaxation_minimal,
        });
    }
    Ok(Admission {
        verdict,
        scenarios: checked,
        findings,
    })
}

fn borrowed(scripts: &[(String, Source)]) -> Vec<(&str, Source)> {
    let scripts = scripts.iter();
    scripts
        .map(|(text, source)| (text.as_str(), *source))
        .collect()
}

/// The state as it is, and the SQL of every single loss.
fn scenarios(problem: &Problem) -> Vec<(String, String)> {
    let compiler = &problem.compiler;
    let mut out = vec![("now".to_owned(), String::new())];
    let mut seen = BTreeSet::new();
    let decisions = compiler.mirrors.iter().flat_map(|m| &m.decisions);
    for decision in decisions {
        let entry = &compiler.mirrors[decision.mirror];
        let schema = &entry.mirror.schema;
        // Domains that are lists of values in a CHECK are no rows that can be lost, and what stands on the only row of
        // a domain survives no loss, whatever the policies say.
        let lone = entry.mirror.occupied().nth(1).is_none();
        if schema.name.is_empty() || lone || !seen.insert(decision.mirror) {
            continue;
        }
        let zone = schema.position(ZONE);
        let mut zones = BTreeSet::new();
        for slot in entry.mirror.occupied() {
            let Some(row) = entry.mirror.row(slot) else {
                continue;
            };
            zones.extend(zone.map(|z| compiler.symbols.sql(row[z])));
            let mut conditions = Vec::new();
            let mut shown = Vec::new();
            let all: Vec<usize> = (0..schema.columns.len()).collect();
            let key = if schema.primary_key.is_empty() {
                &all
            } else {
                &schema.primary_key
            };
            for &column in key {
                let value = compiler.symbols.sql(row[column]);
                conditions.push(format!(
                    "{} IS {value}",
                    quoted(&schema.columns[column].name)
                ));
                shown.push(value);
            }
            let table = quoted(&schema.name);
            out.push((
                format!("loss of {} {}", schema.name, shown.join(", ")),
                format!("DELETE FROM {table} WHERE {}", conditions.join(" AND ")),
            ));
        }
        if zones.len() > 1 {
            for zone in zones {
                let table = quoted(&schema.name);
                out.push((
                    format!("loss of zone {zone}"),
                    format!("DELETE FROM {table} WHERE {ZONE} IS {zone}"),
                ));
            }
        }
    }
    out
}

/// Whether it matters why something is infeasible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reasons {
    Wanted,
    Unwanted,
}

/// What a scenario comes to.
struct Judged {
    status: Status,
    core: Vec<PolicyRow>,
    relaxation: Vec<PolicyRow>,
    relaxation_minimal: bool,
}

/// Feasibility alone: objectives are left out.
fn judge(
    scripts: &[(String, Source)],
    config: &solve::Config,
    reasons: Reasons,
    abort: &mut dyn FnMut() -> bool,
) -> Result<Judged> {
    let mut problem = Problem {
        compiler: Compiler::load(&borrowed(scripts), Goals::Hard)?,
    };
    let model = &mut problem.compiler.model;
    let outcome =
        solve::solve(model, solve::Scope::All, config, abort).map_err(|e| model_error(&e))?;
    let least = match (outcome.status, reasons) {
        (solve::Status::Infeasible, Reasons::Wanted) => {
            solve::relax(model, config, abort).map_err(|e| model_error(&e))?
        }
        _ => None,
    };
    let relaxation_minimal = least.as_ref().is_some_and(|least| least.minimal);
    let rows = least.map_or_else(|| outcome.broken.clone(), |least| least.rows);
    let relaxation = rows.iter().map(|&row| problem.policy_row(row)).collect();
    let answer = problem.answer(&outcome);
    Ok(Judged {
        status: answer.status,
        core: answer.core,
        relaxation,
        relaxation_minimal,
    })
}
