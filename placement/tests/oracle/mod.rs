//! An independent evaluator of policies: SQLite itself, on a materialised assignment.
//!
//! The one deviation of the dialect from SQL (groups exist whatever is placed) is spelt out in SQL here: the
//! groups are enumerated from the FROM clause without the conditions on decisions, and every aggregate is
//! a scalar subquery over the rows of its group, which SQLite evaluates for an empty group too.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rusqlite::Connection;
use sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, Query, Select,
    SelectItem, SetExpr, VisitMut, VisitorMut,
};
use sqlparser::dialect::SQLiteDialect;
use sqlparser::parser::Parser;
use synod_placement::Decision;

const GOALS: [&str; 3] = [" CHECK ", " MINIMIZE ", " MAXIMIZE "];

/// A policy as SQL that yields one column, `goal`, a row for each of its rows.
#[derive(Debug)]
pub struct Policy {
    pub name: String,
    pub sql: String,
    pub hard: bool,
    pub tier: u32,
    pub weight: i64,
}

#[derive(Debug)]
pub struct Oracle {
    connection: Connection,
    pub policies: Vec<Policy>,
}

/// Tier sums; `None` if a hard policy is broken.
pub type Verdict = (Vec<String>, BTreeMap<u32, f64>);

fn statements(text: &str) -> Vec<String> {
    let without_comments: String = text
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    without_comments
        .split(';')
        .map(|s| s.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|s| !s.is_empty())
        .collect()
}

fn parse_query(sql: &str) -> Query {
    *Parser::new(&SQLiteDialect {})
        .try_with_sql(sql)
        .unwrap()
        .parse_query()
        .unwrap()
}

fn parse_expr(sql: &str) -> Expr {
    Parser::new(&SQLiteDialect {})
        .try_with_sql(sql)
        .unwrap()
        .parse_expr()
        .unwrap()
}

/// Edits all expressions within one, before and after their parts. The compiler writes the walk over all of SQL anew
/// for each visitor: there is one.
struct Edit<'a> {
    before: &'a mut dyn FnMut(&mut Expr, &mut u32),
    after: &'a mut dyn FnMut(&mut Expr, &mut u32),
    /// How deep the walk is within what the two count.
    inside: u32,
}

impl VisitorMut for Edit<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        (self.before)(expr, &mut self.inside);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        (self.after)(expr, &mut self.inside);
        ControlFlow::Continue(())
    }
}

fn edit(
    expr: &mut Expr,
    before: &mut dyn FnMut(&mut Expr, &mut u32),
    after: &mut dyn FnMut(&mut Expr, &mut u32),
) {
    let inside = 0;
    let _ = expr.visit(&mut Edit {
        before,
        after,
        inside,
    });
}

/// Rewrites the dialect's own functions into SQLite's.
fn plain(sql: &str) -> String {
    let mut expr = parse_expr(sql);
    edit(&mut expr, &mut |_, _| {}, &mut |e, _| {
        if let Expr::Function(f) = e {
            let text = f.args.to_string();
            let inner = text
                .trim_start_matches('(')
                .trim_end_matches(')')
                .to_owned();
            match f.name.to_string().to_lowercase().as_str() {
                "all_equal" => *e = parse_expr(&format!("(count(distinct {inner}) <= 1)")),
                "all_different" => {
                    *e = parse_expr(&format!("(count(distinct {inner}) = count({inner}))"));
                }
                "contains" => {
                    let (array, x) = inner.rsplit_once(',').unwrap();
                    *e = parse_expr(&format!("({x} IN (SELECT value FROM json_each({array})))"));
                }
                _ => {}
            }
        }
    });
    expr.to_string()
}

fn conjuncts(expr: &Expr, out: &mut Vec<String>) {
    match expr {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => {
            conjuncts(left, out);
            conjuncts(right, out);
        }
        Expr::Nested(inner) => conjuncts(inner, out),
        other => out.push(other.to_string()),
    }
}

/// Whether aggregates stand in an expression, outside of its subqueries.
fn is_aggregate(sql: &str) -> bool {
    let mut found = false;
    let mut look = |expr: &mut Expr, _: &mut u32| {
        match expr {
            Expr::Subquery(_) | Expr::Exists { .. } => *expr = parse_expr("1"),
            Expr::InSubquery { expr: needle, .. } => *expr = (**needle).clone(),
            _ => {}
        }
        if let Expr::Function(f) = expr {
            let name = f.name.to_string().to_lowercase();
            let one = match &f.args {
                sqlparser::ast::FunctionArguments::List(list) => list.args.len() == 1,
                _ => false,
            };
            found |= ["count", "sum", "avg", "all_equal", "all_different"].contains(&&*name)
                || (one && ["min", "max"].contains(&&*name));
        }
    };
    edit(&mut parse_expr(sql), &mut look, &mut |_, _| {});
    found
}

fn is_aggregate_call(expr: &Expr) -> bool {
    matches!(expr, Expr::Function(f) if {
        let name = f.name.to_string().to_lowercase();
        ["count", "sum", "avg", "min", "max"].contains(&&*name)
    })
}

/// Replaces keys, outside of aggregates, by the columns of the group.
fn by_group(expr: &mut Expr, keys: &[String]) {
    let mut replace = |expr: &mut Expr, inside: &mut u32| {
        *inside += u32::from(is_aggregate_call(expr));
        let text = expr.to_string();
        if *inside == 0
            && let Some(i) = keys.iter().position(|k| *k == text)
        {
            *expr = Expr::CompoundIdentifier(vec![Ident::new("g"), Ident::new(format!("k{i}"))]);
        }
    };
    let mut leave = |expr: &mut Expr, inside: &mut u32| {
        *inside -= u32::from(is_aggregate_call(expr));
    };
    edit(expr, &mut replace, &mut leave);
}

impl Oracle {
    pub fn new(state: &str, policies: &str) -> Oracle {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(state).unwrap();
        let mut oracle = Oracle {
            connection,
            policies: Vec::new(),
        };
        for statement in statements(policies) {
            let upper = statement.to_uppercase();
            if upper.starts_with("CREATE VIEW ") {
                let at = upper.find(" AS ").unwrap();
                let query = parse_query(&statement[at + 4..]);
                let sql = oracle.rewrite_view(&query);
                let view = format!("{} AS {sql}", &statement[..at]);
                oracle
                    .connection
                    .execute_batch(&view)
                    .unwrap_or_else(|e| panic!("{e}: {view}"));
            } else if upper.starts_with("CREATE CONSTRAINT ") {
                let policy = oracle.policy(&statement);
                oracle.policies.push(policy);
            } else {
                oracle.connection.execute_batch(&statement).unwrap();
            }
        }
        oracle
    }

    fn policy(&self, statement: &str) -> Policy {
        let upper = statement.to_uppercase();
        let name = statement.split_whitespace().nth(2).unwrap().to_owned();
        let start = upper.find(" AS ").unwrap() + 4;
        let (goal_at, goal) = GOALS
            .iter()
            .find_map(|g| upper.rfind(g).map(|at| (at, *g)))
            .unwrap();
        let query = parse_query(&statement[start..goal_at]);
        let mut expr = statement[goal_at + goal.len()..].to_owned();
        let (mut weight, mut tier) = (1, 0);
        for _ in 0..2 {
            let words: Vec<String> = expr.split_whitespace().map(str::to_owned).collect();
            let n = words.len();
            if n > 2 && words[n - 2].eq_ignore_ascii_case("WEIGHT") {
                weight = words[n - 1].parse().unwrap();
            } else if n > 2 && words[n - 2].eq_ignore_ascii_case("TIER") {
                tier = words[n - 1].parse().unwrap();
            } else {
                break;
            }
            expr = words[..n - 2].join(" ");
        }
        let expr = expr.trim_end_matches(" DEFERRABLE").to_owned();
        let sql = self.rewrite(&query, &[(expr, "goal".to_owned())]);
        let hard = goal == GOALS[0];
        let weight = if goal == GOALS[2] { -weight } else { weight };
        Policy {
            name,
            sql,
            hard,
            tier,
            weight,
        }
    }

    fn rewrite_view(&self, query: &Query) -> String {
        let SetExpr::Select(select) = &*query.body else {
            return query.to_string();
        };
        let mut items = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(e) => {
                    let name = match e {
                        Expr::Identifier(i) => i.value.clone(),
                        Expr::CompoundIdentifier(p) => p.last().unwrap().value.clone(),
                        other => format!("\"{other}\""),
                    };
                    items.push((e.to_string(), name));
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    items.push((expr.to_string(), alias.value.clone()));
                }
                _ => return query.to_string(),
            }
        }
        let decided = query.to_string().contains("controllable__");
        if !decided {
            query.to_string()
        } else {
            self.rewrite(query, &items)
        }
    }

    /// SQL for `items` over the rows (or groups) of `query`.
    fn rewrite(&self, query: &Query, items: &[(String, String)]) -> String {
        let SetExpr::Select(select) = &*query.body else {
            panic!("not a select")
        };
        let (sources, conditions) = sources(select);
        let keys: Vec<String> = match &select.group_by {
            GroupByExpr::Expressions(keys, _) => keys.iter().map(ToString::to_string).collect(),
            GroupByExpr::All(_) => panic!("GROUP BY ALL"),
        };
        let grouped = !keys.is_empty()
            || select.having.is_some()
            || items.iter().any(|(e, _)| is_aggregate(e));
        let all = |c: &[String]| match c {
            [] => String::new(),
            c => format!(
                " WHERE {}",
                c.iter()
                    .map(|c| format!("({c})"))
                    .collect::<Vec<_>>()
                    .join(" AND ")
            ),
        };
        if !grouped {
            let list: Vec<String> = items
                .iter()
                .map(|(e, n)| format!("{} AS {n}", plain(e)))
                .collect();
            return format!(
                "SELECT {} FROM {sources}{}",
                list.join(", "),
                all(&conditions)
            );
        }
        let constant: Vec<String> = conditions
            .iter()
            .filter(|c| !c.contains("controllable__"))
            .cloned()
            .collect();
        // The groups: decision columns among the keys range over their domain.
        let mut group_sources = sources.clone();
        let mut group_keys = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let shown = if key.contains("controllable__") {
                let (domain, column) = self.domain_of(key, select);
                group_sources.push_str(&format!(", {domain} AS domain{i}"));
                format!("domain{i}.{column}")
            } else {
                key.clone()
            };
            group_keys.push(format!("{shown} AS k{i}"));
        }
        let groups = match group_keys.as_slice() {
            [] => "SELECT 1 AS k".to_owned(),
            keys => format!(
                "SELECT DISTINCT {} FROM {group_sources}{}",
                keys.join(", "),
                all(&constant)
            ),
        };
        let mut inside = conditions.clone();
        for (i, key) in keys.iter().enumerate() {
            inside.push(format!("{key} IS g.k{i}"));
        }
        let scalar = |e: &str| {
            let mut expr = parse_expr(&plain(e));
            by_group(&mut expr, &keys);
            // count(*) makes it an aggregate even where only keys are read.
            format!(
                "(SELECT v FROM (SELECT {expr} AS v, count(*) FROM {sources}{}))",
                all(&inside)
            )
        };
        let list: Vec<String> = items
            .iter()
            .map(|(e, n)| format!("{} AS {n}", scalar(e)))
            .collect();
        let having = match &select.having {
            Some(having) => format!(" WHERE {}", scalar(&having.to_string())),
            None => String::new(),
        };
        format!("SELECT {} FROM ({groups}) AS g{having}", list.join(", "))
    }

    /// The referenced table and column of a decision column `alias.controllable__x`.
    fn domain_of(&self, key: &str, select: &Select) -> (String, String) {
        let (alias, column) = key.split_once('.').expect("qualified decision keys");
        let mut table = String::new();
        for t in &select.from {
            for factor in std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)) {
                let text = factor.to_string();
                let mut words = text.split_whitespace();
                let name = words.next().unwrap().to_owned();
                if words.next_back().unwrap_or(&name) == alias {
                    table = name;
                }
            }
        }
        self.connection
            .query_row(
                "SELECT \"table\", \"to\" FROM pragma_foreign_key_list(?1) WHERE \"from\" = ?2",
                [table.as_str(), column],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap()
    }

    /// Writes an assignment into the tables.
    pub fn assign(&self, decisions: &[Decision], choices: &[Option<usize>]) {
        for (decision, choice) in decisions.iter().zip(choices) {
            for (index, column) in decision.columns.iter().enumerate() {
                let value = match choice {
                    Some(c) => literal(&decision.choices[*c][index]),
                    None => "NULL".to_owned(),
                };
                let key: Vec<String> = decision
                    .key
                    .iter()
                    .map(|(k, v)| format!("{k} IS {}", literal(v)))
                    .collect();
                let table = &decision.table;
                let sql = format!(
                    "UPDATE {table} SET {column} = {value} WHERE {}",
                    key.join(" AND ")
                );
                assert_eq!(self.connection.execute(&sql, []).unwrap(), 1, "{sql}");
            }
        }
    }

    /// The broken policies and the tier sums of what the tables hold.
    pub fn verdict(&self) -> Verdict {
        let mut broken = Vec::new();
        let mut tiers = BTreeMap::new();
        for policy in &self.policies {
            let fail = |e: rusqlite::Error| -> f64 { panic!("{e}: {}", policy.sql) };
            if policy.hard {
                let sql = format!("SELECT count(*) FROM ({}) WHERE NOT goal", policy.sql);
                let mut statement = self
                    .connection
                    .prepare_cached(&sql)
                    .unwrap_or_else(|e| panic!("{e}: {sql}"));
                let count: i64 = statement.query_row([], |row| row.get(0)).unwrap();
                if count > 0 {
                    broken.push(policy.name.clone());
                }
            } else {
                let sql = format!("SELECT coalesce(sum(goal), 0) * 1.0 FROM ({})", policy.sql);
                let sum: f64 = self
                    .connection
                    .prepare_cached(&sql)
                    .and_then(|mut s| s.query_row([], |row| row.get(0)))
                    .unwrap_or_else(fail);
                *tiers.entry(policy.tier).or_insert(0.0) += sum * policy.weight as f64;
            }
        }
        (broken, tiers)
    }
}

fn literal(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        other => other.to_string(),
    }
}

/// The sources as a comma list, and all conditions of ON and WHERE.
fn sources(select: &Select) -> (String, Vec<String>) {
    let mut list = Vec::new();
    let mut conditions = Vec::new();
    for table in &select.from {
        list.push(table.relation.to_string());
        for join in &table.joins {
            list.push(join.relation.to_string());
            match &join.join_operator {
                JoinOperator::Join(JoinConstraint::On(e))
                | JoinOperator::Inner(JoinConstraint::On(e)) => conjuncts(e, &mut conditions),
                JoinOperator::Join(JoinConstraint::None)
                | JoinOperator::CrossJoin(JoinConstraint::None) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    if let Some(e) = &select.selection {
        conjuncts(e, &mut conditions);
    }
    (list.join(", "), conditions)
}

/// All assignments, as choices per decision.
pub fn assignments(decisions: &[Decision]) -> impl Iterator<Item = Vec<Option<usize>>> + '_ {
    let sizes: Vec<usize> = decisions
        .iter()
        .map(|d| d.choices.len() + usize::from(d.nullable))
        .collect();
    let total: usize = sizes.iter().product();
    (0..total).map(move |mut n| {
        let mut out = Vec::with_capacity(sizes.len());
        for (size, decision) in sizes.iter().zip(decisions) {
            let digit = n % size;
            n /= size;
            out.push((digit < decision.choices.len()).then_some(digit));
        }
        out
    })
}

/// Holds the compiled graph equal to SQLite on every assignment; returns the best verdict and how many reach it.
pub fn compare_all(state: &str, policies: &str) -> Option<BTreeMap<u32, f64>> {
    let mut problem = match synod_placement::Problem::load(state, policies) {
        Ok(problem) => problem,
        Err(e) => panic!("{e}\n{policies}"),
    };
    let oracle = Oracle::new(state, policies);
    let decisions = problem.decisions();
    let mut best: Option<BTreeMap<u32, f64>> = None;
    for choices in assignments(&decisions) {
        oracle.assign(&decisions, &choices);
        let (mut broken, tiers) = oracle.verdict();
        let judged = problem.judge(&decisions, &choices).unwrap();
        let mut ours: Vec<String> = judged.broken.iter().map(|b| b.policy.clone()).collect();
        ours.sort();
        ours.dedup();
        broken.sort();
        let our_tiers: BTreeMap<u32, f64> =
            judged.tiers.iter().map(|(t, n)| (*t, n.as_f64())).collect();
        let close = |a: &BTreeMap<u32, f64>, b: &BTreeMap<u32, f64>| {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((t, x), (u, y))| t == u && (x - y).abs() < 1e-6)
        };
        assert!(
            ours == broken && close(&our_tiers, &tiers),
            "at {choices:?} of {decisions:#?}\nours   {ours:?} {our_tiers:?}\nSQLite {broken:?} {tiers:?}\n{policies}\n{:#?}",
            oracle.policies
        );
        if broken.is_empty() && best.as_ref().is_none_or(|b| less(&tiers, b)) {
            best = Some(tiers);
        }
    }
    best
}

fn less(a: &BTreeMap<u32, f64>, b: &BTreeMap<u32, f64>) -> bool {
    for (x, y) in a.values().zip(b.values()) {
        if (x - y).abs() > 1e-6 {
            return x < y;
        }
    }
    false
}
