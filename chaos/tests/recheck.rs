//! A history judged a second time, by a program that shares nothing with our checkers. Skipped where
//! there is no `python3`.

use std::path::{Path, PathBuf};
use std::process::Command;

use synod_chaos::history::{How, OBSERVER, Operation, Step, write_json_lines};

/// What the script says of a history; None if there is no interpreter.
fn judged(workload: &str, name: &str, history: &[Operation]) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/recheck.py");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
    let mut file = std::fs::File::create(&path).expect("the folder for tests takes a file");
    write_json_lines(history, &mut file).expect("the file takes a history");
    let output = Command::new("python3")
        .arg(script)
        .arg(workload)
        .arg(&path)
        .output();
    let Ok(output) = output else {
        println!("no python3 here: not judged again");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(
        output.status.success(),
        said == "clean",
        "{said} {output:?}"
    );
    Some(said)
}

fn operation(client: u32, start_us: u64, steps: Vec<Step>) -> Operation {
    Operation::done(client, How::Single, start_us..start_us + 1, steps)
}

fn read(key: &str, value: &str) -> Step {
    Step::Read {
        key: key.to_owned(),
        value: Some(Some(value.to_owned())),
    }
}

#[test]
fn the_script_tells_a_clean_register_from_a_stale_one() {
    let mut history = vec![
        operation(0, 0, vec![Step::write("k", "a")]),
        operation(0, 2, vec![Step::write("k", "b")]),
        operation(1, 4, vec![read("k", "b")]),
    ];
    if let Some(said) = judged("register", "register-clean", &history) {
        assert_eq!(said, "clean");
    }
    history.push(operation(1, 6, vec![read("k", "a")]));
    if let Some(said) = judged("register", "register-stale", &history) {
        assert!(said.starts_with("k: no order explains"), "{said}");
    }
}

#[test]
fn the_script_counts_the_money() {
    let open = vec![Step::write("a", "10"), Step::write("b", "10")];
    let mut history = vec![
        operation(OBSERVER, 0, open),
        operation(1, 2, vec![read("a", "4"), read("b", "16")]),
    ];
    if let Some(said) = judged("bank", "bank-clean", &history) {
        assert_eq!(said, "clean");
    }
    history.push(operation(1, 4, vec![read("a", "4"), read("b", "15")]));
    if let Some(said) = judged("bank", "bank-lost", &history) {
        assert!(said.starts_with("the accounts hold 19"), "{said}");
    }
}

/// Real runs of the simulator, judged by both.
#[cfg(madsim)]
#[test]
fn the_script_agrees_about_runs_of_the_simulator() {
    use synod_chaos::{fault::Fault, plan::Menu, run::run, workload::Workload};
    for (workload, name) in [(Workload::Register, "register"), (Workload::Bank, "bank")] {
        let menu = Menu {
            workloads: vec![workload],
            faults: vec![Fault::KillOne, Fault::Isolate, Fault::Loss],
            nodes: Some(3),
            ..Menu::default()
        };
        for seed in 0..2 {
            let report = run(&menu.plan(seed));
            assert_eq!(report.failure, None);
            let file = format!("{name}-{seed}");
            if let Some(said) = judged(name, &file, &report.history) {
                assert_eq!(said, "clean", "{name} seed {seed}");
            }
        }
    }
}
