//! Policies and explanations: the answers of `SYNOD POLICY …` and `SYNOD EXPLAIN …`.
//!
//! ```text
//! SYNOD POLICY LIST                     the set in force
//! SYNOD POLICY SHOW name                the statements of one policy
//! SYNOD POLICY HISTORY                  the sets before
//! SYNOD POLICY CHECK name sql           may it be put in force? Nothing is changed
//! SYNOD POLICY PREVIEW name sql         what would move? Nothing is changed
//! SYNOD POLICY APPLY name sql [FORCE]   put it in force, in the place of the one of that name
//! SYNOD POLICY DROP name [FORCE]
//! SYNOD POLICY ROLLBACK version [FORCE]
//! SYNOD EXPLAIN [KEY key | SHARD n | word]
//! ```
//!
//! Only the node with the controller answers: it has the rows. The thinking is done on a thread. A set is written as
//! one row of the system shard, whose generation is the set's version: of two writes of the same version the first
//! stays, so that a change is answered as made only when the row, as applied here, is the one that was written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use synod_placement::constraints;
use synod_storage::ShardId;
use synod_txn::{ErrorCode, Now, Reply};
use tracing::info;

use super::turn::{Effects, Node};
use crate::controller::policies::Edit;
use crate::controller::records::{POLICIES, Policies, read, stored};
use crate::controller::review::{self, Admission, Explained, Finding, Review, Reviewed, What};
use crate::controller::tables::all_rows;
use crate::controller::worker::{Worker, budget};
use crate::gateway::Asked;

/// How long one question is thought about. Admission that is not done by then is not proved.
const THINKING: Duration = Duration::from_secs(60);
/// How long the row of a set may take to be applied.
const WRITING_US: u64 = 30_000_000;
/// Questions that wait.
const WAITING_MAX: usize = 64;

const USAGE: &str = "SYNOD POLICY LIST | SHOW name | HISTORY | CHECK|PREVIEW name sql | \
    APPLY name sql [FORCE] | DROP name [FORCE] | ROLLBACK version [FORCE]";
const ELSEWHERE: &str =
    "this node does not place replicas: ask the one that `synod status` calls controller";

/// What is done with a set when it has been reviewed.
#[derive(Debug)]
enum Then {
    /// The finding is told.
    Tell,
    /// It is put in force: if it is admitted, or whatever speaks against it.
    Apply { set: Policies, admission: Needed },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    Admitted,
    Forced,
}

/// A set on its way into the system shard.
#[derive(Debug)]
struct Writing {
    asked: Asked,
    set: Policies,
    value: Bytes,
    admission: Admission,
    deadline_us: u64,
}

/// Questions under way.
#[derive(Default)]
pub(super) struct Reviews {
    worker: Option<Worker<Review, Reviewed>>,
    waiting: BTreeMap<u64, (Asked, Then)>,
    writing: Vec<Writing>,
    next: u64,
}

impl Node {
    /// `SYNOD POLICY …`; an error, or what needs no thought, is answered at once.
    pub(super) fn policy(&mut self, asked: Asked, args: &[Bytes]) -> Option<Reply> {
        if self.control.active.is_none() {
            return Some(Reply::err(ELSEWHERE));
        }
        let present = self.policies();
        let words: Vec<&str> = match args.iter().map(|it| std::str::from_utf8(it)).collect() {
            Ok(words) => words,
            Err(_) => return Some(Reply::err("policies are UTF-8 text")),
        };
        let (verb, rest) = match words.split_first() {
            Some((verb, rest)) => (verb.to_ascii_uppercase(), rest),
            None => return Some(Reply::err(USAGE)),
        };
        let (rest, admission) = match rest.split_last() {
            Some((last, rest)) if !rest.is_empty() && last.eq_ignore_ascii_case("FORCE") => {
                (rest, Needed::Forced)
            }
            Some(_) | None => (rest, Needed::Admitted),
        };
        let (edit, preview) = match (verb.as_str(), rest) {
            ("LIST", []) => return Some(json_reply(&listed(&present))),
            ("HISTORY", []) => return Some(json_reply(&history(&present))),
            ("SHOW", [name]) => return Some(shown(&present, name)),
            ("CHECK" | "PREVIEW" | "APPLY", [name, sql]) => {
                let (name, sql) = ((*name).to_owned(), (*sql).to_owned());
                (Edit::Apply { name, sql }, verb == "PREVIEW")
            }
            ("DROP", [name]) => (Edit::Drop((*name).to_owned()), false),
            ("ROLLBACK", [version]) => match version.parse() {
                Ok(version) => (Edit::Rollback(version), false),
                Err(_) => return Some(Reply::err("a version is a number")),
            },
            _ => return Some(Reply::err(USAGE)),
        };
        let set = match present.edited(&edit) {
            Ok(set) => set,
            Err(why) => return Some(Reply::err(why)),
        };
        let (what, then) = match (preview, verb.as_str()) {
            (true, _) => (What::Preview(set), Then::Tell),
            (false, "CHECK") => (What::Admit(set), Then::Tell),
            (false, _) => (What::Admit(set.clone()), Then::Apply { set, admission }),
        };
        self.review(asked, what, then)
    }

    /// `SYNOD EXPLAIN …`.
    pub(super) fn explain(&mut self, asked: Asked, args: &[Bytes]) -> Option<Reply> {
        if self.control.active.is_none() {
            return Some(Reply::err(ELSEWHERE));
        }
        let shard = match self.explained_shard(args) {
            Ok(shard) => shard,
            Err(why) => return Some(Reply::err(why)),
        };
        self.review(asked, What::Explain(shard), Then::Tell)
    }

    /// The shard that is meant: a number that is a shard's, or a key.
    fn explained_shard(&self, args: &[Bytes]) -> Result<ShardId, String> {
        let number = |word: &Bytes| -> Option<ShardId> {
            let id = ShardId(std::str::from_utf8(word).ok()?.parse().ok()?);
            self.directory.shard(id).map(|_| id)
        };
        let of_key = |key: &Bytes| {
            let found = self.gateway.map().locate(key);
            found.map(|descriptor| descriptor.shard)
        };
        let unknown = |word: &Bytes| format!("no shard is known for '{}'", word.escape_ascii());
        match args {
            [word] => number(word)
                .or_else(|| of_key(word))
                .ok_or_else(|| unknown(word)),
            [how, word] if how.eq_ignore_ascii_case(b"KEY") => {
                of_key(word).ok_or_else(|| unknown(word))
            }
            [how, word] if how.eq_ignore_ascii_case(b"SHARD") => {
                number(word).ok_or_else(|| unknown(word))
            }
            _ => Err("SYNOD EXPLAIN key | shard | KEY key | SHARD number".to_owned()),
        }
    }

    /// The set in force.
    pub(super) fn policies(&self) -> Policies {
        let row = self.directory.row(POLICIES.as_bytes());
        row.and_then(|row| read(&row.value)).unwrap_or_default()
    }

    /// Asks the thread.
    fn review(&mut self, asked: Asked, what: What, then: Then) -> Option<Reply> {
        let Some(active) = &self.control.active else {
            return Some(Reply::err(ELSEWHERE));
        };
        let reviews = &self.control.reviews;
        if reviews.waiting.len() + reviews.writing.len() >= WAITING_MAX {
            let message = "too many questions on policies are under way; nothing was done";
            return Some(Reply::error(ErrorCode::TryAgain, message));
        }
        let cluster = active.controller.cluster();
        let review = Review {
            id: self.control.reviews.next,
            rows: all_rows(cluster),
            weights: cluster
                .shards
                .iter()
                .map(|(id, shard)| (*id, shard.load.bytes))
                .collect(),
            present: self.policies(),
            what,
            seed: active.controller.plan().0.plan,
        };
        let reviews = &mut self.control.reviews;
        if reviews.worker.is_none() {
            match start() {
                Ok(worker) => reviews.worker = Some(worker),
                Err(error) => return Some(Reply::err(format!("no thread for it: {error}"))),
            }
        }
        let id = review.id;
        reviews.next += 1;
        let heard = reviews.worker.as_ref().is_some_and(|it| it.ask(id, review));
        if !heard {
            reviews.worker = None;
            return Some(Reply::error(
                ErrorCode::TryAgain,
                "the thread has ended; nothing was done",
            ));
        }
        reviews.waiting.insert(id, (asked, then));
        None
    }

    /// Takes in what was thought, and what was written.
    pub(super) fn tick_reviews(&mut self, now: Now, effects: &mut Effects) {
        let reviews = &mut self.control.reviews;
        let mut done = Vec::new();
        let mut ended = None;
        while let Some(worker) = &reviews.worker {
            match worker.answer() {
                Ok(Some(reviewed)) => done.push(reviewed),
                Ok(None) => break,
                Err(why) => {
                    reviews.worker = None;
                    ended = Some(why);
                }
            }
        }
        if let Some(why) = ended {
            for (asked, _) in std::mem::take(&mut reviews.waiting).into_values() {
                self.answer(
                    now,
                    asked,
                    Reply::err(format!("{why}; nothing was done")),
                    effects,
                );
            }
        }
        for reviewed in done {
            let Some((asked, then)) = self.control.reviews.waiting.remove(&reviewed.id) else {
                continue;
            };
            if let Some(reply) = self.reviewed(now, &asked, then, reviewed.outcome) {
                self.answer(now, asked, reply, effects);
            }
        }
        self.written_policies(now, effects);
    }

    /// What follows from a finding. `None`: the answer comes later.
    fn reviewed(
        &mut self,
        now: Now,
        asked: &Asked,
        then: Then,
        outcome: Result<Finding, String>,
    ) -> Option<Reply> {
        let finding = match outcome {
            Ok(finding) => finding,
            Err(why) => return Some(Reply::err(why)),
        };
        Some(match (finding, then) {
            (
                Finding::Admission(admission),
                Then::Apply {
                    set,
                    admission: needed,
                },
            ) => {
                return self.put_in_force(now, asked, set, needed, admission);
            }
            (Finding::Admission(admission), Then::Tell) => json_reply(&json!(admission)),
            (Finding::Preview(preview), _) => json_reply(&json!(preview)),
            (Finding::Explained(explained), _) => json_reply(&json!(self.with_moves(explained))),
        })
    }

    fn put_in_force(
        &mut self,
        now: Now,
        asked: &Asked,
        mut set: Policies,
        needed: Needed,
        admission: Admission,
    ) -> Option<Reply> {
        let accepted = admission.verdict == "accepted";
        if !accepted && needed == Needed::Admitted {
            return Some(json_reply(&changed(false, &set, &admission)));
        }
        if self.control.active.is_none() || self.policies().version + 1 != set.version {
            let message = "the policies were changed meanwhile; nothing was done";
            return Some(Reply::error(ErrorCode::TryAgain, message));
        }
        if !accepted {
            set.forced = admission
                .findings
                .iter()
                .flat_map(|against| &against.conflict)
                .cloned()
                .collect();
            if set.forced.is_empty() {
                set.forced = vec![format!("it was {}", admission.verdict)];
            }
        }
        let Some(value) = stored(&set) else {
            return Some(Reply::err(
                "the policies cannot be stored; nothing was done",
            ));
        };
        let key = Bytes::from_static(POLICIES.as_bytes());
        if !self.write_row(now, key, set.version, Some(value.clone())) {
            let message = "too much waits for the system shard; nothing was done";
            return Some(Reply::error(ErrorCode::TryAgain, message));
        }
        info!(
            version = set.version,
            forced = !accepted,
            "policies: {}",
            set.change
        );
        self.control.reviews.writing.push(Writing {
            asked: *asked,
            set,
            value,
            admission,
            deadline_us: now.monotonic.0 + WRITING_US,
        });
        None
    }

    /// Answers for the sets that are applied here by now, or never will be.
    fn written_policies(&mut self, now: Now, effects: &mut Effects) {
        for writing in std::mem::take(&mut self.control.reviews.writing) {
            let row = self.directory.row(POLICIES.as_bytes());
            let there = row.filter(|row| row.generation >= writing.set.version);
            let reply = match there {
                Some(row) if row.value == writing.value => {
                    json_reply(&changed(true, &writing.set, &writing.admission))
                }
                // Another one came first, or after it.
                Some(row) if row.generation == writing.set.version => Reply::error(
                    ErrorCode::TryAgain,
                    "the policies were changed meanwhile; nothing was done",
                ),
                Some(_) => Reply::error(
                    ErrorCode::Unknown,
                    "the policies were changed again: look at `synod policy history`",
                ),
                None if now.monotonic.0 < writing.deadline_us => {
                    self.control.reviews.writing.push(writing);
                    continue;
                }
                None => Reply::error(
                    ErrorCode::Unknown,
                    "the system shard did not answer in time: look at `synod policy list`",
                ),
            };
            self.answer(now, writing.asked, reply, effects);
        }
    }

    /// An explanation with what the plan says of the shard.
    fn with_moves(&self, mut explained: Explained) -> Explained {
        let Some(active) = &self.control.active else {
            return explained;
        };
        explained.moving = active.controller.on_its_way(ShardId(explained.shard));
        explained
    }
}

fn start() -> std::io::Result<Worker<Review, Reviewed>> {
    Worker::start("synod-review", || {
        |review: Review, abort: &mut dyn FnMut() -> bool| {
            let begun = Instant::now();
            let mut late = || abort() || begun.elapsed() > THINKING;
            review::answer(review, &budget(), &mut late)
        }
    })
}

fn json_reply(value: &Value) -> Reply {
    match serde_json::to_vec(value) {
        Ok(json) => Reply::Bulk(json.into()),
        Err(error) => Reply::err(format!("cannot describe it: {error}")),
    }
}

fn changed(applied: bool, set: &Policies, admission: &Admission) -> Value {
    json!({
        "applied": applied, "version": set.version, "change": set.change, "forced": set.forced,
        "verdict": admission.verdict, "scenarios": admission.scenarios,
        "findings": admission.findings,
    })
}

fn listed(set: &Policies) -> Value {
    let policies = set.policies.iter().map(|policy| {
        let declared = constraints(&policy.sql).unwrap_or_default();
        json!({ "name": policy.name, "since": policy.since, "constraints": declared })
    });
    json!({
        "version": set.version, "change": set.change, "forced": set.forced,
        "policies": policies.collect::<Vec<_>>(),
    })
}

fn shown(set: &Policies, name: &str) -> Reply {
    match set.policies.iter().find(|policy| policy.name == name) {
        Some(policy) => Reply::Bulk(policy.sql.clone().into_bytes().into()),
        None => Reply::err(format!("no policy is called {name}")),
    }
}

fn history(set: &Policies) -> Value {
    let sets = std::iter::once(set).chain(&set.history).map(|set| {
        let names: Vec<&str> = set.policies.iter().map(|it| it.name.as_str()).collect();
        json!({
            "version": set.version, "change": set.change, "forced": set.forced, "policies": names,
        })
    });
    json!(sets.collect::<Vec<_>>())
}
