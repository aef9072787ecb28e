//! Commands on keys and their deadlines.

use std::collections::BTreeSet;

use super::{Execution, len_of, unless_expired};
use crate::command::{ExpireCondition, Key, TimeUnit, TtlForm};
use crate::reply::Reply;
use crate::value::Value;

pub(super) fn del(keys: &[Key], values: &[Option<Value>]) -> Execution {
    let present = keys.iter().zip(values).filter(|(_, value)| value.is_some());
    let deleted: BTreeSet<&Key> = present.map(|(key, _)| key).collect();
    Execution {
        reply: Reply::Integer(len_of(deleted.len())),
        writes: deleted.into_iter().map(|key| (key.clone(), None)).collect(),
    }
}

pub(super) fn expire(
    key: &Key,
    deadline_ms: u64,
    condition: ExpireCondition,
    present: Option<&Value>,
    now_ms: u64,
) -> Execution {
    let Some(value) = present else {
        return Execution::answer(Reply::Integer(0));
    };
    // No deadline counts as infinitely late.
    let later = value
        .deadline_ms
        .is_some_and(|present_ms| deadline_ms > present_ms);
    let earlier = value
        .deadline_ms
        .is_none_or(|present_ms| deadline_ms < present_ms);
    let has_deadline = value.deadline_ms.is_some();
    let applies = match condition {
        ExpireCondition::Always => true,
        ExpireCondition::IfNone => !has_deadline,
        ExpireCondition::IfSome => has_deadline,
        ExpireCondition::IfLater | ExpireCondition::IfSomeAndLater => later,
        ExpireCondition::IfEarlier => earlier,
        ExpireCondition::IfSomeAndEarlier => has_deadline && earlier,
    };
    if !applies {
        return Execution::answer(Reply::Integer(0));
    }
    let value = Value {
        data: value.data.clone(),
        deadline_ms: Some(deadline_ms),
    };
    Execution::write(Reply::Integer(1), key, unless_expired(value, now_ms))
}

pub(super) fn persist(key: &Key, present: Option<&Value>) -> Execution {
    match present {
        Some(Value {
            data,
            deadline_ms: Some(_),
        }) => Execution::write(Reply::Integer(1), key, Some(Value::plain(data.clone()))),
        Some(Value {
            deadline_ms: None, ..
        })
        | None => Execution::answer(Reply::Integer(0)),
    }
}

/// -2: no such key; -1: no deadline.
pub(super) fn ttl(
    form: TtlForm,
    unit: TimeUnit,
    present: Option<&Value>,
    now_ms: u64,
) -> Execution {
    let Some(value) = present else {
        return Execution::answer(Reply::Integer(-2));
    };
    let Some(deadline_ms) = value.deadline_ms else {
        return Execution::answer(Reply::Integer(-1));
    };
    let shown_ms = match form {
        TtlForm::Left => deadline_ms.saturating_sub(now_ms),
        TtlForm::At => deadline_ms,
    };
    let shown = match unit {
        TimeUnit::Milliseconds => shown_ms,
        // To the nearest second, as Redis does.
        TimeUnit::Seconds => shown_ms.saturating_add(500) / 1000,
    };
    Execution::answer(Reply::Integer(i64::try_from(shown).unwrap_or(i64::MAX)))
}
