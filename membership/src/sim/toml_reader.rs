//! Reading TOML so that every complaint names its key.
//!
//! Derived deserialisers say where a syntax error is, but not which of forty events holds the wrong
//! value, and cannot check a value against another key. A [`Reader`] is a table with a path;
//! each accessor takes a key out, checks it, and whatever is left at the end is an unknown key.

use std::ops::RangeInclusive;

use toml::{Table, Value};

use super::scenario::ScenarioError;

/// One table of the file and where it stands.
pub struct Reader {
    path: String,
    table: Table,
}

impl Reader {
    /// A reader of `table`; `path` is empty for the root.
    pub fn new(path: &str, table: Table) -> Reader {
        Reader {
            path: path.to_owned(),
            table,
        }
    }

    /// A complaint about `key`.
    pub fn error(&self, key: &str, problem: &str) -> ScenarioError {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        ScenarioError {
            path,
            problem: problem.to_owned(),
        }
    }

    /// Whether `key` is given and not read yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The first key that nothing has read is an error.
    pub fn finish(&self) -> Result<(), ScenarioError> {
        match self.table.keys().next() {
            Some(key) => Err(self.error(key, "unknown key")),
            None => Ok(()),
        }
    }

    /// An integer of a range.
    pub fn integer(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        let Value::Integer(number) = value else {
            return Err(self.error(key, &wrong_type("an integer", &value)));
        };
        match u64::try_from(number) {
            Ok(fits) if range.contains(&fits) => Ok(Some(fits)),
            Ok(_) | Err(_) => Err(self.error(key, &format!("{number} is not in {range:?}"))),
        }
    }

    /// A time in milliseconds, as microseconds.
    pub fn millis(&mut self, key: &str) -> Result<Option<u64>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        self.to_micros(key, &value).map(Some)
    }

    /// One time for both ends, or `[least, most]`.
    pub fn millis_range(&mut self, key: &str) -> Result<Option<(u64, u64)>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        match &value {
            Value::Array(ends) => match ends.as_slice() {
                [least, most] => Ok(Some((
                    self.to_micros(key, least)?,
                    self.to_micros(key, most)?,
                ))),
                _ => Err(self.error(key, "must be a number or [least, most]")),
            },
            one => self.to_micros(key, one).map(|us| Some((us, us))),
        }
    }

    fn to_micros(&self, key: &str, value: &Value) -> Result<u64, ScenarioError> {
        /// A year: later than any run, early enough for sums not to overflow.
        const MILLIS_MAX: f64 = 365.0 * 86_400_000.0;
        let millis = match value {
            Value::Integer(number) => *number as f64,
            Value::Float(number) => *number,
            other => return Err(self.error(key, &wrong_type("a number", other))),
        };
        if !(0.0..=MILLIS_MAX).contains(&millis) {
            return Err(self.error(key, &format!("{value} is not in 0..={MILLIS_MAX}")));
        }
        Ok((millis * 1_000.0).round() as u64)
    }

    /// A probability.
    pub fn rate(&mut self, key: &str) -> Result<Option<f64>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        let rate = match value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            ref other => return Err(self.error(key, &wrong_type("a number", other))),
        };
        if !(0.0..=1.0).contains(&rate) {
            return Err(self.error(key, &format!("{value} is not in 0..=1")));
        }
        Ok(Some(rate))
    }

    /// One of several names.
    pub fn name<T: Copy>(
        &mut self,
        key: &str,
        names: &[(&str, T)],
    ) -> Result<Option<T>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        let Value::String(given) = value else {
            return Err(self.error(key, &wrong_type("a string", &value)));
        };
        match names.iter().find(|(name, _)| *name == given) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                Err(self.error(
                    key,
                    &format!("{given:?} is not one of {}", known.join(", ")),
                ))
            }
        }
    }

    /// Distinct node numbers in the order given, `"a-b"` being a range; all below `nodes`.
    pub fn nodes(&mut self, key: &str, nodes: u32) -> Result<Option<Vec<u32>>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        let Value::Array(items) = value else {
            return Err(self.error(key, &wrong_type("a list of node numbers", &value)));
        };
        let mut listed = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = format!("{key}[{index}]");
            let (first, last) = match item {
                Value::Integer(number) => (*number, *number),
                Value::String(range) => range
                    .split_once('-')
                    .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)))
                    .ok_or_else(|| self.error(&place, "must be a number or \"first-last\""))?,
                other => return Err(self.error(&place, &wrong_type("a node number", other))),
            };
            for node in [first, last] {
                if !(0..i64::from(nodes)).contains(&node) {
                    let problem = format!("there is no node {node}: the nodes are 0-{}", nodes - 1);
                    return Err(self.error(&place, &problem));
                }
            }
            if first > last {
                return Err(self.error(&place, "the range ends before it begins"));
            }
            for node in first..=last {
                if listed.contains(&(node as u32)) {
                    return Err(self.error(&place, &format!("names node {node} a second time")));
                }
                listed.push(node as u32);
            }
        }
        Ok(Some(listed))
    }

    /// A list of tables.
    pub fn tables(&mut self, key: &str) -> Result<Vec<Reader>, ScenarioError> {
        let Some(value) = self.table.remove(key) else {
            return Ok(Vec::new());
        };
        let Value::Array(items) = value else {
            return Err(self.error(key, &wrong_type("a list of tables", &value)));
        };
        items
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                let place = format!("{key}[{index}]");
                match item {
                    Value::Table(table) => Ok(Reader::new(&place, table)),
                    other => Err(self.error(&place, &wrong_type("a table", &other))),
                }
            })
            .collect()
    }
}

fn wrong_type(wanted: &str, got: &Value) -> String {
    let article = if got.type_str().starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("must be {wanted}, not {article} {}", got.type_str())
}
