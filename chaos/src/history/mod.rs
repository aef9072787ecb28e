//! Histories: what clients asked, and what they were told, in order of time.
//!
//! One shape serves all workloads: an *operation* is a transaction of one step or more on string
//! values, asked by one client that does one thing at a time. A checker needs nothing but a history;
//! `FORMAT.md` describes the file formats, so that other programs can check one too.

mod edn;
mod json;

use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::edn::write_edn;
pub use self::json::{read_json_lines, write_json_lines};

/// The client that sets the world up and looks at its end.
pub const OBSERVER: u32 = u32::MAX;

/// What the client learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Ok,
    /// It certainly did not, and never will.
    Failed,
    /// Nobody knows: it may take effect at any time after its start, or never.
    Unknown,
}

/// How an operation was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// One command.
    Single,
    /// `MULTI` … `EXEC`.
    Multi,
    /// `BEGIN` … `COMMIT`.
    Interactive,
    /// `BEGIN SNAPSHOT` … `COMMIT`: reads at one version, which may be older than what others were told.
    Snapshot,
}

/// A value that was read: not answered, absent, or there.
pub type Found = Option<Option<String>>;

/// One step of an operation. Results are absent where the client did not learn them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Step {
    /// Reads a key.
    Read {
        /// Which.
        key: String,
        /// What was there.
        #[serde(
            default,
            deserialize_with = "answered",
            skip_serializing_if = "Option::is_none"
        )]
        value: Found,
    },
    /// Replaces a value.
    Write {
        /// Of which key.
        key: String,
        /// By what.
        value: String,
        /// How long it is to live, if not for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
    },
    /// Writes a value if the key is absent.
    Insert {
        /// Which key.
        key: String,
        /// What.
        value: String,
        /// What was there; the value was written if nothing was.
        #[serde(
            default,
            deserialize_with = "answered",
            skip_serializing_if = "Option::is_none"
        )]
        found: Found,
    },
    /// Deletes a key.
    Delete {
        /// Which.
        key: String,
    },
    /// Appends an element to a list: a string in which a comma follows each element.
    Append {
        /// To which key.
        key: String,
        /// What; unique in the history of the key.
        value: String,
    },
    /// Adds to an integer; an absent one is 0.
    Add {
        /// Which key.
        key: String,
        /// How much.
        delta: i64,
        /// The sum.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sum: Option<i64>,
    },
    /// Reads all keys of a range.
    Range {
        /// The first key of the range.
        from: String,
        /// The first key behind it.
        to: String,
        /// The keys that are there, in order, with their values.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<Vec<(String, String)>>,
    },
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked: a client does one thing at a time.
    pub client: u32,
    /// How it was sent.
    pub how: How,
    /// When it was asked, in microseconds since the world's beginning.
    pub start_us: u64,
    /// When it was answered; None where the outcome is unknown.
    pub end_us: Option<u64>,
    /// What the client learnt.
    pub outcome: Outcome,
    /// Names the transaction, so that it takes effect once however often it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The version that a snapshot read at: two of one version are one state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// What was asked, in order, with what was answered.
    pub steps: Vec<Step>,
    /// What the client was told, where the outcome is not ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Step {
    /// A read that has not been answered yet.
    pub fn read(key: impl Into<String>) -> Self {
        Step::Read {
            key: key.into(),
            value: None,
        }
    }

    /// A write of a value that stays.
    pub fn write(key: impl Into<String>, value: impl Into<String>) -> Self {
        Step::Write {
            key: key.into(),
            value: value.into(),
            ttl_ms: None,
        }
    }

    /// An append.
    pub fn append(key: impl Into<String>, value: impl Into<String>) -> Self {
        Step::Append {
            key: key.into(),
            value: value.into(),
        }
    }

    /// An addition that has not been answered yet.
    pub fn add(key: impl Into<String>, delta: i64) -> Self {
        Step::Add {
            key: key.into(),
            delta,
            sum: None,
        }
    }

    /// A read of a range that has not been answered yet.
    pub fn range(from: impl Into<String>, to: impl Into<String>) -> Self {
        Step::Range {
            from: from.into(),
            to: to.into(),
            rows: None,
        }
    }

    /// The key; for a range, its beginning.
    pub fn key(&self) -> &str {
        match self {
            Step::Read { key, .. }
            | Step::Write { key, .. }
            | Step::Insert { key, .. }
            | Step::Delete { key }
            | Step::Append { key, .. }
            | Step::Add { key, .. }
            | Step::Range { from: key, .. } => key,
        }
    }

    /// Whether it may change something.
    pub fn writes(&self) -> bool {
        match self {
            Step::Read { .. } | Step::Range { .. } => false,
            Step::Write { .. }
            | Step::Insert { .. }
            | Step::Delete { .. }
            | Step::Append { .. }
            | Step::Add { .. } => true,
        }
    }
}

impl Operation {
    /// An operation that took effect, asked and answered at these times.
    pub fn done(client: u32, how: How, times_us: Range<u64>, steps: Vec<Step>) -> Self {
        Self {
            client,
            how,
            start_us: times_us.start,
            end_us: Some(times_us.end),
            outcome: Outcome::Ok,
            token: None,
            version: None,
            steps,
            error: None,
        }
    }

    /// The same with another outcome; what is unknown has no end.
    #[must_use]
    pub fn ended(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self.end_us = self.end_us.filter(|_| outcome != Outcome::Unknown);
        self
    }

    /// Whether it only reads.
    pub fn only_reads(&self) -> bool {
        !self.steps.iter().any(Step::writes)
    }

    /// Whether it was answered before the other was asked.
    pub fn precedes(&self, later: &Operation) -> bool {
        self.end_us.is_some_and(|end_us| end_us < later.start_us)
    }
}

/// The elements of a list's value.
pub fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split_terminator(',')
}

/// A field that is there was answered, also where it is null.
fn answered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Found, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
