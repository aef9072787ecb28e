//! Reads of the past: scenarios by name.

use bytes::Bytes;
use synod_storage::{ShardId, Version};
use synod_testpoint::{Bug, plant};

use super::World;
use super::attempts::{attempt, prepare, prepared, resolve};
use crate::{
    Event, Leadership, Outcome, Reply, Settings, SnapshotRead, Stream, TxnAnswer, TxnRequest,
    Verdict, hlc,
};

const LEFT: ShardId = ShardId(1);
const RIGHT: ShardId = ShardId(2);

/// A key of the right one of two shards.
const HIGH: &str = "\u{f8}";

fn of_keys(at: Version, keys: &[&str]) -> TxnRequest {
    let keys = keys
        .iter()
        .map(|key| Bytes::copy_from_slice(key.as_bytes()));
    let read = SnapshotRead::Keys(keys.collect());
    TxnRequest::Snapshot { at, read }
}

/// Asks a node; the answer, if there is one by now.
fn ask(world: &mut World, node: usize, shard: ShardId, request: TxnRequest) -> Option<Outcome> {
    let token = world.send(node, shard, request, Stream::NONE);
    for node in 0..world.nodes.len() {
        world.settle(node);
    }
    world.responses.remove(&token)
}

/// The values that were found, as text.
fn found(outcome: Option<Outcome>) -> Vec<Option<String>> {
    match outcome {
        Some(Outcome::Txn(TxnAnswer::Values { values, .. })) => values
            .into_iter()
            .map(|read| Some(String::from_utf8(read.value?.data.to_vec()).unwrap()))
            .collect(),
        other => panic!("no values: {other:?}"),
    }
}

/// The version of now, as a gateway would choose it.
fn now(world: &World) -> Version {
    world
        .nodes
        .iter()
        .map(|node| node.participant.hlc())
        .max()
        .unwrap()
        .max(hlc::floor_of(world.wall_ms))
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[test]
fn all_shards_are_read_at_one_version_by_any_replica() {
    let mut world = World::new(3, 2, None);
    world.run(&["SET", "a", "old"]);
    world.run(&["SET", HIGH, "old"]);
    let at = now(&world);
    world.advance(10);
    world.run(&["SET", "a", "new"]);
    world.run(&["DEL", HIGH]);
    for node in 0..3 {
        let left = ask(&mut world, node, LEFT, of_keys(at, &["a", "b"]));
        let right = ask(&mut world, node, RIGHT, of_keys(at, &[HIGH]));
        if node == 0 {
            // The leader closes what is asked for; from then on all can be asked.
            assert_eq!(found(left), [text("old"), None]);
            assert_eq!(found(right), [text("old")]);
            continue;
        }
        assert_eq!(found(left), [text("old"), None], "node {node}");
        assert_eq!(found(right), [text("old")], "node {node}");
    }
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("new"));
}

#[test]
fn a_follower_says_who_leads_if_the_version_is_not_closed_there() {
    for (bug, torn) in [(None, false), (Some(Bug::ServesUnclosed), true)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        world.run(&["SET", "a", "old"]);
        world.eager = false;
        // Committed, acknowledged, and not applied on node 1.
        let token = world.send(
            0,
            LEFT,
            super::attempts::command(&["SET", "a", "new"]),
            Stream::NONE,
        );
        world.flush(0);
        world.commit(LEFT, usize::MAX);
        world.apply(0, LEFT, usize::MAX);
        assert_eq!(
            world.responses.remove(&token),
            Some(Outcome::Reply(Reply::Ok))
        );
        let leader = Some(synod_replication::NodeId(0));
        let leadership = Leadership::Following { leader };
        let shard = LEFT;
        world.step(1, Event::Leadership { shard, leadership });
        let at = now(&world);
        let token = world.send(1, LEFT, of_keys(at, &["a"]), Stream::NONE);
        let answer = world.responses.remove(&token);
        match torn {
            true => assert_eq!(found(answer), [text("old")], "the bug shows"),
            false => assert_eq!(answer, Some(Outcome::NotLeader { hint: leader })),
        }
        plant(None);
    }
}

/// Scenario 1, of the past: an attempt is prepared below the version and commits below it.
#[test]
fn a_version_is_closed_only_when_no_attempt_is_prepared_below_it() {
    for (bug, waits) in [(None, true), (Some(Bug::ClosesOverPrepared), false)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        world.run(&["SET", "a", "old"]);
        let it = attempt(1);
        let version = prepared(world.ask(LEFT, prepare(it, &[&["SET", "a", "new"]], &[])));
        world.advance(10);
        let at = now(&world);
        let token = world.send(0, LEFT, of_keys(at, &["a"]), Stream::NONE);
        world.settle(0);
        let early = world.responses.remove(&token);
        assert_eq!(early.is_none(), waits, "{bug:?}: {early:?}");
        if waits {
            let verdict = Verdict::Committed(version);
            world.ask(LEFT, resolve(it, verdict));
            world.settle(0);
            assert_eq!(found(world.responses.remove(&token)), [text("new")]);
        }
        plant(None);
    }
}

/// What is closed stays closed under a later leader with a slower clock.
#[test]
fn the_next_leader_writes_above_what_was_closed() {
    let mut world = World::new(3, 1, None);
    world.nodes[0].wall_skew_ms = 5_000;
    world.run(&["SET", "a", "old"]);
    let at = now(&world);
    assert_eq!(
        found(ask(&mut world, 0, LEFT, of_keys(at, &["a"]))),
        [text("old")]
    );
    world.elect(LEFT, 1, usize::MAX);
    world.run(&["SET", "a", "new"]);
    assert_eq!(
        found(ask(&mut world, 2, LEFT, of_keys(at, &["a"]))),
        [text("old")]
    );
}

/// Scenario 24: a follower reads the past while collection advances.
#[test]
fn what_is_not_kept_any_more_is_refused_and_never_served_in_part() {
    for (bug, refused) in [(None, true), (Some(Bug::ReadsBelowKept), false)] {
        plant(bug);
        // Every second read is late.
        let settings = Settings {
            snapshot_lease_us: 500_000,
            ..Settings::default()
        };
        let mut world = World::with_settings(3, 1, Some(3), settings);
        world.run(&["SET", "a", "old"]);
        let at = now(&world);
        assert_eq!(
            found(ask(&mut world, 0, LEFT, of_keys(at, &["a"]))),
            [text("old")]
        );
        // A walk that has begun on node 1, and whose pages come when the past is gone.
        let walk = SnapshotRead::Walk(super::attempts::command(&["RANGE", "a", "z"]));
        let read = walk.clone();
        let tokens: Vec<u64> = (0..8)
            .map(|_| {
                let read = read.clone();
                world.send(1, LEFT, TxnRequest::Snapshot { at, read }, Stream::NONE)
            })
            .collect();
        for _ in 0..40 {
            world.advance(100);
            world.run(&["SET", "a", "new"]);
            for node in 0..3 {
                world.step(node, Event::Tick);
                world.flush(node);
            }
        }
        world.settle(1);
        let old = |outcome: &Outcome| match outcome {
            Outcome::Txn(TxnAnswer::Walked { reply, .. }) => {
                *reply == Reply::Array(vec![Reply::bulk("a"), Reply::bulk("old")])
            }
            _ => false,
        };
        let mut late = 0;
        for token in tokens {
            let outcome = world.responses.remove(&token).expect("it is answered");
            let is_refused = matches!(outcome, Outcome::Txn(TxnAnswer::Collected { .. }));
            late += usize::from(!old(&outcome));
            assert!(
                old(&outcome) || is_refused == refused,
                "{bug:?}: {outcome:?}"
            );
        }
        assert!(late > 0, "some pages were late");
        let answer = ask(&mut world, 2, LEFT, of_keys(at, &["a"]));
        let is_refused = matches!(answer, Some(Outcome::Txn(TxnAnswer::Collected { .. })));
        assert!(is_refused || !refused, "{answer:?}");
        plant(None);
    }
}

/// Whoever reads the past and says so keeps it, over changes of leader too; and no longer than he says so.
#[test]
fn what_somebody_reads_of_the_past_is_kept_for_him() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "a", "old"]);
    let at = now(&world);
    let goes_on = |world: &mut World, rounds: usize, told: bool| {
        for _ in 0..rounds {
            world.advance(500);
            world.run(&["SET", "a", "new"]);
            if told {
                let done = Some(Outcome::Txn(TxnAnswer::Done));
                assert_eq!(world.ask(LEFT, TxnRequest::Keep { at }), done);
            }
            for node in 0..3 {
                world.step(node, Event::Tick);
                world.flush(node);
            }
        }
    };
    goes_on(&mut world, 20, true);
    // The next leader has not been told yet, and waits until it would have been.
    world.elect(LEFT, 1, usize::MAX);
    goes_on(&mut world, 4, false);
    goes_on(&mut world, 20, true);
    for node in 0..3 {
        let answer = ask(&mut world, node, LEFT, of_keys(at, &["a"]));
        assert_eq!(found(answer), [text("old")], "node {node}");
    }
    goes_on(&mut world, 10, false);
    let answer = ask(&mut world, 0, LEFT, of_keys(at, &["a"]));
    let is_refused = matches!(answer, Some(Outcome::Txn(TxnAnswer::Collected { .. })));
    assert!(is_refused, "{answer:?}");
}

/// A reader of an older version is heard while it is on its way that this one is not kept: that stands.
#[test]
fn what_is_on_its_way_to_be_collected_is_not_kept_again() {
    let mut world = World::new(1, 1, None);
    world.run(&["SET", "a", "old"]);
    let at = now(&world);
    for _ in 0..40 {
        world.advance(100);
        world.step(0, Event::Tick);
        world.flush(0);
    }
    world.eager = false;
    for (value, reader) in [("1", None), ("2", Some(at)), ("3", None)] {
        world.advance(300);
        if let Some(at) = reader {
            world.send(0, LEFT, TxnRequest::Keep { at }, Stream::NONE);
        }
        let set = super::attempts::command(&["SET", "a", value]);
        world.send(0, LEFT, set, Stream::NONE);
        world.step(0, Event::Tick);
        world.flush(0);
    }
    world.commit(LEFT, usize::MAX);
    world.apply(0, LEFT, usize::MAX);
    world.eager = true;
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("3"));
}

/// A deadline between the version and now: the value was there at the version, on every replica.
#[test]
fn deadlines_are_judged_by_the_version_and_not_by_the_clock() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "a", "v", "PX", "500"]);
    let (before, after) = (now(&world), hlc::floor_of(world.wall_ms + 600));
    world.advance(700);
    for node in 0..3 {
        let alive = ask(&mut world, 0, LEFT, of_keys(before, &["a"]));
        assert_eq!(found(alive), [text("v")], "node {node}");
        let gone = ask(&mut world, 0, LEFT, of_keys(after, &["a"]));
        assert_eq!(found(gone), [None], "node {node}");
    }
}

/// A walk that waits for its version to be closed while the shard is split must not pass for one of the
/// whole range afterwards.
#[test]
fn a_read_that_waits_over_a_split_is_told_of_it() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "z", "v"]);
    let it = attempt(1);
    prepared(world.ask(LEFT, prepare(it, &[&["SET", "a", "v"]], &[])));
    world.advance(10);
    let at = now(&world);
    let read = SnapshotRead::Walk(super::attempts::command(&["RANGE", "", "zz"]));
    let token = world.send(0, LEFT, TxnRequest::Snapshot { at, read }, Stream::NONE);
    assert!(world.split(LEFT, b"m").is_some());
    world.ask(LEFT, resolve(it, Verdict::Aborted));
    world.settle(0);
    let answer = world.responses.remove(&token);
    match answer {
        Some(Outcome::StaleEpoch { .. }) => {}
        Some(Outcome::Txn(TxnAnswer::Walked { reply, .. })) => {
            let whole = vec![Reply::bulk("z"), Reply::bulk("v")];
            assert_eq!(reply, Reply::Array(whole), "read before the split");
        }
        other => panic!("{other:?}"),
    }
}

/// Both sides of a split, and what a merge makes of them, can be read at what was closed before.
#[test]
fn what_is_closed_survives_splits_and_merges() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "a", "old"]);
    world.run(&["SET", "z", "old"]);
    let at = now(&world);
    assert_eq!(
        found(ask(&mut world, 0, LEFT, of_keys(at, &["a"]))),
        [text("old")]
    );
    let right = world.split(LEFT, b"m").unwrap();
    world.settle(0);
    world.run(&["SET", "a", "new"]);
    world.run(&["SET", "z", "new"]);
    assert_eq!(
        found(ask(&mut world, 2, right, of_keys(at, &["z"]))),
        [text("old")]
    );
    world.freeze(LEFT, right);
    world.settle(0);
    assert!(world.merge(LEFT, right));
    world.settle(0);
    assert_eq!(
        found(ask(&mut world, 0, LEFT, of_keys(at, &["a", "z"]))),
        [text("old"), text("old")]
    );
}
