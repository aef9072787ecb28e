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
    let mut link = Link {
        stream: &mut stream,
        session: &session,
        edge: &edge,
        conversation: Conversation::new(registration, &edge),
        read_bytes: READ_BYTES_MIN,
        admission: Admission::Asked,
        stall: None,
    };
    let closed = converse(&mut link, &shutdown).await;
    if matches!(closed, Closed::Answered) {
        match link.conversation.ending() {
            Some(Ending::Malformed) => linger(&mut stream).await,
            Some(Ending::Finished | Ending::Shutdown) | None => {
                // The answers are in the socket: nothing to add if the client is gone.
                let _ = stream.shutdown().await;
            }
        }
    }
    debug!(reason = %closed, "connection closed");
    closed
}

/// Moves bytes until the connection is to be closed.
async fn converse<S, T>(link: &mut Link<'_, S, T>, shutdown: &Shutdown) -> Closed
where
    S: Session,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let session = link.session;
    let mut replies = pin!(session.replies());
    let mut admission = pin!(session.ready_for_more());
    let mut stopping = pin!(shutdown.wait());
    let mut grace: Option<Pin<Box<Sleep>>> = None;

    poll_fn(|cx| {
        while let Poll::Ready(answers) = replies.as_mut().poll(cx) {
            let Some(answers) = answers else {
                return Poll::Ready(Closed::Abandoned);
            };
            link.conversation.answer(answers);
            replies.set(session.replies());
        }
        if grace.is_none() && stopping.as_mut().poll(cx).is_ready() {
            link.conversation.end(Ending::Shutdown);
            let grace_ms = link.edge.clients.shutdown_grace_ms.into();
            grace = Some(Box::pin(sleep(Duration::from_millis(grace_ms))));
        }
        if let Err(closed) = link.write(cx) {
            return Poll::Ready(closed);
        }
        loop {
            if link.admission == Admission::Asked {
                if admission.as_mut().poll(cx).is_pending() {
                    break;
                }
                link.admission = Admission::Granted;
            }
            match link.read(cx) {
                Ok(Progress::Submitted) => {
                    admission.set(session.ready_for_more());
                    link.admission = Admission::Asked;
                }
                Ok(Progress::None) => break,
                Err(closed) => return Poll::Ready(closed),
            }
        }
        if link.conversation.is_answered() && link.conversation.output.is_empty() {
            return Poll::Ready(Closed::Answered);
        }
        match &mut grace {
            Some(grace) => grace.as_mut().poll(cx).map(|()| Closed::Abandoned),
            None => Poll::Pending,
        }
    })
    .await
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

/// One connection's socket and what is at both ends of it.
struct Link<'a, S, T> {
    stream: &'a mut T,
    session: &'a S,
    edge: &'a Edge,
    conversation: Conversation,
    /// The room for the next read: grows while reads fill it.
    read_bytes: usize,
    admission: Admission,
    /// Runs while output waits, from the last progress.
    stall: Option<Pin<Box<Sleep>>>,
}

/// Whether the session has room for the next batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Asked,
    Granted,
}

/// What became of an attempt to read commands.
enum Progress {
    /// A batch was handed to the session.
    Submitted,
    /// There is none now, or no room for one.
    None,
}

impl<S: Session, T: AsyncRead + AsyncWrite + Unpin> Link<'_, S, T> {
    /// Writes as much of the answers as the socket takes.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        let mut wrote = false;
        loop {
            self.conversation.fill_output();
            if self.conversation.output.is_empty() {
                break;
            }
            match Pin::new(&mut *self.stream).poll_write(cx, &self.conversation.output) {
                Poll::Ready(Ok(0)) => return Err(Closed::Lost(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.conversation.output.advance(written);
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Err(Closed::Lost(error)),
                Poll::Pending => break,
            }
        }
        if wrote {
            // TCP sockets have nothing to flush; the simulator's send on flush, always at once.
            match Pin::new(&mut *self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(error)) => return Err(Closed::Lost(error)),
            }
        }
        let output = &mut self.conversation.output;
        if output.is_empty() {
            self.stall = None;
            if output.capacity() > OUTPUT_BYTES_KEPT {
                *output = BytesMut::new();
            }
            return Ok(());
        }
        let patience = Duration::from_millis(self.edge.clients.output_stall_ms.into());
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(patience)));
        if wrote {
            stall.as_mut().reset(Instant::now() + patience);
        }
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => Err(Closed::Stalled),
            Poll::Pending => Ok(()),
        }
    }

    /// Submits the commands that have arrived, or reads until some have.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Progress, Closed> {
        loop {
            // Commands that waited for room go before new input.
            let batch = self.conversation.take_submissions(self.edge);
            if !batch.is_empty() {
                self.session.submit(batch);
                return Ok(Progress::Submitted);
            }
            if !self.conversation.wants_input(self.edge) {
                return Ok(Progress::None);
            }
            match self.fill_input(cx) {
                Poll::Pending => return Ok(Progress::None),
                Poll::Ready(Ok(0)) => self.conversation.end(Ending::Finished),
                Poll::Ready(Ok(_)) => self.conversation.received(),
                Poll::Ready(Err(error)) => return Err(Closed::Lost(error)),
            }
        }
    }

    /// One read from the socket.
    fn fill_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = self.conversation.missing_bytes().min(READ_BYTES_MAX);
        let input = &mut self.conversation.input;
        input.reserve(self.read_bytes.max(missing));
        let room = input.capacity() - input.len();
        let read = pin!(self.stream.read_buf(input)).poll(cx);
        if let Poll::Ready(Ok(bytes)) = read
            && bytes == room
        {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        read
    }
}
