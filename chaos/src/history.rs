//! Histories: what clients asked, and what they were told, in order of time.
//!
//! A history is written as JSON lines, one operation a line, so that other programs can check it:
//!
//! ```text
//! {"client":3,"call":"write","key":"k1","value":"17","start_us":1200,"end_us":5300,"outcome":"ok"}
//! ```
//!
//! `end_us` is null where the client never learnt the outcome: the operation may have taken effect
//! at any time after its start, or never.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Read the key.
    Read,
    /// Replace the key's value.
    Write,
    /// Append to the key's value.
    Append,
}

/// What the client learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Ok,
    /// It certainly did not.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked: a client does one thing at a time.
    pub client: u32,
    /// What was asked.
    pub call: Call,
    /// Of which key.
    pub key: String,
    /// What was written or appended; for a read, what was found.
    pub value: Option<String>,
    /// When it was asked, in microseconds of the world's time.
    pub start_us: u64,
    /// When it was answered; None where the outcome is unknown.
    pub end_us: Option<u64>,
    /// What the client learnt.
    pub outcome: Outcome,
}

/// Writes a history as JSON lines.
pub fn write_json_lines(history: &[Operation], out: &mut impl Write) -> io::Result<()> {
    for operation in history {
        serde_json::to_writer(&mut *out, operation)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
