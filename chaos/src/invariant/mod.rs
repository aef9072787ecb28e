//! Invariants: what must hold inside the cluster at every moment, whatever clients see of it.
//!
//! Each stands in a file of its own, with its source. They look on through
//! [`synod::node::Observer`]; a violation is kept until the run asks for it, because it is found in
//! the midst of a node's turn. Views are read from the disks. What needs a world at rest (equal
//! replicas, one owner for every key) is in [`crate::agreement`].

mod committed;
mod one_leader;
mod placement;
mod queues;
mod steady;
pub mod views;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use synod::node::{Observation, Observer};

use self::committed::Committed;
use self::one_leader::OneLeader;
use self::placement::Placement;
use self::queues::Queues;
use self::steady::Steady;
use self::views::Views;
use crate::timeline::{Timeline, What};
use crate::world::world_us;

pub use self::placement::Watch;

/// All invariants of a world. Clones share them.
#[derive(Clone)]
pub struct Invariants {
    state: Arc<Mutex<State>>,
    timeline: Timeline,
}

#[derive(Default)]
struct State {
    one_leader: OneLeader,
    committed: Committed,
    queues: Queues,
    steady: Steady,
    views: Views,
    placement: Placement,
    /// Who was seen to lead each shard last.
    leaders: BTreeMap<u64, usize>,
    /// Which view each node was seen in last.
    seen: BTreeMap<usize, u64>,
    /// How often each node looked at its timers while it had a view.
    ticks: BTreeMap<usize, u64>,
    violation: Option<String>,
}

/// One life of a process, looked on.
struct Process {
    node: usize,
    invariants: Invariants,
}

impl Invariants {
    /// Nothing seen yet. Changes of leaders go into the timeline.
    pub fn new(timeline: Timeline) -> Self {
        Self {
            state: Arc::default(),
            timeline,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who looks on the next life of a node's process.
    pub fn of_process(&self, node: usize) -> Arc<dyn Observer> {
        self.lock().committed.restarted(node);
        Arc::new(Process {
            node,
            invariants: self.clone(),
        })
    }

    /// Looks at the view log of a node, as its disk has it now.
    pub fn look_at_views(&self, node: usize, log: &[u8]) {
        let mut state = self.lock();
        if let Err(violation) = state.views.look(node, log) {
            state.violation.get_or_insert(violation);
        }
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    /// What is asked of placement from now on.
    pub fn watch_placement(&self, watch: Watch) {
        self.lock().placement.watch(watch);
    }

    /// How often voters of a shard were exchanged.
    pub fn moves(&self) -> u64 {
        self.lock().placement.changes
    }

    /// How often a node looked at its timers, in all its lives.
    pub fn ticks(&self, node: usize) -> u64 {
        self.lock().ticks.get(&node).copied().unwrap_or(0)
    }

    /// The node that was seen to lead most shards.
    pub fn busiest_leader(&self) -> Option<usize> {
        let mut shards: BTreeMap<usize, usize> = BTreeMap::new();
        for node in self.lock().leaders.values() {
            *shards.entry(*node).or_default() += 1;
        }
        let busiest = shards.into_iter().max_by_key(|(_, shards)| *shards);
        busiest.map(|(node, _)| node)
    }

    /// The node that was seen to lead one of the shards; which of them follows from `draw`.
    pub fn leader_of_some(&self, draw: u64) -> Option<usize> {
        let state = self.lock();
        let shards = u64::try_from(state.leaders.len()).unwrap_or(u64::MAX);
        let chosen = usize::try_from(draw.checked_rem(shards)?).ok()?;
        state.leaders.values().nth(chosen).copied()
    }
}

impl Observer for Process {
    fn observe(&self, seen: &Observation<'_>) {
        let node = self.node;
        let mut state = self.invariants.lock();
        let state = &mut *state;
        let verdict = match seen {
            Observation::Leads { shard, term } => {
                let verdict = state.one_leader.leads(node, shard.0, *term);
                if verdict == Ok(true) {
                    state.leaders.insert(shard.0, node);
                    let what = What::Leads {
                        node,
                        shard: shard.0,
                        term: *term,
                    };
                    self.invariants.timeline.add(world_us(), what);
                    state.steady.changed(shard.0, world_us())
                } else {
                    verdict.map(drop)
                }
            }
            Observation::Committed(shard, entries) => {
                state.committed.committed(node, shard.0, entries)
            }
            Observation::SnapshotInstalled(shard) => {
                state.committed.jumped(node, shard.0);
                Ok(())
            }
            Observation::Described(descriptor) => state.placement.described(world_us(), descriptor),
            Observation::View(view) => {
                *state.ticks.entry(node).or_default() += 1;
                if state.seen.insert(node, view.seq()) != Some(view.seq()) {
                    let (view, members) = (view.seq(), view.members().len());
                    let what = What::Sees {
                        node,
                        view,
                        members,
                    };
                    self.invariants.timeline.add(world_us(), what);
                }
                state.placement.view(world_us(), view);
                Ok(())
            }
            Observation::Queue { name, length } => state.queues.waits(node, name, *length),
        };
        if let Err(violation) = verdict {
            state.violation.get_or_insert(violation);
        }
    }
}
