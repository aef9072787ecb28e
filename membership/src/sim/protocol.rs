//! What a protocol must be to run here.
//!
//! A node is a state machine without I/O: it is given an [`Input`] and the time, and answers in an
//! [`Outbox`]. The simulator owns the clock, the network and the disk. Rapid, SWIM and the
//! heartbeats differ in nothing else, so that one scenario compares them.

use std::fmt::Debug;
use std::rc::Rc;

use super::scenario::Scenario;

/// How a node's first boot begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A member of the first configuration.
    Founder,
    /// Asks the seeds to let it in.
    Joiner,
}

/// One start of a process.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// The node's number.
    pub node: u32,
    /// Counts the starts on this data directory, from 1.
    pub count: u32,
    /// How it came to be at its first start.
    pub origin: Origin,
    /// Entropy for this boot.
    pub seed: u64,
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input<M> {
    /// A message arrived.
    Message {
        /// The sender's number.
        from: u32,
        /// What it sent.
        message: M,
    },
    /// The time last asked for by [`Outbox::wake_at`] has come.
    Wake,
    /// The write of this token is durable.
    Persisted(u64),
    /// The operator asks the node to leave.
    Leave,
}

/// A view that a node installed, or, for protocols without agreed views, a change of its own list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// Position in the sequence.
    pub seq: u64,
    /// Identifies the sequence up to here (agreed views) or the list (others).
    pub hash: u128,
    /// Members.
    pub size: u32,
    /// Members that the one before did not have.
    pub joined: Vec<u32>,
    /// Members of the one before that are gone.
    pub removed: Vec<u32>,
    /// Members that came back as a new incarnation in the same step.
    pub restarted: Vec<u32>,
    /// Taken over whole, without the step that led to it: a node's first.
    pub adopted: bool,
}

/// Something that a node says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// It stops serving.
    Suspended,
    /// It serves again.
    Resumed,
    /// It found itself removed.
    Removed,
    /// Something is wrong elsewhere.
    Alarm,
    /// It gives up.
    Halted,
}

/// The receivers of a message.
#[derive(Clone, Debug)]
pub enum To {
    /// One node.
    Node(u32),
    /// Each of these.
    Nodes(Rc<[u32]>),
}

pub(super) struct Sent<M> {
    pub to: To,
    pub message: M,
    pub bytes: u32,
}

/// What a node wants done. The simulator empties it after each step.
pub struct Outbox<M, R> {
    pub(super) sends: Vec<Sent<M>>,
    pub(super) wake_us: Option<u64>,
    pub(super) writes: Vec<(u64, R)>,
    pub(super) written: Vec<R>,
    pub(super) installs: Vec<Install>,
    pub(super) notes: Vec<(Note, String)>,
    pub(super) stopped: bool,
}

impl<M, R> Outbox<M, R> {
    /// An empty one.
    pub fn new() -> Self {
        Outbox {
            sends: Vec::new(),
            wake_us: None,
            writes: Vec::new(),
            written: Vec::new(),
            installs: Vec::new(),
            notes: Vec::new(),
            stopped: false,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.sends.is_empty()
            && self.wake_us.is_none()
            && self.installs.is_empty()
            && self.writes.is_empty()
            && self.written.is_empty()
            && self.notes.is_empty()
            && !self.stopped
    }

    /// Sends a message of `bytes` bytes of payload to one node.
    #[inline]
    pub fn send(&mut self, to: u32, message: M, bytes: u32) {
        self.sends.push(Sent {
            to: To::Node(to),
            message,
            bytes,
        });
    }

    /// Sends the same message to several nodes.
    #[inline]
    pub fn send_all(&mut self, to: Rc<[u32]>, message: M, bytes: u32) {
        self.sends.push(Sent {
            to: To::Nodes(to),
            message,
            bytes,
        });
    }

    /// Asks for [`Input::Wake`] at that time, in place of any time asked for before; `u64::MAX` means never.
    #[inline]
    pub fn wake_at(&mut self, at_us: u64) {
        self.wake_us = Some(at_us);
    }

    /// Writes durably; [`Input::Persisted`] with `token` follows unless the node crashes.
    pub fn persist(&mut self, token: u64, record: R) {
        self.writes.push((token, record));
    }

    /// What a disk holds from the beginning.
    pub fn persist_at_once(&mut self, record: R) {
        self.written.push(record);
    }

    /// Says something. The first few of a kind are kept in words.
    pub fn note(&mut self, note: Note, words: impl FnOnce() -> String) {
        self.notes.push((note, words()));
    }

    /// Reports a view.
    pub fn install(&mut self, install: Install) {
        self.installs.push(install);
    }

    /// The node has left, or gives up: it stops.
    pub fn stop(&mut self) {
        self.stopped = true;
    }
}

impl<M, R> Default for Outbox<M, R> {
    fn default() -> Self {
        Outbox::new()
    }
}

/// A membership protocol, as one node of it.
pub trait Protocol: Sized {
    /// What nodes send. Cloned once a receiver: big parts belong behind a shared pointer.
    type Message: Clone + Debug;
    /// One durable write.
    type Record;
    /// What a data directory holds.
    type Disk: Default;
    /// What the nodes of a run share: settings, caches.
    type Cluster;

    /// Prepares a run in which `founders` are the first configuration.
    fn cluster(scenario: &Scenario, founders: &[u32], seed: u64) -> Self::Cluster;

    /// A durable write reaches the disk.
    fn write(disk: &mut Self::Disk, record: Self::Record);

    /// A process starts on `disk`.
    fn boot(
        cluster: &mut Self::Cluster,
        boot: Boot,
        disk: &Self::Disk,
        now_us: u64,
        out: &mut Outbox<Self::Message, Self::Record>,
    ) -> Self;

    /// A message that changes only what the nodes share, and that its receiver need not be asked about; false if it is
    /// not one. Spares all-to-all protocols a look at each receiver. What it does, [`Protocol::step`] would do.
    #[inline]
    fn absorb(
        _cluster: &mut Self::Cluster,
        _now_us: u64,
        _from: u32,
        _to: u32,
        _message: &Self::Message,
    ) -> bool {
        false
    }

    /// Something happens to the node.
    fn step(
        &mut self,
        cluster: &mut Self::Cluster,
        now_us: u64,
        input: Input<Self::Message>,
        out: &mut Outbox<Self::Message, Self::Record>,
    );
}
