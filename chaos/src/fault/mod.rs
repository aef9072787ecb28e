//! Faults: their names, and when they strike.
//!
//! A *strike* is one fault at one moment, for some time, with a number that its details (victims,
//! rates, amounts) are drawn from. So a plan stays the same when other strikes are taken out of it,
//! and a failing run can be shrunk.

#[cfg(madsim)]
mod order;
#[cfg(madsim)]
mod strike;

use serde::{Deserialize, Serialize};

#[cfg(madsim)]
pub use self::strike::Strikes;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A process dies; its machine lives on.
    KillOne,
    /// As many processes die as leave a majority.
    KillMinority,
    /// A majority of the processes dies.
    KillMajority,
    /// All processes die.
    KillAll,
    /// A machine loses its power: of what was not synced, any part survives.
    PowerOne,
    /// All machines lose their power.
    PowerAll,
    /// A process stops for longer than a lease, and goes on.
    Pause,
    /// The nodes fall into two halves.
    Halves,
    /// Each node reaches its two neighbours only.
    Ring,
    /// One node reaches nobody.
    Isolate,
    /// The node that leads reaches nobody.
    IsolateLeader,
    /// One node hears nothing, or is not heard.
    OneWay,
    /// Two halves that only one node in the middle reaches.
    Bridge,
    /// One node comes and goes, many times.
    FlipFlop,
    /// Links lose frames.
    Loss,
    /// Links are slow, each frame by its own time: later ones overtake.
    Delay,
    /// Links deliver frames twice.
    Duplicate,
    /// A wall clock jumps.
    ClockJump,
    /// A wall clock jumps back and forth, many times.
    ClockStrobe,
    /// A clock runs too fast or too slow, within what leases allow for.
    ClockDrift,
    /// A sync fails with an I/O error, and its pages are lost silently.
    SyncError,
    /// A disk is full.
    DiskFull,
    /// A disk takes long.
    DiskSlow,
    /// Bits of the log turn over, on one machine only.
    LogRot,
    /// A shard's leader is told to hand over to another replica.
    Transfer,
    /// A replica moves to another node.
    Move,
    /// A shard splits at a key of the workload.
    Split,
}

impl Fault {
    /// All of them.
    pub const ALL: &[Fault] = &[
        Fault::KillOne,
        Fault::KillMinority,
        Fault::KillMajority,
        Fault::KillAll,
        Fault::PowerOne,
        Fault::PowerAll,
        Fault::Pause,
        Fault::Halves,
        Fault::Ring,
        Fault::Isolate,
        Fault::IsolateLeader,
        Fault::OneWay,
        Fault::Bridge,
        Fault::FlipFlop,
        Fault::Loss,
        Fault::Delay,
        Fault::Duplicate,
        Fault::ClockJump,
        Fault::ClockStrobe,
        Fault::ClockDrift,
        Fault::SyncError,
        Fault::DiskFull,
        Fault::DiskSlow,
        Fault::LogRot,
        Fault::Transfer,
        Fault::Move,
        Fault::Split,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillOne => "kill-one",
            Fault::KillMinority => "kill-minority",
            Fault::KillMajority => "kill-majority",
            Fault::KillAll => "kill-all",
            Fault::PowerOne => "power-one",
            Fault::PowerAll => "power-all",
            Fault::Pause => "pause",
            Fault::Halves => "halves",
            Fault::Ring => "ring",
            Fault::Isolate => "isolate",
            Fault::IsolateLeader => "isolate-leader",
            Fault::OneWay => "one-way",
            Fault::Bridge => "bridge",
            Fault::FlipFlop => "flip-flop",
            Fault::Loss => "loss",
            Fault::Delay => "delay",
            Fault::Duplicate => "duplicate",
            Fault::ClockJump => "clock-jump",
            Fault::ClockStrobe => "clock-strobe",
            Fault::ClockDrift => "clock-drift",
            Fault::SyncError => "sync-error",
            Fault::DiskFull => "disk-full",
            Fault::DiskSlow => "disk-slow",
            Fault::LogRot => "log-rot",
            Fault::Transfer => "transfer",
            Fault::Move => "move",
            Fault::Split => "split",
        }
    }
}

impl Fault {
    /// Whether it is an order to the cluster, not a misfortune.
    pub fn is_order(self) -> bool {
        matches!(self, Fault::Transfer | Fault::Move | Fault::Split)
    }

    /// Whether it comes and goes while it lasts.
    pub fn beats(self) -> bool {
        matches!(self, Fault::FlipFlop | Fault::ClockStrobe)
    }
}

/// One fault at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// When, since the clients began.
    pub at_ms: u64,
    /// For how long.
    pub for_ms: u64,
    /// What.
    pub fault: Fault,
    /// What victims and amounts are drawn from.
    pub draw: u64,
}
