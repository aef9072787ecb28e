//! A node: the cores and the edges of one process, put together and driven by one loop.
//!
//! ```text
//!   clients ─► gateway ─► participant ─► replication ─► store ─► jobs (disk)
//!                 │  ▲        ▲  │            │  ▲
//!                 └──┴──── transport ─────────┘──┘
//! ```
//!
//! One turn of the loop drains everything that has arrived, steps the cores, and lets them settle;
//! what they want sent, written or answered leaves once at the end of the turn: one frame a peer
//! and class, one log batch for all shards, one wake-up a connection. So the busier the node is,
//! the larger its batches are.
//!
//! The loop never blocks: disk work is in jobs, which threads carry out (in simulation, tasks).

mod asked;
mod beginning;
mod by_hand;
mod carry;
mod controlling;
mod forming;
mod inbound;
mod jobs;
mod lanes;
mod members;
mod merging;
mod observer;
mod ordering;
mod outbound;
mod pace;
#[cfg(not(madsim))]
mod real;
mod refusals;
mod replicas;
mod reporting;
mod reviewing;
mod start;
mod status;
mod stop;
mod surveying;
mod tables;
mod telling;
mod traffic;
mod turn;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use synod_storage::disk::Disk;
use synod_storage::index::IndexFactory;
use synod_storage::{Fatal, OpenConfig, OpenError, OpenProgress, Options, Store};
use synod_testpoint::reached;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

pub use self::jobs::StepTime;
pub use self::observer::{Observation, Observer};
#[cfg(not(madsim))]
pub use self::real::{in_directory, run};

use self::beginning::Holding;
use self::lanes::Lanes;
use self::pace::Pace;
use self::turn::{Node, Parts};
use crate::clock::Clock;
use crate::config::{ConfigError, Settings};
use crate::edge::{self, Edge, Registry, Shutdown};
use crate::gateway::{Handle, Mailbox};
use crate::identity::{IdentityError, begin_boot, load_founding};
use crate::membership;
use crate::membership::files::FilesError;
use crate::membership::lineage::LineageError;
use crate::membership::writer::Work;
use crate::transport::{Inbound, Limits, LinkFaults, Transport};

/// How often the loop looks at its timers when nothing happens and it is not at rest.
const TICK: Duration = Duration::from_millis(TICK_MS as u64);
const TICK_MS: u32 = 20;
/// Frames that wait for the loop; beyond, peers' connections wait.
const INBOX_FRAMES_MAX: usize = 4096;
/// Commands of all clients that are unanswered; beyond, clients' connections wait.
const COMMANDS_MAX: usize = 100_000;

/// What a node stands on: real in production, simulated in tests.
pub struct Environment {
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// The kind of index.
    pub index: Box<dyn IndexFactory>,
    /// Sizes and paces of the store.
    pub storage: Options,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names this boot of the machine: another value means that the page cache is gone.
    pub machine_boot: u128,
    /// Fresh random bits.
    pub entropy: Entropy,
    /// What steps the store's jobs.
    pub disk_work: DiskWork,
    /// What may happen to frames on their way; none in production.
    pub faults: Option<Arc<dyn LinkFaults>>,
    /// Who looks on; nobody in production.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Who steps the store's jobs.
pub enum DiskWork {
    /// A thread a lane.
    #[cfg(not(madsim))]
    Threads,
    /// A task a lane, which takes this long for each step.
    Tasks(StepTime),
}

impl DiskWork {
    /// The same for the membership's lane, whose writes are as small as the log's.
    fn for_membership(&self) -> Work {
        match self {
            #[cfg(not(madsim))]
            DiskWork::Threads => Work::Thread,
            DiskWork::Tasks(step_time) => {
                let step_time = step_time.clone();
                Work::Task(Arc::new(move || step_time(synod_storage::Lane::Log)))
            }
        }
    }
}

/// Random bits, drawn once at the edge: nothing inside draws any.
#[derive(Clone, Copy, Debug)]
pub struct Entropy {
    /// The node's name, if its directory is empty.
    pub node: u128,
    /// The cluster's name, if this node founds it.
    pub cluster: u128,
    /// The store's name, if its directory is empty.
    pub store: u128,
    /// Names this run.
    pub nonce: u64,
    /// Seeds timeouts and jitter.
    pub seed: u64,
    /// Seeds the membership's nonces and jitter: no two runs may share it.
    pub membership: [u64; 4],
}

/// Why a node could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An address cannot be listened on.
    #[error("cannot listen for {whom} on {address}: {error}")]
    Listen {
        /// Clients or peers.
        whom: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The data directory cannot be made or written to.
    #[error("{0}; give --data a directory that this user may write to")]
    Unwritable(io::Error),
    /// The data directory cannot be used.
    #[error("data directory {path}: {reason}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// A setting is not the cluster's.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The identity of the directory cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The membership's files cannot be read or written.
    #[error(transparent)]
    Membership(#[from] FilesError),
    /// The directory is between two lineages.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Open(#[from] OpenError),
    /// The disk failed; what it holds is unknown until the next start has looked.
    #[error("the disk failed, the node stops so that nothing is lost: {0}")]
    Disk(#[from] Fatal),
    /// A write of the membership's state failed.
    #[error(
        "the membership's state cannot be written, so what the disk holds is unknown: the node \
         stops, and its next start finds out"
    )]
    Unsaved,
    /// A promise was about to be broken.
    #[error("the node stops rather than go on wrongly: {0}")]
    Broken(String),
    /// An address in `--join` cannot be resolved.
    #[error("--join {address}: {reason}")]
    Join {
        /// Which.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Runs a node until it is told to stop, or has to.
pub async fn serve(
    environment: Environment,
    settings: Settings,
    join: Vec<SocketAddr>,
    shutdown: Shutdown,
) -> Result<(), NodeError> {
    let Environment { disk, entropy, .. } = &environment;
    let (client_address, peer_address) = (settings.process.client, settings.process.peer);
    let peers = listen("peers", peer_address).await?;
    let clients = listen("clients", client_address).await?;
    let identity = begin_boot(disk, (entropy.node, entropy.nonce))?;
    let founding = load_founding(disk)?;
    let mut holding = Holding::open(disk, identity, founding.as_ref())?;
    let peer = settings.process.peer_advertise;
    let local = membership::introduction(founding.as_ref(), identity, peer);
    info!(node = %identity.node, boot = identity.boot.counter, peers = %peer_address,
        clients = %client_address, "starting");

    let (inbox, mut inbound) = mpsc::channel::<Inbound>(INBOX_FRAMES_MAX);
    let faults = environment.faults.clone();
    let transport = Transport::new(local, inbox, Limits::default(), entropy.seed, faults);
    let listener = tokio::spawn(transport.clone().serve(peers));
    let _stops = AbortOnDrop(listener.abort_handle());

    let wake = Arc::new(Notify::new());
    let mailbox = Mailbox::new(wake.clone(), COMMANDS_MAX);
    let edge = Arc::new(Edge {
        clients: settings.process.clients.clone(),
        password: settings.process.password.clone(),
        port: client_address.port(),
        node: identity.node.to_string(),
        started: tokio::time::Instant::now(),
        registry: Arc::new(Registry::default()),
    });
    let serving = Shutdown::default();
    let mut clients_done = tokio::spawn(edge::serve(
        clients,
        Handle::new(mailbox.clone()),
        edge,
        serving.clone(),
    ));

    let mut frames = Vec::new();
    let founding = match founding {
        Some(founding) => founding,
        None => {
            let fresh = environment.entropy.cluster;
            let formation = beginning::formation(identity, &settings, &join, fresh);
            let formed = forming::Forming {
                transport: &transport,
                inbox: &mut inbound,
                backlog: &mut frames,
                mailbox: &mailbox,
                wake: &wake,
            }
            .form(formation, &shutdown)
            .await?;
            let Some(founding) = formed else {
                return Ok(());
            };
            holding.keep(disk, &founding, identity)?;
            founding
        }
    };
    let settings = settings.adopt(&founding.settings)?;
    let (membership, membership_writer, begun) =
        holding.start(&environment, &settings, identity, &founding, &join, &wake)?;
    let lanes = Lanes::start(&environment.disk_work, &wake)
        .map_err(|error| NodeError::Broken(format!("cannot start I/O threads: {error}")))?;
    let parts = Parts {
        me: identity,
        founding,
        transport,
        mailbox: mailbox.clone(),
        lanes,
        clock: environment.clock.clone(),
        entropy: environment.entropy,
        membership,
        membership_writer,
        observer: environment.observer.clone(),
    };
    let node = assemble(environment, &settings, parts, begun)?;
    drive(
        node,
        frames,
        &mut inbound,
        &wake,
        &shutdown,
        &serving,
        &mut clients_done,
    )
    .await
}

/// Opens the store and builds the cores on it.
fn assemble(
    environment: Environment,
    settings: &Settings,
    parts: Parts,
    begun: synod_membership::effect::Effects,
) -> Result<(Node, start::Recovered), NodeError> {
    let Environment {
        disk,
        index,
        storage,
        machine_boot,
        entropy,
        ..
    } = environment;
    let config = OpenConfig {
        disk,
        index,
        options: storage,
        boot: machine_boot,
        fresh_store: entropy.store,
    };
    let opened = Store::open(config, &mut report_progress())?;
    let report = &opened.report;
    info!(batches = report.batches, clean = report.clean, "store open");
    if let Some(why) = &report.index_rebuilt {
        reached!(IndexRebuilt);
        info!("the index was rebuilt: {why}");
    }
    if let Some(tail) = &report.torn_tail {
        reached!(TornTailCut);
        info!("the log's torn tail was cut: {tail}");
    }
    for damage in &report.damage {
        reached!(DamageFound);
        warn!("damage found: {damage}");
    }
    Ok(Node::new(opened, settings, parts, begun))
}

/// Says how a slow opening goes on, at every tenth of the way.
fn report_progress() -> impl FnMut(OpenProgress) + Send {
    let mut said = BTreeMap::new();
    move |progress| {
        let (what, done, total) = match progress {
            OpenProgress::Log {
                done_bytes,
                total_bytes,
            } => ("log", done_bytes, total_bytes),
            OpenProgress::Index {
                done_records,
                total_records,
            } => ("index", done_records, total_records),
        };
        let tenth = (done * 10).checked_div(total).unwrap_or(10);
        if said.insert(what, tenth) != Some(tenth) && total > 0 && tenth > 0 {
            info!("reading the {what}: {}%", tenth * 10);
        }
    }
}

async fn listen(whom: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| NodeError::Listen {
            whom,
            address,
            error,
        })
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The loop.
async fn drive(
    (mut node, recovered): (Node, start::Recovered),
    mut frames: Vec<Inbound>,
    inbound: &mut mpsc::Receiver<Inbound>,
    wake: &Notify,
    shutdown: &Shutdown,
    serving: &Shutdown,
    clients_done: &mut tokio::task::JoinHandle<()>,
) -> Result<(), NodeError> {
    let mut pace = Pace::new();
    let mut stop = std::pin::pin!(shutdown.wait());
    let mut stopping = false;
    let mut clients_gone = false;
    node.start(recovered)?;
    loop {
        let mut ticked = false;
        tokio::select! {
            biased;
            received = inbound.recv() => frames.extend(received),
            () = wake.notified() => {}
            () = &mut stop, if !stopping => {
                info!("stopping: clients are answered, leaders handed over, the log sealed");
                stopping = true;
                serving.start();
            }
            _ = &mut *clients_done, if !clients_gone => {
                clients_gone = true;
                node.begin_stop();
            }
            () = pace.tick() => ticked = true,
        }
        while frames.len() < INBOX_FRAMES_MAX
            && let Ok(frame) = inbound.try_recv()
        {
            frames.push(frame);
        }
        node.turn(&mut frames, ticked)?;
        pace.rest(node.rest());
        if node.membership.has_left() && !stopping {
            stopping = true;
            serving.start();
        }
        if clients_gone && node.is_stopped() {
            info!("stopped");
            return Ok(());
        }
    }
}
