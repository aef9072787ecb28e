//! What a server answers.

use bytes::Bytes;

use crate::error::{Error, ServerError};

/// An answer, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A missing value or array.
    Null,
    /// A short status, such as `OK`.
    Status(String),
    /// An error. At the top of an answer it is turned into [`Error::Server`]; it stays a value
    /// within an array, such as the answer of `EXEC`.
    Error(ServerError),
    /// A signed integer.
    Integer(i64),
    /// A binary-safe string.
    Bulk(Bytes),
    /// Text for people.
    Text(Bytes),
    /// Values in order.
    Array(Vec<Value>),
    /// Pairs in order.
    Map(Vec<(Value, Value)>),
    /// An unordered collection.
    Set(Vec<Value>),
    /// A floating-point number.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// A message that answers no command. The client leaves them out.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of a string of any kind.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) | Value::Text(bytes) => Some(bytes),
            Value::Status(text) => Some(text.as_bytes()),
            Value::Null
            | Value::Error(_)
            | Value::Integer(_)
            | Value::Array(_)
            | Value::Map(_)
            | Value::Set(_)
            | Value::Double(_)
            | Value::Boolean(_)
            | Value::Push(_) => None,
        }
    }

    /// The value itself, unless it is an error.
    pub fn into_result(self) -> Result<Value, Error> {
        match self {
            Value::Error(error) => Err(Error::Server(error)),
            other => Ok(other),
        }
    }

    /// As an integer.
    pub fn into_integer(self) -> Result<i64, Error> {
        match self {
            Value::Integer(number) => Ok(number),
            other => Err(other.unexpected("an integer")),
        }
    }

    /// As a string that may be missing.
    pub fn into_bytes(self) -> Result<Option<Bytes>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Bulk(bytes) | Value::Text(bytes) => Ok(Some(bytes)),
            Value::Status(text) => Ok(Some(text.into())),
            other => Err(other.unexpected("a string")),
        }
    }

    /// As an array that may be missing.
    pub fn into_array(self) -> Result<Option<Vec<Value>>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Array(items) | Value::Set(items) => Ok(Some(items)),
            other => Err(other.unexpected("an array")),
        }
    }

    fn unexpected(self, wanted: &'static str) -> Error {
        match self {
            Value::Error(error) => Error::Server(error),
            other => Error::Unexpected {
                wanted,
                found: format!("{other:?}"),
            },
        }
    }
}
