//! What connections hold: a session's handle, and the mailbox between connections and the loop.
//!
//! Connections and the loop are tasks of one thread (or of one simulated node), so the locks here
//! are never waited for; they are there because tasks must be `Send`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use synod_txn::Reply;
use synod_txn::coordinator::Connection;
use tokio::sync::Notify;

use crate::edge::session::{Session, Sessions, Submission};

/// A session of this process: counted from 1, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// News from a connection.
#[derive(Debug)]
pub enum Submitted {
    /// A client connected, and what its commands so far have made of its transactions.
    Opened(SessionId, Arc<Outbox>, Connection),
    /// Commands.
    Commands(SessionId, Vec<Submission>),
    /// The client is gone.
    Closed(SessionId),
}

/// Replies on their way to one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    replies: Mutex<Vec<Reply>>,
    filled: Notify,
    over: AtomicBool,
}

impl Outbox {
    /// Adds replies, in order.
    pub fn push(&self, replies: Vec<Reply>) {
        let mut waiting = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            *waiting = replies;
        } else {
            waiting.extend(replies);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// No reply will follow.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        self.filled.notify_one();
    }

    fn take(&self) -> Vec<Reply> {
        std::mem::take(&mut *self.replies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// From the connections to the loop.
#[derive(Debug)]
pub struct Mailbox {
    news: Mutex<Vec<Submitted>>,
    arrived: Arc<Notify>,
    next_session: AtomicU64,
    /// Commands that were submitted and not yet answered, over all sessions.
    commands: AtomicUsize,
    commands_max: usize,
    room: Notify,
}

impl Mailbox {
    /// A mailbox that wakes the loop through `arrived`, and makes connections wait while
    /// `commands_max` commands are unanswered.
    pub fn new(arrived: Arc<Notify>, commands_max: usize) -> Arc<Self> {
        Arc::new(Self {
            news: Mutex::default(),
            arrived,
            next_session: AtomicU64::new(1),
            commands: AtomicUsize::new(0),
            commands_max,
            room: Notify::new(),
        })
    }

    /// Takes all that arrived.
    pub fn take(&self, into: &mut Vec<Submitted>) {
        std::mem::swap(
            &mut *self.news.lock().unwrap_or_else(PoisonError::into_inner),
            into,
        );
    }

    /// Puts news before all that waits.
    pub fn put_first(&self, first: impl Iterator<Item = Submitted>) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let later = std::mem::take(&mut *news);
        news.extend(first.chain(later));
        drop(news);
        self.arrived.notify_one();
    }

    /// Commands were answered.
    pub fn answered(&self, commands: usize) {
        let before = self.commands.fetch_sub(commands, Ordering::Relaxed);
        if before >= self.commands_max {
            self.room.notify_waiters();
        }
    }

    fn put(&self, news: Submitted) {
        self.news
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(news);
        self.arrived.notify_one();
    }
}

/// Opens sessions.
#[derive(Clone, Debug)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
}

impl Handle {
    /// Sessions that put their news into `mailbox`.
    pub fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox }
    }
}

impl Sessions for Handle {
    type Session = ClientSession;

    fn open(&self, _peer: SocketAddr) -> ClientSession {
        let id = SessionId(self.mailbox.next_session.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::default());
        let opened = Submitted::Opened(id, outbox.clone(), Connection::default());
        self.mailbox.put(opened);
        ClientSession {
            id,
            mailbox: self.mailbox.clone(),
            outbox,
        }
    }
}

/// One connection's session.
#[derive(Debug)]
pub struct ClientSession {
    id: SessionId,
    mailbox: Arc<Mailbox>,
    outbox: Arc<Outbox>,
}

impl Session for ClientSession {
    fn submit(&self, batch: Vec<Submission>) {
        self.mailbox
            .commands
            .fetch_add(batch.len(), Ordering::Relaxed);
        self.mailbox.put(Submitted::Commands(self.id, batch));
    }

    async fn replies(&self) -> Option<Vec<Reply>> {
        loop {
            let replies = self.outbox.take();
            if !replies.is_empty() {
                return Some(replies);
            }
            if self.outbox.over.load(Ordering::Acquire) {
                return None;
            }
            self.outbox.filled.notified().await;
        }
    }

    async fn ready_for_more(&self) {
        loop {
            let room = self.mailbox.room.notified();
            if self.mailbox.commands.load(Ordering::Relaxed) < self.mailbox.commands_max {
                return;
            }
            room.await;
        }
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        self.mailbox.put(Submitted::Closed(self.id));
    }
}
