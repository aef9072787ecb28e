//! Bugs that other stores shipped, where no other scenario shows that they are not here.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_storage::ShardId;

use super::World;
use super::attempts::{DONE, attempt, command, prepare, prepared, resolve};
use crate::{Body, ErrorCode, Event, Outcome, Reply, Stream, Verdict};

const SHARD: ShardId = ShardId(1);

/// Catalogue 14: who has waited for a lock for too long is told to come again, and does not have it.
#[test]
fn a_wait_that_is_given_up_is_not_the_lock() {
    let mut world = World::new(3, 1, None);
    let (older, holder) = (attempt(0), attempt(1));
    let version = prepared(world.ask(SHARD, prepare(holder, &[&["SET", "k", "held"]], &[])));
    let lines: [&[&str]; 1] = [&["SET", "k", "lost"]];
    let waiting: [Body; 2] = [command(lines[0]).into(), prepare(older, &lines, &[]).into()];
    let waiting = waiting.map(|body| world.send(0, SHARD, body, Stream::NONE));
    for _ in 0..12 {
        world.settle(0);
        world.advance(500);
        world.step(0, Event::Tick);
    }
    world.settle(0);
    for token in waiting {
        let outcome = world.responses.remove(&token);
        let again = |reply: &Reply| matches!(reply, Reply::Error { code, .. } if *code == ErrorCode::TryAgain);
        assert!(
            matches!(&outcome, Some(Outcome::Reply(reply)) if again(reply)),
            "{outcome:?}"
        );
    }
    // The lock stands, and what was under it is what comes of it.
    let get = world.send(0, SHARD, command(&["GET", "k"]), Stream::NONE);
    world.settle(0);
    assert_eq!(world.responses.remove(&get), None);
    assert_eq!(
        world.ask(SHARD, resolve(holder, Verdict::Committed(version))),
        DONE
    );
    let held = Outcome::Reply(Reply::bulk("held"));
    assert_eq!(world.responses.remove(&get), Some(held));
}

/// Catalogue 20: rows at the ends of pages are neither skipped nor shown twice, whatever has been deleted or
/// has expired there.
#[test]
fn no_row_is_lost_where_a_page_ends() {
    for late in [None, Some(1)] {
        let mut world = World::new(1, 1, late);
        let mut left = BTreeMap::new();
        for first in (0..4_500u32).step_by(500) {
            let mut line = vec!["MSET".to_owned()];
            for i in first..first + 500 {
                line.extend([format!("k{i:05}"), i.to_string()]);
                left.insert(format!("k{i:05}"), i.to_string());
            }
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            assert_eq!(world.run(&words), Reply::Ok);
        }
        // Around the 1,024th row and its multiples.
        for (at, line) in (1_020..4_200).zip(["DEL", "KEEP", "PEXPIRE"].iter().cycle()) {
            let key = format!("k{at:05}");
            match (at % 1_024 < 8, *line) {
                (true, "DEL") => assert_eq!(world.run(&["DEL", &key]), Reply::Integer(1)),
                (true, "PEXPIRE") => {
                    assert_eq!(world.run(&["PEXPIRE", &key, "5"]), Reply::Integer(1));
                }
                _ => continue,
            }
            left.remove(&key);
        }
        world.advance(10);
        let words = |rows: Vec<(&String, &String)>| {
            let word = |text: &String| Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()));
            let rows = rows.into_iter();
            Reply::Array(
                rows.flat_map(|(key, value)| [word(key), word(value)])
                    .collect(),
            )
        };
        let forward = words(left.iter().collect());
        assert!(world.run(&["RANGE", "k", "l"]) == forward, "late: {late:?}");
        let backward = words(left.iter().rev().collect());
        assert!(
            world.run(&["RANGE", "k", "l", "REVERSE"]) == backward,
            "late: {late:?}"
        );
        let some = words(left.iter().take(2_050).collect());
        assert!(
            world.run(&["RANGE", "k", "l", "LIMIT", "2050"]) == some,
            "late: {late:?}"
        );
        let count = i64::try_from(left.len()).unwrap();
        assert_eq!(world.run(&["DBSIZE"]), Reply::Integer(count));
    }
}
