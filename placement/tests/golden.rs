//! The policies that must be expressible, each with a small instance.
//!
//! For every file of `tests/golden` the compiled graph is held equal to SQLite on every assignment, the best verdict found
//! by that enumeration is compared with each solver's, and the answer with the one recorded in the file.
//! `UPDATE_GOLDEN=1` records.

mod oracle;

use std::collections::BTreeMap;
use std::path::PathBuf;

use synod_placement::solve::{Config, Solver};
use synod_placement::{Answer, Problem, Status};

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 15, "the golden files are there");
    files
}

fn parts(text: &str) -> (String, String, String) {
    let (state, rest) = text.split_once("---- policies\n").unwrap();
    let (policies, answer) = rest.split_once("---- answer\n").unwrap();
    let state = state.trim_start_matches("---- state\n");
    (state.to_owned(), policies.to_owned(), answer.to_owned())
}

fn recorded(answer: &Answer) -> String {
    let mut out = String::new();
    out.push_str(
        serde_json::to_value(answer.status)
            .unwrap()
            .as_str()
            .unwrap(),
    );
    out.push('\n');
    for tier in &answer.tiers {
        out.push_str(&format!(
            "tier {} {}\n",
            tier.tier,
            serde_json::to_string(&tier.value).unwrap()
        ));
    }
    for a in &answer.assignments {
        let key: Vec<String> = a.key.values().map(ToString::to_string).collect();
        out.push_str(&format!(
            "{} {} {} {}\n",
            a.table,
            key.join(","),
            a.column,
            a.value
        ));
    }
    for row in &answer.core {
        let row_text = serde_json::to_string(&row.row).unwrap();
        out.push_str(&format!("core {} {row_text}\n", row.policy));
    }
    out
}

#[test]
fn the_graph_agrees_with_sqlite_on_every_assignment() {
    for file in files() {
        let (state, policies, _) = parts(&std::fs::read_to_string(&file).unwrap());
        println!("{}", file.display());
        oracle::compare_all(&state, &policies);
    }
}

#[test]
fn solvers_reach_the_enumerated_best() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for file in files() {
        let (state, policies, before) = parts(&std::fs::read_to_string(&file).unwrap());
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let best = oracle::compare_all(&state, &policies);
        for solver in [Solver::Auto, Solver::Exact, Solver::Search] {
            let mut problem = Problem::load(&state, &policies).unwrap();
            let config = Config {
                solver,
                ..Config::default()
            };
            let answer = problem.solve(&config, &mut || false).unwrap();
            let tiers: BTreeMap<u32, f64> = answer
                .tiers
                .iter()
                .map(|t| (t.tier, t.value.as_f64()))
                .collect();
            match (&best, solver) {
                // Equalities that couple several decisions are the exact solver's.
                (Some(_), Solver::Search) if answer.status == Status::Unknown => {}
                (Some(best), Solver::Search) => {
                    // Search may stop short of the best, but must not claim to be there.
                    assert!(
                        tiers.values().collect::<Vec<_>>() >= best.values().collect(),
                        "{name}"
                    );
                    if answer.status == Status::Optimal {
                        assert_eq!(&tiers, best, "{name}");
                    }
                    assert!(
                        matches!(answer.status, Status::Optimal | Status::Feasible),
                        "{name}"
                    );
                }
                (Some(best), _) => {
                    assert_eq!(&tiers, best, "{name} {solver:?}");
                    assert_eq!(answer.status, Status::Optimal, "{name} {solver:?}");
                }
                (None, Solver::Search) => {
                    assert!(
                        matches!(answer.status, Status::Unknown | Status::Infeasible),
                        "{name}"
                    );
                }
                (None, _) => assert_eq!(answer.status, Status::Infeasible, "{name} {solver:?}"),
            }
            if solver == Solver::Auto {
                let now = recorded(&answer);
                if update {
                    let text =
                        format!("---- state\n{state}---- policies\n{policies}---- answer\n{now}");
                    std::fs::write(&file, text).unwrap();
                } else {
                    assert_eq!(now, before, "{name}");
                }
            }
        }
    }
}
