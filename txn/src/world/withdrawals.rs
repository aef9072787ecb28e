//! Clients that are gone: what they asked for is not carried on for nobody.

use std::collections::BTreeSet;

use synod_storage::{ShardId, Version};

use super::World;
use super::attempts::{DONE, attempt, command, prepare, prepared, resolve};
use crate::{Event, Outcome, Reply, Settings, Stream, Token, Verdict};

const SHARD: ShardId = ShardId(1);

fn withdraw(world: &mut World, tokens: &[u64]) {
    let tokens = tokens.iter().copied().map(Token).collect::<BTreeSet<_>>();
    world.step(0, Event::Withdraw { tokens });
    world.settle(0);
}

fn send(world: &mut World, line: &[&str], stream: Stream) -> u64 {
    let token = world.send(0, SHARD, command(line), stream);
    world.settle(0);
    token
}

fn stream(id: u64) -> Stream {
    Stream { id, generation: 1 }
}

/// Clients give up after some tens of milliseconds and ask again, while the leader cannot prove that it
/// leads: nothing piles up, and who stays is answered.
#[test]
fn impatient_readers_leave_nothing_behind() {
    let settings = Settings {
        waiting_max: 100,
        ..Settings::default()
    };
    let mut world = World::with_settings(3, 1, None, settings);
    world.eager = false;
    let patient = send(&mut world, &["GET", "k"], Stream::NONE);
    for round in 0..50 {
        let tokens: Vec<u64> = (0..50)
            .map(|_| send(&mut world, &["GET", "k"], Stream::NONE))
            .collect();
        for token in &tokens {
            let answer = world.responses.get(token);
            assert_eq!(answer, None, "round {round}: one more than it has room for");
        }
        withdraw(&mut world, &tokens);
    }
    let (node, shard, term, round) = world.confirms.pop().expect("rounds were asked for");
    world.step(node, Event::LeadershipConfirmed { shard, term, round });
    assert_eq!(world.responses.len(), 1, "only who waits is answered");
    let answer = world.responses.remove(&patient);
    assert_eq!(answer, Some(Outcome::Reply(Reply::Null)));
}

/// Without withdrawals the bound holds: it is an answer that is tried again.
#[test]
fn answers_that_wait_for_proof_are_bounded() {
    let settings = Settings {
        waiting_max: 100,
        ..Settings::default()
    };
    let mut world = World::with_settings(3, 1, None, settings);
    world.eager = false;
    let tokens: Vec<u64> = (0..150)
        .map(|_| send(&mut world, &["GET", "k"], Stream::NONE))
        .collect();
    let refused = tokens
        .iter()
        .filter(|token| world.responses.get(token) == Some(&Outcome::Overloaded));
    assert_eq!(refused.count(), 50);
}

/// Behind a lock: a whole pipeline goes, and none of it takes effect; others are not held up.
#[test]
fn a_pipeline_that_waits_for_a_lock_goes_as_a_whole() {
    let mut world = World::new(3, 1, None);
    let holder = attempt(1);
    let request = prepare(holder, &[&["SET", "k", "locked"]], &["a"]);
    let version = prepared(world.ask(SHARD, request));
    let gone = [
        send(&mut world, &["SET", "k", "gone"], stream(7)),
        send(&mut world, &["SET", "l", "gone"], stream(7)),
        send(&mut world, &["SET", "m", "gone"], stream(7)),
    ];
    let stays = send(&mut world, &["APPEND", "k", "+"], stream(8));
    assert!(world.responses.is_empty(), "all of them wait");
    withdraw(&mut world, &gone);
    let verdict = Verdict::Committed(Version(version.0 + 1));
    assert_eq!(world.ask(SHARD, resolve(holder, verdict)), DONE);
    world.settle(0);
    assert_eq!(
        world.responses.remove(&stays),
        Some(Outcome::Reply(Reply::Integer(7)))
    );
    assert_eq!(world.run(&["GET", "k"]), Reply::bulk("locked+"));
    assert_eq!(
        world.run(&["MGET", "l", "m"]),
        Reply::Array(vec![Reply::Null, Reply::Null])
    );
    assert!(world.responses.is_empty(), "nobody else was answered");
    assert!(!world.nodes[0].participant.is_busy(SHARD));
}

/// Latches, the disk, and commands in the middle of their queues: whoever leaves, the others go on in order.
#[test]
fn queues_close_up_behind_those_who_leave() {
    for seed in 0..200 {
        let mut world = World::new(3, 1, Some(seed));
        world.run(&["SET", "k", "0"]);
        // Of each node all reads may come late: no answer is given before `settle`.
        let tokens: Vec<u64> = (0..12u64)
            .map(|n| {
                let line = ["APPEND", "k", if n % 3 == 0 { "x" } else { "y" }];
                world.send(0, SHARD, command(&line), stream(n / 3))
            })
            .collect();
        // Every other pipeline goes.
        let is_gone = |n: usize| (n / 3) as u64 % 2 == seed % 2;
        let gone = (0..12).filter(|n| is_gone(*n)).map(|n| tokens[n]);
        let gone: BTreeSet<Token> = gone.map(Token).collect();
        let event = Event::Withdraw {
            tokens: gone.clone(),
        };
        world.step(0, event);
        world.settle(0);
        for token in tokens
            .iter()
            .filter(|token| !gone.contains(&Token(**token)))
        {
            let answer = world.responses.get(token);
            assert!(
                matches!(answer, Some(Outcome::Reply(Reply::Integer(_)))),
                "seed {seed}: {answer:?}"
            );
        }
        assert!(!world.nodes[0].participant.is_busy(SHARD), "seed {seed}");
        assert!(world.replicas_agree(), "seed {seed}");
    }
}
