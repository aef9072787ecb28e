//! One shard's replica on this node: what it knows by its log, and its role.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use synod_storage::{
    Direction, KeyRange, Lookup, Micros, Scan, ScanRequest, ScanWhat, ShardId, Space, Version,
};

use super::entry::{self, Birth};
use super::event::{Batch, Leadership, Now, Refusal, Round, Token};
use super::intent;
use super::latch::WorkId;
use super::leader::{Leader, Proposed};
use super::merging::LeftSide;
use super::reads::Held;
use super::snapshots::{CLOSED_ROW, Closed, Snapshot};
use super::streams::{Admission, Streams};
use super::transactions::Transactions;
use super::{Effect, Extent, Turn};
use crate::reply::{ErrorCode, Reply};
use crate::shard_map::{Authority, SYSTEM_SHARD, ShardDescriptor, contains_range, keyspace};
use crate::state::State;
use crate::transaction::TxnRequest;
use crate::value::Value;
use crate::wire::{Body, Outcome, Request, Stream};
use synod_testpoint::planted;

/// The local row that holds the shard's description.
pub(super) const DESCRIPTOR_ROW: &[u8] = b"descriptor";

/// The local row that holds the ceiling.
pub(super) const CEILING_ROW: &[u8] = b"ceiling";

/// The local row that holds the highest controller that was followed.
pub(super) const AUTHORITY_ROW: &[u8] = b"authority";

/// What the applied log says about the shard itself. Replicas that have applied the same entries
/// hold the same.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// The description.
    pub(super) descriptor: ShardDescriptor,
    /// Whether the log holds a description; else this one was only told.
    pub(super) described: bool,
    /// No leader has promised anything above it.
    pub(super) ceiling: Version,
    /// The highest controller that was followed.
    pub(super) authority: Authority,
    /// Shards that were split off and may not have their first rows yet: kept for them.
    pub(super) newborns: BTreeSet<ShardId>,
    /// The left neighbour that the shard is to become a part of: it serves nothing and takes nothing in.
    pub(super) frozen: Option<LeftSide>,
    /// Shards that were merged into this one, or into one that was, and the epochs of their ends.
    pub(super) merged: BTreeMap<ShardId, u64>,
    /// Which of its versions it can be read at.
    pub(super) closed: Closed,
    /// The transactions.
    pub(super) transactions: Transactions,
}

/// Batches of an earlier term whose outcome the log has not shown yet.
#[derive(Clone, Debug)]
pub(super) struct Orphans {
    pub(super) term: u64,
    pub(super) since: Micros,
    pub(super) batches: VecDeque<Proposed>,
}

/// The role.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Does not serve.
    Following {
        /// Who leads, if known.
        leader: Option<synod_replication::NodeId>,
    },
    /// Leads and serves.
    Leading(Box<Leader>),
}

/// One shard's replica.
///
/// Invariants: orphans are in the order of their terms, all below the term of the present
/// leadership; `own.ceiling` is at or above every version that was applied.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) own: Own,
    pub(super) role: Role,
    pub(super) orphans: VecDeque<Orphans>,
    pub(super) streams: Streams,
    /// The first rows of a shard that was split off, on a replica that has not seen them in its log.
    pub(super) birth: Option<Birth>,
    /// Reads of the past that are under way.
    pub(super) snapshots: BTreeMap<WorkId, Snapshot>,
}

impl Shard {
    pub(super) fn open<S: State>(id: ShardId, told: ShardDescriptor, turn: &mut Turn<S>) -> Shard {
        let mut shard = Shard {
            id,
            own: Own {
                descriptor: told,
                described: false,
                ceiling: Version::ZERO,
                authority: Authority::default(),
                newborns: BTreeSet::new(),
                frozen: None,
                merged: BTreeMap::new(),
                closed: Closed::default(),
                transactions: Transactions::default(),
            },
            role: Role::Following { leader: None },
            orphans: VecDeque::new(),
            streams: Streams::default(),
            birth: None,
            snapshots: BTreeMap::new(),
        };
        shard.load(turn);
        shard
    }

    /// Reads the shard's own rows, which are always resident.
    pub(super) fn load<S: State>(&mut self, turn: &mut Turn<S>) {
        let space = Space::Local(self.id);
        match turn.state.get(space, DESCRIPTOR_ROW, Version::MAX) {
            Lookup::Found { value, .. } => match entry::decode_descriptor(&value) {
                Ok(descriptor) => {
                    self.own.descriptor = descriptor;
                    self.own.described = true;
                }
                Err(_) => self.fatal(turn, "the shard's own description cannot be read".into()),
            },
            Lookup::Absent { .. } => {}
            Lookup::Pending(_) => unreachable!("local rows are resident"),
        }
        if let Lookup::Found { value, .. } = turn.state.get(space, CEILING_ROW, Version::MAX) {
            match <[u8; 8]>::try_from(&value[..]) {
                Ok(bytes) => self.own.ceiling = Version(u64::from_le_bytes(bytes)),
                Err(_) => self.fatal(turn, "the shard's ceiling cannot be read".into()),
            }
        }
        if let Lookup::Found { value, .. } = turn.state.get(space, AUTHORITY_ROW, Version::MAX) {
            match entry::decode_authority(&value) {
                Some(authority) => self.own.authority = authority,
                None => self.fatal(turn, "the shard's controller cannot be read".into()),
            }
        }
        if let Lookup::Found { value, .. } = turn.state.get(space, CLOSED_ROW, Version::MAX) {
            match Closed::decode(&value) {
                Some(closed) => self.own.closed = closed,
                None => self.fatal(turn, "what the shard has closed cannot be read".into()),
            }
        }
        self.load_newborns(turn);
        self.load_merges(turn);
        self.rise(turn);
        if let Err(reason) = self.load_transactions(turn) {
            self.fatal(turn, reason);
        }
        if self.id == SYSTEM_SHARD {
            self.show_system_rows(turn);
        }
    }

    /// Tells the node all rows of the system shard.
    fn show_system_rows<S: State>(&mut self, turn: &mut Turn<S>) {
        let (space, range) = keyspace::rows(self.id, &KeyRange::all());
        let mut rows = Vec::new();
        self.for_each_local(turn, space, range, |key, value| {
            let value = Value::decode(&value).map(|value| value.data);
            rows.push((keyspace::key(SYSTEM_SHARD, key), value));
        });
        turn.effects.push(Effect::SystemRows {
            extent: Extent::Whole,
            rows,
        });
    }

    /// Visits rows of the shard's own.
    pub(super) fn for_each_local<S: State>(
        &self,
        turn: &mut Turn<S>,
        space: Space,
        range: KeyRange,
        mut visit: impl FnMut(Bytes, Bytes),
    ) {
        let mut rest = Some(range);
        while let Some(range) = rest {
            let request = ScanRequest {
                space,
                range,
                at: Version::MAX,
                direction: Direction::Forward,
                what: ScanWhat::Values,
                rows_max: 1024,
                bytes_max: 1 << 20,
            };
            let Scan::Ready(page) = turn.state.scan(request) else {
                unreachable!("local rows are resident");
            };
            for row in page.rows {
                visit(row.key, row.value.unwrap_or_default());
            }
            rest = page.rest;
        }
    }

    /// Nothing that an earlier leader has promised is above the clock from here on.
    fn rise<S>(&self, turn: &mut Turn<S>) {
        if !planted!(StartsBelowCeiling) {
            turn.hlc.merge(self.own.ceiling);
        }
    }

    fn load_transactions<S: State>(&mut self, turn: &mut Turn<S>) -> Result<(), String> {
        let space = Space::Local(self.id);
        let mut rows = Vec::new();
        self.for_each_local(turn, space, KeyRange::all(), |key, value| {
            if !keyspace::is_row(&key) {
                rows.push((key, value));
            }
        });
        self.own.transactions = Transactions::of_rows(&rows)?;
        Ok(())
    }

    pub(super) fn fatal<S>(&self, turn: &mut Turn<S>, reason: String) {
        turn.effects.push(Effect::Fatal {
            shard: self.id,
            reason,
        });
    }

    pub(super) fn descriptor(&self) -> &ShardDescriptor {
        &self.own.descriptor
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.orphans.is_empty()
            || self.own.frozen.is_some()
            || match &self.role {
                Role::Leading(leader) => leader.is_busy(),
                Role::Following { .. } => false,
            }
    }

    /// A request from a gateway.
    pub(super) fn request<S: State>(&mut self, turn: &mut Turn<S>, token: Token, request: Request) {
        let stream = request.stream;
        match self.streams.admit(stream) {
            Admission::Open => {}
            Admission::Broken => return turn.respond(token, Outcome::StreamBroken),
            Admission::Full => return turn.respond(token, Outcome::Overloaded),
        }
        let fits = request.epoch == self.own.descriptor.epoch && self.own.covers(&request.body);
        if let Body::Txn(TxnRequest::Snapshot { at, read }) = request.body {
            return match fits {
                true => self.snapshot(turn, token, at, read),
                false => turn.respond(token, self.not_here(request.epoch)),
            };
        }
        let Role::Leading(leader) = &mut self.role else {
            let hint = self.hint();
            return self.refuse(turn, token, stream, Outcome::NotLeader { hint });
        };
        if self.own.is_unborn() {
            let hint = None;
            return self.refuse(turn, token, stream, Outcome::NotLeader { hint });
        }
        if !fits {
            let descriptor = self.own.descriptor.clone();
            return self.refuse(turn, token, stream, Outcome::StaleEpoch { descriptor });
        }
        // Frozen: soon its keys are another shard's, or its own again.
        if self.own.frozen.is_some() || leader.is_overloaded(turn.settings) {
            return self.refuse(turn, token, stream, Outcome::Overloaded);
        }
        leader.request(turn, &self.own, token, stream, request.body);
        leader.run_released(turn, &self.own);
    }

    /// What is said to a read that was routed by another epoch: who is behind asks the leader.
    fn not_here(&self, epoch: u64) -> Outcome {
        match epoch > self.own.descriptor.epoch {
            true => Outcome::NotLeader { hint: self.hint() },
            false => Outcome::StaleEpoch {
                descriptor: self.own.descriptor.clone(),
            },
        }
    }

    pub(super) fn hint(&self) -> Option<synod_replication::NodeId> {
        match &self.role {
            Role::Following { leader } => *leader,
            Role::Leading(_) => None,
        }
    }

    /// Answers a request in a way that its gateway may retry.
    pub(super) fn refuse<S>(
        &mut self,
        turn: &mut Turn<S>,
        token: Token,
        stream: Stream,
        outcome: Outcome,
    ) {
        assert!(outcome.is_retryable());
        self.streams.break_off(stream, turn.now.monotonic);
        turn.respond(token, outcome);
    }

    pub(super) fn refuse_all<S>(&mut self, turn: &mut Turn<S>, held: Vec<Held>, outcome: &Outcome) {
        for held in held {
            self.refuse(turn, held.token, held.stream, outcome.clone());
        }
    }

    pub(super) fn leadership<S: State>(&mut self, turn: &mut Turn<S>, leadership: Leadership) {
        match (leadership, &mut self.role) {
            (Leadership::Leading { term }, Role::Leading(leader)) if leader.term() == term => {}
            (Leadership::Leading { term }, _) => {
                self.step_down(turn, None);
                assert!(
                    self.orphans
                        .back()
                        .is_none_or(|orphans| orphans.term < term),
                    "a term is led without a break"
                );
                self.rise(turn);
                let mut leader = Leader::new(self.id, term, &self.own, turn.settings);
                if let Some(birth) = self.birth.clone().filter(|_| !self.own.described) {
                    leader.give_birth(birth);
                } else if !self.own.described && !self.own.is_unborn() {
                    // The first leader writes down what its creator said, for replicas to come.
                    leader.describe(self.own.descriptor.clone());
                }
                self.role = Role::Leading(Box::new(leader));
            }
            (Leadership::Following { leader }, Role::Following { leader: known }) => {
                *known = leader;
            }
            (Leadership::Following { leader }, Role::Leading(_)) => self.step_down(turn, leader),
        }
    }

    /// Ends the leadership, if there is one. What was not proposed has not happened; what was is
    /// decided by the log.
    fn step_down<S: State>(&mut self, turn: &mut Turn<S>, hint: Option<synod_replication::NodeId>) {
        let role = std::mem::replace(&mut self.role, Role::Following { leader: hint });
        let Role::Leading(leader) = role else {
            return;
        };
        let term = leader.term();
        self.pass_on_snapshots(turn);
        let (undone, batches) = leader.step_down(turn);
        self.refuse_all(turn, undone, &Outcome::NotLeader { hint });
        if !batches.is_empty() {
            self.orphans.push_back(Orphans {
                term,
                since: turn.now.monotonic,
                batches,
            });
        }
    }

    /// Nobody can tell any more what became of the orphans.
    fn give_up_orphans<S>(&mut self, turn: &mut Turn<S>, mut gone: impl FnMut(&Orphans) -> bool) {
        let mut kept = VecDeque::new();
        for orphans in std::mem::take(&mut self.orphans) {
            match gone(&orphans) {
                false => kept.push_back(orphans),
                true => {
                    for held in orphans.batches.into_iter().flat_map(|batch| batch.held) {
                        turn.respond(held.token, Outcome::Unknown);
                    }
                }
            }
        }
        self.orphans = kept;
    }

    pub(super) fn close<S: State>(&mut self, turn: &mut Turn<S>) {
        self.step_down(turn, None);
        self.give_up_orphans(turn, |_| true);
        self.end_snapshots(turn, &Outcome::NotLeader { hint: None });
    }

    /// The state jumped: batches that were under way may be part of it or not.
    pub(super) fn snapshot_installed<S: State>(&mut self, turn: &mut Turn<S>) {
        self.step_down(turn, None);
        self.give_up_orphans(turn, |_| true);
        self.end_snapshots(turn, &Outcome::Overloaded);
        self.load(turn);
    }

    pub(super) fn proposal_refused<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        batch: Batch,
        refusal: Refusal,
    ) {
        let Role::Leading(leader) = &mut self.role else {
            return;
        };
        let undone = leader.proposal_refused(turn, &self.own.transactions, batch);
        let outcome = match refusal {
            Refusal::NotLeader { hint } => Outcome::NotLeader { hint },
            Refusal::Throttled => Outcome::Overloaded,
        };
        self.refuse_all(turn, undone, &outcome);
    }

    pub(super) fn confirmed<S: State>(&mut self, turn: &mut Turn<S>, term: u64, round: Round) {
        if let Role::Leading(leader) = &mut self.role
            && leader.term() == term
        {
            leader.confirmed(turn, round);
        }
    }

    pub(super) fn doubtful<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        term: u64,
        round: Round,
        hint: Option<synod_replication::NodeId>,
    ) {
        if let Role::Leading(leader) = &mut self.role
            && leader.term() == term
        {
            let undone = leader.doubtful(round);
            self.refuse_all(turn, undone, &Outcome::NotLeader { hint });
        }
    }

    pub(super) fn describe(&mut self, descriptor: ShardDescriptor) {
        if descriptor.epoch > self.own.descriptor.epoch
            && let Role::Leading(leader) = &mut self.role
        {
            leader.describe(descriptor);
        }
    }

    pub(super) fn authorize(&mut self, authority: Authority) {
        if authority > self.own.authority
            && let Role::Leading(leader) = &mut self.role
        {
            leader.authorize(authority);
        }
    }

    pub(super) fn tick<S: State>(&mut self, turn: &mut Turn<S>) {
        self.streams.tick(turn.now.monotonic);
        let patience_us = turn.settings.outcome_timeout_us;
        let now = turn.now.monotonic;
        self.give_up_orphans(turn, |orphans| {
            now.0.saturating_sub(orphans.since.0) >= patience_us
        });
        if let Role::Leading(leader) = &mut self.role {
            leader.tick(turn, &self.own);
            leader.run_released(turn, &self.own);
        }
        self.collect(turn);
    }

    /// Lets storage drop superseded versions that nobody reads.
    fn collect<S: State>(&self, turn: &mut Turn<S>) {
        let mut threshold = self.own.closed.kept;
        if let Role::Leading(leader) = &self.role
            && let Some(oldest) = leader.oldest_scan()
        {
            threshold = threshold.min(oldest);
        }
        turn.state
            .set_threshold(self.id, self.own.descriptor.range.clone(), threshold);
    }

    pub(super) fn needs_flush(&self) -> bool {
        match &self.role {
            Role::Leading(leader) => leader.needs_flush(),
            Role::Following { .. } => false,
        }
    }

    #[cfg(test)]
    pub(super) fn hurry(&mut self) {
        if let Role::Leading(leader) = &mut self.role {
            leader.hurry();
        }
    }

    pub(super) fn flush(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Role::Leading(leader) = &mut self.role {
            leader.flush(now, &self.own, effects);
        }
    }
}

impl Own {
    /// Whether all keys of a request are in the shard's range.
    fn covers(&self, body: &Body) -> bool {
        if self.descriptor.shard == SYSTEM_SHARD {
            // Its rows are no user's keys: it is asked by name, and has all of them.
            return true;
        }
        let range = &self.descriptor.range;
        match body {
            Body::Command(command) => {
                let mut covered = true;
                command.for_each_key(|key| covered &= range.contains(key));
                covered
            }
            Body::Txn(request) => {
                let keys = intent::keys_of(request);
                let ranges = intent::ranges_of(request);
                let held = intent::held_ranges_of(request);
                keys.iter().all(|key| range.contains(key))
                    && held.iter().all(|it| contains_range(range, it))
                    && ranges.iter().all(|it| contains_range(range, &it.range))
            }
        }
    }
}

/// The answer to a command whose value is damaged on this node.
pub(super) fn corrupt_reply() -> Reply {
    Reply::error(
        ErrorCode::Corrupt,
        "the stored value is damaged here and is being repaired",
    )
}

/// The answer to a command whose read failed.
pub(super) fn read_failed_reply() -> Reply {
    Reply::error(ErrorCode::TryAgain, "the disk refused a read")
}
