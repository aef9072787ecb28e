//! Internal: a transaction reads its own appends, in the midst of them.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const KEYS: usize = 7;
const GENERATION_US: u64 = 2_000_000;

pub(super) async fn turn(session: &mut Session) -> bool {
    let generation = session.now_us() / GENERATION_US;
    let name = format!("internal{generation}-");
    let mut steps = Vec::new();
    for _ in 0..2 {
        let list = key(&name, session.rng.random_range(0..KEYS));
        for _ in 0..2 {
            let element = session.unique();
            steps.push(Step::append(list.as_str(), element));
            steps.push(Step::read(list.as_str()));
        }
    }
    if session.rng.random_bool(0.5) {
        return session.multi(steps).await;
    }
    session
        .interactive(None, async |open| {
            for step in &steps {
                open.step(step.clone()).await?;
            }
            Ok(())
        })
        .await
}
