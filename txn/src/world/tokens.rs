//! Tokens: a transaction takes effect once, whoever sends it and however often, and what is said
//! about it is final (scenario 22 of the rules).

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::{START_MS, World};
use crate::coordinator::{self, Coordinator, Ended, Ticket};
use crate::{
    Access, AttemptId, Begin, Command, ErrorCode, Event, Intent, Outcome, ReadMode, Reply,
    TxnAnswer, TxnId, TxnRequest, Verdict, hlc, token,
};
use synod_testpoint::{Bug, plant};

const SHARD: ShardId = ShardId(1);

fn fresh(counter: u64) -> Bytes {
    token::issue(hlc::floor_of(START_MS), NodeId(1), counter)
}

fn intent(token: &Bytes, line: &[&str]) -> Box<Intent> {
    let words = line
        .iter()
        .map(|word| Bytes::copy_from_slice(word.as_bytes()));
    Box::new(Intent {
        commands: vec![Command::parse(words.collect()).unwrap()],
        token: Some(token.clone()),
        ..Intent::default()
    })
}

fn attempt(counter: u64) -> AttemptId {
    AttemptId {
        txn: TxnId {
            age: hlc::floor_of(START_MS + counter),
            node: NodeId(1),
            counter,
        },
        attempt: 1,
    }
}

fn prepare(world: &mut World, attempt: AttemptId, intent: Box<Intent>) -> synod_storage::Version {
    let request = TxnRequest::Prepare {
        attempt,
        begun: attempt.txn.age,
        anchor: Bytes::from_static(b"anchor"),
        spans: vec![Bytes::from_static(b"anchor"), Bytes::from_static(b"other")],
        intent,
    };
    match world.ask(SHARD, request) {
        Some(Outcome::Txn(TxnAnswer::Prepared { version, .. })) => version,
        other => panic!("not prepared: {other:?}"),
    }
}

fn decide(
    world: &mut World,
    attempt: AttemptId,
    version: synod_storage::Version,
) -> Option<Outcome> {
    let begun = attempt.txn.age;
    let request = TxnRequest::Decide {
        attempt,
        begun,
        version,
    };
    world.ask(SHARD, request)
}

fn status(world: &mut World, token: &Bytes) -> Option<Outcome> {
    let token = token.clone();
    world.ask(SHARD, TxnRequest::TokenStatus { token })
}

fn is_committed(outcome: &Option<Outcome>) -> bool {
    let committed = |it: &Verdict| matches!(it, Verdict::Committed(_));
    matches!(outcome, Some(Outcome::Txn(TxnAnswer::Recorded(it))) if committed(it))
}

const ABORTED: Option<Outcome> = Some(Outcome::Txn(TxnAnswer::Recorded(Verdict::Aborted)));

#[test]
fn the_same_token_through_two_gateways_takes_effect_once() {
    let mut world = World::new(3, 1, None);
    let (token, one, other) = (fresh(1), attempt(1), attempt(2));
    let first = prepare(&mut world, one, intent(&token, &["INCR", "a"]));
    let second = prepare(&mut world, other, intent(&token, &["INCR", "b"]));
    let decided = decide(&mut world, other, second);
    assert_eq!(
        decided,
        Some(Outcome::Txn(TxnAnswer::Decided(Verdict::Committed(second))))
    );
    assert!(is_committed(&decide(&mut world, one, first)));
    // Its locks are gone, and it has had no effect.
    assert_eq!(
        world.run(&["MGET", "a", "b"]),
        Reply::Array(vec![Reply::Null, Reply::bulk("1")])
    );
    // And a third one, which one shard carries out.
    let intent = intent(&token, &["INCR", "b"]);
    assert!(is_committed(
        &world.ask(SHARD, TxnRequest::Execute { intent })
    ));
    assert_eq!(world.run(&["GET", "b"]), Reply::bulk("1"));
}

#[test]
fn a_question_that_overtakes_the_commit_ends_it() {
    for (bug, holds) in [(None, true), (Some(Bug::AbsenceIsAnAnswer), false)] {
        plant(bug);
        let mut world = World::new(3, 1, None);
        let (token, it) = (fresh(1), attempt(1));
        let version = prepare(&mut world, it, intent(&token, &["SET", "a", "1"]));
        assert_eq!(status(&mut world, &token), ABORTED);
        // Whatever was said is final.
        assert_eq!(decide(&mut world, it, version) == ABORTED, holds, "{bug:?}");
        assert_eq!(world.run(&["GET", "a"]) == Reply::Null, holds, "{bug:?}");
        plant(None);
    }
}

#[test]
fn what_became_of_a_token_survives_a_change_of_leader() {
    let mut world = World::new(3, 1, None);
    let token = fresh(1);
    let intent = intent(&token, &["INCR", "a"]);
    let execute = TxnRequest::Execute { intent };
    assert!(matches!(
        world.ask(SHARD, execute.clone()),
        Some(Outcome::Txn(TxnAnswer::Executed { .. }))
    ));
    world.elect(SHARD, 1, usize::MAX);
    assert!(is_committed(&status(&mut world, &token)));
    assert!(is_committed(&world.ask(SHARD, execute)));
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("1"));
}

#[test]
fn a_token_that_was_forgotten_is_refused_and_not_carried_out_again() {
    let mut world = World::new(3, 1, None);
    let token = fresh(1);
    let intent = intent(&token, &["INCR", "a"]);
    let execute = TxnRequest::Execute { intent };
    world.ask(SHARD, execute.clone());
    for _ in 0..12 {
        world.advance(60_000);
        world.step(0, Event::Tick);
        world.settle(0);
    }
    world.elect(SHARD, 2, usize::MAX);
    let code = ErrorCode::Expired;
    for request in [execute, TxnRequest::TokenStatus { token }] {
        let outcome = world.ask(SHARD, request);
        assert!(
            matches!(&outcome, Some(Outcome::Reply(Reply::Error { code: of, .. })) if *of == code),
            "{outcome:?}"
        );
    }
    assert_eq!(world.run(&["GET", "a"]), Reply::bulk("1"));
}

#[test]
fn using_a_token_again_is_caught_when_it_is_let() {
    plant(Some(Bug::TokensAreForgotten));
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| {
        let mut world = World::new(3, 1, None);
        let intent = intent(&fresh(1), &["INCR", "a"]);
        for _ in 0..2 {
            let intent = intent.clone();
            world.ask(SHARD, TxnRequest::Execute { intent });
        }
    });
    std::panic::set_hook(quiet);
    plant(None);
    assert!(caught.is_err(), "a token has two outcomes");
}

/// What became of the first attempt is not known; what the second one finds changed may be the first one's
/// doing.
#[test]
fn what_may_have_been_done_is_not_said_to_have_lost() {
    let mut world = World::new(1, 1, None);
    let mut coordinator = Coordinator::new(coordinator::Settings::default(), NodeId(1), 1);
    let ticket = Ticket(1);
    let begin = Begin {
        access: Access::ReadWrite,
        reads: ReadMode::Latest,
        token: Some(fresh(1)),
    };
    let again = None;
    let command = super::attempts::command(&["SET", "a", "1"]);
    let steps = [
        coordinator::Event::Begin {
            ticket,
            begin,
            again,
        },
        coordinator::Event::Execute { ticket, command },
        coordinator::Event::Commit { ticket },
    ];
    let mut effects = Vec::new();
    for event in steps {
        coordinator.step(world.now(0), event, &world.map, &mut effects);
    }
    for outcome in [Outcome::Unknown, Outcome::Txn(TxnAnswer::Changed)] {
        world.advance(1_000);
        let tick = coordinator::Event::Tick;
        coordinator.step(world.now(0), tick, &world.map, &mut effects);
        let asked = effects.drain(..).find_map(|effect| match effect {
            coordinator::Effect::Call { call, .. } => Some(call),
            coordinator::Effect::Reply { .. } | coordinator::Effect::Ended { .. } => None,
        });
        let call = asked.expect("it is tried, and tried again");
        let answered = coordinator::Event::Answered { call, outcome };
        coordinator.step(world.now(0), answered, &world.map, &mut effects);
    }
    let ended = effects.into_iter().find_map(|effect| match effect {
        coordinator::Effect::Ended { ended, .. } => Some(ended),
        coordinator::Effect::Call { .. } | coordinator::Effect::Reply { .. } => None,
    });
    let code = ErrorCode::Unknown;
    assert!(
        matches!(&ended, Some(Ended::Failed(Reply::Error { code: of, .. })) if *of == code),
        "{ended:?}"
    );
}
