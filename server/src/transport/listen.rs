//! The accepting side: shakes hands, then reads frames into the node's inbox.
//!
//! The inbox is bounded, so a node that cannot keep up stops reading, and TCP slows its peers.

use std::time::Duration;

use synod_membership::id::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::frame::{self, FrameError, Kind, PROTOCOL_VERSION};
use super::hello::{self, Answer, Class, Refusal};
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
        let (kind, body) = match frame::read(stream).await {
            Err(FrameError::OtherVersion { theirs }) => {
                return self.refuse_version(stream, theirs).await;
            }
            read => read?,
        };
        let hello = hello::decode_hello(kind, &body)?;
        let answer: Answer = {
            let mut shared = self.lock();
            let local = shared.local;
            hello::judge_caller(&hello.caller, &local, &mut shared.boots)
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
                let turned_away = Inbound::TurnedAway {
                    address: address.ip(),
                    refusal,
                };
                // Only the status wants to know: a busy node need not.
                let _ = self.inbox.try_send(turned_away);
                Ok(None)
            }
        }
    }

    /// Tells a peer of another release in a frame whose header alone it can read: the version is there.
    async fn refuse_version(
        &self,
        stream: &mut TcpStream,
        theirs: u16,
    ) -> Result<Option<(Identity, Class)>, FrameError> {
        let refusal = Refusal::OtherVersion {
            caller: theirs,
            called: PROTOCOL_VERSION,
        };
        let address = stream.peer_addr()?.ip();
        warn!(%address, "refused a peer: {refusal}");
        let answer = hello::encode_answer(&Err(refusal.clone()))?;
        stream.write_all(&answer).await?;
        // What it still sends must not make the answer be lost with a reset.
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        let _ = self
            .inbox
            .try_send(Inbound::TurnedAway { address, refusal });
        Ok(None)
    }
}
