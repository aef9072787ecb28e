//! Deltas under views that depend on decisions, and under groups with expressions of their own: zones and tenants come
//! and go with their first and last rows, and the changed problem judges every assignment as one loaded afresh.

mod world;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_placement::{Change, Datum, Problem};
use world::{Row, World, compare, text};

const TABLES: &str = "\
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, cap INTEGER, status TEXT);
CREATE TABLE quotas (zone TEXT PRIMARY KEY, most INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, tenant TEXT, bytes INTEGER, home TEXT, share REAL);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, role TEXT, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
";

/// By zone (a node's first and last row), by tenant (a shard's), both; read by rows, by groups, by other views, with
/// tables beside them.
const BY_GROUP: &str = "
CREATE VIEW per_zone AS SELECT n.zone, count(*) AS held, coalesce(sum(s.bytes), 0) AS bytes FROM replicas r
    JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.zone;
CREATE CONSTRAINT even AS SELECT * FROM per_zone z MINIMIZE max(z.held) TIER 0;
CREATE CONSTRAINT quota AS SELECT * FROM per_zone z JOIN quotas q ON q.zone = z.zone CHECK z.held <= q.most;
CREATE CONSTRAINT square AS SELECT * FROM per_zone z MINIMIZE z.bytes * z.held TIER 1;
CREATE VIEW full_zones AS SELECT z.zone, z.held FROM per_zone z WHERE z.held > 1;
CREATE CONSTRAINT not_too_full AS SELECT * FROM full_zones f CHECK f.held <= 3;
CREATE VIEW overall AS SELECT max(z.bytes) AS most, count(*) AS zones FROM per_zone z;
CREATE CONSTRAINT overall_bytes AS SELECT * FROM overall o MINIMIZE o.most * o.zones TIER 2;
CREATE CONSTRAINT by_zone_again AS SELECT * FROM per_zone z GROUP BY z.zone CHECK sum(z.bytes) <= 15;
CREATE CONSTRAINT used_zones AS SELECT * FROM replicas r JOIN nodes n ON n.node_id = r.controllable__node
    GROUP BY n.zone CHECK count(*) >= 1;
CREATE VIEW per_tenant AS SELECT s.tenant, count(*) AS replicas, count(DISTINCT r.controllable__node) AS nodes
    FROM replicas r JOIN shards s ON s.shard_id = r.shard_id GROUP BY s.tenant HAVING count(*) < 9;
CREATE CONSTRAINT wide AS SELECT * FROM per_tenant t CHECK t.nodes >= 2;
CREATE CONSTRAINT tenants_per_zone AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
    JOIN nodes n ON n.node_id = r.controllable__node GROUP BY s.tenant, n.zone MINIMIZE count(*) = 0 TIER 3;
CREATE VIEW tenant_in_zone AS SELECT s.tenant AS t, n.zone AS z, count(*) AS held FROM replicas r
    JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY s.tenant, n.zone;
CREATE CONSTRAINT spread_tenants AS SELECT * FROM tenant_in_zone v GROUP BY v.t MINIMIZE max(v.held) TIER 4;
CREATE VIEW per_node AS SELECT r.controllable__node AS node, count(*) AS held FROM replicas r
    GROUP BY r.controllable__node;
CREATE CONSTRAINT even_nodes AS SELECT * FROM per_node p JOIN nodes n ON n.node_id = p.node
    MINIMIZE p.held * n.cap TIER 5;
";

/// One row of the view for each replica.
const BY_ROW: &str = "
CREATE VIEW placed AS SELECT r.shard_id, r.slot, s.bytes, s.tenant, n.zone, n.node_id FROM replicas r
    JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node
    WHERE r.role = 'voter' OR n.status = 'up';
CREATE CONSTRAINT small_in_a AS SELECT * FROM placed p WHERE p.zone = 'a' CHECK p.bytes <= 5;
CREATE CONSTRAINT zone_bytes AS SELECT * FROM placed p GROUP BY p.zone CHECK sum(p.bytes) <= 12;
CREATE CONSTRAINT tenant_zone AS SELECT * FROM placed p GROUP BY p.tenant, p.zone CHECK count(*) <= 1;
CREATE CONSTRAINT pairs AS SELECT * FROM placed p JOIN placed q ON q.shard_id = p.shard_id
    WHERE p.slot < q.slot CHECK p.node_id <> q.node_id;
CREATE CONSTRAINT beside_rows AS SELECT * FROM placed p JOIN replicas r ON r.shard_id = p.shard_id
    MINIMIZE (p.node_id = r.controllable__node) * p.bytes TIER 0;
CREATE VIEW zones_of_tenants AS SELECT p.tenant, count(DISTINCT p.zone) AS zones FROM placed p GROUP BY p.tenant;
CREATE CONSTRAINT two_zones AS SELECT * FROM zones_of_tenants z CHECK z.zones >= 2;
CREATE VIEW large AS SELECT p.node_id, p.bytes FROM placed p WHERE p.bytes > 2;
CREATE CONSTRAINT large_ones AS SELECT * FROM large l JOIN nodes n ON n.node_id = l.node_id
    MINIMIZE l.bytes * n.cap TIER 1;
CREATE CONSTRAINT domiciled AS SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
    JOIN nodes n ON n.node_id = r.controllable__node WHERE n.zone = s.home
    GROUP BY r.shard_id, n.node_id CHECK count(*) <= 1;
";

fn shard(id: i64, rng: &mut SmallRng) -> Row {
    let pick = |rng: &mut SmallRng, from: &[&str]| text(from[rng.random_range(0..from.len())]);
    vec![
        Datum::Integer(id),
        pick(rng, &["x", "x", "y", "z"]),
        Datum::Integer(rng.random_range(1..8)),
        pick(rng, &["a", "b", "c"]),
        Datum::Real(f64::from(rng.random_range(1..5)) / 4.0),
    ]
}

fn node(n: u8, rng: &mut SmallRng) -> Row {
    let pick = |rng: &mut SmallRng, from: &[&str]| text(from[rng.random_range(0..from.len())]);
    vec![
        text(format!("n{n}")),
        pick(rng, &["a", "a", "b", "b", "c", "d"]),
        Datum::Integer(rng.random_range(1..4)),
        pick(rng, &["up", "up", "down"]),
    ]
}

fn replica(shard: i64, slot: i64, rng: &mut SmallRng) -> Row {
    let at = match rng.random_range(0..5) {
        0 => Datum::Null,
        n => text(format!("n{n}")),
    };
    let role = if rng.random_range(0..3) == 0 {
        "learner"
    } else {
        "voter"
    };
    vec![
        Datum::Integer(shard),
        Datum::Integer(slot),
        text(role),
        at.clone(),
        at,
    ]
}

fn cluster(rng: &mut SmallRng) -> World {
    let mut world = World {
        schema: TABLES.to_owned(),
        ..World::default()
    };
    for n in 1..=4 {
        let row = node(n, rng);
        world.put("nodes", row, 1);
    }
    for (zone, most) in [("a", 2), ("b", 3), ("c", 1)] {
        world.put("quotas", vec![text(zone), Datum::Integer(most)], 1);
    }
    for s in 1..=3 {
        world.put("shards", shard(s, rng), 1);
        for slot in 0..2 {
            world.put("replicas", replica(s, slot, rng), 2);
        }
    }
    world
}

fn change(world: &mut World, rng: &mut SmallRng) -> Change {
    let s = rng.random_range(1..=4);
    match rng.random_range(0..16) {
        0..=4 => {
            let row = node(rng.random_range(1..=5), rng);
            world.put("nodes", row, 1)
        }
        5 => world.take("nodes", vec![text("n5")]),
        6..=7 => world.put("shards", shard(s, rng), 1),
        8 => world.take("shards", vec![Datum::Integer(4)]),
        9..=12 => {
            let row = replica(s, rng.random_range(0..3), rng);
            world.put("replicas", row, 2)
        }
        13..=14 => {
            let key = vec![Datum::Integer(s), Datum::Integer(rng.random_range(1..3))];
            world.take("replicas", key)
        }
        _ => {
            let zone = ["a", "b", "d"][rng.random_range(0..3)];
            let most = Datum::Integer(rng.random_range(1..4));
            world.put("quotas", vec![text(zone), most], 1)
        }
    }
}

/// Changes random rows; how many lists of changes were followed by keys, in percent. `SYNOD_RANDOM_CASES` asks for more
/// seeds.
fn follow(policies: &str) -> u32 {
    let seeds = std::env::var("SYNOD_RANDOM_CASES");
    let seeds = seeds.ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let (mut followed, mut all) = (0, 0);
    for seed in 0..seeds {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = cluster(&mut rng);
        let mut problem = Problem::load(&world.state(), policies).unwrap();
        for step in 0..12 {
            let changes: Vec<Change> = (0..rng.random_range(1..3))
                .map(|_| change(&mut world, &mut rng))
                .collect();
            let what = format!("seed {seed}, step {step}: {changes:?}");
            let now = (&world, policies);
            all += 1;
            followed += u32::from(world::follow(&mut problem, now, &changes, &mut rng, &what));
        }
    }
    100 * followed / all
}

#[test]
fn groups_come_and_go_as_in_a_fresh_problem() {
    let followed = follow(BY_GROUP);
    println!("{followed}% followed by keys");
    assert!(followed >= 80, "{followed}%");
}

#[test]
fn rows_of_views_come_and_go_as_in_a_fresh_problem() {
    let followed = follow(BY_ROW);
    println!("{followed}% followed by keys");
    assert!(followed >= 80, "{followed}%");
}

/// A zone's last node goes and its first comes: both are followed by keys, and the group goes and comes with it.
#[test]
fn the_last_node_of_a_zone_takes_its_group_along() {
    let state = "CREATE TABLE nodes (node TEXT PRIMARY KEY, zone TEXT);
        CREATE TABLE t (id INTEGER PRIMARY KEY, controllable__x TEXT REFERENCES nodes (node));
        INSERT INTO nodes VALUES ('n1', 'a'), ('n2', 'b'), ('n3', 'b'), ('n4', 'c');
        INSERT INTO t VALUES (1, 'n1'), (2, 'n2'), (3, 'n4');";
    let policies = "CREATE VIEW per_zone AS SELECT n.zone, count(*) AS held FROM t
            JOIN nodes n ON n.node = t.controllable__x GROUP BY n.zone;
        CREATE CONSTRAINT used AS SELECT * FROM per_zone z CHECK z.held >= 1;";
    let mut problem = Problem::load(state, policies).unwrap();
    let broken = |problem: &mut Problem| -> Vec<String> {
        let rows = problem.broken().unwrap();
        rows.iter().map(|row| row.row["zone"].to_string()).collect()
    };
    let node = |node: &str, zone: &str| Change::Upsert {
        table: "nodes".to_owned(),
        row: vec![text(node), text(zone)],
    };
    assert!(broken(&mut problem).is_empty());
    // A zone without rows is a group all the same.
    assert!(problem.apply(&[node("n5", "d")]).unwrap().is_scoped());
    assert_eq!(broken(&mut problem), ["\"d\""]);
    let gone = Change::Delete {
        table: "nodes".to_owned(),
        key: vec![text("n5")],
    };
    assert!(problem.apply(&[gone]).unwrap().is_scoped());
    assert!(broken(&mut problem).is_empty());
    // It is renamed with its only node, and joins another zone.
    assert!(problem.apply(&[node("n4", "e")]).unwrap().is_scoped());
    assert!(broken(&mut problem).is_empty());
    assert!(problem.apply(&[node("n4", "b")]).unwrap().is_scoped());
    assert!(problem.apply(&[node("n1", "b")]).unwrap().is_scoped());
    assert!(problem.apply(&[node("n2", "f")]).unwrap().is_scoped());
    assert!(broken(&mut problem).is_empty());
    assert!(problem.apply(&[node("n3", "g")]).unwrap().is_scoped());
    assert_eq!(broken(&mut problem), ["\"g\""]);
}

/// A problem that followed changes, and one loaded from what the tables hold then.
fn both(before: &str, changes: &[Change], after: &str, policies: &str) -> (Problem, Problem) {
    let mut changed = Problem::load(before, policies).unwrap();
    changed.apply(changes).unwrap();
    (changed, Problem::load(after, policies).unwrap())
}

fn same(before: &str, changes: &[Change], after: &str, policies: &str) {
    let (mut changed, mut fresh) = both(before, changes, after, policies);
    let mut rng = SmallRng::seed_from_u64(1);
    compare(&mut changed, &mut fresh, &mut rng, policies);
}

const PAIR: &str = "CREATE TABLE nodes (node INTEGER PRIMARY KEY, region TEXT);
    CREATE TABLE s (id INTEGER PRIMARY KEY, home TEXT, share REAL, size INTEGER);
    CREATE TABLE t (id INTEGER, slot INTEGER, role TEXT, controllable__x INTEGER REFERENCES nodes (node),
        PRIMARY KEY (id, slot));
    INSERT INTO nodes VALUES (1, 'eu'), (2, 'eu'), (3, 'us');
    INSERT INTO s VALUES (1, 'eu', 1.5, 2);
    INSERT INTO t VALUES (1, 0, 'voter', 1), (1, 1, 'voter', 2);";

fn upsert(table: &str, row: Row) -> Change {
    Change::Upsert {
        table: table.to_owned(),
        row,
    }
}

fn shard_two(share: f64) -> [Change; 3] {
    let (two, slot) = (Datum::Integer(2), Datum::Integer);
    let shard = vec![
        two.clone(),
        text("eu"),
        Datum::Real(share),
        Datum::Integer(2),
    ];
    let seat = |n: i64| vec![two.clone(), slot(n), text("voter"), Datum::Integer(1 + n)];
    [
        upsert("s", shard),
        upsert("t", seat(0)),
        upsert("t", seat(1)),
    ]
}

/// Groups that a new row and its decision make together are groups from then on.
#[test]
fn groups_tied_to_rows_by_constants_come_with_them() {
    let after = format!(
        "{PAIR} INSERT INTO s VALUES (2, 'eu', 1.5, 2);
        INSERT INTO t VALUES (2, 0, 'voter', 1), (2, 1, 'voter', 2);"
    );
    let policy = "CREATE CONSTRAINT c AS SELECT * FROM t JOIN s ON s.id = t.id
        JOIN nodes n ON n.node = t.controllable__x WHERE n.region = s.home GROUP BY t.id, n.node CHECK count(*) <= 1;";
    same(PAIR, &shard_two(1.5), &after, policy);
    let own = "CREATE CONSTRAINT c AS SELECT * FROM t JOIN s ON s.id = t.id
        JOIN nodes n ON n.node = t.controllable__x WHERE n.region = s.home GROUP BY t.id, n.node CHECK count(*) >= 1;";
    same(PAIR, &shard_two(1.5), &after, own);
}

/// A constant of a group that is finer than all before is not cut off.
#[test]
fn a_finer_decimal_in_a_key_is_kept() {
    let after = format!(
        "{PAIR} INSERT INTO s VALUES (2, 'eu', 1.25, 2);
        INSERT INTO t VALUES (2, 0, 'voter', 1), (2, 1, 'voter', 2);"
    );
    let policy = "CREATE CONSTRAINT c AS SELECT * FROM t JOIN s ON s.id = t.id
        GROUP BY t.id, s.share, t.controllable__x CHECK sum(s.size) * 10 <= s.share * 16;";
    same(PAIR, &shard_two(1.25), &after, policy);
}

/// A row that is reached in two ways is made once.
#[test]
fn a_row_is_met_once_however_it_is_reached() {
    let policy = "CREATE CONSTRAINT c AS SELECT * FROM t a
        WHERE EXISTS (SELECT 1 FROM t b WHERE b.id = a.id AND b.controllable__x = 1)
          AND EXISTS (SELECT 1 FROM t b WHERE b.id = a.id AND b.controllable__x = 2)
        MINIMIZE a.controllable__x;";
    let moved = upsert(
        "t",
        vec![
            Datum::Integer(1),
            Datum::Integer(0),
            text("learner"),
            Datum::Integer(1),
        ],
    );
    let after = PAIR.replace("(1, 0, 'voter', 1)", "(1, 0, 'learner', 1)");
    same(PAIR, &[moved], &after, policy);
}

/// What was never NULL, or had groups, may be NULL, or have none, when its last row has gone.
#[test]
fn a_fold_that_loses_its_rows_is_compiled_again() {
    let learner = "INSERT INTO t VALUES (1, 2, 'learner', 3);";
    let before = format!("{PAIR} {learner}");
    let gone = Change::Delete {
        table: "t".to_owned(),
        key: vec![Datum::Integer(1), Datum::Integer(2)],
    };
    for policy in [
        "CREATE CONSTRAINT c AS SELECT * FROM t WHERE role = 'learner'
            CHECK coalesce(sum(controllable__x), 9) <= 5;",
        "CREATE CONSTRAINT c AS SELECT * FROM t JOIN nodes n ON n.node = t.controllable__x WHERE t.role = 'learner'
            GROUP BY n.region CHECK count(*) >= 1;",
        "CREATE VIEW v AS SELECT n.region, count(*) AS held FROM t JOIN nodes n ON n.node = t.controllable__x
            WHERE t.role = 'learner' GROUP BY n.region;
        CREATE CONSTRAINT c AS SELECT * FROM v CHECK held >= 1;",
    ] {
        same(&before, std::slice::from_ref(&gone), PAIR, policy);
        let come = upsert(
            "t",
            vec![Datum::Integer(1), Datum::Integer(2), text("learner"), Datum::Integer(3)],
        );
        same(PAIR, &[come], &before, policy);
    }
}

/// A new row whose sum may be NULL, where none could be before.
#[test]
fn a_fold_that_may_be_null_from_now_on_is_compiled_again() {
    let policy = "CREATE CONSTRAINT c AS SELECT * FROM s JOIN t ON t.id = s.id WHERE t.controllable__x <> 3
        CHECK coalesce(min(s.size + t.controllable__x), 0) >= 3;
        CREATE CONSTRAINT d AS SELECT * FROM t JOIN s ON s.id = t.id CHECK coalesce(sum(s.size), 7) >= 3;";
    let none = [
        upsert(
            "s",
            vec![Datum::Integer(2), Datum::Null, Datum::Null, Datum::Null],
        ),
        upsert(
            "t",
            vec![
                Datum::Integer(2),
                Datum::Integer(0),
                text("voter"),
                Datum::Integer(3),
            ],
        ),
        Change::Delete {
            table: "s".to_owned(),
            key: vec![Datum::Integer(1)],
        },
    ];
    let after = PAIR.replace("(1, 'eu', 1.5, 2)", "(2, NULL, NULL, NULL)")
        + "INSERT INTO t VALUES (2, 0, 'voter', 3);";
    same(PAIR, &none, &after, policy);
}
