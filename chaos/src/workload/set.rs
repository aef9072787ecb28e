//! Set: unique keys are inserted; ranges, each within one shard or over all, read them.

use rand::Rng;

use super::{PLACES, Session};
use crate::history::Step;

/// The range of all members of one place, which lies on one shard.
fn members(place: &str) -> Step {
    Step::range(format!("{place}set"), format!("{place}seu"))
}

pub(super) async fn turn(session: &mut Session) -> bool {
    let place = PLACES[session.rng.random_range(0..PLACES.len())];
    if session.reads(0.3) {
        return session.single(members(place)).await;
    }
    let key = format!("{place}set{}", session.unique());
    session.single(Step::write(key, "1")).await
}

/// Reads all members of all places.
pub(super) async fn read_all(observer: &mut Session) -> Result<(), String> {
    for place in PLACES {
        let what = format!("a range of {place}");
        observer.insist(&what, members(place)).await?;
    }
    Ok(())
}
