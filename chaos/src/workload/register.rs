//! Register and compare-and-set: reads, unique writes, deletes, writes to an absent key only, swaps.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

/// Two a place: reads of one do not wait for writes of the other that a lost leader cannot finish.
const KEYS: usize = 14;

pub(super) async fn turn(session: &mut Session) -> bool {
    let key = key("register", session.rng.random_range(0..KEYS));
    if session.reads(0.45) {
        return session.single(Step::read(key)).await;
    }
    let value = session.unique();
    match session.rng.random_range(9..20) {
        9..15 => session.single(Step::write(key, value)).await,
        15..17 => session.swap(key, value).await,
        17 => session.single(Step::Delete { key }).await,
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
