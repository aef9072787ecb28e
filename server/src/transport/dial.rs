//! The dialling side of a connection: a bounded queue and the task that empties it.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_membership::id::{Destination, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::frame::{self, Frame, FrameError, PROTOCOL_VERSION};
use super::hello::{self, Answer, Class, Hello, Refusal};
use super::{Cause, Delivery, Inbound, NotSent, Transport};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A probe must not wait for the next attempt longer than for its answer.
const CONTROL_BACKOFF_MAX: Duration = Duration::from_millis(250);
const WRITE_BUFFER_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// The connection is lost and the node has not heard of it yet: what it sends in ignorance is
    /// refused, so that "lost" covers exactly what was taken before.
    lost: bool,
    /// How often it was.
    losses: u64,
    /// The last attempt failed, or its connection was lost, and what this class carries does not wait for the next.
    down: bool,
    closed: bool,
}

struct Mailbox {
    queue: Mutex<Queue>,
    filled: Notify,
    /// Ends the pause between two attempts.
    retry: Notify,
}

impl Mailbox {
    fn with<T>(&self, f: impl FnOnce(&mut Queue) -> T) -> T {
        f(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The handle that the transport keeps; dropping it ends the task and the connection.
pub(super) struct Dialer {
    mailbox: Arc<Mailbox>,
}

impl Dialer {
    pub(super) fn start(transport: Transport, to: Destination, class: Class) -> Self {
        let mailbox = Arc::new(Mailbox {
            queue: Mutex::new(Queue::default()),
            filled: Notify::new(),
            retry: Notify::new(),
        });
        tokio::spawn(run(transport, to, class, mailbox.clone()));
        Self { mailbox }
    }

    pub(super) fn enqueue(&self, frame: Frame, bytes_max: usize) -> Result<(), NotSent> {
        self.mailbox.with(|queue| {
            if queue.lost {
                return Err(NotSent::Lost);
            }
            if queue.down {
                return Err(NotSent::Down);
            }
            // One frame always fits, however large: a bound must not make progress impossible.
            if queue.bytes > 0 && queue.bytes + frame.len() > bytes_max {
                return Err(NotSent::Full);
            }
            queue.bytes += frame.len();
            queue.frames.push_back(frame);
            Ok(())
        })?;
        self.mailbox.filled.notify_one();
        Ok(())
    }

    /// The connection that a frame would be queued for now: what is sent later, and was meant for it,
    /// must not get on the next one.
    pub(super) fn connection(&self) -> Result<u64, NotSent> {
        self.mailbox.with(|queue| match queue.lost {
            true => Err(NotSent::Lost),
            false => Ok(queue.losses),
        })
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.mailbox.with(|queue| queue.bytes)
    }

    /// The peer was heard of: if the task waits before its next attempt, it waits no longer.
    pub(super) fn retry_now(&self) {
        self.mailbox.retry.notify_waiters();
    }

    /// The node has heard that the connection was lost.
    pub(super) fn resume(&self) {
        self.mailbox.with(|queue| queue.lost = false);
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.mailbox.with(|queue| queue.closed = true);
        self.mailbox.filled.notify_one();
        self.mailbox.retry.notify_waiters();
    }
}

/// How a connection ended.
enum Ended {
    /// The handle is gone: so is the task.
    Unwanted,
    /// Try again.
    Broken {
        reason: String,
        cause: Cause,
        was_up: bool,
    },
}

async fn run(transport: Transport, to: Destination, class: Class, mailbox: Arc<Mailbox>) {
    let seed = transport.seed ^ u64::from(to.address.port()) << 8 ^ class as u64;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut backoff = BACKOFF_MIN;
    let backoff_max = match class {
        Class::Control => CONTROL_BACKOFF_MAX,
        Class::Forward | Class::Bulk => BACKOFF_MAX,
    };
    let mut failures: u32 = 0;
    // What was said last of a peer that refuses, or is refused: once is enough.
    let mut refused: Option<String> = None;
    loop {
        let (reason, cause, delivery) = match connection(&transport, to, class, &mailbox).await {
            Ended::Unwanted => return,
            Ended::Broken {
                reason,
                cause,
                was_up,
            } => {
                let delivery = if was_up {
                    Delivery::Unknown
                } else {
                    Delivery::Nothing
                };
                if was_up {
                    (backoff, failures, refused) = (BACKOFF_MIN, 0, None);
                }
                (reason, cause, delivery)
            }
        };
        failures += 1;
        let refuses = matches!(cause, Cause::RefusedThere(_) | Cause::RefusedHere(_));
        if refuses && refused.as_ref() != Some(&reason) {
            warn!(peer = %to.address, ?class, "refused: {reason}");
            refused = Some(reason);
        } else if failures == 1 {
            info!(peer = %to.address, ?class, "connection lost: {reason}");
        } else {
            debug!(peer = %to.address, ?class, attempt = failures, "{reason}");
        }
        // What waited is stale by the time the peer is back: Raft repeats, requests are answered.
        mailbox.with(|queue| {
            queue.frames.clear();
            queue.bytes = 0;
            queue.lost = true;
            queue.losses += 1;
            queue.down = class == Class::Forward;
        });
        let lost = Inbound::Lost {
            destination: to,
            class,
            cause,
            delivery,
        };
        if transport.inbox.send(lost).await.is_err() || mailbox.with(|queue| queue.closed) {
            return;
        }
        let jitter = rng.random_range(0.5..1.5);
        tokio::select! {
            biased;
            () = mailbox.retry.notified() => backoff = BACKOFF_MIN,
            () = tokio::time::sleep(backoff.mul_f64(jitter)) => {
                backoff = (backoff * 2).min(backoff_max);
            }
        }
    }
}

fn broken(reason: impl ToString, cause: Cause, was_up: bool) -> Ended {
    Ended::Broken {
        reason: reason.to_string(),
        cause,
        was_up,
    }
}

/// No handshake came about.
fn not_shaken(error: FrameError) -> Ended {
    match error {
        FrameError::Io(error) => broken(&error, cause(&error), false),
        FrameError::OtherVersion { theirs } => {
            let refusal = Refusal::OtherVersion {
                caller: PROTOCOL_VERSION,
                called: theirs,
            };
            broken(refusal.to_string(), Cause::RefusedHere(refusal), false)
        }
        error => broken(error, Cause::Silent, false),
    }
}

/// What an error says about the process at the other end.
fn cause(error: &std::io::Error) -> Cause {
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => Cause::Gone,
        // Time-outs, routes, this machine's own limits: no word from the other side.
        _ => Cause::Silent,
    }
}

/// Dials, shakes hands and writes until the connection breaks or is unwanted.
async fn connection(
    transport: &Transport,
    to: Destination,
    class: Class,
    mailbox: &Mailbox,
) -> Ended {
    let dialled = async {
        let mut stream = TcpStream::connect(to.address).await?;
        stream.set_nodelay(true)?;
        let answer = shake(transport, to, class, &mut stream).await?;
        Ok::<_, FrameError>((stream, answer))
    };
    let (stream, answer) = match timeout(CONNECT_TIMEOUT, dialled).await {
        Err(_) => return broken("no answer in time", Cause::Silent, false),
        Ok(Err(error)) => return not_shaken(error),
        Ok(Ok(shaken)) => shaken,
    };
    let peer = match answer {
        Ok(peer) => peer,
        Err(refusal) => return broken(refusal.to_string(), Cause::RefusedThere(refusal), false),
    };
    if let Err(refusal) = admit(transport, to, &peer) {
        return broken(refusal.to_string(), Cause::RefusedHere(refusal), false);
    }
    debug!(peer = %to.address, ?class, node = %peer.node, "connected");
    mailbox.with(|queue| queue.down = false);
    let reached = Inbound::Reached {
        destination: to,
        peer,
        class,
    };
    if transport.inbox.send(reached).await.is_err() {
        return Ended::Unwanted;
    }
    let (mut reader, writer) = tokio::io::split(stream);
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
    let mut batch = VecDeque::new();
    loop {
        let closed = mailbox.with(|queue| {
            std::mem::swap(&mut queue.frames, &mut batch);
            queue.bytes = 0;
            queue.closed
        });
        if closed {
            return Ended::Unwanted;
        }
        if batch.is_empty() {
            let mut byte = [0u8; 1];
            tokio::select! {
                biased;
                () = mailbox.filled.notified() => continue,
                // The other side never writes after the handshake: a byte or an end is the end.
                outcome = reader.read(&mut byte) => return match outcome {
                    Ok(0) => broken("closed by the peer", Cause::Gone, true),
                    Ok(_) => broken("the peer wrote where it must not", Cause::Silent, true),
                    Err(error) => broken(&error, cause(&error), true),
                },
            }
        }
        for frame in batch.drain(..) {
            if let Err(error) = writer.write_all(&frame).await {
                return broken(&error, cause(&error), true);
            }
        }
        if let Err(error) = writer.flush().await {
            return broken(&error, cause(&error), true);
        }
    }
}

async fn shake(
    transport: &Transport,
    to: Destination,
    class: Class,
    stream: &mut TcpStream,
) -> Result<Answer, FrameError> {
    let local = transport.lock().local;
    let hello = Hello {
        caller: local,
        expected: to.node,
        class,
    };
    stream.write_all(&hello::encode_hello(&hello)?).await?;
    stream.flush().await?;
    let (kind, body) = frame::read(stream).await?;
    hello::decode_answer(kind, &body)
}

/// Whether the node that answered may be talked to.
fn admit(transport: &Transport, to: Destination, peer: &Identity) -> Result<(), Refusal> {
    let mut shared = transport.lock();
    let local = shared.local;
    hello::judge_place(to.node, peer.node)?;
    hello::judge_called(peer, &local, &mut shared.boots)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::Limits;
    use super::*;
    use synod_membership::id::{Boot, NodeId};

    /// A request is answered by somebody else, or not at all; heartbeats are worth waiting for the next attempt.
    #[tokio::test]
    async fn requests_do_not_wait_for_who_is_gone() {
        let vacant = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = vacant.local_addr().expect("its address");
        drop(vacant);
        let to = Destination {
            node: None,
            address,
        };
        let (inbox, mut inbound) = mpsc::channel(16);
        let local = Identity {
            cluster: None,
            node: NodeId(1),
            boot: Boot {
                counter: 1,
                nonce: 1,
                previous: 0,
            },
            address,
        };
        let transport = Transport::new(local, inbox, Limits::default(), 1, None);
        for class in [Class::Forward, Class::Control] {
            let no_requests = Vec::<synod_txn::Request>::new();
            let frame = || frame::encode(frame::Kind::Requests, &no_requests).expect("it is short");
            assert_eq!(transport.send(to, class, frame()), Ok(()), "not tried yet");
            let heard = inbound.recv().await.expect("the task runs");
            assert!(matches!(heard, Inbound::Lost { .. }), "{heard:?}");
            transport.resume(to, class);
            let expected = match class {
                Class::Forward => Err(NotSent::Down),
                Class::Control | Class::Bulk => Ok(()),
            };
            assert_eq!(transport.send(to, class, frame()), expected);
        }
    }
}
