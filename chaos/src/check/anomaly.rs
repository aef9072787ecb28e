//! What a checker found.

use std::fmt;

use crate::history::Operation;

/// Something that no correct store could have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name in the literature, or a plain one: `G-single-realtime`, `lost update`.
    pub name: String,
    /// What is wrong, in words.
    pub what: String,
    /// The operations that show it, as few as the checker could find.
    pub witness: Vec<Operation>,
}

impl Anomaly {
    /// An anomaly, shown by these operations.
    pub fn new<'a>(
        name: impl Into<String>,
        what: impl Into<String>,
        witness: impl IntoIterator<Item = &'a Operation>,
    ) -> Self {
        Self {
            name: name.into(),
            what: what.into(),
            witness: witness.into_iter().cloned().collect(),
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)?;
        for operation in &self.witness {
            let line = serde_json::to_string(operation).map_err(|_| fmt::Error)?;
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}
