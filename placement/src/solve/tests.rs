//! Brute force against the exact solver against the search, on random small models; on such as presolve makes smaller,
//! in [`joined`].

mod joined;

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, Config, Outcome, Rng, Scope, Solver, Status, relax, solve};
use crate::graph::random::{Made, Size, model};
use crate::graph::{Model, RowRef, VarId, reference};

const SIZE: Size = Size {
    vars: 4,
    domain: 3,
    hard: 3,
    soft: 3,
};

/// Every assignment that the declarations permit, with what it breaks and costs.
struct Brute {
    all: Vec<(Assignment, BTreeSet<RowRef>, Vec<i128>)>,
}

impl Brute {
    fn new(model: &Model) -> Brute {
        let vars: Vec<VarId> = model.vars().collect();
        let mut all = Vec::new();
        let mut assignment = vec![None; vars.len()];
        enumerate(model, &vars, 0, &mut assignment, &mut all);
        Brute { all }
    }

    fn best(&self) -> Option<&Vec<i128>> {
        let feasible = self.all.iter().filter(|(_, broken, _)| broken.is_empty());
        feasible.map(|(_, _, tiers)| tiers).min()
    }

    fn solutions(&self) -> BTreeSet<Assignment> {
        let best = self.best();
        self.all
            .iter()
            .filter(|(_, broken, tiers)| broken.is_empty() && Some(tiers) == best)
            .map(|(assignment, _, _)| assignment.clone())
            .collect()
    }

    /// Whether no assignment satisfies all of these rows.
    fn conflict(&self, rows: &BTreeSet<RowRef>) -> bool {
        self.all
            .iter()
            .all(|(_, broken, _)| broken.iter().any(|row| rows.contains(row)))
    }
}

fn enumerate(
    model: &Model,
    vars: &[VarId],
    at: usize,
    assignment: &mut Vec<Option<u32>>,
    all: &mut Vec<(Assignment, BTreeSet<RowRef>, Vec<i128>)>,
) {
    if at == vars.len() {
        let result = reference::evaluate(model, assignment).expect("small numbers");
        all.push((
            vars.iter()
                .map(|&var| (var, assignment[var.index()]))
                .collect(),
            result.violations.into_iter().collect(),
            result.tiers.into_iter().map(|(_, value)| value).collect(),
        ));
        return;
    }
    let domain = model.graph.vars.domain[vars[at].index()].index();
    let values = (0..model.graph.domains[domain].len).map(Some).chain([None]);
    for value in values {
        let number = value.unwrap_or(crate::graph::internal::UNSET);
        if model.graph.permits(vars[at], number) {
            assignment[vars[at].index()] = value;
            enumerate(model, vars, at + 1, assignment, all);
        }
    }
}

fn run(model: &mut Model, solver: Solver, solutions: u32) -> Outcome {
    let config = Config {
        solver,
        solutions,
        evaluations_max: 60_000,
        conflicts_max: 50_000,
        ..Config::default()
    };
    solve(model, Scope::All, &config, &mut || false).expect("no overflow")
}

fn tiers(outcome: &Outcome) -> Vec<i128> {
    outcome.tiers.iter().map(|tier| tier.value).collect()
}

/// What any answer must be, whoever gave it.
fn assert_honest(made: &Made, brute: &Brute, outcome: &Outcome, what: &str) {
    let mut assignment = reference::current(&made.model);
    for &(var, value) in &outcome.values {
        assignment[var.index()] = value;
    }
    let result = reference::evaluate(&made.model, &assignment).expect("small numbers");
    let values: Vec<i128> = result.tiers.iter().map(|&(_, value)| value).collect();
    match outcome.status {
        Status::Optimal => {
            assert_eq!(brute.best(), Some(&values), "{what}: optimal");
            assert_eq!(tiers(outcome), values, "{what}: reported tiers");
            assert!(
                outcome
                    .tiers
                    .iter()
                    .all(|tier| tier.bound == Some(tier.value)),
                "{what}"
            );
        }
        Status::Feasible => {
            assert!(
                result.violations.is_empty(),
                "{what}: feasible breaks nothing"
            );
            assert_eq!(tiers(outcome), values, "{what}: reported tiers");
            let best = brute.best().expect("feasible");
            if let (Some(tier), Some(&optimum)) = (outcome.tiers.first(), best.first()) {
                assert!(
                    tier.bound.is_none_or(|bound| bound <= optimum),
                    "{what}: bound {:?} > {optimum}",
                    tier.bound
                );
            }
        }
        Status::Infeasible => assert_eq!(brute.best(), None, "{what}: infeasible"),
        Status::Unknown => {}
    }
}

fn assert_core(brute: &Brute, outcome: &Outcome, what: &str) {
    let Some(core) = &outcome.core else {
        panic!("{what}: infeasible without a core")
    };
    let rows: BTreeSet<RowRef> = core.rows.iter().copied().collect();
    assert!(
        brute.conflict(&rows),
        "{what}: the core {rows:?} is no conflict"
    );
    if core.minimal {
        for row in &rows {
            let mut rest = rows.clone();
            rest.remove(row);
            assert!(
                !brute.conflict(&rest),
                "{what}: {row:?} can be dropped from {rows:?}"
            );
        }
    }
}

/// Models, of which a long run takes more: `SYNOD_PLACEMENT_MODELS=20000 cargo test -p synod-placement brute`.
fn model_count(default: u64) -> u64 {
    let asked = std::env::var("SYNOD_PLACEMENT_MODELS").ok();
    asked
        .and_then(|count| count.parse().ok())
        .unwrap_or(default)
}

#[test]
fn brute_force_exact_and_search_agree() {
    agree(model_count(1_200));
}

fn agree(models: u64) {
    let mut seen: BTreeMap<(&str, String), u32> = BTreeMap::new();
    let mut search_optimal = 0;
    let mut feasible = 0;
    for seed in 0..models {
        let mut rng = Rng::new(seed);
        let crowd = if seed % 5 == 0 { 12 } else { 1 };
        let mut made = model(&mut rng, SIZE, crowd);
        let brute = Brute::new(&made.model);
        for (name, solver) in [
            ("exact", Solver::Exact),
            ("auto", Solver::Auto),
            ("search", Solver::Search),
        ] {
            let outcome = run(&mut made.model, solver, 0);
            let what = format!("seed {seed}, {name}");
            assert_honest(&made, &brute, &outcome, &what);
            *seen
                .entry((name, format!("{:?}", outcome.status)))
                .or_insert(0) += 1;
            if outcome.status == Status::Infeasible {
                assert_core(&brute, &outcome, &what);
            }
            if name == "search"
                && let Some(best) = brute.best()
            {
                feasible += 1;
                search_optimal +=
                    u32::from(outcome.status != Status::Unknown && tiers(&outcome) == *best);
            }
        }
    }
    println!("{seen:?}; search found {search_optimal} of {feasible} optima");
    let unknown = seen
        .get(&("auto", "Unknown".to_owned()))
        .copied()
        .map_or(0, u64::from);
    assert!(
        unknown * 100 < models.min(2_500),
        "auto gave up on {unknown} of {models} small models"
    );
    assert!(
        search_optimal * 100 >= feasible * 97,
        "{search_optimal} of {feasible}"
    );
}

#[test]
fn solutions_are_exactly_the_best_ones() {
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let mut made = model(&mut rng, SIZE, 1);
        let brute = Brute::new(&made.model);
        let expected = brute.solutions();
        let outcome = run(&mut made.model, Solver::Auto, 400);
        if outcome.status != Status::Optimal {
            assert!(
                outcome.status != Status::Infeasible || expected.is_empty(),
                "seed {seed}"
            );
            continue;
        }
        let found: BTreeSet<Assignment> = outcome.solutions.iter().cloned().collect();
        assert_eq!(
            found.len(),
            outcome.solutions.len(),
            "seed {seed}: distinct"
        );
        if outcome.solutions_complete {
            assert_eq!(found, expected, "seed {seed}");
        } else {
            assert_eq!(found.len(), 400, "seed {seed}");
            assert!(found.is_subset(&expected), "seed {seed}");
        }
        let few = run(&mut made.model, Solver::Auto, 2);
        assert_eq!(
            few.solutions.len(),
            expected.len().min(2),
            "seed {seed}: none missed"
        );
        assert_eq!(few.solutions_complete, expected.len() <= 2, "seed {seed}");
    }
}

/// Whatever is decided, at least as many rows are broken as the smallest relaxation gives up, and those are enough.
#[test]
fn the_smallest_relaxation_is_the_enumerated_one() {
    let mut infeasible = 0;
    for seed in 0..1_500 {
        let mut rng = Rng::new(seed);
        let mut made = model(&mut rng, SIZE, 1);
        let brute = Brute::new(&made.model);
        if brute.best().is_some() {
            continue;
        }
        let config = Config {
            conflicts_max: 50_000,
            ..Config::default()
        };
        let relaxed = relax(&mut made.model, &config, &mut || false).expect("no overflow");
        let Some(relaxed) = relaxed else { continue };
        infeasible += 1;
        let given_up: BTreeSet<RowRef> = relaxed.rows.iter().copied().collect();
        assert_eq!(given_up.len(), relaxed.rows.len(), "seed {seed}: distinct");
        let enough = |broken: &BTreeSet<RowRef>| broken.is_subset(&given_up);
        assert!(
            brute.all.iter().any(|(_, broken, _)| enough(broken)),
            "seed {seed}: giving up {given_up:?} is not enough"
        );
        let fewest = brute.all.iter().map(|(_, broken, _)| broken.len()).min();
        if relaxed.minimal {
            assert_eq!(Some(given_up.len()), fewest, "seed {seed}");
        }
    }
    assert!(infeasible > 200, "{infeasible} infeasible models");
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut made = model(
            &mut rng,
            Size {
                vars: 6,
                domain: 4,
                hard: 4,
                soft: 4,
            },
            1,
        );
        let first = run(&mut made.model, Solver::Search, 0);
        let second = run(&mut made.model, Solver::Search, 0);
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn solving_the_answer_again_moves_nothing() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut made = model(
            &mut rng,
            Size {
                vars: 6,
                domain: 4,
                hard: 2,
                soft: 4,
            },
            1,
        );
        let first = run(&mut made.model, Solver::Search, 0);
        if !matches!(first.status, Status::Optimal | Status::Feasible) {
            continue;
        }
        for &(var, value) in &first.values {
            made.model.set_current(var, value);
        }
        let second = run(&mut made.model, Solver::Search, 0);
        assert_eq!(first.values, second.values, "seed {seed}");
    }
}

#[test]
fn planted_mistakes_of_the_solvers_are_caught() {
    use crate::graph::Plant;
    use crate::graph::tests::catches;
    assert!(catches(Plant::LooseLimit, || agree(200)));
    assert!(catches(Plant::BoldCut, || bounds_are_bounds(60)));
}

/// Replicas of random sizes on nodes with room for all, the fullest to be as empty as can be: the shape of the cut.
fn balance(rng: &mut Rng) -> Model {
    use crate::graph::{
        Agg, BagSpec, Cell, CmpOp, Expr, Fold, Key, LazySpec, Nullable, RootKind, Row, Template,
        VarSpec,
    };
    let mut model = Model::new();
    let nodes = 2 + rng.below(3) as u32;
    let domain = model.add_domain(nodes);
    let identity = model
        .add_map(domain, (0..nodes).map(|n| Some(i64::from(n))).collect())
        .expect("fits");
    let zone = model
        .add_map(domain, (0..nodes).map(|n| Some(i64::from(n % 2))).collect())
        .expect("fits");
    let (apart, load, over) = (
        model.add_bag(BagSpec { cells: 0 }),
        model.add_bag(BagSpec { cells: 1 }),
        model.add_bag(BagSpec { cells: 1 }),
    );
    let template = Template::Cmp(
        CmpOp::Le,
        Box::new(Template::Fold(Fold::CountRows)),
        Box::new(Template::Const(Some(1 + rng.below(2) as i64))),
    );
    let spec = LazySpec {
        policy: 0,
        kind: RootKind::Hard,
        template,
    };
    model.add_lazy(apart, spec).expect("fits");
    for block in 0..1 + rng.below(3) as u32 {
        let home = rng.below(2) == 0;
        for _ in 0..1 + rng.below(2) {
            let var = model.add_var(VarSpec {
                domain,
                allowed: home.then(|| vec![0, 1]),
                nullable: Nullable::No,
                current: Some(rng.below(2) as u32),
                block,
            });
            let row = |part, map, cells| Row {
                part,
                key: Key::Of(var, map),
                cond: None,
                cells,
            };
            let by = if block % 2 == 0 { identity } else { zone };
            model
                .add_row(apart, row(block, by, vec![]))
                .expect("stratified");
            let weight = vec![Cell::Const(Some(1 + rng.below(9) as i64))];
            model
                .add_row(load, row(0, identity, weight))
                .expect("stratified");
        }
    }
    for node in 0..nodes {
        let fold = Fold::Sum(0);
        let sum = model.expr(Expr::Agg(Agg {
            bag: load,
            part: 0,
            key: node,
            fold,
        }));
        let factor = model
            .expr(Expr::Const(Some(1 + i64::from(node % 3))))
            .expect("fits");
        let scaled = model
            .expr(Expr::Mul(sum.expect("exists"), factor))
            .expect("exists");
        let two = model.expr(Expr::Const(Some(2))).expect("fits");
        let ratio = model.expr(Expr::Div(scaled, two)).expect("exists");
        let row = Row {
            part: 0,
            key: Key::Const(0),
            cond: None,
            cells: vec![Cell::Expr(ratio)],
        };
        model.add_row(over, row).expect("stratified");
    }
    let fold = Fold::Max(0);
    let most = model
        .expr(Expr::Agg(Agg {
            bag: over,
            part: 0,
            key: 0,
            fold,
        }))
        .expect("exists");
    model.add_root(1, 0, RootKind::Soft { tier: 0, weight: 1 }, most);
    model
}

fn bounds_are_bounds(models: u64) {
    let mut tight = 0;
    for seed in 0..models {
        let mut rng = Rng::new(seed);
        let mut model = balance(&mut rng);
        let brute = Brute::new(&model);
        let outcome = run(&mut model, Solver::Search, 0);
        match brute.best() {
            Some(best) => {
                let tier = outcome.tiers.first().expect("one tier");
                assert!(
                    tier.bound.is_some_and(|bound| bound <= best[0]),
                    "seed {seed}: {:?} > {}",
                    tier.bound,
                    best[0]
                );
                assert!(tier.value >= best[0], "seed {seed}");
                tight += u32::from(tier.bound == Some(best[0]));
            }
            None => assert_ne!(outcome.status, Status::Feasible, "seed {seed}"),
        }
    }
    assert!(
        u64::from(tight) * 4 >= models,
        "{tight} of {models} bounds are met"
    );
}

#[test]
fn cut_bounds_are_bounds_and_often_tight() {
    bounds_are_bounds(400);
}

/// A node that is over its band already, whatever is decided now, does not keep a scoped answer from being proved.
#[test]
fn a_scoped_answer_is_optimal_beside_an_excess_that_stays() {
    use crate::graph::{
        Agg, BagSpec, Cell, CmpOp, Expr, Fold, Key, Nullable, RootKind, Row, VarSpec,
    };
    let mut model = Model::new();
    let domain = model.add_domain(3);
    let identity = model
        .add_map(domain, (0..3).map(Some).collect())
        .expect("fits");
    let load = model.add_bag(BagSpec { cells: 1 });
    let add = |model: &mut Model, current: Option<u32>, block: u32| {
        let var = model.add_var(VarSpec {
            domain,
            allowed: None,
            nullable: Nullable::No,
            current,
            block,
        });
        let cells = vec![Cell::Const(Some(4))];
        let row = Row {
            part: 0,
            key: Key::Of(var, identity),
            cond: None,
            cells,
        };
        model.add_row(load, row).expect("stratified");
        var
    };
    // 30 rows on the first node make the bag large enough for stored buckets.
    for block in 0..30 {
        add(&mut model, Some(0), block);
    }
    let var = add(&mut model, None, 30);
    for node in 0..3 {
        let fold = Fold::Sum(0);
        let sum = model.expr(Expr::Agg(Agg {
            bag: load,
            part: 0,
            key: node,
            fold,
        }));
        let sum = sum.expect("exists");
        let band = model.expr(Expr::Const(Some(50))).expect("fits");
        let over = model.expr(Expr::Cmp(CmpOp::Gt, sum, band)).expect("exists");
        let excess = model.expr(Expr::Sub(sum, band)).expect("exists");
        let zero = model.expr(Expr::Const(Some(0))).expect("fits");
        let cost = Expr::Ite {
            cond: over,
            then: excess,
            otherwise: zero,
        };
        let cost = model.expr(cost).expect("exists");
        model.add_root(
            0,
            u64::from(node),
            RootKind::Soft { tier: 0, weight: 1 },
            cost,
        );
    }
    let config = Config {
        solver: Solver::Search,
        ..Config::default()
    };
    let outcome = solve(&mut model, Scope::Vars(&[var]), &config, &mut || false).expect("fits");
    assert_eq!(outcome.status, Status::Optimal);
    assert_eq!(
        (outcome.tiers[0].value, outcome.tiers[0].bound),
        (70, Some(70))
    );
    assert!(
        outcome.evaluations < 100,
        "a met bound ends the search: {}",
        outcome.evaluations
    );
}

/// Decisions with a cost for each value, a further one on a value costing one more: the flow is the enumerated best.
#[test]
fn the_flow_is_a_cheapest_one() {
    use crate::graph::{CmpOp, Expr, Nullable, RootKind, VarSpec};
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut model = Model::new();
        let (values, vars) = (2 + rng.below(3) as u32, 1 + rng.below(5) as u32);
        let domain = model.add_domain(values);
        let identity = model
            .add_map(domain, (0..values).map(|n| Some(i64::from(n))).collect())
            .expect("fits");
        for block in 0..vars {
            let var = model.add_var(VarSpec {
                domain,
                allowed: None,
                nullable: Nullable::No,
                current: None,
                block,
            });
            for value in 0..values {
                let at = model
                    .expr(Expr::Lookup { var, map: identity })
                    .expect("exists");
                let here = model
                    .expr(Expr::Const(Some(i64::from(value))))
                    .expect("fits");
                let is = model.expr(Expr::Cmp(CmpOp::Eq, at, here)).expect("exists");
                let weight = 1 + rng.below(4) as i64;
                let row = u64::from(block * values + value);
                model.add_root(0, row, RootKind::Soft { tier: 0, weight }, is);
            }
        }
        let price = |assignment: &Assignment, costs: i128| {
            let mut load = vec![0_i128; values as usize];
            assignment
                .iter()
                .filter_map(|&(_, value)| value)
                .for_each(|value| load[value as usize] += 1);
            costs * 1_000 + load.iter().map(|load| load * (load - 1) / 2).sum::<i128>()
        };
        let brute = Brute::new(&model);
        let all = brute.all.iter().map(|(a, _, tiers)| price(a, tiers[0]));
        let outcome = run(&mut model, Solver::Flow, 0);
        let found = price(&outcome.values, outcome.tiers[0].value);
        assert_eq!(Some(found), all.min(), "seed {seed}");
    }
}
