//! The scenario files, on small clusters: what they are there to show must hold, or in the baselines
//! fail in the way that makes them baselines.

#![cfg(feature = "sim")]

use synod_membership::sim::report::Report;
use synod_membership::sim::runner::{self, Progress};
use synod_membership::sim::scenario::Scenario;

/// Runs a scenario file with some of its top-level keys replaced.
fn run(name: &str, protocol: &str, seed: u64, overrides: &[(&str, &str)]) -> Report {
    let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the scenario file is there");
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let mut pairs: Vec<(String, String)> = overrides.iter().map(owned).collect();
    pairs.push(("protocol".to_owned(), protocol.to_owned()));
    let scenario = Scenario::parse(&text, &pairs).expect("the scenario file is valid");
    runner::run(name, &scenario, seed, Progress::Silent)
}

const SMALL: (&str, &str) = ("nodes", "60");

mod baselines {
    use super::*;

    #[test]
    fn a_run_is_a_function_of_scenario_and_seed() {
        for protocol in ["swim", "heartbeat"] {
            let once = run("loss-80-ingress", protocol, 3, &[SMALL]);
            let again = run("loss-80-ingress", protocol, 3, &[SMALL]);
            let other = run("loss-80-ingress", protocol, 4, &[SMALL]);
            assert_eq!(once.traffic, again.traffic, "{protocol}");
            assert_eq!(once.disagreement, again.disagreement, "{protocol}");
            assert_ne!(once.traffic, other.traffic, "{protocol}");
        }
    }

    #[test]
    fn a_crash_is_found_by_all_but_one_by_one() {
        for protocol in ["swim", "heartbeat"] {
            let report = run("crash-10", protocol, 1, &[SMALL]);
            assert!(report.converged && report.final_size == 50, "{report}");
            assert!(
                report.wrongly_removed.is_empty() && report.faulty_kept.is_empty(),
                "{report}"
            );
            assert!(!report.agreement && report.sizes.len() > 2, "{report}");
        }
    }

    #[test]
    fn a_deaf_node_comes_and_goes() {
        let swim = run("flip-flop-ingress", "swim", 1, &[SMALL]);
        assert!(swim.changes_mean > 20.0, "{swim}");
        assert!(!swim.wrongly_removed.is_empty(), "{swim}");
        // Who only listens to itself never finds out that a deaf node is deaf.
        let heartbeat = run("flip-flop-ingress", "heartbeat", 1, &[SMALL]);
        assert_eq!(heartbeat.faulty_kept.len(), 10, "{heartbeat}");
    }

    #[test]
    fn everyone_joins_through_one_seed() {
        for protocol in ["swim", "heartbeat"] {
            let report = run("bootstrap-2000", protocol, 1, &[SMALL]);
            assert!(report.converged && report.final_size == 60, "{report}");
            assert!(report.sizes.len() > 40, "{report}");
        }
    }

    #[test]
    fn a_leaver_is_gone_and_a_restarted_node_is_back() {
        let text = "nodes = 20\nrun_ms = 60000\n\
            [[events]]\nkind = \"leave\"\nnodes = [3]\nat_ms = 5000\n\
            [[events]]\nkind = \"restart\"\nnodes = [4]\nat_ms = 10000\nuntil_ms = 30000";
        for protocol in ["swim", "heartbeat"] {
            let overrides = [("protocol".to_owned(), protocol.to_owned())];
            let scenario = Scenario::parse(text, &overrides).expect("valid");
            let report = runner::run("leave", &scenario, 1, Progress::Silent);
            assert!(report.converged && report.final_size == 19, "{report}");
            assert_eq!(report.removed, [3, 4], "{report}");
        }
    }
}

/// Unicast to all, an ensemble of three that decides for all, and epidemic broadcast.
mod rapid {
    use super::*;

    const WAYS: [(&str, &str); 3] = [
        ("rapid", "\"unicast\""),
        ("rapid-c", "\"unicast\""),
        ("rapid", "\"epidemic\""),
    ];

    /// Runs a scenario each way; all nodes must agree on every view, and end in one.
    fn each_way(name: &str, run_ms: &str, look: impl Fn(&Report)) {
        for (protocol, dissemination) in WAYS {
            let overrides = [SMALL, ("dissemination", dissemination), ("run_ms", run_ms)];
            let report = run(name, protocol, 1, &overrides);
            let agreed = report.agreement && report.converged && report.all_in_one_view;
            assert!(agreed, "{dissemination}: {report}");
            look(&report);
        }
    }

    #[test]
    fn ten_crashes_are_one_view_change() {
        each_way("crash-10", "30000", |report| {
            assert_eq!(report.sizes, [50, 60], "{report}");
            assert_eq!(report.changes_max, 1, "{report}");
            assert!(report.wrongly_removed.is_empty(), "{report}");
        });
    }

    #[test]
    fn a_bad_pair_changes_nothing() {
        each_way("blackholed-pair", "60000", |report| {
            assert_eq!(report.changes_max, 0, "{report}");
        });
    }

    #[test]
    fn everyone_joins_through_one_seed_at_once() {
        each_way("bootstrap-2000", "20000", |report| {
            assert!(report.sizes.len() <= 4, "{report}");
            assert_eq!(report.final_size, 60, "{report}");
        });
    }

    #[test]
    fn ten_deaf_nodes_go_once_and_nobody_else() {
        // They go on running, and are in no view with the others.
        for (protocol, dissemination) in WAYS {
            let overrides = [SMALL, ("dissemination", dissemination), ("run_ms", "40000")];
            let report = run("flip-flop-ingress", protocol, 1, &overrides);
            assert!(report.agreement, "{report}");
            assert_eq!((report.changes_max, report.final_size), (1, 50), "{report}");
            assert!(report.wrongly_removed.is_empty(), "{report}");
        }
    }
}
