//! What SQLite's catalogue tells about a table: columns, declared types, keys, references.

use super::{Symbols, Tables, Value, quoted};
use crate::error::{Place, Result};

/// A column's declared type, after SQLite's rules of affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// INT in the declared type.
    Integer,
    /// REAL, FLOA or DOUB.
    Real,
    /// CHAR, CLOB or TEXT.
    Text,
    /// Anything else: the values decide.
    Any,
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name as declared.
    pub name: String,
    /// Its declared type.
    pub affinity: Affinity,
}

/// A foreign key.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    /// The referenced table's name.
    pub table: String,
    /// (position of the referencing column, name of the referenced one; `None`: the primary key's).
    pub columns: Vec<(usize, Option<String>)>,
}

/// A table's shape.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Its name as declared.
    pub name: String,
    /// The columns in order.
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns, in key order; empty without one.
    pub primary_key: Vec<usize>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
}

impl Schema {
    /// The position of a column, whatever its case.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// Reads the schema of `table`; `None` if there is no such table.
    pub fn read(tables: &Tables, table: &str, symbols: &mut Symbols) -> Result<Option<Schema>> {
        let found = tables.rows_with(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1)",
            &[Value::Text(symbols.intern(table))],
            None,
            symbols,
        )?;
        let Some([Value::Text(name)]) = found.first().map(|row| &**row) else {
            return Ok(None);
        };
        let name = symbols.text(*name).to_owned();
        let info = tables.rows(
            &format!("PRAGMA table_info({})", quoted(&name)),
            None,
            symbols,
        )?;
        let mut columns = Vec::new();
        let mut key = Vec::new();
        for (index, row) in info.iter().enumerate() {
            let [
                _,
                Value::Text(column),
                Value::Text(declared),
                _,
                _,
                Value::Integer(rank),
            ] = **row
            else {
                // The default value may be of any type; only the shape of the others is fixed.
                let (Value::Text(column), Value::Text(declared)) = (row[1], row[2]) else {
                    continue;
                };
                columns.push(column_of(symbols, column, declared));
                continue;
            };
            columns.push(column_of(symbols, column, declared));
            if rank > 0 {
                key.push((rank, index));
            }
        }
        key.sort_unstable();
        let foreign_keys = foreign_keys(tables, &name, &columns, symbols)?;
        let primary_key = key.into_iter().map(|(_, index)| index).collect();
        Ok(Some(Schema {
            name,
            columns,
            primary_key,
            foreign_keys,
        }))
    }

    /// The columns of a view of constants, whose types only its values tell.
    pub fn of_view(tables: &Tables, name: &str, place: Place) -> Result<Schema> {
        let names = tables.columns_of(&format!("SELECT * FROM {}", quoted(name)), place)?;
        let columns = names
            .into_iter()
            .map(|name| Column {
                name,
                affinity: Affinity::Any,
            })
            .collect();
        let name = name.to_owned();
        Ok(Schema {
            name,
            columns,
            primary_key: Vec::new(),
            foreign_keys: Vec::new(),
        })
    }
}

fn column_of(symbols: &Symbols, name: super::Symbol, declared: super::Symbol) -> Column {
    let name = symbols.text(name).to_owned();
    let affinity = affinity(symbols.text(declared));
    Column { name, affinity }
}

/// SQLite's rules, in their order (BLOB and NUMERIC leave it to the values).
fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |part: &str| declared.contains(part);
    if has("INT") {
        Affinity::Integer
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Affinity::Text
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        Affinity::Real
    } else {
        Affinity::Any
    }
}

fn foreign_keys(
    tables: &Tables,
    name: &str,
    columns: &[Column],
    symbols: &mut Symbols,
) -> Result<Vec<ForeignKey>> {
    let sql = format!(
        "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list({}) ORDER BY id, seq",
        format_args!("'{}'", name.replace('\'', "''"))
    );
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    for row in tables.rows(&sql, None, symbols)? {
        let [
            Value::Integer(id),
            Value::Text(table),
            Value::Text(from),
            to,
        ] = *row
        else {
            continue;
        };
        let from = symbols.text(from);
        let Some(position) = columns
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(from))
        else {
            continue;
        };
        let to = match to {
            Value::Text(to) => Some(symbols.text(to).to_owned()),
            Value::Null | Value::Integer(_) | Value::Decimal(_) => None,
        };
        if keys.last().is_none_or(|(last, _)| *last != id) {
            let table = symbols.text(table).to_owned();
            keys.push((
                id,
                ForeignKey {
                    table,
                    columns: Vec::new(),
                },
            ));
        }
        if let Some((_, key)) = keys.last_mut() {
            key.columns.push((position, to));
        }
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}
