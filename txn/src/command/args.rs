//! A cursor over the arguments of one command line.

use bytes::Bytes;

use super::limits;
use super::table::CommandSpec;
use crate::number;
use crate::reply::Reply;

/// The arguments that are still to be read.
pub(super) struct Args<'a> {
    pub(super) spec: &'static CommandSpec,
    rest: std::slice::Iter<'a, Bytes>,
}

impl<'a> Args<'a> {
    /// The arguments behind the command's name. The arity was checked against the table.
    pub(super) fn new(spec: &'static CommandSpec, args: &'a [Bytes]) -> Args<'a> {
        Args {
            spec,
            rest: args.iter(),
        }
    }

    /// How many are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next argument, if there is one.
    pub(super) fn next(&mut self) -> Option<&'a Bytes> {
        self.rest.next()
    }

    /// The next argument.
    pub(super) fn bytes(&mut self) -> Result<Bytes, Reply> {
        self.next().cloned().ok_or_else(|| wrong_arity(self.spec))
    }

    /// A key.
    pub(super) fn key(&mut self) -> Result<Bytes, Reply> {
        let key = self.bytes()?;
        limits::check_key(&key)?;
        Ok(key)
    }

    /// An end of a range.
    pub(super) fn bound(&mut self) -> Result<Bytes, Reply> {
        let bound = self.bytes()?;
        limits::check_bound(&bound)?;
        Ok(bound)
    }

    /// A value.
    pub(super) fn value(&mut self) -> Result<Bytes, Reply> {
        let value = self.bytes()?;
        limits::check_value_size(value.len())?;
        Ok(value)
    }

    /// An integer.
    pub(super) fn integer(&mut self) -> Result<i64, Reply> {
        number::parse_i64(&self.bytes()?).ok_or_else(not_an_integer)
    }

    /// An integer that follows an option's name: if it is missing, that is a syntax error.
    pub(super) fn option_integer(&mut self) -> Result<i64, Reply> {
        let text = self.next().ok_or_else(syntax_error)?;
        number::parse_i64(text).ok_or_else(not_an_integer)
    }

    /// All that is left, as keys.
    pub(super) fn keys(&mut self) -> Result<Vec<Bytes>, Reply> {
        limits::check_key_count(self.len())?;
        self.rest
            .by_ref()
            .map(|key| {
                limits::check_key(key)?;
                Ok(key.clone())
            })
            .collect()
    }

    /// All that is left, as keys and values.
    pub(super) fn pairs(&mut self) -> Result<Vec<(Bytes, Bytes)>, Reply> {
        if !self.len().is_multiple_of(2) {
            return Err(wrong_arity(self.spec));
        }
        limits::check_key_count(self.len() / 2)?;
        let mut pairs = Vec::with_capacity(self.len() / 2);
        while self.len() > 0 {
            pairs.push((self.key()?, self.value()?));
        }
        Ok(pairs)
    }
}

/// Redis' answer to a command line of the wrong length.
pub(super) fn wrong_arity(spec: &CommandSpec) -> Reply {
    Reply::err(format!(
        "wrong number of arguments for '{}' command",
        spec.name
    ))
}

/// Redis' answer to an option that it does not know.
pub(super) fn syntax_error() -> Reply {
    Reply::err("syntax error")
}

/// Redis' answer to a number that is none.
pub(crate) fn not_an_integer() -> Reply {
    Reply::err("value is not an integer or out of range")
}

/// Redis' answer to a floating-point number that is none.
pub(crate) fn not_a_float() -> Reply {
    Reply::err("value is not a valid float")
}

/// Whether `arg` is the option `name`, in any case.
pub(super) fn is_option(arg: &[u8], name: &str) -> bool {
    arg.eq_ignore_ascii_case(name.as_bytes())
}
