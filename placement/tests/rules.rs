//! The rules of the dialect, the proofs and the plans, each on the smallest instance that shows it.
//!
//! What has many cases is held equal to SQLite and to enumeration elsewhere (`random`, `golden`); here each rule can
//! be read by itself.

mod policies;

use policies::{defaults, read};
use synod_placement::plan::Config as Planning;
use synod_placement::solve::{Config, Solver};
use synod_placement::{Answer, PlanStatus, Problem, Status};

/// Two nodes in two zones; replicas 1 and 2, the first of which stands on n1.
const STATE: &str = "
CREATE TABLE nodes (node TEXT PRIMARY KEY, zone TEXT, cap INTEGER, price REAL);
CREATE TABLE replicas (id INTEGER PRIMARY KEY, w INTEGER, colo TEXT, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node));
INSERT INTO nodes VALUES ('n1', 'a', 3, 0.1), ('n2', 'b', 5, 0.2);
INSERT INTO replicas VALUES (1, 7, 'g', 'n1', 'n1'), (2, NULL, NULL, NULL, NULL);
";

fn solve(state: &str, policies: &str) -> Answer {
    let mut problem = Problem::load(state, policies).unwrap_or_else(|e| panic!("{e}"));
    problem.solve(&Config::default(), &mut || false).unwrap()
}

fn constraint(rest: &str) -> Answer {
    solve(STATE, &format!("CREATE CONSTRAINT c AS {rest};"))
}

#[track_caller]
fn holds(rest: &str) {
    assert_eq!(constraint(rest).status, Status::Optimal, "{rest}");
}

#[track_caller]
fn fails(rest: &str) {
    assert_eq!(constraint(rest).status, Status::Infeasible, "{rest}");
}

fn values(answer: &Answer) -> Vec<Option<&str>> {
    answer
        .assignments
        .iter()
        .map(|a| a.value.as_str())
        .collect()
}

fn tier(answer: &Answer) -> f64 {
    answer.tiers[0].value.as_f64()
}

const JOIN: &str = "SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node";

#[test]
fn rule_1_a_decision_is_null_only_where_its_column_says_so() {
    let empty =
        "CREATE CONSTRAINT c AS SELECT * FROM replicas MINIMIZE controllable__node IS NOT NULL;";
    assert!(values(&solve(STATE, empty)).iter().all(Option::is_some));
    let nullable = STATE.replace(
        "controllable__node TEXT REF",
        "controllable__node TEXT NULL REF",
    );
    assert_eq!(values(&solve(&nullable, empty)), [None, None]);
}

#[test]
fn rule_2_a_present_value_outside_the_domain_is_decided_again() {
    let gone = STATE.replace("'n1', 'n1')", "'gone', 'gone')");
    let answer = solve(&gone, "");
    assert!(answer.assignments[0].current.is_null(), "{answer:?}");
    assert!(values(&answer).iter().all(Option::is_some));
}

#[test]
fn rule_3_null_passes_a_check_and_no_where() {
    holds("SELECT * FROM replicas WHERE id = 2 CHECK w > 100");
    holds("SELECT * FROM replicas WHERE w > 100 CHECK 0 = 1");
    assert_eq!(tier(&constraint("SELECT * FROM replicas MINIMIZE w")), 7.0);
    holds("SELECT * FROM replicas WHERE controllable__node NOT IN ('n1', NULL) CHECK 0 = 1");
    fails(
        "SELECT * FROM replicas CHECK EXISTS (SELECT 1 FROM nodes WHERE cap > w AND node = controllable__node)",
    );
}

#[test]
fn rule_4_groups_exist_whatever_is_placed() {
    let one = STATE.replace(", (2, NULL, NULL, NULL, NULL)", "");
    let check = |rest: &str| {
        solve(
            &one,
            &format!("CREATE CONSTRAINT c AS {JOIN} GROUP BY n.zone {rest};"),
        )
    };
    assert_eq!(check("CHECK count(*) >= 1").status, Status::Infeasible);
    // The word that restores SQL.
    assert_eq!(
        check("HAVING count(*) > 0 CHECK count(*) >= 1").status,
        Status::Optimal
    );
}

#[test]
fn rule_5_an_empty_group_counts_0_and_sums_to_null() {
    let all_on_n1 = "r.controllable__node = 'n1'";
    holds(&format!(
        "{JOIN} WHERE {all_on_n1} GROUP BY n.node CHECK count(*) >= 0 AND sum(r.w) > 0"
    ));
    fails(&format!(
        "{JOIN} WHERE {all_on_n1} GROUP BY n.node CHECK coalesce(sum(r.w), 0) > 0"
    ));
    let policies = format!("CREATE CONSTRAINT c AS {JOIN} GROUP BY n.node CHECK sum(r.w) >= 1;");
    assert_eq!(Problem::load(STATE, &policies).unwrap().warnings().len(), 1);
}

#[test]
fn rule_6_constant_null_keys_are_one_group() {
    let two = STATE.replace("'g', 'n1', 'n1')", "NULL, 'n1', 'n1')");
    let together = "CREATE CONSTRAINT c AS SELECT * FROM replicas r GROUP BY r.colo
        CHECK all_equal(r.controllable__node);
        CREATE CONSTRAINT apart AS SELECT * FROM replicas CHECK count(DISTINCT controllable__node) = 2;";
    assert_eq!(solve(&two, together).status, Status::Infeasible);
    let apart = together.replace("r GROUP BY", "r WHERE r.colo IS NOT NULL GROUP BY");
    assert_eq!(solve(&two, &apart).status, Status::Optimal);
}

#[test]
fn rule_7_count_of_rows_and_count_of_values() {
    holds("SELECT * FROM replicas CHECK count(*) = 2 AND count(w) = 1 AND count(DISTINCT w) = 1");
}

#[test]
fn rule_8_all_equal_and_all_different_are_true_of_nothing_and_stand_anywhere() {
    holds(
        "SELECT * FROM replicas WHERE id > 9 CHECK all_equal(controllable__node) AND all_different(w)",
    );
    holds("SELECT * FROM replicas CHECK NOT all_equal(controllable__node) OR count(*) > 9");
    let tagged = STATE
        .replace("(1, 7, 'g'", "(1, 7, '[\"n2\"]'")
        .replace("(2, NULL, NULL", "(2, NULL, '[\"n1\", 3]'");
    let answer = solve(
        &tagged,
        "CREATE CONSTRAINT c AS SELECT * FROM replicas CHECK contains(colo, controllable__node);",
    );
    assert_eq!(values(&answer), [Some("n2"), Some("n1")]);
}

#[test]
fn rule_9_behind_the_fold_only_keys_and_aggregates_are_in_reach() {
    let policy = format!("CREATE CONSTRAINT c AS {JOIN} GROUP BY n.zone CHECK n.cap > 0;");
    let e = Problem::load(STATE, &policy).err().unwrap();
    assert!(e.to_string().contains("neither in GROUP BY"), "{e}");
    // The select list is free.
    holds(&format!("{JOIN} GROUP BY n.zone CHECK count(*) < 3"));
}

#[test]
fn rule_10_subqueries_may_read_decisions_around_them_and_scalar_ones_aggregate() {
    holds(
        "SELECT * FROM replicas a WHERE id = 2 CHECK EXISTS (SELECT 1 FROM replicas b
        WHERE b.controllable__node = a.controllable__node AND b.id <> a.id)",
    );
    for (refused, what) in [
        (
            "(SELECT b.controllable__node FROM replicas b WHERE b.id = a.id) = 'n1'",
            "aggregate",
        ),
        (
            "EXISTS (SELECT 1 FROM replicas b WHERE b.controllable__node = 'n1' LIMIT 1)",
            "LIMIT",
        ),
        (
            "EXISTS (SELECT DISTINCT controllable__node FROM replicas)",
            "DISTINCT",
        ),
        (
            "EXISTS (SELECT controllable__node FROM replicas UNION SELECT 'n1')",
            "UNION",
        ),
    ] {
        let policy = format!("CREATE CONSTRAINT c AS SELECT * FROM replicas a CHECK {refused};");
        let e = Problem::load(STATE, &policy)
            .err()
            .unwrap_or_else(|| panic!("{refused}"));
        assert!(e.place.is_some() && e.to_string().contains(what), "{e}");
    }
}

#[test]
fn rule_11_rows_of_a_view_stay_conditional_in_all_that_is_built_on_it() {
    let view =
        "CREATE VIEW on_n1 AS SELECT r.id, r.w FROM replicas r WHERE r.controllable__node = 'n1';";
    let counted = |goal: &str| {
        let policy = format!("{view} CREATE CONSTRAINT c AS SELECT count(*) FROM on_n1 v {goal};");
        solve(STATE, &policy)
    };
    assert_eq!(
        values(&counted("CHECK count(*) = 0")),
        [Some("n2"), Some("n2")]
    );
    assert_eq!(
        values(&counted("CHECK count(*) = 2")),
        [Some("n1"), Some("n1")]
    );
}

#[test]
fn rule_12_an_average_as_a_number_is_cut_off_after_six_places() {
    let rows = STATE.replace(
        "(2, NULL, NULL, NULL, NULL)",
        "(2, NULL, NULL, NULL, NULL), (3, NULL, NULL, NULL, NULL)",
    );
    let policy = format!(
        "CREATE CONSTRAINT c AS {JOIN} WHERE n.zone = 'a' OR r.id > 1
        MINIMIZE avg(n.cap) + 1; CREATE CONSTRAINT one AS SELECT * FROM replicas WHERE id = 3
        CHECK controllable__node = 'n2';"
    );
    // 3, 3 and 5 over three rows; or, without the first row, 3 and 5 over two.
    let answer = solve(&rows, &policy);
    assert_eq!(values(&answer), [Some("n1"), Some("n1"), Some("n2")]);
    assert_eq!(tier(&answer), 4.666_666);
}

#[test]
fn present_speaks_of_what_stands_now() {
    let state = STATE.replace("(2, NULL, NULL, NULL, NULL)", "(2, 5, NULL, 'n1', 'n1')");
    // A node that holds more than 10 now must give something away; one that does not may keep all.
    let policy = |most: i64| {
        format!("CREATE CONSTRAINT c AS {JOIN} GROUP BY n.node
            CHECK present(sum(r.w)) <= {most} OR coalesce(sum(r.w), 0) < present(sum(r.w));
            CREATE CONSTRAINT stay AS SELECT * FROM replicas MINIMIZE controllable__node <> current_node;")
    };
    assert_eq!(tier(&solve(&state, &policy(12))), 0.0);
    assert_eq!(tier(&solve(&state, &policy(10))), 1.0);
    // Counts of both kinds in one group; where nothing stands, a count is 0 and a sum NULL.
    let counted = format!("CREATE CONSTRAINT c AS {JOIN} GROUP BY n.node, n.zone
        CHECK (n.zone = 'a' AND present(count(*)) = 2 AND count(*) = 0 AND sum(r.w) IS NULL)
           OR (n.zone = 'b' AND present(count(*)) = 0 AND count(*) = 2 AND present(sum(r.w)) IS NULL);");
    assert_eq!(values(&solve(&state, &counted)), [Some("n2"), Some("n2")]);
}

#[test]
fn present_takes_one_aggregate_of_rows_that_are_there() {
    for (refused, what) in [
        (
            "GROUP BY n.zone CHECK present(n.zone) = 'a'",
            "takes one aggregate",
        ),
        (
            "GROUP BY n.zone CHECK present(present(count(*))) = 1",
            "takes one aggregate",
        ),
        (
            "WHERE r.controllable__node = 'n1' GROUP BY n.zone CHECK present(count(*)) = 1",
            "present()",
        ),
    ] {
        let policy = format!("CREATE CONSTRAINT c AS {JOIN} {refused};");
        let e = Problem::load(STATE, &policy)
            .err()
            .unwrap_or_else(|| panic!("{refused}"));
        assert!(e.place.is_some() && e.to_string().contains(what), "{e}");
    }
}

#[test]
fn rule_12_division_truncates_and_an_average_is_exact() {
    holds("SELECT * FROM replicas WHERE id = 1 CHECK -w / 2 = -3");
    holds(&format!(
        "{JOIN} CHECK avg(n.cap) * 2 = 8 AND avg(n.cap) > 3.999999 AND count(DISTINCT n.node) = 2"
    ));
}

#[test]
fn rule_13_decimals_are_exact() {
    holds(&format!("{JOIN} CHECK sum(n.price) = 0.3"));
    fails(&format!("{JOIN} CHECK sum(n.price) = 0.300001"));
}

#[test]
fn rule_14_text_orders_by_bytes() {
    let zones = STATE.replace("'n1', 'a'", "'n1', 'B'");
    let answer = solve(
        &zones,
        &format!("CREATE CONSTRAINT c AS {JOIN} CHECK n.zone < 'a';"),
    );
    assert_eq!(values(&answer), [Some("n1"), Some("n1")]);
}

#[test]
fn rule_15_a_composite_key_is_one_decision() {
    let state = "
CREATE TABLE slots (rack TEXT, bay INTEGER, dc TEXT, PRIMARY KEY (rack, bay, dc));
CREATE TABLE disks (id INTEGER PRIMARY KEY, dc TEXT, controllable__rack TEXT, controllable__bay INTEGER,
    FOREIGN KEY (controllable__rack, controllable__bay, dc) REFERENCES slots (rack, bay, dc));
INSERT INTO slots VALUES ('r1', 1, 'x'), ('r1', 2, 'y'), ('r2', 1, 'y');
INSERT INTO disks VALUES (1, 'y', NULL, NULL);";
    let policies = "CREATE CONSTRAINT c AS SELECT * FROM disks CHECK controllable__rack = 'r1';";
    // In data centre y the rack decides the bay: (r1, 1) is none of its slots.
    let answer = solve(state, policies);
    let shown: Vec<String> = answer
        .assignments
        .iter()
        .map(|a| a.value.to_string())
        .collect();
    assert_eq!(shown, ["\"r1\"", "2"]);
}

#[test]
fn rule_16_a_tier_is_what_is_minimised_less_what_is_maximised() {
    let answer = solve(
        STATE,
        "CREATE CONSTRAINT a AS SELECT * FROM replicas MINIMIZE controllable__node = 'n1' WEIGHT 3 TIER 2;
         CREATE CONSTRAINT b AS SELECT * FROM replicas MAXIMIZE controllable__node = 'n1' WEIGHT 5 TIER 2;
         CREATE CONSTRAINT none AS SELECT * FROM replicas WHERE id > 9 MINIMIZE sum(w) TIER 0;",
    );
    let tiers: Vec<(u32, f64)> = answer
        .tiers
        .iter()
        .map(|t| (t.tier, t.value.as_f64()))
        .collect();
    assert_eq!(tiers, [(0, 0.0), (2, -4.0)]);
}

#[test]
fn rules_17_and_18_nothing_moves_without_a_reason_and_everything_is_listed() {
    let answer = solve(STATE, "");
    assert_eq!(answer.status, Status::Optimal);
    assert!(answer.tiers.is_empty());
    assert_eq!(answer.assignments.len(), 2);
    assert_eq!(answer.assignments[0].current, answer.assignments[0].value);
}

#[test]
fn rule_19_a_join_by_a_decision_is_not_multiplied_out() {
    let mut state = String::from(
        "CREATE TABLE nodes (node INTEGER PRIMARY KEY, zone INTEGER, cap INTEGER);
         CREATE TABLE replicas (id INTEGER PRIMARY KEY, controllable__node INTEGER REFERENCES nodes (node));",
    );
    for n in 0..1_000 {
        state += &format!("INSERT INTO nodes VALUES ({n}, {}, 9);", n % 5);
    }
    for r in 0..300 {
        state += &format!("INSERT INTO replicas VALUES ({r}, {});", r);
    }
    let policies = "CREATE CONSTRAINT capacity AS SELECT * FROM replicas r
        JOIN nodes n ON n.node = r.controllable__node GROUP BY n.node, n.cap CHECK count(*) <= n.cap;
        CREATE CONSTRAINT zones AS SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node
        CHECK n.zone < 4;";
    let answer = solve(&state, policies);
    assert_eq!(answer.status, Status::Optimal);
    assert!(answer.stats.expressions < 3_000, "{:?}", answer.stats);
}

#[test]
fn rule_20_what_must_be_together_is_one_choice() {
    let state = STATE.replace(
        "(2, NULL, NULL, NULL, NULL)",
        "(2, 7, 'g', 'n1', 'n1'), (3, 7, 'g', 'n1', 'n1'), (4, 7, 'g', 'n1', 'n1')",
    );
    let policies = "CREATE CONSTRAINT together AS SELECT * FROM replicas GROUP BY colo
            CHECK all_equal(controllable__node);
        CREATE CONSTRAINT leave AS SELECT * FROM replicas MINIMIZE controllable__node = 'n1';";
    for solver in [Solver::Search, Solver::Exact] {
        let mut problem = Problem::load(&state, policies).unwrap();
        let config = Config {
            solver,
            ..Config::default()
        };
        let answer = problem.solve(&config, &mut || false).unwrap();
        // The answer speaks of the rows of the state.
        assert_eq!(values(&answer), [Some("n2"); 4], "{solver:?}");
    }
    // So does a core: the group by name, beside what pulls it apart.
    let apart = format!(
        "{policies} CREATE CONSTRAINT pin AS SELECT * FROM replicas WHERE id < 3
        CHECK (id = 1) = (controllable__node = 'n1');"
    );
    let answer = solve(&state, &apart);
    assert_eq!(core_of(&answer), ["pin", "pin", "together"]);
    // And an answer that cannot be given may give up the group, not only what stands against it.
    assert_eq!(answer.relaxed.len(), 4);
}

#[test]
fn rule_20_what_is_left_after_a_loss_is_one_row_a_replica() {
    // What each node serves once the zone of its leader is lost: followers elsewhere take over.
    let (shards, nodes, zones) = (40_u32, 60_u32, 4_u32);
    let mut state = String::from(
        "CREATE TABLE nodes (node TEXT PRIMARY KEY, zone TEXT, cap INTEGER);
         CREATE TABLE replicas (shard INTEGER, slot INTEGER, qps INTEGER,
             controllable__node TEXT REFERENCES nodes (node), PRIMARY KEY (shard, slot));
         CREATE TABLE leaders (shard INTEGER PRIMARY KEY, controllable__leader TEXT REFERENCES nodes (node));",
    );
    for n in 0..nodes {
        state += &format!("INSERT INTO nodes VALUES ('n{n}', 'z{}', 15);", n % zones);
    }
    for s in 0..shards {
        for slot in 0..2 {
            // Followers stand on few nodes: those of one zone would all fall to one of them.
            let n = if slot == 0 {
                s % nodes
            } else {
                (s + 1) % zones
            };
            state += &format!("INSERT INTO replicas VALUES ({s}, {slot}, 10, 'n{n}');");
        }
        state += &format!("INSERT INTO leaders VALUES ({s}, 'n{}');", s % nodes);
    }
    let policies = "
        CREATE CONSTRAINT spread AS SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node
        GROUP BY r.shard, n.zone CHECK count(*) <= 1;
        CREATE CONSTRAINT leader AS SELECT * FROM leaders l CHECK EXISTS (SELECT 1 FROM replicas r
            WHERE r.shard = l.shard AND r.controllable__node = l.controllable__leader);
        CREATE CONSTRAINT after_loss AS SELECT * FROM replicas r JOIN leaders l ON l.shard = r.shard
        JOIN nodes n ON n.node = r.controllable__node JOIN nodes m ON m.node = l.controllable__leader
        GROUP BY m.zone, n.node, n.cap CHECK sum(CASE WHEN n.zone = m.zone THEN 0 ELSE r.qps END) <= n.cap;";
    let answer = solve(&state, policies);
    assert_eq!(answer.status, Status::Optimal);
    let replicas = u64::from(shards * 2);
    assert!(
        answer.stats.expressions < 16 * replicas,
        "{:?}",
        answer.stats
    );
}

/// Shards of three replicas on 200 nodes of five zones; a few nodes are SSDs.
fn crowd(shards: u32) -> String {
    let mut state = String::from(
        "CREATE TABLE nodes (node TEXT PRIMARY KEY, zone TEXT, disk TEXT, cap INTEGER);
         CREATE TABLE replicas (shard INTEGER, slot INTEGER, tag TEXT,
             controllable__node TEXT REFERENCES nodes (node), PRIMARY KEY (shard, slot));",
    );
    for n in 0..200 {
        let disk = if n < 2 { "ssd" } else { "hdd" };
        state += &format!(
            "INSERT INTO nodes VALUES ('n{n}', 'z{}', '{disk}', 1000);",
            n % 5
        );
    }
    for shard in 0..shards {
        for slot in 0..3 {
            let tag = if shard == 7 { "'x'" } else { "NULL" };
            state += &format!("INSERT INTO replicas VALUES ({shard}, {slot}, {tag}, NULL);");
        }
    }
    state
}

const CROWD: &str = "
CREATE CONSTRAINT distinct_nodes AS SELECT * FROM replicas r GROUP BY r.shard, r.controllable__node CHECK count(*) <= 1;
CREATE CONSTRAINT spread AS SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node
GROUP BY r.shard, n.zone CHECK count(*) <= 1;
CREATE CONSTRAINT room AS SELECT * FROM replicas r JOIN nodes n ON n.node = r.controllable__node
GROUP BY n.node, n.cap CHECK count(*) <= n.cap;
";

fn core_of(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, Status::Infeasible, "{answer:?}");
    assert!(answer.core_minimal, "{answer:?}");
    let mut core: Vec<&str> = answer.core.iter().map(|row| row.policy.as_str()).collect();
    core.sort_unstable();
    core
}

#[test]
fn rule_38_values_that_nothing_tells_apart_are_counted() {
    // 30,000 pairs of a decision and a node, and a shard that may use two zones of five.
    let two_zones = format!("{CROWD} CREATE CONSTRAINT home AS SELECT * FROM replicas r
        JOIN nodes n ON n.node = r.controllable__node WHERE r.tag = 'x' CHECK n.zone IN ('z0', 'z1');");
    let answer = solve(&crowd(50), &two_zones);
    assert_eq!(
        core_of(&answer),
        ["home", "home", "home", "spread", "spread"]
    );
    // Three replicas on two SSDs: rows of two nodes, which 198 others are not like.
    let fast = format!(
        "{CROWD} CREATE CONSTRAINT fast AS SELECT * FROM replicas r
        JOIN nodes n ON n.node = r.controllable__node WHERE r.tag = 'x' CHECK n.disk = 'ssd';"
    );
    let fast = fast.replace(
        "r.shard, n.zone CHECK count(*) <= 1",
        "r.shard, n.zone CHECK count(*) <= 2",
    );
    let answer = solve(&crowd(50), &fast);
    assert_eq!(
        core_of(&answer),
        ["distinct_nodes", "distinct_nodes", "fast", "fast", "fast"]
    );
}

#[test]
fn rule_38_a_core_names_every_row_that_is_exchanged_with_one_of_it() {
    // Forty nodes of a zone that take nothing: all forty rows are needed.
    let nodes: Vec<String> = (0..50)
        .map(|n| {
            format!(
                "('n{n}', '{}', {}, 0)",
                if n < 40 { "a" } else { "b" },
                if n < 40 { 0 } else { 9 }
            )
        })
        .collect();
    let state = STATE.replace(
        "('n1', 'a', 3, 0.1), ('n2', 'b', 5, 0.2)",
        &nodes.join(", "),
    );
    let policies = format!(
        "CREATE CONSTRAINT home AS {JOIN} WHERE r.id = 1 CHECK n.zone = 'a';
        CREATE CONSTRAINT room AS {JOIN} GROUP BY n.node, n.cap CHECK count(*) <= n.cap;"
    );
    let answer = solve(&state, &policies);
    let core = core_of(&answer);
    assert_eq!(
        core.iter().filter(|policy| **policy == "room").count(),
        40,
        "{core:?}"
    );
    assert_eq!(core.len(), 41, "{core:?}");
}

#[test]
fn rule_23_what_the_constraint_solver_would_wrap_is_not_believed() {
    let state = "CREATE TABLE t (id INTEGER PRIMARY KEY, controllable__x INTEGER CHECK (controllable__x IN (2, 3)));
        INSERT INTO t VALUES (1, NULL), (2, NULL);";
    let policies = "CREATE CONSTRAINT c AS SELECT * FROM t CHECK sum(1300000000 * controllable__x) <= 2000000000;";
    for solver in [Solver::Auto, Solver::Exact] {
        let config = Config {
            solver,
            ..Config::default()
        };
        let mut problem = Problem::load(state, policies).unwrap();
        let status = problem.solve(&config, &mut || false).unwrap().status;
        assert!(
            matches!(status, Status::Infeasible | Status::Unknown),
            "{solver:?} {status:?}"
        );
    }
}

#[test]
fn rule_23_a_quotient_is_not_multiplied_back_beyond_32_bits() {
    let state = STATE
        .replace("(1, 7,", "(1, 300000000,")
        .replace("(2, NULL, NULL", "(2, 300000000, NULL");
    for (most, wrong) in [
        (75_000_000, Status::Infeasible),
        (70_000_000, Status::Optimal),
    ] {
        let policy = format!(
            "CREATE CONSTRAINT c AS {JOIN} GROUP BY n.node CHECK coalesce(sum(r.w), 0) / 4 <= {most};"
        );
        let mut problem = Problem::load(&state, &policy).unwrap();
        let config = Config {
            solver: Solver::Exact,
            ..Config::default()
        };
        let answer = problem.solve(&config, &mut || false).unwrap();
        assert_ne!(answer.status, wrong, "{most}");
    }
}

#[test]
fn rule_34_a_count_proves_what_no_search_would() {
    let policies =
        "CREATE CONSTRAINT room AS SELECT * FROM items i JOIN bins b ON b.bin = i.controllable__bin
         GROUP BY b.bin, b.cap CHECK sum(i.size) <= b.cap;";
    let state = |items: u32| {
        let mut state = String::from(
            "CREATE TABLE bins (bin INTEGER PRIMARY KEY, cap INTEGER);
             CREATE TABLE items (id INTEGER PRIMARY KEY, size INTEGER, controllable__bin INTEGER REFERENCES bins (bin));",
        );
        (0..11).for_each(|bin| state += &format!("INSERT INTO bins VALUES ({bin}, 10);"));
        (0..items)
            .for_each(|item| state += &format!("INSERT INTO items VALUES ({item}, 6, NULL);"));
        state
    };
    // More than there is room for; and 72 for 110, of which no bin takes two.
    for (items, needed, available) in [(19, 114, 110), (12, 12, 11)] {
        let answer = solve(&state(items), policies);
        assert_eq!(answer.status, Status::Infeasible, "{items}");
        assert_eq!(
            (answer.needed, answer.available),
            (Some(needed), Some(available))
        );
        assert_eq!(answer.core.len(), 11);
    }
    assert_eq!(solve(&state(11), policies).status, Status::Optimal);
}

fn plan(state: &str, policies: &str) -> (PlanStatus, usize, Vec<String>) {
    let mut problem = Problem::load(state, policies).unwrap();
    let plan = problem
        .plan(&Config::default(), &Planning::default(), &mut || false)
        .unwrap();
    let blocked = plan
        .blocked_by
        .iter()
        .map(|row| row.policy.clone())
        .collect();
    (plan.status, plan.steps.len(), blocked)
}

#[test]
fn rule_44_what_must_be_together_moves_only_where_the_policy_may_wait() {
    let state = STATE.replace("(2, NULL, NULL, NULL, NULL)", "(2, NULL, NULL, 'n1', 'n1')");
    let policies = "CREATE CONSTRAINT leave AS SELECT * FROM replicas MINIMIZE controllable__node = 'n1';
        CREATE CONSTRAINT together AS SELECT * FROM replicas CHECK all_equal(controllable__node) DEFERRABLE;";
    let (status, steps, blocked) = plan(&state, policies);
    assert_eq!((status, blocked.len()), (PlanStatus::Complete, 0));
    assert!(steps >= 1);
    let (status, _, blocked) = plan(&state, &policies.replace(" DEFERRABLE", ""));
    assert_eq!(status, PlanStatus::NoSafeOrder);
    assert_eq!(blocked, ["together"]);
}

#[test]
fn rule_45_two_that_are_in_each_others_way_park_or_are_blocked() {
    let full = |nodes: &str| {
        STATE
            .replace("('n1', 'a', 3, 0.1), ('n2', 'b', 5, 0.2)", nodes)
            .replace("(2, NULL, NULL, NULL, NULL)", "(2, 7, NULL, 'n2', 'n2')")
    };
    let policies = format!(
        "CREATE CONSTRAINT room AS {JOIN} GROUP BY n.node, n.cap CHECK sum(r.w) <= n.cap;
         CREATE CONSTRAINT swap AS SELECT * FROM replicas WHERE id = 1 CHECK controllable__node = 'n2';
         CREATE CONSTRAINT back AS SELECT * FROM replicas WHERE id = 2 CHECK controllable__node = 'n1';"
    );
    let two = full("('n1', 'a', 7, 0), ('n2', 'b', 7, 0)");
    let (status, _, blocked) = plan(&two, &policies);
    assert_eq!(status, PlanStatus::NoSafeOrder);
    assert!(blocked.contains(&"room".to_owned()), "{blocked:?}");
    let three = full("('n1', 'a', 7, 0), ('n2', 'b', 7, 0), ('n3', 'c', 7, 0)");
    assert_eq!(
        plan(&three, &policies),
        (PlanStatus::Complete, 3, Vec::new())
    );
}

#[test]
fn rule_55_five_nodes_in_two_zones_take_three_replicas() {
    let mut state = read("policies/tables.sql");
    for n in 0..5 {
        let zone = ["a", "b"][n % 2];
        state += &format!(
            "INSERT INTO nodes (node_id, zone, region, cap_bytes, cap_qps, cap_replicas) VALUES ('n{n}', '{zone}', 'r', 99, 99, 99);"
        );
    }
    state += "INSERT INTO shards (shard_id, bytes, read_qps, write_qps, rf) VALUES (1, 1, 1, 1, 3);
        INSERT INTO replicas (shard_id, slot) VALUES (1, 0), (1, 1), (1, 2);";
    state += "INSERT INTO leaders (shard_id) VALUES (1);";
    let answer = solve(&state, &defaults());
    assert!(
        matches!(answer.status, Status::Optimal | Status::Feasible),
        "{answer:?}"
    );
}
