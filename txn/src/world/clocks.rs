//! Clocks that differ, and what holds in spite of it: scenarios by name.

use bytes::Bytes;
use synod_storage::{ShardId, Version};
use synod_testpoint::{Bug, plant};

use super::World;
use super::attempts::{DONE, attempt, command, decided, prepare, prepared, resolve};
use crate::{
    Event, Intent, KeyRead, Outcome, Reply, SnapshotRead, Stream, TxnAnswer, TxnRequest, Verdict,
};

const LEFT: ShardId = ShardId(1);
const RIGHT: ShardId = ShardId(2);

/// A key of the right one of two shards.
const HIGH: &str = "\u{f8}";

/// Writes a key in a transaction of one shard; the version of the write.
fn write(world: &mut World, shard: ShardId, key: &str, value: &str) -> Version {
    let intent = Intent {
        commands: vec![command(&["SET", key, value])],
        ..Intent::default()
    };
    let intent = intent.into();
    match world.ask(shard, TxnRequest::Execute { intent }) {
        Some(Outcome::Txn(TxnAnswer::Executed {
            version: Some(version),
            ..
        })) => version,
        other => panic!("not written: {other:?}"),
    }
}

/// Scenario 2: a validation meets the lock of an attempt that is decided at its anchor, and not resolved
/// here. Its write may have been told to a client already.
#[test]
fn a_validation_waits_for_a_decided_attempt() {
    for (bug, waits) in [(None, true), (Some(Bug::ValidationIgnoresLocks), false)] {
        plant(bug);
        let mut world = World::new(3, 2, None);
        let it = attempt(1);
        let left = prepared(world.ask(LEFT, prepare(it, &[&["SET", "a", "1"]], &["a", HIGH])));
        let right = prepared(world.ask(RIGHT, prepare(it, &[&["SET", HIGH, "1"]], &[])));
        let verdict = Verdict::Committed(left.max(right));
        let told = world.ask(LEFT, decided(it, left.max(right)));
        assert_eq!(told, Some(Outcome::Txn(TxnAnswer::Decided(verdict))));
        let validate = TxnRequest::Validate {
            reads: vec![KeyRead {
                key: Bytes::from_static(HIGH.as_bytes()),
                version: None,
            }],
            ranges: Vec::new(),
            writer: None,
        };
        let token = world.send(0, RIGHT, validate, Stream::NONE);
        world.settle(0);
        let early = world.responses.remove(&token);
        assert_eq!(early.is_none(), waits, "{bug:?}: {early:?}");
        if waits {
            assert_eq!(world.ask(RIGHT, resolve(it, verdict)), DONE);
            let changed = Some(Outcome::Txn(TxnAnswer::Changed));
            assert_eq!(world.responses.remove(&token), changed);
        }
        plant(None);
    }
}

/// Scenario 4: a leader with a fast clock serves reads, and is gone; its successor's clock is slow.
#[test]
fn a_slow_successor_writes_above_what_was_promised() {
    let mut world = World::new(3, 1, None);
    world.nodes[0].wall_skew_ms = 5_000;
    let promised = world.promised(LEFT, "a");
    world.elect(LEFT, 1, usize::MAX);
    assert!(write(&mut world, LEFT, "a", "v") > promised);
}

/// Scenario 5: a shard that only reads has a slow clock. When it hears that the attempt has committed at a
/// version far ahead of it, its own clock must be there before the lock is gone: else what is written
/// next would lie below the commit that has read the value before it, and a snapshot in between would
/// show the overwrite without the commit.
#[test]
fn a_slow_reader_writes_above_the_commit_that_it_took_part_in() {
    let mut world = World::new(3, 2, None);
    write(&mut world, RIGHT, HIGH, "read");
    world.elect(RIGHT, 1, usize::MAX);
    world.nodes[0].wall_skew_ms = 5_000;
    let it = attempt(1);
    let left = prepared(world.ask(LEFT, prepare(it, &[&["SET", "a", "1"]], &["a", HIGH])));
    let right = prepared(world.ask(RIGHT, prepare(it, &[&["GET", HIGH]], &[])));
    assert!(left > right, "the clocks differ");
    let verdict = Verdict::Committed(left);
    world.ask(LEFT, decided(it, left));
    assert_eq!(world.ask(RIGHT, resolve(it, verdict)), DONE);
    let overwritten = write(&mut world, RIGHT, HIGH, "overwritten");
    assert!(overwritten > left, "{overwritten} is not above {left}");
    for (shard, key, value) in [(LEFT, "a", "1"), (RIGHT, HIGH, "read")] {
        let read = SnapshotRead::Keys(vec![Bytes::copy_from_slice(key.as_bytes())]);
        match world.ask(shard, TxnRequest::Snapshot { at: left, read }) {
            Some(Outcome::Txn(TxnAnswer::Values { values, .. })) => {
                let found = values[0].value.as_ref().map(|value| value.data.clone());
                assert_eq!(found, Some(Bytes::from(value)), "{key} at {left}");
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("overwritten"));
}

/// Asks a shard whose leader alone applies what is in its log.
fn ask_leader(world: &mut World, shard: ShardId, body: impl Into<crate::Body>) -> Option<Outcome> {
    let leader = world.logs[&shard].leader?;
    let token = world.send(leader, shard, body, Stream::NONE);
    world.flush(leader);
    world.commit(shard, usize::MAX);
    world.apply(leader, shard, usize::MAX);
    for (node, shard, term, round) in std::mem::take(&mut world.confirms) {
        world.step(node, Event::LeadershipConfirmed { shard, term, round });
    }
    world.responses.remove(&token)
}

/// Scenario 3: two writes that have nothing to do with each other, the first one on a shard with a fast
/// clock. A validated read has seen the first and not the second; whoever reads a snapshot must not see
/// the second without the first, so it has to have the greater version.
#[test]
fn a_snapshot_agrees_with_a_validated_read_about_independent_writes() {
    for (bug, agree) in [(None, true), (Some(Bug::IgnoresClocks), false)] {
        plant(bug);
        let mut world = World::new(2, 2, None);
        world.elect(RIGHT, 1, usize::MAX);
        world.nodes[0].wall_skew_ms = 5_000;
        world.eager = false;
        let write = |key| {
            let intent = Intent {
                commands: vec![command(&["SET", key, "v"])],
                ..Intent::default()
            };
            let intent = intent.into();
            TxnRequest::Execute { intent }
        };
        let written = |outcome| match outcome {
            Some(Outcome::Txn(TxnAnswer::Executed {
                version: Some(version),
                ..
            })) => version,
            other => panic!("not written: {other:?}"),
        };
        let first = written(ask_leader(&mut world, LEFT, write("a")));
        // Whoever has read the first looks at the second, with the clock that he has by then.
        world.seen = first;
        let validate = TxnRequest::Validate {
            reads: vec![KeyRead {
                key: Bytes::from_static(HIGH.as_bytes()),
                version: None,
            }],
            ranges: Vec::new(),
            writer: None,
        };
        let valid = ask_leader(&mut world, RIGHT, validate);
        assert!(matches!(valid, Some(Outcome::Txn(TxnAnswer::Valid { .. }))));
        world.seen = Version::ZERO;
        let second = written(ask_leader(&mut world, RIGHT, write(HIGH)));
        assert_eq!(second > first, agree, "{bug:?}: {second} and {first}");
        plant(None);
    }
}
