//! Wrong input: an error of the right kind at the right line and column, never a panic, never silence.

use synod_placement::{Error, ErrorKind, Problem, Source};

const STATE: &str = "\
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, cap INTEGER, price REAL);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, bytes INTEGER, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
INSERT INTO nodes VALUES ('n1', 'a', 10, 1.5), ('n2', 'b', 0, 2);
INSERT INTO replicas VALUES (1, 0, 4, NULL, NULL), (1, 1, 4, 'n1', 'n1');
";

fn error(state: &str, policies: &str) -> Error {
    match Problem::load(state, policies) {
        Ok(_) => panic!("accepted: {policies}"),
        Err(e) => e,
    }
}

#[track_caller]
fn check(policies: &str, kind: ErrorKind, line: u32, column: u32, part: &str) {
    let e = error(STATE, policies);
    let place = e.place.unwrap_or_else(|| panic!("no place: {e}"));
    assert_eq!(
        (e.kind, place.source, place.line, place.column),
        (kind, Source::Policies, line, column),
        "{e}"
    );
    assert!(e.message.contains(part), "{e}");
}

#[test]
fn names() {
    use ErrorKind::Name;
    check(
        "create constraint c as select * from nope check 1",
        Name,
        1,
        38,
        "no such table: nope",
    );
    check(
        "create constraint c as\nselect * from replicas\ncheck controllable__nod = 'n1'",
        Name,
        3,
        7,
        "no such column: controllable__nod",
    );
    check(
        "create constraint c as select * from replicas a join replicas b on a.slot = b.slot\n check slot = 1",
        Name,
        2,
        8,
        "ambiguous",
    );
    check(
        "create view v as select nope from nodes",
        Name,
        1,
        25,
        "nope",
    );
    check(
        "create view v as select * from w; create view w as select * from v",
        Name,
        1,
        1,
        "defined by itself",
    );
    check(
        "create view v as select * from v",
        Name,
        1,
        1,
        "defined by itself",
    );
    check(
        "create constraint c as select * from replicas check frob(controllable__node) = 1",
        Name,
        1,
        53,
        "no such function: frob",
    );
    check(
        "create constraint c as select * from nodes check 1; create constraint C as select * from nodes check 1",
        Name,
        1,
        53,
        "already defined",
    );
    check(
        "create constraint c as select * from replicas check \"x\" = 1",
        Name,
        1,
        53,
        "x",
    );
}

#[test]
fn syntax() {
    use ErrorKind::Syntax;
    check(
        "create constraint c as select * from replicas",
        Syntax,
        1,
        46,
        "expected CHECK",
    );
    check(
        "create constraint c as select * from replicas check slot +",
        Syntax,
        1,
        53,
        "",
    );
    check(
        "create constraint c as select * from replicas check slot = 1 tier 2",
        Syntax,
        1,
        62,
        "tier",
    );
    check(
        "create constraint c as select * from replicas minimize slot weight 0",
        Syntax,
        1,
        68,
        "at least 1",
    );
    check(
        "create constraint c as select * frm replicas check 1",
        Syntax,
        1,
        33,
        "frm",
    );
    check("select 1", Syntax, 1, 1, "SELECT");
    check("create trigger t", Syntax, 1, 1, "CREATE");
    check(
        "create constraint c as select * from replicas check 'open",
        Syntax,
        1,
        53,
        "",
    );
    check(
        "create constraint c as select * from replicas where count(*) > 1 check 1",
        Syntax,
        1,
        53,
        "aggregate in WHERE",
    );
}

#[test]
fn unsupported_constructs_are_named() {
    use ErrorKind::Unsupported;
    let of = |rest: &str, line, column, part: &str| {
        check(
            &format!("create constraint c as {rest}"),
            Unsupported,
            line,
            column,
            part,
        );
    };
    of(
        "select * from replicas r left join nodes n on n.node_id = r.controllable__node check 1",
        1,
        59,
        "LEFT",
    );
    of(
        "select distinct slot, controllable__node from replicas check 1",
        1,
        24,
        "DISTINCT",
    );
    of(
        "select * from replicas limit 3 check controllable__node = 'n1'",
        1,
        24,
        "LIMIT",
    );
    of(
        "select * from replicas order by slot check controllable__node = 'n1'",
        1,
        56,
        "ORDER BY",
    );
    of(
        "select * from replicas union select * from replicas check 1",
        1,
        24,
        "UNION",
    );
    of(
        "select * from replicas check row_number() over (order by slot) = 1",
        1,
        53,
        "row_number",
    );
    of(
        "select * from replicas check sum(distinct bytes) = 1",
        1,
        53,
        "DISTINCT",
    );
    of(
        "select * from replicas r group by shard_id check r.slot = 1",
        1,
        73,
        "GROUP BY",
    );
    of(
        "select * from replicas r check (select controllable__node from replicas q where q.slot = r.slot) = 'n1'",
        1,
        56,
        "no aggregate",
    );
    of(
        "select * from replicas check sum(sum(bytes)) = 1",
        1,
        57,
        "aggregate inside",
    );
    of(
        "select * from replicas check capacity_constraint(controllable__node, 1) = 1",
        1,
        53,
        "capacity_constraint",
    );
}

#[test]
fn types() {
    use ErrorKind::Type;
    check(
        "create constraint c as select * from replicas check controllable__node = 1",
        Type,
        1,
        53,
        "compares text with a number",
    );
    check(
        "create constraint c as select * from replicas check controllable__node + 1 = 2",
        Type,
        1,
        53,
        "text under +",
    );
    check(
        "create constraint c as select * from replicas check controllable__node",
        Type,
        1,
        53,
        "condition",
    );
    check(
        "create constraint c as select * from replicas minimize controllable__node",
        Type,
        1,
        56,
        "number",
    );
    check(
        "create constraint c as select * from replicas check controllable__node in (select cap from nodes)",
        Type,
        1,
        76,
        "IN compares text with a number",
    );
    check(
        "create constraint c as select * from replicas minimize case when slot = 0 then 1 else 'x' end",
        Type,
        1,
        80,
        "CASE",
    );
}

#[test]
fn arithmetic() {
    use ErrorKind::Arithmetic;
    check(
        "create constraint c as select * from replicas check bytes / 0 = 1",
        Arithmetic,
        1,
        53,
        "NULLIF",
    );
    check(
        "create constraint c as select * from replicas r join nodes n on n.node_id = r.controllable__node check r.bytes / n.cap = 1",
        Arithmetic,
        1,
        104,
        "NULLIF",
    );
    check(
        "create constraint c as select * from replicas check 9223372036854775807 + bytes > 1",
        Arithmetic,
        1,
        53,
        "overflows",
    );
    check(
        "create constraint c as select * from replicas check 9223372036854775808 > 1",
        Arithmetic,
        1,
        53,
        "64 bits",
    );
    check(
        "create constraint c as select * from replicas check bytes * 0.0000001 > 1",
        Arithmetic,
        1,
        61,
        "6 places",
    );
    check(
        "create constraint c as select * from replicas r group by r.controllable__node check sum(bytes) / count(*) = 1",
        Arithmetic,
        1,
        85,
        "NULLIF",
    );
}

/// SQL over constants is SQLite's, with its loops: they are counted, and end.
#[test]
fn a_recursion_without_an_end_is_refused() {
    check(
        "create view v as with recursive c (i) as (select 1 union all select i + 1 from c)
        select count(*) as k from c;
create constraint c as select * from v check k > 1",
        ErrorKind::Limit,
        1,
        18,
        "million steps",
    );
}

#[test]
fn domains() {
    let table = |decision: &str| {
        format!(
            "CREATE TABLE d (x INTEGER PRIMARY KEY);\nCREATE TABLE t (id INTEGER PRIMARY KEY,\n {decision});\nINSERT INTO t (id) VALUES (7);"
        )
    };
    let of = |decision: &str, line, column, part: &str| {
        let e = error(&table(decision), "");
        let place = e.place.unwrap();
        assert_eq!(
            (e.kind, place.line, place.column),
            (ErrorKind::Domain, line, column),
            "{e}"
        );
        assert!(e.message.contains(part), "{e}");
    };
    of("controllable__x INTEGER", 3, 2, "no domain");
    of(
        "controllable__x INTEGER REFERENCES d (x)",
        3,
        2,
        "no value to choose from for t where id = 7",
    );
    of(
        "controllable__x INTEGER CHECK (controllable__x IN (NULL))",
        3,
        2,
        "no value",
    );
    let e = error(
        "CREATE TABLE d (x INTEGER);\nCREATE TABLE t (a INTEGER, controllable__x INTEGER REFERENCES d (x));",
        "",
    );
    assert_eq!(e.kind, ErrorKind::Domain, "{e}");
    assert!(e.message.contains("primary key"), "{e}");
    let state = STATE.replace("'n1', 'n1')", "'n1', 'n2')");
    let e = error(&state, "");
    assert!(e.message.contains("current_node is 'n1'"), "{e}");
}

#[test]
fn state_errors_have_their_place() {
    let e = error("CREATE TABLE t (a);\nINSERT INTO t VALUES (1, 2);", "");
    let place = e.place.unwrap();
    assert_eq!((place.source, place.line), (Source::State, 2), "{e}");
    let e = error(
        "CREATE TABLE t (a INTEGER PRIMARY KEY);\nINSERT INTO t VALUES (1);\n INSERT INTO t VALUES (1);",
        "",
    );
    assert_eq!(
        (e.place.unwrap().line, e.place.unwrap().column),
        (3, 2),
        "{e}"
    );
    let e = error("CREATE TABL t (a);", "");
    assert_eq!(e.place.unwrap().line, 1, "{e}");
}

/// The same inputs have the same answer: nothing reads the clock, or draws lots.
#[test]
fn what_is_another_each_time_is_refused() {
    for (call, name) in [
        ("random()", "random()"),
        ("date('now')", "date()"),
        ("CURRENT_TIMESTAMP", "current_timestamp()"),
    ] {
        let view = format!("create view v as select {call} as k from nodes");
        check(&view, ErrorKind::Unsupported, 1, 18, name);
    }
    let state = format!("{STATE}INSERT INTO nodes VALUES ('n3', 'c', random(), 1);");
    let e = error(&state, "");
    assert_eq!(e.kind, ErrorKind::Unsupported);
    assert_eq!(e.place.map(|place| place.line), Some(6), "{e}");
}

/// What the greatest integers do where they are keys and sums of columns.
#[test]
fn the_greatest_integers_are_numbers_like_others() {
    let state = STATE.replace("(1, 1, 4,", "(1, 1, 9223372036854775807,");
    let policies = "create constraint c as select * from replicas minimize bytes * (controllable__node = 'n1')";
    let mut problem = Problem::load(&state, policies).unwrap();
    let config = synod_placement::solve::Config::default();
    let answer = problem.solve(&config, &mut || false).unwrap();
    assert_eq!(answer.tiers[0].value.as_f64(), 0.0);
    let state = STATE.replace("'a', 10, 1.5", "'a', 10, 1e300");
    let e = error(
        &state,
        "create constraint c as select * from nodes check price > 0",
    );
    assert_eq!(e.kind, ErrorKind::Type);
    assert!(e.message.contains("1e300 is out of range"), "{e}");
}
