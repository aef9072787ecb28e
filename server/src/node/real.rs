//! The real environment: this machine's disk, clocks, threads and entropy.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::{FlockOperation, flock};
use synod_storage::Options;
use synod_storage::disk::{Disk, RealDisk};
use synod_storage::index::SledIndexFactory;
use tracing::warn;

use super::{DiskWork, Entropy, Environment, NodeError, serve};
use crate::clock::SystemClock;
use crate::config::{Address, Settings};
use crate::edge::Shutdown;
use crate::identity::IDENTITY;

/// Memory that sled may use for its pages, in bytes.
const INDEX_CACHE_BYTES: u64 = 32 << 20;

/// Runs a node on this machine until it is told to stop, or has to.
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), NodeError> {
    let data = settings.process.data.clone();
    let directory = |reason: String| NodeError::Directory {
        path: data.display().to_string(),
        reason,
    };
    let disk = RealDisk::open(&data).map_err(NodeError::Unwritable)?;
    let _lock = lock(&data).map_err(directory)?;
    let environment = Environment {
        disk: Arc::new(disk) as Arc<dyn Disk>,
        index: Box::new(SledIndexFactory::new(data.join("index"), INDEX_CACHE_BYTES)),
        storage: Options::default(),
        clock: Arc::new(SystemClock),
        machine_boot: machine_boot(),
        entropy: entropy().map_err(|error| NodeError::Broken(format!("no entropy: {error}")))?,
        disk_work: DiskWork::Threads,
        faults: None,
        observer: None,
    };
    let join = resolve(&settings.process.join).await?;
    serve(environment, settings, join, shutdown).await
}

/// Does something with the directory of a node that does not run.
pub fn in_directory<T>(data: &Path, act: impl FnOnce(&Arc<dyn Disk>) -> T) -> Result<T, String> {
    if !data.join(IDENTITY).exists() {
        return Err("no node has lived in this directory".to_owned());
    }
    let _lock = lock(data)?;
    let disk = RealDisk::open(data).map_err(|error| error.to_string())?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    Ok(act(&disk))
}

/// Takes the directory for this process alone; the kernel gives it back when the process ends.
fn lock(data: &Path) -> Result<File, String> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data.join("LOCK"))
        .map_err(|error| format!("cannot open its LOCK file: {error}"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        "another process uses it; stop that one first, or give this node a directory of its own"
            .to_owned()
    })?;
    Ok(file)
}

/// The kernel's name for this boot of the machine; where it has none, every start counts as one
/// after a power cut, which costs time and is always right.
fn machine_boot() -> u128 {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok())
        .unwrap_or_else(|| OsRng.try_next_u64().map_or(0, u128::from))
}

fn entropy() -> Result<Entropy, rand::rand_core::OsError> {
    let wide = || -> Result<u128, rand::rand_core::OsError> {
        let mut bytes = [0; 16];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    };
    Ok(Entropy {
        node: wide()?,
        cluster: wide()?,
        store: wide()?,
        nonce: OsRng.try_next_u64()?,
        seed: OsRng.try_next_u64()?,
        membership: [
            OsRng.try_next_u64()?,
            OsRng.try_next_u64()?,
            OsRng.try_next_u64()?,
            OsRng.try_next_u64()?,
        ],
    })
}

/// The addresses behind names. A name that cannot be resolved now is an error: it is more often
/// misspelt than late.
async fn resolve(join: &[Address]) -> Result<Vec<SocketAddr>, NodeError> {
    let mut resolved = Vec::new();
    for address in join {
        let text = format!("{}:{}", address.host, address.port);
        let failed = |reason: String| NodeError::Join {
            address: text.clone(),
            reason,
        };
        let found = tokio::net::lookup_host((address.host.as_str(), address.port))
            .await
            .map_err(|error| failed(error.to_string()))?
            .next()
            .ok_or_else(|| failed("the name has no address".to_owned()))?;
        resolved.push(found);
    }
    if resolved.is_empty() && !join.is_empty() {
        warn!("--join named nobody");
    }
    Ok(resolved)
}
