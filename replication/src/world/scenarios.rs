//! Histories with names.

use super::*;

#[test]
fn a_shard_elects_a_leader_and_serves() {
    let mut world = World::new(Plan::new(1));
    assert!(world.run_until(1_000, |world| world.leader(ShardId(1)).is_some()));
    world.run_ms(2_000);
    assert!(world.history.writes > 50, "{:?}", world.history.writes);
    world.finish().map(drop).expect("the history holds");
}
