//! The command: verbs, exit codes, the shape of its JSON, the same answer for the same inputs.

use std::collections::BTreeMap;

use serde_json::Value;
use synod_placement::command::{Edge, Output, run};

const STATE: &str = "\
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, cap INTEGER);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, bytes INTEGER, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
INSERT INTO nodes VALUES ('n1', 'a', 10), ('n2', 'b', 10), ('n3', 'c', 10);
INSERT INTO replicas VALUES (1, 0, 4, 'n1', 'n1'), (1, 1, 4, 'n1', 'n1');
";

const POLICIES: &str = "\
CREATE CONSTRAINT distinct_nodes AS SELECT * FROM replicas r
GROUP BY r.shard_id, r.controllable__node CHECK count(*) <= 1;
CREATE CONSTRAINT stay AS SELECT * FROM replicas MINIMIZE controllable__node <> current_node;
";

fn command(files: &[(&str, &str)], args: &[&str]) -> Output {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let mut read = |path: &str| {
        files
            .get(path)
            .map(|text| (*text).to_owned())
            .ok_or(std::io::ErrorKind::NotFound.into())
    };
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    run(
        &args,
        &mut Edge {
            read: &mut read,
            now_us: &|| 0,
        },
    )
}

fn with(verb: &str, state: &str, policies: &str, more: &[&str]) -> Output {
    let mut args = vec![verb, "--state", "s", "--policies", "p"];
    args.extend(more);
    command(&[("s", state), ("p", policies)], &args)
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn solve_answers_in_the_documented_shape() {
    let output = with("solve", STATE, POLICIES, &["--json"]);
    assert_eq!(output.exit_code, 0, "{output:?}");
    let answer = json(&output);
    assert_eq!(answer["status"], "optimal");
    assert_eq!(
        answer["tiers"],
        serde_json::json!([{ "tier": 0, "value": 1, "bound": 1 }])
    );
    let assignments = answer["assignments"].as_array().unwrap();
    assert_eq!(assignments.len(), 2, "unchanged decisions are listed too");
    assert_eq!(assignments[0]["table"], "replicas");
    assert_eq!(
        assignments[0]["key"],
        serde_json::json!({ "shard_id": 1, "slot": 0 })
    );
    assert_eq!(assignments[0]["column"], "controllable__node");
    assert_eq!(assignments[0]["current"], "n1");
    assert!(answer["core"].as_array().unwrap().is_empty());
    for stat in ["variables", "expressions", "compile_ms", "solve_ms"] {
        assert!(answer["stats"][stat].is_number(), "{stat}");
    }
    let again = with("solve", STATE, POLICIES, &["--json"]);
    assert_eq!(output, again, "same inputs, same answer");
}

/// The names of an object's members, in their order.
fn members(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn json_has_the_members_that_are_documented() {
    let mut solve = json(&with("solve", STATE, POLICIES, &["--json"]));
    let stats = solve["stats"].take();
    for stat in ["compile_ms", "expressions", "solve_ms", "variables"] {
        assert!(members(&stats).contains(&stat), "{stats}");
    }
    assert_eq!(
        members(&solve),
        ["assignments", "core", "stats", "status", "tiers"]
    );
    assert_eq!(members(&solve["tiers"][0]), ["bound", "tier", "value"]);
    let assignment = ["column", "current", "key", "table", "value"];
    assert_eq!(members(&solve["assignments"][0]), assignment);
    let plan = json(&with("plan", STATE, POLICIES, &["--json"]));
    assert_eq!(members(&plan), ["blocked_by", "status", "steps"]);
    let step = ["column", "from", "key", "table", "to"];
    assert_eq!(members(&plan["steps"][0][0]), step);
    let none =
        format!("{POLICIES}CREATE CONSTRAINT none AS SELECT * FROM replicas CHECK bytes > 4;");
    let infeasible = json(&with("solve", STATE, &none, &["--json"]));
    assert_eq!(members(&infeasible["core"][0]), ["policy", "row"]);
    let several = json(&with(
        "solve",
        STATE,
        POLICIES,
        &["--json", "--solutions", "1"],
    ));
    assert_eq!(members(&several["solutions"][0][0]), assignment);
}

#[test]
fn every_verb_has_help() {
    for args in [&["--help"][..], &["help"], &["-h"]] {
        let output = command(&[], args);
        assert_eq!(
            (output.exit_code, output.stderr.as_str()),
            (0, ""),
            "{args:?}"
        );
        for verb in ["solve", "plan", "explain", "whatif", "check"] {
            assert!(
                output.stdout.contains(&format!("\n  {verb} ")),
                "{}",
                output.stdout
            );
        }
    }
    let flags = [
        ("solve", "--solutions N"),
        ("plan", "blocked_by"),
        ("explain", "--key JSON"),
        ("whatif", "--change SQL"),
        ("check", "--candidate FILE"),
    ];
    for (verb, flag) in flags {
        let output = command(&[], &[verb, "--help"]);
        assert_eq!(output, command(&[], &["help", verb]));
        assert_eq!(output.exit_code, 0, "{verb}");
        for part in [flag, "--state FILE", "--policies FILE", "exit codes: 0"] {
            assert!(
                output.stdout.contains(part),
                "{verb}: no {part} in {}",
                output.stdout
            );
        }
        assert!(
            output.stdout.lines().all(|line| line.len() <= 120),
            "{verb}"
        );
    }
    // A wrong verb is told before files are looked for.
    let output = command(&[], &["frob", "--state", "missing", "--policies", "p"]);
    assert!(output.stderr.contains("unknown verb"), "{output:?}");
}

#[test]
fn infeasible_is_exit_3_with_a_core() {
    let state = STATE.replace("('n2', 'b', 10), ('n3', 'c', 10)", "('n2', 'b', 3)");
    let policies = format!(
        "{POLICIES}CREATE CONSTRAINT capacity AS SELECT * FROM replicas r JOIN nodes n \
         ON n.node_id = r.controllable__node GROUP BY n.node_id, n.cap CHECK sum(r.bytes) <= n.cap;"
    );
    let output = with("solve", &state, &policies, &["--json"]);
    assert_eq!(output.exit_code, 3, "{output:?}");
    let answer = json(&output);
    assert_eq!(answer["status"], "infeasible");
    assert!(answer["assignments"].as_array().unwrap().is_empty());
    let mut core: Vec<String> = answer["core"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {}", row["policy"].as_str().unwrap(), row["row"]))
        .collect();
    core.sort();
    assert_eq!(
        core,
        [
            "capacity {\"cap\":3,\"node_id\":\"n2\"}",
            "distinct_nodes {\"controllable__node\":\"n1\",\"shard_id\":1}"
        ]
    );
}

#[test]
fn solutions_are_distinct_and_complete() {
    let policies = POLICIES.split("CREATE CONSTRAINT stay").next().unwrap();
    let output = with("solve", STATE, policies, &["--json", "--solutions", "10"]);
    let answer = json(&output);
    assert_eq!(answer["tiers"], serde_json::json!([]));
    assert_eq!(
        answer["status"], "optimal",
        "without an objective a solution is optimal"
    );
    let solutions = answer["solutions"].as_array().unwrap();
    // Two replicas on two of three nodes, in order.
    assert_eq!(solutions.len(), 6);
    let distinct: std::collections::BTreeSet<String> =
        solutions.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), 6);
}

#[test]
fn bad_input_is_exit_2_with_a_place() {
    let output = with(
        "solve",
        STATE,
        "CREATE CONSTRAINT c AS SELECT * FROM nope CHECK 1",
        &["--json"],
    );
    assert_eq!(output.exit_code, 2);
    let error = &json(&output)["error"];
    assert_eq!(
        (&error["line"], &error["column"]),
        (&Value::from(1), &Value::from(38))
    );
    assert!(
        output
            .stderr
            .contains("policies:1:38: name error: no such table: nope"),
        "{output:?}"
    );
    for args in [
        &["solve"][..],
        &["solve", "--state", "s"],
        &["frob", "--state", "s", "--policies", "p"],
        &["solve", "--state", "missing", "--policies", "p"],
        &[
            "solve",
            "--state",
            "s",
            "--policies",
            "p",
            "--solver",
            "magic",
        ],
        &["solve", "--state", "s", "--policies", "p", "--seed", "x"],
        &["solve", "--state", "s", "--policies", "p", "--seed"],
        &[],
    ] {
        let output = command(&[("s", STATE), ("p", POLICIES)], args);
        assert_eq!(output.exit_code, 2, "{args:?} {output:?}");
    }
}

#[test]
fn plan_orders_the_changes() {
    let output = with("plan", STATE, POLICIES, &["--json"]);
    assert_eq!(output.exit_code, 0, "{output:?}");
    let plan = json(&output);
    assert_eq!(plan["status"], "complete");
    let steps = plan["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 1);
    let change = &steps[0][0];
    assert_eq!(change["from"], "n1");
    assert!(change["to"] == "n2" || change["to"] == "n3");
    assert_eq!(plan["blocked_by"], serde_json::json!([]));
}

#[test]
fn explain_lists_every_alternative() {
    let state = STATE.replace("(1, 1, 4, 'n1', 'n1')", "(1, 1, 4, 'n2', 'n2')");
    let more = [
        "--table",
        "replicas",
        "--key",
        "{\"shard_id\": 1, \"slot\": 0}",
        "--json",
    ];
    let output = with("explain", &state, POLICIES, &more);
    assert_eq!(output.exit_code, 0, "{output:?}");
    let explanation = json(&output);
    assert_eq!(explanation["current"], "n1");
    let alternatives = explanation["alternatives"].as_array().unwrap();
    assert_eq!(alternatives.len(), 2);
    assert_eq!(alternatives[0]["value"], "n3");
    assert_eq!(
        alternatives[0]["tiers"],
        serde_json::json!([{ "tier": 0, "change": 1 }])
    );
    assert_eq!(alternatives[0]["violates"], serde_json::json!([]));
    assert_eq!(alternatives[1]["value"], "n2");
    assert_eq!(alternatives[1]["violates"][0]["policy"], "distinct_nodes");
    let more = ["--table", "replicas", "--key", "{\"shard_id\": 9}"];
    assert_eq!(with("explain", &state, POLICIES, &more).exit_code, 2);
}

/// An error says in which of the texts it is.
#[test]
fn an_error_names_its_text() {
    let output = with("whatif", STATE, POLICIES, &["--change", "DELETE FROM nope"]);
    assert!(output.stderr.starts_with("change:1:1: "), "{output:?}");
    let files = [
        ("s", STATE),
        ("p", POLICIES),
        ("c", "\nCREATE VIEW v AS SELECT nope FROM nodes"),
    ];
    let output = command(&files, &CHECK);
    assert_eq!(output.exit_code, 2);
    assert!(
        output.stderr.starts_with("new policies:2:25: "),
        "{output:?}"
    );
    let args = [
        "whatif",
        "--state",
        "s",
        "--policies",
        "p",
        "--new-policies",
        "c",
    ];
    let output = command(&files, &args);
    assert!(
        output.stderr.starts_with("new policies:2:25: "),
        "{output:?}"
    );
}

#[test]
fn explain_knows_null_and_says_what_it_does_not_find() {
    let state = STATE.replace(
        "controllable__node TEXT REFERENCES",
        "controllable__node TEXT NULL REFERENCES",
    );
    let key = "{\"shard_id\": 1, \"slot\": 0}";
    let asked = |table: &str, key: &str, more: &[&str]| {
        let mut args = vec!["--table", table, "--key", key];
        args.extend(more);
        with("explain", &state, POLICIES, &args)
    };
    let explanation = json(&asked("replicas", key, &[]));
    let alternatives = explanation["alternatives"].as_array().unwrap();
    let values: Vec<String> = alternatives
        .iter()
        .map(|a| a["value"].to_string())
        .collect();
    assert_eq!(values.len(), 3, "{values:?}");
    assert!(values.contains(&"null".to_owned()), "{values:?}");
    for (output, part) in [
        (
            asked("nodes", "{\"node_id\": \"n1\"}", &[]),
            "no row of nodes has a decision",
        ),
        (
            asked("replicas", key, &["--column", "slot"]),
            "replicas has no decision column slot",
        ),
        (
            asked("replicas", "{\"shard_id\": 1}", &[]),
            "the whole primary key is needed",
        ),
    ] {
        assert_eq!(output.exit_code, 2, "{output:?}");
        assert!(output.stderr.contains(part), "{output:?}");
    }
}

#[test]
fn whatif_leaves_the_state_alone() {
    let change = "DELETE FROM nodes WHERE zone <> 'a'";
    let output = with("whatif", STATE, POLICIES, &["--change", change, "--json"]);
    assert_eq!(output.exit_code, 3, "{output:?}");
    let both = json(&output);
    assert_eq!(both["before"]["status"], "optimal");
    assert_eq!(both["after"]["status"], "infeasible");
}

#[test]
fn whatif_explains_one_row_before_and_after() {
    let row = [
        "--table",
        "replicas",
        "--key",
        "{\"shard_id\": 1, \"slot\": 0}",
    ];
    let change =
        "UPDATE nodes SET zone = 'x' WHERE node_id = 'n3'; DELETE FROM nodes WHERE node_id = 'n2'";
    let mut more = vec!["--change", change];
    more.extend(row);
    let output = with("whatif", STATE, POLICIES, &more);
    assert_eq!(output.exit_code, 0, "{output:?}");
    let both = json(&output);
    let values = |side: &str| -> Vec<String> {
        let list = both[side]["alternatives"].as_array().unwrap();
        list.iter().map(|a| a["value"].to_string()).collect()
    };
    assert_eq!(values("before"), ["\"n2\"", "\"n3\""]);
    assert_eq!(values("after"), ["\"n3\""]);
    let output = with(
        "whatif",
        STATE,
        POLICIES,
        &["--change", change, "--table", "replicas"],
    );
    assert_eq!(output.exit_code, 2, "{output:?}");
}

/// The command line of `check`, with a candidate in file `c`.
const CHECK: [&str; 8] = [
    "check",
    "--state",
    "s",
    "--policies",
    "p",
    "--candidate",
    "c",
    "--json",
];

/// Feasible now; but not once either of two nodes is gone, or the zone of one of them.
#[test]
fn check_refuses_what_the_loss_of_one_node_or_zone_would_make_infeasible() {
    let candidate = "CREATE CONSTRAINT few AS SELECT * FROM replicas r CHECK r.controllable__node IN ('n1', 'n2')";
    let files = [("s", STATE), ("p", POLICIES), ("c", candidate)];
    let output = command(&files, &CHECK);
    assert_eq!(output.exit_code, 3, "{output:?}");
    let admission = json(&output);
    assert_eq!(admission["verdict"], "refused");
    assert_eq!(admission["scenarios"], 7, "now, three nodes, three zones");
    let findings = admission["findings"].as_array().unwrap();
    let scenarios: Vec<&str> = findings
        .iter()
        .map(|f| f["scenario"].as_str().unwrap())
        .collect();
    assert_eq!(
        scenarios,
        [
            "loss of nodes 'n1'",
            "loss of nodes 'n2'",
            "loss of zone 'a'",
            "loss of zone 'b'"
        ]
    );
    for finding in findings {
        assert_ne!(finding["before"], "infeasible");
        assert_eq!(finding["after"], "infeasible");
        assert_eq!(finding["relaxation"].as_array().unwrap().len(), 1);
        let core = finding["core"].as_array().unwrap();
        assert!(core.iter().any(|row| row["policy"] == "few"), "{core:?}");
    }
    // Only one node, or only one zone: no policy survives its loss, so that is no reason to refuse one.
    let alone = STATE.replace(", ('n2', 'b', 10), ('n3', 'c', 10)", "");
    let files = [("s", alone.as_str()), ("p", ""), ("c", candidate)];
    let output = command(&files, &CHECK);
    assert_eq!(output.exit_code, 0, "{output:?}");
    assert_eq!(json(&output)["scenarios"], 1);
}

/// What was not checked in time is neither accepted nor refused; whoever knows better may force it.
#[test]
fn what_is_not_decided_in_time_is_unknown() {
    let now = ["--time-limit-ms", "0"];
    // Nine replicas on eight nodes, with no time to find out that it cannot be.
    let rows = |n: usize, row: &dyn Fn(usize) -> String| (1..=n).map(row).collect::<String>();
    let crowd = format!(
        "CREATE TABLE n (x INTEGER PRIMARY KEY);
        CREATE TABLE t (id INTEGER PRIMARY KEY, controllable__x INTEGER REFERENCES n (x));\n{}{}",
        rows(8, &|x| format!("INSERT INTO n VALUES ({x});\n")),
        rows(9, &|id| format!("INSERT INTO t VALUES ({id}, NULL);\n")),
    );
    let apart = "CREATE CONSTRAINT apart AS SELECT * FROM t a JOIN t b ON a.id < b.id \
        CHECK a.controllable__x <> b.controllable__x";
    let output = with("solve", &crowd, apart, &[now[0], now[1], "--json"]);
    assert_eq!(output.exit_code, 4, "{output:?}");
    assert_eq!(json(&output)["status"], "unknown");
    let harmless = "CREATE CONSTRAINT small AS SELECT * FROM replicas r CHECK r.bytes < 100";
    let files = [("s", STATE), ("p", POLICIES), ("c", harmless)];
    let mut args = CHECK.to_vec();
    args.extend(now);
    let output = command(&files, &args);
    assert_eq!(output.exit_code, 4, "{output:?}");
    assert_eq!(json(&output)["verdict"], "unproven");
    args.push("--force");
    assert_eq!(command(&files, &args).exit_code, 0);
}

#[test]
fn check_refuses_what_is_infeasible_as_it_is() {
    let candidate = "CREATE CONSTRAINT spread AS SELECT * FROM replicas r JOIN nodes n \
        ON n.node_id = r.controllable__node GROUP BY n.zone CHECK count(*) >= 1";
    // Three zones and two replicas: infeasible at once.
    let files = [("s", STATE), ("p", POLICIES), ("c", candidate)];
    let output = command(&files, &CHECK);
    assert_eq!(output.exit_code, 3, "{output:?}");
    let admission = json(&output);
    assert_eq!(admission["verdict"], "refused");
    assert_eq!(admission["findings"][0]["scenario"], "now");
    assert!(
        !admission["findings"][0]["core"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    // Two replicas cannot be in three zones: one of the three rows has to go, and one is enough.
    let finding = &admission["findings"][0];
    assert_eq!(finding["relaxation"].as_array().unwrap().len(), 1);
    assert_eq!(finding["relaxation"][0]["policy"], "spread");
    assert_eq!(finding["relaxation_minimal"], true);
    // What is infeasible with and without it is not its doing: two nodes are needed, and one of two is lost.
    let two = STATE.replace(", ('n3', 'c', 10)", "");
    let harmless = "CREATE CONSTRAINT small AS SELECT * FROM replicas r CHECK r.bytes < 100";
    let files = [("s", two.as_str()), ("p", POLICIES), ("c", harmless)];
    let output = command(&files, &CHECK);
    assert_eq!(output.exit_code, 0, "{output:?}");
    assert_eq!(json(&output)["verdict"], "accepted");
}

#[test]
fn warnings_name_the_blind_spot() {
    let policies = "CREATE CONSTRAINT floor AS SELECT * FROM replicas r JOIN nodes n \
        ON n.node_id = r.controllable__node GROUP BY n.node_id CHECK sum(r.bytes) >= 1";
    let output = with("solve", STATE, policies, &[]);
    assert!(
        output.stderr.contains("warning: an empty group is NULL"),
        "{output:?}"
    );
}
