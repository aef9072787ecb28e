//! Workloads: what clients do, and which checker judges what they were told.
//!
//! A workload has a beginning (rows that must be there first), clients that work while the world
//! breaks, and an end (reads of what is left). The same code runs in the simulator and against real
//! processes: it knows sockets and a [`Recorder`], whose clock is the world's.

mod bank;
mod causal;
mod expiry;
mod internal;
mod list_append;
mod long_fork;
mod monotonic;
mod recorder;
mod register;
mod session;
mod set;
mod skew;
mod snapshot;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{self, Verdict};
use crate::history::{OBSERVER, Operation};
use crate::plan::Habit;

pub use self::recorder::Recorder;
pub use self::session::Session;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Reads, unique writes, deletes, conditional writes and swaps of single keys.
    Register,
    /// Additions and reads of single counters.
    Counter,
    /// Unique appends and reads of single lists.
    Append,
    /// Values that expire, and are written again.
    Expiry,
    /// Unique keys, inserted and read by ranges of one shard.
    Set,
    /// Counters that only grow, read one by one.
    Monotonic,
    /// Transactions of appends, points and ranges over shards.
    ListAppend,
    /// Transfers between accounts on different shards.
    Bank,
    /// Single writes, and groups that are read in one transaction.
    LongFork,
    /// Writes one after another on different shards, and reads of all of them.
    Causal,
    /// Counters on different shards, raised and read in one transaction.
    MonotonicMulti,
    /// Ranges that two transactions want to fill, each only if it is empty.
    WriteSkew,
    /// Transactions that read what they wrote.
    Internal,
    /// Transactions that are sent again under their name.
    Tokens,
    /// Transfers, and reads of all accounts at versions of the past.
    Snapshot,
}

impl Workload {
    /// All of them.
    pub const ALL: &[Workload] = &[
        Workload::Register,
        Workload::Counter,
        Workload::Append,
        Workload::Expiry,
        Workload::Set,
        Workload::Monotonic,
        Workload::ListAppend,
        Workload::Bank,
        Workload::LongFork,
        Workload::Causal,
        Workload::MonotonicMulti,
        Workload::WriteSkew,
        Workload::Internal,
        Workload::Tokens,
        Workload::Snapshot,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Register => "register",
            Workload::Counter => "counter",
            Workload::Append => "append",
            Workload::Expiry => "expiry",
            Workload::Set => "set",
            Workload::Monotonic => "monotonic",
            Workload::ListAppend => "list-append",
            Workload::Bank => "bank",
            Workload::LongFork => "long-fork",
            Workload::Causal => "causal",
            Workload::MonotonicMulti => "monotonic-multi",
            Workload::WriteSkew => "write-skew",
            Workload::Internal => "internal",
            Workload::Tokens => "tokens",
            Workload::Snapshot => "snapshot",
        }
    }

    /// Whether its values are lists of elements.
    pub fn has_lists(self) -> bool {
        match self {
            Workload::Append | Workload::ListAppend | Workload::Internal | Workload::Tokens => true,
            Workload::Register
            | Workload::Counter
            | Workload::Expiry
            | Workload::Set
            | Workload::Monotonic
            | Workload::Bank
            | Workload::Snapshot
            | Workload::LongFork
            | Workload::Causal
            | Workload::MonotonicMulti
            | Workload::WriteSkew => false,
        }
    }

    /// Whether each of its operations is one command about one key.
    pub fn is_of_single_keys(self) -> bool {
        match self {
            Workload::Register
            | Workload::Counter
            | Workload::Append
            | Workload::Expiry
            | Workload::Set
            | Workload::Monotonic => true,
            Workload::ListAppend
            | Workload::Bank
            | Workload::LongFork
            | Workload::Causal
            | Workload::MonotonicMulti
            | Workload::WriteSkew
            | Workload::Internal
            | Workload::Tokens
            | Workload::Snapshot => false,
        }
    }

    /// Judges a history of it.
    pub fn check(self, history: &[Operation]) -> Verdict {
        match self {
            Workload::Register | Workload::Counter | Workload::Expiry => {
                check::linearizable::check(history)
            }
            Workload::Append | Workload::ListAppend | Workload::Internal => {
                check::list_append::check(history)
            }
            Workload::Set => check::set::check(history),
            Workload::Monotonic | Workload::MonotonicMulti => check::monotonic::check(history),
            Workload::Bank | Workload::Snapshot => check::bank::check(history),
            Workload::LongFork => check::long_fork::check(history),
            Workload::Causal => check::causal::check(history),
            Workload::WriteSkew => check::skew::check(history),
            Workload::Tokens => check::tokens::check(history),
        }
    }

    /// Prepares the rows that the clients expect.
    pub async fn begin(self, observer: &mut Session) -> Result<(), String> {
        match self {
            Workload::Bank => bank::open(observer).await,
            Workload::Snapshot => snapshot::open(observer).await,
            Workload::Register
            | Workload::Counter
            | Workload::Append
            | Workload::Expiry
            | Workload::Set
            | Workload::Monotonic
            | Workload::ListAppend
            | Workload::LongFork
            | Workload::Causal
            | Workload::MonotonicMulti
            | Workload::WriteSkew
            | Workload::Internal
            | Workload::Tokens => Ok(()),
        }
    }

    /// Runs one client until the world's time is `until_us`.
    pub async fn work(self, mut session: Session, until_us: u64) {
        while session.now_us() < until_us {
            let answered = match self {
                Workload::Register => register::turn(&mut session).await,
                Workload::Counter | Workload::Monotonic => monotonic::turn(&mut session).await,
                Workload::Append => list_append::single(&mut session).await,
                Workload::Expiry => expiry::turn(&mut session).await,
                Workload::Set => set::turn(&mut session).await,
                Workload::ListAppend => list_append::transaction(&mut session).await,
                Workload::Bank => bank::turn(&mut session).await,
                Workload::LongFork => long_fork::turn(&mut session).await,
                Workload::Causal => causal::turn(&mut session).await,
                Workload::MonotonicMulti => monotonic::transaction(&mut session).await,
                Workload::WriteSkew => skew::turn(&mut session).await,
                Workload::Internal => internal::turn(&mut session).await,
                Workload::Tokens => tokens::turn(&mut session).await,
                Workload::Snapshot => snapshot::turn(&mut session).await,
            };
            session.rest(answered).await;
        }
    }

    /// Reads what is left, after the world has healed; fails if it is not served in time.
    pub async fn end(self, observer: &mut Session) -> Result<(), String> {
        match self {
            Workload::Set => set::read_all(observer).await,
            Workload::Bank | Workload::Snapshot => bank::read_all(observer).await,
            Workload::Register
            | Workload::Counter
            | Workload::Append
            | Workload::Expiry
            | Workload::Monotonic
            | Workload::ListAppend
            | Workload::LongFork
            | Workload::Causal
            | Workload::MonotonicMulti
            | Workload::WriteSkew
            | Workload::Internal
            | Workload::Tokens => observer.read_all_keys().await,
        }
    }
}

/// How the client of a world is made.
#[derive(Clone)]
pub struct Clients {
    /// Where the nodes are.
    pub addresses: Vec<String>,
    /// Where operations go.
    pub recorder: Arc<Recorder>,
    /// What all they do follows from.
    pub seed: u64,
}

impl Clients {
    /// The session of a client, by its number.
    pub fn session(&self, client: u32, habit: Habit) -> Session {
        let seed = self.seed.wrapping_mul(1000).wrapping_add(u64::from(client));
        Session::new(client, habit, seed, &self.addresses, self.recorder.clone())
    }

    /// The session of who sets up and looks at the end.
    pub fn observer(&self) -> Session {
        self.session(OBSERVER, Habit::USUAL)
    }
}

/// How long a healed world may take before it must serve.
///
/// A node that was removed while it lived shows a minute of clean links before it comes back.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Beginnings of keys, on several shards.
pub const PLACES: [&str; 7] = ["0", "9", "A", "M", "b", "k", "z"];

/// The `i`th of the keys that belong together under a name: neighbours are on different shards.
fn key(name: &str, i: usize) -> String {
    format!("{}{name}{i}", PLACES[i % PLACES.len()])
}
