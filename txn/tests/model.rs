//! Random commands against the simplest program that could be right, with a clock that both see.

mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use synod_txn::{Command, ErrorCode, Reply};
use world::{START_MS, World};

/// What every key should hold, and until when.
#[derive(Default)]
struct Model {
    rows: BTreeMap<String, (String, Option<u64>)>,
    now_ms: u64,
}

impl Model {
    fn get(&mut self, key: &str) -> Option<String> {
        let now_ms = self.now_ms;
        self.rows
            .retain(|_, (_, until)| until.is_none_or(|until| until > now_ms));
        self.rows.get(key).map(|(value, _)| value.clone())
    }

    fn until(&mut self, key: &str) -> Option<u64> {
        self.rows.get(key).and_then(|(_, until)| *until)
    }

    fn run(&mut self, line: &[&str]) -> Reply {
        let bulk = |value: Option<String>| value.map_or(Reply::Null, Reply::bulk);
        let key = line.get(1).copied().unwrap_or("");
        let value = self.get(key);
        let until = self.until(key);
        match line {
            ["GET", _] => bulk(value),
            ["SET", _, new] => {
                self.rows.insert(key.into(), (new.to_string(), None));
                Reply::Ok
            }
            ["SET", _, new, "PX", ms] => {
                let until = self.now_ms + ms.parse::<u64>().unwrap();
                self.rows.insert(key.into(), (new.to_string(), Some(until)));
                Reply::Ok
            }
            ["SET", _, new, "KEEPTTL"] => {
                self.rows.insert(key.into(), (new.to_string(), until));
                Reply::Ok
            }
            ["SET", _, new, "NX"] => match value {
                Some(_) => Reply::Null,
                None => {
                    self.rows.insert(key.into(), (new.to_string(), None));
                    Reply::Ok
                }
            },
            ["SET", _, new, "XX", "GET"] => {
                if value.is_some() {
                    self.rows.insert(key.into(), (new.to_string(), None));
                }
                bulk(value)
            }
            ["GETDEL", _] => {
                self.rows.remove(key);
                bulk(value)
            }
            ["INCRBY", _, by] => match value.as_deref().unwrap_or("0").parse::<i64>() {
                Ok(number)
                    if value
                        .as_ref()
                        .is_none_or(|text| *text == number.to_string()) =>
                {
                    let sum = number + by.parse::<i64>().unwrap();
                    self.rows.insert(key.into(), (sum.to_string(), until));
                    Reply::Integer(sum)
                }
                _ => Reply::err("value is not an integer or out of range"),
            },
            ["APPEND", _, tail] => {
                let value = value.unwrap_or_default() + tail;
                let len = value.len();
                self.rows.insert(key.into(), (value, until));
                Reply::Integer(len as i64)
            }
            ["STRLEN", _] => Reply::Integer(value.unwrap_or_default().len() as i64),
            ["DEL", a, b] => {
                let count = [*a, *b]
                    .into_iter()
                    .filter(|key: &&str| self.rows.remove::<str>(key).is_some())
                    .count();
                Reply::Integer(count as i64)
            }
            ["EXISTS", a, b] => {
                let count = [*a, *b]
                    .into_iter()
                    .filter(|key: &&str| self.rows.contains_key::<str>(key))
                    .count();
                Reply::Integer(count as i64)
            }
            ["MGET", a, b] => Reply::Array([a, b].iter().map(|key| bulk(self.get(key))).collect()),
            ["MSET", a, x, b, y] => {
                self.rows.insert(a.to_string(), (x.to_string(), None));
                self.rows.insert(b.to_string(), (y.to_string(), None));
                Reply::Ok
            }
            ["PEXPIRE", _, ms] => match value {
                None => Reply::Integer(0),
                Some(value) => {
                    match self.now_ms.checked_add_signed(ms.parse().unwrap()) {
                        Some(until) if until > self.now_ms => {
                            self.rows.insert(key.into(), (value, Some(until)));
                        }
                        _ => {
                            self.rows.remove(key);
                        }
                    }
                    Reply::Integer(1)
                }
            },
            ["PERSIST", _] => match (value, until) {
                (Some(value), Some(_)) => {
                    self.rows.insert(key.into(), (value, None));
                    Reply::Integer(1)
                }
                _ => Reply::Integer(0),
            },
            ["PTTL", _] => match (value, until) {
                (None, _) => Reply::Integer(-2),
                (Some(_), None) => Reply::Integer(-1),
                (Some(_), Some(until)) => Reply::Integer((until - self.now_ms) as i64),
            },
            ["RANGE", from, to] => {
                let rows = self
                    .rows
                    .range(from.to_string()..)
                    .filter(|(key, _)| to.is_empty() || key.as_str() < *to);
                let flat =
                    rows.flat_map(|(key, (value, _))| [Reply::bulk(key), Reply::bulk(value)]);
                Reply::Array(flat.collect())
            }
            other => panic!("the model does not know {other:?}"),
        }
    }
}

fn key() -> impl Strategy<Value = String> {
    // Some keys below and some above the middle of the key space: two shards.
    prop::sample::select(vec!["a", "b", "c", "\u{100}", "\u{101}"]).prop_map(str::to_owned)
}

fn line() -> impl Strategy<Value = Vec<String>> {
    let value = prop::sample::select(vec!["1", "22", "x", "", "-7"]).prop_map(str::to_owned);
    let ms = (-5i64..40).prop_map(|ms| ms.to_string());
    let name = 0..20usize;
    (name, key(), key(), value.clone(), value, ms).prop_map(|(name, a, b, x, y, ms)| {
        let positive = ms.trim_start_matches('-').to_owned();
        let positive = if positive == "0" {
            "1".into()
        } else {
            positive
        };
        let words: Vec<&str> = match name {
            0 => vec!["GET", &a],
            1 => vec!["SET", &a, &x],
            2 => vec!["SET", &a, &x, "PX", &positive],
            3 => vec!["SET", &a, &x, "KEEPTTL"],
            4 => vec!["SET", &a, &x, "NX"],
            5 => vec!["SET", &a, &x, "XX", "GET"],
            6 => vec!["GETDEL", &a],
            7 => vec!["INCRBY", &a, &ms],
            8 => vec!["APPEND", &a, &x],
            9 => vec!["STRLEN", &a],
            10 => vec!["DEL", &a, &b],
            11 => vec!["EXISTS", &a, &b],
            12 => vec!["MGET", &a, &b],
            13 => vec!["MSET", &a, &x, &b, &y],
            14 => vec!["PEXPIRE", &a, &ms],
            15 => vec!["PERSIST", &a],
            16 => vec!["PTTL", &a],
            17 => vec!["RANGE", "", ""],
            18 => vec!["RANGE", "b", "\u{100}z"],
            _ => vec!["ADVANCE", &positive],
        };
        words.into_iter().map(str::to_owned).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn commands_do_what_the_model_does(
        script in prop::collection::vec(line(), 1..60),
        late in prop::option::of(any::<u64>().prop_map(|seed| seed / 2)),
    ) {
        let mut world = World::new(2, 2, late);
        let mut model = Model { now_ms: START_MS, ..Model::default() };
        for words in &script {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let ["ADVANCE", ms] = words[..] {
                let ms: u64 = ms.parse().unwrap();
                world.advance(ms);
                model.now_ms += ms;
                continue;
            }
            let (given, expected) = (world.run(&words), model.run(&words));
            prop_assert_eq!(given, expected, "{:?} in {:?}", words, script);
        }
        let (a, b) = (world.nodes[0].state.dump(), world.nodes[1].state.dump());
        prop_assert_eq!(a, b, "replicas are the same");
    }

    #[test]
    fn parsing_never_panics_and_what_it_gives_survives_the_wire(
        words in prop::collection::vec(
            prop_oneof![
                prop::sample::select(
                    synod_txn::table::all().iter().map(|spec| spec.name).collect::<Vec<_>>()
                ).prop_map(|name| Bytes::from_static(name.as_bytes())),
                prop::sample::select(vec![
                    "NX", "XX", "EX", "PX", "GET", "1", "-1", "0", "MATCH", "COUNT", "LIMIT",
                    "TOKEN", "SNAPSHOT", "AT", "READONLY", "STATUS", "9223372036854775807", "1.5",
                ]).prop_map(|word| Bytes::from_static(word.as_bytes())),
                prop::collection::vec(any::<u8>(), 0..10).prop_map(Bytes::from),
            ],
            0..7,
        )
    ) {
        match Command::parse(words) {
            Err(reply) => prop_assert!(reply.is_error()),
            Ok(command) => {
                let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&command).unwrap();
                let back: Command = rkyv::from_bytes::<_, rkyv::rancor::Error>(&bytes).unwrap();
                prop_assert_eq!(&back, &command);
                let mut keys = 0;
                command.for_each_key(|_| keys += 1);
                prop_assert!(keys <= 7);
            }
        }
    }

    #[test]
    fn parts_of_a_command_name_all_its_keys_and_only_in_their_shard(
        keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..4), 1..20),
        shards in 1u32..9,
    ) {
        let world = World::new(1, shards, None);
        let keys: Vec<Bytes> = keys.into_iter().map(Bytes::from).collect();
        let split = world.map.split(Command::MGet { keys: keys.clone() }).unwrap();
        let mut replies = Vec::new();
        for part in &split.parts {
            let range = &world.map.descriptor(part.shard).unwrap().range;
            let mut reply = Vec::new();
            part.command.for_each_key(|key| {
                assert!(range.contains(key));
                reply.push(Reply::Bulk(key.clone()));
            });
            replies.push(Reply::Array(reply));
        }
        // If each shard answers the key itself, the whole is the list of keys, in order.
        let expected = Reply::Array(keys.into_iter().map(Reply::Bulk).collect());
        prop_assert_eq!(split.merge.finish(replies), expected);
    }
}

#[test]
fn an_iteration_shows_every_key_that_stays_whoever_leads() {
    for seed in 0..30 {
        let mut world = World::new(3, 3, (seed % 2 == 0).then_some(seed));
        let mut expected = Vec::new();
        for i in 0..60u32 {
            let key = format!("{}{i:03}", ["\x01", "a", "\u{100}"][i as usize % 3]);
            world.run(&["SET", &key, "v"]);
            expected.push(key);
        }
        let mut seen = Vec::new();
        let mut cursor = "0".to_owned();
        for page in 0.. {
            assert!(page < 500, "the iteration ends");
            let Reply::Array(items) = world.run(&["SCAN", &cursor, "COUNT", "4"]) else {
                panic!("a page");
            };
            let [Reply::Bulk(next), Reply::Array(keys)] = &items[..] else {
                panic!("a page")
            };
            for key in keys {
                let Reply::Bulk(key) = key else {
                    panic!("a key")
                };
                seen.push(String::from_utf8(key.to_vec()).unwrap());
            }
            cursor = String::from_utf8(next.to_vec()).unwrap();
            if cursor == "0" {
                break;
            }
            // Keys come, and the last key shown may go, while another node takes over.
            world.run(&["SET", &format!("a{page:03}new"), "v"]);
            if page % 19 == 1 {
                if let Some(last) = seen.last().cloned() {
                    world.run(&["DEL", &last]);
                }
                for shard in 1..=3 {
                    world.elect(synod_storage::ShardId(shard), (page / 19) % 3, usize::MAX);
                }
            }
        }
        for key in expected {
            assert!(seen.contains(&key), "seed {seed}: {key:?} was skipped");
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads_and_deletes() {
    let mut world = World::new(1, 1, None);
    world.run(&["SET", "k", "v"]);
    world.nodes[0].state.disk_full = true;
    let refused = world.run(&["SET", "k", "w"]);
    assert!(
        matches!(
            refused,
            Reply::Error {
                code: ErrorCode::DiskFull,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(world.run(&["GET", "k"]), Reply::bulk("v"));
    assert_eq!(world.run(&["DEL", "k"]), Reply::Integer(1));
    world.nodes[0].state.disk_full = false;
    assert_eq!(world.run(&["SET", "k", "w"]), Reply::Ok);
}
