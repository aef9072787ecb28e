//! Settings: where they come from, and what they become.
//!
//! Every setting has one name and three places to be given: the flag `--peer-advertise`, the
//! environment variable `SYNOD_PEER_ADVERTISE`, and the key `peer_advertise` of the TOML file that
//! `--config` names. The first of flag, environment, file that has it wins; else its default holds.
//! All of them are declared once, in [`catalog`], so the three places cannot drift apart; whatever
//! the place, a value arrives here as text with its [`Source`] and is read by one parser, so a wrong
//! one is named in the same words with the place that it came from. An unknown name is refused in
//! all three places: a misspelt setting must not be silently without effect.
//!
//! The result is two structs. [`ClusterSettings`] must be the same on all nodes of a cluster: they
//! are fixed when the cluster is made, and lie in its founding record; every node adopts them from
//! there, and one that was told otherwise refuses to start. [`ProcessSettings`] may
//! differ from node to node. Both are checked once, here; the rest of the program trusts them.

pub mod catalog;
mod layer;
mod parse;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

pub use layer::{ConfigError, Layer, Layers, Source};
pub use parse::{Address, Fault};
use parse::{Bounded, Choice, Labels, List};

/// How reads make sure that they are current.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// A leader's lease, which assumes a bounded rate of the nodes' clocks.
    #[default]
    Lease,
    /// A round of the shard's quorum for every batch of reads; assumes nothing about clocks.
    Quorum,
}

/// Who moves replicas and leaders.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The controller, as the policies say.
    #[default]
    Auto,
    /// Nobody but an operator, by `synod shard`: a dead node's replicas are not replaced either.
    Manual,
}

/// What all nodes of a cluster must agree on. Fixed at bootstrap.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct ClusterSettings {
    /// Ranges that the key space is cut into at bootstrap.
    pub shards: u32,
    /// Replicas of each shard, once there are nodes enough.
    pub replicas: u32,
    /// How reads make sure that they are current.
    pub reads: Reads,
    /// Who moves replicas and leaders.
    pub placement: Placement,
    /// How much faster or slower than true time any node's clock may run, in parts per million.
    pub clock_rate_error_ppm: u32,
    /// A leader's pause between two heartbeats.
    pub heartbeat_ms: u32,
    /// How long a replica waits without a heartbeat before it campaigns, at least.
    pub election_timeout_ms: u32,
    /// A shard of more MiB is split; 0: none is.
    pub split_size_mb: u32,
    /// A shard that is asked more often a second, for a while, is split; 0: none is.
    pub split_rate_per_s: u32,
    /// How long a node may be away before its replicas are replaced.
    pub replace_after_ms: u32,
    /// For how long the past can be read: superseded versions are kept at least so long.
    pub retention_ms: u32,
}

/// What each node may have its own of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Directory of all that the node keeps. One process at a time.
    pub data: PathBuf,
    /// Where clients are served.
    pub client: SocketAddr,
    /// Where other nodes are heard.
    pub peer: SocketAddr,
    /// The address that other nodes are told to reach this one at.
    pub peer_advertise: SocketAddr,
    /// Peer addresses of nodes to join through; empty: bootstrap, or continue.
    pub join: Vec<Address>,
    /// What placement policies know this node by.
    pub labels: BTreeMap<String, String>,
    /// What clients must give to AUTH, if anything.
    pub password: Option<String>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log: String,
    /// Limits of the client port.
    pub clients: ClientSettings,
    /// How placement goes about its work, while this node has the controller.
    pub placing: PlacingSettings,
}

/// How hasty placement is. Only the node that leads the system shard has a use for it, and any may come to lead it:
/// give the same to all. What must not differ, as when a lost node is replaced, is in [`ClusterSettings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacingSettings {
    /// Copies that a node receives at once; one more where one more failure would stop a shard.
    pub copies_per_node_max: u32,
    /// MiB that such copies may weigh together; a single one may weigh more.
    pub copy_mb_per_node_max: u32,
    /// After many nodes were lost at once: how long no more may be lost until anything but the most urgent is repaired.
    pub stable_after_ms: u32,
    /// Between two decisions on everything.
    pub rebalance_pause_ms: u32,
    /// Seconds that the rates of commands are averaged over.
    pub load_smoothing_s: u32,
}

/// Limits of the client port: what one client, or all of them together, can hold of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Connections at one time; one more is told so and closed.
    pub connections_max: u32,
    /// Commands of one connection that are not answered yet; beyond, its input waits.
    pub in_flight_commands_max: u32,
    /// Bytes of such commands.
    pub in_flight_bytes_max: u32,
    /// Bytes of answers that a client has not read yet; beyond, its input waits.
    pub output_bytes_max: u32,
    /// A client that reads none of its waiting answers for so long is disconnected.
    pub output_stall_ms: u32,
    /// How long a stopping node waits for the commands in flight.
    pub shutdown_grace_ms: u32,
}

/// All settings of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What all nodes agree on.
    pub cluster: ClusterSettings,
    /// What is this node's own.
    pub process: ProcessSettings,
    /// The cluster settings that somebody gave, and where: these must be the cluster's.
    given: Vec<(&'static str, Source)>,
}

impl Settings {
    /// Reads every setting from the layers, and checks each, then all together.
    pub fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let settings = Settings {
            cluster: ClusterSettings::from_layers(layers)?,
            process: ProcessSettings::from_layers(layers)?,
            given: layers.given(CLUSTER_NAMES),
        };
        // With a heartbeat lost, the next one must still arrive in time.
        let heartbeat_ms = settings.cluster.heartbeat_ms;
        if settings.cluster.election_timeout_ms < 3 * heartbeat_ms {
            let reason = format!("must be at least 3 times heartbeat_ms, which is {heartbeat_ms}");
            return Err(layers.refuse("election_timeout_ms", Fault::new(reason)));
        }
        Ok(settings)
    }

    /// These settings as a node of a cluster that was founded with `founded`.
    ///
    /// # Errors
    /// Names a setting that was given here and is another one there.
    pub fn adopt(self, founded: &ClusterSettings) -> Result<Self, ConfigError> {
        let (ours, theirs) = (self.cluster.texts(), founded.texts());
        for ((name, here), (_, there)) in ours.into_iter().zip(theirs) {
            let given = self.given.iter().find(|(given, _)| *given == name);
            if let Some((name, source_of)) = given
                && here != there
            {
                let reason = format!(
                    "is {here}, and this cluster was founded with {there}, for good: leave it out"
                );
                return Err(ConfigError::Value {
                    name,
                    fault: Fault::new(reason),
                    source_of: source_of.clone(),
                });
            }
        }
        Ok(Settings {
            cluster: founded.clone(),
            ..self
        })
    }
}

/// The names of the cluster settings, in the order of the catalog.
const CLUSTER_NAMES: [&str; 11] = [
    "shards",
    "replicas",
    "reads",
    "placement",
    "clock_rate_error_ppm",
    "heartbeat_ms",
    "election_timeout_ms",
    "split_size_mb",
    "split_rate_per_s",
    "replace_after_ms",
    "retention_ms",
];

impl ClusterSettings {
    /// Each setting's name and value.
    fn texts(&self) -> [(&'static str, String); 11] {
        let ClusterSettings {
            shards,
            replicas,
            reads,
            placement,
            clock_rate_error_ppm,
            heartbeat_ms,
            election_timeout_ms,
            split_size_mb,
            split_rate_per_s,
            replace_after_ms,
            retention_ms,
        } = self;
        [
            ("shards", shards.to_string()),
            ("replicas", replicas.to_string()),
            ("reads", reads.word().to_owned()),
            ("placement", placement.word().to_owned()),
            ("clock_rate_error_ppm", clock_rate_error_ppm.to_string()),
            ("heartbeat_ms", heartbeat_ms.to_string()),
            ("election_timeout_ms", election_timeout_ms.to_string()),
            ("split_size_mb", split_size_mb.to_string()),
            ("split_rate_per_s", split_rate_per_s.to_string()),
            ("replace_after_ms", replace_after_ms.to_string()),
            ("retention_ms", retention_ms.to_string()),
        ]
    }

    fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        Ok(ClusterSettings {
            shards: layers.read::<Bounded<1, 4096>>("shards")?.get(),
            replicas: layers.read::<parse::Replicas>("replicas")?.0,
            reads: layers.read("reads")?,
            placement: layers.read("placement")?,
            clock_rate_error_ppm: layers
                .read::<Bounded<0, 100_000>>("clock_rate_error_ppm")?
                .get(),
            heartbeat_ms: layers.read::<Bounded<10, 10_000>>("heartbeat_ms")?.get(),
            election_timeout_ms: layers
                .read::<Bounded<100, 100_000>>("election_timeout_ms")?
                .get(),
            split_size_mb: layers.read::<Bounded<0, 1_048_576>>("split_size_mb")?.get(),
            split_rate_per_s: layers
                .read::<Bounded<0, 1_000_000_000>>("split_rate_per_s")?
                .get(),
            replace_after_ms: layers
                .read::<Bounded<1_000, 86_400_000>>("replace_after_ms")?
                .get(),
            retention_ms: layers
                .read::<Bounded<100, 86_400_000>>("retention_ms")?
                .get(),
        })
    }
}

impl ProcessSettings {
    fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let client = layers.read::<parse::Listen>("client")?.0;
        let peer = layers.read::<parse::Listen>("peer")?.0;
        if client == peer && client.port() != 0 {
            let reason = format!("{peer} is the client address too");
            return Err(layers.refuse("peer", Fault::new(reason)));
        }
        let peer_advertise = match layers.read_optional::<parse::Listen>("peer_advertise")? {
            Some(listen) => listen.0,
            None if peer.ip().is_unspecified() => {
                let reason = format!("must be set when peer is {peer}, which no node can dial");
                return Err(layers.refuse("peer_advertise", Fault::new(reason)));
            }
            None => peer,
        };
        if peer_advertise.ip().is_unspecified() {
            let reason = format!("{peer_advertise} is not an address that a node can dial");
            return Err(layers.refuse("peer_advertise", Fault::new(reason)));
        }
        Ok(ProcessSettings {
            data: layers.read("data")?,
            client,
            peer,
            peer_advertise,
            join: layers.read::<List<Address>>("join")?.0,
            labels: layers.read::<Labels>("label")?.0,
            password: layers.read_optional("password")?,
            log: layers.read("log")?,
            clients: ClientSettings::from_layers(layers)?,
            placing: PlacingSettings::from_layers(layers)?,
        })
    }
}

impl ClientSettings {
    fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        const GIB: u32 = 1 << 30;
        Ok(ClientSettings {
            connections_max: layers
                .read::<Bounded<1, 1_000_000>>("connections_max")?
                .get(),
            in_flight_commands_max: layers
                .read::<Bounded<1, 1_000_000>>("in_flight_commands_max")?
                .get(),
            in_flight_bytes_max: layers
                .read::<Bounded<65_536, GIB>>("in_flight_bytes_max")?
                .get(),
            output_bytes_max: layers
                .read::<Bounded<65_536, GIB>>("output_bytes_max")?
                .get(),
            output_stall_ms: layers
                .read::<Bounded<100, 3_600_000>>("output_stall_ms")?
                .get(),
            shutdown_grace_ms: layers
                .read::<Bounded<0, 600_000>>("shutdown_grace_ms")?
                .get(),
        })
    }
}

impl PlacingSettings {
    fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        Ok(PlacingSettings {
            copies_per_node_max: layers.read::<Bounded<1, 64>>("copies_per_node_max")?.get(),
            copy_mb_per_node_max: layers
                .read::<Bounded<1, 1_048_576>>("copy_mb_per_node_max")?
                .get(),
            stable_after_ms: layers
                .read::<Bounded<0, 3_600_000>>("stable_after_ms")?
                .get(),
            rebalance_pause_ms: layers
                .read::<Bounded<1_000, 86_400_000>>("rebalance_pause_ms")?
                .get(),
            load_smoothing_s: layers.read::<Bounded<1, 3_600>>("load_smoothing_s")?.get(),
        })
    }
}

impl Default for PlacingSettings {
    fn default() -> Self {
        PlacingSettings::from_layers(&Layers::default()).expect("the defaults are valid")
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings::from_layers(&Layers::default()).expect("the defaults are valid")
    }
}

impl Default for ClientSettings {
    fn default() -> Self {
        ClientSettings::from_layers(&Layers::default()).expect("the defaults are valid")
    }
}

#[cfg(test)]
mod tests;
