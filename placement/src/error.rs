//! Errors of placement: what is wrong, and where it stands.
//!
//! Everything a user writes (state and policies) can be wrong, and the answer is then always an [`Error`]:
//! a class, a message that names the construct, and its place. Nothing is dropped in silence and nothing
//! panics. An error leaves the problem it was raised on unchanged unless its method says otherwise.

use std::fmt;

/// Which of the texts a place is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The state: tables and rows.
    State,
    /// The policies: views and constraints.
    Policies,
    /// Policies that are to join them, or to replace some.
    NewPolicies,
    /// Changes of the state that are supposed.
    Change,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::State => f.write_str("state"),
            Source::Policies => f.write_str("policies"),
            Source::NewPolicies => f.write_str("new policies"),
            Source::Change => f.write_str("change"),
        }
    }
}

/// A position in one of the texts; lines and columns (in characters) count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The text.
    pub source: Source,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// The start of a text.
    pub fn start(source: Source) -> Place {
        Place {
            source,
            line: 1,
            column: 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

/// The class of an error; all of them mean exit 2 at the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text is not SQL of the dialect.
    Syntax,
    /// Legal SQL that the dialect does not compile; the message names the construct.
    Unsupported,
    /// A table, column, view or function that does not exist, or is ambiguous, or exists twice.
    Name,
    /// Text met a number, or a value does not fit its column.
    Type,
    /// A decision column without a usable domain, or a present value that contradicts it.
    Domain,
    /// Overflow of 64 bits, a divisor that can be 0, a decimal of more than six places.
    Arithmetic,
    /// A bound on size was passed: tokens, rows of a join, groups.
    Limit,
    /// SQLite refused a statement.
    Sql,
    /// Wrong arguments of the command.
    Usage,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::Syntax => "syntax error",
            ErrorKind::Unsupported => "not supported",
            ErrorKind::Name => "name error",
            ErrorKind::Type => "type error",
            ErrorKind::Domain => "domain error",
            ErrorKind::Arithmetic => "arithmetic error",
            ErrorKind::Limit => "limit",
            ErrorKind::Sql => "SQL error",
            ErrorKind::Usage => "usage",
        })
    }
}

/// An error with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Its class.
    pub kind: ErrorKind,
    /// Where it stands; absent only for wrong arguments and for rows that came as deltas.
    pub place: Option<Place>,
    /// What is wrong, in one line.
    pub message: String,
}

impl Error {
    /// An error of `kind` at `place`.
    pub fn at(kind: ErrorKind, place: Place, message: impl Into<String>) -> Error {
        Error {
            kind,
            place: Some(place),
            message: message.into(),
        }
    }

    /// An error without a place.
    pub fn bare(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            place: None,
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
