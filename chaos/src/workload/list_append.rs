//! List-append: single operations on lists, or transactions of appends, reads and ranges over shards.
//!
//! Lists are few and replaced by new ones every some seconds: so they stay short, transactions meet,
//! and ranges see keys that were not there a moment ago.

use rand::Rng;

use super::{PLACES, Session, key};
use crate::history::Step;

const KEYS: usize = 7;
/// How long the lists of one generation are in use.
const GENERATION_US: u64 = 4_000_000;

fn list(session: &mut Session) -> String {
    let generation = session.now_us() / GENERATION_US;
    key(
        &format!("list{generation}-"),
        session.rng.random_range(0..KEYS),
    )
}

/// One append or one read.
pub(super) async fn single(session: &mut Session) -> bool {
    let key = list(session);
    match session.reads(0.5) {
        true => session.single(Step::read(key)).await,
        false => {
            let element = session.unique();
            session.single(Step::append(key, element)).await
        }
    }
}

/// A transaction of one step to four, as one batch or interactively; or a single command, which meets
/// the locks of transactions and holds none.
pub(super) async fn transaction(session: &mut Session) -> bool {
    if session.rng.random_bool(0.3) {
        return single(session).await;
    }
    let steps: Vec<Step> = (0..session.rng.random_range(1..=4))
        .map(|_| step(session))
        .collect();
    if session.rng.random_bool(0.5) {
        return session.multi(steps).await;
    }
    let mut steps = steps;
    session
        .interactive(None, async move |open| {
            for step in std::mem::take(&mut steps) {
                open.step(step).await?;
            }
            Ok(())
        })
        .await
}

fn step(session: &mut Session) -> Step {
    let reads = session.reads(0.5);
    match (reads, session.rng.random_range(0..5)) {
        (true, 0..4) => Step::read(list(session)),
        (true, _) => {
            let generation = session.now_us() / GENERATION_US;
            let from = session.rng.random_range(0..PLACES.len());
            let to = session.rng.random_range(from..PLACES.len());
            Step::range(
                format!("{}list{generation}-", PLACES[from]),
                format!("{}list{generation}.", PLACES[to]),
            )
        }
        (false, _) => {
            let element = session.unique();
            Step::append(list(session), element)
        }
    }
}
