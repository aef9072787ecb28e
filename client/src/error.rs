//! What can go wrong, classed by what it says about the data.

use std::io;

/// An error that the server answered: a code, which programs look at, and words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {message}")]
pub struct ServerError {
    /// The first word, in capitals.
    pub code: String,
    /// The rest.
    pub message: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused the command, or failed at it.
    #[error("{0}")]
    Server(ServerError),
    /// No address could be reached, or none let the client in. Nothing was sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address that was tried last.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection was lost with the command in flight.
    #[error("the connection was lost: {0}")]
    Lost(io::Error),
    /// No answer came in time.
    #[error("no answer within {timeout_ms} ms")]
    TimedOut {
        /// How long was waited.
        timeout_ms: u64,
    },
    /// What the server sent is not RESP.
    #[error("the server does not speak RESP: {0}")]
    Malformed(&'static str),
    /// The answer is not of the kind that the command has.
    #[error("expected {wanted}, but the server answered {found}")]
    Unexpected {
        /// What was expected.
        wanted: &'static str,
        /// What came.
        found: String,
    },
}

/// Whether a command took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not, and will not.
    NotDone,
    /// It did not, and may succeed when it is tried again.
    Retryable,
    /// It may have, or may still.
    Unknown,
}

impl Error {
    /// What the error says about the command that was called.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Connect { .. } => Outcome::Retryable,
            Error::Lost(_) | Error::TimedOut { .. } | Error::Malformed(_) => Outcome::Unknown,
            Error::Unexpected { .. } => Outcome::Unknown,
            Error::Server(error) => match error.code.as_str() {
                "UNKNOWN" => Outcome::Unknown,
                "TRYAGAIN" | "NOTSERVING" | "CONFLICT" => Outcome::Retryable,
                _ => Outcome::NotDone,
            },
        }
    }

    /// Whether the connection that gave the error can be used again.
    pub(crate) fn leaves_connection_usable(&self) -> bool {
        match self {
            // Another node may serve.
            Error::Server(error) => error.code != "NOTSERVING",
            Error::Unexpected { .. } => true,
            Error::Connect { .. }
            | Error::Lost(_)
            | Error::TimedOut { .. }
            | Error::Malformed(_) => false,
        }
    }
}
