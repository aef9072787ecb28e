//! `synod sql`: read-only SQL over the cluster's tables. The controller gives the tables, this process runs the query.

use std::collections::BTreeMap;
use std::process::ExitCode;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Map, Value};

use super::{Failure, address::Server, asked, controller, question, read};

/// `synod sql`.
#[derive(Debug, clap::Args)]
pub struct Sql {
    #[command(flatten)]
    server: Server,
    /// One SELECT over nodes, shards, replicas, leaders, moves, policies, plans, views
    query: String,
    /// Print each row as a JSON object on a line
    #[arg(long)]
    json: bool,
}

impl Sql {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let tables = super::runtime()?.block_on(tables(&self.server, &[]))?;
        let rows = query(&tables, &self.query)
            .map_err(|error| Failure::Usage(format!("the query: {error}")))?;
        for row in rows {
            if self.json {
                println!("{}", Value::Object(row));
            } else {
                let cells: Vec<String> = row.values().map(shown).collect();
                println!("{}", cells.join("\t"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
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

fn query(tables: &Tables, sql: &str) -> rusqlite::Result<Vec<Map<String, Value>>> {
    let connection = Connection::open_in_memory()?;
    for (name, table) in tables {
        fill(&connection, name, table)?;
    }
    connection.pragma_update(None, "query_only", true)?;
    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let mut object = Map::new();
        for (column, name) in names.iter().enumerate() {
            let value = match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => n.into(),
                ValueRef::Real(x) => x.into(),
                ValueRef::Text(text) | ValueRef::Blob(text) => {
                    String::from_utf8_lossy(text).into_owned().into()
                }
            };
            object.insert(name.clone(), value);
        }
        rows.push(object);
    }
    Ok(rows)
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
            Value::Number(n) => rusqlite::types::Value::Integer(n.as_i64().unwrap_or(i64::MAX)),
            Value::String(text) => rusqlite::types::Value::Text(text.clone()),
            Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
                rusqlite::types::Value::Null
            }
        });
        insert.execute(rusqlite::params_from_iter(cells))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Tables {
        let json = r#"{
            "nodes": { "columns": ["node_id", "rack"], "rows": [["a", null], ["b", "r1"]] },
            "moves": { "columns": ["shard_id", "why"], "rows": [] }
        }"#;
        serde_json::from_str(json).expect("the tables of a node")
    }

    #[test]
    fn rows_are_objects_and_null_stays_null() {
        let rows = query(&cluster(), "SELECT node_id, rack FROM nodes ORDER BY 1").expect("rows");
        let expected = [
            serde_json::json!({ "node_id": "a", "rack": null }),
            serde_json::json!({ "node_id": "b", "rack": "r1" }),
        ];
        let rows: Vec<Value> = rows.into_iter().map(Value::Object).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn an_empty_table_has_its_columns() {
        let rows = query(&cluster(), "SELECT why FROM moves WHERE shard_id = 3").expect("no error");
        assert_eq!(rows, []);
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
