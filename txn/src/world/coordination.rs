//! What clients see of transactions when nothing goes wrong, and what it costs.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::ShardId;

use super::World;
use crate::coordinator::{Call, Coordinator, Effect, Ended, Event, Script, Settings, Ticket};
use crate::{
    Access, Begin, Command, ErrorCode, KeyRead, ReadMode, Reply, Stream, TransactionCommand,
};

/// A gateway over an eager world: every call is answered at once.
struct Gateway {
    world: World,
    coordinator: Coordinator,
    ended: Vec<(Ticket, Ended)>,
    replies: Vec<Reply>,
    next_ticket: u64,
    calls: usize,
    /// Questions of leaders to other shards.
    asked_by_leaders: usize,
    /// Calls that are not answered yet, by their tokens.
    waiting: BTreeMap<u64, Call>,
    /// Whether what nobody waits for is left to go with what comes next.
    busy: bool,
}

/// Keys of three shards.
const A: &str = "a";
const B: &str = "\u{480}b";
const C: &str = "\u{1f600}c";

impl Gateway {
    fn new() -> Gateway {
        let gateway = Gateway {
            world: World::new(3, 3, None),
            coordinator: Coordinator::new(Settings::default(), NodeId(1), 1),
            ended: Vec::new(),
            replies: Vec::new(),
            next_ticket: 0,
            calls: 0,
            asked_by_leaders: 0,
            waiting: BTreeMap::new(),
            busy: false,
        };
        let shard = |key: &str| gateway.world.map.locate(key.as_bytes()).unwrap().shard;
        assert_eq!(
            [shard(A), shard(B), shard(C)],
            [ShardId(2), ShardId(3), ShardId(3)]
        );
        gateway
    }

    fn step(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.world.now(0);
            let mut effects = Vec::new();
            self.coordinator
                .step(now, event, &self.world.map, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Call {
                        call, shard, body, ..
                    } => {
                        self.calls += 1;
                        let leader = self.world.logs[&shard].leader.unwrap();
                        let token = self.world.send(leader, shard, body, Stream::NONE);
                        self.waiting.insert(token, call);
                        match self.busy {
                            true => self.world.flush(leader),
                            false => self.world.settle(leader),
                        }
                        self.asked_by_leaders += self.world.calls.len();
                        self.world.carry_calls();
                        self.waiting.retain(|token, call| {
                            let outcome = self.world.responses.remove(token);
                            let call = *call;
                            let is_open = outcome.is_none();
                            let answers = outcome.map(|outcome| Event::Answered { call, outcome });
                            events.extend(answers);
                            is_open
                        });
                    }
                    Effect::Reply { reply, .. } => self.replies.push(reply),
                    Effect::Ended { ticket, ended } => self.ended.push((ticket, ended)),
                }
            }
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn command(line: &[&str]) -> Command {
        let argv = line
            .iter()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect();
        Command::parse(argv).unwrap()
    }

    fn ended_of(&mut self, ticket: Ticket) -> Ended {
        let at = self.ended.iter().position(|(of, _)| *of == ticket);
        self.ended.remove(at.expect("it has ended")).1
    }

    fn exec(&mut self, watched: Vec<KeyRead>, lines: &[&[&str]]) -> Ended {
        let ticket = self.ticket();
        let commands = lines.iter().map(|line| Self::command(line)).collect();
        self.step(Event::Run {
            ticket,
            script: Script { watched, commands },
        });
        self.ended_of(ticket)
    }

    fn watch(&mut self, keys: &[&str]) -> Vec<KeyRead> {
        let ticket = self.ticket();
        let keys = keys
            .iter()
            .map(|key| Bytes::copy_from_slice(key.as_bytes()))
            .collect();
        self.step(Event::Watch { ticket, keys });
        match self.ended_of(ticket) {
            Ended::Watched(reads) => reads,
            other => panic!("{other:?}"),
        }
    }

    fn begin(&mut self, line: &[&str]) -> Ticket {
        let Command::Transaction(TransactionCommand::Begin(begin)) = Self::command(line) else {
            panic!("a BEGIN");
        };
        let ticket = self.ticket();
        self.step(Event::Begin {
            ticket,
            begin,
            again: None,
        });
        ticket
    }

    fn execute(&mut self, ticket: Ticket, line: &[&str]) -> Reply {
        self.step(Event::Execute {
            ticket,
            command: Self::command(line),
        });
        self.replies.pop().expect("a reply")
    }

    fn commit(&mut self, ticket: Ticket) -> Ended {
        self.step(Event::Commit { ticket });
        self.ended_of(ticket)
    }

    fn entries(&self) -> usize {
        self.world.logs.values().map(|log| log.entries.len()).sum()
    }
}

fn replies(replies: &[Reply]) -> Ended {
    Ended::Replies(replies.to_vec())
}

#[test]
fn a_script_over_shards_is_carried_out_whole() {
    let mut gateway = Gateway::new();
    let ended = gateway.exec(
        vec![],
        &[
            &["SET", A, "1"],
            &["INCR", A],
            &["SET", "\x01", "x"],
            &["MGET", A, "\x01", C],
            &["GET", A],
        ],
    );
    let mget = Reply::Array(vec![Reply::bulk("2"), Reply::bulk("x"), Reply::Null]);
    let expected = [
        Reply::Ok,
        Reply::Integer(2),
        Reply::Ok,
        mget,
        Reply::bulk("2"),
    ];
    assert_eq!(ended, replies(&expected));
    assert_eq!(gateway.world.run(&["GET", A]), Reply::bulk("2"));
    assert_eq!(gateway.coordinator.active(), 0);
    for node in &gateway.world.nodes {
        assert!(
            (1..=3).all(|shard| !node.participant.is_busy(ShardId(shard))),
            "no lock stays"
        );
    }
}

#[test]
fn an_error_of_one_command_does_not_undo_the_others() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["SET", "\x01", "text"]);
    let ended = gateway.exec(vec![], &[&["SET", A, "1"], &["INCR", "\x01"], &["INCR", A]]);
    let Ended::Replies(replies) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(replies[0], Reply::Ok);
    assert!(replies[1].is_error());
    assert_eq!(replies[2], Reply::Integer(2));
    assert_eq!(gateway.world.run(&["GET", A]), Reply::bulk("2"));
}

#[test]
fn a_watched_key_that_changed_makes_it_null() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["SET", A, "1"]);
    for other in [A, "\x01", C] {
        // Unchanged: it is carried out.
        let watched = gateway.watch(&[A, "\x01", C]);
        let ended = gateway.exec(watched, &[&["SET", B, "done"]]);
        assert_eq!(ended, replies(&[Reply::Ok]), "{other}");
        // Changed, in the same shard as the write or in another one: it is not.
        let watched = gateway.watch(&[A, "\x01", C]);
        gateway.world.run(&["SET", other, "changed"]);
        let ended = gateway.exec(watched, &[&["SET", B, "lost"]]);
        assert_eq!(ended, Ended::Changed, "{other}");
        assert_eq!(gateway.world.run(&["GET", B]), Reply::bulk("done"));
    }
}

#[test]
fn expiry_of_a_watched_key_is_a_change() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["SET", A, "1", "PX", "50"]);
    let watched = gateway.watch(&[A]);
    gateway.world.advance(50);
    assert_eq!(
        gateway.exec(watched, &[&["SET", "\x01", "x"]]),
        Ended::Changed
    );
}

#[test]
fn msetnx_over_shards_looks_at_all_keys() {
    let mut gateway = Gateway::new();
    let line: &[&str] = &["MSETNX", A, "1", "\x01", "2"];
    assert_eq!(gateway.exec(vec![], &[line]), replies(&[Reply::Integer(1)]));
    let line: &[&str] = &["MSETNX", C, "1", "\x01", "3"];
    assert_eq!(gateway.exec(vec![], &[line]), replies(&[Reply::Integer(0)]));
    assert_eq!(
        gateway.world.run(&["MGET", C, "\x01"]),
        Reply::Array(vec![Reply::Null, Reply::bulk("2")])
    );
}

#[test]
fn an_interactive_transaction_sees_its_own_writes_and_nobody_else_does_before() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["SET", A, "10"]);
    let txn = gateway.begin(&["BEGIN"]);
    assert_eq!(
        gateway.execute(txn, &["INCRBY", A, "5"]),
        Reply::Integer(15)
    );
    assert_eq!(
        gateway.execute(txn, &["DECRBY", "\x01", "5"]),
        Reply::Integer(-5)
    );
    assert_eq!(gateway.execute(txn, &["GET", A]), Reply::bulk("15"));
    assert_eq!(gateway.world.run(&["GET", A]), Reply::bulk("10"));
    assert_eq!(gateway.commit(txn), replies(&[]));
    assert_eq!(
        gateway.world.run(&["MGET", A, "\x01"]),
        Reply::Array(vec![Reply::bulk("15"), Reply::bulk("-5")])
    );
}

#[test]
fn an_interactive_transaction_whose_reads_changed_conflicts() {
    let mut gateway = Gateway::new();
    let txn = gateway.begin(&["BEGIN"]);
    assert_eq!(gateway.execute(txn, &["GET", A]), Reply::Null);
    assert_eq!(gateway.execute(txn, &["SET", "\x01", "x"]), Reply::Ok);
    gateway.world.run(&["SET", A, "1"]);
    let ended = gateway.commit(txn);
    assert!(
        matches!(
            ended,
            Ended::Lost {
                why: Reply::Error {
                    code: ErrorCode::Conflict,
                    ..
                },
                ..
            }
        ),
        "{ended:?}"
    );
    assert_eq!(gateway.world.run(&["GET", "\x01"]), Reply::Null);
}

#[test]
fn an_interactive_transaction_never_sees_a_torn_state() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["MSET", A, "old", "\x01", "old"]);
    let txn = gateway.begin(&["BEGIN"]);
    assert_eq!(gateway.execute(txn, &["GET", A]), Reply::bulk("old"));
    let both = gateway.exec(vec![], &[&["MSET", A, "new", "\x01", "new"]]);
    assert_eq!(both, replies(&[Reply::Ok]));
    // The other half of the new state would not fit the old one that was read.
    gateway.step(Event::Execute {
        ticket: txn,
        command: Gateway::command(&["GET", "\x01"]),
    });
    assert_eq!(gateway.replies, vec![]);
    let ended = gateway.ended_of(txn);
    assert!(
        matches!(
            ended,
            Ended::Lost {
                why: Reply::Error {
                    code: ErrorCode::Conflict,
                    ..
                },
                ..
            }
        ),
        "{ended:?}"
    );
}

/// An open snapshot is held open: all shards hear of it, again and again, and of none when it is over.
#[test]
fn an_open_snapshot_outlives_the_retention() {
    let mut gateway = Gateway::new();
    for key in [A, C] {
        gateway.world.run(&["SET", key, "old"]);
    }
    gateway.world.advance(10);
    let txn = gateway.begin(&["BEGIN", "SNAPSHOT"]);
    assert!(matches!(gateway.replies.pop(), Some(Reply::Integer(_))));
    // Longer than anything is kept for by itself, and than a leader waits to hear of readers.
    for _ in 0..20 {
        gateway.world.advance(500);
        gateway.step(Event::Tick);
        for key in [A, C] {
            gateway.world.run(&["SET", key, "new"]);
        }
        for node in 0..3 {
            gateway.world.step(node, crate::Event::Tick);
            gateway.world.flush(node);
        }
    }
    for key in [A, C] {
        assert_eq!(gateway.execute(txn, &["GET", key]), Reply::bulk("old"));
    }
    let before = gateway.calls;
    assert_eq!(gateway.commit(txn), replies(&[]));
    gateway.world.advance(2_000);
    gateway.step(Event::Tick);
    assert_eq!(gateway.calls, before, "nobody reads any more");
}

#[test]
fn a_read_only_transaction_may_not_write() {
    let mut gateway = Gateway::new();
    let txn = gateway.begin(&["BEGIN", "READONLY"]);
    assert!(gateway.execute(txn, &["SET", A, "1"]).is_error());
    assert_eq!(gateway.execute(txn, &["GET", A]), Reply::Null);
    assert_eq!(gateway.commit(txn), replies(&[]));
    let begin = Begin {
        access: Access::ReadOnly,
        reads: ReadMode::Latest,
        token: None,
    };
    assert_eq!(begin.access, Access::ReadOnly);
}

#[test]
fn an_idle_transaction_times_out() {
    let mut gateway = Gateway::new();
    let txn = gateway.begin(&["BEGIN"]);
    gateway.execute(txn, &["SET", A, "1"]);
    gateway.world.advance(61_000);
    gateway.step(Event::Tick);
    let ended = gateway.ended_of(txn);
    assert!(
        matches!(
            ended,
            Ended::Failed(Reply::Error {
                code: ErrorCode::Idle,
                ..
            })
        ),
        "{ended:?}"
    );
    assert_eq!(gateway.world.run(&["GET", A]), Reply::Null);
}

/// What a script costs with three replicas and a remote gateway: messages, and appends that are synced. A
/// question and its answer are two messages; an entry is sent to two followers, which acknowledge it, and
/// is appended and synced on all three.
fn cost(gateway: &mut Gateway, lines: &[&[&str]]) -> (u64, u64) {
    cost_of(gateway, |gateway| {
        gateway.exec(vec![], lines);
    })
}

/// The same for whatever a client does.
fn cost_of(gateway: &mut Gateway, act: impl FnOnce(&mut Gateway)) -> (u64, u64) {
    let questions = |gateway: &Gateway| gateway.calls + gateway.asked_by_leaders;
    let (entries, calls) = (gateway.entries(), questions(gateway));
    act(gateway);
    let entries = (gateway.entries() - entries) as u64;
    let calls = (questions(gateway) - calls) as u64;
    (2 * calls + 4 * entries, 3 * entries)
}

/// Where one shard writes and others are read, one entry is all that is logged.
#[test]
fn one_shard_that_writes_costs_one_entry_whatever_is_read_elsewhere() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["SET", C, "read"]);
    let script: [&[&str]; 3] = [&["MGET", C, "\x01"], &["INCR", A], &["GET", A]];
    // What is promised for the first time raises ceilings.
    gateway.exec(vec![], &script);
    let ended = gateway.exec(vec![], &script);
    let mget = Reply::Array(vec![Reply::bulk("read"), Reply::Null]);
    let expected = [mget, Reply::Integer(2), Reply::bulk("2")];
    assert_eq!(ended, replies(&expected));
    // Two are read; one is asked to write, and asks the two; it logs.
    assert_eq!(cost(&mut gateway, &script), (4 + 2 + 4 + 4, 3));
    // What was watched needs not be read again.
    let watched = gateway.watch(&[C]);
    let set: [&[&str]; 1] = [&["SET", A, "1"]];
    let of_exec = cost_of(&mut gateway, |gateway| {
        assert_eq!(gateway.exec(watched, &set), replies(&[Reply::Ok]));
    });
    assert_eq!(of_exec, (2 + 2 + 4, 3));
    let txn = gateway.begin(&["BEGIN"]);
    assert_eq!(gateway.execute(txn, &["GET", C]), Reply::bulk("read"));
    let all = ["RANGE", "\u{1f600}", "\u{1f601}"];
    let rows = Reply::Array(vec![Reply::bulk(C), Reply::bulk("read")]);
    assert_eq!(gateway.execute(txn, &all), rows);
    assert_eq!(gateway.execute(txn, &["SET", A, "2"]), Reply::Ok);
    let of_commit = cost_of(&mut gateway, |gateway| {
        assert_eq!(gateway.commit(txn), replies(&[]));
    });
    assert_eq!(of_commit, (2 + 2 + 4, 3));
    assert_eq!(gateway.world.run(&["GET", A]), Reply::bulk("2"));
}

/// What a script is told of other shards is what was there when it wrote.
#[test]
fn a_script_that_reads_elsewhere_is_told_what_was_there_when_it_wrote() {
    let mut gateway = Gateway::new();
    gateway.world.run(&["SET", C, "1"]);
    let script: [&[&str]; 2] = [&["GET", C], &["SET", A, "x"]];
    assert_eq!(
        gateway.exec(vec![], &script),
        replies(&[Reply::bulk("1"), Reply::Ok])
    );
    gateway.world.run(&["SET", C, "2"]);
    assert_eq!(
        gateway.exec(vec![], &script),
        replies(&[Reply::bulk("2"), Reply::Ok])
    );
    // A watched key that has changed in the meantime is still told apart.
    let watched = gateway.watch(&["\x01"]);
    gateway.world.run(&["SET", "\x01", "changed"]);
    assert_eq!(gateway.exec(watched, &script), Ended::Changed);
}

#[test]
fn one_shard_costs_one_entry_and_two_shards_two_rounds() {
    let mut gateway = Gateway::new();
    let one: [&[&str]; 3] = [&["SET", A, "1"], &["SET", "ab", "2"], &["INCR", A]];
    assert_eq!(cost(&mut gateway, &one), (6, 3), "as a SET");
    // Prepare, conclude; then, with the client answered: resolve and forget.
    let two: [&[&str]; 2] = [&["SET", A, "1"], &["SET", "\x01", "2"]];
    assert_eq!(cost(&mut gateway, &two), (24, 12));
    // Under load what is behind the answer has no entries of its own.
    gateway.busy = true;
    let (messages, syncs) = (0..100).fold((0, 0), |(messages, syncs), _| {
        let (more_messages, more_syncs) = cost(&mut gateway, &two);
        (messages + more_messages, syncs + more_syncs)
    });
    assert!((600..=610).contains(&syncs), "{syncs} for 100");
    assert!((1_500..=1_650).contains(&messages), "{messages} for 100");
    gateway.busy = false;
    // Reads only: nothing is logged. (The ceiling is raised at most once a shard.)
    let read: [&[&str]; 2] = [&["GET", A], &["GET", "\x01"]];
    cost(&mut gateway, &read);
    assert_eq!(cost(&mut gateway, &read), (8, 0), "read, and validated");
    let read: [&[&str]; 2] = [&["GET", A], &["GET", "ab"]];
    assert_eq!(cost(&mut gateway, &read), (2, 0), "as a GET");
}
