//! Write skew with predicates: a range is to be filled by whoever finds it empty.

use rand::Rng;

use super::{PLACES, Session};
use crate::history::Step;

/// How long a range is in use.
const GENERATION_US: u64 = 200_000;

pub(super) async fn turn(session: &mut Session) -> bool {
    let generation = session.now_us() / GENERATION_US;
    let reaches_over_shards = session.rng.random_bool(0.5);
    let place = (generation as usize) % (PLACES.len() - 1);
    let (from, to) = (
        format!("{}skew{generation}-", PLACES[place]),
        format!("{}skew{generation}.", PLACES[place + 1]),
    );
    let range = Step::range(from, to);
    if session.rng.random_bool(0.2) {
        return session.single(range).await;
    }
    let own = session.unique();
    // Two rows for one predicate may lie on different shards.
    let at = place + usize::from(reaches_over_shards);
    let row = format!("{}skew{generation}-{own}", PLACES[at]);
    session
        .interactive(None, async |open| {
            if let Step::Range {
                rows: Some(rows), ..
            } = open.step(range.clone()).await?
                && rows.is_empty()
            {
                open.step(Step::write(row.as_str(), "1")).await?;
            }
            Ok(())
        })
        .await
}
