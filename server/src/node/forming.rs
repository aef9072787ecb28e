//! The start of a node that belongs to no cluster yet: it forms one, with the others of its list.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use synod_membership::id::{ClusterId, Destination};
use synod_storage::disk::Disk;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::NodeError;
use crate::edge::Shutdown;
use crate::formation::{Formation, Founding, Message, Progress};
use crate::identity::save_founding;
use crate::transport::{Class, Inbound, Kind, Transport, decode, encode};

const POLL_PAUSE: Duration = Duration::from_millis(200);
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// Polls the others until there is a cluster; None: told to stop first.
pub(super) async fn form(
    mut formation: Formation,
    transport: &Transport,
    inbox: &mut mpsc::Receiver<Inbound>,
    disk: &Arc<dyn Disk>,
    shutdown: &Shutdown,
) -> Result<Option<Founding>, NodeError> {
    let mut next_poll = Instant::now();
    let mut next_complaint = Instant::now() + COMPLAIN_EVERY;
    let mut stop = std::pin::pin!(shutdown.wait());
    loop {
        match formation.progress() {
            Progress::Founded(founding) => return settle(founding, transport, disk).map(Some),
            Progress::Waiting(why) if Instant::now() >= next_complaint => {
                info!("{why}");
                next_complaint = Instant::now() + COMPLAIN_EVERY;
            }
            Progress::Waiting(_) => {}
        }
        tokio::select! {
            biased;
            () = &mut stop => return Ok(None),
            inbound = inbox.recv() => {
                let Some(Inbound::Frame { peer, kind: Kind::Formation, body }) = inbound else {
                    continue;
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
                    return settle(founding, transport, disk).map(Some);
                }
            }
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

fn settle(
    founding: Founding,
    transport: &Transport,
    disk: &Arc<dyn Disk>,
) -> Result<Founding, NodeError> {
    save_founding(disk, &founding)?;
    transport.set_cluster(ClusterId(founding.cluster));
    info!(
        cluster = format!("{:032x}", founding.cluster),
        members = founding.members.len(),
        shards = founding.shards.len(),
        "cluster formed"
    );
    Ok(founding)
}

/// Formation messages are repeated, so one that finds no room is no loss.
pub(super) fn send(transport: &Transport, to: SocketAddr, message: &Message) {
    match encode(Kind::Formation, message) {
        Ok(frame) => {
            let _ = transport.send(Destination { node: None, address: to }, Class::Control, frame);
        }
        Err(error) => warn!("cannot encode a formation message: {error}"),
    }
}
