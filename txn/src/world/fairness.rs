//! The oldest gets through: transactions over hot keys, among writers that never rest.
//!
//! Clients run transactions that read and write a few keys, drawn as in a Zipf distribution, or walk
//! through all of them; whoever loses is run again. Between any two of their steps somebody else writes
//! one of the keys, by itself, in one step: optimism alone never ends (rules 7 and 12 of the rules;
//! scenarios 12 and 13). With holds everybody is done.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_testpoint::{Bug, plant};

use super::World;
use super::attempts::command;
use crate::coordinator::{self, Call, Coordinator, Ended, Script, Ticket};
use crate::{
    Access, Again, Begin, Body, Command, ErrorCode, Event, Outcome, ReadMode, Reply, Stream,
};

/// How a client carries out its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `BEGIN`, two reads, a write, `COMMIT`.
    Interactive,
    /// The same, with a range over all shards instead of the reads.
    InteractiveRange,
    /// A script that walks through a range and writes.
    Script,
}

struct Client {
    coordinator: Coordinator,
    style: Style,
    /// What is left of the present transaction, last first.
    left: Vec<Command>,
    ticket: Ticket,
    again: Option<Again>,
    restarts: u32,
    done: usize,
}

struct Run {
    world: World,
    rng: SmallRng,
    clients: Vec<Client>,
    /// Questions on their way.
    calls: Vec<(usize, Call, ShardId, Body)>,
    waiting: BTreeMap<u64, (usize, Call)>,
    /// Writes by themselves that wait for a lock.
    young: Vec<u64>,
    worst: u32,
}

const CLIENTS: usize = 8;
const EACH: usize = 4;
const STEPS: usize = 15_000;

/// A few keys on both shards.
fn key(rank: usize) -> String {
    let first = if rank.is_multiple_of(2) {
        "a"
    } else {
        "\u{f8}"
    };
    format!("{first}{rank}")
}

impl Run {
    fn new(seed: u64, style: Style) -> Run {
        let client = |index: usize| Client {
            coordinator: Coordinator::new(
                coordinator::Settings::default(),
                NodeId(index as u128 + 10),
                1,
            ),
            style,
            left: Vec::new(),
            ticket: Ticket(0),
            again: None,
            restarts: 0,
            done: 0,
        };
        Run {
            world: World::new(1, 2, None),
            rng: SmallRng::seed_from_u64(seed),
            clients: (0..CLIENTS).map(client).collect(),
            calls: Vec::new(),
            waiting: BTreeMap::new(),
            young: Vec::new(),
            worst: 0,
        }
    }

    /// One of six keys, the n-th in proportion to 1/n.
    fn hot(&mut self) -> String {
        let mut point = self.rng.random_range(0.0..2.45);
        let mut rank = 1;
        while rank < 6 && point > 1.0 / rank as f64 {
            point -= 1.0 / rank as f64;
            rank += 1;
        }
        key(rank)
    }

    fn begin(&mut self, of: usize) {
        let (first, second) = (self.hot(), self.hot());
        let write = command(&["SET", &first, "mine"]);
        let range = command(&["RANGE", "", ""]);
        let client = &mut self.clients[of];
        client.ticket.0 += 1;
        let ticket = client.ticket;
        let begin = Begin {
            access: Access::ReadWrite,
            reads: ReadMode::Latest,
            token: None,
        };
        let event = match client.style {
            Style::Script => coordinator::Event::Run {
                ticket,
                script: Script {
                    watched: Vec::new(),
                    commands: vec![range, write],
                },
            },
            Style::Interactive | Style::InteractiveRange => {
                client.left = match client.style {
                    Style::InteractiveRange => vec![write, range],
                    Style::Interactive | Style::Script => {
                        vec![write, command(&["GET", &second]), command(&["GET", &first])]
                    }
                };
                coordinator::Event::Begin {
                    ticket,
                    begin,
                    again: client.again.take(),
                }
            }
        };
        self.coordinate(of, event);
        if style_is_interactive(self.clients[of].style) {
            self.go_on(of);
        }
    }

    fn go_on(&mut self, of: usize) {
        let client = &mut self.clients[of];
        let ticket = client.ticket;
        let event = match client.left.pop() {
            Some(command) => coordinator::Event::Execute { ticket, command },
            None => coordinator::Event::Commit { ticket },
        };
        self.coordinate(of, event);
    }

    fn coordinate(&mut self, of: usize, event: coordinator::Event) {
        let now = self.world.now(0);
        let mut effects = Vec::new();
        let client = &mut self.clients[of];
        client
            .coordinator
            .merge_hlc(self.world.nodes[0].participant.hlc());
        client
            .coordinator
            .step(now, event, &self.world.map, &mut effects);
        for effect in effects {
            match effect {
                coordinator::Effect::Call {
                    call, shard, body, ..
                } => self.calls.push((of, call, shard, body)),
                coordinator::Effect::Reply { .. } => self.go_on(of),
                coordinator::Effect::Ended { ended, .. } => self.ended(of, ended),
            }
        }
    }

    fn ended(&mut self, of: usize, ended: Ended) {
        let client = &mut self.clients[of];
        match ended {
            Ended::Replies(_) => {
                client.done += 1;
                client.restarts = 0;
            }
            Ended::Lost { again, .. } => {
                client.restarts += 1;
                client.again = Some(again);
                self.worst = self.worst.max(client.restarts);
            }
            Ended::Failed(Reply::Error {
                code: ErrorCode::TryAgain | ErrorCode::Conflict,
                ..
            }) => client.restarts += 1,
            other => panic!("{other:?}"),
        }
        client.left.clear();
        if client.done < EACH {
            self.begin(of);
        }
    }

    fn collect(&mut self) {
        loop {
            let answered: Vec<u64> = self.world.responses.keys().copied().collect();
            if answered.is_empty() {
                return;
            }
            for token in answered {
                let outcome = self
                    .world
                    .responses
                    .remove(&token)
                    .unwrap_or(Outcome::Unknown);
                self.young.retain(|young| *young != token);
                if let Some((of, call)) = self.waiting.remove(&token) {
                    self.coordinate(of, coordinator::Event::Answered { call, outcome });
                }
            }
        }
    }

    /// Somebody else writes a hot key, in one step, unless too many wait already.
    fn disturb(&mut self) {
        if self.young.len() >= 8 {
            return;
        }
        let key = self.hot();
        let shard = self.world.map.locate(key.as_bytes()).map(|it| it.shard);
        let write = command(&["SET", &key, "young"]);
        let shard = shard.expect("every key has a shard");
        let token = self.world.send(0, shard, write, Stream::NONE);
        self.young.push(token);
        self.world.settle(0);
        self.world.carry_calls();
        self.collect();
    }

    fn step(&mut self, number: usize) {
        for _ in 0..4 {
            self.disturb();
        }
        if !self.calls.is_empty() {
            let pick = self.rng.random_range(0..self.calls.len());
            let (of, call, shard, body) = self.calls.remove(pick);
            let token = self.world.send(0, shard, body, Stream::NONE);
            self.waiting.insert(token, (of, call));
            self.world.settle(0);
            self.world.carry_calls();
            self.collect();
        }
        if number.is_multiple_of(4) {
            self.world.advance(1);
            for of in 0..CLIENTS {
                self.coordinate(of, coordinator::Event::Tick);
            }
        }
        if number.is_multiple_of(400) {
            self.world.step(0, Event::Tick);
            self.world.settle(0);
            self.world.carry_calls();
            self.collect();
        }
    }

    fn is_done(&self) -> bool {
        self.clients.iter().all(|client| client.done >= EACH)
    }
}

fn style_is_interactive(style: Style) -> bool {
    match style {
        Style::Interactive | Style::InteractiveRange => true,
        Style::Script => false,
    }
}

/// Whether everybody is done in time, and the largest number of restarts that anybody has needed.
fn run(seed: u64, style: Style, bug: Option<Bug>) -> (bool, u32) {
    plant(bug);
    let mut run = Run::new(seed, style);
    for of in 0..CLIENTS {
        run.begin(of);
    }
    let mut steps = 0..STEPS;
    let done = steps.any(|number| {
        run.step(number);
        run.is_done()
    });
    plant(None);
    (done, run.worst)
}

/// Scenario 12, and 13 as far as scans finish: everybody is done in the end, and sooner by far than without
/// holds, if that has an end at all.
#[test]
fn the_oldest_commits_however_busy_the_young_are() {
    for style in [Style::Interactive, Style::InteractiveRange, Style::Script] {
        let mut most = 0;
        for seed in 0..3 {
            let (done, worst) = run(seed, style, None);
            println!("{style:?}, seed {seed}: up to {worst} restarts");
            assert!(
                done,
                "{style:?}, seed {seed}: {worst} restarts, and not done"
            );
            most = most.max(worst);
        }
        let (done, worst) = run(0, style, Some(Bug::NeverHolds));
        println!("{style:?}, without holds: {done}, up to {worst} restarts");
        assert!(
            !done || worst > 4 * most,
            "{style:?}: holds make no difference"
        );
    }
}
