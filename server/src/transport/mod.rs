//! Peer transport: how nodes talk.
//!
//! Between two nodes there are up to six one-way connections: each side dials the other once per
//! [`Class`] and only ever writes on what it dialled. So bulk data never delays a vote, a forwarded
//! request never delays a heartbeat, and losing one direction looks like losing one direction.
//!
//! Queues are bounded, in bytes. What a full queue means depends on the class, and the sender is
//! told at once: Raft repeats what it lost, the gateway answers its client, a snapshot waits.
//! Delivery is at most once and in order per connection; a broken connection loses what was in
//! flight, and says so with [`Inbound::Lost`].

mod dial;
mod faults;
mod frame;
mod hello;
mod listen;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use synod_membership::id::{Destination, Identity, NodeId};
use tokio::sync::mpsc;

pub use self::faults::{Fate, LinkFaults};
pub use self::frame::{Encodable, Frame, FrameError, Kind, begin, decode, encode, seal};
pub use self::hello::{CLASSES, Class, Refusal};

use self::dial::Dialer;
use self::hello::KnownBoots;

/// What the transport tells the node.
#[derive(Debug)]
pub enum Inbound {
    /// A frame came, checksum verified; the body is validated by [`decode`].
    Frame {
        /// The sender.
        peer: Identity,
        /// What the body is.
        kind: Kind,
        /// The body.
        body: Bytes,
    },
    /// The first connection to a peer stands: frames reach it from now on.
    Reached {
        /// Where.
        destination: Destination,
        /// Who answered.
        peer: Identity,
        /// For what.
        class: Class,
    },
    /// A connection broke, or could not be made; what was queued for it is gone.
    Lost {
        /// Where.
        destination: Destination,
        /// For what.
        class: Class,
        /// What is known of the other side.
        cause: Cause,
        /// What became of the frames that were taken since the last time.
        delivery: Delivery,
    },
    /// A node called that may not talk to this one, and was told so.
    TurnedAway {
        /// From where.
        address: IpAddr,
        /// Why.
        refusal: Refusal,
    },
    /// A connection from a peer ended.
    Closed {
        /// Whose.
        peer: Identity,
        /// For what.
        class: Class,
    },
}

/// Bounds of the transport, all per connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes queued for one destination and class before `send` refuses.
    pub queue_bytes_max: usize,
    /// Connections accepted at once.
    pub accepted_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            accepted_max: 4096,
        }
    }
}

/// Why a connection ended, or was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The other side refuses this node.
    RefusedThere(Refusal),
    /// This node refuses the other side: it is not who was wanted.
    RefusedHere(Refusal),
    /// Nobody listens there, or the connection was closed from there: the process is gone.
    Gone,
    /// No answer in time, no route, garbage: it says nothing about the process.
    Silent,
}

/// What became of frames that a lost connection had taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// None of them left this node.
    Nothing,
    /// Some may have arrived.
    Unknown,
}

/// The frame was not taken, and will not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Too much waits already.
    #[error("the queue to the peer is full")]
    Full,
    /// The connection was lost, and [`Inbound::Lost`] is on its way.
    #[error("the connection to the peer is lost")]
    Lost,
    /// There was none at the last attempt, and the next has not succeeded yet. A request must not wait for that:
    /// another node may answer it.
    #[error("there is no connection to the peer")]
    Down,
}

/// What was sent of one kind of frames, handshakes aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many.
    pub frames: u64,
    /// Their bytes, headers included, without those of TCP and IP.
    pub bytes: u64,
}

struct Shared {
    local: Identity,
    boots: KnownBoots,
    dialers: BTreeMap<(Destination, Class), Dialer>,
    accepted: usize,
    sent: BTreeMap<Kind, Sent>,
}

/// The transport of one node. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Mutex<Shared>>,
    inbox: mpsc::Sender<Inbound>,
    limits: Limits,
    faults: Option<Arc<dyn LinkFaults>>,
    seed: u64,
}

impl Transport {
    /// A transport that delivers into `inbox`. `seed` feeds the jitter of reconnects.
    pub fn new(
        local: Identity,
        inbox: mpsc::Sender<Inbound>,
        limits: Limits,
        seed: u64,
        faults: Option<Arc<dyn LinkFaults>>,
    ) -> Self {
        let shared = Shared {
            local,
            boots: KnownBoots::default(),
            dialers: BTreeMap::new(),
            accepted: 0,
            sent: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            inbox,
            limits,
            faults,
            seed,
        }
    }

    /// Shakes hands as this from now on. Connections that another boot has shaken are dropped, so
    /// that no frame is taken for that boot's; peers of other clusters are refused.
    pub fn introduce(&self, local: Identity) {
        let mut shared = self.lock();
        if shared.local.boot != local.boot {
            shared.dialers.clear();
        }
        shared.local = local;
    }

    /// A node is there: whoever waits to dial it again does so now.
    fn retry_now(&self, node: NodeId) {
        let shared = self.lock();
        let waiting = shared
            .dialers
            .iter()
            .filter(|((to, _), _)| to.node == Some(node));
        waiting.for_each(|(_, dialer)| dialer.retry_now());
    }

    /// Queues a frame, dialling if there is no connection yet.
    pub fn send(&self, to: Destination, class: Class, frame: Frame) -> Result<(), NotSent> {
        let Some(faults) = &self.faults else {
            return self.enqueue(to, class, frame);
        };
        let from = self.lock().local.address;
        for delay in faults.fate(from, to.address, class, frame.len()).deliveries {
            if delay.is_zero() {
                self.enqueue(to, class, frame.clone())?;
                continue;
            }
            let (this, copy) = (self.clone(), frame.clone());
            let connection = self.with_dialer(to, class, Dialer::connection)?;
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                // What was on its way when a stream broke does not arrive by the next one.
                let stands = match class {
                    Class::Forward => {
                        this.with_dialer(to, class, Dialer::connection) == Ok(connection)
                    }
                    Class::Control | Class::Bulk => true,
                };
                if stands {
                    // A late copy that no longer fits is one more lost message.
                    let _ = this.enqueue(to, class, copy);
                }
            });
        }
        Ok(())
    }

    /// Bytes that wait for a destination.
    pub fn queued_bytes(&self, to: Destination, class: Class) -> usize {
        self.lock()
            .dialers
            .get(&(to, class))
            .map_or(0, Dialer::queued_bytes)
    }

    /// Takes frames again after [`Inbound::Lost`] was dealt with. Until this is called, sending to
    /// the destination fails.
    pub fn resume(&self, to: Destination, class: Class) {
        if let Some(dialer) = self.lock().dialers.get(&(to, class)) {
            dialer.resume();
        }
    }

    /// Closes the connections to a destination that is no longer needed.
    pub fn forget(&self, to: Destination) {
        let mut shared = self.lock();
        for class in CLASSES {
            shared.dialers.remove(&(to, class));
        }
    }

    /// What was taken to be sent, since the start.
    pub fn sent(&self) -> BTreeMap<Kind, Sent> {
        self.lock().sent.clone()
    }

    fn enqueue(&self, to: Destination, class: Class, frame: Frame) -> Result<(), NotSent> {
        let bytes_max = self.limits.queue_bytes_max;
        let (kind, bytes) = (frame::kind_of(&frame), frame.len() as u64);
        let mut shared = self.lock();
        self.dialer(&mut shared, to, class)
            .enqueue(frame, bytes_max)?;
        if let Some(kind) = kind {
            let sent = shared.sent.entry(kind).or_default();
            sent.frames += 1;
            sent.bytes += bytes;
        }
        Ok(())
    }

    /// Does something with the dialler of a destination.
    fn with_dialer<T>(&self, to: Destination, class: Class, f: impl FnOnce(&Dialer) -> T) -> T {
        f(self.dialer(&mut self.lock(), to, class))
    }

    /// The dialler of a destination, which begins to dial if it is new.
    fn dialer<'a>(&self, shared: &'a mut Shared, to: Destination, class: Class) -> &'a Dialer {
        shared
            .dialers
            .entry((to, class))
            .or_insert_with(|| Dialer::start(self.clone(), to, class))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing under this lock panics half-way, so a poisoned lock still holds whole state.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
