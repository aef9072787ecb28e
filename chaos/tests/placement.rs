//! Clusters of whole nodes that manage themselves: what is lost for good is replaced, hard policies hold after
//! every change of a shard, nothing is moved back, and in the end nothing is moved at all.
//! `SEEDS=FIRST..LAST` runs other seeds.
#![cfg(madsim)]

mod support;

use synod_chaos::fault::{Fault, Strike};
use synod_chaos::plan::{Menu, Plan};
use synod_chaos::report::Failure;
use synod_chaos::run::run;
use synod_chaos::workload::Workload;

use support::{log, seeds};

/// Runs these seeds of a menu, in clusters that manage themselves.
fn hold(default: std::ops::Range<u64>, menu: &Menu) {
    log();
    for seed in seeds(default) {
        let plan = Menu {
            workloads: Workload::ALL.to_vec(),
            placed: Some(true),
            ..menu.clone()
        }
        .plan(seed);
        carry_out(&plan);
    }
}

fn carry_out(plan: &Plan) {
    let report = run(plan);
    let [ok, failed, unknown] = report.counts();
    println!(
        "{plan}: {ok} succeeded, {failed} failed, {unknown} unknown, {} s simulated",
        report.simulated.as_secs()
    );
    match report.failure {
        None | Some(Failure::Idle { .. }) => {}
        Some(failure) => {
            let text = serde_json::to_string(plan).expect("a plan is JSON");
            panic!("{plan}: {failure}\nreplay: cargo xtask chaos --plan FILE, with FILE:\n{text}");
        }
    }
}

/// The lost node's replicas are built anew on the others.
#[test]
fn a_node_that_is_lost_for_good_is_replaced() {
    let menu = Menu {
        nodes: Some(5),
        bereaved: Some(true),
        ..Menu::default()
    };
    hold(0..3, &menu);
}

/// The machine comes back as a new node: nobody waits for the old one for ever.
#[test]
fn a_lost_disk_is_replaced() {
    let menu = Menu {
        faults: vec![Fault::Replace],
        ..Menu::default()
    };
    hold(10..13, &menu);
}

/// What stands aside because its disk lost what nobody can name is built anew, also on its own node.
#[test]
fn a_rotten_log_is_replaced() {
    let menu = Menu {
        faults: vec![Fault::LogRot],
        nodes: Some(3),
        bereaved: Some(true),
        ..Menu::default()
    };
    hold(20..23, &menu);
}

#[test]
fn controllers_end_in_the_midst_of_it() {
    let menu = Menu {
        faults: vec![
            Fault::KillLeader,
            Fault::KillOne,
            Fault::IsolateLeader,
            Fault::RollingRestart,
            Fault::Replace,
            Fault::PowerOne,
        ],
        nodes: Some(5),
        ..Menu::default()
    };
    hold(30..33, &menu);
}

/// Its machine is counted again once it has begun anew, also when nothing strikes any more by then.
#[test]
fn a_node_leaves_as_the_faults_end() {
    log();
    let mut plan = Menu {
        nodes: Some(3),
        placed: Some(true),
        ..Menu::default()
    }
    .plan(60);
    plan.strikes = vec![Strike {
        at_ms: plan.safety_ms - 1,
        for_ms: 3_000,
        fault: Fault::Leave,
        draw: 0,
    }];
    carry_out(&plan);
}

#[test]
fn everything_at_once() {
    let menu = Menu {
        faults: Fault::ALL.to_vec(),
        ..Menu::default()
    };
    hold(41..45, &menu);
}

/// Whatever the controller decides follows from the seed.
#[test]
fn a_seed_has_one_trace() {
    let menu = Menu {
        workloads: vec![Workload::Register, Workload::ListAppend],
        faults: Fault::ALL.to_vec(),
        nodes: Some(5),
        placed: Some(true),
        ..Menu::default()
    };
    for seed in 50..52 {
        let plan = menu.plan(seed);
        let (first, second) = (run(&plan), run(&plan));
        assert_eq!(first.history, second.history, "{plan}");
        assert_eq!(first.trace, second.trace, "{plan}");
    }
}
