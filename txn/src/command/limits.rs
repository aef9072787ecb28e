//! The published limits, and the errors of those who pass them.

use std::borrow::Cow;

use bytes::Bytes;

use crate::reply::{ErrorCode, Reply};

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 8 * 1024;

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// The largest command line, in bytes of its arguments.
pub const COMMAND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most keys that one command may name.
pub const KEYS_MAX: usize = 64 * 1024;

/// Refuses a command line that is too large as a whole.
pub(super) fn check_command(argv: &[Bytes]) -> Result<(), Reply> {
    let size_bytes: usize = argv.iter().map(Bytes::len).sum();
    match size_bytes > COMMAND_BYTES_MAX {
        true => Err(too_large(format!(
            "command of {size_bytes} bytes exceeds the limit of {COMMAND_BYTES_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

/// Refuses a key that is empty (the store has no place for it) or too long.
pub(super) fn check_key(key: &[u8]) -> Result<(), Reply> {
    match key.is_empty() {
        true => Err(Reply::err("a key has at least one byte")),
        false => check_bound(key),
    }
}

/// Refuses an end of a range that is too long to be a key. An empty one is no key, but a bound.
pub(super) fn check_bound(key: &[u8]) -> Result<(), Reply> {
    match key.len() > KEY_BYTES_MAX {
        true => Err(too_large(format!(
            "key of {} bytes exceeds the limit of {KEY_BYTES_MAX} bytes",
            key.len()
        ))),
        false => Ok(()),
    }
}

/// Refuses a command that names too many keys.
pub(super) fn check_key_count(count: usize) -> Result<(), Reply> {
    match count > KEYS_MAX {
        true => Err(too_large(format!(
            "{count} keys exceed the limit of {KEYS_MAX} keys"
        ))),
        false => Ok(()),
    }
}

/// Refuses a value that is too long.
pub(crate) fn check_value_size(size_bytes: usize) -> Result<(), Reply> {
    match size_bytes > VALUE_BYTES_MAX {
        true => Err(too_large(format!(
            "value of {size_bytes} bytes exceeds the limit of {VALUE_BYTES_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

fn too_large(message: String) -> Reply {
    Reply::error(ErrorCode::TooLarge, Cow::Owned(message))
}
