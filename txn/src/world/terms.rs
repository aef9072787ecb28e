//! Entries and terms: what a leader evaluated counts in its own term only.

use synod_storage::ShardId;
use synod_testpoint::{Bug, plant};

use super::World;
use super::attempts::command;
use crate::{Reply, Stream};

const SHARD: ShardId = ShardId(1);

/// No log of ours does it; the participants hold without relying on that.
#[test]
fn an_entry_that_was_evaluated_in_an_earlier_term_is_void() {
    for (bug, applied) in [(None, false), (Some(Bug::AppliesOldTerms), true)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        world.run(&["SET", "k", "old"]);
        world.eager = false;
        world.send(0, SHARD, command(&["SET", "k", "late"]), Stream::NONE);
        world.flush(0);
        let log = world.logs.get_mut(&SHARD).unwrap();
        log.term += 1;
        log.entries.last_mut().unwrap().id.term = log.term;
        world.eager = true;
        world.commit(SHARD, usize::MAX);
        world.settle(0);
        let found = world.run(&["GET", "k"]);
        assert_eq!(found == Reply::bulk("late"), applied, "{bug:?}: {found:?}");
        plant(None);
    }
}
