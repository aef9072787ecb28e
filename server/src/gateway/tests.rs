use super::*;
use synod_storage::{KeyRange, ReplicaId};
use synod_txn::{Replica, ReplicaRole};

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
    let mut gateway = Gateway::new(7, map, Settings::default());
    gateway.step(0, Event::Leader(ShardId(1), HERE), &mut Vec::new());
    gateway.step(0, Event::Leader(ShardId(2), THERE), &mut Vec::new());
    gateway.step(0, Event::Opened(CLIENT), &mut Vec::new());
    gateway
}

fn command(line: &str) -> Submission {
    let argv = line
        .split(' ')
        .map(|word| word.as_bytes().to_vec().into())
        .collect();
    Submission::Command(Command::parse(argv).expect("a valid command"))
}

/// Steps and flushes; returns the requests and the replies that came out.
fn feed(gateway: &mut Gateway, now_us: u64, event: Event) -> (Vec<(NodeId, Request)>, Vec<Reply>) {
    let mut effects = Vec::new();
    gateway.step(now_us, event, &mut effects);
    gateway.flush(now_us, &mut effects);
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Request(node, request) => requests.push((node, request)),
            Effect::Replies(_, batch) => replies.extend(batch),
            Effect::Ask(..) => panic!("nobody was asked"),
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
    gateway.step(0, Event::Leader(ShardId(2), THERE), &mut Vec::new());
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

#[test]
fn parts_of_a_command_are_put_together() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["MGET a z b"]);
    assert_eq!(requests.len(), 2);
    let bulk = |text: &'static str| Reply::bulk(text);
    let first = Reply::Array(vec![bulk("A"), bulk("B")]);
    let (node, request) = &requests[0];
    let event = Event::Response(*node, answer(request.id, Outcome::Reply(first)));
    assert!(feed(&mut gateway, 0, event).1.is_empty());
    let (node, request) = &requests[1];
    let second = Reply::Array(vec![bulk("Z")]);
    let event = Event::Response(*node, answer(request.id, Outcome::Reply(second)));
    let (_, replies) = feed(&mut gateway, 0, event);
    assert_eq!(
        replies,
        vec![Reply::Array(vec![bulk("A"), bulk("Z"), bulk("B")])]
    );
}

#[test]
fn a_client_that_is_gone_leaves_nothing_behind() {
    let mut gateway = gateway();
    let (requests, _) = submit(&mut gateway, &["SET a 1", "SET z 2"]);
    feed(&mut gateway, 0, Event::Closed(CLIENT));
    let done = answer(requests[0].1.id, Outcome::Reply(Reply::Ok));
    let (more, replies) = feed(&mut gateway, 0, Event::Response(HERE, done));
    assert!(more.is_empty() && replies.is_empty());
    assert!(gateway.sessions.is_empty() && gateway.operations.is_empty());
    assert_eq!(gateway.requests_under_way(), 0);
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
fn a_refused_transaction_is_refused_whole() {
    let mut gateway = gateway();
    let (requests, replies) = submit(&mut gateway, &["MULTI", "SET a 1", "EXEC", "GET a"]);
    assert_eq!(requests.len(), 1, "only the command behind it runs");
    assert_eq!(replies.len(), 3);
    assert!(replies.iter().all(Reply::is_error));
}
