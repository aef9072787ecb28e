//! What each command means: a pure function from values to a reply and writes.
//!
//! The leader calls it once, with the present values of the command's keys and its own clock; what
//! goes into the log are the writes, so replicas never run this code for others' commands and could
//! not disagree about it.
//!
//! Expired values are shown to this code as absent. The caller turns each one it met into a delete.

mod keys;
mod strings;

use crate::command::{Command, GetExExpiry, Key, Set, SetAnswer, SetCondition, SetExpiry};
use crate::reply::Reply;
use crate::value::Value;

/// What a command does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Execution {
    /// The answer.
    pub(crate) reply: Reply,
    /// The keys that change: to a value, or to nothing. No key twice.
    pub(crate) writes: Vec<(Key, Option<Value>)>,
}

impl Execution {
    /// An answer that changes nothing.
    fn answer(reply: Reply) -> Execution {
        Execution {
            reply,
            writes: Vec::new(),
        }
    }

    /// An answer, with one write.
    fn write(reply: Reply, key: &Key, value: Option<Value>) -> Execution {
        Execution {
            reply,
            writes: vec![(key.clone(), value)],
        }
    }
}

/// Whether a command must see the values of its keys. One that need not is a blind write: it can be
/// proposed at once, whatever is in flight.
pub(crate) fn must_read(command: &Command) -> bool {
    match command {
        Command::Set(set) => !matches!(
            set,
            Set {
                condition: SetCondition::Always,
                expiry: SetExpiry::Clear | SetExpiry::Until(_),
                answer: SetAnswer::Status,
                ..
            }
        ),
        Command::MSet { .. } => false,
        Command::Get { .. }
        | Command::GetDel { .. }
        | Command::Advance(_)
        | Command::GetEx { .. }
        | Command::MGet { .. }
        | Command::MSetNx { .. }
        | Command::IncrBy { .. }
        | Command::IncrByFloat { .. }
        | Command::Append { .. }
        | Command::StrLen { .. }
        | Command::GetRange { .. }
        | Command::SetRange { .. }
        | Command::Del { .. }
        | Command::Exists { .. }
        | Command::Touch { .. }
        | Command::Expire { .. }
        | Command::Persist { .. }
        | Command::Ttl { .. }
        | Command::Type { .. } => true,
        Command::Scan(_)
        | Command::DbSize
        | Command::Keys { .. }
        | Command::Range(_)
        | Command::FlushAll
        | Command::Transaction(_)
        | Command::Synod { .. } => false,
    }
}

/// Carries out a command on keys. `values` are those of the keys in the order of
/// [`Command::for_each_key`], expired ones as absent; empty if the command need not read.
///
/// Commands on ranges, and those that do not concern data, answer an error: the caller does not
/// send them here.
pub(crate) fn execute(command: &Command, values: &[Option<Value>], now_ms: u64) -> Execution {
    let first = values.first().and_then(Option::as_ref);
    match command {
        Command::Get { .. } => {
            Execution::answer(Reply::bulk_or_null(first.map(|value| value.data.clone())))
        }
        Command::Set(set) => strings::set(set, first, now_ms),
        Command::GetDel { key } => strings::getdel(key, first),
        Command::Advance(advance) => strings::advance(advance, first),
        Command::GetEx { key, expiry } => strings::getex(key, *expiry, first, now_ms),
        Command::MGet { .. } => {
            let data = |value: &Option<Value>| value.as_ref().map(|value| value.data.clone());
            let replies = values.iter().map(data).map(Reply::bulk_or_null).collect();
            Execution::answer(Reply::Array(replies))
        }
        Command::MSet { pairs } => Execution {
            reply: Reply::Ok,
            writes: strings::last_of_each(pairs),
        },
        Command::MSetNx { pairs } => match values.iter().all(Option::is_none) {
            true => Execution {
                reply: Reply::Integer(1),
                writes: strings::last_of_each(pairs),
            },
            false => Execution::answer(Reply::Integer(0)),
        },
        Command::IncrBy { key, delta } => strings::incr_by(key, *delta, first),
        Command::IncrByFloat { key, delta } => strings::incr_by_float(key, *delta, first),
        Command::Append { key, value } => strings::append(key, value, first),
        Command::StrLen { .. } => {
            let len = first.map_or(0, |value| value.data.len());
            Execution::answer(Reply::Integer(len_of(len)))
        }
        Command::GetRange { start, end, .. } => strings::get_range(*start, *end, first),
        Command::SetRange { key, offset, value } => strings::set_range(key, *offset, value, first),
        Command::Del { keys } => keys::del(keys, values),
        Command::Exists { .. } | Command::Touch { .. } => {
            let count = values.iter().flatten().count();
            Execution::answer(Reply::Integer(len_of(count)))
        }
        Command::Expire {
            key,
            deadline,
            condition,
        } => keys::expire(key, deadline.at_ms(now_ms), *condition, first, now_ms),
        Command::Persist { key } => keys::persist(key, first),
        Command::Ttl { form, unit, .. } => keys::ttl(*form, *unit, first, now_ms),
        Command::Type { .. } => {
            let kind = if first.is_some() { "string" } else { "none" };
            Execution::answer(Reply::Status(kind.into()))
        }
        Command::Scan(_)
        | Command::DbSize
        | Command::Keys { .. }
        | Command::Range(_)
        | Command::FlushAll
        | Command::Transaction(_)
        | Command::Synod { .. } => {
            Execution::answer(Reply::err("this command does not concern single keys"))
        }
    }
}

/// A length or a count as an integer reply.
fn len_of(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// The value with a deadline, or nothing at all if the deadline has come.
fn unless_expired(value: Value, now_ms: u64) -> Option<Value> {
    match value.is_expired(now_ms) {
        true => None,
        false => Some(value),
    }
}

/// What `GETEX` makes of a deadline: `None` if it changes nothing.
fn changed_deadline(expiry: GetExExpiry, value: &Value, now_ms: u64) -> Option<Option<u64>> {
    match expiry {
        GetExExpiry::Keep => None,
        GetExExpiry::Clear => value.deadline_ms.is_some().then_some(None),
        GetExExpiry::Until(deadline) => Some(Some(deadline.at_ms(now_ms))),
    }
}
