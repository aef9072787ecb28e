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
