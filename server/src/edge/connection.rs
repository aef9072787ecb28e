//! The driver of one connection: moves bytes between a socket, a conversation and a session.
//!
//! One task, one poll function. At each wake it first takes the replies that are there, then writes
//! what it has with as few calls as the socket allows, then reads if there is room, and hands on
//! what it read as one batch. So the answers of a pipelined batch leave together, a slow reader
//! never blocks the taking of replies, and a client that sends without reading is held by its own
//! window.
//!
//! The same code runs over the simulator's sockets: nothing here needs more than `AsyncRead` and
//! `AsyncWrite`.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, sleep, timeout},
};
use tracing::debug;

use super::{
    Edge, Shutdown,
    conversation::{Conversation, Ending},
    registry::Registration,
    session::Session,
};

/// The first read's buffer. Most clients send little at a time.
const READ_BYTES_MIN: usize = 4 << 10;
/// The largest buffer that is made ahead of the bytes that fill it.
const READ_BYTES_MAX: usize = 256 << 10;
/// An output buffer that grew beyond this is given back when it is empty.
const OUTPUT_BYTES_KEPT: usize = 1 << 20;
/// How long, and for how much, a client that is being closed may go on sending.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 32 << 20;

/// Why a connection closed.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// By agreement.
    #[error("every command was answered")]
    Answered,
    /// The socket failed, or the client left without reading its answers.
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
    /// The client kept its answers waiting for too long.
    #[error("the client does not read its answers")]
    Stalled,
    /// The node stopped, and some commands were not answered in the time it gave itself.
    #[error("the node stopped with commands unanswered")]
    Abandoned,
}

/// Serves one client until it leaves, misbehaves, or the node stops.
pub async fn serve<S, T>(
    mut stream: T,
    session: S,
    registration: Registration,
    edge: Arc<Edge>,
    shutdown: Shutdown,
) -> Closed
where
    S: Session,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let conversation = Conversation::new(registration, &edge);
    let closed = converse(&mut stream, &session, conversation, &edge, &shutdown).await;
    debug!(reason = %closed, "connection closed");
    closed
}

async fn converse<S, T>(
    stream: &mut T,
    session: &S,
    mut conversation: Conversation,
    edge: &Edge,
    shutdown: &Shutdown,
) -> Closed
where
    S: Session,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut replies = pin!(session.replies());
    let mut admission = pin!(session.ready_for_more());
    let mut admitted = false;
    let mut stopping = pin!(shutdown.wait());
    let mut stall = Stall::new(Duration::from_millis(edge.clients.output_stall_ms.into()));
    let mut grace: Option<Pin<Box<Sleep>>> = None;
    let mut reader = Reader {
        read_bytes: READ_BYTES_MIN,
    };

    let closed = poll_fn(|cx| {
        while let Poll::Ready(answers) = replies.as_mut().poll(cx) {
            let Some(answers) = answers else {
                return Poll::Ready(Closed::Abandoned);
            };
            conversation.answer(answers);
            replies.set(session.replies());
        }
        if grace.is_none() && stopping.as_mut().poll(cx).is_ready() {
            conversation.end(Ending::Shutdown);
            let grace_ms = edge.clients.shutdown_grace_ms.into();
            grace = Some(Box::pin(sleep(Duration::from_millis(grace_ms))));
        }
        match write(stream, &mut conversation, &mut stall, cx) {
            Ok(()) => {}
            Err(closed) => return Poll::Ready(closed),
        }
        // A command that waited for room goes before new input.
        loop {
            if !admitted {
                if admission.as_mut().poll(cx).is_pending() {
                    break;
                }
                admitted = true;
            }
            let batch = conversation.take_submissions(edge);
            if !batch.is_empty() {
                session.submit(batch);
                admission.set(session.ready_for_more());
                admitted = false;
                continue;
            }
            if !conversation.wants_input(edge) {
                break;
            }
            match reader.read(stream, &mut conversation, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => conversation.end(Ending::Finished),
                Poll::Ready(Ok(_)) => conversation.received(),
                Poll::Ready(Err(error)) => return Poll::Ready(Closed::Lost(error)),
            }
        }
        if conversation.is_answered() && conversation.output.is_empty() {
            return Poll::Ready(Closed::Answered);
        }
        match &mut grace {
            Some(grace) => grace.as_mut().poll(cx).map(|()| Closed::Abandoned),
            None => Poll::Pending,
        }
    })
    .await;

    if matches!(closed, Closed::Answered) {
        match conversation.ending() {
            Some(Ending::Malformed) => linger(stream).await,
            Some(Ending::Finished | Ending::Shutdown) | None => {
                // The answers are in the socket: nothing to add if the client is gone.
                let _ = stream.shutdown().await;
            }
        }
    }
    closed
}

/// Closes a connection whose client may still be sending.
///
/// A socket that is closed with unread input resets the connection, and the reset can overtake the
/// answer that says why. So the sending half is closed first, and the rest is read and dropped.
pub(super) async fn linger<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut dropped = vec![0; 16 << 10];
    let mut left = LINGER_BYTES_MAX;
    let drain = async {
        while let Ok(read) = stream.read(&mut dropped).await {
            if read == 0 || read > left {
                break;
            }
            left -= read;
        }
    };
    // Whether it ended or not: the time is up.
    let _ = timeout(LINGER, drain).await;
}

/// Writes as much of the answers as the socket takes.
fn write<T: AsyncWrite + Unpin>(
    stream: &mut T,
    conversation: &mut Conversation,
    stall: &mut Stall,
    cx: &mut Context<'_>,
) -> Result<(), Closed> {
    let mut wrote = false;
    loop {
        conversation.fill_output();
        if conversation.output.is_empty() {
            break;
        }
        match Pin::new(&mut *stream).poll_write(cx, &conversation.output) {
            Poll::Ready(Ok(0)) => return Err(Closed::Lost(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                conversation.output.advance(written);
                wrote = true;
            }
            Poll::Ready(Err(error)) => return Err(Closed::Lost(error)),
            Poll::Pending => break,
        }
    }
    let output = &mut conversation.output;
    if wrote {
        // TCP sockets have nothing to flush; the simulator's send on flush, and always at once.
        match Pin::new(stream).poll_flush(cx) {
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(error)) => return Err(Closed::Lost(error)),
        }
    }
    if output.is_empty() {
        stall.none();
        if output.capacity() > OUTPUT_BYTES_KEPT {
            *output = BytesMut::new();
        }
        Ok(())
    } else if stall.is_over(wrote, cx) {
        Err(Closed::Stalled)
    } else {
        Ok(())
    }
}

/// The patience with a client that does not read: runs while output waits, from the last progress.
struct Stall {
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn new(patience: Duration) -> Self {
        Stall {
            patience,
            timer: None,
        }
    }

    fn none(&mut self) {
        self.timer = None;
    }

    fn is_over(&mut self, progress: bool, cx: &mut Context<'_>) -> bool {
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if progress {
            timer.as_mut().reset(Instant::now() + patience);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

/// Reads into a conversation's input, with a buffer that grows with what arrives.
struct Reader {
    read_bytes: usize,
}

impl Reader {
    fn read<T: AsyncRead + Unpin>(
        &mut self,
        stream: &mut T,
        conversation: &mut Conversation,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let missing = conversation.missing_bytes().min(READ_BYTES_MAX);
        conversation.input.reserve(self.read_bytes.max(missing));
        let room = conversation.input.capacity() - conversation.input.len();
        let read = pin!(stream.read_buf(&mut conversation.input)).poll(cx);
        if let Poll::Ready(Ok(bytes)) = read
            && bytes == room
        {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        read
    }
}
