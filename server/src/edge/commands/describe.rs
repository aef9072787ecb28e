//! What the process says about itself: `INFO`, `CONFIG GET`, and the clean noes of its kin.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use synod_txn::Reply;

use super::{super::Edge, unknown_subcommand, upper};

/// The version of Redis that clients may take this for, when they choose features by version.
pub(super) const REDIS_VERSION: &str = "7.2.0";

/// `INFO [section …]`.
pub(super) fn info(words: &[Bytes], edge: &Edge) -> Reply {
    let wanted: Vec<String> = words[1..].iter().map(|word| upper(word)).collect();
    let everything = ["ALL", "EVERYTHING", "DEFAULT"];
    let is_wanted = |section: &str| {
        let section = section.to_ascii_uppercase();
        let named = |word: &String| *word == section || everything.contains(&word.as_str());
        wanted.is_empty() || wanted.iter().any(named)
    };
    let mut text = String::new();
    for (section, fields) in sections(edge) {
        if is_wanted(section) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write!(text, "# {section}\r\n").expect("writing to a string does not fail");
            for (name, value) in fields {
                write!(text, "{name}:{value}\r\n").expect("writing to a string does not fail");
            }
        }
    }
    Reply::Verbatim(text.into())
}

type Section = (&'static str, Vec<(&'static str, String)>);

fn sections(edge: &Edge) -> Vec<Section> {
    let uptime_s = edge.started.elapsed().as_secs();
    let registry = &edge.registry;
    vec![
        (
            "Server",
            vec![
                ("redis_version", REDIS_VERSION.to_owned()),
                ("redis_mode", "standalone".to_owned()),
                ("synod_version", env!("CARGO_PKG_VERSION").to_owned()),
                ("synod_node", edge.node.clone()),
                ("process_id", std::process::id().to_string()),
                ("tcp_port", edge.port.to_string()),
                ("uptime_in_seconds", uptime_s.to_string()),
                ("uptime_in_days", (uptime_s / 86_400).to_string()),
            ],
        ),
        (
            "Clients",
            vec![
                ("connected_clients", registry.connected().to_string()),
                ("maxclients", edge.clients.connections_max.to_string()),
            ],
        ),
        (
            "Persistence",
            vec![("loading", "0".to_owned()), ("aof_enabled", "1".to_owned())],
        ),
        (
            "Stats",
            vec![
                (
                    "total_connections_received",
                    registry.accepted().to_string(),
                ),
                ("total_commands_processed", registry.commands().to_string()),
                ("rejected_connections", registry.refused().to_string()),
            ],
        ),
        (
            "Replication",
            vec![
                ("role", "master".to_owned()),
                ("connected_slaves", "0".to_owned()),
            ],
        ),
        ("Cluster", vec![("cluster_enabled", "0".to_owned())]),
    ]
}

/// `CONFIG GET pattern …`: what tools ask, in Redis' terms. Settings are given at start, so there is
/// no `CONFIG SET`.
pub(super) fn config(words: &[Bytes], edge: &Edge) -> Reply {
    match (upper(&words[1]).as_str(), &words[2..]) {
        ("GET", []) => Reply::err("wrong number of arguments for 'config|get' command"),
        ("GET", patterns) => {
            let parameters = [
                ("appendfsync", "always".to_owned()),
                ("appendonly", "yes".to_owned()),
                ("databases", "1".to_owned()),
                ("maxclients", edge.clients.connections_max.to_string()),
                ("maxmemory", "0".to_owned()),
                ("maxmemory-policy", "noeviction".to_owned()),
                ("port", edge.port.to_string()),
                ("proto-max-bulk-len", synod_txn::VALUE_BYTES_MAX.to_string()),
                ("save", String::new()),
                ("timeout", "0".to_owned()),
            ];
            let matches = |name: &str| {
                let name = name.as_bytes();
                patterns
                    .iter()
                    .any(|pattern| glob(&pattern.to_ascii_lowercase(), name))
            };
            let matching = parameters.into_iter().filter(|(name, _)| matches(name));
            Reply::Map(
                matching
                    .map(|(name, value)| (Reply::bulk(name), Reply::bulk(value)))
                    .collect(),
            )
        }
        ("SET" | "REWRITE", _) => {
            Reply::err("settings are given at start: by flag, environment variable or file")
        }
        _ => unknown_subcommand("CONFIG", &words[1]),
    }
}

/// `*` and `?` only: names of parameters have nothing that would need more.
///
/// A mismatch goes back to the last star alone, so that a pattern of many stars costs no more than
/// pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut last_star = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                last_star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(&expected) if expected == b'?' || expected == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
            }
            Some(_) | None => {
                let Some((star, swallowed)) = last_star else {
                    return false;
                };
                last_star = Some((star, swallowed + 1));
                at_pattern = star + 1;
                at_text = swallowed + 1;
            }
        }
    }
    pattern[at_pattern..].iter().all(|&byte| byte == b'*')
}

/// `LATENCY`: nothing is recorded under Redis' event names.
pub(super) fn latency(words: &[Bytes]) -> Reply {
    match upper(&words[1]).as_str() {
        "LATEST" | "HISTORY" => Reply::Array(Vec::new()),
        "RESET" => Reply::Integer(0),
        _ => unknown_subcommand("LATENCY", &words[1]),
    }
}

/// `MEMORY`: no key has a memory of its own; most are on disk.
pub(super) fn memory(words: &[Bytes]) -> Reply {
    match upper(&words[1]).as_str() {
        "USAGE" | "STATS" | "DOCTOR" | "PURGE" | "MALLOC-STATS" => {
            Reply::err("MEMORY is not supported: ask SYNOD STATUS")
        }
        _ => unknown_subcommand("MEMORY", &words[1]),
    }
}

/// `SLOWLOG`: empty.
pub(super) fn slowlog(words: &[Bytes]) -> Reply {
    match upper(&words[1]).as_str() {
        "GET" => Reply::Array(Vec::new()),
        "LEN" => Reply::Integer(0),
        "RESET" => Reply::Ok,
        _ => unknown_subcommand("SLOWLOG", &words[1]),
    }
}

/// `TIME`: this node's wall clock; a convenience, never part of a promise.
pub(super) fn time() -> Reply {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Reply::Array(vec![
        Reply::bulk(now.as_secs().to_string()),
        Reply::bulk(now.subsec_micros().to_string()),
    ])
}
