//! Forced recovery of a data directory: going on when a majority of the voters is gone for good.
//!
//! No node does this by itself. An operator names the survivors, the same ones on the directory of each of them, and is
//! told first what may be lost ([`Recovery::examine`]). Each directory comes to the same new lineage by itself
//! ([`synod_membership::recovery`]), if all hold the same last view. Those left behind are of the old one, and are
//! refused should they come back.
//!
//! A copy of a whole cluster begins a lineage of its own in the same way ([`Recovery::restore`]).
//!
//! Two files change: the founding record gets the new cluster's id, then the view log the new first configuration. A
//! crash in between leaves a directory that does not start, and that the same command finishes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use synod_membership::configuration::SharedConfiguration;
use synod_membership::durable::{Record, Recovered, Registration};
use synod_membership::id::{ClusterId, NodeId};
use synod_membership::message::Snapshot;
use synod_membership::recovery::{self, Lineage, RecoveryError};
use synod_storage::disk::Disk;

use super::files::{Files, FilesError};
use crate::formation::Founding;
use crate::identity::{Identity, IdentityError, load_founding, load_identity, save_founding};

/// Why a directory cannot be recovered. Nothing has been changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// No node that belongs to a cluster has lived there.
    #[error("the directory belongs to no cluster")]
    NoCluster,
    /// The identity or the founding record cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The membership's files cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The directory to follow has not begun a lineage.
    #[error("the directory that this one is to be like is not restored yet")]
    NotRestored,
    /// The directory to follow is of another cluster.
    #[error("the directory that this one is to be like is not of the same copy")]
    OtherCopy,
    /// A recovery or a restore ended between its two files.
    #[error(
        "`synod node recover` or `synod node restore` of the data directory was cut short: nothing is lost; run the same \
         command on it again, which finishes it"
    )]
    CutShort,
    /// A name that does not stand for one member.
    #[error("{name} stands for {found} of the nodes of view {seq}, whose ids are {members}")]
    Name {
        /// As it was given.
        name: String,
        /// How many members' ids begin so.
        found: usize,
        /// The last view.
        seq: u64,
        /// Its members.
        members: String,
    },
    /// These members cannot begin a lineage from here.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// What a directory that belongs to a cluster says of it.
struct Held {
    identity: Identity,
    founding: Founding,
    files: Files,
    recovered: Recovered,
}

impl Held {
    fn open(disk: &Arc<dyn Disk>) -> Result<Self, LineageError> {
        let identity = load_identity(disk)?.ok_or(LineageError::NoCluster)?;
        let founding = load_founding(disk)?.ok_or(LineageError::NoCluster)?;
        let (files, recovered) = Files::open(disk, identity)?;
        Ok(Self {
            identity,
            founding,
            files,
            recovered,
        })
    }
}

/// A recovery that was thought through and not carried out.
#[derive(Debug)]
pub struct Recovery {
    /// What the directory would hold, and what may be lost.
    pub lineage: Lineage,
    /// The last configuration that the directory knows of.
    pub last: SharedConfiguration,
    /// Whose directory it is.
    pub node: NodeId,
    founding: Founding,
    files: Files,
}

impl Recovery {
    /// What the directory would come to with these survivors, named by their ids or the first digits of them.
    pub fn examine(disk: &Arc<dyn Disk>, survivors: &[String]) -> Result<Self, LineageError> {
        Self::think(disk, |directory, last, _| {
            let members = last.members().iter().map(|member| member.node).collect();
            let survivors = survivors.iter();
            let named = survivors.map(|name| named(last.seq(), &members, name));
            let survivors = named.collect::<Result<BTreeSet<NodeId>, _>>()?;
            Ok(recovery::force(directory, &survivors)?)
        })
    }

    /// What the directory, one of a copy of all of a cluster's, would come to under this name, with these members,
    /// named in the same way, at new addresses.
    pub fn restore(
        disk: &Arc<dyn Disk>,
        name: &str,
        addresses: &[(String, SocketAddr)],
    ) -> Result<Self, LineageError> {
        Self::think(disk, |directory, last, founding| {
            let members = last.members().iter().map(|member| member.node);
            let founders = founding.members.iter().map(|founder| NodeId(founder.node));
            let known: BTreeSet<NodeId> = members.chain(founders).collect();
            let mut moved = BTreeMap::new();
            for (name, address) in addresses {
                moved.insert(named(last.seq(), &known, name)?, *address);
            }
            // Joiners ask the founders, too, and those that join are some of them.
            for founder in &mut founding.members {
                if let Some(address) = moved.get(&NodeId(founder.node)) {
                    founder.peer = *address;
                }
            }
            moved.retain(|node, _| last.index_of(*node).is_some());
            Ok(recovery::restore(directory, name, &moved)?)
        })
    }

    /// What the directory would come to as one of the same copy as another that is restored already, and has seen
    /// the same last view or a later one.
    pub fn follow(disk: &Arc<dyn Disk>, other: &Restored) -> Result<Self, LineageError> {
        Self::think(disk, |directory, _, founding| {
            let lineage = recovery::follow(directory, &other.begun)?;
            let nodes = |founding: &Founding| -> Vec<u128> {
                founding.members.iter().map(|member| member.node).collect()
            };
            if nodes(founding) != nodes(&other.founding) {
                return Err(LineageError::OtherCopy);
            }
            founding.clone_from(&other.founding);
            Ok(lineage)
        })
    }

    fn think(
        disk: &Arc<dyn Disk>,
        begin: impl FnOnce(
            &Recovered,
            &SharedConfiguration,
            &mut Founding,
        ) -> Result<Lineage, LineageError>,
    ) -> Result<Self, LineageError> {
        let Held {
            identity,
            mut founding,
            files,
            mut recovered,
        } = Held::open(disk)?;
        recovered.registration = Some(Registration {
            cluster: Some(ClusterId(founding.cluster)),
            node: identity.node,
            boot: identity.boot,
        });
        let last = recovery::last(&recovered)?;
        Ok(Self {
            lineage: begin(&recovered, &last, &mut founding)?,
            last,
            node: identity.node,
            founding,
            files,
        })
    }

    /// Carries it out: the directory belongs to the new lineage when this returns. After an error, the same command
    /// begins or finishes it.
    pub fn carry_out(self, disk: &Arc<dyn Disk>) -> Result<(), LineageError> {
        let Self {
            lineage,
            founding,
            mut files,
            ..
        } = self;
        let founding = Founding {
            cluster: lineage.configuration.cluster().0,
            ..founding
        };
        save_founding(disk, &founding)?;
        if let Some(state) = lineage.directory.acceptor {
            files.write_now(disk, Record::Acceptor(state))?;
        }
        if let Some(base) = lineage.directory.base {
            files.write_now(disk, Record::Base(base))?;
        }
        Ok(())
    }
}

/// Refuses a directory whose recovery or restore was cut short.
pub fn finished(founding: &Founding, recovered: &Recovered) -> Result<(), LineageError> {
    let cluster = recovered
        .base
        .as_ref()
        .map(|base| base.configuration.cluster());
    match cluster.is_none_or(|cluster| cluster.0 == founding.cluster) {
        true => Ok(()),
        false => Err(LineageError::CutShort),
    }
}

/// A directory that begins with a lineage of its own.
#[derive(Debug)]
pub struct Restored {
    founding: Founding,
    begun: Arc<Snapshot>,
}

impl Restored {
    /// Reads it.
    pub fn read(disk: &Arc<dyn Disk>) -> Result<Self, LineageError> {
        let held = Held::open(disk)?;
        match held.recovered.base {
            Some(begun) if begun.begins_lineage() => Ok(Self {
                founding: held.founding,
                begun,
            }),
            _ => Err(LineageError::NotRestored),
        }
    }
}

/// The one of these nodes whose id begins so.
fn named(seq: u64, nodes: &BTreeSet<NodeId>, name: &str) -> Result<NodeId, LineageError> {
    let begins = |id: &&NodeId| !name.is_empty() && id.to_string().starts_with(name);
    let mut found = nodes.iter().filter(begins);
    match (found.next(), found.count()) {
        (Some(node), 0) => Ok(*node),
        (first, more) => Err(LineageError::Name {
            name: format!("{name:?}"),
            found: usize::from(first.is_some()) + more,
            seq,
            members: nodes
                .iter()
                .map(NodeId::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formation::Founder;
    use crate::identity::begin_boot;
    use synod_storage::disk::SimDisk;

    /// The directories of five founders.
    fn founders() -> Vec<Arc<dyn Disk>> {
        let founder = |i: u16| Founder {
            node: u128::from(i) << 124,
            boot: (1, u64::from(i), 0),
            peer: ([127, 0, 0, 1], 7700 + i).into(),
            client: ([127, 0, 0, 1], 7600 + i).into(),
            labels: Default::default(),
        };
        let settings = crate::config::Settings::from_layers(&Default::default());
        let settings = settings.expect("the defaults are valid").cluster;
        let founding = Founding::plan(5, (1..=5).map(founder).collect(), settings);
        let directory = |i: u16| {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(i.into()));
            let identity = begin_boot(&disk, (u128::from(i) << 124, i.into())).expect("a boot");
            let (mut files, _) = Files::open(&disk, identity).expect("the files");
            let first = crate::membership::founded(&founding, identity.node).expect("a founder");
            files.found(&disk, &first).expect("a base");
            save_founding(&disk, &founding).expect("the record");
            disk
        };
        (1..=5).map(directory).collect()
    }

    fn survivors() -> Vec<String> {
        vec!["2".to_owned(), "4".to_owned()]
    }

    /// The cluster of the founding record, and that of the last configuration.
    fn clusters(disk: &Arc<dyn Disk>) -> (u128, u128) {
        let held = Held::open(disk).expect("whole");
        let last = recovery::last(&held.recovered).expect("a chain");
        (held.founding.cluster, last.cluster().0)
    }

    #[test]
    fn survivors_come_to_one_new_lineage_and_cannot_be_forced_again() {
        let disks = founders();
        for disk in [&disks[1], &disks[3]] {
            let recovery = Recovery::examine(disk, &survivors()).expect("two of five");
            assert_eq!(recovery.lineage.loss.voters.len(), 3);
            assert_eq!(clusters(disk), (5, 5), "to look at it changes nothing");
            recovery.carry_out(disk).expect("the disk works");
        }
        let (founding, last) = clusters(&disks[1]);
        assert_eq!(founding, last);
        assert_ne!(founding, 5);
        assert_eq!(clusters(&disks[3]), clusters(&disks[1]));
        let again =
            Recovery::examine(&disks[1], &survivors()).expect_err("they are a majority now");
        assert!(again.to_string().contains("start them"), "{again}");
    }

    #[test]
    fn copies_of_all_directories_become_one_new_cluster_at_new_addresses() {
        let disks = founders();
        let moved: SocketAddr = ([127, 0, 0, 1], 7805).into();
        let places = [("5".to_owned(), moved)];
        for disk in &disks {
            let restored = Recovery::restore(disk, "drill", &places).expect("a copy of all");
            assert_eq!(clusters(disk), (5, 5), "to look at it changes nothing");
            restored.carry_out(disk).expect("the disk works");
        }
        let (founding, last) = clusters(&disks[0]);
        assert_eq!(founding, last);
        assert_ne!(founding, 5);
        assert!(
            disks
                .iter()
                .all(|disk| clusters(disk) == (founding, founding))
        );
        let record = load_founding(&disks[0]).expect("whole").expect("there");
        assert_eq!(record.members[4].peer, moved);
        let again = Recovery::restore(&disks[0], "drill", &places).expect_err("it is done");
        assert!(again.to_string().contains("restored already"), "{again}");
        let error = Recovery::restore(&disks[0], "other", &[("9".to_owned(), moved)]);
        let error = error.expect_err("nobody has this id").to_string();
        assert!(error.contains("\"9\" stands for 0"), "{error}");
    }

    #[test]
    fn a_copy_that_is_behind_becomes_part_of_what_another_one_has_begun() {
        let disks = founders();
        let first = Restored::read(&disks[0]).expect_err("it is as it was copied");
        assert!(first.to_string().contains("not restored yet"), "{first}");
        let restored = Recovery::restore(&disks[0], "drill", &[]).expect("a copy of all");
        restored.carry_out(&disks[0]).expect("the disk works");
        let first = Restored::read(&disks[0]).expect("it is restored");
        let follows = Recovery::follow(&disks[1], &first).expect("of the same copy");
        follows.carry_out(&disks[1]).expect("the disk works");
        assert_eq!(clusters(&disks[1]), clusters(&disks[0]));
        let again = Recovery::follow(&disks[1], &first).expect_err("it is done");
        assert!(again.to_string().contains("restored already"), "{again}");
    }

    /// Whether a node would start on the directory.
    fn starts(disk: &Arc<dyn Disk>) -> Result<(), LineageError> {
        let held = Held::open(disk)?;
        finished(&held.founding, &held.recovered)
    }

    /// A crash cuts this command short on the directory, and it is given again.
    fn cut_short_and_again(
        disk: &Arc<dyn Disk>,
        command: impl Fn(&Arc<dyn Disk>) -> Result<Recovery, LineageError>,
    ) {
        starts(disk).expect("nothing was done to it");
        let whole = command(disk).expect("it can be done");
        let cluster = whole.lineage.configuration.cluster().0;
        let founding = Founding {
            cluster,
            ..whole.founding
        };
        save_founding(disk, &founding).expect("the first half");
        let refused = starts(disk).expect_err("it is half done").to_string();
        assert!(refused.contains("run the same command"), "{refused}");
        let again = command(disk).expect("the same command");
        again.carry_out(disk).expect("the disk works");
        assert_eq!(clusters(disk), (cluster, cluster));
        starts(disk).expect("it is done");
    }

    #[test]
    fn what_a_crash_cut_short_does_not_start_and_is_finished_by_the_same_command() {
        let disks = founders();
        cut_short_and_again(&disks[1], |disk| Recovery::examine(disk, &survivors()));
        let moved = [("2".to_owned(), ([127, 0, 0, 1], 7802).into())];
        cut_short_and_again(&disks[3], |disk| Recovery::restore(disk, "drill", &moved));
    }

    #[test]
    fn who_is_no_member_or_no_survivor_is_named() {
        let disks = founders();
        let refused = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let error = Recovery::examine(&disks[0], &names).expect_err("it is refused");
            error.to_string()
        };
        assert!(refused(&["1", "9"]).contains("\"9\" stands for 0"));
        assert!(refused(&["1", ""]).contains("\"\" stands for 0"));
        assert!(refused(&["2"]).contains("not among the survivors"));
        assert!(refused(&["1", "2", "3"]).contains("3 of 5 votes"));
        let empty: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let error = Recovery::examine(&empty, &survivors()).expect_err("it is empty");
        assert!(error.to_string().contains("no cluster"), "{error}");
    }
}
