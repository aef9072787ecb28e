//! Scenarios by name: what broke other stores, or the design while it was reviewed.

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{KeyRange, ShardId, Version};

use super::World;
use super::attempts::{CONFLICT, DONE, command, resolve};
use crate::{
    AttemptId, Event, Intent, Outcome, RangeRead, Reply, Stream, TxnAnswer, TxnId, TxnRequest,
    Verdict, hlc,
};
use synod_testpoint::{Bug, plant};

const SHARD: ShardId = ShardId(1);

fn attempt(age_ms: u64, attempt: u32) -> AttemptId {
    let age = hlc::floor_of(super::START_MS + age_ms);
    AttemptId {
        txn: TxnId {
            age,
            node: NodeId(1),
            counter: age_ms,
        },
        attempt,
    }
}

fn prepare(attempt: AttemptId, lines: &[&[&str]]) -> TxnRequest {
    TxnRequest::Prepare {
        attempt,
        begun: attempt.txn.age,
        anchor: Bytes::from_static(b"anchor"),
        spans: vec![Bytes::from_static(b"anchor")],
        intent: Box::new(Intent {
            commands: lines.iter().map(|line| command(line)).collect(),
            ..Intent::default()
        }),
    }
}

/// Sends, and says what is answered, if anything is by now.
fn ask(world: &mut World, body: impl Into<crate::Body>) -> (u64, Option<Outcome>) {
    let token = world.send(0, SHARD, body, Stream::NONE);
    world.settle(0);
    (token, world.responses.remove(&token))
}

fn answered(world: &mut World, token: u64) -> Option<Outcome> {
    world.settle(0);
    world.responses.remove(&token)
}

fn is_prepared(outcome: &Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Txn(TxnAnswer::Prepared { .. })))
}

#[test]
fn a_fast_path_write_waits_for_a_prepared_read_lock() {
    for (bug, waits) in [(None, true), (Some(Bug::FastPathPassesReadLocks), false)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        let it = attempt(1, 1);
        assert!(is_prepared(
            &ask(&mut world, prepare(it, &[&["GET", "k"]])).1
        ));
        let (token, outcome) = ask(&mut world, command(&["SET", "k", "v"]));
        assert_eq!(outcome.is_none(), waits, "{bug:?}");
        if waits {
            assert_eq!(ask(&mut world, resolve(it, Verdict::Aborted)).1, DONE);
            assert_eq!(answered(&mut world, token), Some(Outcome::Reply(Reply::Ok)));
        }
        plant(None);
    }
}

/// Scenario 6.
#[test]
fn a_fast_path_write_waits_for_a_prepared_range_read_lock() {
    let mut world = World::new(3, 1, None);
    let it = attempt(1, 1);
    let range = KeyRange::new("b", "d");
    let TxnRequest::Prepare {
        attempt,
        begun,
        anchor,
        spans,
        mut intent,
    } = prepare(it, &[&["GET", "x"]])
    else {
        unreachable!("it is a prepare");
    };
    intent.ranges.push(RangeRead {
        range,
        at: hlc::floor_of(super::START_MS),
        rows: 0,
    });
    let request = TxnRequest::Prepare {
        attempt,
        begun,
        anchor,
        spans,
        intent,
    };
    assert!(is_prepared(&ask(&mut world, request).1));
    let outside = ask(&mut world, command(&["SET", "d", "v"])).1;
    assert_eq!(outside, Some(Outcome::Reply(Reply::Ok)));
    // A key that does not exist yet: a phantom, if it were let in.
    let (token, inside) = ask(&mut world, command(&["SET", "c", "v"]));
    assert_eq!(inside, None);
    ask(&mut world, resolve(it, Verdict::Aborted));
    assert_eq!(answered(&mut world, token), Some(Outcome::Reply(Reply::Ok)));
}

/// Scenario 1: what is prepared below a read may commit below it, too.
#[test]
fn a_read_does_not_return_the_value_under_a_lock() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "k", "old"]);
    let it = attempt(1, 1);
    let Some(Outcome::Txn(TxnAnswer::Prepared { version, .. })) =
        ask(&mut world, prepare(it, &[&["SET", "k", "new"]])).1
    else {
        panic!("it is prepared");
    };
    let (get, before) = ask(&mut world, command(&["GET", "k"]));
    let (range, pending) = ask(&mut world, command(&["RANGE", "a", "z"]));
    assert_eq!((before, pending), (None, None));
    // Other keys are free.
    assert_eq!(
        ask(&mut world, command(&["GET", "l"])).1,
        Some(Outcome::Reply(Reply::Null))
    );
    ask(
        &mut world,
        resolve(it, Verdict::Committed(Version(version.0 + 5))),
    );
    assert_eq!(
        answered(&mut world, get),
        Some(Outcome::Reply(Reply::bulk("new")))
    );
    let rows = Reply::Array(vec![Reply::bulk("k"), Reply::bulk("new")]);
    assert_eq!(answered(&mut world, range), Some(Outcome::Reply(rows)));
}

#[test]
fn the_younger_gives_way_and_the_older_waits() {
    let mut world = World::new(3, 1, None);
    let (old, middle, young) = (attempt(1, 1), attempt(2, 1), attempt(3, 1));
    assert!(is_prepared(
        &ask(&mut world, prepare(middle, &[&["SET", "k", "1"]])).1
    ));
    assert_eq!(
        ask(&mut world, prepare(young, &[&["SET", "k", "2"]])).1,
        CONFLICT
    );
    let (token, outcome) = ask(&mut world, prepare(old, &[&["SET", "k", "3"]]));
    assert_eq!(outcome, None);
    ask(&mut world, resolve(middle, Verdict::Aborted));
    assert!(is_prepared(&answered(&mut world, token)));
}

/// Scenario 11.
#[test]
fn the_second_attempt_waits_for_the_locks_of_the_first() {
    let mut world = World::new(3, 1, None);
    assert!(is_prepared(
        &ask(&mut world, prepare(attempt(1, 1), &[&["SET", "k", "1"]])).1
    ));
    let (token, outcome) = ask(&mut world, prepare(attempt(1, 2), &[&["SET", "k", "1"]]));
    assert_eq!(outcome, None);
    ask(&mut world, resolve(attempt(1, 1), Verdict::Aborted));
    assert!(is_prepared(&answered(&mut world, token)));
}

#[test]
fn a_late_prepare_meets_the_tombstone_of_its_recovery() {
    let mut world = World::new(3, 1, None);
    let it = attempt(1, 1);
    let recover = TxnRequest::Recover {
        attempt: it,
        begun: it.txn.age,
    };
    let aborted = Some(Outcome::Txn(TxnAnswer::Decided(Verdict::Aborted)));
    assert_eq!(ask(&mut world, recover).1, aborted);
    assert_eq!(
        ask(&mut world, prepare(it, &[&["SET", "k", "1"]])).1,
        CONFLICT
    );
    // And a decision for it finds nothing to commit.
    let decide = TxnRequest::Decide {
        attempt: it,
        begun: it.txn.age,
        version: Version(u64::MAX >> 4),
    };
    assert_eq!(ask(&mut world, decide).1, aborted);
}

/// Scenario 8: the tombstone is collected by then.
#[test]
fn a_coordinator_that_sleeps_past_the_floor_cannot_commit() {
    let mut world = World::new(3, 1, None);
    let it = attempt(1, 1);
    ask(&mut world, resolve(it, Verdict::Aborted));
    world.advance(60_000);
    world.step(0, Event::Tick);
    world.settle(0);
    // The tombstone is gone, the floor stands in its place.
    assert!(!world.nodes[0].participant.is_busy(SHARD));
    assert_eq!(
        ask(&mut world, prepare(it, &[&["SET", "k", "1"]])).1,
        CONFLICT
    );
}

#[test]
fn a_commit_that_was_forgotten_is_unknown_to_its_coordinator_and_never_aborted() {
    for (bug, holds) in [(None, true), (Some(Bug::ForgottenIsAborted), false)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        let it = attempt(1, 1);
        let Some(Outcome::Txn(TxnAnswer::Prepared { version, .. })) =
            ask(&mut world, prepare(it, &[&["INCR", "n"]])).1
        else {
            panic!("it is prepared");
        };
        let decide = TxnRequest::Decide {
            attempt: it,
            begun: it.txn.age,
            version,
        };
        // The answer is lost; the anchor sees to the rest by itself, and the floor passes.
        ask(&mut world, decide.clone());
        ask(&mut world, TxnRequest::Forget { attempt: it });
        for _ in 0..4 {
            world.advance(5_000);
            world.step(0, Event::Tick);
            world.settle(0);
        }
        let aborted = Some(Outcome::Txn(TxnAnswer::Decided(Verdict::Aborted)));
        let answer = ask(&mut world, decide).1;
        assert_eq!(answer != aborted, holds, "{bug:?}: {answer:?}");
        assert_eq!(world.run(&["GET", "n"]), Reply::bulk("1"));
        plant(None);
    }
}

/// Scenario 9.
#[test]
fn a_doubled_prepare_does_not_lock_again_after_the_end() {
    let mut world = World::new(3, 1, None);
    let it = attempt(1, 1);
    let request = prepare(it, &[&["SET", "k", "1"]]);
    let Some(Outcome::Txn(TxnAnswer::Prepared { version, .. })) =
        ask(&mut world, request.clone()).1
    else {
        panic!("it is prepared");
    };
    assert_eq!(ask(&mut world, request.clone()).1, CONFLICT);
    let decide = TxnRequest::Decide {
        attempt: it,
        begun: it.txn.age,
        version,
    };
    let committed = Some(Outcome::Txn(TxnAnswer::Decided(Verdict::Committed(
        version,
    ))));
    assert_eq!(ask(&mut world, decide.clone()).1, committed);
    world.run(&["DEL", "k"]);
    assert_eq!(ask(&mut world, request).1, CONFLICT);
    assert_eq!(world.run(&["GET", "k"]), Reply::Null);
    // Told again, the decision is the same, before and after it is forgotten.
    assert_eq!(ask(&mut world, decide.clone()).1, committed);
    assert_eq!(ask(&mut world, TxnRequest::Forget { attempt: it }).1, DONE);
    assert_eq!(ask(&mut world, decide).1, committed);
}

#[test]
fn locks_and_tombstones_survive_a_change_of_leader() {
    let mut world = World::new(3, 1, None);
    let (it, gone) = (attempt(1, 1), attempt(2, 1));
    assert!(is_prepared(
        &ask(&mut world, prepare(it, &[&["SET", "k", "1"]])).1
    ));
    ask(&mut world, resolve(gone, Verdict::Aborted));
    world.elect(SHARD, 2, usize::MAX);
    let token = world.send(2, SHARD, command(&["GET", "k"]), Stream::NONE);
    let late = world.send(2, SHARD, prepare(gone, &[&["SET", "l", "1"]]), Stream::NONE);
    world.settle(2);
    assert_eq!(world.responses.remove(&late), CONFLICT);
    assert_eq!(world.responses.remove(&token), None);
    world.send(2, SHARD, resolve(it, Verdict::Aborted), Stream::NONE);
    world.settle(2);
    assert_eq!(
        world.responses.remove(&token),
        Some(Outcome::Reply(Reply::Null))
    );
}

/// Scenario 21: expiry between prepare and decision.
#[test]
fn an_expired_key_under_a_read_lock_is_not_deleted_before_the_lock_is_gone() {
    let mut world = World::new(3, 1, None);
    world.run(&["SET", "k", "v", "PX", "50"]);
    let it = attempt(1, 1);
    assert!(is_prepared(
        &ask(&mut world, prepare(it, &[&["GET", "k"]])).1
    ));
    world.advance(60);
    // The transaction saw it alive: nobody may see it gone at a lower version.
    let (token, outcome) = ask(&mut world, command(&["GET", "k"]));
    assert_eq!(outcome, None);
    ask(&mut world, resolve(it, Verdict::Aborted));
    assert_eq!(
        answered(&mut world, token),
        Some(Outcome::Reply(Reply::Null))
    );
}

/// Scenario 21: expiry over a change of leader.
#[test]
fn expiry_is_the_same_before_and_after_a_change_of_leader() {
    let mut world = World::new(3, 1, None);
    world.nodes[2].wall_skew_ms = -10_000;
    world.run(&["SET", "k", "v", "PX", "50"]);
    world.advance(60);
    assert_eq!(world.run(&["GET", "k"]), Reply::Null);
    // By the next leader's slower clock its deadline has not come; but it was deleted.
    world.elect(SHARD, 2, usize::MAX);
    assert_eq!(world.run(&["GET", "k"]), Reply::Null);
    assert_eq!(world.run(&["SETNX", "k", "w"]), Reply::Integer(1));
}

/// Scenario 10, as far as there is one without parallel commit: a recovery races the anchor's part, which
/// is the last one. Whichever comes first stands.
#[test]
fn of_a_recovery_and_the_last_part_one_wins() {
    let conclude = |it: AttemptId| {
        let TxnRequest::Prepare {
            begun,
            spans,
            intent,
            ..
        } = prepare(it, &[&["INCR", "n"]])
        else {
            unreachable!("it is a prepare");
        };
        TxnRequest::Conclude {
            attempt: it,
            begun,
            version: Version::ZERO,
            spans,
            intent,
        }
    };
    let recover = |it: AttemptId| TxnRequest::Recover {
        attempt: it,
        begun: it.txn.age,
    };
    let decide = |it: AttemptId| TxnRequest::Decide {
        attempt: it,
        begun: it.txn.age,
        version: Version::ZERO,
    };
    let mut world = World::new(3, 1, None);
    let aborted = Some(Outcome::Txn(TxnAnswer::Decided(Verdict::Aborted)));
    let it = attempt(1, 1);
    assert_eq!(ask(&mut world, recover(it)).1, aborted);
    assert_eq!(ask(&mut world, conclude(it)).1, CONFLICT);
    assert_eq!(ask(&mut world, decide(it)).1, aborted);
    assert_eq!(world.run(&["GET", "n"]), Reply::Null);
    let it = attempt(2, 1);
    let Some(Outcome::Txn(TxnAnswer::Concluded { version, .. })) = ask(&mut world, conclude(it)).1
    else {
        panic!("it is committed");
    };
    let committed = Some(Outcome::Txn(TxnAnswer::Decided(Verdict::Committed(
        version,
    ))));
    assert_eq!(ask(&mut world, recover(it)).1, committed);
    // A copy that comes late changes nothing, and neither does it abort anything.
    assert_eq!(ask(&mut world, conclude(it)).1, CONFLICT);
    assert_eq!(ask(&mut world, decide(it)).1, committed);
    assert_eq!(world.run(&["GET", "n"]), Reply::bulk("1"));
}

/// Scenario 13: whoever holds a range for a strict scan dies in the middle of it. Writers wait, and not
/// for long; a hold that comes again after its end locks nothing.
#[test]
fn a_hold_ends_without_whoever_took_it() {
    let mut world = World::new(3, 1, None);
    let it = attempt(1, 1);
    let hold = TxnRequest::Hold {
        attempt: AttemptId::hold(it.txn, 1),
        begun: it.txn.age,
        keys: vec![Bytes::from_static(b"x")],
        ranges: vec![KeyRange::new("b", "d")],
    };
    assert_eq!(ask(&mut world, hold.clone()).1, DONE);
    assert_eq!(
        ask(&mut world, command(&["GET", "c"])).1,
        Some(Outcome::Reply(Reply::Null)),
        "readers do not wait"
    );
    let (inside, key) = ("c", "x");
    let waiting = [inside, key].map(|key| {
        let (token, outcome) = ask(&mut world, command(&["SET", key, "v"]));
        assert_eq!(outcome, None, "{key}");
        token
    });
    for _ in 0..5 {
        world.step(0, Event::Tick);
        world.settle(0);
        world.advance(1_000);
    }
    for token in waiting {
        assert_eq!(answered(&mut world, token), Some(Outcome::Reply(Reply::Ok)));
    }
    assert_eq!(ask(&mut world, hold).1, CONFLICT);
    assert!(!world.nodes[0].participant.is_busy(SHARD));
}

/// A transaction's own holds do not stand in its way, and those of others do.
#[test]
fn a_transaction_writes_what_it_holds() {
    let mut world = World::new(3, 1, None);
    let (old, young) = (attempt(1, 1), attempt(2, 1));
    let hold = TxnRequest::Hold {
        attempt: AttemptId::hold(old.txn, 1),
        begun: old.txn.age,
        keys: vec![Bytes::from_static(b"k")],
        ranges: Vec::new(),
    };
    assert_eq!(ask(&mut world, hold).1, DONE);
    let write = [&["SET", "k", "1"][..]];
    assert_eq!(ask(&mut world, prepare(young, &write)).1, CONFLICT);
    assert!(is_prepared(&ask(&mut world, prepare(old, &write)).1));
    // Whoever reads the rows again finds the hold behind what was prepared under it.
    world.step(0, Event::SnapshotInstalled { shard: SHARD });
    world.elect(SHARD, 0, usize::MAX);
    ask(&mut world, resolve(old, Verdict::Aborted));
    let intent = |holder| {
        let commands = vec![command(&["SET", "k", "2"])];
        let intent = Intent {
            commands,
            holder,
            ..Intent::default()
        };
        TxnRequest::Execute {
            intent: Box::new(intent),
        }
    };
    assert_eq!(ask(&mut world, intent(None)).1, None, "it waits");
    assert_eq!(ask(&mut world, intent(Some(young.txn))).1, CONFLICT);
    assert!(ask(&mut world, intent(Some(old.txn))).1.is_some());
    assert_eq!(world.run(&["GET", "k"]), Reply::bulk("2"));
}
