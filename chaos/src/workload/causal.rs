//! Causal reverse: single writes of fresh keys, one client's after another's, and reads of the latest
//! keys of all places in one transaction.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const KEYS: usize = 7;
/// How long a group of keys is in use.
const GENERATION_US: u64 = 300_000;

pub(super) async fn turn(session: &mut Session) -> bool {
    let generation = session.now_us() / GENERATION_US;
    let name = format!("causal{generation}-");
    let own = session.id() as usize;
    if own < KEYS && session.rng.random_bool(0.5) {
        // One after the other: whoever sees the second must see the first.
        let first = session.single(Step::write(key(&name, own), "1")).await;
        let second = format!("causal{generation}+");
        return first
            && session
                .single(Step::write(key(&second, own + 3), "1"))
                .await;
    }
    let second = format!("causal{generation}+");
    let keys: Vec<String> = (0..KEYS)
        .flat_map(|i| [key(&name, i), key(&second, i + 3)])
        .collect();
    match session.rng.random_bool(0.5) {
        true => {
            session
                .multi(keys.into_iter().map(Step::read).collect())
                .await
        }
        false => session.read_many(&keys).await,
    }
}
