//! The membership's files in a data directory.
//!
//! ```text
//! identity                 node and boot, replaced whole (see crate::identity)
//! membership/acceptor-a/-b the acceptor's state, in two copies
//! membership/views         the view log: a base and the certified views since
//! membership/reserve       space for the next of them when the disk is full
//! ```
//!
//! All but the reserve are there, if only blank, before the founding record is, and so before anybody is
//! told of this node as a member. A file that is missing later was lost, and with it what the node had
//! promised: it must not vote again under its name.
//!
//! The formats are the core's ([`synod_membership::durable`]); what is here says in which order bytes,
//! syncs and names reach the disk. The acceptor's copies are overwritten in place, the second after the
//! first is synced: a crash spoils at most one. A view is appended and synced. A new base, after old
//! views were dropped, goes to a file beside the log, which then takes its name.
//!
//! A full disk must not end a node: it goes on as a member, and serves reads. What it must write for that
//! is little, and the reserve makes room for it.
//!
//! What recovery finds is written anew, over itself, and synced before anybody relies on it: after the death
//! of a process the page cache shows writes that no power cut would have left. A sync alone would not do. If
//! the process died of a sync that failed, the system counts those pages as clean, and would sync nothing.

use std::io;
use std::sync::Arc;

use synod_membership::durable::log::{self, LogError};
use synod_membership::durable::slots::{self, SlotError, Slots};
use synod_membership::durable::{AcceptorState, Record, Recovered};
use synod_membership::id::Boot;
use synod_storage::disk::{Disk, DiskFile, OpenMode, read_exact_at};

use crate::identity::{CLUSTER, IDENTITY, Identity, IdentityError, encode_identity, has_store};

/// The directory of the membership's files.
pub const DIR: &str = "membership";
const SLOTS: [&str; 2] = ["membership/acceptor-a", "membership/acceptor-b"];
const VIEWS: &str = "membership/views";
const VIEWS_NEW: &str = "membership/views.new";
const RESERVE: &str = "membership/reserve";
/// Some views of thousands of members, and an identity.
const RESERVE_BYTES: usize = 256 << 10;
/// Files longer than this are not ours.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why the membership's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The disk failed.
    #[error("{file}: {error}")]
    Io {
        /// Which file.
        file: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// What the node promised its peers is lost.
    #[error(
        "{DIR}/acceptor-a and -b are unusable ({0}), and with them what this node has promised to \
         its peers: move the directory away and start anew to join as a new node"
    )]
    Acceptor(SlotError),
    /// The founding record is gone, and what came after it is there.
    #[error(
        "the {CLUSTER} file is gone, and this node has been a member of a cluster: restore it from \
         a copy of this very directory, or move the directory away and start anew to join as a new \
         node"
    )]
    Cluster,
    /// The view log is damaged, or gone.
    #[error(
        "{VIEWS} is unusable ({0}): move the directory away and start anew to join as a new node"
    )]
    Views(String),
    /// The identity cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// One operation on the disk. A crash may fall between any two.
#[derive(Debug)]
pub enum Operation {
    /// Opens a file; the next writes and syncs are its.
    Open(&'static str, OpenMode),
    /// Writes bytes at an offset.
    Write(u64, Vec<u8>),
    /// Makes the contents durable.
    Sync,
    /// Gives a file another's name.
    Rename(&'static str, &'static str),
    /// Makes a directory's names durable.
    SyncDir(&'static str),
}

/// What the files hold, and where writing goes on.
///
/// Invariant: `content` is what the files hold once all operations handed out so far are carried out.
#[derive(Debug)]
pub struct Files {
    content: Recovered,
    generation: u64,
    log_bytes: u64,
    /// The boot that the identity file is known to hold.
    boot: Boot,
}

impl Files {
    /// Reads what is there, repairs what a crash left, and makes it durable. The registration is not part
    /// of it: the identity file is raised before this.
    pub fn open(disk: &Arc<dyn Disk>, identity: Identity) -> Result<(Self, Recovered), FilesError> {
        let io = |error| FilesError::Io { file: DIR, error };
        disk.create_dir(DIR).map_err(io)?;
        let copies = [
            read_or_create(disk, SLOTS[0])?,
            read_or_create(disk, SLOTS[1])?,
        ];
        let bytes = read_or_create(disk, VIEWS)?;
        let found =
            log::recover(&bytes).map_err(|error: LogError| FilesError::Views(error.to_string()))?;
        let has_cluster = has_cluster(disk)?;
        let slots = match slots::recover::<AcceptorState>(&copies[0], &copies[1]) {
            Ok(slots) => slots,
            // An unfinished first start: without a cluster nothing was promised to anybody.
            Err(_) if found.base.is_none() && !has_cluster && !has_store(disk)? => Slots {
                value: None,
                generation: 0,
            },
            Err(error) => return Err(FilesError::Acceptor(error)),
        };
        if slots.value.is_some() && found.base.is_none() {
            return Err(FilesError::Views("it is gone".to_owned()));
        }
        let was_member = slots.value.is_some() || !found.views.is_empty();
        if !has_cluster && (was_member || has_store(disk)?) {
            return Err(FilesError::Cluster);
        }
        disk.sync_dir(DIR).map_err(io)?;
        let content = Recovered {
            registration: None,
            acceptor: slots.value.map(Arc::new),
            base: found.base,
            views: found.views,
        };
        let mut this = Self {
            content,
            generation: slots.generation,
            log_bytes: found.valid_bytes as u64,
            boot: identity.boot,
        };
        let file = open(disk, VIEWS)?;
        let io = |error| FilesError::Io { file: VIEWS, error };
        // At most the last view was not durable: a power cut in here tears that one, or none.
        file.write_at(&bytes[..found.valid_bytes], 0).map_err(io)?;
        file.set_len(this.log_bytes).map_err(io)?;
        file.sync_data().map_err(io)?;
        match this.content.acceptor.clone() {
            Some(state) => this.write_now(disk, Record::Acceptor(state))?,
            None => carry_out_all(disk, slot_operations(&slots::blank()))?,
        }
        set_aside(disk);
        let recovered = this.content.clone();
        Ok((this, recovered))
    }

    /// Writes a founder's first configuration, durable when this returns.
    pub fn found(&mut self, disk: &Arc<dyn Disk>, first: &Recovered) -> Result<(), FilesError> {
        for record in first.records() {
            match record {
                Record::Base(_) => self.write_now(disk, record)?,
                // The identity file holds the registration already, and nobody has promised anything.
                Record::Registration(_) | Record::Acceptor(_) | Record::View(_) => {}
            }
        }
        self.content.base.clone_from(&first.base);
        Ok(())
    }

    /// Makes a record durable before it returns.
    pub(super) fn write_now(
        &mut self,
        disk: &Arc<dyn Disk>,
        record: Record,
    ) -> Result<(), FilesError> {
        carry_out_all(disk, self.operations(record)?)
    }

    /// What makes a record durable, in order.
    pub fn operations(&mut self, record: Record) -> Result<Vec<Operation>, IdentityError> {
        self.content.apply(&record);
        Ok(match record {
            Record::Registration(registration) if registration.boot == self.boot => Vec::new(),
            Record::Registration(registration) => {
                self.boot = registration.boot;
                let identity = Identity {
                    node: registration.node,
                    boot: registration.boot,
                };
                vec![
                    Operation::Open("identity.new", OpenMode::Create),
                    Operation::Write(0, encode_identity(identity)?),
                    Operation::Sync,
                    Operation::Rename("identity.new", IDENTITY),
                    Operation::SyncDir(""),
                ]
            }
            Record::Acceptor(state) => {
                self.generation += 1;
                slot_operations(&slots::encode(self.generation, state.as_ref()))
            }
            Record::View(view) => {
                let bytes = log::encode_view(&view);
                let at = self.log_bytes;
                self.log_bytes += bytes.len() as u64;
                vec![
                    Operation::Open(VIEWS, OpenMode::Existing),
                    Operation::Write(at, bytes),
                    Operation::Sync,
                ]
            }
            Record::Base(base) => {
                let mut bytes = log::encode_base(&base);
                for view in &self.content.views {
                    bytes.extend(log::encode_view(view));
                }
                self.log_bytes = bytes.len() as u64;
                vec![
                    Operation::Open(VIEWS_NEW, OpenMode::Create),
                    Operation::Write(0, bytes),
                    Operation::Sync,
                    Operation::Rename(VIEWS_NEW, VIEWS),
                    Operation::SyncDir(DIR),
                ]
            }
        })
    }
}

/// Carries out operations, one at a time.
#[derive(Debug, Default)]
pub struct Hand {
    file: Option<Arc<dyn DiskFile>>,
}

impl Hand {
    /// One operation. After an error, what the disk holds is unknown.
    pub fn carry_out(&mut self, disk: &Arc<dyn Disk>, operation: Operation) -> io::Result<()> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "no file is open");
        match operation {
            Operation::Open(file, mode) => {
                self.file = Some(with_reserve(disk, || disk.open(file, mode))?);
                Ok(())
            }
            Operation::Write(at, bytes) => {
                let file = self.file.as_ref().ok_or_else(none)?;
                with_reserve(disk, || file.write_at(&bytes, at))
            }
            Operation::Sync => self.file.as_ref().ok_or_else(none)?.sync_data(),
            Operation::Rename(from, to) => disk.rename(from, to),
            Operation::SyncDir(dir) => disk.sync_dir(dir),
        }
    }
}

/// Makes sure that there is a reserve, if there is room for it. Without one a full disk stops the node,
/// that is all.
pub fn set_aside(disk: &Arc<dyn Disk>) {
    let is_there = disk
        .open(RESERVE, OpenMode::Existing)
        .and_then(|file| file.len())
        .is_ok_and(|bytes| bytes >= RESERVE_BYTES as u64);
    if is_there {
        return;
    }
    let written = disk.open(RESERVE, OpenMode::Create).and_then(|file| {
        file.write_at(&vec![0; RESERVE_BYTES], 0)?;
        file.sync_data()
    });
    if written.is_err() {
        // Half of it would only take space away.
        let _ = disk.remove(RESERVE);
    }
}

/// Does something that takes space, out of the reserve if there is none left. Nothing that syncs: that is
/// never tried twice.
pub fn with_reserve<T>(disk: &Arc<dyn Disk>, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match act() {
        Err(error)
            if error.kind() == io::ErrorKind::StorageFull && disk.remove(RESERVE).is_ok() =>
        {
            tracing::warn!("the disk is full: using the reserve for the membership");
            act()
        }
        done => done,
    }
}

/// One copy after the other.
fn slot_operations(bytes: &[u8]) -> Vec<Operation> {
    let copy = |file| {
        [
            Operation::Open(file, OpenMode::Existing),
            Operation::Write(0, bytes.to_vec()),
            Operation::Sync,
        ]
    };
    SLOTS.into_iter().flat_map(copy).collect()
}

fn carry_out_all(disk: &Arc<dyn Disk>, operations: Vec<Operation>) -> Result<(), FilesError> {
    let mut hand = Hand::default();
    operations
        .into_iter()
        .try_for_each(|operation| hand.carry_out(disk, operation))
        .map_err(|error| FilesError::Io { file: DIR, error })
}

/// Whether the directory belongs to a cluster. The record itself is read by somebody else.
fn has_cluster(disk: &Arc<dyn Disk>) -> Result<bool, FilesError> {
    match disk.open(CLUSTER, OpenMode::Existing) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FilesError::Io {
            file: CLUSTER,
            error,
        }),
    }
}

fn open(disk: &Arc<dyn Disk>, file: &'static str) -> Result<Arc<dyn DiskFile>, FilesError> {
    let io = |error| FilesError::Io { file, error };
    match disk.open(file, OpenMode::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.open(file, OpenMode::Create).map_err(io)
        }
        other => other.map_err(io),
    }
}

/// A file's bytes; made empty if it is not there.
fn read_or_create(disk: &Arc<dyn Disk>, file: &'static str) -> Result<Vec<u8>, FilesError> {
    let io = |error| FilesError::Io { file, error };
    let handle = open(disk, file)?;
    let length = handle.len().map_err(io)?;
    if length > FILE_BYTES_MAX {
        return Err(FilesError::Views(format!(
            "{file} has an impossible length of {length} bytes"
        )));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    read_exact_at(handle.as_ref(), &mut bytes, 0).map_err(io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formation::{Founder, Founding};
    use crate::identity::{begin_boot, save_founding};
    use synod_membership::bitmap::Bitmap;
    use synod_membership::id::{ConfigHash, NodeId};
    use synod_membership::view::{Certificate, Rank, View};
    use synod_storage::disk::{Fault, SimDisk, Survival};

    fn founding() -> Founding {
        let founder = Founder {
            node: 7,
            boot: (1, 100, 0),
            peer: "127.0.0.1:7701".parse().expect("an address"),
            client: "127.0.0.1:7601".parse().expect("an address"),
            labels: Default::default(),
        };
        let settings = crate::config::Settings::from_layers(&Default::default());
        let settings = settings.expect("the defaults are valid").cluster;
        Founding::plan(5, vec![founder], settings)
    }

    fn state(writes: u64) -> Record {
        let founded = crate::membership::founded(&founding(), NodeId(7)).expect("a founder");
        let base = founded.base.expect("a base");
        Record::Acceptor(Arc::new(AcceptorState {
            seq: 1,
            config: base.configuration.hash(),
            promised: Rank::FAST,
            vote: None,
            writes,
        }))
    }

    /// A step of the chain as the log holds it, which does not ask for proofs.
    fn view(seq: u64) -> Record {
        let certificate = Certificate {
            config: ConfigHash(0),
            rank: Rank::FAST,
            voters: Bitmap::empty(1),
        };
        Record::View(Arc::new(View {
            seq,
            hash: ConfigHash(seq.into()),
            cut: Arc::default(),
            certificate,
        }))
    }

    fn begun(disk: &Arc<dyn Disk>) -> Files {
        let identity = begin_boot(disk, (7, 100)).expect("a boot");
        let (mut files, found) = Files::open(disk, identity).expect("the files");
        assert!(found.base.is_none() && found.acceptor.is_none());
        let first = crate::membership::founded(&founding(), NodeId(7)).expect("a founder");
        files.found(disk, &first).expect("a base");
        save_founding(disk, &founding()).expect("the record");
        files
    }

    /// The power fails after each number of operations of each write: what was confirmed is there, and
    /// what was not is there whole or not at all.
    #[test]
    fn a_power_cut_between_any_two_operations_loses_nothing_confirmed() {
        for seed in 0..40 {
            for cut in 0..12 {
                let sim = SimDisk::new(seed);
                let disk: Arc<dyn Disk> = Arc::new(sim.clone());
                let mut files = begun(&disk);
                let mut hand = Hand::default();
                let mut confirmed = 0;
                let mut left = cut;
                'writes: for writes in 1..=2 {
                    for operation in files.operations(state(writes)).expect("operations") {
                        if left == 0 {
                            break 'writes;
                        }
                        left -= 1;
                        hand.carry_out(&disk, operation).expect("the disk works");
                    }
                    confirmed = writes;
                }
                let disk: Arc<dyn Disk> = Arc::new(sim.power_loss(Survival::Random));
                let identity = begin_boot(&disk, (8, 200)).expect("the second boot");
                let (_, found) = Files::open(&disk, identity).expect("the files again");
                assert!(found.base.is_some(), "seed {seed}, cut {cut}");
                let writes = found.acceptor.map_or(0, |state| state.writes);
                assert!(
                    writes == confirmed || writes == confirmed + 1,
                    "seed {seed}, cut {cut}: {writes} where {confirmed} were confirmed"
                );
            }
        }
    }

    /// A sync fails, the process dies of it, the next one reads what the page cache shows, and the power
    /// fails: what that process saw, it may have told its peers.
    #[test]
    fn what_a_start_has_seen_survives_a_power_cut_after_a_failed_sync() {
        for survival in [Survival::Nothing, Survival::Random] {
            for failing in 0..5 {
                let sim = SimDisk::new(failing);
                let disk: Arc<dyn Disk> = Arc::new(sim.clone());
                let mut files = begun(&disk);
                files.write_now(&disk, state(1)).expect("the disk works");
                sim.inject(Fault::FailSync(failing));
                let writes = [view(2), state(2), view(3)];
                let broken = writes
                    .into_iter()
                    .find_map(|record| files.write_now(&disk, record).err());
                assert!(broken.is_some() || failing > 3, "sync {failing} fails");
                let sim = sim.kill();
                let disk: Arc<dyn Disk> = Arc::new(sim.clone());
                sim.heal();
                let seen = reopened(&disk, 8);
                let disk: Arc<dyn Disk> = Arc::new(sim.power_loss(survival));
                let found = reopened(&disk, 9);
                assert_eq!(found, seen, "after sync {failing} had failed");
            }
        }
    }

    /// What another boot finds: the acceptor's writes, and the length of the view log.
    fn reopened(disk: &Arc<dyn Disk>, nonce: u64) -> (u64, u64) {
        let identity = begin_boot(disk, (0, nonce)).expect("a boot");
        let (files, found) = Files::open(disk, identity).expect("the files again");
        assert!(found.base.is_some());
        (
            found.acceptor.map_or(0, |state| state.writes),
            files.log_bytes,
        )
    }

    #[test]
    fn a_full_disk_has_room_for_a_view_and_the_next_boot() {
        let sim = SimDisk::new(1);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let mut files = begun(&disk);
        const ROOM: u64 = 1 << 40;
        sim.inject(Fault::Capacity(ROOM));
        let used = ROOM - disk.available_bytes().expect("its size");
        sim.inject(Fault::Capacity(used));
        let other = disk.open("other", OpenMode::Create);
        let refused = other.and_then(|file| file.write_at(&[1; 8192], 0));
        let refused = refused.expect_err("it is full").kind();
        assert_eq!(refused, io::ErrorKind::StorageFull);
        for _ in 0..3 {
            let founded = crate::membership::founded(&founding(), NodeId(7)).expect("a founder");
            let base = founded.base.expect("a base");
            files.write_now(&disk, Record::Base(base)).expect("room");
        }
        let identity = begin_boot(&disk, (8, 200)).expect("room for a boot");
        assert_eq!(identity.boot.counter, 2);
        let (_, found) = Files::open(&disk, identity).expect("the files");
        assert!(found.base.is_some());
        sim.inject(Fault::Capacity(ROOM));
        set_aside(&disk);
        disk.open(RESERVE, OpenMode::Existing).expect("it is back");
    }

    #[test]
    fn rot_in_both_copies_is_an_error_that_says_what_is_lost() {
        let error = after_a_vote(|disk| {
            for file in SLOTS {
                let copy = disk.open(file, OpenMode::Existing).expect("the copy");
                copy.write_at(&[0xff], 20).expect("rot");
            }
        });
        assert!(error.expect("both are damaged").contains("promised"));
    }

    /// Whichever of its files are lost: one copy of the acceptor's state is enough, and without the rest
    /// the node does not start, for it would vote anew on what it has voted on.
    #[test]
    fn a_node_whose_promises_are_lost_does_not_start() {
        let lose = |files: &[&str]| {
            after_a_vote(|disk| {
                for file in files {
                    disk.remove(file).expect("it was there");
                }
            })
        };
        assert_eq!(lose(&[]), None);
        assert_eq!(lose(&[SLOTS[0]]), None);
        assert_eq!(lose(&[SLOTS[1]]), None);
        let promised = "what this node has promised";
        for (lost, says) in [
            (&SLOTS[..], promised),
            (&[SLOTS[0], SLOTS[1], VIEWS], promised),
            (&[SLOTS[0], SLOTS[1], CLUSTER], promised),
            (&[VIEWS], "it is gone"),
            (&[CLUSTER], "the cluster file is gone"),
        ] {
            let error = lose(lost).expect("it is an error");
            assert!(error.contains(says), "{lost:?}: {error}");
            assert!(error.contains("start anew"), "{lost:?}: {error}");
        }
        let emptied = after_a_vote(|disk| {
            for file in SLOTS {
                let copy = disk.open(file, OpenMode::Existing).expect("the copy");
                copy.set_len(0).expect("the disk works");
            }
        });
        assert!(emptied.expect("it is an error").contains(promised));
    }

    /// Only who it was and its store are left: it must not take itself for new.
    #[test]
    fn a_store_without_its_membership_does_not_start() {
        let error = after_a_vote(|disk| {
            for file in [SLOTS[0], SLOTS[1], VIEWS, CLUSTER] {
                disk.remove(file).expect("it was there");
            }
            disk.create_dir("log").expect("the store");
            disk.open("log/1", OpenMode::Create).expect("the store");
        });
        assert!(error.expect("it is an error").contains("promised"));
    }

    /// A first start that is cut short at any moment leaves nothing that stands in the way of the next.
    #[test]
    fn a_first_start_that_ends_early_is_begun_again() {
        for seed in 0..200 {
            let sim = SimDisk::new(seed);
            let disk: Arc<dyn Disk> = Arc::new(sim.clone());
            let identity = begin_boot(&disk, (7, 100)).expect("a boot");
            sim.inject(Fault::FailSync(seed % 8));
            let begun = Files::open(&disk, identity);
            let kept = begun.map_err(|error| error.to_string());
            let founded = kept.and_then(|(mut files, _)| {
                let first = crate::membership::founded(&founding(), NodeId(7)).expect("a founder");
                let kept = files.found(&disk, &first).map_err(|e| e.to_string());
                kept.and_then(|()| save_founding(&disk, &founding()).map_err(|e| e.to_string()))
            });
            sim.heal();
            let disk: Arc<dyn Disk> = Arc::new(sim.power_loss(Survival::Random));
            let identity = begin_boot(&disk, (8, 200)).expect("the second boot");
            let (_, found) = Files::open(&disk, identity)
                .unwrap_or_else(|error| panic!("seed {seed}, {founded:?}: {error}"));
            assert!(found.acceptor.is_none());
            assert!(found.base.is_some() || founded.is_err(), "seed {seed}");
        }
    }

    /// What another start says after a vote and some damage; `None` if it goes on.
    fn after_a_vote(damage: impl Fn(&Arc<dyn Disk>)) -> Option<String> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let mut files = begun(&disk);
        files.write_now(&disk, state(1)).expect("a write");
        damage(&disk);
        let identity = begin_boot(&disk, (8, 200)).expect("the second boot");
        match Files::open(&disk, identity) {
            Ok((_, found)) => {
                assert_eq!(found.acceptor.expect("a vote").writes, 1);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }
}
