//! The state as tables: an in-memory SQLite holds it, and whatever is constant is evaluated there.
//!
//! SQLite is the authority for rows and for all SQL over constants. The columns that policies join and
//! group by are mirrored as interned [`Value`]s (see [`mirror`]), because the compiler meets each row many times.
//! What SQLite's catalogue knows (keys, references, declared types) is read from it ([`schema`]); only
//! the decision columns' own words come from the parsed `CREATE TABLE`.

mod mirror;
mod schema;
mod value;

pub use mirror::Mirror;
pub use schema::{Affinity, Column, ForeignKey, Schema};
pub use value::{MILLION, Symbol, Symbols, Value, millionths};

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{Value as SqliteValue, ValueRef};
use rusqlite::{Connection, ErrorCode};

use crate::error::{Error, ErrorKind, Place, Result};

/// SQLite's machine is looked at once in so many of its instructions.
const STRIDE: i32 = 100_000;
/// The most strides of one statement: 200 million instructions, a second or two. Counted, so that what is refused does
/// not depend on the machine.
const STRIDES_MAX: u32 = 2_000;
/// The most rows of one query over constants.
const ROWS_MAX: usize = 8_000_000;

/// What gives another answer each time, or reaches outside: the same inputs have the same answer.
const UNSTEADY: [&str; 13] = [
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "julianday",
    "load_extension",
    "random",
    "randomblob",
    "strftime",
    "time",
    "timediff",
    "unixepoch",
];
/// How SQLite says that one of them was met.
const DENIED: &str = "not authorized to use function: ";

/// An in-memory SQLite database. Every statement is bounded: a recursion may have no end.
#[derive(Debug)]
pub struct Tables {
    connection: Connection,
    /// Strides of the statement that runs.
    strides: Arc<AtomicU32>,
}

impl Tables {
    /// An empty database.
    pub fn new() -> Result<Tables> {
        let mut connection =
            Connection::open_in_memory().map_err(|e| sqlite_error(None, "", &e))?;
        // A misspelt "column" must be an error, not a text.
        for config in [
            DbConfig::SQLITE_DBCONFIG_DQS_DML,
            DbConfig::SQLITE_DBCONFIG_DQS_DDL,
        ] {
            connection
                .set_db_config(config, false)
                .map_err(|e| sqlite_error(None, "", &e))?;
        }
        connection
            .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF; BEGIN;")
            .map_err(|e| sqlite_error(None, "", &e))?;
        connection.set_prepared_statement_cache_capacity(256);
        let strides = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&strides);
        let is_enough = move || counted.fetch_add(1, Ordering::Relaxed) >= STRIDES_MAX;
        connection
            .progress_handler(STRIDE, Some(is_enough))
            .map_err(|e| sqlite_error(None, "", &e))?;
        let is_steady = |context: AuthContext<'_>| match context.action {
            AuthAction::Function { function_name } if is_unsteady(function_name) => {
                Authorization::Deny
            }
            _ => Authorization::Allow,
        };
        connection
            .authorizer(Some(is_steady))
            .map_err(|e| sqlite_error(None, "", &e))?;
        Ok(Tables {
            connection,
            strides,
        })
    }

    /// Runs one statement that returns no rows; errors stand at `place`, where `sql` starts.
    pub fn execute(&self, sql: &str, place: Place) -> Result<()> {
        self.strides.store(0, Ordering::Relaxed);
        self.connection
            .execute_batch(sql)
            .map_err(|e| sqlite_error(Some(place), sql, &e))
    }

    /// Drops a view if SQLite has it.
    pub fn drop_view(&self, name: &str) -> Result<()> {
        let sql = format!("DROP VIEW IF EXISTS {}", quoted(name));
        self.connection
            .execute_batch(&sql)
            .map_err(|e| sqlite_error(None, &sql, &e))
    }

    /// An empty stand-in, while the database moves on.
    pub fn successor(&self) -> Result<Tables> {
        Tables::new()
    }

    /// Prepares `sql` and returns the names of its columns: whether SQLite can run it at all.
    pub fn columns_of(&self, sql: &str, place: Place) -> Result<Vec<String>> {
        let statement = self
            .connection
            .prepare(sql)
            .map_err(|e| sqlite_error(Some(place), sql, &e))?;
        Ok(statement.column_names().map(str::to_owned).collect())
    }

    /// All rows of a query.
    pub fn rows(
        &self,
        sql: &str,
        place: Option<Place>,
        symbols: &mut Symbols,
    ) -> Result<Vec<Box<[Value]>>> {
        self.rows_with(sql, &[], place, symbols)
    }

    /// All rows of a query with parameters `?1`, `?2`, ….
    pub fn rows_with(
        &self,
        sql: &str,
        parameters: &[Value],
        place: Option<Place>,
        symbols: &mut Symbols,
    ) -> Result<Vec<Box<[Value]>>> {
        let fail = |e: rusqlite::Error| sqlite_error(place, sql, &e);
        self.strides.store(0, Ordering::Relaxed);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let bound: Vec<SqliteValue> = parameters
            .iter()
            .map(|value| match *value {
                Value::Null => SqliteValue::Null,
                Value::Integer(n) => SqliteValue::Integer(n),
                Value::Decimal(n) => SqliteValue::Real(n as f64 / MILLION as f64),
                Value::Text(s) => SqliteValue::Text(symbols.text(s).to_owned()),
            })
            .collect();
        let width = statement.column_count();
        let mut rows = statement
            .query(rusqlite::params_from_iter(bound))
            .map_err(fail)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(fail)? {
            let mut cells = Vec::with_capacity(width);
            for index in 0..width {
                let cell = row.get_ref(index).map_err(fail)?;
                let value = from_sqlite(cell, symbols).map_err(|why| Error {
                    kind: ErrorKind::Type,
                    place,
                    message: format!(
                        "column {}: {why}",
                        row.as_ref().column_name(index).unwrap_or("?")
                    ),
                })?;
                cells.push(value);
            }
            if out.len() == ROWS_MAX {
                return Err(Error {
                    kind: ErrorKind::Limit,
                    place,
                    message: format!("more than {ROWS_MAX} rows"),
                });
            }
            out.push(cells.into_boxed_slice());
        }
        Ok(out)
    }
}

fn is_unsteady(function: &str) -> bool {
    UNSTEADY
        .iter()
        .any(|name| name.eq_ignore_ascii_case(function))
}

fn from_sqlite(cell: ValueRef<'_>, symbols: &mut Symbols) -> std::result::Result<Value, String> {
    match cell {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(n) => Ok(Value::Integer(n)),
        ValueRef::Real(x) => match millionths(&format!("{x}")) {
            Some(n) => Ok(Value::Decimal(n)),
            None if x.abs() < 1e15 => Err(format!("{x} is not a decimal of at most 6 places")),
            None => Err(format!("{x:e} is out of range")),
        },
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(symbols.intern(text))),
            Err(_) => Err("a text that is not UTF-8".to_owned()),
        },
        ValueRef::Blob(_) => Err("a BLOB".to_owned()),
    }
}

/// An error of SQLite with the line and column of the offending token where SQLite tells it.
fn sqlite_error(place: Option<Place>, sql: &str, error: &rusqlite::Error) -> Error {
    let (message, offset, code) = match error {
        rusqlite::Error::SqlInputError {
            error, msg, offset, ..
        } => (msg.clone(), usize::try_from(*offset).ok(), Some(error.code)),
        rusqlite::Error::SqliteFailure(code, Some(message)) => {
            (message.clone(), None, Some(code.code))
        }
        other => (other.to_string(), None, other.sqlite_error_code()),
    };
    let unnamed = message.starts_with("no such") || message.starts_with("ambiguous");
    let kind = if unnamed || message.contains("circularly defined") {
        ErrorKind::Name
    } else if message.contains("syntax error") || message.contains("incomplete input") {
        ErrorKind::Syntax
    } else if message.contains("overflow") {
        ErrorKind::Arithmetic
    } else if code == Some(ErrorCode::TooBig) || code == Some(ErrorCode::OperationInterrupted) {
        ErrorKind::Limit
    } else {
        ErrorKind::Sql
    };
    if let Some(function) = message.strip_prefix(DENIED) {
        let function = function.to_ascii_lowercase();
        let message = format!("{function}() over constants: its answer is another each time");
        return Error {
            kind: ErrorKind::Unsupported,
            place,
            message,
        };
    }
    let message = match code {
        Some(ErrorCode::OperationInterrupted) => format!(
            "more than {} million steps: a recursion without an end, or a join without a condition?",
            u64::from(STRIDES_MAX) * STRIDE.unsigned_abs() as u64 / 1_000_000
        ),
        _ => message,
    };
    let place = place.map(|place| match offset {
        Some(offset) if offset <= sql.len() => advance(place, &sql.as_bytes()[..offset]),
        _ => place,
    });
    Error {
        kind,
        place,
        message,
    }
}

/// The place after `passed`, which starts at `place`.
fn advance(place: Place, passed: &[u8]) -> Place {
    let mut at = place;
    for &byte in passed {
        if byte == b'\n' {
            at.line += 1;
            at.column = 1;
        } else if byte & 0xC0 != 0x80 {
            at.column += 1;
        }
    }
    at
}

/// An identifier quoted for SQLite.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
