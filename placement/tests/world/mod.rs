//! A cluster's tables as a test knows them, changed row by row beside a problem that follows, and the judge of both.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::SmallRng;
use synod_placement::{Change, Datum, Decision, PolicyRow, Problem};

pub type Row = Vec<Datum>;

/// Rows by key, by table; tables are written in the order of their names.
#[derive(Clone, Default)]
pub struct World {
    /// The statements that create the tables.
    pub schema: String,
    pub tables: BTreeMap<&'static str, BTreeMap<String, Row>>,
}

pub fn text(text: impl Into<String>) -> Datum {
    Datum::Text(text.into())
}

impl World {
    /// Sets the row whose first `keys` columns are its key.
    pub fn put(&mut self, table: &'static str, row: Row, keys: usize) -> Change {
        let key = format!("{:?}", &row[..keys]);
        self.tables
            .entry(table)
            .or_default()
            .insert(key, row.clone());
        Change::Upsert {
            table: table.to_owned(),
            row,
        }
    }

    pub fn take(&mut self, table: &'static str, key: Row) -> Change {
        let rows = self.tables.entry(table).or_default();
        rows.remove(&format!("{key:?}"));
        Change::Delete {
            table: table.to_owned(),
            key,
        }
    }

    pub fn state(&self) -> String {
        let mut sql = self.schema.clone();
        for (table, rows) in &self.tables {
            for row in rows.values() {
                let cells: Vec<String> = row
                    .iter()
                    .map(|cell| match cell {
                        Datum::Null => "NULL".to_owned(),
                        Datum::Integer(n) => n.to_string(),
                        Datum::Real(x) => x.to_string(),
                        Datum::Text(text) => format!("'{text}'"),
                    })
                    .collect();
                writeln!(sql, "INSERT INTO {table} VALUES ({});", cells.join(", ")).unwrap();
            }
        }
        sql
    }
}

fn ordered(problem: &Problem) -> Vec<Decision> {
    let mut decisions = problem.decisions();
    decisions.sort_by_key(|d| (d.table.clone(), serde_json::to_string(&d.key).unwrap()));
    decisions
}

/// Makes a problem follow changes that the world has, and holds it to one loaded afresh.
/// Whether it followed them by keys.
pub fn follow(
    problem: &mut Problem,
    (world, policies): (&World, &str),
    changes: &[Change],
    rng: &mut SmallRng,
    what: &str,
) -> bool {
    let touched = problem.apply(changes);
    let touched = touched.unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut fresh = Problem::load(&world.state(), policies).unwrap();
    compare(problem, &mut fresh, rng, what);
    touched.is_scoped()
}

/// Holds that a problem that followed changes has the decisions of one loaded afresh, and judges as it does: what
/// stands now, and random assignments.
pub fn compare(changed: &mut Problem, fresh: &mut Problem, rng: &mut SmallRng, what: &str) {
    let (ours, theirs) = (ordered(changed), ordered(fresh));
    let shown = |decisions: &[Decision]| -> Vec<String> {
        let one = |d: &Decision| {
            let mut choices: Vec<String> = d.choices.iter().map(|c| format!("{c:?}")).collect();
            choices.sort();
            let current = d.current.map(|c| &d.choices[c]);
            format!("{} {:?} {current:?} {choices:?}", d.table, d.key)
        };
        decisions.iter().map(one).collect()
    };
    assert_eq!(shown(&ours), shown(&theirs), "{what}");
    for _ in 0..8 {
        let choices: Vec<Option<usize>> = theirs
            .iter()
            .map(|d| Some(rng.random_range(0..d.choices.len())))
            .collect();
        let same: Vec<Option<usize>> = ours
            .iter()
            .zip(theirs.iter().zip(&choices))
            .map(|(own, (other, choice))| {
                let value = &other.choices[choice.unwrap()];
                own.choices.iter().position(|c| c == value)
            })
            .collect();
        let mut a = changed.judge(&ours, &same).unwrap();
        let mut b = fresh.judge(&theirs, &choices).unwrap();
        let key = |r: &PolicyRow| serde_json::to_string(r).unwrap();
        a.broken.sort_by_key(key);
        b.broken.sort_by_key(key);
        assert_eq!(a, b, "{what}");
    }
}
