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
use crate::membership::writer::Writer;
use crate::membership::{self, Beginning, Membership};

/// What a directory holds of the membership.
pub(super) struct Holding {
    files: Files,
    recovered: Recovered,
}

impl Holding {
    /// Reads it.
    pub(super) fn open(disk: &Arc<dyn Disk>, identity: Identity) -> Result<Self, FilesError> {
        let (files, recovered) = Files::open(disk, identity)?;
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
