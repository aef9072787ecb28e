//! Exhaustive exploration of the production machines on small models.
//!
//! A model is a few clients with a transaction or two each, a coordinator for each client, and two shards
//! on two nodes, each node leading one. Everything that can happen next is tried, in every state that can
//! be reached: any message on its way arrives, is lost, arrives twice, or arrives and its answer is lost;
//! a client begins; a coordinator loses patience or dies; a leader looks after what has been lying about
//! for too long (and forgets what it may); an entry of the log is committed, or is lost as another node
//! takes over; a shard is frozen and merged. Losses, deaths and the like are counted: a model has so many
//! of each and no more, which is what makes it finite.
//!
//! Where nothing can happen any more the faults end, everything comes to its end, and the history is
//! checked for strict serializability: what was appended, by whom, what was seen, and who was done before
//! who began. Besides, nobody may ever have seen one half of a transaction, not even a transaction that
//! was aborted later; and no machine may find its state impossible.
//!
//! Two shortcuts lose nothing. An answer arrives as soon as it is given: one that is late is told apart
//! by nobody from a next question that is late; but that what a leader has read elsewhere is valid it acts
//! upon by itself, so that comes late. And a node's loop turns once after each event.
//!
//! The rules that say what each model is for are in [`rules`](self::rules).

mod actions;
mod network;
mod rules;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Debug, Write as _};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use network::{Packet, Told, Waiting};
use synod_replication::NodeId;
use synod_storage::{Micros, ShardId};
use synod_testpoint::{Bug, plant};

use super::history::check_history;
use super::quiet::quietly;
use super::shared::Shared;
use super::transactions::{Op, State as Outcome, Txn};
use super::{START_MS, World};
use crate::coordinator::{self, Coordinator};
use crate::{Now, Settings};

const NODES: usize = 2;

/// How a client carries out its operations.
#[derive(Clone, Debug)]
enum Job {
    /// All at once, as `MULTI` does.
    Script(Vec<Op>),
    /// One by one, between `BEGIN` and `COMMIT`.
    Session(Vec<Op>),
    /// One by one, of the past.
    Snapshot(Vec<Op>),
    /// One operation, by itself.
    Single(Op),
}

impl Job {
    fn ops(&self) -> Vec<Op> {
        match self {
            Job::Script(ops) | Job::Session(ops) | Job::Snapshot(ops) => ops.clone(),
            Job::Single(op) => vec![op.clone()],
        }
    }
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// Messages that are lost, before or after they have had their effect.
    losses: u8,
    /// Messages that come twice.
    doubles: u8,
    /// Coordinators that die.
    deaths: u8,
    /// Coordinators that lose patience, or begin again.
    impatience: u8,
    /// Leaders that look after what has been lying about for long.
    recoveries: u8,
    /// Shards that get another leader.
    elections: u8,
    /// Shards that are frozen for their left neighbour.
    freezes: u8,
}

impl Budget {
    fn plus(self, more: Budget) -> Budget {
        Budget {
            losses: self.losses + more.losses,
            doubles: self.doubles + more.doubles,
            deaths: self.deaths + more.deaths,
            impatience: self.impatience + more.impatience,
            recoveries: self.recoveries + more.recoveries,
            elections: self.elections + more.elections,
            freezes: self.freezes + more.freezes,
        }
    }
}

/// A model.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// For each client, what it does, in order.
    clients: Vec<Vec<Job>>,
    budget: Budget,
    /// How far each node's clock is ahead.
    skew_ms: [i64; NODES],
    /// How far each coordinator's clock is ahead of that of the one before.
    clients_ahead_ms: u64,
    /// Whether entries are committed some time after they are proposed.
    slow_log: bool,
    /// Whether nodes that do not lead apply what is committed some time after the leader.
    laggards: bool,
    /// Whether old attempts are forgotten as soon as they may be.
    forgets: bool,
    /// Whether scripts lock what they read in other shards, as they do when they have lost for a while.
    locks_at_once: bool,
    /// How long a leader lets things lie about.
    patience_ms: u64,
    /// Beyond so many states the model is too large.
    states_max: usize,
}

/// What an exploration came to.
#[derive(Debug)]
enum Verdict {
    /// All that can be reached was seen, and nothing is wrong with it.
    Safe { states: usize, ends: usize },
    /// After these steps something is.
    Violated { what: String, steps: Vec<String> },
    /// There were too many states.
    Unfinished,
}

/// A client and its coordinator.
#[derive(Clone, Debug)]
struct Site {
    coordinator: Coordinator,
    /// How far its clock is ahead of the world's.
    ahead_us: u64,
    alive: bool,
    /// How many of its jobs it has begun.
    begun: usize,
    /// Its present transaction, and how many operations of a session are done.
    present: Option<(usize, usize)>,
}

/// A state of the world.
#[derive(Clone)]
struct State {
    world: World,
    sites: Vec<Shared<Site>>,
    packets: Vec<Rc<Packet>>,
    /// Answers to leaders that are on their way, with what they hash to.
    told: Vec<(u64, Told)>,
    /// Who waits for an answer, and of which node.
    waiting: BTreeMap<u64, (Waiting, usize)>,
    txns: Vec<Txn>,
    /// For each transaction, which others were over when it began.
    before: Vec<u64>,
    clock: u64,
    budget: Budget,
    /// How far each coordinator's clock is ahead of that of the one before.
    clients_ahead_ms: u64,
    /// Whether a merge was begun.
    freezing: bool,
    /// What each node and site hashes to.
    prints: Vec<u64>,
}

/// A hash of what is written into it.
#[derive(Default)]
struct Print(DefaultHasher);

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn print_of(value: &impl Debug) -> u64 {
    let mut print = Print::default();
    write!(print, "{value:?}").expect("a hash takes everything");
    print.0.finish()
}

impl State {
    fn new(plan: &Plan) -> State {
        let settings = Settings {
            recover_after_us: 1_000,
            ask_again_us: 1_000,
            floor_lag_ms: if plan.forgets { 0 } else { 10_000 },
            ..Settings::default()
        };
        let mut world = World::with_settings(NODES, 2, None, settings);
        world.elect(ShardId(2), 1, usize::MAX);
        for (node, skew_ms) in world.nodes.iter_mut().zip(plan.skew_ms) {
            node.wall_skew_ms = skew_ms;
        }
        world.eager = !plan.slow_log;
        let mut settings = coordinator::Settings::default();
        if plan.locks_at_once {
            settings.optimistic_max = 0;
        }
        let site = |index: usize| Site {
            coordinator: Coordinator::new(settings.clone(), NodeId(index as u128 + 10), 1),
            ahead_us: 0,
            alive: true,
            begun: 0,
            present: None,
        };
        let sites = (0..plan.clients.len()).map(site).map(Shared::new);
        let mut state = State {
            world,
            sites: sites.collect(),
            packets: Vec::new(),
            told: Vec::new(),
            waiting: BTreeMap::new(),
            txns: Vec::new(),
            before: Vec::new(),
            clock: 0,
            budget: plan.budget,
            clients_ahead_ms: plan.clients_ahead_ms,
            freezing: false,
            prints: Vec::new(),
        };
        let nodes = state.world.nodes.iter().map(|node| print_of(&**node));
        let sites = state.sites.iter().map(|site| print_of(&**site));
        state.prints = nodes.chain(sites).collect();
        state
    }

    fn now(&self, site: usize) -> Now {
        Now {
            monotonic: Micros(self.sites[site].ahead_us),
            wall_ms: START_MS + self.clients_ahead_ms * site as u64,
        }
    }

    /// Brings the hashes up to date, where something differs from the state before.
    fn reprint(&mut self, before: &State) {
        for (node, (new, old)) in self.world.nodes.iter().zip(&before.world.nodes).enumerate() {
            if !new.is(old) {
                self.prints[node] = print_of(&**new);
            }
        }
        for (site, (new, old)) in self.sites.iter().zip(&before.sites).enumerate() {
            if !new.is(old) {
                self.prints[NODES + site] = print_of(&**new);
            }
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut print = Print::default();
        self.prints.hash(&mut print.0);
        for (shard, log) in &self.world.logs {
            (shard.0, log.term, log.leader, log.commit).hash(&mut print.0);
            for entry in &log.entries {
                (entry.id.term, &entry.data[..]).hash(&mut print.0);
            }
        }
        for packet in &self.packets {
            packet.print.hash(&mut print.0);
        }
        for (hash, _) in &self.told {
            hash.hash(&mut print.0);
        }
        for (token, waiting) in &self.waiting {
            (token, waiting).hash(&mut print.0);
        }
        (&self.before, self.budget, self.freezing).hash(&mut print.0);
        let known = self.txns.iter().map(|txn| (&txn.ops, txn.state));
        write!(print, "{:?}", known.collect::<Vec<_>>()).expect("a hash takes everything");
        print.0.finish()
    }

    /// Whether the history is what it may be, once everything has come to its end.
    fn check(&mut self) -> Result<(), String> {
        self.heal()?;
        self.world.eager = true;
        let lists = self.final_lists();
        self.check_torn(&lists)?;
        check_history(&self.txns, &lists).map(|_| ())
    }

    /// Whoever has seen one half of a transaction has seen the other half, if he has looked at it.
    fn check_torn(&self, lists: &BTreeMap<usize, Vec<u64>>) -> Result<(), String> {
        for (writer, txn) in self.txns.iter().enumerate() {
            let words: Vec<(usize, u64)> = txn
                .ops
                .iter()
                .filter_map(|op| match op {
                    Op::Append { key, word } => Some((*key, *word)),
                    Op::Read { .. } | Op::ReadAll { .. } => None,
                })
                .filter(|(key, word)| lists[key].contains(word))
                .collect();
            for (reader, txn) in self.txns.iter().enumerate() {
                let seen: Vec<_> = txn.ops.iter().flat_map(Op::seen).collect();
                let halves: Vec<bool> = words
                    .iter()
                    .flat_map(|(key, word)| {
                        let of_key = seen.iter().filter(move |(of, _)| of == key);
                        of_key.map(move |(_, list)| list.contains(word))
                    })
                    .collect();
                if reader != writer && halves.contains(&true) && halves.contains(&false) {
                    return Err(format!("{reader} has seen half of {writer}: {txn:?}"));
                }
            }
        }
        Ok(())
    }
}

/// The steps that have led to a state.
struct Trail {
    label: String,
    before: Option<Rc<Trail>>,
}

impl Trail {
    fn steps(mut at: Option<&Rc<Trail>>) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(trail) = at {
            steps.push(trail.label.clone());
            at = trail.before.as_ref();
        }
        steps.reverse();
        steps
    }
}

/// Explores a model, with a bug in it or without.
fn explore(plan: &Plan, bug: Option<Bug>) -> Verdict {
    let initial = State::new(plan);
    plant(bug);
    let verdict = search(plan, initial);
    plant(None);
    verdict
}

/// Depth first, with the trail of steps to each state.
fn search(plan: &Plan, initial: State) -> Verdict {
    let mut seen = HashSet::from([initial.fingerprint()]);
    let mut stack = vec![(initial, None::<Rc<Trail>>)];
    let mut ends = 0;
    while let Some((mut state, trail)) = stack.pop() {
        let actions = state.actions(plan);
        if actions.is_empty() {
            ends += 1;
            if let Err(what) = quietly(|| state.check()).flatten() {
                let steps = Trail::steps(trail.as_ref());
                return Verdict::Violated { what, steps };
            }
            continue;
        }
        for action in actions {
            let step = || {
                Some(Rc::new(Trail {
                    label: state.label(&action),
                    before: trail.clone(),
                }))
            };
            let next = match quietly(|| state.after(plan, &action)) {
                Ok(next) => next,
                Err(what) => {
                    let steps = Trail::steps(step().as_ref());
                    return Verdict::Violated { what, steps };
                }
            };
            if seen.insert(next.fingerprint()) {
                let trail = step();
                stack.push((next, trail));
            }
            if seen.len() > plan.states_max {
                return Verdict::Unfinished;
            }
        }
    }
    let states = seen.len();
    Verdict::Safe { states, ends }
}

/// The state of a transaction that nobody will be told about any more.
fn orphaned(job: &Job, done: usize) -> Outcome {
    match job {
        Job::Session(ops) if done < ops.len() => Outcome::Failed,
        Job::Script(_) | Job::Session(_) | Job::Snapshot(_) | Job::Single(_) => Outcome::Unknown,
    }
}
