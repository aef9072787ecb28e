//! Faults: their names, and when they strike.
//!
//! A *strike* is one fault at one moment, for some time, with a number that its details (victims,
//! rates, amounts) are drawn from. So a plan stays the same when other strikes are taken out of it,
//! and a failing run can be shrunk.
//!
//! Some faults are *compound*: two or three things that go wrong one after the other, to the same
//! victim. What a promise protects from is often such a sequence ("the leader is stopped, the others
//! elect another one, it goes on and does not know"), and single faults hit upon it too rarely.

#[cfg(madsim)]
mod compound;
#[cfg(madsim)]
mod order;
pub(crate) mod partition;
#[cfg(madsim)]
mod strike;

use rand::Rng;
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
    /// A shard is merged with the next one in key order.
    Merge,
    /// A shard gets learners, on nodes that have no replica of it.
    Learner,
    /// The leader of a shard dies.
    KillLeader,
    /// The nodes are started again, one after another.
    RollingRestart,
    /// A machine loses its disk, and comes back as a new node.
    Replace,
    /// A shard's leader is stopped and cut off; it goes on, still cut off; then it is joined again.
    FreezeLeader,
    /// A leader hands over, and is long the last one to hear of it.
    DeafTransfer,
    /// The answers to a leader are slow; then nobody hears it any more.
    SlowAnswers,
    /// One follower loses the leader; then all lose it, and the others are started again.
    RestartVoters,
    /// All disks are slow when a leader is lost.
    SlowSuccession,
    /// Messages take very long, and nodes are started again before they arrive.
    ElectionStorm,
    /// A shard gets learners; then its leader is left with nobody else.
    LeftWithLearners,
    /// What one gateway asks of a leader, or what that answers, takes long; then, sometimes, the leader's
    /// own group does not hear it any more, and those that ask it still do.
    SlowRequests,
    /// A node leaves the cluster for good, and its machine comes back as a new node.
    Leave,
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
        Fault::Merge,
        Fault::Learner,
        Fault::KillLeader,
        Fault::RollingRestart,
        Fault::Replace,
        Fault::FreezeLeader,
        Fault::DeafTransfer,
        Fault::SlowAnswers,
        Fault::RestartVoters,
        Fault::SlowSuccession,
        Fault::ElectionStorm,
        Fault::LeftWithLearners,
        Fault::SlowRequests,
        Fault::Leave,
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
            Fault::Merge => "merge",
            Fault::Learner => "learner",
            Fault::KillLeader => "kill-leader",
            Fault::RollingRestart => "rolling-restart",
            Fault::Replace => "replace",
            Fault::FreezeLeader => "freeze-leader",
            Fault::DeafTransfer => "deaf-transfer",
            Fault::SlowAnswers => "slow-answers",
            Fault::RestartVoters => "restart-voters",
            Fault::SlowSuccession => "slow-succession",
            Fault::ElectionStorm => "election-storm",
            Fault::LeftWithLearners => "left-with-learners",
            Fault::SlowRequests => "slow-requests",
            Fault::Leave => "leave",
        }
    }
}

impl Fault {
    /// Whether it is an order to the cluster, not a misfortune.
    pub fn is_order(self) -> bool {
        matches!(
            self,
            Fault::Transfer | Fault::Move | Fault::Split | Fault::Merge | Fault::Learner
        )
    }

    /// Whether it is a sequence of faults.
    pub fn is_compound(self) -> bool {
        matches!(
            self,
            Fault::RollingRestart
                | Fault::FreezeLeader
                | Fault::DeafTransfer
                | Fault::SlowAnswers
                | Fault::RestartVoters
                | Fault::SlowSuccession
                | Fault::ElectionStorm
                | Fault::LeftWithLearners
                | Fault::SlowRequests
        )
    }

    /// Whether it leaves wall clocks wrong.
    pub fn bends_wall_clocks(self) -> bool {
        matches!(self, Fault::ClockJump | Fault::ClockStrobe)
    }

    /// How often it does something again while it lasts, if it does.
    pub fn beat_ms(self) -> Option<u64> {
        match self {
            Fault::FlipFlop | Fault::ClockStrobe => Some(150),
            Fault::ElectionStorm => Some(250),
            Fault::RollingRestart => Some(700),
            _ => None,
        }
    }

    /// When a compound fault takes its turn for the worse, in parts of a hundred of its time.
    pub fn turn_percent(self) -> Option<u64> {
        match self {
            Fault::FreezeLeader | Fault::RestartVoters => Some(65),
            Fault::SlowAnswers => Some(40),
            Fault::SlowSuccession => Some(30),
            Fault::LeftWithLearners => Some(60),
            Fault::SlowRequests => Some(45),
            _ => None,
        }
    }

    /// How long it lasts. Most faults are over before the membership removes anybody: a node that was
    /// removed while it lived stays away for a minute, and shows little in that time.
    pub fn lasts_ms(self, rng: &mut impl Rng) -> u64 {
        match self {
            Fault::FreezeLeader => rng.random_range(1_600..3_600),
            Fault::DeafTransfer => rng.random_range(500..2_500),
            Fault::SlowAnswers => rng.random_range(2_000..3_600),
            Fault::RestartVoters => rng.random_range(1_800..3_200),
            Fault::SlowSuccession
            | Fault::ElectionStorm
            | Fault::RollingRestart
            | Fault::SlowRequests => rng.random_range(2_500..5_000),
            // Until a view without it is agreed on.
            Fault::Leave => rng.random_range(2_000..4_000),
            Fault::LeftWithLearners => rng.random_range(3_000..5_000),
            Fault::KillOne | Fault::KillLeader | Fault::KillMinority if rng.random_bool(0.4) => {
                rng.random_range(1..150)
            }
            _ if rng.random_bool(0.75) => rng.random_range(100..1_500),
            _ => rng.random_range(1_500..5_000),
        }
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

impl Strike {
    /// When it is over, since the clients began.
    pub(crate) fn end_ms(&self) -> u64 {
        self.at_ms + self.for_ms.max(1)
    }
}
