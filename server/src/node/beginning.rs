//! How a node comes to its cluster: what it says of itself to others that form one, and what it makes
//! durable before it tells anybody of the cluster that it found.

use std::net::SocketAddr;
use std::sync::Arc;

use synod_membership::durable::Recovered;
use synod_membership::effect::Effects;
use synod_membership::time::Time;
use synod_storage::disk::Disk;
use tokio::sync::Notify;
use tracing::info;

use super::{Environment, NodeError};
use crate::config::Settings;
use crate::formation::{Formation, Founder, Founding};
use crate::identity::{Identity, save_founding};
use crate::membership::files::{Files, FilesError};
use crate::membership::lineage;
use crate::membership::writer::Writer;
use crate::membership::{self, Beginning, Membership};

/// What a directory holds of the membership.
pub(super) struct Holding {
    files: Files,
    recovered: Recovered,
}

impl Holding {
    /// Reads it, and refuses what does not belong to the cluster of the directory's founding record.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        identity: Identity,
        founding: Option<&Founding>,
    ) -> Result<Self, NodeError> {
        let (files, recovered) = Files::open(disk, identity)?;
        if let Some(founding) = founding {
            lineage::finished(founding, &recovered)?;
        }
        Ok(Self { files, recovered })
    }

    /// Makes a cluster that was just formed or found this directory's own.
    pub(super) fn keep(
        &mut self,
        disk: &Arc<dyn Disk>,
        founding: &Founding,
        identity: Identity,
    ) -> Result<(), NodeError> {
        let first = membership::founded(founding, identity.node);
        if let Some(base) = self.recovered.base.as_ref().filter(|_| first.is_none()) {
            return Err(NodeError::Broken(format!(
                "this node was about to found cluster {} when it was stopped, and those to join belong to cluster \
                 {:032x}, of which it is no founder: give --join the other founders, or --data an empty directory; \
                 nothing was changed",
                base.configuration.cluster(),
                founding.cluster
            )));
        }
        info!(
            cluster = format!("{:032x}", founding.cluster),
            founders = founding.members.len(),
            shards = founding.shards.len(),
            founder = first.is_some(),
            "the cluster is known"
        );
        // The membership's beginning first: a record without it would be half of a beginning.
        if let Some(first) = first {
            self.files.found(disk, &first)?;
            self.recovered.base = first.base;
        }
        save_founding(disk, founding)?;
        Ok(())
    }

    /// Starts the membership on it, and its lane.
    pub(super) fn start(
        self,
        environment: &Environment,
        settings: &Settings,
        identity: Identity,
        founding: &Founding,
        join: &[SocketAddr],
        wake: &Arc<Notify>,
    ) -> Result<(Membership, Writer, Effects), NodeError> {
        let Self { files, recovered } = self;
        if founding.member(identity.node.0).is_some() && recovered.base.is_none() {
            return Err(FilesError::Views("it is gone".to_owned()).into());
        }
        let work = environment.disk_work.for_membership();
        let writer = Writer::start(files, environment.disk.clone(), work, wake.clone())
            .map_err(|error| NodeError::Broken(format!("cannot start I/O threads: {error}")))?;
        let beginning = Beginning {
            founding,
            identity,
            peer: settings.process.peer_advertise,
            client: settings.process.client,
            labels: &settings.process.labels,
            join,
            recovered,
            seed: environment.entropy.membership,
        };
        let mut begun = Effects::new();
        let now = Time(environment.clock.monotonic_us());
        let membership = Membership::start(now, beginning, &mut begun);
        Ok((membership, writer, begun))
    }
}

/// A formation in which this node takes part.
pub(super) fn formation(
    identity: Identity,
    settings: &Settings,
    join: &[SocketAddr],
    fresh_cluster: u128,
) -> Formation {
    let boot = identity.boot;
    let me = Founder {
        node: identity.node.0,
        boot: (boot.counter, boot.nonce, boot.previous),
        peer: settings.process.peer_advertise,
        client: settings.process.client,
        labels: settings.process.labels.clone(),
    };
    Formation::new(me, join, settings.cluster.clone(), fresh_cluster)
}

#[cfg(test)]
mod tests {
    use synod_storage::disk::SimDisk;

    use super::*;
    use crate::identity::{begin_boot, load_founding};

    fn founding(cluster: u128, node: u128, boot: (u64, u64, u64)) -> Founding {
        let founder = Founder {
            node,
            boot,
            peer: ([127, 0, 0, 1], 7701).into(),
            client: ([127, 0, 0, 1], 7601).into(),
            labels: Default::default(),
        };
        let settings = Settings::from_layers(&Default::default()).expect("the defaults are valid");
        Founding::plan(cluster, vec![founder], settings.cluster)
    }

    #[test]
    fn a_founder_that_was_cut_short_does_not_join_another_cluster() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let identity = begin_boot(&disk, (7, 7)).expect("a boot");
        let boot = identity.boot;
        let own = founding(1, 7, (boot.counter, boot.nonce, boot.previous));
        let first = membership::founded(&own, identity.node).expect("a founder");
        let mut cut = Holding::open(&disk, identity, None).expect("the files");
        cut.files.found(&disk, &first).expect("the first half");

        let mut again = Holding::open(&disk, identity, None).expect("the files");
        let elsewhere = founding(2, 8, (1, 8, 0));
        let refused = again
            .keep(&disk, &elsewhere, identity)
            .expect_err("it is another cluster")
            .to_string();
        assert!(refused.contains("about to found cluster"), "{refused}");
        assert!(
            load_founding(&disk).expect("whole").is_none(),
            "nothing was changed"
        );
        // It may found anew: nobody was told of the first time.
        again
            .keep(
                &disk,
                &founding(3, 7, (boot.counter, boot.nonce, boot.previous)),
                identity,
            )
            .expect("a founder");
        let kept = load_founding(&disk).expect("whole").expect("there");
        Holding::open(&disk, identity, Some(&kept)).expect("it starts");
    }
}
