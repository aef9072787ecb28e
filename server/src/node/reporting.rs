//! What leaders say of their shards, to whoever has the placement controller.
//!
//! Every node looks once a second at the shards that it leads. In an idle cluster the next second finds what the last
//! one found, and a report a second from each node to each would be most of what such a cluster sends. So a node
//! speaks when something has changed, to those that have not been told yet, and to all now and then, in case something
//! was lost. What a leader has said stands until it says something else: the node with the controller repeats it to
//! that once a second, so that rates are averaged over seconds, and a controller that has just begun knows at once what
//! this node has heard. What stands is forgotten when its leader cannot be reached, or has not repeated it.

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::{NodeId, Role};
use synod_storage::ShardId;
use synod_txn::{Now, SYSTEM_SHARD};

use super::turn::{Effects, Node};
use crate::controller::Event;
use crate::controller::cluster::{Load, Progress, Report};
use crate::gateway;
use crate::shards::survey::Weight;
use crate::shards::{Led, Message};

/// How often a leader looks at its shards, in microseconds.
const LOOK_US: u64 = 1_000_000;
/// How often it says again what has not changed.
const REPEAT_US: u64 = 10_000_000;
/// What was said stands for so long; two repetitions may be lost.
const STANDS_US: u64 = 3 * REPEAT_US;
/// With more peers than this, only those hear reports that may have the controller.
const TOLD_ALL_MAX: usize = 16;
/// Reports in one message.
const REPORTS_MAX: usize = 1_000;
/// A learner that lacks no more entries than this has caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// What the system shard is taken to weigh, in bytes.
const SYSTEM_BYTES: u64 = 1 << 20;

/// What this node has said, and what it has heard.
#[derive(Debug, Default)]
pub(super) struct Reports {
    next_look_us: u64,
    said: Vec<Led>,
    /// Who has been told it.
    told: BTreeSet<NodeId>,
    repeat_us: u64,
    standing: BTreeMap<ShardId, Standing>,
}

/// What a shard's leader said last.
#[derive(Debug)]
struct Standing {
    leader: NodeId,
    led: Led,
    heard_us: u64,
    /// Whether the controller has been told it since the last look.
    passed_on: bool,
}

impl Reports {
    /// Whether it is time for a look.
    fn is_due(&mut self, now_us: u64) -> bool {
        let due = now_us >= self.next_look_us;
        if due {
            self.next_look_us = now_us + LOOK_US;
        }
        due
    }

    /// Takes what is to be said now; gives those of the hearers that are to be told.
    fn say(&mut self, now_us: u64, led: &[Led], hearers: &BTreeSet<NodeId>) -> Vec<NodeId> {
        if self.said != led || now_us >= self.repeat_us {
            self.said = led.to_vec();
            self.told.clear();
            self.repeat_us = now_us + REPEAT_US;
        }
        self.told.retain(|node| hearers.contains(node));
        let due: Vec<NodeId> = hearers.difference(&self.told).copied().collect();
        self.told.extend(&due);
        due
    }

    /// A node may have missed what was said.
    pub(super) fn missed(&mut self, node: NodeId) {
        self.told.remove(&node);
    }

    /// A leader speaks, and the controller is told.
    fn hear(&mut self, now_us: u64, leader: NodeId, led: Led) {
        let late = |standing: &Standing| standing.led.term > led.term;
        if !self.standing.get(&led.shard).is_some_and(late) {
            let standing = Standing {
                leader,
                heard_us: now_us,
                passed_on: true,
                led,
            };
            self.standing.insert(standing.led.shard, standing);
        }
    }

    /// What stands, and the controller has not been told since the last look.
    fn repeat(&mut self, now_us: u64, reached: impl Fn(NodeId) -> bool) -> Vec<(NodeId, Led)> {
        self.standing.retain(|_, standing| {
            now_us < standing.heard_us + STANDS_US && reached(standing.leader)
        });
        let mut repeated = Vec::new();
        for standing in self.standing.values_mut() {
            if !std::mem::take(&mut standing.passed_on) {
                repeated.push((standing.leader, standing.led.clone()));
            }
        }
        repeated
    }
}

/// As the controller hears it.
fn report(leader: NodeId, led: Led) -> Event {
    let progress = |lacks: u64| match lacks <= CAUGHT_UP_ENTRIES {
        true => Progress::CaughtUp,
        // How much of a snapshot has arrived its sender alone knows.
        false => Progress::Copying(0),
    };
    let lacks = led.lacks.into_iter();
    Event::Report(Report {
        shard: led.shard,
        leader,
        term: led.term,
        load: Load {
            bytes: led.bytes,
            read_qps: led.reads_per_s,
            write_qps: led.writes_per_s,
        },
        measured: led.measured,
        joint: led.joint,
        progress: lacks.map(|(replica, it)| (replica, progress(it))).collect(),
    })
}

impl Node {
    /// Looks at what is led here, tells it where it is news, and repeats to the controller what stands.
    pub(super) fn tick_reports(&mut self, now: Now, effects: &mut Effects) {
        let now_us = now.monotonic.0;
        if !self.control.reports.is_due(now_us) {
            return;
        }
        let led = self.led();
        let hearers = self.hearers();
        for node in self.control.reports.say(now_us, &led, &hearers) {
            for part in led.chunks(REPORTS_MAX) {
                if !self.send_shards(node, &Message::Led(part.to_vec())) {
                    self.control.reports.missed(node);
                }
            }
        }
        let me = self.id();
        for led in led {
            self.control(now, report(me, led), effects);
        }
        let peers = &self.peers;
        let reached = |node| peers.get(&node).is_some_and(|peer| peer.connected);
        for (leader, led) in self.control.reports.repeat(now_us, reached) {
            self.control(now, report(leader, led), effects);
        }
    }

    /// Who has the controller need not be known here: all who may have it hear reports, and in a small cluster all,
    /// who so learn where shards are led that they have no replica of.
    fn hearers(&self) -> BTreeSet<NodeId> {
        let system = self.directory.shard(SYSTEM_SHARD);
        let holders = system.map_or(&[][..], |it| it.replicas.as_slice());
        let holds = |node: &NodeId| holders.iter().any(|replica| replica.node == *node);
        let few = self.peers.len() <= TOLD_ALL_MAX;
        let connected = self.peers.iter().filter(|(_, peer)| peer.connected);
        let nodes = connected.map(|(node, _)| *node);
        nodes.filter(|node| few || holds(node)).collect()
    }

    fn led(&self) -> Vec<Led> {
        let stats = self.store.stats();
        let shards: Vec<ShardId> = self.replication.shards().collect();
        // Until a shard has been walked through, its node's shards are taken to weigh the same.
        let here = shards
            .iter()
            .filter(|shard| **shard != SYSTEM_SHARD)
            .count();
        let share = (stats.value_bytes + stats.memtable_bytes) / (here as u64).max(1);
        let led = shards.into_iter().filter_map(|shard| {
            let status = self.replication.status(shard)?;
            let leads = status.leadership.role == Role::Leader && status.leadership.serving;
            let weight = match shard == SYSTEM_SHARD {
                true => Some(Weight {
                    bytes: SYSTEM_BYTES,
                    ..Weight::default()
                }),
                false => self.survey.weight(shard),
            };
            leads.then(|| Led {
                shard,
                term: status.leadership.term,
                bytes: weight.map_or(share, |weight| weight.bytes),
                measured: weight.is_some(),
                reads_per_s: weight.map_or(0, |weight| weight.reads_per_s),
                writes_per_s: weight.map_or(0, |weight| weight.writes_per_s),
                joint: status.configuration.is_joint(),
                lacks: status.lacks.into_iter().collect(),
            })
        });
        led.collect()
    }

    /// A leader reports.
    pub(super) fn take_reports(
        &mut self,
        now: Now,
        from: NodeId,
        reports: Vec<Led>,
        effects: &mut Effects,
    ) {
        for led in reports {
            let event = gateway::Event::Leader(led.shard, from);
            self.gateway.step(now, event, &mut effects.gateway);
            if led.measured {
                self.control.sizes.insert(led.shard, led.bytes);
            }
            self.control(now, report(from, led.clone()), effects);
            self.control.reports.hear(now.monotonic.0, from, led);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(shard: u64, term: u64, reads_per_s: u64) -> Led {
        Led {
            shard: ShardId(shard),
            term,
            bytes: 1,
            measured: true,
            reads_per_s,
            writes_per_s: 0,
            joint: false,
            lacks: Vec::new(),
        }
    }

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn what_has_not_changed_is_said_to_newcomers_and_every_ten_seconds() {
        let mut reports = Reports::default();
        let (one, both) = (BTreeSet::from([A]), BTreeSet::from([A, B]));
        let idle = [led(7, 1, 0)];
        assert_eq!(reports.say(0, &idle, &one), [A]);
        assert!(reports.say(LOOK_US, &idle, &one).is_empty());
        assert_eq!(reports.say(2 * LOOK_US, &idle, &both), [B]);
        assert_eq!(reports.say(3 * LOOK_US, &[led(7, 1, 5)], &both), [A, B]);
        assert!(reports.say(4 * LOOK_US, &[led(7, 1, 5)], &both).is_empty());
        reports.missed(B);
        assert_eq!(reports.say(5 * LOOK_US, &[led(7, 1, 5)], &both), [B]);
        let again_us = 3 * LOOK_US + REPEAT_US;
        assert!(reports.say(again_us - 1, &[led(7, 1, 5)], &both).is_empty());
        assert_eq!(reports.say(again_us, &[led(7, 1, 5)], &both), [A, B]);
    }

    #[test]
    fn what_was_said_stands_until_something_else_is_or_its_leader_is_gone() {
        let mut reports = Reports::default();
        let anybody = |_| true;
        reports.hear(0, A, led(7, 1, 5));
        assert!(
            reports.repeat(0, anybody).is_empty(),
            "the controller has just been told"
        );
        assert_eq!(reports.repeat(1, anybody), [(A, led(7, 1, 5))]);
        assert_eq!(reports.repeat(2, anybody), [(A, led(7, 1, 5))]);
        reports.hear(3, B, led(7, 2, 0));
        reports.hear(4, A, led(7, 1, 9));
        assert!(reports.repeat(5, anybody).is_empty());
        assert_eq!(reports.repeat(6, anybody), [(B, led(7, 2, 0))]);
        assert!(reports.repeat(3 + STANDS_US, anybody).is_empty());
        reports.hear(3 + STANDS_US, B, led(7, 2, 0));
        assert!(reports.repeat(4 + STANDS_US, |node| node == A).is_empty());
        assert!(reports.standing.is_empty(), "unreachable: it is forgotten");
    }
}
