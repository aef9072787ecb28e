//! A transaction that writes in one shard and has read in others: scenarios by name.

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{ShardId, Version};

use super::attempts::{CONFLICT, attempt, command};
use super::{START_MS, World};
use crate::{
    AttemptId, Body, Call, Elsewhere, Event, Intent, KeyRead, Outcome, ReadElsewhere, Reply,
    SnapshotRead, Stream, TxnAnswer, TxnRequest, Verdict, Writer, hlc, token,
};

const LEFT: ShardId = ShardId(1);

/// A key of the right one of two shards.
const HIGH: &str = "\u{f8}";

/// Writes keys of the left shard, and has read a key of the right one, which was not there.
fn execute(attempt: AttemptId, lines: &[&[&str]], token: Option<Bytes>) -> TxnRequest {
    let key = Bytes::from_static(HIGH.as_bytes());
    let parts = vec![ReadElsewhere {
        key: key.clone(),
        reads: vec![KeyRead { key, version: None }],
        ranges: Vec::new(),
    }];
    let intent = Intent {
        commands: lines.iter().map(|line| command(line)).collect(),
        token,
        elsewhere: Some(Elsewhere { attempt, parts }),
        ..Intent::default()
    };
    TxnRequest::Execute {
        intent: Box::new(intent),
    }
}

/// Sends something to the left shard, and says what is answered, if anything is by now.
fn ask(world: &mut World, body: impl Into<Body>) -> (u64, Option<Outcome>) {
    let leader = world.logs[&LEFT].leader.expect("it has a leader");
    let token = world.send(leader, LEFT, body, Stream::NONE);
    world.settle(leader);
    (token, world.responses.remove(&token))
}

/// The question that the left shard has asked, and who is to write if the answer is yes.
fn question(world: &mut World) -> (Call, Writer) {
    let (_, shard, call, key, body) = world.calls.pop_front().expect("it asks");
    assert_eq!((shard, &key[..]), (LEFT, HIGH.as_bytes()));
    match body {
        Body::Txn(TxnRequest::Validate {
            writer: Some(writer),
            ..
        }) => (call, writer),
        other => panic!("{other:?}"),
    }
}

fn tell(world: &mut World, call: Call, outcome: Outcome) {
    let shard = LEFT;
    let told = Event::Called {
        shard,
        call,
        outcome,
    };
    world.step(0, told);
    world.settle(0);
}

fn valid(through: Version) -> Outcome {
    Outcome::Txn(TxnAnswer::Valid { through })
}

fn entries(world: &World) -> usize {
    world.logs[&LEFT].entries.len()
}

#[test]
fn a_writer_is_locked_while_it_asks_and_logs_one_entry_then() {
    let mut world = World::new(3, 2, None);
    world.run(&["SET", "a", "old"]);
    let before = entries(&world);
    let it = attempt(1);
    let (written, early) = ask(&mut world, execute(it, &[&["SET", "a", "new"]], None));
    assert_eq!(
        (early, entries(&world)),
        (None, before),
        "nothing is logged"
    );
    let (call, writer) = question(&mut world);
    // Nobody sees its key, before or after, by itself or in a range; other keys are free.
    let (get, before_it) = ask(&mut world, command(&["GET", "a"]));
    let (range, around_it) = ask(&mut world, command(&["RANGE", "a", "b"]));
    assert_eq!((before_it, around_it), (None, None));
    let other = ask(&mut world, command(&["GET", "b"])).1;
    assert_eq!(other, Some(Outcome::Reply(Reply::Null)));
    // Nor is its version closed.
    let read = SnapshotRead::Keys(vec![Bytes::from_static(b"a")]);
    let at = writer.version;
    let (snapshot, at_it) = ask(&mut world, TxnRequest::Snapshot { at, read });
    assert_eq!(at_it, None);
    tell(&mut world, call, valid(writer.version));
    match world.responses.remove(&written) {
        Some(Outcome::Txn(TxnAnswer::Executed { version, replies })) => {
            assert_eq!((version, replies), (Some(writer.version), vec![Reply::Ok]));
        }
        other => panic!("not written: {other:?}"),
    }
    let new = Outcome::Reply(Reply::bulk("new"));
    assert_eq!(world.responses.remove(&get), Some(new));
    let rows = Reply::Array(vec![Reply::bulk("a"), Reply::bulk("new")]);
    assert_eq!(world.responses.remove(&range), Some(Outcome::Reply(rows)));
    match world.responses.remove(&snapshot) {
        Some(Outcome::Txn(TxnAnswer::Values { values, .. })) => {
            assert_eq!(values[0].version, writer.version);
        }
        other => panic!("{other:?}"),
    }
}

/// The other shard says no, or does not say that it holds for as long as it must; or nobody says anything.
#[test]
fn whoever_is_not_told_that_its_reads_hold_has_no_effect() {
    let answers = [
        (Some(Outcome::Txn(TxnAnswer::Changed)), TxnAnswer::Changed),
        (Some(Outcome::Txn(TxnAnswer::Conflict)), TxnAnswer::Conflict),
        (Some(valid(hlc::floor_of(START_MS))), TxnAnswer::Conflict),
        (Some(Outcome::Unknown), TxnAnswer::Conflict),
        (None, TxnAnswer::Conflict),
    ];
    for (answer, told) in answers {
        let mut world = World::new(3, 2, None);
        world.advance(10);
        let before = entries(&world);
        let it = attempt(1);
        let (token, early) = ask(&mut world, execute(it, &[&["SET", "a", "new"]], None));
        assert_eq!(early, None);
        let (call, _) = question(&mut world);
        match answer.clone() {
            Some(answer) => tell(&mut world, call, answer),
            None => {
                world.advance(1_100);
                world.step(0, Event::Tick);
                world.settle(0);
            }
        }
        let outcome = world.responses.remove(&token);
        assert_eq!(outcome, Some(Outcome::Txn(told)), "{answer:?}");
        // An answer that comes too late changes nothing.
        tell(&mut world, call, valid(Version::MAX));
        assert_eq!(entries(&world), before);
        assert_eq!(world.run(&["GET", "a"]), Reply::Null);
        assert!(!world.nodes[0].participant.is_busy(LEFT));
    }
}

#[test]
fn a_change_of_leader_undoes_whoever_is_asking() {
    let mut world = World::new(3, 2, None);
    let (token, early) = ask(&mut world, execute(attempt(1), &[&["SET", "a", "1"]], None));
    assert_eq!(early, None);
    let (call, writer) = question(&mut world);
    world.elect(LEFT, 1, usize::MAX);
    let outcome = world.responses.remove(&token).expect("it is answered");
    assert!(matches!(outcome, Outcome::NotLeader { .. }), "{outcome:?}");
    tell(&mut world, call, valid(writer.version));
    assert_eq!(world.run(&["GET", "a"]), Reply::Null);
    world.run(&["SET", "a", "2"]);
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("2"));
}

/// A new epoch is another shard: what is asked for the old one has no effect.
#[test]
fn a_split_undoes_whoever_is_asking() {
    let mut world = World::new(3, 2, None);
    let (token, _) = ask(&mut world, execute(attempt(1), &[&["SET", "a", "1"]], None));
    let (call, writer) = question(&mut world);
    assert!(world.split(LEFT, b"m").is_some());
    world.settle(0);
    let outcome = world.responses.remove(&token).expect("it is answered");
    assert!(matches!(outcome, Outcome::StaleEpoch { .. }), "{outcome:?}");
    tell(&mut world, call, valid(writer.version));
    assert_eq!(world.run(&["GET", "a"]), Reply::Null);
}

/// Somebody asks what became of the token meanwhile: what he was told is final.
#[test]
fn a_token_that_is_fenced_while_its_reads_are_asked_about_is_not_used() {
    let mut world = World::new(3, 2, None);
    let issue = |counter| token::issue(hlc::floor_of(START_MS), NodeId(1), counter);
    let mut tokens = (1..).map(issue);
    let at_home = |token: &Bytes| world.map.locate(&token::home(token)).map(|it| it.shard);
    let token = tokens
        .find(|token| at_home(token) == Some(LEFT))
        .expect("some are");
    let request = execute(attempt(1), &[&["SET", "a", "1"]], Some(token.clone()));
    let (written, early) = ask(&mut world, request.clone());
    assert_eq!(early, None);
    let (call, writer) = question(&mut world);
    let aborted = Some(Outcome::Txn(TxnAnswer::Recorded(Verdict::Aborted)));
    let status = ask(&mut world, TxnRequest::TokenStatus { token }).1;
    assert_eq!(status, aborted);
    tell(&mut world, call, valid(writer.version));
    assert_eq!(world.responses.remove(&written), aborted);
    assert_eq!(world.run(&["GET", "a"]), Reply::Null);
    assert_eq!(ask(&mut world, request).1, aborted);
}

/// Who has locks and asks elsewhere waits for younger ones only, and makes younger ones give way.
#[test]
fn the_younger_of_two_that_ask_each_other_gives_way() {
    let mut world = World::new(3, 2, None);
    let (old, young) = (attempt(1), attempt(2));
    assert_eq!(
        ask(&mut world, execute(old, &[&["SET", "a", "1"]], None)).1,
        None
    );
    let validate = |txn: AttemptId| TxnRequest::Validate {
        reads: vec![KeyRead {
            key: Bytes::from_static(b"a"),
            version: None,
        }],
        ranges: Vec::new(),
        writer: Some(Writer {
            txn: txn.txn,
            version: hlc::floor_of(START_MS + 50),
        }),
    };
    assert_eq!(ask(&mut world, validate(young)).1, CONFLICT);
    let (older, waits) = ask(&mut world, validate(attempt(0)));
    assert_eq!(waits, None);
    let (call, writer) = question(&mut world);
    tell(&mut world, call, valid(writer.version));
    let changed = Some(Outcome::Txn(TxnAnswer::Changed));
    assert_eq!(world.responses.remove(&older), changed);
}
