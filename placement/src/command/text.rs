//! Answers and plans for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::answer::Answer;
use crate::ordered::Plan;

/// The answer for people.
pub(super) fn text(answer: &Answer) -> String {
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

/// The plan for people.
pub(super) fn plan_text(plan: &Plan) -> String {
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
