//! Splits: scenarios by name.

use synod_storage::ShardId;

use super::World;
use super::attempts::{CONFLICT, DONE, attempt, command, prepare, prepared, resolve};
use crate::{
    Event, Intent, Outcome, Reply, ShardDescriptor, Stream, TxnAnswer, TxnRequest, Verdict,
};
use synod_testpoint::{Bug, plant};

const LEFT: ShardId = ShardId(1);

fn shard_of(world: &World, key: &str) -> Option<ShardId> {
    world.map.locate(key.as_bytes()).map(|it| it.shard)
}

const BOTH: [&[&str]; 2] = [&["SET", "a", "1"], &["SET", "z", "1"]];

#[test]
fn both_sides_of_a_split_serve_what_was_written_before_and_after() {
    let mut world = World::new(3, 1, None);
    for key in ["a", "m", "z"] {
        assert_eq!(world.run(&["SET", key, "before"]), Reply::Ok);
    }
    let right = world.split(LEFT, b"m").unwrap();
    world.settle(0);
    assert_eq!(shard_of(&world, "lzz"), Some(LEFT));
    assert_eq!(shard_of(&world, "m"), Some(right));
    assert!(world.map.is_complete());
    for key in ["a", "m", "z"] {
        assert_eq!(world.run(&["GET", key]), Reply::bulk("before"));
        assert_eq!(world.run(&["SET", key, "after"]), Reply::Ok);
    }
    assert_eq!(world.run(&["DBSIZE"]), Reply::Integer(3));
    assert!(world.replicas_agree());
    // Again, and of the new shard.
    assert!(world.split(right, b"t").is_some());
    world.settle(0);
    assert_eq!(world.run(&["GET", "z"]), Reply::bulk("after"));
    assert_eq!(
        world.split(right, b"z"),
        None,
        "it is another shard's by now"
    );
}

#[test]
fn a_request_of_the_epoch_before_is_told_of_the_split() {
    let mut world = World::new(3, 1, None);
    world.split(LEFT, b"m");
    world.settle(0);
    let token = world.send_routed(0, (LEFT, 1), command(&["SET", "z", "v"]), Stream::NONE);
    world.settle(0);
    match world.responses.remove(&token) {
        Some(Outcome::StaleEpoch { descriptor }) => {
            assert_eq!(descriptor.epoch, 2);
            assert!(!descriptor.range.contains(b"z"));
        }
        other => panic!("{other:?}"),
    }
}

/// Scenario 18: a split in the middle of two-phase commit.
#[test]
fn a_split_waits_for_the_attempt_that_it_would_cut() {
    for verdict in [None, Some(Verdict::Aborted)] {
        let mut world = World::new(3, 1, None);
        let it = attempt(1);
        let version = prepared(world.ask(LEFT, prepare(it, &BOTH, &[])));
        let verdict = verdict.unwrap_or(Verdict::Committed(version));
        let right = world.split(LEFT, b"m").unwrap();
        world.settle(0);
        assert_eq!(shard_of(&world, "z"), Some(LEFT), "it has to wait");
        let later = world.ask(LEFT, prepare(attempt(2), &[&["SET", "q", "2"]], &[]));
        assert_eq!(later, Some(Outcome::Overloaded), "nobody new comes in");
        assert_eq!(
            world.ask(LEFT, command(&["SET", "q", "3"])),
            Some(Outcome::Reply(Reply::Ok)),
            "single commands do"
        );
        assert_eq!(world.ask(LEFT, resolve(it, verdict)), DONE);
        world.settle(0);
        assert_eq!(shard_of(&world, "z"), Some(right));
        let expected = match verdict {
            Verdict::Committed(_) => Reply::bulk("1"),
            Verdict::Aborted => Reply::Null,
        };
        assert_eq!(world.run(&["GET", "a"]), expected);
        assert_eq!(world.run(&["GET", "z"]), expected);
        // Told again, on either side: nothing is locked, and nothing is done twice.
        for shard in [LEFT, right] {
            assert_eq!(world.ask(shard, resolve(it, verdict)), DONE);
        }
        prepared(world.ask(right, prepare(attempt(2), &[&["SET", "q", "2"]], &[])));
    }
}

/// Scenario 18, at the anchor: a commit that not all participants have heard of.
#[test]
fn a_split_waits_for_a_commit_that_is_not_known_to_all() {
    let mut world = World::new(3, 1, None);
    let it = attempt(1);
    let version = prepared(world.ask(LEFT, prepare(it, &BOTH, &["a"])));
    let (attempt, begun) = (it, it.txn.age);
    let decide = TxnRequest::Decide {
        attempt,
        begun,
        version,
    };
    let decided = TxnAnswer::Decided(Verdict::Committed(version));
    assert_eq!(world.ask(LEFT, decide), Some(Outcome::Txn(decided)));
    let right = world.split(LEFT, b"m").unwrap();
    world.settle(0);
    assert_eq!(shard_of(&world, "z"), Some(LEFT));
    assert_eq!(world.ask(LEFT, TxnRequest::Forget { attempt }), DONE);
    world.settle(0);
    assert_eq!(shard_of(&world, "z"), Some(right));
}

/// Scenario 18: the prepare of an attempt that was aborted before it arrived comes after the split,
/// to the side that never heard of it.
#[test]
fn tombstones_are_on_both_sides() {
    for (bug, blocked) in [(None, true), (Some(Bug::SplitForgetsRows), false)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        let it = attempt(1);
        assert_eq!(world.ask(LEFT, resolve(it, Verdict::Aborted)), DONE);
        let right = world.split(LEFT, b"m").unwrap();
        world.settle(0);
        for (shard, key) in [(LEFT, "a"), (right, "z")] {
            let late = world.ask(shard, prepare(it, &[&["SET", key, "1"]], &[]));
            let expected = shard == LEFT || blocked;
            assert_eq!(
                late == CONFLICT,
                expected,
                "{bug:?}, shard {shard}: {late:?}"
            );
        }
        plant(None);
    }
}

/// Scenario 4, across a split: a leader with a fast clock has promised a time; the new shard's leader
/// has a slow clock.
#[test]
fn the_new_shard_starts_above_what_the_old_one_promised() {
    let mut world = World::new(3, 1, None);
    world.nodes[0].wall_skew_ms = 5_000;
    let promised = world.promised(LEFT, "z");
    let right = world.split(LEFT, b"m").unwrap();
    world.settle(0);
    world.elect(right, 1, usize::MAX);
    let intent = Intent {
        commands: vec![command(&["SET", "z", "v"])],
        ..Intent::default()
    };
    match world.ask(
        right,
        TxnRequest::Execute {
            intent: intent.into(),
        },
    ) {
        Some(Outcome::Txn(TxnAnswer::Executed { version, .. })) => {
            assert!(
                version > Some(promised),
                "{version:?} is not above {promised}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// The leader of the new shard dies before its first rows are in the log: whoever leads next has them.
#[test]
fn the_next_leader_of_a_new_shard_gives_it_its_rows() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "z", "v"]);
    assert_eq!(world.ask(LEFT, resolve(attempt(1), Verdict::Aborted)), DONE);
    world.eager = false;
    let right = world.split(LEFT, b"m").unwrap();
    world.flush(0);
    world.commit(LEFT, usize::MAX);
    for node in 0..3 {
        world.apply(node, LEFT, usize::MAX);
    }
    // Node 0 leads the new shard and has proposed its rows; they are lost with it.
    world.commit(right, 1);
    world.apply(0, right, usize::MAX);
    world.flush(0);
    world.elect(right, 2, 0);
    let refused = world.ask(right, command(&["GET", "z"]));
    assert!(
        matches!(refused, Some(Outcome::NotLeader { .. })),
        "{refused:?}"
    );
    world.eager = true;
    world.commit(right, usize::MAX);
    world.flush(2);
    assert_eq!(shard_of(&world, "z"), Some(right));
    assert_eq!(world.run(&["GET", "z"]), Reply::bulk("v"));
    let late = prepare(attempt(1), &[&["SET", "z", "1"]], &[]);
    assert_eq!(world.ask(right, late), CONFLICT);
}

/// The old shard's leader dies with a split that it has proposed: it has not happened.
#[test]
fn a_split_that_is_lost_leaves_one_shard() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "z", "v"]);
    world.eager = false;
    world.split(LEFT, b"m");
    world.flush(0);
    world.elect(LEFT, 1, 0);
    world.eager = true;
    world.commit(LEFT, usize::MAX);
    world.flush(1);
    assert_eq!(shard_of(&world, "z"), Some(LEFT));
    assert_eq!(world.run(&["GET", "z"]), Reply::bulk("v"));
    assert_eq!(world.logs.len(), 1);
}

/// A split that cannot get through gives way again.
#[test]
fn a_split_that_waits_too_long_is_given_up() {
    let mut world = World::new(3, 1, None);
    prepared(world.ask(LEFT, prepare(attempt(1), &BOTH, &[])));
    world.split(LEFT, b"m");
    world.settle(0);
    assert!(world.nodes[0].participant.is_splitting(LEFT));
    for _ in 0..60 {
        world.advance(100);
        world.step(0, crate::Event::Tick);
    }
    assert!(!world.nodes[0].participant.is_splitting(LEFT));
    prepared(world.ask(LEFT, prepare(attempt(2), &[&["SET", "q", "2"]], &[])));
}

/// A description that waits while the shard is split is one of another shard by then: written, it would give
/// the shard back what it has no more.
#[test]
fn a_description_that_waits_over_a_split_is_not_written() {
    let mut world = World::new(3, 1, None);
    let shard = LEFT;
    world.eager = false;
    let before = world.nodes[0]
        .participant
        .descriptor(shard)
        .unwrap()
        .clone();
    let epoch = before.epoch + 1;
    assert!(world.split(shard, b"m").is_some());
    world.flush(0);
    let descriptor = ShardDescriptor { epoch, ..before };
    world.step(0, Event::Describe { descriptor });
    for _ in 0..2 {
        world.commit(shard, usize::MAX);
        world.apply(0, shard, usize::MAX);
        world.flush(0);
    }
    let after = world.nodes[0].participant.descriptor(shard).unwrap();
    assert_eq!(
        (after.epoch, after.range.end.as_deref()),
        (epoch, Some(&b"m"[..]))
    );
}
