//! Rapid on clusters of 2 to 20 nodes, where the published parameters misbehave: each fault removes
//! exactly who is at fault, restarts come back as one cut, and a minority never decides.

#![cfg(feature = "sim")]

use synod_membership::sim::report::Report;
use synod_membership::sim::runner::{self, Progress};
use synod_membership::sim::scenario::Scenario;

/// Runs a scenario of `nodes` nodes with one event a line, as in `crash nodes = [1], at_ms = 5000`.
fn run(nodes: u32, run_ms: u64, seed: u64, events: &[&str]) -> Report {
    let mut text = format!("nodes = {nodes}\nrun_ms = {run_ms}\nlatency_ms = [0.2, 2]\n");
    for event in events {
        let (kind, keys) = event.split_once(' ').expect("a kind and its keys");
        let keys = keys.replace("; ", "\n");
        text.push_str(&format!("[[events]]\nkind = \"{kind}\"\n{keys}\n"));
    }
    let scenario = Scenario::parse(&text, &[]).expect("a valid scenario");
    let report = runner::run("small", &scenario, seed, Progress::Silent);
    assert!(report.agreement, "{text}{report}");
    assert_eq!((report.alarms, report.halted), (0, 0), "{text}{report}");
    report
}

/// Views after the first: (joined, removed, restarted).
fn changes(report: &Report) -> Vec<(Vec<u32>, Vec<u32>, Vec<u32>)> {
    let step = |view: &synod_membership::sim::views::ViewReport| {
        let mut sorted = [
            view.joined.clone(),
            view.removed.clone(),
            view.restarted.clone(),
        ];
        sorted.iter_mut().for_each(|list| list.sort_unstable());
        let [joined, removed, restarted] = sorted;
        (joined, removed, restarted)
    };
    let all = report.views.iter().skip(1).map(step);
    // Steps that only give or take votes change nobody.
    all.filter(|(a, b, c)| !(a.is_empty() && b.is_empty() && c.is_empty()))
        .collect()
}

/// Whether the last view was installed everywhere by this time of the run.
fn installed_by(report: &Report, at_ms: f64) -> bool {
    let last = report.views.last();
    last.is_some_and(|view| view.last_install_ms <= at_ms && view.installed == report.up)
}

#[test]
fn one_bad_pair_changes_nothing() {
    for nodes in 3..=12 {
        for seed in 1..=3 {
            let report = run(
                nodes,
                60_000,
                seed,
                &["drop_link nodes = [1]; peers = [2]; at_ms = 3000; until_ms = 55000"],
            );
            assert_eq!(changes(&report), [], "{report}");
        }
    }
}

#[test]
fn one_deaf_or_mute_node_goes_alone() {
    for nodes in 3..=12 {
        for kind in ["drop_ingress", "drop_egress"] {
            for seed in 1..=3 {
                let event = format!("{kind} nodes = [1]; at_ms = 3000");
                let report = run(nodes, 30_000, seed, &[&event]);
                assert_eq!(
                    changes(&report),
                    [(vec![], vec![1], vec![])],
                    "{kind}: {report}"
                );
            }
        }
    }
}

#[test]
fn a_killed_node_is_gone_in_under_three_seconds() {
    for nodes in [3, 5, 10] {
        for seed in 1..=5 {
            let report = run(nodes, 20_000, seed, &["crash nodes = [1]; at_ms = 5000"]);
            assert_eq!(changes(&report), [(vec![], vec![1], vec![])], "{report}");
            assert!(report.converged, "{report}");
            assert!(report.settled_ms.is_some_and(|ms| ms < 3_000.0), "{report}");
        }
    }
}

#[test]
fn two_deaf_and_one_crash_among_seven() {
    for seed in 1..=5 {
        let report = run(
            7,
            60_000,
            seed,
            &[
                "drop_ingress nodes = [1, 2]; at_ms = 3000",
                "crash nodes = [3]; at_ms = 3000",
            ],
        );
        assert_eq!(report.removed, [1, 2, 3], "{report}");
        assert_eq!(report.wrongly_removed, [], "{report}");
    }
}

#[test]
fn a_restarted_node_is_back_in_one_cut_and_two_seconds() {
    for nodes in [3, 5, 10] {
        for seed in 1..=5 {
            let event = "restart nodes = [1]; at_ms = 5000; until_ms = 5300";
            let report = run(nodes, 30_000, seed, &[event]);
            assert_eq!(changes(&report), [(vec![], vec![], vec![1])], "{report}");
            assert!(report.settled_ms.is_some_and(|ms| ms < 2_300.0), "{report}");
        }
    }
}

#[test]
fn all_nodes_lose_power_and_come_back() {
    for seed in 1..=5 {
        let event = "restart nodes = [\"0-4\"]; at_ms = 5000; until_ms = 8000";
        let report = run(5, 40_000, seed, &[event]);
        assert!(report.all_in_one_view, "{report}");
        let everybody = (vec![], vec![], vec![0, 1, 2, 3, 4]);
        assert_eq!(changes(&report), [everybody], "{report}");
        assert!(installed_by(&report, 10_000.0), "{report}");
        assert_eq!(
            report.suspended, 5,
            "none serves before its boot is listed: {report}"
        );
    }
}

#[test]
fn three_of_five_come_back_and_go_on() {
    for seed in 1..=5 {
        let report = run(
            5,
            60_000,
            seed,
            &[
                "crash nodes = [0, 1]; at_ms = 5000",
                "restart nodes = [2, 3, 4]; at_ms = 5000; until_ms = 8000",
            ],
        );
        assert!(report.all_in_one_view, "{report}");
        let one_cut = (vec![], vec![0, 1], vec![2, 3, 4]);
        assert_eq!(changes(&report), [one_cut], "{report}");
        assert!(installed_by(&report, 15_000.0), "{report}");
    }
}

#[test]
fn two_of_five_never_decide() {
    for seed in 1..=5 {
        let report = run(
            5,
            120_000,
            seed,
            &[
                "crash nodes = [0, 1, 2]; at_ms = 5000",
                "restart nodes = [3, 4]; at_ms = 5000; until_ms = 8000",
            ],
        );
        assert_eq!(changes(&report), [], "{report}");
        assert!(report.suspended > 0, "{report}");
    }
}

#[test]
fn a_rolling_restart_of_three() {
    for seed in 1..=5 {
        let report = run(
            3,
            60_000,
            seed,
            &[
                "restart nodes = [0]; at_ms = 5000; until_ms = 5500",
                "restart nodes = [1]; at_ms = 6000; until_ms = 6500",
                "restart nodes = [2]; at_ms = 7000; until_ms = 7500",
            ],
        );
        assert!(report.all_in_one_view && report.final_size == 3, "{report}");
    }
}

#[test]
fn of_three_any_two_go_on_after_a_crash() {
    // The second goes when the first has been removed; then one comes back.
    for second in [0, 1] {
        for seed in 1..=5 {
            let restart = format!("restart nodes = [{second}]; at_ms = 15000; until_ms = 25000");
            let report = run(
                3,
                120_000,
                seed,
                &["crash nodes = [2]; at_ms = 5000", restart.as_str()],
            );
            assert!(report.all_in_one_view && report.final_size == 2, "{report}");
        }
    }
}

#[test]
fn a_node_that_stood_still_for_half_a_minute_comes_back() {
    for seed in 1..=5 {
        let event = "pause nodes = [1]; at_ms = 5000; until_ms = 35000";
        let report = run(5, 200_000, seed, &[event]);
        assert_eq!(report.removed, [1], "{report}");
        assert!(report.all_in_one_view && report.final_size == 5, "{report}");
    }
}

#[test]
fn a_crash_loop_disturbs_nobody_else() {
    for seed in 1..=3 {
        let report = run(
            5,
            200_000,
            seed,
            &["restart nodes = [1]; at_ms = 5000; until_ms = 65000; on_ms = 400; off_ms = 1500"],
        );
        assert_eq!(report.wrongly_removed, [], "{report}");
        assert!(report.all_in_one_view && report.final_size == 5, "{report}");
    }
}

#[test]
fn a_leaver_is_told_and_gone() {
    for nodes in [2, 3, 4, 8] {
        for seed in 1..=3 {
            for leaver in [0, 1] {
                let event = format!("leave nodes = [{leaver}]; at_ms = 5000");
                let report = run(nodes, 30_000, seed, &[&event]);
                assert_eq!(
                    changes(&report),
                    [(vec![], vec![leaver], vec![])],
                    "{report}"
                );
                assert_eq!(
                    report.up,
                    nodes - 1,
                    "the leaver knows that it may stop: {report}"
                );
                assert!(report.settled_ms.is_some_and(|ms| ms < 2_000.0), "{report}");
            }
        }
    }
}

#[test]
fn nodes_join_one_after_the_other_and_all_at_once() {
    for nodes in [2, 3, 5, 12] {
        for seed in 1..=3 {
            let text = format!("nodes = {nodes}\nrun_ms = 30000\nbootstrap = \"join\"");
            let scenario = Scenario::parse(&text, &[]).expect("a valid scenario");
            let at_once = runner::run("join", &scenario, seed, Progress::Silent);
            assert!(at_once.agreement && at_once.all_in_one_view, "{at_once}");
            let text = format!(
                "{text}\n[[events]]\nkind = \"start\"\nnodes = [\"1-{}\"]\nat_ms = 1000\nuntil_ms = 15000",
                nodes - 1
            );
            let scenario = Scenario::parse(&text, &[]).expect("a valid scenario");
            let one_by_one = runner::run("join", &scenario, seed, Progress::Silent);
            assert!(
                one_by_one.agreement && one_by_one.all_in_one_view,
                "{one_by_one}"
            );
        }
    }
}

#[test]
fn heavy_duplication_and_reordering_change_nothing() {
    for seed in 1..=5 {
        let report = run(
            8,
            60_000,
            seed,
            &[
                "duplicate rate = 0.5; at_ms = 1000",
                "reorder rate = 0.5; at_ms = 1000",
            ],
        );
        assert_eq!(changes(&report), [], "{report}");
    }
}

/// Where messages overtake each other by almost a second, what a boot said first arrives after what it said later.
#[test]
fn restarts_over_slow_and_uneven_links_are_no_rollback() {
    let restart = |node: u32, at_ms: u32| {
        let until_ms = at_ms + 100;
        format!(
            "[[events]]\nkind = \"restart\"\nnodes = [{node}]\nat_ms = {at_ms}\nuntil_ms = {until_ms}\n"
        )
    };
    let restarts = [(1, 5_000), (2, 5_300), (3, 6_000), (1, 9_000), (2, 9_300)];
    let restarts: String = restarts.map(|(node, at_ms)| restart(node, at_ms)).concat();
    let text = format!("nodes = 5\nrun_ms = 30000\nlatency_ms = [1, 900]\n{restarts}");
    let scenario = Scenario::parse(&text, &[]).expect("a valid scenario");
    for seed in 1..=60 {
        let report = runner::run("overtaken", &scenario, seed, Progress::Silent);
        assert!(report.agreement, "{report}");
        assert_eq!((report.alarms, report.halted), (0, 0), "{report}");
    }
}
