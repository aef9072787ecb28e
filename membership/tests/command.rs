//! The command itself: exit codes, complaints, JSON.

#![cfg(feature = "sim")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn scenario(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("the target directory is writable");
    path
}

fn rapid_sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rapid-sim"));
    command
        .args(arguments)
        .output()
        .expect("the command starts")
}

#[test]
fn a_senseless_scenario_exits_with_2_and_names_the_key() {
    let cases = [
        ("nodes = 0", "nodes: 0 is not in 1..=100000"),
        ("nodes = 3\nspeed = 9", "speed: unknown key"),
        (
            "nodes = 3\n[[events]]\nkind = \"loss\"\nrate = 2",
            "events[0].rate: 2 is not in 0..=1",
        ),
        ("nodes = = 3", "scenario: "),
    ];
    for (index, (text, complaint)) in cases.into_iter().enumerate() {
        let path = scenario(&format!("bad-{index}.toml"), text);
        let output = rapid_sim(&[&path.to_string_lossy()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(complaint), "{said}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(rapid_sim(&["no-such-file.toml"]).status.code(), Some(2));
    assert_eq!(rapid_sim(&[]).status.code(), Some(2));
}

#[test]
fn json_holds_the_report_and_overrides_apply() {
    let path = scenario("good.toml", "nodes = 9\nrun_ms = 20000\n");
    let path = path.to_string_lossy();
    let set = "events=[{kind=\"crash\", nodes=[4], at_ms=2000}]";
    let output = rapid_sim(&[
        &path,
        "--json",
        "--seed",
        "7",
        "--protocol",
        "heartbeat",
        "--set",
        set,
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["seed"], 7);
    assert_eq!(report["protocol"], "heartbeat");
    assert_eq!(report["removed"], serde_json::json!([4]));
    assert_eq!(report["sizes"], serde_json::json!([8, 9]));
    assert_eq!(report["views"][0]["size"], 9);
    assert_eq!(report["views"][0]["installed"], 9);
    assert!(report["traffic"]["rx_bytes"]["p99"].as_u64() >= Some(64));
}

#[test]
fn a_table_has_a_row_for_each_protocol_and_can_be_reread() {
    let path = scenario("table.toml", "nodes = 5\nrun_ms = 3000\n");
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("table.jsonl");
    let _ = std::fs::remove_file(&log);
    let log = log.to_string_lossy();
    let path = path.to_string_lossy();
    let printed = rapid_sim(&[
        "table",
        &path,
        "--seeds",
        "2",
        "--protocols",
        "swim,heartbeat",
        "--log",
        &log,
    ]);
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let rows: Vec<&str> = printed.lines().skip(2).collect();
    assert_eq!(rows.len(), 2, "{printed}");
    assert!(
        rows[0].starts_with("| table | swim | 2 | 2/2 | 2/2 |"),
        "{printed}"
    );
    let reread = rapid_sim(&["table", "--from", &log]);
    assert_eq!(String::from_utf8_lossy(&reread.stdout), printed);
}

#[test]
fn an_interrupted_table_goes_on_where_it_was() {
    let path = scenario("interrupted.toml", "nodes = 5\nrun_ms = 3000\n");
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("interrupted.jsonl");
    let _ = std::fs::remove_file(&log);
    let (log, path) = (log.to_string_lossy(), path.to_string_lossy());
    let runs = |seeds| {
        let protocols = ["--protocols", "heartbeat"];
        let run = ["table", &path, "--seeds", seeds, "--log", &log];
        let output = rapid_sim(&[run.as_slice(), &protocols].concat());
        let done = String::from_utf8_lossy(&output.stderr).lines().count();
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        (done, table)
    };
    let (done, table) = runs("2");
    assert_eq!(done, 2);
    assert!(table.contains("| interrupted | heartbeat | 2 |"), "{table}");
    let (done, table) = runs("3");
    assert_eq!(done, 1);
    assert!(table.contains("| interrupted | heartbeat | 3 |"), "{table}");
}
