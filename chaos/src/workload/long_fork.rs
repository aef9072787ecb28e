//! Long fork: each key of a group is written once; the group is read in one transaction.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const KEYS: usize = 7;
/// How long a group is in use.
const GENERATION_US: u64 = 500_000;

pub(super) async fn turn(session: &mut Session) -> bool {
    let generation = session.now_us() / GENERATION_US;
    let name = format!("fork{generation}-");
    // The clients share the keys out: each is written by one of them only.
    let own = session.id() as usize;
    if own < KEYS && session.rng.random_bool(0.3) {
        return session.single(Step::write(key(&name, own), "1")).await;
    }
    let keys: Vec<String> = (0..KEYS).map(|i| key(&name, i)).collect();
    match session.rng.random_bool(0.5) {
        true => {
            session
                .multi(keys.into_iter().map(Step::read).collect())
                .await
        }
        false => session.read_many(&keys).await,
    }
}
