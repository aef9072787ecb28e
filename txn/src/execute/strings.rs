//! Commands on string values.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{Execution, changed_deadline, len_of, unless_expired};
use crate::command::{
    Advance, GetExExpiry, Key, Set, SetAnswer, SetCondition, SetExpiry, VALUE_BYTES_MAX,
};
use crate::number::{format_f64, parse_f64, parse_i64};
use crate::reply::Reply;
use crate::value::Value;

pub(super) fn set(set: &Set, present: Option<&Value>, now_ms: u64) -> Execution {
    let writes = match set.condition {
        SetCondition::Always => true,
        SetCondition::IfAbsent => present.is_none(),
        SetCondition::IfPresent => present.is_some(),
    };
    let reply = match (set.answer, writes) {
        (SetAnswer::Status, true) => Reply::Ok,
        (SetAnswer::Status, false) => Reply::Null,
        (SetAnswer::Integer, _) => Reply::Integer(i64::from(writes)),
        (SetAnswer::Previous, _) => Reply::bulk_or_null(present.map(|value| value.data.clone())),
    };
    if !writes {
        return Execution::answer(reply);
    }
    let deadline_ms = match set.expiry {
        SetExpiry::Clear => None,
        SetExpiry::Keep => present.and_then(|value| value.deadline_ms),
        SetExpiry::Until(deadline) => Some(deadline.at_ms(now_ms)),
    };
    let value = Value {
        data: set.value.clone(),
        deadline_ms,
    };
    Execution::write(reply, &set.key, unless_expired(value, now_ms))
}

pub(super) fn advance(advance: &Advance, present: Option<&Value>) -> Execution {
    // A row that does not say its generation has none: it gives way to any.
    let known = present.and_then(|value| Advance::decode(&value.data));
    match known {
        Some((generation, _)) if generation >= advance.generation => {
            Execution::answer(Reply::Integer(0))
        }
        Some(_) | None => {
            let row = Value::plain(advance.encode());
            Execution::write(Reply::Integer(1), &advance.key, Some(row))
        }
    }
}

pub(super) fn getdel(key: &Key, present: Option<&Value>) -> Execution {
    match present {
        Some(value) => Execution::write(Reply::Bulk(value.data.clone()), key, None),
        None => Execution::answer(Reply::Null),
    }
}

pub(super) fn getex(
    key: &Key,
    expiry: GetExExpiry,
    present: Option<&Value>,
    now_ms: u64,
) -> Execution {
    let Some(value) = present else {
        return Execution::answer(Reply::Null);
    };
    let reply = Reply::Bulk(value.data.clone());
    match changed_deadline(expiry, value, now_ms) {
        None => Execution::answer(reply),
        Some(deadline_ms) => {
            let value = Value {
                data: value.data.clone(),
                deadline_ms,
            };
            Execution::write(reply, key, unless_expired(value, now_ms))
        }
    }
}

/// Writes of pairs in which a key may repeat: its last value wins.
pub(super) fn last_of_each(pairs: &[(Key, Bytes)]) -> Vec<(Key, Option<Value>)> {
    let last: BTreeMap<&Key, &Bytes> = pairs.iter().map(|(key, value)| (key, value)).collect();
    last.into_iter()
        .map(|(key, value)| (key.clone(), Some(Value::plain(value.clone()))))
        .collect()
}

pub(super) fn incr_by(key: &Key, delta: i64, present: Option<&Value>) -> Execution {
    let Some(number) = present.map_or(Some(0), |value| parse_i64(&value.data)) else {
        return Execution::answer(Reply::err("value is not an integer or out of range"));
    };
    let Some(sum) = number.checked_add(delta) else {
        return Execution::answer(Reply::err("increment or decrement would overflow"));
    };
    let value = replaced(present, Bytes::from(sum.to_string()));
    Execution::write(Reply::Integer(sum), key, Some(value))
}

pub(super) fn incr_by_float(key: &Key, delta: f64, present: Option<&Value>) -> Execution {
    let Some(number) = present.map_or(Some(0.0), |value| parse_f64(&value.data)) else {
        return Execution::answer(Reply::err("value is not a valid float"));
    };
    let sum = number + delta;
    if !sum.is_finite() {
        return Execution::answer(Reply::err("increment would produce NaN or Infinity"));
    }
    let text = Bytes::from(format_f64(sum));
    Execution::write(
        Reply::Bulk(text.clone()),
        key,
        Some(replaced(present, text)),
    )
}

pub(super) fn append(key: &Key, tail: &Bytes, present: Option<&Value>) -> Execution {
    let head = present.map_or(&[][..], |value| &value.data);
    let len = head.len() + tail.len();
    if len > VALUE_BYTES_MAX {
        return Execution::answer(too_long());
    }
    let reply = Reply::Integer(len_of(len));
    if tail.is_empty() && present.is_some() {
        return Execution::answer(reply);
    }
    let mut data = BytesMut::with_capacity(len);
    data.extend_from_slice(head);
    data.extend_from_slice(tail);
    Execution::write(reply, key, Some(replaced(present, data.freeze())))
}

pub(super) fn get_range(start: i64, end: i64, present: Option<&Value>) -> Execution {
    let data = present.map_or_else(Bytes::new, |value| value.data.clone());
    let len = len_of(data.len());
    if start < 0 && end < 0 && start > end {
        return Execution::answer(Reply::Bulk(Bytes::new()));
    }
    let from_end = |at: i64| {
        if at < 0 {
            at.saturating_add(len).max(0)
        } else {
            at
        }
    };
    let start = from_end(start);
    let end = from_end(end).min(len - 1);
    let range = match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end => data.slice(start..=end),
        _ => Bytes::new(),
    };
    Execution::answer(Reply::Bulk(range))
}

pub(super) fn set_range(
    key: &Key,
    offset: u32,
    patch: &Bytes,
    present: Option<&Value>,
) -> Execution {
    let old = present.map_or(&[][..], |value| &value.data);
    if patch.is_empty() {
        return Execution::answer(Reply::Integer(len_of(old.len())));
    }
    let offset = offset as usize;
    let end = offset + patch.len();
    if end > VALUE_BYTES_MAX {
        return Execution::answer(too_long());
    }
    let mut data = BytesMut::from(old);
    if data.len() < end {
        data.resize(end, 0);
    }
    data[offset..end].copy_from_slice(patch);
    let reply = Reply::Integer(len_of(data.len()));
    Execution::write(reply, key, Some(replaced(present, data.freeze())))
}

/// New data under the deadline that the key already has.
fn replaced(present: Option<&Value>, data: Bytes) -> Value {
    Value {
        data,
        deadline_ms: present.and_then(|value| value.deadline_ms),
    }
}

fn too_long() -> Reply {
    Reply::err("string exceeds maximum allowed size (1048576 bytes)")
}
