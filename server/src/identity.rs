//! What makes a directory this node: its identity, raised and synced at each start, and the record
//! of the cluster that it belongs to.
//!
//! Both are small files that are written whole beside the old one, synced and renamed over it, so
//! a crash leaves the old or the new one. Each carries a checksum; a damaged one is an error that
//! names the file, never a fresh identity: a node that forgot who it was could vote twice.

use std::io;
use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize, rancor};
use synod_membership::id::{Boot, NodeId};
use synod_storage::disk::{Disk, OpenMode, read_exact_at};

use crate::formation::Founding;
use crate::membership::files::{DIR as MEMBERSHIP_DIR, with_reserve};

/// The file that says who the directory is.
pub const IDENTITY: &str = "identity";
/// The file that a data directory has once it belongs to a cluster.
pub const CLUSTER: &str = "cluster";
/// Where the store keeps its files.
const STORE_DIRS: [&str; 2] = ["log", "values"];
const MAGIC: [u8; 8] = *b"SYNODREC";
const HEADER_BYTES: usize = 16;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error("{file}: {error}")]
    Io {
        /// Which file.
        file: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The content is not what was written.
    #[error(
        "{file} is damaged ({reason}): restore it from a copy of this very directory, or move the \
         directory away and start anew to join as a new node"
    )]
    Damaged {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The identity is gone but data is there.
    #[error(
        "the directory holds data but no {IDENTITY} file: it is half of a node; restore the file, \
         or move the directory away and start anew to join as a new node"
    )]
    Missing,
}

/// Who this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The directory's name, for ever.
    pub node: NodeId,
    /// This run.
    pub boot: Boot,
}

#[derive(Archive, Serialize, Deserialize)]
struct IdentityRecord {
    node: u128,
    counter: u64,
    nonce: u64,
    previous: u64,
}

/// Raises the directory's boot counter, making an identity if the directory is empty. `random`
/// gives fresh random bits: for the name, and for the nonce of this run.
///
/// Nothing may be sent to anybody before this returns.
pub fn begin_boot(disk: &Arc<dyn Disk>, random: (u128, u64)) -> Result<Identity, IdentityError> {
    let (fresh_node, nonce) = random;
    let identity = match load_identity(disk)? {
        Some(last) => Identity {
            boot: last.boot.next(nonce),
            ..last
        },
        None if is_empty(disk)? => Identity {
            node: NodeId(fresh_node),
            boot: Boot::first(nonce),
        },
        None => return Err(IdentityError::Missing),
    };
    save(disk, IDENTITY, &encode_identity(identity)?)?;
    Ok(identity)
}

/// Who last ran on this directory; `None` if nobody did.
pub fn load_identity(disk: &Arc<dyn Disk>) -> Result<Option<Identity>, IdentityError> {
    let record = load::<IdentityRecord>(disk, IDENTITY)?;
    Ok(record.map(|last| Identity {
        node: NodeId(last.node),
        boot: Boot {
            counter: last.counter,
            nonce: last.nonce,
            previous: last.previous,
        },
    }))
}

/// The identity file of a run.
pub fn encode_identity(identity: Identity) -> Result<Vec<u8>, IdentityError> {
    let Boot {
        counter,
        nonce,
        previous,
    } = identity.boot;
    let record = IdentityRecord {
        node: identity.node.0,
        counter,
        nonce,
        previous,
    };
    encode(&record, IDENTITY)
}

/// The cluster that this directory belongs to, if it belongs to one.
pub fn load_founding(disk: &Arc<dyn Disk>) -> Result<Option<Founding>, IdentityError> {
    load(disk, CLUSTER)
}

/// Makes the cluster's record durable.
pub fn save_founding(disk: &Arc<dyn Disk>, founding: &Founding) -> Result<(), IdentityError> {
    save(disk, CLUSTER, &encode(founding, CLUSTER)?)
}

/// Whether no node ever lived here. What an unfinished first start leaves counts as nothing.
fn is_empty(disk: &Arc<dyn Disk>) -> Result<bool, IdentityError> {
    let io = |error| IdentityError::Io {
        file: IDENTITY,
        error,
    };
    let names = disk.list("").map_err(io)?;
    let data = names
        .iter()
        .any(|name| !name.ends_with(".new") && name != "LOCK");
    Ok(!data && has_no_files(disk, MEMBERSHIP_DIR)? && !has_store(disk)?)
}

/// Whether a store was ever begun: that is after the directory has come to belong to a cluster.
pub fn has_store(disk: &Arc<dyn Disk>) -> Result<bool, IdentityError> {
    for dir in STORE_DIRS {
        if !has_no_files(disk, dir)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_no_files(disk: &Arc<dyn Disk>, dir: &'static str) -> Result<bool, IdentityError> {
    match disk.list(dir) {
        Ok(names) => Ok(names.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(IdentityError::Io { file: dir, error }),
    }
}

fn encode<T>(record: &T, file: &'static str) -> Result<Vec<u8>, IdentityError>
where
    T: for<'a> Serialize<
        rkyv::api::high::HighSerializer<
            rkyv::util::AlignedVec,
            rkyv::ser::allocator::ArenaHandle<'a>,
            rancor::Error,
        >,
    >,
{
    let damaged = |e: rancor::Error| IdentityError::Damaged {
        file,
        reason: e.to_string(),
    };
    let body = rkyv::to_bytes::<rancor::Error>(record).map_err(damaged)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn load<T>(disk: &Arc<dyn Disk>, file: &'static str) -> Result<Option<T>, IdentityError>
where
    T: Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rancor::Error>>
        + Deserialize<T, rkyv::api::high::HighDeserializer<rancor::Error>>,
{
    let io = |error| IdentityError::Io { file, error };
    let damaged = |reason: &str| IdentityError::Damaged {
        file,
        reason: reason.to_owned(),
    };
    let handle = match disk.open(file, OpenMode::Existing) {
        Ok(handle) => handle,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let length = usize::try_from(handle.len().map_err(io)?).unwrap_or(usize::MAX);
    if !(HEADER_BYTES..1 << 24).contains(&length) {
        return Err(damaged("its length is impossible"));
    }
    let mut bytes = vec![0; length];
    read_exact_at(handle.as_ref(), &mut bytes, 0).map_err(io)?;
    let (header, body) = bytes.split_at(HEADER_BYTES);
    if header[0..8] != MAGIC {
        return Err(damaged("it does not begin as one of ours"));
    }
    if header[8..12] != (body.len() as u32).to_le_bytes() {
        return Err(damaged("it is cut"));
    }
    if header[12..16] != crc32fast::hash(body).to_le_bytes() {
        return Err(damaged("its checksum is wrong"));
    }
    let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(body.len());
    aligned.extend_from_slice(body);
    rkyv::from_bytes::<T, rancor::Error>(&aligned)
        .map(Some)
        .map_err(|e| IdentityError::Damaged {
            file,
            reason: e.to_string(),
        })
}

fn save(disk: &Arc<dyn Disk>, file: &'static str, bytes: &[u8]) -> Result<(), IdentityError> {
    let io = |error| IdentityError::Io { file, error };
    let beside = format!("{file}.new");
    let handle = with_reserve(disk, || disk.open(&beside, OpenMode::Create)).map_err(io)?;
    with_reserve(disk, || handle.write_at(bytes, 0)).map_err(io)?;
    handle.sync_data().map_err(io)?;
    disk.rename(&beside, file).map_err(io)?;
    disk.sync_dir("").map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterSettings;
    use crate::formation::Founder;
    use synod_storage::disk::SimDisk;

    fn disk() -> Arc<dyn Disk> {
        Arc::new(SimDisk::new(1))
    }

    #[test]
    fn each_boot_is_chained_to_the_one_before() {
        let disk = disk();
        let first = begin_boot(&disk, (7, 100)).unwrap();
        assert_eq!((first.node, first.boot), (NodeId(7), Boot::first(100)));
        let second = begin_boot(&disk, (8, 200)).unwrap();
        assert_eq!(second.node, NodeId(7), "a directory keeps its name");
        assert_eq!(
            second.boot,
            Boot {
                counter: 2,
                nonce: 200,
                previous: 100
            }
        );
    }

    #[test]
    fn every_flipped_bit_of_the_identity_is_an_error_that_names_the_file() {
        let disk = disk();
        begin_boot(&disk, (7, 100)).unwrap();
        let file = disk.open(IDENTITY, OpenMode::Existing).unwrap();
        let length = file.len().unwrap();
        for bit in 0..length * 8 {
            let mut byte = [0];
            read_exact_at(file.as_ref(), &mut byte, bit / 8).unwrap();
            let flipped = [byte[0] ^ 1 << (bit % 8)];
            file.write_at(&flipped, bit / 8).unwrap();
            let outcome = begin_boot(&disk, (9, 300));
            let Err(error) = outcome else {
                panic!("bit {bit} went unnoticed")
            };
            assert!(error.to_string().contains(IDENTITY), "{error}");
            file.write_at(&byte, bit / 8).unwrap();
        }
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let disk = disk();
        disk.create_dir("log").unwrap();
        assert!(
            begin_boot(&disk, (7, 100)).is_ok(),
            "an empty directory is no data"
        );
        disk.remove(IDENTITY).unwrap();
        disk.open("log/1", OpenMode::Create).unwrap();
        assert!(matches!(
            begin_boot(&disk, (7, 100)),
            Err(IdentityError::Missing)
        ));
    }

    #[test]
    fn the_cluster_record_comes_back() {
        let disk = disk();
        assert_eq!(load_founding(&disk).unwrap(), None);
        let founder = Founder {
            node: 1,
            boot: (1, 2, 0),
            peer: "127.0.0.1:7701".parse().unwrap(),
            client: "127.0.0.1:7601".parse().unwrap(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
        };
        let founding = Founding::plan(5, vec![founder], ClusterSettings::default());
        save_founding(&disk, &founding).unwrap();
        assert_eq!(load_founding(&disk).unwrap(), Some(founding));
    }
}
