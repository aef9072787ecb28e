use super::*;
use synod_storage::{KeyRange, ReplicaId};
use synod_txn::{AttemptId, Body, ReadValue, Replica, ReplicaRole, TxnAnswer, TxnId, TxnRequest};

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);
const CLIENT: SessionId = SessionId(1);

/// Two shards, split at "m", with replicas here and there.
fn gateway() -> Gateway {
    let descriptor = |shard: u64, start: &str, end: Option<&str>| ShardDescriptor {
        shard: ShardId(shard),
        epoch: 1,
        range: KeyRange {
            start: start.as_bytes().to_vec(),
            end: end.map(|end| end.as_bytes().to_vec()),
        },
        replicas: [HERE, THERE]
            .map(|node| Replica {
                replica: ReplicaId(shard * 10 + node.0 as u64),
                node,
                role: ReplicaRole::Voter,
            })
            .to_vec(),
    };
    let map = ShardMap::new([descriptor(1, "", Some("m")), descriptor(2, "m", None)]);
    let mut gateway = Gateway::new(HERE, (1, 7), map, Settings::default());
    gateway.step(at(0), Event::Leader(ShardId(1), HERE), &mut Vec::new());
    gateway.step(at(0), Event::Leader(ShardId(2), THERE), &mut Vec::new());
    gateway.step(
        at(0),
        Event::Opened(CLIENT, Connection::default()),
        &mut Vec::new(),
    );
    gateway
}

fn command(line: &str) -> Submission {
    let argv = line
        .split(' ')
        .map(|word| word.as_bytes().to_vec().into())
        .collect();
    Submission::Command(Command::parse(argv).expect("a valid command"))
}

fn at(now_us: u64) -> Now {
    Now {
        monotonic: synod_storage::Micros(now_us),
        wall_ms: 1_700_000_000_000 + now_us / 1000,
    }
}

/// Steps and flushes; returns the requests and the replies that came out.
fn feed(gateway: &mut Gateway, now_us: u64, event: Event) -> (Vec<(NodeId, Request)>, Vec<Reply>) {
    let mut effects = Vec::new();
    gateway.step(at(now_us), event, &mut effects);
    gateway.flush(at(now_us), &mut effects);
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Request(node, request) => requests.push((node, request)),
            Effect::Replies(_, batch) => replies.extend(batch),
            Effect::Withdraw(..) => {}
            Effect::Ask(..) | Effect::Called { .. } => panic!("nobody was asked"),
        }
    }
    (requests, replies)
}

fn submit(gateway: &mut Gateway, lines: &[&str]) -> (Vec<(NodeId, Request)>, Vec<Reply>) {
    let batch = lines.iter().map(|line| command(line)).collect();
    feed(gateway, 0, Event::Submitted(CLIENT, batch))
}

fn answer(id: u64, outcome: Outcome) -> Response {
    Response {
        id,
        hlc: Version(1),
        outcome,
    }
}

#[test]
fn a_command_goes_to_the_leader_of_its_key() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["GET a", "GET z"]);
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].0, requests[0].1.shard), (HERE, ShardId(1)));
    assert_eq!((requests[1].0, requests[1].1.shard), (THERE, ShardId(2)));
}

#[test]
fn replies_leave_in_the_order_of_the_commands() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["GET a", "GET z"]);
    let second = answer(requests[1].1.id, Outcome::Reply(Reply::Integer(2)));
    assert!(
        feed(&mut gateway, 0, Event::Response(THERE, second))
            .1
            .is_empty()
    );
    let first = answer(requests[0].1.id, Outcome::Reply(Reply::Integer(1)));
    let (_, replies) = feed(&mut gateway, 0, Event::Response(HERE, first));
    assert_eq!(replies, vec![Reply::Integer(1), Reply::Integer(2)]);
}

#[test]
fn a_write_waits_for_earlier_ones_on_other_shards() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1", "SET b 2", "SET z 3", "SET c 4"]);
    let shards: Vec<_> = requests
        .iter()
        .map(|(_, request)| request.shard.0)
        .collect();
    assert_eq!(shards, vec![1, 1], "the third command is on another shard");
    for (_, request) in &requests[..1] {
        let done = answer(request.id, Outcome::Reply(Reply::Ok));
        assert!(
            feed(&mut gateway, 0, Event::Response(HERE, done))
                .0
                .is_empty()
        );
    }
    let done = answer(requests[1].1.id, Outcome::Reply(Reply::Ok));
    let (next, _) = feed(&mut gateway, 0, Event::Response(HERE, done));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].1.shard, ShardId(2));
}

#[test]
fn a_refused_command_and_all_behind_it_start_again_in_order() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1", "SET b 2"]);
    let refused = answer(requests[0].1.id, Outcome::NotLeader { hint: Some(THERE) });
    assert!(
        feed(&mut gateway, 0, Event::Response(HERE, refused))
            .0
            .is_empty()
    );
    let broken = answer(requests[1].1.id, Outcome::StreamBroken);
    let (again, _) = feed(&mut gateway, 0, Event::Response(HERE, broken));
    let keys: Vec<_> = again
        .iter()
        .map(|(node, request)| (*node, &request.body))
        .collect();
    assert_eq!(again.len(), 2);
    assert_eq!(keys[0].0, THERE);
    assert_eq!(*keys[0].1, requests[0].1.body);
    assert_eq!(*keys[1].1, requests[1].1.body);
    assert!(again[0].1.stream.generation > requests[0].1.stream.generation);
}

/// Scenario 23 of the rules of transactions: a pipeline over two shards, and the first one's leader fails.
/// Nothing of what follows is sent before what was refused is done, on either shard.
#[test]
fn a_pipeline_over_shards_keeps_its_order_through_a_failover() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1", "SET b 2", "SET z 3", "GET a"]);
    assert_eq!(requests.len(), 2, "the third command is on another shard");
    let refused = Outcome::NotLeader { hint: Some(THERE) };
    for (_, request) in &requests[..1] {
        let refused = Event::Response(HERE, answer(request.id, refused.clone()));
        assert_eq!(feed(&mut gateway, 0, refused).0, vec![]);
    }
    let broken = answer(requests[1].1.id, Outcome::StreamBroken);
    let (again, replies) = feed(&mut gateway, 0, Event::Response(HERE, broken));
    let sent: Vec<_> = again.iter().map(|(to, it)| (*to, it.shard.0)).collect();
    assert_eq!(sent, vec![(THERE, 1), (THERE, 1)], "both, and nothing else");
    assert_eq!(replies, vec![]);
    let mut next = Vec::new();
    for (_, request) in &again {
        assert_eq!(next, vec![], "not before both are done");
        let done = answer(request.id, Outcome::Reply(Reply::Ok));
        (next, _) = feed(&mut gateway, 0, Event::Response(THERE, done));
    }
    let sent: Vec<_> = next.iter().map(|(_, request)| request.shard.0).collect();
    assert_eq!(sent, vec![2], "the write; the read behind it waits");
}

#[test]
fn a_lost_write_is_unknown_and_a_lost_read_is_tried_elsewhere() {
    let mut gateway = gateway();
    submit(&mut gateway, &["SET z 1"]);
    let (_, replies) = feed(&mut gateway, 0, Event::Lost(THERE, Delivery::Unknown));
    assert!(matches!(
        replies[0],
        Reply::Error {
            code: ErrorCode::Unknown,
            ..
        }
    ));
    gateway.step(at(0), Event::Leader(ShardId(2), THERE), &mut Vec::new());
    submit(&mut gateway, &["GET z"]);
    let (requests, replies) = feed(&mut gateway, 0, Event::Lost(THERE, Delivery::Unknown));
    assert!(
        requests.is_empty() && replies.is_empty(),
        "a pause comes first"
    );
    let (requests, _) = feed(&mut gateway, 1_000_000, Event::Tick);
    assert_eq!(requests.len(), 1);
}

#[test]
fn a_write_that_never_left_is_tried_elsewhere() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET z 1"]);
    let unsent = Event::Unsent(THERE, vec![requests[0].1.id]);
    assert!(feed(&mut gateway, 0, unsent).1.is_empty());
    let (again, _) = feed(&mut gateway, 1_000_000, Event::Tick);
    assert_eq!(again.len(), 1);
    let (_, replies) = feed(
        &mut gateway,
        1_000_000,
        Event::Lost(again[0].0, Delivery::Nothing),
    );
    assert!(replies.is_empty(), "{replies:?}");
}

#[test]
fn nothing_is_answered_twice_or_after_its_deadline() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1"]);
    let (_, replies) = feed(&mut gateway, 10_000_000, Event::Tick);
    assert!(matches!(
        replies[0],
        Reply::Error {
            code: ErrorCode::Unknown,
            ..
        }
    ));
    let late = answer(requests[0].1.id, Outcome::Reply(Reply::Ok));
    assert!(
        feed(&mut gateway, 10_000_001, Event::Response(HERE, late))
            .1
            .is_empty()
    );
}

#[test]
fn without_a_leader_the_client_learns_that_nothing_was_done() {
    let mut gateway = gateway();
    let (mut requests, _) = submit(&mut gateway, &["SET a 1"]);
    for now_us in (0..=10_000_000).step_by(50_000) {
        for (node, request) in std::mem::take(&mut requests) {
            let refused = answer(request.id, Outcome::NotLeader { hint: None });
            let (more, replies) = feed(&mut gateway, now_us, Event::Response(node, refused));
            requests.extend(more);
            if let Some(reply) = replies.first() {
                assert!(matches!(
                    reply,
                    Reply::Error {
                        code: ErrorCode::TryAgain,
                        ..
                    }
                ));
                return;
            }
        }
        let (more, replies) = feed(&mut gateway, now_us, Event::Tick);
        requests.extend(more);
        if let Some(reply) = replies.first() {
            assert!(matches!(
                reply,
                Reply::Error {
                    code: ErrorCode::TryAgain,
                    ..
                }
            ));
            return;
        }
    }
    panic!("no answer within the deadline");
}

/// Answers every request as a shard would that has only empty strings, until a reply comes.
fn play(
    gateway: &mut Gateway,
    mut requests: Vec<(NodeId, Request)>,
    mut replies: Vec<Reply>,
) -> (Vec<TxnRequest>, Vec<Reply>) {
    let mut asked = Vec::new();
    while let Some((node, request)) = requests.pop() {
        let Body::Txn(body) = request.body else {
            panic!("only transactions are played");
        };
        let version = Version(9);
        let replies_to = |intent: &synod_txn::Intent| vec![Reply::Ok; intent.commands.len()];
        let said = match &body {
            TxnRequest::Read { keys } => TxnAnswer::Values {
                values: keys
                    .iter()
                    .map(|_| ReadValue {
                        value: None,
                        version: Version::ZERO,
                    })
                    .collect(),
                valid_through: version,
            },
            TxnRequest::Validate { .. } => TxnAnswer::Valid { through: version },
            TxnRequest::Prepare { intent, .. } => TxnAnswer::Prepared {
                version,
                replies: replies_to(intent),
            },
            TxnRequest::Execute { intent } => TxnAnswer::Executed {
                version: Some(version),
                replies: replies_to(intent),
            },
            TxnRequest::Conclude {
                version, intent, ..
            } => TxnAnswer::Concluded {
                version: *version,
                replies: replies_to(intent),
            },
            TxnRequest::Resolve { .. } | TxnRequest::Forget { .. } => TxnAnswer::Done,
            other => panic!("not expected: {other:?}"),
        };
        asked.push(body);
        let event = Event::Response(node, answer(request.id, Outcome::Txn(said)));
        let (more, said) = feed(gateway, 0, event);
        requests.extend(more);
        replies.extend(said);
    }
    (asked, replies)
}

#[test]
fn a_command_over_shards_is_one_transaction() {
    let mut gateway = gateway();
    let (requests, replies) = submit(&mut gateway, &["MSET a 1 z 2"]);
    let (asked, replies) = play(&mut gateway, requests, replies);
    let prepares = |request: &&TxnRequest| matches!(request, TxnRequest::Prepare { .. });
    let concludes = |request: &&TxnRequest| matches!(request, TxnRequest::Conclude { .. });
    assert_eq!(asked.iter().filter(prepares).count(), 1, "{asked:?}");
    assert_eq!(asked.iter().filter(concludes).count(), 1, "{asked:?}");
    assert_eq!(replies, vec![Reply::Ok]);
    assert_eq!(gateway.transactions_under_way(), 0);
    assert!(gateway.questions.is_empty() && gateway.tickets.is_empty());
}

#[test]
fn multi_queues_and_exec_carries_out_in_one_request() {
    let mut gateway = gateway();
    let lines = ["MULTI", "SET a 1", "SET b 2", "EXEC", "GET a"];
    let (requests, replies) = submit(&mut gateway, &lines);
    let queued = Reply::Status("QUEUED".into());
    assert_eq!(replies, vec![Reply::Ok, queued.clone(), queued]);
    assert_eq!(requests.len(), 1, "what follows waits for EXEC");
    let (node, request) = &requests[0];
    let executed = TxnAnswer::Executed {
        version: Some(Version(9)),
        replies: vec![Reply::Ok, Reply::Ok],
    };
    let event = Event::Response(*node, answer(request.id, Outcome::Txn(executed)));
    let (requests, replies) = feed(&mut gateway, 0, event);
    assert_eq!(replies, vec![Reply::Array(vec![Reply::Ok, Reply::Ok])]);
    assert_eq!(requests.len(), 1, "and is a command of its own");
}

#[test]
fn a_transaction_waits_for_the_commands_before_it_and_is_not_retried_as_single_commands() {
    let mut gateway = gateway();
    let (requests, replies) = submit(&mut gateway, &["SET a 1", "MULTI", "SET a 2", "EXEC"]);
    assert_eq!((requests.len(), replies.len()), (1, 0));
    let refused = Outcome::NotLeader { hint: Some(THERE) };
    let event = Event::Response(HERE, answer(requests[0].1.id, refused));
    let (requests, _) = feed(&mut gateway, 0, event);
    assert_eq!(requests.len(), 1, "the first command is tried again");
    let done = answer(requests[0].1.id, Outcome::Reply(Reply::Ok));
    let (requests, replies) = feed(&mut gateway, 0, Event::Response(THERE, done));
    assert_eq!(replies.len(), 3, "OK, OK, QUEUED");
    assert!(matches!(
        requests[0].1.body,
        Body::Txn(TxnRequest::Execute { .. })
    ));
}

#[test]
fn a_lost_execution_is_unknown_and_a_lost_question_is_asked_again() {
    let mut gateway = gateway();
    submit(&mut gateway, &["MULTI", "SET z 1", "EXEC"]);
    let (_, replies) = feed(&mut gateway, 0, Event::Lost(THERE, Delivery::Unknown));
    let code = ErrorCode::Unknown;
    assert!(
        matches!(&replies[..], [Reply::Error { code: of, .. }] if *of == code),
        "{replies:?}"
    );
    gateway.step(at(0), Event::Leader(ShardId(2), THERE), &mut Vec::new());
    submit(&mut gateway, &["BEGIN", "GET z"]);
    let (requests, replies) = feed(&mut gateway, 0, Event::Lost(THERE, Delivery::Unknown));
    assert!(requests.is_empty() && replies.is_empty(), "{replies:?}");
    let (requests, _) = feed(&mut gateway, 1_000_000, Event::Tick);
    assert_eq!(requests.len(), 1);
}

#[test]
fn a_client_that_is_gone_takes_its_transaction_with_it() {
    let mut gateway = gateway();
    let (requests, replies) = submit(&mut gateway, &["BEGIN", "SET a 1"]);
    assert!(requests.is_empty(), "a write is kept");
    assert_eq!(replies, vec![Reply::Ok, Reply::Ok]);
    assert_eq!(gateway.transactions_under_way(), 1);
    feed(&mut gateway, 0, Event::Closed(CLIENT));
    assert_eq!(gateway.transactions_under_way(), 0);
    assert!(gateway.sessions.is_empty() && gateway.tickets.is_empty());
}

#[test]
fn an_idle_transaction_is_over_and_what_follows_is_not_carried_out() {
    let mut gateway = gateway();
    submit(&mut gateway, &["BEGIN", "SET a 1"]);
    let (_, replies) = feed(&mut gateway, 61_000_000, Event::Tick);
    assert!(replies.is_empty(), "nothing was asked");
    let (requests, replies) = submit(&mut gateway, &["SET b 1", "COMMIT", "SET c 1"]);
    let idle =
        |reply: &Reply| matches!(reply, Reply::Error { code, .. } if *code == ErrorCode::Idle);
    assert!(
        replies.len() == 2 && replies.iter().all(idle),
        "{replies:?}"
    );
    assert_eq!(requests.len(), 1, "only what follows the end of it");
}

#[test]
fn a_leaders_question_finds_its_shard_and_comes_back_to_it() {
    let mut gateway = gateway();
    let (shard, call) = (ShardId(1), synod_txn::Call(5));
    let attempt = AttemptId {
        txn: TxnId {
            age: Version(1),
            node: HERE,
            counter: 1,
        },
        attempt: 1,
    };
    let begun = Version(1);
    let body = Body::Txn(TxnRequest::Recover { attempt, begun });
    let mut effects = Vec::new();
    gateway.ask_for(at(0), (shard, call), "z".into(), body, &mut effects);
    let Some(Effect::Request(THERE, request)) = effects.pop() else {
        panic!("it goes to the leader of the key: {effects:?}");
    };
    let decided = Outcome::Txn(TxnAnswer::Decided(synod_txn::Verdict::Aborted));
    let event = Event::Response(THERE, answer(request.id, decided.clone()));
    gateway.step(at(0), event, &mut effects);
    assert!(
        matches!(&effects[..], [Effect::Called { shard: of, call: it, outcome }]
            if (*of, *it) == (shard, call) && *outcome == decided),
        "{effects:?}"
    );
}

#[test]
fn a_client_that_is_gone_leaves_nothing_behind() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1", "SET z 2"]);
    let (_, replies) = feed(&mut gateway, 0, Event::Closed(CLIENT));
    assert_eq!(
        replies.len(),
        2,
        "none of them counts as under way any more"
    );
    let done = answer(requests[0].1.id, Outcome::Reply(Reply::Ok));
    let (more, replies) = feed(&mut gateway, 0, Event::Response(HERE, done));
    assert!(more.is_empty() && replies.is_empty());
    assert!(gateway.sessions.is_empty() && gateway.operations.is_empty());
    assert_eq!(gateway.requests_under_way(), 0);
}

#[test]
fn leaders_hear_that_nobody_waits_for_the_commands_of_a_client_that_is_gone() {
    let mut gateway = gateway();
    let other = SessionId(2);
    gateway.step(
        at(0),
        Event::Opened(other, Connection::default()),
        &mut Vec::new(),
    );
    let (requests, _) = submit(&mut gateway, &["GET a", "GET z", "GET y"]);
    let batch = vec![command("GET z")];
    let (others, _) = feed(&mut gateway, 0, Event::Submitted(other, batch));
    let mut effects = Vec::new();
    gateway.step(at(0), Event::Closed(CLIENT), &mut effects);
    let id = |at: usize| requests[at].1.id;
    assert!(
        matches!(&effects[..], [Effect::Withdraw(HERE, here), Effect::Withdraw(THERE, there)]
            if *here == [id(0)] && *there == [id(1), id(2)]),
        "{effects:?}"
    );
    let found = answer(others[0].1.id, Outcome::Reply(Reply::Integer(1)));
    let (_, replies) = feed(&mut gateway, 0, Event::Response(THERE, found));
    assert!(replies.contains(&Reply::Integer(1)), "others are served");
}

#[test]
fn what_waits_for_a_leader_goes_with_its_client() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1", "SET b 1"]);
    for (_, request) in &requests {
        let refused = answer(request.id, Outcome::NotLeader { hint: None });
        feed(&mut gateway, 0, Event::Response(HERE, refused));
    }
    let (again, replies) = feed(&mut gateway, 0, Event::Closed(CLIENT));
    assert!(again.is_empty(), "{again:?}");
    assert_eq!(replies.len(), 2);
    assert!(gateway.sessions.is_empty() && gateway.operations.is_empty());
}

#[test]
fn an_answer_to_an_earlier_life_or_from_another_node_is_not_taken() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["GET z"]);
    let stale = answer(0, Outcome::Reply(Reply::Integer(666)));
    assert!(
        feed(&mut gateway, 0, Event::Response(THERE, stale))
            .1
            .is_empty()
    );
    let misplaced = answer(requests[0].1.id, Outcome::Reply(Reply::Integer(666)));
    assert!(
        feed(&mut gateway, 0, Event::Response(HERE, misplaced))
            .1
            .is_empty()
    );
    let good = answer(requests[0].1.id, Outcome::Reply(Reply::Integer(1)));
    let (_, replies) = feed(&mut gateway, 0, Event::Response(THERE, good));
    assert_eq!(replies, vec![Reply::Integer(1)]);
}

#[test]
fn a_transaction_of_which_a_command_was_turned_away_is_not_carried_out() {
    let mut gateway = gateway();
    let (_, replies) = submit(&mut gateway, &["MULTI", "SET a 1"]);
    assert_eq!(replies.len(), 2);
    gateway.close(Some("no majority of the members can be heard".to_owned()));
    let (_, replies) = submit(&mut gateway, &["SET b 1"]);
    assert!(
        matches!(&replies[..], [Reply::Error { code, .. }] if *code == ErrorCode::NotServing),
        "{replies:?}"
    );
    gateway.close(None);
    let (requests, replies) = submit(&mut gateway, &["EXEC"]);
    assert!(requests.is_empty(), "{requests:?}");
    assert!(
        matches!(&replies[..], [Reply::Error { code, .. }] if *code == ErrorCode::ExecAbort),
        "{replies:?}"
    );
}

#[test]
fn an_interactive_transaction_of_which_a_command_was_turned_away_is_undone() {
    let mut gateway = gateway();
    let (requests, replies) = submit(&mut gateway, &["BEGIN", "GET a"]);
    assert_eq!(replies, vec![Reply::Ok]);
    gateway.close(Some("no majority of the members can be heard".to_owned()));
    let not_serving = |reply: &Reply| matches!(reply, Reply::Error { code, .. } if *code == ErrorCode::NotServing);
    // It is not answered before what stands before it.
    let (_, replies) = submit(&mut gateway, &["SET b 1"]);
    assert_eq!(replies, vec![]);
    let (_, replies) = play(&mut gateway, requests, replies);
    assert_eq!(replies[0], Reply::Null);
    assert!(
        not_serving(&replies[1]) && replies.len() == 2,
        "{replies:?}"
    );
    gateway.close(None);
    let (requests, replies) = submit(&mut gateway, &["SET b 2", "COMMIT", "GET a"]);
    assert!(
        not_serving(&replies[0]) && not_serving(&replies[1]),
        "{replies:?}"
    );
    assert_eq!(requests.len(), 1, "and what follows is by itself again");
    assert_eq!(gateway.transactions_under_way(), 0);
    assert!(gateway.tickets.is_empty());
}

/// With a token it is asked again, by whoever leads; but what may have arrived once is not said to have lost.
#[test]
fn a_commit_that_may_have_arrived_is_unknown_and_never_said_to_have_lost() {
    let mut gateway = gateway();
    let (_, replies) = submit(&mut gateway, &["TXN TOKEN"]);
    let [Reply::Bulk(token)] = &replies[..] else {
        panic!("{replies:?}");
    };
    let begin = format!(
        "BEGIN TOKEN {}",
        std::str::from_utf8(token).expect("a word")
    );
    let (requests, replies) = submit(&mut gateway, &[&begin, "COMMIT"]);
    assert_eq!(replies, vec![Reply::Ok]);
    let (node, _) = requests[0];
    let lost = Event::Lost(node, Delivery::Unknown);
    let (mut requests, mut replies) = feed(&mut gateway, 0, lost);
    for now_us in (0..20_000_000).step_by(10_000) {
        while let Some((node, request)) = requests.pop() {
            let outcome = Outcome::NotLeader { hint: None };
            let event = Event::Response(node, answer(request.id, outcome));
            let (more, said) = feed(&mut gateway, now_us, event);
            requests.extend(more);
            replies.extend(said);
        }
        let (more, said) = feed(&mut gateway, now_us, Event::Tick);
        requests.extend(more);
        replies.extend(said);
        if let Some(reply) = replies.first() {
            let unknown = |code: &ErrorCode| *code == ErrorCode::Unknown;
            assert!(
                matches!(reply, Reply::Error { code, .. } if unknown(code)),
                "{reply:?}"
            );
            return;
        }
    }
    panic!("no answer");
}
