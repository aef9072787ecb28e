//! The start of a node that belongs to no cluster yet: it forms one, with the others of its list.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use synod_membership::id::Destination;
use synod_txn::coordinator::Connection;
use synod_txn::{ErrorCode, Reply};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::NodeError;
use crate::edge::Shutdown;
use crate::edge::session::Submission;
use crate::formation::{Formation, Founding, Message, Progress};
use crate::gateway::{Mailbox, Outbox, SessionId, Submitted};
use crate::transport::{Class, Inbound, Kind, Transport, decode, encode};

const POLL_PAUSE: Duration = Duration::from_millis(200);
/// Frames that are kept for the node that will be.
const BACKLOG_MAX: usize = 4096;
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// What a forming node has at hand.
pub(super) struct Forming<'a> {
    pub(super) transport: &'a Transport,
    pub(super) inbox: &'a mut mpsc::Receiver<Inbound>,
    /// What arrives meanwhile and concerns the node that will be: others may be further already.
    pub(super) backlog: &'a mut Vec<Inbound>,
    pub(super) mailbox: &'a Arc<Mailbox>,
    pub(super) wake: &'a Notify,
}

impl Forming<'_> {
    /// Polls the others until there is a cluster, this node's or one to join; None: told to stop first.
    /// Nobody may hear of the record before it is durable here.
    pub(super) async fn form(
        self,
        mut formation: Formation,
        shutdown: &Shutdown,
    ) -> Result<Option<Founding>, NodeError> {
        let Self {
            transport,
            inbox,
            backlog,
            mailbox,
            wake,
        } = self;
        let mut clients = Clients::default();
        let mut next_poll = Instant::now();
        let mut next_complaint = Instant::now() + COMPLAIN_EVERY;
        let mut stop = std::pin::pin!(shutdown.wait());
        loop {
            match formation.progress() {
                Progress::Founded(founding) => {
                    clients.hand_over(mailbox);
                    return Ok(Some(founding));
                }
                Progress::Waiting(why) => {
                    clients.answer(mailbox, &why);
                    if Instant::now() >= next_complaint {
                        info!("{why}");
                        next_complaint = Instant::now() + COMPLAIN_EVERY;
                    }
                }
            }
            tokio::select! {
                biased;
                () = &mut stop => return Ok(None),
                inbound = inbox.recv() => {
                    let (peer, body) = match inbound {
                        Some(Inbound::Frame { peer, kind: Kind::Formation, body }) => (peer, body),
                        // Polls are repeated, so nothing hangs on those that were lost.
                        Some(Inbound::Lost { destination, class, .. }) => {
                            transport.resume(destination, class);
                            continue;
                        }
                        Some(other) if backlog.len() < BACKLOG_MAX => {
                            backlog.push(other);
                            continue;
                        }
                        // Lost like a frame on a broken connection.
                        Some(_) | None => continue,
                    };
                    let message = match decode::<Message>(Kind::Formation, &body) {
                        Ok(message) => message,
                        Err(error) => {
                            warn!(from = %peer.address, "{error}");
                            continue;
                        }
                    };
                    let (answer, founding) = formation.receive(message);
                    if let Some(answer) = answer {
                        send(transport, peer.address, &answer);
                    }
                    if let Some(founding) = founding {
                        clients.hand_over(mailbox);
                        return Ok(Some(founding));
                    }
                }
                () = wake.notified() => {}
                () = sleep_until(next_poll) => {
                    let (others, poll) = formation.poll();
                    for other in others {
                        send(transport, other, &poll);
                    }
                    next_poll = Instant::now() + POLL_PAUSE;
                }
            }
        }
    }
}

/// Clients that came too early: they are told so, and stay.
#[derive(Default)]
struct Clients {
    waiting: BTreeMap<SessionId, Early>,
}

/// A client that came too early.
struct Early {
    outbox: Arc<Outbox>,
    /// It hears of what was turned away, so that half a transaction is not carried out by itself later.
    connection: Connection,
}

impl Clients {
    /// Answers every command with why nothing is served yet.
    fn answer(&mut self, mailbox: &Mailbox, why: &str) {
        let mut news = Vec::new();
        mailbox.take(&mut news);
        for submitted in news {
            match submitted {
                Submitted::Opened(session, outbox, connection) => {
                    self.waiting.insert(session, Early { outbox, connection });
                }
                Submitted::Commands(session, batch) => {
                    mailbox.answered(batch.len());
                    if let Some(Early { outbox, connection }) = self.waiting.get_mut(&session) {
                        let replies = batch.into_iter().map(|it| turn_away(connection, it, why));
                        outbox.push(replies.collect());
                    }
                }
                Submitted::Closed(session) => {
                    self.waiting.remove(&session);
                }
            }
        }
    }

    /// Announces the clients that stayed to the node that begins to serve.
    fn hand_over(self, mailbox: &Mailbox) {
        let opened = self.waiting.into_iter();
        mailbox
            .put_first(opened.map(|(session, early)| {
                Submitted::Opened(session, early.outbox, early.connection)
            }));
    }
}

/// The answer to what cannot be served yet.
fn turn_away(connection: &mut Connection, submission: Submission, why: &str) -> Reply {
    match submission {
        Submission::Immediate(reply) => connection.known(reply),
        Submission::Reset(reply) => {
            // Nothing was begun that anybody would have to be told of.
            let _ = connection.reset();
            reply
        }
        Submission::Command(command) => {
            let why = Reply::error(ErrorCode::NotServing, why.to_owned());
            let _ = connection.turned_away(&command, &why);
            why
        }
    }
}

/// Formation messages are repeated, so one that finds no room is no loss.
pub(super) fn send(transport: &Transport, to: SocketAddr, message: &Message) {
    match encode(Kind::Formation, message) {
        Ok(frame) => {
            let _ = transport.send(
                Destination {
                    node: None,
                    address: to,
                },
                Class::Control,
                frame,
            );
        }
        Err(error) => warn!("cannot encode a formation message: {error}"),
    }
}
