//! The placement controller: what makes the cluster follow its nodes and its policies.
//!
//! It runs on the node that leads the system shard, and only there. It watches the views of the membership, the
//! directory of shards, what their leaders report, and the policies; it has the solver decide where replicas and
//! leaders shall be; it stores the plan; and it orders shards to take one step after the other.
//!
//! ```text
//!   views, directory, reports, policies ──► Cluster ──► Question ──► solver (a thread of its own)
//!                                                                        │ Decision
//!   shards ◄── orders ◄── execute ◄── Plan ◄── durable in shard 0 ◄── adopt
//! ```
//!
//! What makes it safe, whoever stops whenever:
//!
//! - **The plan is one row of the system shard.** It is written before anything of it is done, by a leader in its own
//!   term, so two controllers cannot both have the last word. A successor reads it and goes on.
//! - **Orders are guarded** by the epoch they were derived from, and by (term, plan): a shard refuses what is older
//!   than what it has obeyed. So an order that is late does nothing.
//! - **Steps are derived, not remembered** ([`advance`]): from the directory and the target. An order that was lost or
//!   done twice needs no special case.
//! - **Hard rows hold at every moment**: a plan is ordered in rounds from where the cluster *is*; whichever moves of a
//!   round have finished, they hold. While the solver thinks, no seat changes hands ([`advance::Step::commits`]), so
//!   that its answer begins where it looked.
//! - **The view is a hint.** It says who is likely gone, and never removes anybody from a shard: an order does, and
//!   only when what remains has a live, caught-up majority.
//!
//! What makes it calm: loads are published only when they leave a band; a node that is gone is awaited; a move is not
//! undone within ten minutes for balance's sake ([`filter`]); a decision on everything is asked for only when nothing
//! more urgent is under way; and equal inputs lead to equal decisions, so a settled cluster does not move.
//!
//! The core is sans-I/O. Invariants: at most one question is under way, at most one order a shard, at most one write of
//! the plan; nothing is ordered that the stored plan does not say, except the removal of copies that nobody wants.

mod account;
mod adopt;
pub mod advance;
mod ask;
pub mod cluster;
pub mod defaults;
mod event;
mod execute;
mod facts;
pub mod filter;
pub mod plan;
pub mod policies;
pub mod records;
mod replace;
mod reseat;
pub mod review;
mod settings;
pub mod solver;
mod stray;
pub mod tables;
mod tell;
pub mod worker;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::{ReplicaId, ShardId};
use synod_txn::Now;

pub use self::event::{Effect, Event, Refusal};
pub use self::settings::Settings;

use self::advance::Waiting;
use self::ask::Asked;
use self::cluster::Cluster;
use self::execute::Ordered;
use self::filter::Grace;
use self::plan::{Plan, Target};
use self::records::{Head, Inputs, Moved, Policies};
use self::tables::Shown;

/// The controller of one term.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    term: u64,
    since_us: u64,
    cluster: Cluster,
    policies: Option<Policies>,
    /// Whether the policies are other ones than those that the last plan was made for: everything is to be decided, and
    /// what follows was asked for.
    requested: bool,
    view: u64,
    /// Everything else that is no load, as a fingerprint.
    registry: u64,
    /// Nodes out of the view, and how long they have been.
    lost: BTreeMap<NodeId, Grace>,
    /// Until when only the most urgent is done.
    mass_until_us: Option<u64>,
    moved: BTreeMap<ShardId, Moved>,
    /// Replicas that only a new one can replace.
    damaged: BTreeMap<ReplicaId, ShardId>,

    shown: Shown,
    dirty: BTreeSet<ShardId>,
    /// Whether the solver must be told everything.
    afresh: bool,
    /// Since when something urgent, or anything, wants to be decided.
    urgent_us: Option<u64>,
    whole_us: Option<u64>,
    whole_at_us: u64,
    /// When it was last looked whether a question can be asked.
    looked_us: u64,
    asked: Option<Asked>,
    next_question: u64,

    head: Head,
    plan: Plan,
    /// A plan that is being written.
    writing: Option<(u64, Head, Plan)>,
    next_write: u64,

    ordered: BTreeMap<ShardId, Ordered>,
    /// Shards that are left alone for a while after a refusal: until when, and how often.
    pauses: BTreeMap<ShardId, (u64, u32)>,
    next_order: u64,
    emptied: BTreeSet<NodeId>,
    executed_us: u64,

    verdict: Verdict,
    waits: BTreeMap<ShardId, Waiting>,
}

/// What the last decision said, for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// `optimal`, `feasible`, `infeasible`, `unknown`; empty before the first.
    pub status: String,
    /// Hard rows that are broken.
    pub broken: Vec<String>,
    /// Hard rows that cannot hold together, or that block the order of moves.
    pub conflict: Vec<String>,
    /// Changes that have to wait, and why.
    pub waiting: BTreeMap<ShardId, &'static str>,
    /// Tier, value, and a bound where one is known.
    pub tiers: Vec<(u32, f64, Option<f64>)>,
    /// The same before anything is moved; the bound is that of the decision.
    pub present: Vec<(u32, f64, Option<f64>)>,
    /// The soft policies of each tier.
    pub soft: BTreeMap<u32, Vec<String>>,
    /// Why the last question was not answered.
    pub error: Option<String>,
}

impl Controller {
    /// The controller of a term, from the rows that an earlier one left. The view, the directory, the reports and the
    /// policies are told as events.
    pub fn new<'a>(
        settings: Settings,
        term: u64,
        now: Now,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Controller {
        let mut controller = Controller {
            settings,
            term,
            since_us: now.monotonic.0,
            cluster: Cluster {
                replicas: settings.replicas,
                ..Cluster::default()
            },
            policies: None,
            requested: false,
            view: 0,
            registry: 0,
            lost: BTreeMap::new(),
            mass_until_us: None,
            moved: BTreeMap::new(),
            damaged: BTreeMap::new(),
            shown: Shown::default(),
            dirty: BTreeSet::new(),
            afresh: true,
            urgent_us: None,
            whole_us: Some(now.monotonic.0),
            whole_at_us: 0,
            looked_us: 0,
            asked: None,
            next_question: 0,
            head: Head::default(),
            plan: Plan::default(),
            writing: None,
            next_write: 0,
            ordered: BTreeMap::new(),
            pauses: BTreeMap::new(),
            next_order: 0,
            emptied: BTreeSet::new(),
            executed_us: 0,
            verdict: Verdict::default(),
            waits: BTreeMap::new(),
        };
        for (key, value) in rows {
            if key == records::HEAD.as_bytes() {
                if let Some(stored) = records::read::<adopt::Stored>(value) {
                    controller.head = stored.head;
                    controller.plan = stored.plan();
                }
            } else if let Some(shard) = records::shard_of(records::MOVED, key)
                && let Some(moved) = records::read(value)
            {
                controller.moved.insert(shard, moved);
            }
        }
        controller
    }

    /// Takes one event.
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::View { seq, members } => self.install_view(now, seq, members),
            Event::Duty(node, duty) => self.set_duty(now, node, duty),
            Event::Shard(descriptor) => self.describe(now, descriptor),
            Event::ShardGone(shard) => self.forget_shard(now, shard),
            Event::Report(report) => self.report(now, report),
            Event::Damaged(shard, replica) => {
                self.damaged.insert(replica, shard);
            }
            Event::Replaced(replica) => {
                self.damaged.remove(&replica);
            }
            Event::Policies(policies) => self.install_policies(now, policies),
            Event::Answered(answer) => self.adopt(now, answer, effects),
            Event::Ordered { order, result } => self.ordered(now, order, result),
            Event::Written(id) => {
                self.written(id);
                self.noted(id, effects);
            }
            Event::Tick => self.tick(now),
        }
        self.ask(now, effects);
        self.execute(now, effects);
    }

    fn tick(&mut self, now: Now) {
        self.age(now);
        self.expire_orders(now);
    }

    /// What decisions are made from, loads aside.
    pub fn inputs(&self) -> Inputs {
        Inputs {
            policies: self
                .policies
                .as_ref()
                .map_or(0, |policies| policies.version),
            view: self.view,
            registry: self.registry,
        }
    }

    /// The term that it acts in.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The plan in force: its number and where shards are going.
    pub fn plan(&self) -> (&Head, &BTreeMap<ShardId, Target>) {
        (&self.head, &self.plan.targets)
    }

    /// What it knows.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the last decision said.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What shards on their way wait for.
    pub fn waits(&self) -> &BTreeMap<ShardId, Waiting> {
        &self.waits
    }

    /// Whether nothing is to be decided, written or done.
    pub fn is_settled(&self) -> bool {
        self.plan.targets.is_empty()
            && self.asked.is_none()
            && self.writing.is_none()
            && self.urgent_us.is_none()
            && self.whole_us.is_none()
            && self.ordered.is_empty()
            && self.strays().next().is_none()
    }
}
