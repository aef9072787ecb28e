//! Seeds: whatever can go wrong, at random moments, and then nothing more.

use super::*;

/// Something that goes wrong, or right again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Isolate(usize),
    OneWay(usize, usize),
    Rough(usize, usize),
    Mend,
    Pause(usize, u64),
    Kill(usize),
    PowerLoss(usize),
    PowerLossOfAll,
    Start(usize),
    Transfer(ShardId, u64),
    Replace(ShardId, u64),
    Rate(usize, u64),
    /// Each step of a disk job takes longer than an election.
    SlowDisk(usize),
    /// A sync to come fails, and the node stops.
    FailSync(usize, u64),
    /// The disk is as it should be, and its node runs.
    SoundDisk(usize),
}

/// Which faults a seed may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Only the network, clocks, pauses and slow disks.
    Network,
    /// Also kills, power cuts and failed syncs.
    Crashes,
    /// Also changes of the members.
    Changes,
}

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.say(|| format!("fault {fault:?}"));
        match fault {
            Fault::Isolate(node) => self.isolate(node),
            Fault::OneWay(from, to) => self.links[from][to].cut = true,
            Fault::Rough(from, to) => {
                self.links[from][to] = Link {
                    cut: false,
                    loss_permille: 150,
                    repeat_permille: 150,
                    delay_us: (100, 60_000),
                };
            }
            Fault::Mend => {
                for row in &mut self.links {
                    row.fill(FAIR);
                }
            }
            Fault::Pause(node, us) => self.machines[node].paused_until = self.now + us,
            Fault::Kill(node) => self.kill(node),
            Fault::PowerLoss(node) => self.power_loss(node),
            Fault::PowerLossOfAll => {
                for node in 0..self.machines.len() {
                    self.power_loss(node);
                }
            }
            Fault::Start(node) => self.start(node),
            Fault::Transfer(shard, pick) => self.transfer(shard, pick),
            Fault::Replace(shard, pick) => self.replace(shard, pick),
            Fault::Rate(node, ppm) => {
                let machine = &mut self.machines[node];
                machine.clock = (self.now, machine.now(self.now).0);
                machine.rate_ppm = ppm;
            }
            Fault::SlowDisk(node) => self.machines[node].disk_us = Some((400_000, 900_000)),
            Fault::FailSync(node, after) => {
                self.fatal_allowed = true;
                let fault = synod_storage::disk::Fault::FailSync(after);
                self.machines[node].disk.inject(fault);
            }
            Fault::SoundDisk(node) => {
                self.machines[node].disk.heal();
                self.machines[node].disk_us = None;
                self.start(node);
            }
        }
    }

    pub(super) fn transfer(&mut self, shard: ShardId, pick: u64) {
        let Some(leader) = self.leader(shard) else {
            return;
        };
        let now = self.machines[leader].now(self.now);
        let Some(process) = &mut self.machines[leader].process else {
            return;
        };
        let Some(configuration) = process.replication.configuration(shard) else {
            return;
        };
        let voters = configuration.voters.clone();
        let to = voters[pick as usize % voters.len()];
        let _ = process.replication.transfer(now, shard, to);
        self.settle(leader);
    }

    /// Moves a replica of the shard to a node that has none.
    pub(super) fn replace(&mut self, shard: ShardId, pick: u64) {
        let Some(leader) = self.leader(shard) else {
            return;
        };
        let now = self.machines[leader].now(self.now);
        let Some(process) = &self.machines[leader].process else {
            return;
        };
        let Some(configuration) = process.replication.configuration(shard).cloned() else {
            return;
        };
        let free: Vec<usize> = (0..self.machines.len())
            .filter(|&node| {
                !self.placed.contains_key(&(node, shard))
                    && !configuration
                        .nodes
                        .values()
                        .any(|&id| id == self.machines[node].id)
            })
            .collect();
        if configuration.is_joint() || free.is_empty() {
            return;
        }
        let node = free[pick as usize % free.len()];
        let leaving = configuration.voters[pick as usize / 7 % configuration.voters.len()];
        self.next_replica += 1;
        let member = Member {
            replica: ReplicaId(self.next_replica),
            node: self.machines[node].id,
        };
        let changes = [crate::Change::Voter(member), crate::Change::Remove(leaving)];
        let Some(process) = &mut self.machines[leader].process else {
            return;
        };
        if process
            .replication
            .change_replicas(now, shard, &changes)
            .is_ok()
        {
            self.placed.insert((node, shard), member.replica);
            let gone = self
                .machines
                .iter()
                .position(|machine| configuration.nodes.get(&leaving) == Some(&machine.id));
            self.count("replaced");
            if let Some(gone) = gone {
                self.say(|| format!("{shard}: from node {gone} to node {node}"));
                self.placed.remove(&(gone, shard));
            }
        }
        self.settle(leader);
    }

    /// Schedules faults for so long, each followed by its end.
    pub(super) fn trouble(&mut self, severity: Severity, us: u64) {
        let mut at = 300_000;
        let nodes = self.plan.nodes;
        while at < us {
            let node = (self.random.next() % nodes) as usize;
            let other = (node + 1 + (self.random.next() % (nodes - 1)) as usize) % nodes as usize;
            let shard = ShardId(1 + self.random.next() % self.plan.shards);
            let pick = self.random.next() % 1_000;
            let span = self.random.between(50_000, 2_500_000);
            let kinds = match severity {
                Severity::Network => 7,
                Severity::Crashes => 12,
                Severity::Changes => 14,
            };
            let (fault, end) = match self.random.next() % kinds {
                0 => (Fault::Isolate(node), Some(Fault::Mend)),
                1 => (Fault::OneWay(node, other), Some(Fault::Mend)),
                2 => (Fault::Rough(node, other), Some(Fault::Mend)),
                3 => (Fault::Pause(node, span), None),
                4 => (Fault::Transfer(shard, pick), None),
                5 => (Fault::Rate(node, 950_000 + 100 * pick), None),
                6 => (Fault::SlowDisk(node), Some(Fault::SoundDisk(node))),
                7 | 8 => (Fault::Kill(node), Some(Fault::Start(node))),
                9 => (Fault::PowerLoss(node), Some(Fault::Start(node))),
                10 if pick < 300 => {
                    for node in 0..nodes as usize {
                        let up = self.random.between(0, 1_000_000);
                        self.after(at + span + up, Happening::Fault(Fault::Start(node)));
                    }
                    (Fault::PowerLossOfAll, None)
                }
                10 => (Fault::PowerLoss(node), Some(Fault::Start(node))),
                11 => (
                    Fault::FailSync(node, pick % 5),
                    Some(Fault::SoundDisk(node)),
                ),
                _ => (Fault::Replace(shard, pick), None),
            };
            self.after(at, Happening::Fault(fault));
            if let Some(end) = end {
                self.after(at + span, Happening::Fault(end));
            }
            at += self.random.between(50_000, 1_200_000);
        }
    }
}

fn one_seed(seed: u64, severity: Severity) -> Result<World, String> {
    let mut plan = Plan::new(seed);
    match severity {
        Severity::Network | Severity::Crashes => {
            if seed.is_multiple_of(3) {
                plan.nodes = 5;
                plan.replicas = 5;
            }
        }
        Severity::Changes => {
            plan.nodes = 5;
            plan.replicas = 3;
        }
    }
    plan.reads = if seed % 4 == 1 {
        Reads::Quorum
    } else {
        Reads::Lease
    };
    plan.quiet_after_ms = if seed.is_multiple_of(5) { 300 } else { 3_000 };
    if seed.is_multiple_of(7) {
        plan.disk_us = (1_000, 30_000);
    }
    if seed % 7 == 1 {
        plan.disk_us = (0, 0);
    }
    if seed.is_multiple_of(5) {
        plan.think_us = (100_000, 1_500_000);
    }
    let mut world = World::new(plan);
    world.run_ms(1_000);
    world.trouble(severity, 6_000_000);
    world.run_ms(8_000);
    if let Some(failure) = world.failure.take() {
        return Err(failure);
    }
    world.finish()
}

/// The seeds of a test: a few, or as many as `SYNOD_SEEDS` says, or the one of `SYNOD_SEED`.
pub(super) fn seeds(few: u64) -> std::ops::Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("SYNOD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SYNOD_SEEDS").unwrap_or(few),
    }
}

fn sweep(few: u64, severity: Severity) {
    let (mut writes, mut reads, mut messages) = (0, 0, 0);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let range = seeds(few);
    for seed in range.clone() {
        match one_seed(seed, severity) {
            Ok(world) => {
                writes += world.history.writes;
                reads += world.history.reads;
                for (what, count) in &world.counts {
                    *counts.entry(what).or_default() += count;
                }
                messages += world.counts.get("messages").copied().unwrap_or(0);
            }
            Err(failure) => panic!("{severity:?}, SYNOD_SEED={seed}: {failure}"),
        }
    }
    eprintln!(
        "{range:?} {severity:?}: {writes} writes, {reads} reads, {messages} messages, {counts:?}"
    );
    assert!(
        writes > 10 * (range.end - range.start),
        "hardly anything was written"
    );
}

#[test]
fn seeds_of_network_faults() {
    sweep(40, Severity::Network);
}

#[test]
fn seeds_of_crashes() {
    sweep(40, Severity::Crashes);
}

#[test]
fn seeds_of_changes_of_the_members() {
    sweep(40, Severity::Changes);
}
