//! The catalog: every setting's name, default and meaning, once.

/// One setting, in all the places where it can be given.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file. The flag and the variable are spelt after it.
    pub name: &'static str,
    /// What its value looks like, for the help.
    pub value_name: &'static str,
    /// What holds when nobody says anything; `None`: nothing does.
    pub default: Option<&'static str>,
    /// Whether its flag may be given more than once.
    pub arity: Arity,
    /// One line of help.
    pub help: &'static str,
}

/// How many values a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// One.
    One,
    /// A list: a repeated flag, commas in a flag or a variable, an array in the file.
    List,
    /// Pairs `k=v`: the same, and a table in the file.
    Pairs,
}

impl Setting {
    /// Its flag, without the dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("SYNOD_{}", self.name.to_ascii_uppercase())
    }
}

const fn one(
    name: &'static str,
    value_name: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        value_name,
        default,
        arity: Arity::One,
        help,
    }
}

const fn many(
    name: &'static str,
    value_name: &'static str,
    arity: Arity,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        value_name,
        default: Some(""),
        arity,
        help,
    }
}

/// All settings of a node, in the order of the help.
pub const CATALOG: &[Setting] = &[
    one(
        "data",
        "DIR",
        Some("synod-data"),
        "Directory of all that the node keeps",
    ),
    one(
        "client",
        "IP:PORT",
        Some("127.0.0.1:7601"),
        "Where clients are served",
    ),
    one(
        "peer",
        "IP:PORT",
        Some("127.0.0.1:7701"),
        "Where other nodes are heard",
    ),
    one(
        "peer_advertise",
        "IP:PORT",
        None,
        "The address that other nodes dial [default: peer]",
    ),
    many(
        "join",
        "HOST:PORT",
        Arity::List,
        "Peer addresses of nodes to join through",
    ),
    many(
        "label",
        "K=V",
        Arity::Pairs,
        "What placement policies know this node by",
    ),
    one("password", "TEXT", None, "What clients must give to AUTH"),
    one(
        "log",
        "FILTER",
        Some("info"),
        "What is logged, in the syntax of RUST_LOG",
    ),
    one(
        "connections_max",
        "N",
        Some("10000"),
        "Client connections at one time",
    ),
    one(
        "in_flight_commands_max",
        "N",
        Some("1024"),
        "Unanswered commands of one connection",
    ),
    one(
        "in_flight_bytes_max",
        "BYTES",
        Some("33554432"),
        "Bytes of such commands",
    ),
    one(
        "output_bytes_max",
        "BYTES",
        Some("67108864"),
        "Unread answers of one connection",
    ),
    one(
        "output_stall_ms",
        "MS",
        Some("60000"),
        "Patience with a client that reads none of them",
    ),
    one(
        "shutdown_grace_ms",
        "MS",
        Some("5000"),
        "How long a stop waits for commands in flight",
    ),
    one(
        "copies_per_node_max",
        "N",
        Some("2"),
        "Placement: copies that a node receives at once",
    ),
    one(
        "copy_mb_per_node_max",
        "MIB",
        Some("256"),
        "Placement: what such copies may weigh together, but for a single one",
    ),
    one(
        "stable_after_ms",
        "MS",
        Some("60000"),
        "Placement: quiet after a mass loss before balance is looked at",
    ),
    one(
        "rebalance_pause_ms",
        "MS",
        Some("5000"),
        "Placement: pause between two decisions on balance",
    ),
    one(
        "load_smoothing_s",
        "S",
        Some("16"),
        "Placement: time that rates of commands are averaged over",
    ),
    one(
        "shards",
        "N",
        Some("8"),
        "Cluster: ranges of the key space at bootstrap",
    ),
    one(
        "replicas",
        "N",
        Some("3"),
        "Cluster: replicas of each shard (odd)",
    ),
    one(
        "reads",
        "lease|quorum",
        Some("lease"),
        "Cluster: how reads make sure they are current",
    ),
    one(
        "placement",
        "auto|manual",
        Some("auto"),
        "Cluster: who moves replicas and leaders",
    ),
    one(
        "clock_rate_error_ppm",
        "PPM",
        Some("50000"),
        "Cluster: bound on any clock's rate error",
    ),
    one(
        "heartbeat_ms",
        "MS",
        Some("100"),
        "Cluster: a leader's pause between heartbeats",
    ),
    one(
        "election_timeout_ms",
        "MS",
        Some("600"),
        "Cluster: patience with a silent leader",
    ),
    one(
        "split_size_mb",
        "MIB",
        Some("256"),
        "Cluster: a shard larger than this is split; 0: none",
    ),
    one(
        "split_rate_per_s",
        "N",
        Some("0"),
        "Cluster: one asked more often than this is split; 0: none",
    ),
    one(
        "replace_after_ms",
        "MS",
        Some("30000"),
        "Cluster: how long a node may be away before its replicas are replaced",
    ),
    one(
        "retention_ms",
        "MS",
        Some("5000"),
        "Cluster: how far back snapshots can read",
    ),
];

/// Variables with our prefix that are not a node's settings: those of the commands themselves.
pub const COMMAND_VARIABLES: &[&str] = &["SYNOD_CONFIG", "SYNOD_ADDR", "SYNOD_NODES", "SYNOD_DIR"];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    CATALOG.iter().find(|setting| setting.name == name)
}
