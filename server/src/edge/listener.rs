//! The listener: accepts clients up to the limit, and stops when the node does.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};
use tracing::{info, warn};

use super::{Edge, Shutdown, connection, registry::Profile, session::Sessions};
use crate::resp::Protocol;
use tokio::time::Instant;

/// The pause after the system refused to accept, for example for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves clients from `listener` until `shutdown`, then until the last of them is done.
///
/// A stopping connection reads nothing more, answers what is in flight within the grace time of the
/// settings, and closes: so this returns within that time.
pub async fn serve<S: Sessions>(
    listener: TcpListener,
    sessions: S,
    edge: Arc<Edge>,
    shutdown: Shutdown,
) {
    // Every connection holds a sender: when the channel closes, all are gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.wait() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = admit(stream, peer, &sessions, &edge, &shutdown, &alive) {
                    warn!(%peer, %error, "a client could not be served");
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept clients");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    drop(alive);
    let waiting = edge.registry.connected();
    if waiting > 0 {
        info!(connections = waiting, "waiting for clients' last commands");
    }
    // Nothing is ever sent.
    let _ = all_gone.recv().await;
}

fn admit<S: Sessions>(
    mut stream: TcpStream,
    peer: std::net::SocketAddr,
    sessions: &S,
    edge: &Arc<Edge>,
    shutdown: &Shutdown,
    alive: &mpsc::Sender<()>,
) -> io::Result<()> {
    // Answers are written in batches already: a delay would only add latency.
    stream.set_nodelay(true)?;
    let profile = Profile {
        peer,
        local: stream.local_addr()?,
        since: Instant::now(),
        name: String::new(),
        library: String::new(),
        library_version: String::new(),
        protocol: Protocol::Resp2,
    };
    let alive = alive.clone();
    let Some(registration) = edge.registry.admit(profile, edge.clients.connections_max) else {
        tokio::spawn(async move {
            if stream
                .write_all(b"-ERR max number of clients reached\r\n")
                .await
                .is_ok()
            {
                connection::linger(&mut stream).await;
            }
            drop(alive);
        });
        return Ok(());
    };
    let session = sessions.open(peer);
    let (edge, shutdown) = (Arc::clone(edge), shutdown.clone());
    tokio::spawn(async move {
        connection::serve(stream, session, registration, edge, shutdown).await;
        drop(alive);
    });
    Ok(())
}
