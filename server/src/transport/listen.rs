//! The accepting side: shakes hands, then reads frames into the node's inbox.
//!
//! The inbox is bounded, so a node that cannot keep up stops reading, and TCP slows its peers.

use std::time::Duration;

use synod_membership::id::Identity;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::frame::{self, FrameError, Kind};
use super::hello::{self, Answer, Class};
use super::{Inbound, Transport};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BUFFER_BYTES: usize = 256 << 10;
/// After an error of `accept` itself (no file descriptors, say): give the system time to recover.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Transport {
    /// Accepts peers for ever; runs as a task of its own and ends when it is aborted.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!("cannot accept a peer: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let full = {
                let mut shared = self.lock();
                let full = shared.accepted >= self.limits.accepted_max;
                shared.accepted += usize::from(!full);
                full
            };
            if full {
                warn!(%from, "too many peer connections, closed this one");
                continue;
            }
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(error) = this.accepted(stream).await {
                    match error {
                        FrameError::Io(error) => debug!(%from, "peer connection: {error}"),
                        error => warn!(%from, "peer connection closed: {error}"),
                    }
                }
                this.lock().accepted -= 1;
            });
        }
    }

    async fn accepted(&self, mut stream: TcpStream) -> Result<(), FrameError> {
        stream.set_nodelay(true)?;
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.answer(&mut stream)).await;
        let Some((peer, class)) = shaken.map_err(|_| {
            FrameError::Io(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "no handshake in time",
            ))
        })??
        else {
            return Ok(());
        };
        debug!(node = %peer.node, ?class, "accepted");
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        let outcome = self.pump(peer, &mut reader).await;
        let _ = self.inbox.send(Inbound::Closed { peer, class }).await;
        outcome
    }

    async fn pump(
        &self,
        peer: Identity,
        reader: &mut BufReader<TcpStream>,
    ) -> Result<(), FrameError> {
        loop {
            let (kind, body) = match frame::read(reader).await {
                Ok(frame) => frame,
                Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if matches!(kind, Kind::Hello | Kind::HelloAnswer) {
                return Err(FrameError::OutOfPlace {
                    got: kind,
                    wanted: Kind::Raft,
                });
            }
            if self
                .inbox
                .send(Inbound::Frame { peer, kind, body })
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }

    /// None: refused, and told so.
    async fn answer(
        &self,
        stream: &mut TcpStream,
    ) -> Result<Option<(Identity, Class)>, FrameError> {
        let (kind, body) = frame::read(stream).await?;
        let hello = hello::decode_hello(kind, &body)?;
        let answer: Answer = {
            let mut shared = self.lock();
            let local = shared.local;
            hello::judge(&hello.caller, local.cluster, &mut shared.boots)
                .and_then(|()| hello::judge_place(hello.expected, local.node))
                .map(|()| local)
        };
        stream.write_all(&hello::encode_answer(&answer)?).await?;
        stream.flush().await?;
        match answer {
            Ok(_) => {
                self.retry_now(hello.caller.node);
                Ok(Some((hello.caller, hello.class)))
            }
            Err(refusal) => {
                let Identity { node, address, .. } = hello.caller;
                warn!(%node, %address, "refused a peer: {refusal}");
                Ok(None)
            }
        }
    }
}
