//! `synod sql`: read-only SQL over the cluster's tables. The controller gives the tables, this process runs the query.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::{Failure, address::Server, asked, controller, question, read};

/// `synod sql`.
#[derive(Debug, clap::Args)]
pub struct Sql {
    #[command(flatten)]
    server: Server,
    /// One SELECT over nodes, shards, replicas, leaders, moves, policies, plans, views
    query: String,
    /// Print each row as a JSON object on a line; else the columns' names come first
    #[arg(long)]
    json: bool,
}

/// What a query found: the columns in the order of the query, and the rows.
#[derive(Debug, PartialEq)]
struct Found {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// A row as a JSON object whose members are in the order of the query.
struct Object<'a>(&'a [String], &'a [Value]);

impl serde::Serialize for Object<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

impl Sql {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let tables = super::runtime()?.block_on(tables(&self.server, &[]))?;
        let found = query(&tables, &self.query)
            .map_err(|error| Failure::Usage(format!("the query: {error}")))?;
        print!("{}", self.text(&found)?);
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self, found: &Found) -> Result<String, Failure> {
        let Found { columns, rows } = found;
        if !self.json {
            let cells = rows.iter().map(|row| row.iter().map(shown).collect());
            let lines: Vec<Vec<String>> = std::iter::once(columns.clone()).chain(cells).collect();
            return Ok(aligned(&lines));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|name| !seen.insert(*name)) {
            let why = format!("two columns are called {twice}: name one with AS");
            return Err(Failure::Usage(why));
        }
        let mut text = String::new();
        for row in rows {
            let json = serde_json::to_string(&Object(columns, row))
                .map_err(|error| Failure::Failed(format!("cannot print a row: {error}")))?;
            text.push_str(&json);
            text.push('\n');
        }
        Ok(text)
    }
}

/// Lines whose cells stand below each other, two spaces apart.
fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A table as the controller sends it.
#[derive(Debug, serde::Deserialize)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// Tables by name.
type Tables = BTreeMap<String, Table>;

/// The cluster's tables of these names, or all.
async fn tables(server: &Server, names: &[&str]) -> Result<Tables, Failure> {
    let mut client = controller(server).await?.client();
    let question = question("TABLES").args(names);
    let json = asked(&mut client, &question).await?;
    read(&json, "the answer")
}

/// The replicas on the node whose id begins with these digits.
pub(super) async fn replicas_on(server: &Server, node: &str) -> Result<usize, Failure> {
    let tables = tables(server, &["replicas"]).await?;
    let Some(replicas) = tables.get("replicas") else {
        return Ok(0);
    };
    let at = replicas.columns.iter().position(|it| it == "current_node");
    let there = replicas.rows.iter().filter(|row| {
        let here = at.and_then(|at| row.get(at)).and_then(Value::as_str);
        here.is_some_and(|here| here.starts_with(node))
    });
    Ok(there.count())
}

fn query(tables: &Tables, sql: &str) -> rusqlite::Result<Found> {
    let connection = Connection::open_in_memory()?;
    for (name, table) in tables {
        fill(&connection, name, table)?;
    }
    connection.pragma_update(None, "query_only", true)?;
    let mut statement = connection.prepare(sql)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells = (0..columns.len()).map(|column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => n.into(),
                ValueRef::Real(x) => x.into(),
                ValueRef::Text(text) | ValueRef::Blob(text) => {
                    String::from_utf8_lossy(text).into_owned().into()
                }
            })
        });
        rows.push(cells.collect::<rusqlite::Result<Vec<Value>>>()?);
    }
    Ok(Found { columns, rows })
}

/// Creates a table and its rows. The names are the node's own, not a user's.
fn fill(connection: &Connection, name: &str, table: &Table) -> rusqlite::Result<()> {
    let columns = table.columns.iter().map(|name| format!("\"{name}\""));
    let columns: Vec<String> = columns.collect();
    connection.execute_batch(&format!("CREATE TABLE \"{name}\" ({})", columns.join(", ")))?;
    let marks = vec!["?"; columns.len()].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO \"{name}\" VALUES ({marks})"))?;
    for row in &table.rows {
        let cells = row.iter().map(|cell| match cell {
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => rusqlite::types::Value::Integer(n),
                (None, Some(x)) if n.is_f64() => rusqlite::types::Value::Real(x),
                (None, _) => rusqlite::types::Value::Integer(i64::MAX),
            },
            Value::Bool(yes) => rusqlite::types::Value::Integer(i64::from(*yes)),
            Value::String(text) => rusqlite::types::Value::Text(text.clone()),
            Value::Null | Value::Array(_) | Value::Object(_) => rusqlite::types::Value::Null,
        });
        insert.execute(rusqlite::params_from_iter(cells))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn cluster() -> Tables {
        let json = r#"{
            "nodes": { "columns": ["node_id", "rack"], "rows": [["a", null], ["b", "r1"]] },
            "moves": { "columns": ["shard_id", "why"], "rows": [] }
        }"#;
        serde_json::from_str(json).expect("the tables of a node")
    }

    fn printed(json: bool, query: &str) -> Result<String, Failure> {
        let sql = Line::try_parse_from(["sql", query]).expect("a command line");
        let found = super::query(&cluster(), query).expect("a query");
        Sql { json, ..sql.sql }.text(&found)
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        sql: Sql,
    }

    #[test]
    fn rows_are_objects_in_the_order_of_the_query_and_null_stays_null() {
        let text = printed(true, "SELECT rack, node_id FROM nodes ORDER BY 2").expect("rows");
        assert_eq!(
            text,
            "{\"rack\":null,\"node_id\":\"a\"}\n{\"rack\":\"r1\",\"node_id\":\"b\"}\n"
        );
    }

    #[test]
    fn columns_have_their_names_above_them() {
        let text = printed(false, "SELECT rack, node_id AS id FROM nodes ORDER BY 2");
        assert_eq!(text.expect("rows"), "rack  id\n-     a\nr1    b\n");
    }

    #[test]
    fn an_object_has_no_member_twice() {
        let error = printed(true, "SELECT node_id, node_id FROM nodes").expect_err("twice");
        assert!(error.to_string().contains("AS"), "{error}");
    }

    #[test]
    fn fractions_are_kept() {
        let json = r#"{ "t": { "columns": ["x", "n"], "rows": [[0.5, 7]] } }"#;
        let tables: Tables = serde_json::from_str(json).expect("tables");
        let found = query(&tables, "SELECT x * 2, n FROM t").expect("rows");
        assert_eq!(found.rows, [[serde_json::json!(1.0), serde_json::json!(7)]]);
    }

    #[test]
    fn an_empty_table_has_its_columns() {
        let found = query(&cluster(), "SELECT why FROM moves WHERE shard_id = 3");
        assert_eq!(found.expect("no error").rows, Vec::<Vec<Value>>::new());
    }

    #[test]
    fn nothing_is_changed_and_what_is_wrong_is_said() {
        for (sql, word) in [
            ("DELETE FROM nodes", "readonly"),
            ("SELECT colour FROM nodes", "no such column"),
            ("SELECT * FROM nowhere", "no such table"),
        ] {
            let error = query(&cluster(), sql).expect_err(sql).to_string();
            assert!(error.contains(word), "{sql}: {error}");
        }
    }
}
