//! Time: what happens at a moment, and until when the world runs.

use std::collections::BTreeSet;

use super::*;

/// Between two ticks, by a node's own clock.
const TICK_US: u64 = 20_000;

impl World {
    pub(super) fn paused(&self, node: usize) -> bool {
        self.machines[node].paused_until > self.now
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        // A stopped process handles what came in the meantime when it goes on.
        let stopped = match &happening {
            Happening::Tick { node, .. }
            | Happening::Deliver { node, .. }
            | Happening::Disk { node, .. }
            | Happening::Request { node, .. } => self.paused(*node).then_some(*node),
            Happening::Answer { .. }
            | Happening::NextOp { .. }
            | Happening::GiveUp { .. }
            | Happening::Fault(_) => None,
        };
        if let Some(node) = stopped {
            let wait = self.machines[node].paused_until - self.now;
            self.after(wait, happening);
            return;
        }
        match happening {
            Happening::Tick { node, life } => {
                if self.machines[node].life != life || !self.is_up(node) {
                    return;
                }
                let local = self.machines[node].now(self.now);
                if let Some(process) = &mut self.machines[node].process {
                    process.store.tick(local);
                }
                self.tick(node, local);
                let tick_us = TICK_US * 1_000_000 / self.machines[node].rate_ppm;
                let late = self.random.between(0, 500);
                self.after(tick_us + late, Happening::Tick { node, life });
            }
            Happening::Deliver {
                node,
                from,
                life,
                frame,
            } => {
                if self.machines[node].life != life || !self.is_up(node) {
                    return;
                }
                match Message::decode(&frame) {
                    Ok(message) => {
                        let from = self.machines[from].id;
                        self.event(node, Event::Receive { from, message });
                    }
                    Err(error) => self.fail(format!("our own frame: {error}")),
                }
            }
            Happening::Disk { node, life, lane } => {
                if self.machines[node].life == life {
                    self.disk(node, lane);
                }
            }
            Happening::Request { node, op, attempt } => self.request(node, op, attempt),
            Happening::Answer {
                op,
                attempt,
                answer,
            } => self.answered(op, attempt, answer),
            Happening::NextOp { client } => self.next_op(client),
            Happening::GiveUp { op } => self.give_up(op),
            Happening::Fault(fault) => self.fault(fault),
        }
    }

    /// A node at rest leaves out ticks before the next heartbeat. Half of them come here all the same, to show
    /// that nothing is missed.
    fn tick(&mut self, node: usize, local: Micros) {
        let Some(process) = &self.machines[node].process else {
            return;
        };
        let replication = &process.replication;
        let early = local.0 + TICK_US / 2 < replication.next_heartbeat().0;
        if !(early && replication.is_at_rest()) {
            self.event(node, Event::Tick);
        } else if (local.0 / TICK_US).is_multiple_of(2) {
            self.count("ticks left out");
        } else {
            let sent = self.counts.get("messages").copied();
            self.event(node, Event::Tick);
            let process = self.machines[node].process.as_ref();
            let rests = process.is_some_and(|process| process.replication.is_at_rest());
            if !rests || self.counts.get("messages").copied() != sent {
                self.fail(format!(
                    "node {node} was at rest, and a tick found something to do"
                ));
            }
        }
    }

    /// Lets the world run for so long, or until something is wrong.
    pub(super) fn run(&mut self, us: u64) {
        let end = self.now + us;
        while self.failure.is_none() {
            let Some((&(at, _), _)) = self.queue.first_key_value() else {
                break;
            };
            if at > end {
                break;
            }
            let Some((_, happening)) = self.queue.pop_first() else {
                break;
            };
            self.now = at;
            self.happen(happening);
        }
        self.now = self.now.max(end);
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        self.run(ms * 1_000);
    }

    /// Runs until `done`, at most for so long; says whether it came to that.
    pub(super) fn run_until(&mut self, ms_max: u64, done: impl Fn(&mut World) -> bool) -> bool {
        for _ in 0..ms_max {
            if done(self) {
                return true;
            }
            if self.failure.is_some() {
                return false;
            }
            self.run_ms(1);
        }
        done(self)
    }

    /// The node that serves a shard: of several that think so, the one of the latest term.
    pub(super) fn leader(&self, shard: ShardId) -> Option<usize> {
        let leads = |node: &usize| {
            let process = self.machines[*node].process.as_ref()?;
            let leadership = process.replication.leadership(shard)?;
            leadership.serving.then_some((leadership.term, *node))
        };
        let nodes = 0..self.machines.len();
        nodes
            .filter_map(|node| leads(&node))
            .max()
            .map(|(_, node)| node)
    }

    pub(super) fn isolate(&mut self, node: usize) {
        for other in 0..self.machines.len() {
            self.links[node][other].cut = true;
            self.links[other][node].cut = true;
        }
    }

    /// All faults end, all nodes run.
    pub(super) fn heal(&mut self) {
        self.fatal_allowed = false;
        for row in &mut self.links {
            row.fill(FAIR);
        }
        for node in 0..self.machines.len() {
            self.machines[node].paused_until = 0;
            self.machines[node].disk_us = None;
            self.machines[node].disk.heal();
            if !self.is_up(node) {
                self.start(node);
            }
        }
    }

    /// After healing: every shard is written to and read, every replica catches up, and the whole
    /// history holds.
    pub(super) fn finish(mut self) -> Result<World, String> {
        self.heal();
        let shards: Vec<ShardId> = (1..=self.plan.shards).map(ShardId).collect();
        let want = shards.clone();
        let served = self.run_until(15_000, move |world| {
            want.iter().all(|&shard| world.leader(shard).is_some())
        });
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if !served {
            return Err("a shard has no leader 15 s after healing".to_string());
        }
        self.clients_run = false;
        if !self.run_until(10_000, |world| world.ops.is_empty()) {
            return Err(self
                .failure
                .take()
                .unwrap_or_else(|| "operations hang".to_string()));
        }
        for &shard in &shards {
            for key in 0..self.plan.keys {
                self.begin_op(0, (shard, key), true);
                self.begin_op(0, (shard, key), false);
            }
        }
        self.run_until(3_500, |world| world.ops.is_empty());
        let given_up = self.counts.get("given up").copied().unwrap_or(0);
        self.run_until(10_000, |world| world.ops.is_empty());
        if self.counts.get("given up").copied().unwrap_or(0) > given_up {
            return Err("an operation after healing was not answered".to_string());
        }
        let settled = self.run_until(20_000, |world| world.replicas_agree().is_ok());
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if !settled {
            return Err(self.replicas_agree().err().unwrap_or_default());
        }
        self.history.check()?;
        Ok(self)
    }

    /// All replicas that the leaders' configurations list have applied the same entries and hold the same values.
    /// (What was asked for may never have been decided: a change can go with the leader that proposed it.)
    pub(super) fn replicas_agree(&mut self) -> Result<(), String> {
        let shards: BTreeSet<ShardId> = self.placed.keys().map(|(_, shard)| *shard).collect();
        for shard in shards {
            let configuration = self
                .leader(shard)
                .and_then(|leader| self.machines[leader].process.as_ref())
                .and_then(|process| process.replication.configuration(shard).cloned())
                .ok_or_else(|| format!("{shard} has no leader"))?;
            let mut seen: Option<(u64, Vec<u64>)> = None;
            for node in 0..self.machines.len() {
                let machine = &self.machines[node];
                let listed = configuration.nodes.iter().find(|it| *it.1 == machine.id);
                let (Some((replica, _)), Some(process)) = (listed, &machine.process) else {
                    continue;
                };
                let Some(status) = process.replication.status(shard) else {
                    return Err(format!("node {node} has no replica {replica} of {shard}"));
                };
                let values: Vec<u64> = (0..self.plan.keys)
                    .map(|key| self.value(node, (shard, key)))
                    .collect();
                let state = (status.applied, values);
                let known = seen.get_or_insert_with(|| state.clone()).clone();
                if known != state {
                    return Err(format!(
                        "{shard}: node {node} has {state:?}, another {known:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
