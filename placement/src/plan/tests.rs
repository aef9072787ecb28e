//! Plans replayed: every subset of every step must be safe.

use super::{Config, Plan, Status, plan};
use crate::graph::random::{Size, model};
use crate::graph::{
    Agg, BagSpec, Cell, CmpOp, Expr, Fold, Key, LazySpec, Model, Nullable, RootKind, Row, RowRef,
    Template, VarId, VarSpec, reference,
};
use crate::solve::{self, Rng, Scope};

/// What an assignment breaks, by how much.
fn broken(model: &mut Model) -> Vec<(RowRef, i128)> {
    model.refresh().expect("no overflow");
    model
        .violations()
        .into_iter()
        .map(|violation| (violation.source, violation.amount))
        .collect()
}

/// Replays a plan. No subset of a step's changes may break a row or worsen one.
fn assert_safe(model: &mut Model, plan: &Plan, what: &str) {
    for (index, step) in plan.steps.iter().enumerate() {
        let before = broken(model);
        for change in step {
            assert_eq!(
                model.current(change.var),
                change.from,
                "{what}: step {index}"
            );
        }
        // Companions of one block finish together.
        let mut units: Vec<Vec<&super::Change>> = Vec::new();
        for change in step {
            let mate = units.iter_mut().find(|unit| {
                unit[0].from == change.from
                    && unit[0].to == change.to
                    && model.block_of(unit[0].var).contains(&change.var)
            });
            match mate {
                Some(unit) => unit.push(change),
                None => units.push(vec![change]),
            }
        }
        for subset in 1_u32..1 << units.len().min(10) {
            for (bit, unit) in units.iter().enumerate() {
                for change in unit {
                    let done = subset >> bit & 1 == 1;
                    let value = if done { change.to } else { change.from };
                    model.set_current(change.var, value);
                }
            }
            for (row, amount) in broken(model) {
                if model.is_deferrable(row) {
                    continue;
                }
                let allowed = before.iter().find(|(known, _)| *known == row);
                assert!(
                    allowed.is_some_and(|&(_, before)| amount <= before),
                    "{what}: step {index}, subset {subset:b} breaks {row:?}"
                );
            }
        }
        for change in step {
            model.set_current(change.var, change.to);
        }
    }
}

#[test]
fn random_plans_are_safe_in_every_subset() {
    let (mut complete, mut none) = (0, 0);
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut made = model(
            &mut rng,
            Size {
                vars: 6,
                domain: 4,
                hard: 3,
                soft: 2,
            },
            1,
        );
        let config = solve::Config {
            evaluations_max: 20_000,
            ..solve::Config::default()
        };
        let outcome =
            solve::solve(&mut made.model, Scope::All, &config, &mut || false).expect("no overflow");
        if !outcome.broken.is_empty() || outcome.status == solve::Status::Infeasible {
            continue;
        }
        let present = reference::current(&made.model);
        let plan = plan(&mut made.model, &outcome.values, &Config::default()).expect("no overflow");
        assert_eq!(
            reference::current(&made.model),
            present,
            "the model keeps its values"
        );
        assert_safe(&mut made.model, &plan, &format!("seed {seed}"));
        if plan.status == Status::Complete {
            complete += 1;
            for &(var, value) in &outcome.values {
                assert_eq!(
                    made.model.current(var),
                    value,
                    "seed {seed}: the target is reached"
                );
            }
        } else {
            none += 1;
            assert!(
                !plan.blocked_by.is_empty(),
                "seed {seed}: blocked by something"
            );
        }
    }
    assert!(complete > 100, "{complete} complete, {none} not");
}

/// Nodes with a capacity of `capacity` unit replicas each; replica `r` stands at `at[r]`.
fn cluster(nodes: u32, capacity: i64, at: &[u32]) -> (Model, Vec<VarId>) {
    let mut model = Model::new();
    let domain = model.add_domain(nodes);
    let identity = model
        .add_map(domain, (0..nodes).map(|n| Some(i64::from(n))).collect())
        .expect("fits");
    let load = model.add_bag(BagSpec { cells: 1 });
    let vars = at
        .iter()
        .enumerate()
        .map(|(block, &node)| {
            let var = model.add_var(VarSpec {
                domain,
                allowed: None,
                nullable: Nullable::No,
                current: Some(node),
                block: block as u32,
            });
            let cells = vec![Cell::Const(Some(1))];
            let row = Row {
                part: 0,
                key: Key::Of(var, identity),
                cond: None,
                cells,
            };
            model.add_row(load, row).expect("stratified");
            var
        })
        .collect();
    for node in 0..nodes {
        let fold = Fold::Sum(0);
        let sum = model.expr(Expr::Agg(Agg {
            bag: load,
            part: 0,
            key: node,
            fold,
        }));
        let limit = model.expr(Expr::Const(Some(capacity))).expect("fits");
        let fits = Expr::Cmp(CmpOp::Le, sum.expect("exists"), limit);
        let fits = model.expr(fits).expect("exists");
        model.add_root(0, u64::from(node), RootKind::Hard, fits);
    }
    (model, vars)
}

#[test]
fn two_full_nodes_swap_through_a_third() {
    let (mut model, vars) = cluster(3, 1, &[0, 1]);
    let targets = [(vars[0], Some(1)), (vars[1], Some(0))];
    let plan = plan(&mut model, &targets, &Config::default()).expect("no overflow");
    assert_eq!(plan.status, Status::Complete);
    assert_eq!(
        plan.steps.iter().map(Vec::len).sum::<usize>(),
        3,
        "one parking move"
    );
    assert_safe(&mut model, &plan, "swap");
}

#[test]
fn two_full_nodes_without_a_third_have_no_safe_order() {
    let (mut model, vars) = cluster(2, 1, &[0, 1]);
    let targets = [(vars[0], Some(1)), (vars[1], Some(0))];
    let plan = plan(&mut model, &targets, &Config::default()).expect("no overflow");
    assert_eq!(plan.status, Status::NoSafeOrder);
    let rows = [
        RowRef::Root { policy: 0, row: 0 },
        RowRef::Root { policy: 0, row: 1 },
    ];
    assert_eq!(plan.blocked_by, rows);
}

#[test]
fn a_deferrable_policy_may_break_on_the_way() {
    let (mut model, vars) = cluster(2, 1, &[0, 1]);
    model.set_deferrable(0);
    let targets = [(vars[0], Some(1)), (vars[1], Some(0))];
    let plan = plan(&mut model, &targets, &Config::default()).expect("no overflow");
    assert_eq!(plan.status, Status::Complete);
    assert_eq!(plan.steps.iter().map(Vec::len).sum::<usize>(), 2);
}

#[test]
fn a_move_within_a_zone_counts_once_in_the_zone() {
    // One replica per zone, two nodes in each: a move within a zone must not be seen as two replicas there.
    let mut model = Model::new();
    let domain = model.add_domain(2);
    let zone = model.add_map(domain, vec![Some(0), Some(0)]).expect("fits");
    let spread = model.add_bag(BagSpec { cells: 0 });
    let template = Template::Cmp(
        CmpOp::Le,
        Box::new(Template::Fold(Fold::CountRows)),
        Box::new(Template::Const(Some(1))),
    );
    let spec = LazySpec {
        policy: 0,
        kind: RootKind::Hard,
        template,
    };
    model.add_lazy(spread, spec).expect("fits");
    let var = model.add_var(VarSpec {
        domain,
        allowed: None,
        nullable: Nullable::No,
        current: Some(0),
        block: 0,
    });
    let row = Row {
        part: 0,
        key: Key::Of(var, zone),
        cond: None,
        cells: vec![],
    };
    model.add_row(spread, row).expect("stratified");
    let plan = plan(&mut model, &[(var, Some(1))], &Config::default()).expect("no overflow");
    assert_eq!((plan.status, plan.steps.len()), (Status::Complete, 1));
}

#[test]
fn a_leader_moves_with_the_only_replica() {
    // The leader must stand on the replica; neither can go first alone.
    let mut model = Model::new();
    let domain = model.add_domain(2);
    let identity = model.add_map(domain, vec![Some(0), Some(1)]).expect("fits");
    let mut var = || {
        model.add_var(VarSpec {
            domain,
            allowed: None,
            nullable: Nullable::No,
            current: Some(0),
            block: 0,
        })
    };
    let (replica, leader) = (var(), var());
    let a = model
        .expr(Expr::Lookup {
            var: replica,
            map: identity,
        })
        .expect("exists");
    let b = model
        .expr(Expr::Lookup {
            var: leader,
            map: identity,
        })
        .expect("exists");
    let on = model.expr(Expr::Cmp(CmpOp::Eq, a, b)).expect("exists");
    model.add_root(0, 0, RootKind::Hard, on);
    let targets = [(replica, Some(1)), (leader, Some(1))];
    let plan = plan(&mut model, &targets, &Config::default()).expect("no overflow");
    assert_eq!(plan.status, Status::Complete);
    assert_eq!(
        plan.steps.len(),
        1,
        "copy, transfer and removal are one unit"
    );
}

#[test]
fn a_row_broken_at_the_start_may_stay_broken_but_not_worsen() {
    // Three on a node for one, and the other node full: one must leave before another comes.
    let (mut model, vars) = cluster(3, 1, &[0, 0, 1]);
    let targets = [(vars[0], Some(1)), (vars[2], Some(2))];
    let plan = plan(&mut model, &targets, &Config::default()).expect("no overflow");
    assert_eq!(plan.status, Status::Complete);
    assert_eq!(plan.steps[0][0].var, vars[2], "the full node empties first");
    assert_safe(&mut model, &plan, "repair");
}

#[test]
fn at_most_so_many_moves_share_a_node() {
    let (mut model, vars) = cluster(2, 100, &[0; 10]);
    let targets: Vec<_> = vars.iter().map(|&var| (var, Some(1))).collect();
    let config = Config {
        per_value_max: 3,
        ..Config::default()
    };
    let plan = plan(&mut model, &targets, &config).expect("no overflow");
    assert_eq!(plan.status, Status::Complete);
    assert_eq!(
        plan.steps.iter().map(Vec::len).collect::<Vec<_>>(),
        [3, 3, 3, 1]
    );
}

#[test]
fn large_swaps_park_and_finish() {
    // 40 pairs of full nodes exchange their replicas; two nodes are free.
    let nodes = 82;
    let at: Vec<u32> = (0..80).collect();
    let (mut model, vars) = cluster(nodes, 1, &at);
    let targets: Vec<_> = vars
        .iter()
        .enumerate()
        .map(|(v, &var)| (var, Some(v as u32 ^ 1)))
        .collect();
    let plan = plan(&mut model, &targets, &Config::default()).expect("no overflow");
    assert_eq!(plan.status, Status::Complete);
    let moves: usize = plan.steps.iter().map(Vec::len).sum();
    assert!(moves <= 80 + 40, "{moves} moves for 80 changes");
    assert_safe(&mut model, &plan, "large swap");
}
