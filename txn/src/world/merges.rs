//! Merges: scenarios by name.

use synod_storage::{ShardId, Version};
use synod_testpoint::{Bug, plant};

use super::World;
use super::attempts::{CONFLICT, DONE, attempt, command, decided, prepare, prepared, resolve};
use crate::{Event, Intent, Outcome, Reply, Stream, TxnAnswer, TxnRequest, Verdict};

const LEFT: ShardId = ShardId(1);
const RIGHT: ShardId = ShardId(2);

/// Freezes the right shard and merges it, in a world where everything happens at once.
fn merge(world: &mut World) {
    world.freeze(LEFT, RIGHT);
    settle(world);
    assert!(world.merge(LEFT, RIGHT), "frozen everywhere");
    settle(world);
}

fn settle(world: &mut World) {
    for node in 0..world.nodes.len() {
        world.settle(node);
    }
}

/// Passes time, with the questions that leaders have for other shards.
fn wait(world: &mut World, ms: u64) {
    for _ in 0..ms / 100 {
        world.advance(100);
        for node in 0..world.nodes.len() {
            world.step(node, Event::Tick);
            world.settle(node);
        }
        while let Some((node, shard, call, key, body)) = world.calls.pop_front() {
            let asked = world.map.locate(&key).expect("every key has a shard").shard;
            if let Some(outcome) = world.ask(asked, body) {
                world.step(
                    node,
                    Event::Called {
                        shard,
                        call,
                        outcome,
                    },
                );
            }
            settle(world);
        }
    }
}

fn shard_of(world: &World, key: &[u8]) -> Option<ShardId> {
    world.map.locate(key).map(|it| it.shard)
}

/// A key of the right one of two shards.
const HIGH: &str = "\u{f8}";

#[test]
fn a_merged_shard_has_what_both_had_and_takes_more() {
    let mut world = World::new(3, 2, None);
    for key in ["a", HIGH] {
        assert_eq!(world.run(&["SET", key, "before"]), Reply::Ok);
    }
    merge(&mut world);
    assert!(world.map.is_complete());
    assert_eq!(shard_of(&world, HIGH.as_bytes()), Some(LEFT));
    for key in ["a", HIGH] {
        assert_eq!(world.run(&["GET", key]), Reply::bulk("before"));
        assert_eq!(world.run(&["SET", key, "after"]), Reply::Ok);
    }
    assert_eq!(world.run(&["DBSIZE"]), Reply::Integer(2));
    let state = world.nodes[0].state.dump();
    for node in &world.nodes {
        assert_eq!(node.state.dump(), state, "replicas agree");
        assert!(node.participant.descriptor(RIGHT).is_none());
    }
    // What comes out of a merge can be split and merged again.
    let again = world.split(LEFT, b"m").unwrap();
    settle(&mut world);
    world.freeze(LEFT, again);
    settle(&mut world);
    assert!(world.merge(LEFT, again));
    settle(&mut world);
    assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("after"));
}

#[test]
fn a_frozen_shard_serves_nothing_and_is_told_who_has_its_keys() {
    let mut world = World::new(3, 2, None);
    world.freeze(LEFT, RIGHT);
    settle(&mut world);
    for line in [&["GET", HIGH][..], &["SET", HIGH, "v"]] {
        let refused = world.ask(RIGHT, command(line));
        assert_eq!(refused, Some(Outcome::Overloaded), "{line:?}");
    }
    assert!(world.merge(LEFT, RIGHT));
    settle(&mut world);
    let token = world.send_routed(0, (RIGHT, 1), command(&["GET", HIGH]), Stream::NONE);
    settle(&mut world);
    match world.responses.remove(&token) {
        Some(Outcome::StaleEpoch { descriptor }) => {
            assert_eq!(descriptor.shard, LEFT);
            assert!(descriptor.range.contains(HIGH.as_bytes()));
        }
        other => panic!("{other:?}"),
    }
}

/// Scenario 18: a merge in the middle of two-phase commit waits at the right side, and does not at the
/// left one.
#[test]
fn a_merge_waits_for_the_attempts_of_its_right_side_only() {
    let mut world = World::new(3, 2, None);
    let it = attempt(1);
    prepared(world.ask(LEFT, prepare(it, &[&["SET", "a", "1"]], &["a", HIGH])));
    let version = prepared(world.ask(RIGHT, prepare(it, &[&["SET", HIGH, "1"]], &[])));
    world.freeze(LEFT, RIGHT);
    settle(&mut world);
    assert!(!world.merge(LEFT, RIGHT), "it has to wait");
    assert_eq!(world.ask(LEFT, decided(it, version)), {
        let verdict = Verdict::Committed(version);
        Some(Outcome::Txn(TxnAnswer::Decided(verdict)))
    });
    let verdict = Verdict::Committed(version);
    assert_eq!(world.ask(RIGHT, resolve(it, verdict)), DONE);
    settle(&mut world);
    assert!(world.merge(LEFT, RIGHT), "frozen everywhere");
    settle(&mut world);
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("1"));
    assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("1"));
    // The commit that not all were known to have heard of is seen through by the merged shard.
    wait(&mut world, 3_000);
    assert!(!world.nodes[0].participant.is_busy(LEFT));
}

/// Scenario 18: the right side is done with an attempt that is still prepared on the left one. What the
/// right side remembers must not keep the left one from doing its part.
#[test]
fn an_attempt_that_is_over_on_the_right_only_is_finished_on_the_left() {
    let mut world = World::new(3, 2, None);
    let it = attempt(1);
    prepared(world.ask(LEFT, prepare(it, &[&["SET", "a", "1"]], &[])));
    let version = prepared(world.ask(RIGHT, prepare(it, &[&["SET", HIGH, "1"]], &[])));
    let verdict = Verdict::Committed(version);
    assert_eq!(world.ask(RIGHT, resolve(it, verdict)), DONE);
    merge(&mut world);
    assert_eq!(world.ask(LEFT, resolve(it, verdict)), DONE);
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("1"));
    assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("1"));
}

/// Scenario 8, across a merge: the prepare of an attempt that was aborted before it arrived comes to the
/// shard that never heard of it.
#[test]
fn the_tombstones_of_the_right_side_stay() {
    for (bug, blocked) in [(None, true), (Some(Bug::MergeForgetsRows), false)] {
        plant(bug);
        let mut world = World::new(3, 2, None);
        let it = attempt(1);
        assert_eq!(world.ask(RIGHT, resolve(it, Verdict::Aborted)), DONE);
        merge(&mut world);
        let late = world.ask(LEFT, prepare(it, &[&["SET", HIGH, "1"]], &[]));
        assert_eq!(late == CONFLICT, blocked, "{bug:?}: {late:?}");
        plant(None);
    }
}

/// Scenario 4, across a merge: the right side's leader has a fast clock and has promised a time; the left
/// one's has a slow clock.
#[test]
fn the_merged_shard_goes_on_above_what_the_right_side_promised() {
    for (bug, above) in [(None, true), (Some(Bug::MergeForgetsRows), false)] {
        plant(bug);
        let mut world = World::new(3, 2, None);
        world.elect(RIGHT, 1, usize::MAX);
        world.nodes[1].wall_skew_ms = 5_000;
        let promised = world.promised(RIGHT, HIGH);
        merge(&mut world);
        let intent = Intent {
            commands: vec![command(&["SET", HIGH, "v"])],
            ..Intent::default()
        };
        let executed = TxnRequest::Execute {
            intent: intent.into(),
        };
        let version = match world.ask(LEFT, executed) {
            Some(Outcome::Txn(TxnAnswer::Executed { version, .. })) => version,
            other => panic!("{other:?}"),
        };
        assert_eq!(version > Some(promised), above, "{bug:?}: {version:?}");
        plant(None);
    }
}

/// Scenario 20: whoever coordinates the merge dies after the freeze. The right side finds out that there
/// will be no merge, and serves again.
#[test]
fn a_shard_that_was_frozen_for_nothing_thaws() {
    let mut world = World::new(3, 2, None);
    assert_eq!(world.run(&["SET", HIGH, "v"]), Reply::Ok);
    world.freeze(LEFT, RIGHT);
    settle(&mut world);
    wait(&mut world, 6_000);
    assert!(world.nodes[0].participant.frozen(RIGHT).is_none());
    assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("v"));
    assert!(!world.merge(LEFT, RIGHT), "its time has passed");
    merge(&mut world);
    assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("v"));
}

/// Scenario 20: the merge is in the left side's log, not applied yet, when the right side asks. The answer
/// must not be that there was none.
#[test]
fn a_merge_on_its_way_is_not_denied() {
    for (bug, denied) in [(None, false), (Some(Bug::ThawsTooEarly), true)] {
        plant(bug);
        let mut world = World::new(3, 2, None);
        assert_eq!(world.run(&["SET", HIGH, "v"]), Reply::Ok);
        world.freeze(LEFT, RIGHT);
        settle(&mut world);
        world.eager = false;
        assert!(world.merge(LEFT, RIGHT));
        world.flush(0);
        let left = world.nodes[0].participant.frozen(RIGHT).unwrap().clone();
        let right = RIGHT;
        let token = world.send(
            0,
            LEFT,
            TxnRequest::MergeStatus { right, left },
            Stream::NONE,
        );
        world.flush(0);
        world.eager = true;
        for (node, shard, term, round) in std::mem::take(&mut world.confirms) {
            world.step(node, Event::LeadershipConfirmed { shard, term, round });
        }
        let answer = world.responses.remove(&token);
        let not_merged = Some(Outcome::Txn(TxnAnswer::NotMerged));
        assert_eq!(answer == not_merged, denied, "{bug:?}: {answer:?}");
        plant(None);
        world.commit(LEFT, usize::MAX);
        settle(&mut world);
        assert_eq!(world.run(&["GET", HIGH]), Reply::bulk("v"));
    }
}

/// A merge that is proposed in an epoch that is over has no effect, and the right side is whole.
#[test]
fn a_merge_of_an_old_epoch_has_no_effect() {
    let mut world = World::new(3, 2, None);
    world.freeze(LEFT, RIGHT);
    settle(&mut world);
    world.split(LEFT, b"m").unwrap();
    settle(&mut world);
    assert!(!world.merge(LEFT, RIGHT), "it was frozen for another epoch");
    wait(&mut world, 6_000);
    assert_eq!(shard_of(&world, HIGH.as_bytes()), Some(RIGHT));
    assert_eq!(world.run(&["SET", HIGH, "v"]), Reply::Ok);
}

/// A freeze or a split that waits while the shard's epoch changes was thought out for another shard.
#[test]
fn what_waits_to_be_cut_is_given_up_in_a_new_epoch() {
    for freezes in [true, false] {
        let mut world = World::new(3, 2, None);
        let it = attempt(1);
        prepared(world.ask(RIGHT, prepare(it, &[&["SET", HIGH, "1"]], &[])));
        match freezes {
            true => world.freeze(LEFT, RIGHT),
            false => assert!(world.split(RIGHT, HIGH.as_bytes()).is_some()),
        }
        let mut descriptor = world.map.descriptor(RIGHT).unwrap().clone();
        descriptor.epoch += 1;
        world.step(0, Event::Describe { descriptor });
        settle(&mut world);
        assert_eq!(world.ask(RIGHT, resolve(it, Verdict::Aborted)), DONE);
        settle(&mut world);
        assert_eq!(world.map.descriptor(RIGHT).unwrap().epoch, 2);
        assert_eq!(world.run(&["SET", HIGH, "v"]), Reply::Ok);
    }
}

/// What was merged is known to whoever has the keys later, through further merges and splits.
#[test]
fn a_late_question_finds_the_merge_wherever_it_is() {
    let mut world = World::new(3, 3, None);
    let third = ShardId(3);
    world.freeze(RIGHT, third);
    settle(&mut world);
    let into = world.nodes[0].participant.frozen(third).unwrap().clone();
    assert!(world.merge(RIGHT, third));
    settle(&mut world);
    merge(&mut world);
    let at = into.start.clone();
    let newest = world.split(LEFT, &at).unwrap();
    settle(&mut world);
    let question = TxnRequest::MergeStatus {
        right: third,
        left: into,
    };
    for shard in [newest, LEFT] {
        let epoch = world.map.descriptor(shard).unwrap().epoch;
        let token = world.send_routed(0, (shard, epoch), question.clone(), Stream::NONE);
        settle(&mut world);
        match world.responses.remove(&token) {
            Some(Outcome::Txn(TxnAnswer::Merged)) => assert_eq!(shard, newest),
            Some(Outcome::StaleEpoch { .. }) => assert_eq!(shard, LEFT, "it has the key no more"),
            other => panic!("{other:?}"),
        }
    }
}

/// A version that no clock of the test reaches is not promised by accident.
#[test]
fn floors_become_the_larger_of_the_two() {
    let mut world = World::new(3, 2, None);
    let old = attempt(1);
    assert_eq!(world.ask(RIGHT, resolve(old, Verdict::Aborted)), DONE);
    // The right side's floor passes the attempt; the left side has no reason to raise its own.
    wait(&mut world, 20_000);
    merge(&mut world);
    let late = world.ask(LEFT, prepare(old, &[&["SET", HIGH, "1"]], &[]));
    assert_eq!(late, CONFLICT, "the floor has passed it");
    let status = world.ask(
        LEFT,
        TxnRequest::Decide {
            attempt: old,
            begun: old.txn.age,
            version: Version(u64::MAX / 2),
        },
    );
    assert_eq!(status, Some(Outcome::Unknown));
}
