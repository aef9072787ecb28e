//! The coordinator: transactions as a gateway drives them.
//!
//! # One shot
//!
//! A script (the commands between `MULTI` and `EXEC`, or one command whose keys lie in several
//! shards) is known whole, so its commands travel to their shards and are carried out there, under
//! locks; there is no round of reads, and nothing optimistic that could fail.
//!
//! ```text
//! one shard        execute                                     one round of consensus
//! only reads       read ∥ … , validate ∥ …                     none
//! one writes       execute, which validates ∥ … in the others   one
//! several write    prepare ∥ … , conclude at the anchor, answer two; resolve ∥ … behind the answer
//! ```
//!
//! Where one shard writes and others only read, what is read there is read first, and its leader asks
//! whether it still is so before it writes (`participant::asking`). That can fail like any optimism: after
//! some attempts such a script takes locks in all its shards, and writes as if several did.
//!
//! The anchor is the last to take part: when all others are prepared it carries out its own part and
//! decides, in one entry of its log. So it locks nothing, the whole has one entry less, and two rounds of
//! consensus one after the other are all that the client waits for. The price is that the coordinator
//! may not abort by itself from then on, not even after a refusal, because a copy of its question may
//! still be on its way: it asks the anchor, which answers for good.
//!
//! # Interactive
//!
//! The commands of `BEGIN … COMMIT` are carried out here, on values that are read as they are needed,
//! and their writes are kept. What was read is checked when it is committed, and before: a value that
//! is newer than what the earlier reads are known to hold for makes them be validated again, so that
//! a transaction never sees a torn state, not even one that will abort.
//!
//! # Conflicts
//!
//! An attempt that loses is aborted and the next one begins, after a pause, under the same name and
//! age: sooner or later it is the oldest, and the others give way. An attempt whose outcome is not
//! known is never started again: its decision is asked for until it is known, or time is up.
//!
//! Optimism alone does not bring the oldest through, because the young may change what it has read for
//! ever. After some restarts a transaction locks what it reads before it reads it: see `holds`. That is
//! so for what is carried out here, whoever begins it again: an interactive transaction that has lost is
//! begun again by its client, and on the same connection it keeps its age and its count of restarts.
//!
//! # What it does not do
//!
//! It has no state that matters: when its node dies, whoever meets its locks asks the anchor.

mod attempt;
mod connection;
mod event;
mod holds;
mod plan;
mod reading;
mod session;
mod view;

use std::collections::BTreeMap;

use synod_replication::NodeId;
use synod_storage::{Micros, ShardId, Version};

use crate::command::{Begin, ReadMode};
use crate::hlc::Hlc;
use crate::participant::Now;
use crate::reply::Reply;
use crate::shard_map::ShardMap;
use crate::token;
use crate::transaction::{Again, AttemptId, TxnId, TxnRequest};

pub use connection::{Connection, Next};
pub use event::{Call, Effect, Ended, Event, Script, Ticket};

use attempt::Run;
use session::Session;

/// Settings of a gateway's coordinator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a transaction is started again for before it is given up.
    pub retry_max_us: u64,
    /// The pause before the second attempt; later ones are longer.
    pub pause_us: u64,
    /// How long an answer is waited for before the question is asked again.
    pub answer_max_us: u64,
    /// How long a decision is asked for before the outcome is called unknown.
    pub decide_max_us: u64,
    /// How long an interactive transaction may be idle.
    pub idle_max_us: u64,
    /// How long an interactive transaction may take from its beginning to its end.
    pub duration_max_us: u64,
    /// Keys and ranges that a transaction may read and write, where the coordinator carries it out.
    pub keys_max: usize,
    /// Bytes of keys and values of such a one.
    pub bytes_max: usize,
    /// How often the shards are told that somebody reads the past.
    pub keep_every_us: u64,
    /// After so many attempts, a transaction takes locks to get through.
    pub optimistic_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            retry_max_us: 10_000_000,
            pause_us: 1_000,
            answer_max_us: 3_000_000,
            decide_max_us: 10_000_000,
            idle_max_us: 60_000_000,
            duration_max_us: 300_000_000,
            keys_max: 65_536,
            bytes_max: 16 << 20,
            keep_every_us: 1_000_000,
            optimistic_max: 4,
        }
    }
}

/// The transactions of one gateway.
///
/// Invariants: every ticket is ended exactly once; a call belongs to a run or session that is alive,
/// or its answer is ignored.
#[derive(Clone, Debug)]
pub struct Coordinator {
    settings: Settings,
    node: NodeId,
    hlc: Hlc,
    wall_ms: u64,
    last_txn: u64,
    last_call: u64,
    runs: BTreeMap<TxnId, Run>,
    sessions: BTreeMap<Ticket, Session>,
    calls: BTreeMap<Call, Owner>,
    keeping: Keeping,
}

/// What the shards were told about those who read the past.
#[derive(Clone, Copy, Debug, Default)]
struct Keeping {
    /// The version that they are to keep.
    at: Version,
    /// When they are told next.
    next: Micros,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Run(TxnId),
    Session(Ticket),
}

/// What the parts of the coordinator need during one step.
struct Turn<'a> {
    now: Now,
    map: &'a ShardMap,
    effects: &'a mut Vec<Effect>,
    hlc: &'a mut Hlc,
    settings: &'a Settings,
    node: NodeId,
    last_txn: &'a mut u64,
    last_call: &'a mut u64,
    calls: &'a mut BTreeMap<Call, Owner>,
    keeping: &'a mut Keeping,
}

impl Turn<'_> {
    fn monotonic(&self) -> Micros {
        self.now.monotonic
    }

    fn tick(&mut self) -> Version {
        self.hlc.tick(self.now.wall_ms)
    }

    /// A fresh name, younger than all before it.
    fn new_txn(&mut self) -> TxnId {
        *self.last_txn += 1;
        TxnId {
            age: self.tick(),
            node: self.node,
            counter: *self.last_txn,
        }
    }

    fn new_token(&mut self) -> bytes::Bytes {
        let TxnId { age, node, counter } = self.new_txn();
        token::issue(age, node, counter)
    }

    /// Asks the shard of `key`. `None` if the shard is not known at present.
    fn call(
        &mut self,
        owner: Owner,
        key: &bytes::Bytes,
        body: impl Into<crate::wire::Body>,
    ) -> Option<Call> {
        let descriptor = self.map.locate(key)?;
        let at = (descriptor.shard, descriptor.epoch);
        Some(self.call_shard(owner, at, body))
    }

    /// Asks a shard in an epoch.
    fn call_shard(
        &mut self,
        owner: Owner,
        (shard, epoch): (ShardId, u64),
        body: impl Into<crate::wire::Body>,
    ) -> Call {
        *self.last_call += 1;
        let call = Call(*self.last_call);
        self.calls.insert(call, owner);
        self.effects.push(Effect::Call {
            call,
            shard,
            epoch,
            hlc: self.hlc.last(),
            body: body.into(),
        });
        call
    }
}

impl Coordinator {
    /// A coordinator for this node. `incarnation` is the node's: it makes names unique over restarts.
    pub fn new(settings: Settings, node: NodeId, incarnation: u64) -> Coordinator {
        Coordinator {
            settings,
            node,
            hlc: Hlc::default(),
            wall_ms: 0,
            // 2⁴⁰ transactions for each start of the node.
            last_txn: incarnation << 40,
            // Calls too: an answer to the process before this one must not pass for one to this.
            last_call: incarnation << 40,
            runs: BTreeMap::new(),
            sessions: BTreeMap::new(),
            calls: BTreeMap::new(),
            keeping: Keeping::default(),
        }
    }

    /// Takes in one event.
    pub fn step(&mut self, now: Now, event: Event, map: &ShardMap, effects: &mut Vec<Effect>) {
        self.wall_ms = self.wall_ms.max(now.wall_ms);
        let now = Now {
            wall_ms: self.wall_ms,
            ..now
        };
        let mut turn = Turn {
            now,
            map,
            effects,
            hlc: &mut self.hlc,
            settings: &self.settings,
            node: self.node,
            last_txn: &mut self.last_txn,
            last_call: &mut self.last_call,
            calls: &mut self.calls,
            keeping: &mut self.keeping,
        };
        match event {
            Event::Run { ticket, script } => {
                let txn = turn.new_txn();
                let mut run = Run::of_script(txn, ticket, script, now.monotonic);
                run.begin(&mut turn);
                self.keep(txn, run);
            }
            Event::Begin {
                ticket,
                begin,
                again,
            } => {
                if let Some(session) = begin_session(&mut turn, ticket, begin, again) {
                    self.sessions.insert(ticket, session);
                }
            }
            Event::Watch { ticket, keys } => {
                let txn = turn.new_txn();
                let session = self
                    .sessions
                    .entry(ticket)
                    .or_insert_with(|| Session::watching(txn, now));
                session.watch(&mut turn, ticket, keys);
            }
            Event::Execute { ticket, command } => {
                let session = self.sessions.get_mut(&ticket);
                if let Some(session) = session.filter(|it| !it.is_over()) {
                    session.execute(&mut turn, ticket, command);
                }
            }
            Event::Commit { ticket } => {
                if let Some(session) = self.sessions.remove(&ticket)
                    && !session.is_over()
                    && let Some((txn, run)) = commit(&mut turn, ticket, session)
                {
                    self.keep(txn, run);
                }
            }
            Event::Token { ticket } => {
                let ended = Ended::Told(Reply::Bulk(turn.new_token()));
                turn.effects.push(Effect::Ended { ticket, ended });
            }
            Event::Status { ticket, token } => {
                let txn = turn.new_txn();
                let mut run = Run::of_question(txn, ticket, token, now.monotonic);
                run.begin(&mut turn);
                self.keep(txn, run);
            }
            Event::Drop { ticket } => {
                if let Some(mut session) = self.sessions.remove(&ticket) {
                    session.release(&mut turn, ticket);
                }
            }
            Event::Answered { call, outcome } => match turn.calls.remove(&call) {
                None => {}
                Some(Owner::Run(txn)) => {
                    if let Some(mut run) = self.runs.remove(&txn) {
                        run.answered(&mut turn, call, outcome);
                        self.keep(txn, run);
                    }
                }
                Some(Owner::Session(ticket)) => {
                    if let Some(session) = self.sessions.get_mut(&ticket) {
                        session.answered(&mut turn, ticket, call, outcome);
                    }
                }
            },
            Event::Tick => tick(&mut turn, &mut self.runs, &mut self.sessions),
        }
    }

    fn keep(&mut self, txn: TxnId, run: Run) {
        if !run.is_over() {
            self.runs.insert(txn, run);
        }
    }

    /// The clock, for outgoing frames.
    pub fn hlc(&self) -> Version {
        self.hlc.last()
    }

    /// Merges a peer's clock, from a response.
    pub fn merge_hlc(&mut self, seen: Version) {
        self.hlc.merge(seen);
    }

    /// Transactions that are not over.
    pub fn active(&self) -> usize {
        self.runs.len() + self.sessions.len()
    }
}

/// Goes on with what has waited for long enough, and forgets what is over.
fn tick(
    turn: &mut Turn,
    runs: &mut BTreeMap<TxnId, Run>,
    sessions: &mut BTreeMap<Ticket, Session>,
) {
    sessions.retain(|_, session| !session.is_over());
    for run in runs.values_mut() {
        run.tick(turn);
    }
    runs.retain(|_, run| !run.is_over());
    sessions.retain(|ticket, session| !session.tick(turn, *ticket));
    turn.calls.retain(|_, owner| match owner {
        Owner::Run(txn) => runs.contains_key(txn),
        Owner::Session(ticket) => sessions.contains_key(ticket),
    });
    keep_the_past(turn, sessions);
}

/// Tells all shards the lowest version that somebody reads at, so that it is not collected.
fn keep_the_past(turn: &mut Turn, sessions: &BTreeMap<Ticket, Session>) {
    let readers = sessions.iter();
    let readers = readers.filter_map(|(ticket, session)| Some((session.at()?, *ticket)));
    let Some((at, ticket)) = readers.min() else {
        return;
    };
    // An older one than they know of cannot wait.
    if turn.monotonic() < turn.keeping.next && at >= turn.keeping.at {
        return;
    }
    let next = Micros(turn.monotonic().0 + turn.settings.keep_every_us);
    *turn.keeping = Keeping { at, next };
    let shards: Vec<_> = turn
        .map
        .descriptors()
        .map(|it| (it.shard, it.epoch))
        .collect();
    for shard in shards {
        turn.call_shard(Owner::Session(ticket), shard, TxnRequest::Keep { at });
    }
}

/// Commits an interactive transaction; of one of the past there is nothing to commit.
fn commit(turn: &mut Turn, ticket: Ticket, session: Session) -> Option<(TxnId, Run)> {
    if session.at().is_some() {
        let ended = Ended::Replies(Vec::new());
        turn.effects.push(Effect::Ended { ticket, ended });
        return None;
    }
    let mut run = Run::of_session(ticket, session, turn.monotonic());
    run.begin(turn);
    Some((run.txn(), run))
}

/// Begins an interactive transaction; one of the past is answered with its version.
fn begin_session(
    turn: &mut Turn,
    ticket: Ticket,
    begin: Begin,
    again: Option<Again>,
) -> Option<Session> {
    // Nothing that a client of this gateway has seen is newer.
    let newest = turn.hlc.read(turn.now.wall_ms);
    let at = match begin.reads {
        ReadMode::Latest => None,
        ReadMode::Snapshot => Some(newest),
        ReadMode::SnapshotAt(version) => Some(Version(version)),
    };
    if let Some(at) = at {
        if at > newest {
            let message = "the version lies in the future; nothing was begun";
            let ended = Ended::Failed(Reply::err(message));
            turn.effects.push(Effect::Ended { ticket, ended });
            return None;
        }
        let reply = Reply::Integer(i64::try_from(at.0).unwrap_or(i64::MAX));
        turn.effects.push(Effect::Reply { ticket, reply });
    }
    let fresh = turn.new_txn();
    let age = again.map_or(fresh.age, |again| again.age);
    let txn = TxnId { age, ..fresh };
    let restarts = again.map_or(0, |again| again.restarts);
    let mut session = Session::new(begin, txn, at, turn.monotonic());
    session.has_lost(restarts);
    Some(session)
}

/// The name of an attempt.
fn attempt_of(txn: TxnId, attempt: u32) -> AttemptId {
    AttemptId { txn, attempt }
}
