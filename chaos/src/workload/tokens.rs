//! Tokens: each transaction appends its own token to two lists, and is sent again under that token,
//! by other nodes too, until its outcome is known.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const KEYS: usize = 7;
const ATTEMPTS: u32 = 3;

pub(super) async fn turn(session: &mut Session) -> bool {
    let first = session.rng.random_range(0..KEYS);
    let second = (first + session.rng.random_range(1..KEYS)) % KEYS;
    let lists = [first, second].map(|i| key("token", i));
    if session.rng.random_bool(0.2) {
        return session.multi(lists.map(Step::read).into()).await;
    }
    let token = session.unique();
    for _ in 0..ATTEMPTS {
        let done = session
            .interactive(Some(token.clone()), async |open| {
                for list in &lists {
                    open.step(Step::append(list.as_str(), token.as_str()))
                        .await?;
                }
                Ok(())
            })
            .await;
        if done {
            return true;
        }
    }
    false
}
