//! What a connection needs of the gateway: a place to put commands, and their replies in order.

use std::{future::Future, net::SocketAddr};

use synod_txn::{Command, Reply};

/// One thing to be answered, in its turn.
#[derive(Debug)]
pub enum Submission {
    /// A command for the store.
    Command(Command),
    /// A command whose answer is known here (`PING`, a syntax error, …).
    ///
    /// It goes through the session all the same, for the order, and because inside `MULTI` it is
    /// queued as any other command is: an error is answered at once and fails the `EXEC`, another
    /// reply is answered `QUEUED` and appears in the answer of `EXEC`.
    Immediate(Reply),
    /// `RESET` and its kind: forget transaction and watched keys, then answer this.
    Reset(Reply),
}

/// Opens sessions: one for each client connection.
pub trait Sessions: Clone + Send + Sync + 'static {
    /// What it opens.
    type Session: Session;

    /// A session for the client at `peer`.
    fn open(&self, peer: SocketAddr) -> Self::Session;
}

/// One client's stream of commands.
///
/// Dropping it cancels nothing that was proposed; an open transaction is rolled back.
pub trait Session: Send + Sync + 'static {
    /// Hands over commands. Never waits: the connection keeps to its window, and waits for
    /// [`Session::ready_for_more`] before it reads the next ones.
    fn submit(&self, batch: Vec<Submission>);

    /// The next replies: at least one, in the order of submission. `None`: the node is gone.
    /// Dropping the future loses nothing.
    fn replies(&self) -> impl Future<Output = Option<Vec<Reply>>> + Send;

    /// Resolves when the node has room for more commands.
    fn ready_for_more(&self) -> impl Future<Output = ()> + Send;
}
