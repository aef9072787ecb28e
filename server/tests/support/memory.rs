//! A gateway for tests of the edge: one map, no cluster, and a gate that holds its replies back.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use synod::edge::session::{Session, Sessions, Submission};
use synod_txn::{Command, ErrorCode, Reply, TransactionCommand};
use tokio::sync::Notify;

/// The gateway. Clones share it.
#[derive(Clone, Default)]
pub struct Memory(Arc<State>);

#[derive(Default)]
struct State {
    data: Mutex<BTreeMap<Bytes, Bytes>>,
    held: AtomicBool,
    changed: Notify,
    in_flight_max: AtomicUsize,
}

#[allow(dead_code, reason = "the example needs less than the tests")]
impl Memory {
    /// Holds all replies back.
    pub fn hold(&self) {
        self.0.held.store(true, Ordering::SeqCst);
    }

    /// Lets them go.
    pub fn release(&self) {
        self.0.held.store(false, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }

    /// The most submissions of one session that ever waited for replies.
    pub fn in_flight_max(&self) -> usize {
        self.0.in_flight_max.load(Ordering::SeqCst)
    }
}

impl Sessions for Memory {
    type Session = MemorySession;

    fn open(&self, _: SocketAddr) -> MemorySession {
        MemorySession {
            memory: self.clone(),
            own: Mutex::default(),
            ready: Notify::new(),
        }
    }
}

pub struct MemorySession {
    memory: Memory,
    own: Mutex<Own>,
    ready: Notify,
}

#[derive(Default)]
struct Own {
    replies: VecDeque<Reply>,
    multi: Option<Multi>,
}

#[derive(Default)]
struct Multi {
    queued: Vec<Submission>,
    failed: bool,
}

impl Session for MemorySession {
    fn submit(&self, batch: Vec<Submission>) {
        let mut own = self.own.lock().expect("no panic holds it");
        let mut data = self.memory.0.data.lock().expect("no panic holds it");
        for submission in batch {
            let reply = own.answer(submission, &mut data);
            own.replies.push_back(reply);
        }
        self.memory
            .0
            .in_flight_max
            .fetch_max(own.replies.len(), Ordering::SeqCst);
        self.ready.notify_one();
    }

    async fn replies(&self) -> Option<Vec<Reply>> {
        loop {
            let released = self.memory.0.changed.notified();
            if !self.memory.0.held.load(Ordering::SeqCst) {
                let mut own = self.own.lock().expect("no panic holds it");
                if !own.replies.is_empty() {
                    return Some(own.replies.drain(..).collect());
                }
            }
            tokio::select! {
                biased;
                () = self.ready.notified() => {}
                () = released => {}
            }
        }
    }

    async fn ready_for_more(&self) {}
}

impl Own {
    fn answer(&mut self, submission: Submission, data: &mut BTreeMap<Bytes, Bytes>) -> Reply {
        if let Submission::Reset(reply) = submission {
            self.multi = None;
            return reply;
        }
        if let Submission::Command(Command::Transaction(step)) = &submission {
            return self.step(step, data);
        }
        match &mut self.multi {
            None => execute(submission, data),
            Some(multi) => match submission {
                Submission::Immediate(reply) if reply.is_error() => {
                    multi.failed = true;
                    reply
                }
                queued => {
                    multi.queued.push(queued);
                    Reply::Status("QUEUED".into())
                }
            },
        }
    }

    fn step(&mut self, step: &TransactionCommand, data: &mut BTreeMap<Bytes, Bytes>) -> Reply {
        match (step, self.multi.take()) {
            (TransactionCommand::Multi, None) => {
                self.multi = Some(Multi::default());
                Reply::Ok
            }
            (TransactionCommand::Exec, Some(Multi { failed: true, .. })) => Reply::error(
                ErrorCode::ExecAbort,
                "Transaction discarded because of previous errors.",
            ),
            (TransactionCommand::Exec, Some(multi)) => Reply::Array(
                multi
                    .queued
                    .into_iter()
                    .map(|queued| execute(queued, data))
                    .collect(),
            ),
            (TransactionCommand::Discard, Some(_)) => Reply::Ok,
            _ => Reply::err("not in the fake"),
        }
    }
}

fn execute(submission: Submission, data: &mut BTreeMap<Bytes, Bytes>) -> Reply {
    let command = match submission {
        Submission::Immediate(reply) | Submission::Reset(reply) => return reply,
        Submission::Command(command) => command,
    };
    match command {
        Command::Get { key } => Reply::bulk_or_null(data.get(&key).cloned()),
        Command::MGet { keys } => {
            let value = |key: &Bytes| Reply::bulk_or_null(data.get(key).cloned());
            Reply::Array(keys.iter().map(value).collect())
        }
        Command::Set(set) => {
            data.insert(set.key, Bytes::copy_from_slice(&set.value));
            Reply::Ok
        }
        Command::Append { key, value } => {
            let mut text = data.remove(&key).unwrap_or_default().to_vec();
            text.extend_from_slice(&value);
            let length = text.len() as i64;
            data.insert(key, text.into());
            Reply::Integer(length)
        }
        _ => Reply::err("not in the fake"),
    }
}
