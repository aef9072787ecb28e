use std::collections::BTreeMap;

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::{KeyRange, ReplicaId, ShardId, Version};
use synod_txn::{Advance, Extent, Outcome, Replica, ReplicaRole, Reply, Response, ShardDescriptor};

use super::{DamagedReplica, Directory, Drawn, Learned, Message, NodeRecord, Table, Writer};

fn descriptor(shard: u64, epoch: u64) -> ShardDescriptor {
    ShardDescriptor {
        shard: ShardId(shard),
        epoch,
        range: KeyRange::all(),
        replicas: (0..3)
            .map(|i| Replica {
                replica: ReplicaId(10 * shard + i),
                node: NodeId(u128::from(i) + 1),
                role: ReplicaRole::Voter,
            })
            .collect(),
    }
}

fn node(id: u128, generation: u64) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        generation,
        peer: ([127, 0, 0, 1], 7701).into(),
        client: ([127, 0, 0, 1], 7601).into(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
    }
}

fn shard_row(it: &ShardDescriptor) -> (Bytes, Option<Bytes>) {
    let advance = Advance {
        key: Table::Shard(it.shard).key(),
        generation: it.epoch,
        value: Some(super::record::encode_descriptor(it)),
    };
    (advance.key.clone(), Some(advance.encode()))
}

#[test]
fn the_highest_epoch_stays_whatever_comes_when() {
    let mut directory = Directory::new([descriptor(1, 4)]);
    assert!(!directory.learn_shard(descriptor(1, 3)));
    assert!(!directory.learn_shard(descriptor(1, 4)));
    assert!(directory.learn_shard(descriptor(1, 5)));
    assert!(directory.learn_gone(ShardId(1), 6));
    assert!(!directory.learn_shard(descriptor(1, 5)), "it was merged");
    assert_eq!(directory.shard(ShardId(1)), None);
    assert_eq!(directory.gone(ShardId(1)), Some(6));
}

#[test]
fn a_resident_sees_rows_and_their_changes_in_order() {
    let mut directory = Directory::default();
    assert_eq!(directory.rows(b"").count(), 0);
    let first = descriptor(1, 1);
    let learned = directory.applied(Extent::Whole, vec![shard_row(&first)]);
    assert_eq!(learned, vec![Learned::Shard(first.clone())]);
    assert!(directory.is_resident());
    let seen = directory.revision();
    let policy = Advance {
        key: Bytes::from_static(b"policy/spread"),
        generation: 1,
        value: Some(Bytes::from_static(b"text")),
    };
    let of_policy = vec![(policy.key.clone(), Some(policy.encode()))];
    assert!(directory.applied(Extent::Changes, of_policy).is_empty());
    let again = descriptor(1, 2);
    directory.applied(Extent::Changes, vec![shard_row(&again)]);
    let changed: Vec<_> = directory.changes_since(seen).collect();
    assert_eq!(changed.len(), 2);
    assert_eq!(changed[0].0, &policy.key);
    assert_eq!(changed[1].1.map(|row| row.generation), Some(2));
    assert_eq!(directory.rows(b"policy/").count(), 1);

    // A snapshot without the policy: who watches sees that it went.
    let seen = directory.revision();
    directory.applied(Extent::Whole, vec![shard_row(&again)]);
    let gone = directory
        .changes_since(seen)
        .find(|(key, _)| **key == policy.key);
    assert_eq!(gone, Some((&policy.key, None)));
}

#[test]
fn damaged_replicas_come_and_go_with_their_rows() {
    let mut directory = Directory::default();
    let damaged = DamagedReplica {
        shard: ShardId(1),
        replica: ReplicaId(11),
        node: NodeId(2),
    };
    let key = Table::Damaged(damaged.replica).key();
    let mut row = Advance {
        key: key.clone(),
        generation: 1,
        value: Some(damaged.encode()),
    };
    directory.applied(Extent::Changes, vec![(key.clone(), Some(row.encode()))]);
    assert_eq!(directory.damaged().collect::<Vec<_>>(), vec![&damaged]);
    row.generation = 2;
    row.value = None;
    directory.applied(Extent::Changes, vec![(key, Some(row.encode()))]);
    assert_eq!(directory.damaged().count(), 0);
}

#[test]
fn what_one_tells_the_other_knows() {
    let mut teller = Directory::new((1..=5_000).map(|shard| descriptor(shard, shard)));
    teller.learn_node(node(7, 3));
    teller.learn_gone(ShardId(9_999), 4);
    let mut hearer = Directory::new([descriptor(3, 2)]);
    assert_ne!(teller.digest(), hearer.digest());
    for message in teller.tell() {
        let Message::Rows {
            shards,
            gone,
            nodes,
        } = message
        else {
            panic!("a question where news was due");
        };
        shards.into_iter().for_each(|it| {
            hearer.learn_shard(it);
        });
        for (shard, epoch) in gone {
            hearer.learn_gone(ShardId(shard), epoch);
        }
        nodes.into_iter().for_each(|it| {
            hearer.learn_node(it);
        });
    }
    assert_eq!(teller.digest(), hearer.digest());
}

#[test]
fn keys_name_what_they_are_about() {
    for table in [
        Table::Shard(ShardId(0)),
        Table::Node(NodeId(u128::MAX)),
        Table::State(NodeId(3)),
        Table::Damaged(ReplicaId(77)),
    ] {
        assert_eq!(Table::of(&table.key()), Some(table));
    }
    for other in [&b"policy/x"[..], b"shard/", b"shard/zz", b"\xff"] {
        assert_eq!(Table::of(other), None);
    }
}

fn response(id: u64, outcome: Outcome) -> Response {
    Response {
        id,
        hlc: Version(0),
        outcome,
    }
}

#[test]
fn a_write_follows_hints_and_ends_when_it_is_acknowledged() {
    let system = descriptor(0, 1);
    let mut writer = Writer::new(5);
    let advance = Advance {
        key: Bytes::from_static(b"node/x"),
        generation: 2,
        value: None,
    };
    assert!(writer.put(0, advance.clone()));
    let mut drawn = Vec::new();
    let sent = writer.due(0, &system, Version(0), &mut drawn);
    let [(first, request)] = sent.as_slice() else {
        panic!("one request: {sent:?}");
    };
    assert_eq!(*first, NodeId(1));
    assert!(writer.due(0, &system, Version(0), &mut drawn).is_empty());
    let hint = response(
        request.id,
        Outcome::NotLeader {
            hint: Some(NodeId(3)),
        },
    );
    assert!(!writer.awaits(NodeId(2), &hint));
    assert!(writer.awaits(NodeId(1), &hint));
    assert_eq!(writer.answered(10, hint), Ok(None));
    let sent = writer.due(10, &system, Version(0), &mut drawn);
    assert_eq!(sent[0].0, NodeId(3));
    // Its answer is lost: after a while somebody is asked again.
    let sent = writer.due(2_000_000, &system, Version(0), &mut drawn);
    let done = response(sent[0].1.id, Outcome::Reply(Reply::Integer(0)));
    assert_eq!(writer.answered(2_000_001, done), Ok(None));
    // What is acknowledged is not written again, a higher generation is.
    writer.put(3_000_000, advance.clone());
    assert!(
        writer
            .due(3_000_000, &system, Version(0), &mut drawn)
            .is_empty()
    );
    writer.put(
        3_000_000,
        Advance {
            generation: 3,
            ..advance
        },
    );
    assert_eq!(
        writer.due(3_000_000, &system, Version(0), &mut drawn).len(),
        1
    );
    assert!(drawn.is_empty());
}

#[test]
fn a_number_that_cannot_be_had_is_said_to_be_so() {
    let system = descriptor(0, 1);
    let mut writer = Writer::new(5);
    let ticket = writer.draw_shard(0);
    let mut drawn = Vec::new();
    let mut now_us = 0;
    while drawn.is_empty() {
        writer.due(now_us, &system, Version(0), &mut drawn);
        now_us += 500_000;
        assert!(now_us < 100_000_000, "it is given up some time");
    }
    let number = None;
    assert_eq!(drawn, vec![Drawn { ticket, number }]);
}
