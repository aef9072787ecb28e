//! Counters that only grow: one by one, or several in one transaction.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const KEYS: usize = 7;

/// One addition or one read.
pub(super) async fn turn(session: &mut Session) -> bool {
    let key = key("counter", session.rng.random_range(0..KEYS));
    match session.reads(0.5) {
        true => session.single(Step::read(key)).await,
        false => session.single(Step::add(key, 1)).await,
    }
}

/// Additions to two counters, or reads of all, in one transaction.
pub(super) async fn transaction(session: &mut Session) -> bool {
    let all = (0..KEYS).map(|i| key("counter", i));
    match (session.reads(0.5), session.rng.random_bool(0.5)) {
        (true, true) => session.multi(all.map(Step::read).collect()).await,
        (true, false) => session.read_many(&all.collect::<Vec<_>>()).await,
        (false, _) => {
            let first = session.rng.random_range(0..KEYS);
            let second = (first + session.rng.random_range(1..KEYS)) % KEYS;
            let steps = [first, second].map(|i| Step::add(key("counter", i), 1));
            session.multi(steps.into()).await
        }
    }
}
