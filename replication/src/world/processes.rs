//! Nodes: their lives and deaths, their disks, and what their cores want done.

use super::*;

impl World {
    pub(super) fn start(&mut self, node: usize) {
        if self.machines[node].process.is_some() {
            return;
        }
        let offset = self.random.between(1, 1 << 40);
        let (seed, fresh) = (self.random.next(), self.random.next());
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.paused_until = 0;
        machine.clock = (now, offset);
        let mut config = Config::new(machine.id, Incarnation(machine.life), seed);
        config.reads = self.plan.reads;
        config.quiet_after_ms = self.plan.quiet_after_ms;
        let open = OpenConfig {
            disk: Arc::new(machine.disk.clone()),
            index: Box::new(machine.index.clone()),
            options: self.options.clone(),
            boot: u128::from(machine.life),
            fresh_store: u128::from(fresh),
        };
        let opened = match Store::open(open, &mut |_| {}) {
            Ok(opened) => opened,
            Err(error) => {
                // Its disk may fail it here as well.
                if self.fatal_allowed {
                    self.say(|| format!("node {node} does not open: {error}"));
                } else {
                    self.fail(format!("node {node} does not open: {error}"));
                }
                return;
            }
        };
        let found = format!("{:?} {:?}", opened.report, opened.replicas);
        let mut fx = Effects::new();
        let local = machine.now(now);
        let mut applied = BTreeMap::new();
        for replica in &opened.replicas {
            applied.insert(replica.shard, replica.applied.index);
        }
        let shards: Vec<ShardId> = opened
            .replicas
            .iter()
            .map(|replica| replica.shard)
            .collect();
        let log = opened.store.log();
        let replication = Replication::new(config, local, log, opened.replicas, &mut fx);
        machine.process = Some(Process {
            store: opened.store,
            replication,
            lanes: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            applied,
        });
        let life = machine.life;
        self.say(|| format!("node {node} starts, life {life}: {found}"));
        self.carry_out(node, &mut fx);
        for shard in shards {
            self.event(
                node,
                Event::Range {
                    shard,
                    range: keys_of(shard),
                },
            );
        }
        self.after(0, Happening::Tick { node, life });
    }

    pub(super) fn kill(&mut self, node: usize) {
        if self.machines[node].process.take().is_some() {
            self.say(|| format!("node {node} is killed"));
            let disk = self.machines[node].disk.kill();
            self.machines[node].disk = disk;
        }
    }

    pub(super) fn power_loss(&mut self, node: usize) {
        self.power_loss_leaving(node, Survival::Random);
    }

    pub(super) fn power_loss_leaving(&mut self, node: usize, survival: Survival) {
        self.machines[node].process = None;
        self.say(|| format!("node {node} loses power"));
        let disk = self.machines[node].disk.power_loss(survival);
        self.machines[node].disk = disk;
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.machines[node].process.is_some()
    }

    /// Feeds an event to a node and lets it finish.
    pub(super) fn event(&mut self, node: usize, event: Event) {
        let now = self.machines[node].now(self.now);
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        let mut fx = Effects::new();
        process
            .replication
            .step(now, event, &mut process.store, &mut fx);
        self.carry_out(node, &mut fx);
        self.settle(node);
    }

    /// The node's loop: everything that can be done now is done.
    pub(super) fn settle(&mut self, node: usize) {
        for _ in 0..1_000 {
            let now = self.machines[node].now(self.now);
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            let mut events = Vec::new();
            process.store.take_events(&mut events);
            let mut fx = Effects::new();
            let idle = events.is_empty() && !process.replication.needs_flush();
            for event in events {
                let event = Event::Store(event);
                process
                    .replication
                    .step(now, event, &mut process.store, &mut fx);
            }
            process.replication.flush(now, &mut process.store, &mut fx);
            self.carry_out(node, &mut fx);
            self.take_jobs(node);
            if idle {
                return;
            }
        }
        self.fail(format!("node {node} does not come to rest"));
    }

    pub(super) fn take_jobs(&mut self, node: usize) {
        let mut jobs = Vec::new();
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        process.store.take_jobs(&mut jobs);
        let life = self.machines[node].life;
        for job in jobs {
            let lane = match job.lane() {
                Lane::Log => 0,
                Lane::Background => 1,
                Lane::Read => 2,
            };
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            process.lanes[lane].push_back(job);
            if process.lanes[lane].len() == 1 {
                let delay = self.disk_delay(node);
                self.after(delay, Happening::Disk { node, life, lane });
            }
        }
    }

    pub(super) fn disk_delay(&mut self, node: usize) -> u64 {
        let range = self.machines[node].disk_us.unwrap_or(self.plan.disk_us);
        self.between(range)
    }

    pub(super) fn disk(&mut self, node: usize, lane: usize) {
        let life = self.machines[node].life;
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        let Some(job) = process.lanes[lane].front_mut() else {
            return;
        };
        match job.step() {
            JobStep::Again => {
                let delay = self.disk_delay(node);
                self.after(delay, Happening::Disk { node, life, lane });
            }
            JobStep::Done => {
                let Some(job) = process.lanes[lane].pop_front() else {
                    return;
                };
                if let Err(fatal) = process.store.complete(job) {
                    self.stop_fatally(node, fatal.to_string());
                    return;
                }
                if !process.lanes[lane].is_empty() {
                    let delay = self.disk_delay(node);
                    self.after(delay, Happening::Disk { node, life, lane });
                }
                self.settle(node);
            }
        }
    }

    pub(super) fn stop_fatally(&mut self, node: usize, reason: String) {
        self.say(|| format!("node {node} stops: {reason}"));
        if !self.fatal_allowed {
            self.fail(format!("node {node}: {reason}"));
        }
        self.machines[node].fatal = Some(reason);
        self.kill(node);
    }

    pub(super) fn carry_out(&mut self, node: usize, fx: &mut Effects) {
        let mut list = VecDeque::new();
        list.extend(fx.drain());
        while let Some(effect) = list.pop_front() {
            let now = self.machines[node].now(self.now);
            match effect {
                Effect::Send { to, message } => self.transmit(node, to, &message),
                Effect::Committed { shard, entries } => {
                    self.committed(node, shard, &entries);
                    let last = entries.last().map_or(0, |entry| entry.id.index);
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    process
                        .replication
                        .applied(now, shard, last, &mut process.store, fx);
                    for effect in fx.drain().collect::<Vec<_>>().into_iter().rev() {
                        list.push_front(effect);
                    }
                }
                Effect::Leadership { shard, leadership } => {
                    self.say(|| format!("node {node} {shard}: {leadership:?}"));
                    if leadership.role == Role::Leader {
                        let Some(replica) = self.replica(node, shard) else {
                            continue;
                        };
                        let known = *self
                            .leaders
                            .entry((shard, leadership.term))
                            .or_insert(replica);
                        if known != replica {
                            let term = leadership.term;
                            self.fail(format!("{shard}: {known} and {replica} lead term {term}"));
                        }
                    }
                }
                Effect::ReadReady {
                    shard,
                    token,
                    grant,
                } => {
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    if let Some((op, attempt)) = process.reads.remove(&token) {
                        self.read_now(node, shard, op, attempt, grant);
                    }
                }
                Effect::ReadFailed {
                    shard: _,
                    token,
                    failure,
                } => {
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    if let Some((op, attempt)) = process.reads.remove(&token) {
                        let hint = self.hint(failure);
                        self.answer(op, attempt, Answer::Retry(hint));
                    }
                }
                Effect::ProposalLost { shard, id, loss } => {
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    if let Some((op, attempt)) = process.writes.remove(&(shard, id)) {
                        self.answer(
                            op,
                            attempt,
                            match loss {
                                Loss::Overwritten => Answer::Retry(None),
                                Loss::Unknown => Answer::Unknown,
                            },
                        );
                    }
                }
                Effect::ConfigurationChanged {
                    shard,
                    id,
                    configuration,
                } => {
                    self.say(|| format!("node {node} {shard}: {id} {configuration:?}"));
                    self.count("configurations");
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    process.applied.insert(shard, id.index);
                }
                Effect::SnapshotInstalled {
                    shard,
                    id,
                    configuration: _,
                } => {
                    self.say(|| format!("node {node} {shard}: snapshot at {id}"));
                    self.count("snapshots");
                    let Some(process) = &mut self.machines[node].process else {
                        return;
                    };
                    process.applied.insert(shard, id.index);
                }
                Effect::Removed { shard, replica } => {
                    self.placed.remove(&(node, shard));
                    let range = Some(keys_of(shard));
                    let destroy = Event::Destroy {
                        shard,
                        replica,
                        range,
                    };
                    self.again(node, destroy, fx, &mut list);
                }
                Effect::Missing {
                    shard,
                    replica,
                    from: _,
                } => {
                    if self.placed.get(&(node, shard)) == Some(&replica) {
                        if let Some(before) = self.replica(node, shard) {
                            // It was removed, and never heard of it.
                            let range = Some(keys_of(shard));
                            let destroy = Event::Destroy {
                                shard,
                                replica: before,
                                range,
                            };
                            self.again(node, destroy, fx, &mut list);
                        }
                        let origin = Origin::Leader;
                        let create = Event::Create {
                            shard,
                            replica,
                            origin,
                        };
                        self.again(node, create, fx, &mut list);
                        let range = Event::Range {
                            shard,
                            range: keys_of(shard),
                        };
                        self.again(node, range, fx, &mut list);
                    }
                }
                Effect::Damaged {
                    shard,
                    replica,
                    damage,
                } => {
                    self.say(|| format!("node {node} {shard}/{replica}: damaged, {damage:?}"));
                    self.count("damaged");
                }
                Effect::Repaired {
                    shard,
                    replica,
                    entries,
                } => {
                    self.say(|| format!("node {node} {shard}/{replica}: {entries} repaired"));
                    self.count("repaired");
                }
                Effect::Fatal { reason } => {
                    self.stop_fatally(node, reason);
                    return;
                }
            }
        }
    }

    pub(super) fn again(
        &mut self,
        node: usize,
        event: Event,
        fx: &mut Effects,
        list: &mut VecDeque<Effect>,
    ) {
        let now = self.machines[node].now(self.now);
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        process.replication.step(now, event, &mut process.store, fx);
        list.extend(fx.drain());
    }

    pub(super) fn replica(&self, node: usize, shard: ShardId) -> Option<ReplicaId> {
        let process = self.machines[node].process.as_ref()?;
        process
            .replication
            .status(shard)
            .map(|status| status.replica)
    }

    pub(super) fn committed(&mut self, node: usize, shard: ShardId, entries: &[Entry]) {
        for entry in entries {
            let index = entry.id.index;
            let print = (entry.id.term, entry_checksum(entry));
            let known = *self.committed.entry((shard, index)).or_insert(print);
            self.say(|| format!("node {node} {shard}: applies {}", entry.id));
            if known != print {
                self.fail(format!("{shard}: index {index} is {known:?} and {print:?}"));
            }
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            let before = process.applied.insert(shard, index);
            if before.is_some_and(|before| before + 1 != index) {
                self.fail(format!("node {node} {shard}: {before:?} then {index}"));
                return;
            }
            let Some(process) = &mut self.machines[node].process else {
                return;
            };
            let mut writes = Vec::new();
            if !entry.data.is_empty() {
                writes.push(Write {
                    space: Space::Local(shard),
                    key: entry.data.slice(..1),
                    version: Version(index),
                    op: WriteOp::Put(entry.data.slice(1..)),
                });
            }
            process.store.apply(shard, entry.id, &writes);
            self.applied_total += 1;
            if let Some((op, attempt)) = process.writes.remove(&(shard, entry.id)) {
                self.answer(op, attempt, Answer::Written);
            }
        }
    }

    pub(super) fn value(&mut self, node: usize, key: Key) -> u64 {
        let Some(process) = &mut self.machines[node].process else {
            return 0;
        };
        match process
            .store
            .get(Space::Local(key.0), &[key.1], Version::MAX)
        {
            Lookup::Found { version: _, value } => value
                .get(..8)
                .and_then(|v| v.try_into().ok())
                .map_or(0, u64::from_le_bytes),
            Lookup::Absent { .. } => 0,
            Lookup::Pending(_) => panic!("local rows are resident"),
        }
    }

    pub(super) fn node_of(&self, id: NodeId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == id)
    }

    pub(super) fn hint(&self, failure: ReadFailure) -> Option<usize> {
        match failure {
            ReadFailure::NotLeader(leader) => leader.and_then(|leader| self.node_of(leader.node)),
            ReadFailure::TimedOut | ReadFailure::NoReplica => None,
        }
    }
}
