//! One shard under random schedules: leaders come and go, entries are committed late or lost, the
//! store answers late, leadership is confirmed or not. Whatever happens, the answers must have an
//! order: that of the final value.
//!
//! Clients append unique words to keys and read them. The final value of a key is the order of all
//! appends that took effect; a read shows a prefix of it. So real time can be checked exactly: what
//! was answered before something else was asked must stand before it.

use std::collections::BTreeMap;

use super::World;
use crate::{Command, Event, Leadership, Outcome, Reply, Stream};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_replication::NodeId;
use synod_storage::ShardId;

const SHARD: ShardId = ShardId(1);

/// What the test breaks on purpose, to prove that it would notice.
#[derive(Clone, Copy, PartialEq)]
enum Sabotage {
    None,
    /// Leadership is confirmed without being asked about.
    ConfirmAnyone,
}

struct Asked {
    key: usize,
    /// `None` for a read.
    word: Option<u64>,
    stream: Stream,
    asked_at: u64,
    answered_at: Option<u64>,
    outcome: Option<Outcome>,
}

struct Run {
    world: World,
    rng: SmallRng,
    asked: BTreeMap<u64, Asked>,
    clock: u64,
    generations: BTreeMap<u64, u32>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut world = World::new(3, 1, Some(seed));
        world.eager = false;
        let rng = SmallRng::seed_from_u64(seed);
        Run {
            world,
            rng,
            asked: BTreeMap::new(),
            clock: 0,
            generations: BTreeMap::new(),
        }
    }

    fn key(key: usize) -> Bytes {
        Bytes::from(format!("key{key}"))
    }

    fn send(&mut self, node: usize, key: usize) {
        let id = self.rng.random_range(0..4u64);
        let stream = Stream {
            id,
            generation: *self.generations.entry(id).or_insert(0),
        };
        let word = self.rng.random_ratio(1, 2).then_some(self.clock);
        let command = match word {
            Some(word) => {
                let value = Bytes::from(format!("{word},"));
                Command::Append {
                    key: Self::key(key),
                    value,
                }
            }
            None => Command::Get {
                key: Self::key(key),
            },
        };
        let token = self.world.send(node, SHARD, command, stream);
        let asked_at = self.clock;
        self.asked.insert(
            token,
            Asked {
                key,
                word,
                stream,
                asked_at,
                answered_at: None,
                outcome: None,
            },
        );
        self.collect();
    }

    fn collect(&mut self) {
        for (token, outcome) in std::mem::take(&mut self.world.responses) {
            let asked = self
                .asked
                .get_mut(&token)
                .expect("only requests are answered");
            asked.answered_at = Some(self.clock);
            if outcome.is_retryable() {
                // The gateway would start the stream again; here the client gives the command up.
                let generation = self.generations.entry(asked.stream.id).or_insert(0);
                *generation = (*generation).max(asked.stream.generation + 1);
            }
            asked.outcome = Some(outcome);
        }
    }

    fn random_step(&mut self, sabotage: Sabotage) {
        self.clock += 1;
        let node = self.rng.random_range(0..3);
        let leader = self.world.logs[&SHARD].leader.unwrap();
        let node = if self.rng.random_ratio(1, 2) {
            leader
        } else {
            node
        };
        match self.rng.random_range(0..1000) {
            0..300 => {
                let key = self.rng.random_range(0..3);
                self.send(node, key);
            }
            300..500 => self.world.flush(node),
            500..620 => {
                let entries = self.rng.random_range(1..5);
                self.world.commit(SHARD, entries);
            }
            620..780 => {
                let entries = self.rng.random_range(1..6);
                self.world.apply(node, SHARD, entries);
            }
            780..880 => self.confirm(sabotage),
            880..960 => {
                let pick = self.rng.random_range(0..8);
                if let Some((id, result)) = self.world.nodes[node].state.answer(pick) {
                    self.world.step(node, Event::StoreRead { id, result });
                }
            }
            960..970 => {
                let node = self.rng.random_range(0..3);
                let keep = self.rng.random_range(0..4);
                self.world.elect(SHARD, node, keep);
            }
            970..975 => {
                // A deposed leader learns of it.
                if self.world.logs[&SHARD].leader != Some(node) {
                    let leader = Some(NodeId(9));
                    let leadership = Leadership::Following { leader };
                    self.world.step(
                        node,
                        Event::Leadership {
                            shard: SHARD,
                            leadership,
                        },
                    );
                }
            }
            975..980 => self.world.refuse = 1,
            _ => {
                let ms = self.rng.random_range(0..300);
                self.world.advance(ms);
                self.world.step(node, Event::Tick);
            }
        }
        self.collect();
    }

    /// Answers the oldest question about leadership, truthfully.
    fn confirm(&mut self, sabotage: Sabotage) {
        if self.world.confirms.is_empty() {
            return;
        }
        let (node, shard, term, round) = self.world.confirms.remove(0);
        let log = &self.world.logs[&shard];
        let leads = log.leader == Some(node) && log.term == term;
        let event = match leads || sabotage == Sabotage::ConfirmAnyone {
            true => Event::LeadershipConfirmed { shard, term, round },
            false => Event::LeadershipDoubtful {
                shard,
                term,
                round,
                hint: None,
            },
        };
        match self.rng.random_ratio(1, 10) {
            true => {} // The answer is lost.
            false => self.world.step(node, event),
        }
    }

    /// Lets everything come to its end.
    fn heal(&mut self) {
        self.world.refuse = 0;
        let leader = self.rng.random_range(0..3);
        self.world.elect(SHARD, leader, 2);
        for _ in 0..200 {
            self.clock += 1;
            self.world.advance(200);
            for node in 0..3 {
                if node != leader {
                    let leadership = Leadership::Following { leader: None };
                    self.world.step(
                        node,
                        Event::Leadership {
                            shard: SHARD,
                            leadership,
                        },
                    );
                }
                self.world.step(node, Event::Tick);
                self.world.settle(node);
                self.world.commit(SHARD, usize::MAX);
                self.world.apply(node, SHARD, usize::MAX);
            }
            while !self.world.confirms.is_empty() {
                self.confirm(Sabotage::None);
            }
            self.collect();
        }
    }

    fn words(bytes: &[u8]) -> Vec<u64> {
        let text = std::str::from_utf8(bytes).unwrap();
        text.split_terminator(',')
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// The first thing that is wrong, if anything is.
    fn check(&mut self) -> Result<(), String> {
        for (token, asked) in &self.asked {
            if asked.outcome.is_none() {
                return Err(format!("request {token} was never answered"));
            }
        }
        if !self.world.replicas_agree() {
            return Err("replicas differ".into());
        }
        for key in 0..3 {
            self.world.eager = true;
            let reply = self.world.call(Command::Get {
                key: Self::key(key),
            });
            self.world.eager = false;
            let last = match reply {
                Reply::Bulk(bytes) => Self::words(&bytes),
                Reply::Null => Vec::new(),
                other => return Err(format!("{other:?}")),
            };
            self.check_key(key, &last)?;
        }
        Ok(())
    }

    fn check_key(&self, key: usize, last: &[u64]) -> Result<(), String> {
        // Each operation with the span of positions in which it may stand: `at` words precede it.
        let mut placed: Vec<(&Asked, usize, bool)> = Vec::new();
        for asked in self.asked.values().filter(|asked| asked.key == key) {
            match (asked.word, asked.outcome.as_ref()) {
                (Some(word), Some(outcome)) => {
                    let count = last.iter().filter(|other| **other == word).count();
                    let at = last.iter().position(|other| *other == word);
                    match (outcome, count) {
                        (Outcome::Reply(Reply::Integer(_)), 1) | (Outcome::Unknown, 1) => {
                            placed.push((asked, at.unwrap(), true));
                        }
                        (Outcome::Unknown, 0) => {}
                        (outcome, 0) if outcome.is_retryable() => {}
                        _ => return Err(format!("{word} stands {count} times: {outcome:?}")),
                    }
                }
                (None, Some(Outcome::Reply(reply))) => {
                    let seen = match reply {
                        Reply::Bulk(bytes) => Self::words(bytes),
                        Reply::Null => Vec::new(),
                        other => return Err(format!("{other:?}")),
                    };
                    if !last.starts_with(&seen) {
                        return Err(format!("read {seen:?} of {last:?}"));
                    }
                    placed.push((asked, seen.len(), false));
                }
                _ => {}
            }
        }
        for (before, at, is_append) in &placed {
            let Some(answered_at) = before.answered_at else {
                continue;
            };
            for (after, after_at, _) in &placed {
                let least = at + usize::from(*is_append);
                if before.outcome != Some(Outcome::Unknown)
                    && answered_at < after.asked_at
                    && *after_at < least
                {
                    return Err(format!("position {after_at} asked after {at} was answered"));
                }
                // One stream's commands stand in the order in which they were sent.
                if before.stream.id == after.stream.id
                    && before.asked_at < after.asked_at
                    && *after_at < least
                {
                    return Err(format!(
                        "stream {}: {after_at} after {at}",
                        before.stream.id
                    ));
                }
            }
        }
        Ok(())
    }
}

fn run(seed: u64, steps: usize, sabotage: Sabotage) -> Result<usize, String> {
    let mut run = Run::new(seed);
    for _ in 0..steps {
        run.random_step(sabotage);
    }
    run.heal();
    run.check()?;
    Ok(run
        .asked
        .values()
        .filter(|asked| matches!(asked.outcome, Some(Outcome::Reply(_))))
        .count())
}

fn seeds(default: u64) -> u64 {
    std::env::var("SYNOD_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn answers_have_an_order_that_real_time_agrees_with() {
    let mut answered = 0;
    for seed in 0..seeds(600) {
        match run(seed, 300, Sabotage::None) {
            Ok(count) => answered += count,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(
        answered > 10_000,
        "the schedules let most requests through: {answered}"
    );
}

#[test]
fn the_check_notices_reads_of_a_deposed_leader() {
    let caught = (0..300).any(|seed| run(seed, 300, Sabotage::ConfirmAnyone).is_err());
    assert!(caught);
}
