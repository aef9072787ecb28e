//! Expiry: values that live for some tens of milliseconds, and are read until they are gone. Once
//! they are, they are gone for all, also after a change of leaders and with clocks that differ.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const KEYS: usize = 14;

pub(super) async fn turn(session: &mut Session) -> bool {
    let key = key("expiry", session.rng.random_range(0..KEYS));
    if session.reads(0.7) {
        return session.single(Step::read(key)).await;
    }
    let value = session.unique();
    match session.rng.random_range(0..3) {
        0 | 1 => {
            let ttl_ms = session.rng.random_range(1..1500);
            let write = Step::Write {
                key,
                value,
                ttl_ms: Some(ttl_ms),
            };
            session.single(write).await
        }
        _ => {
            let insert = Step::Insert {
                key,
                value,
                found: None,
            };
            session.single(insert).await
        }
    }
}
