//! The placement controller in the node that leads the system shard: what it is told, and what it wants done.
//!
//! Every node reports on the shards that it leads ([`super::reporting`]). The leader of the system shard has a
//! [`Controller`], for as long as it leads in one term; when leadership moves, the next one begins with the stored
//! plan.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_replication::{NodeId, Role};
use synod_storage::ShardId;
use synod_txn::{Now, SYSTEM_SHARD};
use tracing::{info, warn};

use super::reporting::Reports;
use super::reviewing::Reviews;
use super::turn::{Effects, Node};
use crate::config::{Placement, PlacingSettings};
use crate::controller::advance::Step;
use crate::controller::cluster::Duty;
use crate::controller::records::{self, MOVED, POLICIES, Policies, Row};
use crate::controller::worker::{self, SolverWorker};
use crate::controller::{self, Controller, Effect, Event, Settings, defaults};
use crate::directory::{DamagedReplica, Directory, NodeState, Table};
use crate::membership::user_labels;
use crate::membership::views::{Cursor, Next};
use crate::shards::{self, Change, Order, OrderId, Refusal};
use crate::status;

/// The controller, if this node has it, and what it needs of the node.
#[derive(Default)]
pub(super) struct Control {
    placing: PlacingSettings,
    pub(super) active: Option<Active>,
    /// Questions on policies and placement.
    pub(super) reviews: Reviews,
    /// What other nodes' shards weigh, as their leaders told.
    pub(super) sizes: BTreeMap<ShardId, u64>,
    /// What leaders say of their shards.
    pub(super) reports: Reports,
}

/// The controller of one term.
pub(super) struct Active {
    pub(super) controller: Controller,
    solver: SolverWorker,
    cursor: Cursor,
    revision: u64,
    /// Writes that are not applied here yet.
    writes: BTreeMap<u64, Vec<(Bytes, u64)>>,
    orders: BTreeMap<OrderId, u64>,
}

impl Control {
    /// No controller yet; one will go about its work like this.
    pub(super) fn new(placing: PlacingSettings) -> Control {
        Control {
            placing,
            ..Control::default()
        }
    }
}

impl Active {
    /// The writes that are durable and applied here by now: the next leader is certain to have them.
    fn written(&mut self, directory: &Directory) -> Vec<u64> {
        let applied = |(key, generation): &(Bytes, u64)| {
            let row = directory.row(key);
            row.is_some_and(|row| row.generation >= *generation)
        };
        let all = self.writes.iter();
        let done: Vec<u64> = all
            .filter(|(_, rows)| rows.iter().all(applied))
            .map(|(id, _)| *id)
            .collect();
        for id in &done {
            self.writes.remove(id);
        }
        done
    }
}

impl Node {
    /// Lets the controller begin, go on, or end.
    pub(super) fn tick_control(&mut self, now: Now, effects: &mut Effects) {
        self.tick_reports(now, effects);
        let term = self.system_term();
        let active = self
            .control
            .active
            .as_ref()
            .map(|active| active.controller.term());
        if active != term {
            self.control.active = None;
            if let Some(term) = term {
                self.begin_control(now, term);
            }
        }
        let mut events = self.control_news();
        if self.control.active.is_some() {
            events.push(Event::Tick);
        }
        for event in events {
            self.control(now, event, effects);
        }
        self.tick_reviews(now, effects);
    }

    /// The term in which this node leads the system shard, having applied all that earlier leaders wrote.
    fn system_term(&self) -> Option<u64> {
        if self.founding.settings.placement == Placement::Manual {
            return None;
        }
        let leadership = self.replication.leadership(SYSTEM_SHARD)?;
        let leads = leadership.role == Role::Leader && leadership.serving;
        let leads = leads && self.participant.leads(SYSTEM_SHARD) && self.directory.is_resident();
        leads.then_some(leadership.term)
    }

    fn begin_control(&mut self, now: Now, term: u64) {
        let solver = match worker::solver() {
            Ok(solver) => solver,
            Err(error) => {
                warn!("no thread for the solver, placement stands still: {error}");
                return;
            }
        };
        let settings = Settings::of(&self.founding.settings, &self.control.placing);
        let stored = [records::HEAD.as_bytes(), MOVED.as_bytes()];
        let rows = stored.iter().flat_map(|prefix| self.directory.rows(prefix));
        let rows = rows.map(|(key, row)| (key.as_ref(), row.value.as_ref()));
        let controller = Controller::new(settings, term, now, rows);
        info!(term, "this node places replicas and leaders from now on");
        if self.directory.row(POLICIES.as_bytes()).is_none() {
            // The first controller of a cluster finds none.
            let value = records::stored(&defaults::policies());
            self.write_row(now, Bytes::from_static(POLICIES.as_bytes()), 1, value);
        }
        self.control.active = Some(Active {
            controller,
            solver,
            cursor: Cursor::default(),
            revision: 0,
            writes: BTreeMap::new(),
            orders: BTreeMap::new(),
        });
    }

    /// What has happened since the controller was told last.
    fn control_news(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(active) = &mut self.control.active else {
            return events;
        };
        match active.solver.answer() {
            Ok(answer) => events.extend(answer.map(Event::Answered)),
            Err(error) => {
                warn!("placement begins anew: {error}");
                self.control.active = None;
                return events;
            }
        }
        while let Some(next) = self.membership.views().next(&mut active.cursor) {
            let configuration = match &next {
                Next::Change(change) => &change.configuration,
                Next::Restart(configuration) => configuration,
            };
            let members = configuration.members().iter();
            events.push(Event::View {
                seq: configuration.seq(),
                members: members
                    .map(|member| (NodeId(member.node.0), user_labels(member)))
                    .collect(),
            });
        }
        let first = active.revision == 0;
        let revision = std::mem::replace(&mut active.revision, self.directory.revision());
        let done = active.written(&self.directory);
        if first {
            // Not all of it need be rows: the founding is known without.
            events.extend(self.directory.shards().cloned().map(Event::Shard));
        }
        self.directory_news(revision, &mut events);
        events.extend(done.into_iter().map(Event::Written));
        events
    }

    /// What the directory has learned since.
    fn directory_news(&self, revision: u64, events: &mut Vec<Event>) {
        for (key, row) in self.directory.changes_since(revision) {
            match (Table::of(key), row) {
                (Some(Table::Shard(shard)), _) => {
                    let descriptor = self.directory.shard(shard).cloned();
                    events.push(descriptor.map_or(Event::ShardGone(shard), Event::Shard));
                }
                (Some(Table::State(node)), _) => {
                    let duty = match self.directory.state(node) {
                        NodeState::Up => Duty::Up,
                        NodeState::Draining => Duty::Draining,
                        NodeState::Decommissioned => Duty::Leaving,
                    };
                    events.push(Event::Duty(node, duty));
                }
                (Some(Table::Node(_)), _) => {}
                (Some(Table::Damaged(replica)), row) => {
                    let damaged = row.and_then(|row| DamagedReplica::decode(&row.value));
                    events.push(match damaged {
                        Some(DamagedReplica { shard, node, .. }) => {
                            warn!(%shard, %replica, %node, "this replica is damaged beyond repair: a new one takes \
                                its place as soon as the others are a live majority that has caught up");
                            Event::Damaged(shard, replica)
                        }
                        None => Event::Replaced(replica),
                    });
                }
                (None, Some(row)) if key == POLICIES.as_bytes() => {
                    events.extend(records::read::<Policies>(&row.value).map(Event::Policies));
                }
                (None, _) => {}
            }
        }
    }

    pub(super) fn control(&mut self, now: Now, event: Event, effects: &mut Effects) {
        let Some(active) = &mut self.control.active else {
            return;
        };
        let mut wanted = Vec::new();
        active.controller.step(now, event, &mut wanted);
        for effect in wanted {
            self.carry_control(now, effect, effects);
        }
    }

    fn carry_control(&mut self, now: Now, effect: Effect, effects: &mut Effects) {
        let Some(active) = &mut self.control.active else {
            return;
        };
        match effect {
            Effect::Ask(question) => {
                active.solver.ask(question.id, question);
            }
            Effect::Abort(question) => active.solver.abort(question),
            Effect::Write { id, rows } => self.write_control(now, id, rows),
            Effect::Order {
                id,
                shard,
                epoch,
                authority,
                step,
            } => {
                info!(%shard, epoch, plan = authority.plan, ?step, "placement");
                let order = Order {
                    shard,
                    epoch,
                    authority: Some(authority),
                    step: order_of(step),
                };
                let named = self.order(now, order, effects);
                if let Some(active) = &mut self.control.active {
                    active.orders.insert(named, id);
                }
            }
            Effect::Emptied(node) => {
                info!(%node, "nothing lives on this node any more: it may be stopped for good");
            }
        }
    }

    /// Rows are ordered by the term and by what the controller has written in it.
    fn write_control(&mut self, now: Now, id: u64, rows: Vec<Row>) {
        let Some(active) = &mut self.control.active else {
            return;
        };
        let generation = (active.controller.term() << 24) + id + 1;
        let awaited = rows.iter().filter(|(_, value)| value.is_some());
        let awaited = awaited.map(|(key, _)| (key.clone(), generation)).collect();
        active.writes.insert(id, awaited);
        for (key, value) in rows {
            if !self.write_row(now, key, generation, value) {
                warn!("too many rows wait for the system shard: placement begins anew");
                self.control.active = None;
                return;
            }
        }
    }

    /// An order has ended; whether it was the controller's.
    pub(super) fn control_order_ended(
        &mut self,
        now: Now,
        id: OrderId,
        end: &Result<synod_txn::ShardDescriptor, Refusal>,
        effects: &mut Effects,
    ) {
        let Some(active) = &mut self.control.active else {
            return;
        };
        let Some(order) = active.orders.remove(&id) else {
            return;
        };
        let result = end.clone().map_err(|refusal| match refusal {
            Refusal::NotLeader { hint } => controller::Refusal::NotLeader(hint),
            Refusal::StaleEpoch { descriptor } => controller::Refusal::Stale(descriptor),
            Refusal::Superseded { .. } => controller::Refusal::Superseded,
            Refusal::Busy => controller::Refusal::Busy,
            Refusal::NotCaughtUp { .. } | Refusal::LosesMajority => {
                controller::Refusal::NotCaughtUp
            }
            Refusal::Invalid(why) => controller::Refusal::Invalid(why),
            Refusal::Unknown => controller::Refusal::Unknown,
        });
        if let Err(refusal) = end {
            info!("placement: an order was not carried out: {refusal}");
        }
        self.control(now, Event::Ordered { order, result }, effects);
    }

    /// What the controller knows that others do not, for `SYNOD STATUS`.
    pub(super) fn describe_placement(&self, report: &mut status::Report) {
        let Some(active) = &self.control.active else {
            return;
        };
        let moves = active.controller.moves().into_iter();
        report.moves = moves
            .map(|moving| status::Move {
                shard: moving.shard.0,
                what: moving.what,
                percent: moving.percent,
                left_s: moving.left_s,
            })
            .collect();
        report.placement = active.controller.account(self.now());
        report.policies_violated = active.controller.unsatisfied();
        report.problems.extend(active.controller.troubles());
    }
}

fn order_of(step: Step) -> shards::Step {
    match step {
        Step::Add(node) => shards::Step::Change(vec![Change::AddLearner { node }]),
        Step::Replace { promote, remove } => {
            let promote = promote
                .into_iter()
                .map(|replica| Change::Promote { replica });
            let remove = remove.into_iter().map(|replica| Change::Remove { replica });
            shards::Step::Change(promote.chain(remove).collect())
        }
        Step::Transfer(to) => shards::Step::Transfer { to },
    }
}
