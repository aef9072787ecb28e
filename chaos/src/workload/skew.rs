//! Write skew with predicates: one row is to stand in two ranges, put there by whoever finds none.

use rand::Rng;

use super::{PLACES, Session};
use crate::history::Step;

/// How long a range is in use.
const GENERATION_US: u64 = 200_000;

pub(super) async fn turn(session: &mut Session) -> bool {
    let generation = session.now_us() / GENERATION_US;
    // The predicate is about two places, on different shards.
    let first = session.rng.random_range(0..2);
    let place = (generation as usize) % (PLACES.len() - 1);
    let places = [place, place + 1].map(|place| format!("{}skew{generation}", PLACES[place]));
    let ranges = places
        .clone()
        .map(|place| Step::range(format!("{place}-"), format!("{place}.")));
    if session.rng.random_bool(0.2) {
        return session.multi(ranges.into()).await;
    }
    let row = format!("{}-{}", places[first], session.unique());
    session
        .interactive(None, async |open| {
            let mut empty = true;
            for range in &ranges {
                if let Step::Range {
                    rows: Some(rows), ..
                } = open.step(range.clone()).await?
                {
                    empty &= rows.is_empty();
                }
            }
            if empty {
                open.step(Step::write(row.as_str(), "1")).await?;
            }
            Ok(())
        })
        .await
}
