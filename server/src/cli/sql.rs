//! `synod sql`: read-only SQL over the cluster's tables. The controller gives the tables, this process runs the query.

use std::process::ExitCode;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Map, Value};
use synod_client::{Client, Command, Error};

use super::{Failure, address::Server};
use crate::status::Report;

/// `synod sql`.
#[derive(Debug, clap::Args)]
pub struct Sql {
    #[command(flatten)]
    server: Server,
    /// One SELECT over nodes, shards, replicas, leaders, moves, policies, plans
    query: String,
    /// Print each row as a JSON object on a line
    #[arg(long)]
    json: bool,
}

impl Sql {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let tables = super::runtime()?.block_on(tables(&self.server))?;
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

/// A client of the node that places replicas.
pub(super) async fn controller(server: &Server) -> Result<Client, Failure> {
    let mut client = server.client();
    let answer = client
        .call_once(&Command::read("SYNOD").arg("STATUS"))
        .await;
    let json = answer.and_then(synod_client::Value::into_bytes);
    let json = json.map_err(|error| failed(&client, error))?;
    let report: Report = serde_json::from_slice(&json.unwrap_or_default())
        .map_err(|error| Failure::Failed(format!("the node's report is no JSON: {error}")))?;
    let controls = |member: &&crate::status::Member| Some(&member.id) == report.controller.as_ref();
    let member = report.view.members.iter().find(controls);
    let member = member.ok_or_else(|| {
        let why = "nobody is known to place replicas now: try again in a few seconds";
        Failure::Failed(why.to_owned())
    })?;
    let address = member.client.parse();
    let address = address.map_err(|_| Failure::Failed(format!("no address: {}", member.client)))?;
    let there = Server {
        addr: vec![address],
        password: server.password.clone(),
    };
    Ok(there.client())
}

/// The cluster's tables.
pub(super) async fn tables(server: &Server) -> Result<Map<String, Value>, Failure> {
    let mut client = controller(server).await?;
    let answer = client
        .call_once(&Command::read("SYNOD").arg("TABLES"))
        .await;
    let json = answer.and_then(synod_client::Value::into_bytes);
    let json = json.map_err(|error| failed(&client, error))?;
    serde_json::from_slice(&json.unwrap_or_default())
        .map_err(|error| Failure::Failed(format!("the tables are no JSON: {error}")))
}

pub(super) fn failed(client: &Client, error: Error) -> Failure {
    Failure::Client {
        address: client.address().to_owned(),
        error,
    }
}

fn query(tables: &Map<String, Value>, sql: &str) -> rusqlite::Result<Vec<Map<String, Value>>> {
    let connection = Connection::open_in_memory()?;
    for (name, rows) in tables {
        fill(
            &connection,
            name,
            rows.as_array().map_or(&[][..], Vec::as_slice),
        )?;
    }
    connection.pragma_update(None, "query_only", true)?;
    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
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

/// Creates a table with the columns of its rows. The names are the node's own, not a user's.
fn fill(connection: &Connection, name: &str, rows: &[Value]) -> rusqlite::Result<()> {
    let Some(Value::Object(first)) = rows.first() else {
        return connection.execute_batch(&format!("CREATE TABLE \"{name}\" (empty)"));
    };
    let columns: Vec<String> = first.keys().map(|column| format!("\"{column}\"")).collect();
    connection.execute_batch(&format!("CREATE TABLE \"{name}\" ({})", columns.join(", ")))?;
    let marks = vec!["?"; columns.len()].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO \"{name}\" VALUES ({marks})"))?;
    for row in rows {
        let cells = first.keys().map(|column| match row.get(column) {
            Some(Value::Number(n)) => {
                rusqlite::types::Value::Integer(n.as_i64().unwrap_or(i64::MAX))
            }
            Some(Value::String(text)) => rusqlite::types::Value::Text(text.clone()),
            Some(Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_)) | None => {
                rusqlite::types::Value::Null
            }
        });
        insert.execute(rusqlite::params_from_iter(cells))?;
    }
    Ok(())
}
