//! What can happen next.

use synod_storage::ShardId;

use super::network::Hearing;
use super::{NODES, Plan, State};
use crate::coordinator;
use crate::{Event, Leadership};

/// How far a node's clock goes ahead, at least, before its leader looks after things.
const LOOK_AFTER_MS: u64 = 2;

/// The same for coordinators: longer than any answer is waited for.
const PATIENCE_US: u64 = 4_000_000;

/// One thing that can happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// A packet arrives.
    Arrive(usize),
    /// It arrives, and stays on its way as well.
    ArriveTwice(usize),
    /// It arrives, and its answer does not.
    ArriveDeaf(usize),
    /// It is lost.
    Lose(usize),
    /// An answer to a leader arrives.
    Tell(usize),
    /// A client begins its next transaction.
    Begin(usize),
    /// A client's coordinator loses patience, or has paused for long enough.
    Impatient(usize),
    /// A client's coordinator dies.
    Die(usize),
    /// What is in a shard's log is committed and applied.
    Commit(ShardId),
    /// A node that does not lead a shard applies what is committed.
    CatchUp(usize, ShardId),
    /// A node looks after what has been lying about.
    LookAfter(usize),
    /// A shard's other replica leads it, with what is in its log or with what is committed of it.
    Elect(ShardId, usize),
    /// The right shard is to be frozen.
    Freeze,
    /// The left shard is to take it in.
    Merge,
}

const LEFT: ShardId = ShardId(1);
const RIGHT: ShardId = ShardId(2);

impl State {
    /// All that can happen.
    pub(super) fn actions(&self, plan: &Plan) -> Vec<Action> {
        let mut actions = Vec::new();
        let budget = &self.budget;
        for (at, packet) in self.packets.iter().enumerate() {
            if budget.losses > 0 {
                actions.push(Action::Lose(at));
                actions.push(Action::ArriveDeaf(at));
            }
            if budget.doubles > 0 && packet.is_idempotent() {
                actions.push(Action::ArriveTwice(at));
            }
            actions.push(Action::Arrive(at));
        }
        actions.extend((0..self.told.len()).map(Action::Tell));
        for (site, it) in self.sites.iter().enumerate().filter(|(_, it)| it.alive) {
            if it.present.is_none() && it.begun < plan.clients[site].len() {
                actions.push(Action::Begin(site));
            }
            if budget.impatience > 0 && it.coordinator.active() > 0 {
                actions.push(Action::Impatient(site));
            }
            if budget.deaths > 0 && it.present.is_some() {
                actions.push(Action::Die(site));
            }
        }
        for (shard, log) in &self.world.logs {
            if !self.world.eager && log.commit < log.entries.len() {
                actions.push(Action::Commit(*shard));
            }
            if budget.elections > 0 {
                actions.push(Action::Elect(*shard, usize::MAX));
                if log.commit < log.entries.len() {
                    actions.push(Action::Elect(*shard, 0));
                }
            }
        }
        for node in 0..NODES {
            for (shard, log) in &self.world.logs {
                let it = &self.world.nodes[node];
                let applied = it.applied.get(shard).copied().unwrap_or(0);
                let here = it.participant.descriptor(*shard).is_some();
                if plan.laggards && here && applied < log.commit && log.leader != Some(node) {
                    actions.push(Action::CatchUp(node, *shard));
                }
            }
            let participant = &self.world.nodes[node].participant;
            let busy = [LEFT, RIGHT].map(|shard| participant.is_busy(shard));
            if budget.recoveries > 0 && (busy.contains(&true) || plan.forgets) {
                actions.push(Action::LookAfter(node));
            }
        }
        if budget.freezes > 0 {
            actions.push(Action::Freeze);
        }
        if self.freezing && self.world.map.descriptor(RIGHT).is_some() {
            actions.push(Action::Merge);
        }
        actions
    }

    /// The state after something has happened.
    pub(super) fn after(&self, plan: &Plan, action: &Action) -> State {
        let mut next = self.clone();
        next.clock += 1;
        next.act(plan, *action);
        next.turn();
        next.reprint(self);
        next
    }

    fn act(&mut self, plan: &Plan, action: Action) {
        match action {
            Action::Arrive(at) => {
                let packet = self.packets.remove(at);
                self.arrive(&packet, Hearing::Hears);
            }
            Action::ArriveTwice(at) => {
                self.budget.doubles -= 1;
                let packet = self.packets[at].clone();
                self.arrive(&packet, Hearing::Hears);
            }
            Action::ArriveDeaf(at) => {
                self.budget.losses -= 1;
                let packet = self.packets.remove(at);
                self.arrive(&packet, Hearing::Deaf);
                self.lost(&packet);
            }
            Action::Lose(at) => {
                self.budget.losses -= 1;
                let packet = self.packets.remove(at);
                self.lost(&packet);
            }
            Action::Tell(at) => {
                let (_, told) = self.told.remove(at);
                self.tell(told);
            }
            Action::Begin(site) => {
                let job = &plan.clients[site][self.sites[site].begun];
                self.begin(site, job);
            }
            Action::Impatient(site) => {
                self.budget.impatience -= 1;
                self.sites[site].ahead_us += PATIENCE_US;
                self.coordinate(site, coordinator::Event::Tick);
            }
            Action::Die(site) => {
                self.budget.deaths -= 1;
                self.die(site, &plan.clients[site]);
            }
            Action::Commit(shard) => {
                self.world.commit(shard, usize::MAX);
                for node in 0..NODES {
                    if !plan.laggards || self.world.logs[&shard].leader == Some(node) {
                        self.world.apply(node, shard, usize::MAX);
                    }
                }
            }
            Action::CatchUp(node, shard) => self.world.apply(node, shard, usize::MAX),
            Action::LookAfter(node) => {
                self.budget.recoveries -= 1;
                self.look_after(node, plan.patience_ms.max(LOOK_AFTER_MS));
            }
            Action::Elect(shard, keep) => {
                self.budget.elections -= 1;
                self.elect(shard, keep);
            }
            Action::Freeze => {
                self.budget.freezes -= 1;
                self.freezing = true;
                self.world.freeze(LEFT, RIGHT);
            }
            Action::Merge => {
                if self.world.merge(LEFT, RIGHT) {
                    self.freezing = false;
                }
            }
        }
    }

    fn look_after(&mut self, node: usize, ms: u64) {
        self.world.nodes[node].ahead_ms += ms;
        self.world.step(node, Event::Tick);
    }

    fn elect(&mut self, shard: ShardId, keep: usize) {
        let old = self.world.logs[&shard].leader;
        let new = old.map_or(0, |old| 1 - old);
        self.world.elect(shard, new, keep);
        if let Some(old) = old.filter(|_| !self.world.eager) {
            let leadership = Leadership::Following { leader: None };
            self.world
                .step(old, Event::Leadership { shard, leadership });
        }
    }

    /// No more faults: everything comes to its end.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        for _ in 0..60 {
            self.clock += 1;
            while !self.packets.is_empty() || !self.told.is_empty() {
                if !self.packets.is_empty() {
                    let packet = self.packets.remove(0);
                    self.arrive(&packet, Hearing::Hears);
                }
                for (_, told) in std::mem::take(&mut self.told) {
                    self.tell(told);
                }
                self.turn();
                self.commit_all();
            }
            for node in 0..NODES {
                self.look_after(node, 500);
                self.turn();
                self.commit_all();
            }
            for site in 0..self.sites.len() {
                self.sites[site].ahead_us += PATIENCE_US;
                self.coordinate(site, coordinator::Event::Tick);
                self.turn();
            }
            let shards: Vec<ShardId> = self.world.logs.keys().copied().collect();
            let free = |shard: &ShardId| {
                let mut nodes = self.world.nodes.iter();
                nodes.all(|node| !node.participant.is_busy(*shard))
            };
            let idle = self.sites.iter().all(|site| site.present.is_none());
            if idle && self.packets.is_empty() && shards.iter().all(free) {
                return Ok(());
            }
        }
        Err(format!("not live: {:?}", self.txns))
    }

    fn commit_all(&mut self) {
        for shard in [LEFT, RIGHT] {
            self.world.commit(shard, usize::MAX);
            for node in 0..NODES {
                self.world.apply(node, shard, usize::MAX);
            }
        }
        self.turn();
    }

    pub(super) fn label(&self, action: &Action) -> String {
        match action {
            Action::Arrive(at)
            | Action::ArriveTwice(at)
            | Action::ArriveDeaf(at)
            | Action::Lose(at) => format!("{action:?}: {}", self.packets[*at].label()),
            other => format!("{other:?}"),
        }
    }
}
