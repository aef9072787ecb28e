//! What a core may not take from its surroundings: time, randomness, files, sockets, threads.
//!
//! A core that reads a clock cannot be simulated, and its failures cannot be repeated. The few files
//! of the cores' crates that are edges are named here, so that a new one is a decision.

use super::{Finding, Source, code_lines};

/// Crates whose code is a core.
const CORES: &[&str] = &[
    "membership/src/",
    "placement/src/",
    "replication/src/",
    "storage/src/",
    "txn/src/",
];

/// Files and folders in them that are not: the real disk and its threads, programs, and the worlds
/// that the cores' tests simulate.
const EDGES: &[&str] = &[
    "storage/src/disk/real.rs",
    "storage/src/driver",
    "storage/src/index/sled",
    "/src/bin/",
    "/src/sim/",
    "/src/world/",
    "/src/main.rs",
];

/// What stands in code that takes something from its surroundings, and what that is.
const AMBIENT: &[(&str, &str)] = &[
    ("Instant::now", "time"),
    ("SystemTime", "time"),
    ("thread_rng", "randomness"),
    ("rand::rng()", "randomness"),
    ("rand::random", "randomness"),
    ("OsRng", "randomness"),
    ("from_os_rng", "randomness"),
    ("RandomState", "randomness"),
    ("std::fs", "files"),
    ("File::open", "files"),
    ("std::net::Tcp", "sockets"),
    ("std::net::Udp", "sockets"),
    ("thread::spawn", "threads"),
    ("thread::sleep", "threads"),
    ("tokio::", "an asynchronous runtime"),
];

/// The places where a core reaches out.
pub fn check(source: &Source) -> Vec<Finding> {
    let is_core = CORES.iter().any(|core| source.path.starts_with(core));
    if !is_core || EDGES.iter().any(|edge| source.path.contains(edge)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (line, text) in code_lines(source) {
        for (pattern, what) in AMBIENT {
            if text.contains(pattern) {
                findings.push(Finding {
                    path: source.path.clone(),
                    line,
                    what: format!("a core takes {what} from outside ({pattern})"),
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_core_that_reads_a_clock_is_found_and_its_edges_and_tests_are_not() {
        let reads = "fn f() {\n    // Instant::now is not code here.\n    Instant::now();\n}\n";
        assert_eq!(
            found("txn/src/a.rs", reads),
            ["txn/src/a.rs:3: a core takes time from outside (Instant::now)"]
        );
        assert!(found("server/src/a.rs", reads).is_empty());
        assert!(found("storage/src/disk/real.rs", reads).is_empty());
        let tests = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() { Instant::now(); }\n}\n";
        assert!(found("txn/src/a.rs", tests).is_empty());
    }
}
