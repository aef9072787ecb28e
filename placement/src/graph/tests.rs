//! The incremental evaluation against the definitions.

use super::random::{Made, Size, model};
use super::reference::{self, Evaluation};
use super::{Cell, Key, Model, RowRef, VarId};
use crate::solve::Rng;

const SIZE: Size = Size {
    vars: 5,
    domain: 4,
    hard: 4,
    soft: 4,
};

fn incremental(model: &mut Model) -> Evaluation {
    model.refresh().expect("no overflow");
    let violations: Vec<RowRef> = model.violations().into_iter().map(|v| v.source).collect();
    assert_eq!(
        violations.is_empty(),
        model.state.totals.hinge == 0,
        "the hinge is 0 exactly when all hard rows hold"
    );
    Evaluation {
        violations,
        tiers: model.tiers(),
    }
}

fn assert_agrees(made: &mut Made, what: &str) {
    let lazy = incremental(&mut made.model);
    let assignment = reference::current(&made.model);
    let mut expected = reference::evaluate(&made.model, &assignment).expect("no overflow");
    expected.violations.dedup();
    let mut lazy = lazy;
    lazy.violations.dedup();
    assert_eq!(lazy, expected, "{what}");
}

/// The contract of lazy templates: they hold for buckets without rows. The generator breaks it on purpose now and
/// then, and both evaluations must still agree, because both look only at buckets with rows.
#[test]
fn incremental_evaluation_agrees_with_the_definitions() {
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let crowd = if seed % 3 == 0 { 20 } else { 1 };
        let mut made = model(&mut rng, SIZE, crowd);
        assert_agrees(&mut made, &format!("seed {seed}: first evaluation"));
        for step in 0..12 {
            let var = made.vars[rng.below(made.vars.len())];
            let value = made.random_values(&mut rng)[0];
            made.model.set_current(var, value);
            assert_agrees(
                &mut made,
                &format!("seed {seed}: step {step}, {var:?} = {value:?}"),
            );
        }
    }
}

#[test]
fn undo_restores_everything() {
    for seed in 0..1500 {
        let mut rng = Rng::new(seed);
        let crowd = if seed % 2 == 0 { 20 } else { 1 };
        let mut made = model(&mut rng, SIZE, crowd);
        made.model.refresh().expect("no overflow");
        let (graph, state) = (&made.model.graph, &mut made.model.state);
        let before = state.clone();
        let outer = state.mark();
        for _ in 0..4 {
            let inner = state.mark();
            for _ in 0..3 {
                let var = made.vars[rng.below(made.vars.len())];
                state.assign(graph, var, rng.below(made.domain_len as usize) as u32);
                state.propagate(graph);
            }
            if rng.below(2) == 0 {
                state.undo(inner)
            } else {
                state.keep(inner)
            }
        }
        state.undo(outer);
        assert_eq!(state.assignment, before.assignment, "seed {seed}");
        assert_eq!(state.values, before.values, "seed {seed}");
        assert_eq!(state.totals, before.totals, "seed {seed}");
        assert_eq!(state.hinge, before.hinge, "seed {seed}");
        assert_eq!(state.broken.len(), before.broken.len(), "seed {seed}");
        assert!(state.trail.is_empty());
        assert_agrees(&mut made, &format!("seed {seed}: after undo"));
    }
}

#[test]
fn deltas_agree_with_the_definitions() {
    for seed in 0..2000 {
        let mut rng = Rng::new(seed);
        let crowd = if seed % 2 == 0 { 20 } else { 1 };
        let mut made = model(&mut rng, SIZE, crowd);
        assert_agrees(&mut made, &format!("seed {seed}: first evaluation"));
        for step in 0..10 {
            let what = change(&mut made, &mut rng);
            assert_agrees(&mut made, &format!("seed {seed}: step {step}: {what}"));
        }
    }
}

fn change(made: &mut Made, rng: &mut Rng) -> &'static str {
    match rng.below(6) {
        0 if !made.bags.is_empty() => {
            let index = rng.below(made.bags.len());
            let row = made.random_row(rng, index);
            let bag = made.bags[index];
            let row = made.model.add_row(bag, row).expect("stratified");
            made.rows.push((row, bag));
            "a row is added"
        }
        1 if !made.rows.is_empty() => {
            let (row, _) = made.rows.swap_remove(rng.below(made.rows.len()));
            made.model.remove_row(row);
            "a row is removed"
        }
        2 => {
            let map = made.maps[rng.below(made.maps.len())];
            let image = (rng.below(5) > 0).then(|| rng.below(5) as i64 - 1);
            let value = rng.below(made.domain_len as usize) as u32;
            made.model.set_maps(&[(map, value, image)]).expect("small");
            "a column changes"
        }
        3 if !made.bags.is_empty() => {
            let bag = made.bags[rng.below(made.bags.len())];
            let constants = [Some(rng.below(4) as i64)];
            if rng.below(2) == 0 {
                made.model
                    .set_part(bag, rng.below(3) as u32, &constants)
                    .expect("small");
            } else {
                made.model
                    .set_key(bag, rng.below(3) as u32, &constants)
                    .expect("small");
            }
            "a bucket's constants change"
        }
        4 => {
            let expr = made.truth(rng, 2);
            let root = made.model.add_root(7, 0, super::RootKind::Hard, expr);
            if rng.below(2) == 0 {
                made.model.refresh().expect("no overflow");
                made.model.remove_root(root);
                "a root comes and goes"
            } else {
                "a root is added"
            }
        }
        _ => {
            let var = made.vars[rng.below(made.vars.len())];
            let value = made.random_values(rng)[0];
            made.model.set_current(var, value);
            "a value changes"
        }
    }
}

/// Maxima over rows that never leave their buckets are kept as tournaments: rows that come get leaves of their own,
/// rows that go leave theirs to others, and the tournament grows, all without starting over.
#[test]
fn a_maximum_follows_rows_that_come_and_go() {
    use super::{Agg, BagSpec, Expr, Fold, Nullable, RootKind, Row, VarSpec};
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut model = Model::new();
        let domain = model.add_domain(6);
        let image = (0..6).map(|v| Some(7 * v % 11)).collect();
        let map = model.add_map(domain, image).expect("fits");
        let vars: Vec<VarId> = (0..8)
            .map(|block| VarSpec {
                domain,
                allowed: None,
                nullable: Nullable::No,
                current: Some(block % 6),
                block,
            })
            .map(|spec| model.add_var(spec))
            .collect();
        let bag = model.add_bag(BagSpec { cells: 1 });
        let row = |rng: &mut Rng| Row {
            part: rng.below(2) as u32,
            key: Key::Const(rng.below(3) as u32),
            cond: None,
            cells: vec![Cell::Lookup {
                var: vars[rng.below(vars.len())],
                map,
                times: 1 + rng.below(3) as i64,
            }],
        };
        let mut rows = Vec::new();
        rows.extend((0..60).map(|_| model.add_row(bag, row(&mut rng)).expect("stratified")));
        // A bucket that has no row yet is asked for, too.
        for (part, key) in [(0, 0), (0, 2), (1, 1), (2, 0)] {
            for fold in [Fold::Max(0), Fold::Min(0), Fold::CountRows] {
                let agg = Agg {
                    bag,
                    part,
                    key,
                    fold,
                };
                let fold = model.expr(Expr::Agg(agg)).expect("exists");
                let kind = RootKind::Soft { tier: 0, weight: 1 };
                model.add_root(0, u64::from(part), kind, fold);
            }
        }
        model.refresh().expect("no overflow");
        for step in 0..60 {
            match rng.below(3) {
                0 if !rows.is_empty() => {
                    model.remove_row(rows.swap_remove(rng.below(rows.len())));
                }
                1 => {
                    let var = vars[rng.below(vars.len())];
                    model.set_current(var, Some(rng.below(6) as u32));
                }
                _ => rows.push(model.add_row(bag, row(&mut rng)).expect("stratified")),
            }
            assert!(model.state.sealed, "nothing starts over");
            let followed = incremental(&mut model);
            let assignment = reference::current(&model);
            let expected = reference::evaluate(&model, &assignment).expect("no overflow");
            assert_eq!(followed, expected, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn probe_tells_what_a_change_breaks_and_repairs() {
    for seed in 0..800 {
        let mut rng = Rng::new(seed);
        let mut made = model(&mut rng, SIZE, 1);
        made.model.refresh().expect("no overflow");
        let var: VarId = made.vars[rng.below(made.vars.len())];
        let value = made.random_values(&mut rng)[0];
        let before = incremental(&mut made.model);
        let probe = made.model.probe(&[(var, value)]).expect("no overflow");
        assert_eq!(
            incremental(&mut made.model),
            before,
            "seed {seed}: a probe changes nothing"
        );
        made.model.set_current(var, value);
        let after = incremental(&mut made.model);
        for (index, &(tier, delta)) in probe.tiers.iter().enumerate() {
            assert_eq!(
                (tier, before.tiers[index].1 + delta),
                after.tiers[index],
                "seed {seed}"
            );
        }
        for violation in &probe.broken {
            assert!(after.violations.contains(&violation.source), "seed {seed}");
        }
        for source in &after.violations {
            let known = before.violations.contains(source);
            let told = probe
                .broken
                .iter()
                .any(|violation| violation.source == *source);
            assert!(known || told, "seed {seed}: {source:?} broke untold");
        }
        for source in before
            .violations
            .iter()
            .filter(|s| !after.violations.contains(s))
        {
            assert!(
                probe.repaired.iter().any(|v| v.source == *source),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_sum_does_not_wrap_and_an_oversized_product_is_an_error() {
    use super::{Agg, BagSpec, Expr, Fold, ModelError, RootKind, Row, VarSpec};
    let mut model = Model::new();
    let domain = model.add_domain(1);
    let zero = model.add_map(domain, vec![Some(0)]).expect("fits");
    let var = model.add_var(VarSpec {
        domain,
        allowed: None,
        nullable: super::Nullable::No,
        current: Some(0),
        block: 0,
    });
    let bag = model.add_bag(BagSpec { cells: 1 });
    for _ in 0..4 {
        let cells = vec![Cell::Const(Some(i64::MAX))];
        let row = Row {
            part: 0,
            key: Key::Of(var, zero),
            cond: None,
            cells,
        };
        model.add_row(bag, row).expect("stratified");
    }
    let agg = Agg {
        bag,
        part: 0,
        key: 0,
        fold: Fold::Sum(0),
    };
    let sum = model.expr(Expr::Agg(agg)).expect("exists");
    model.add_root(0, 0, RootKind::Soft { tier: 0, weight: 1 }, sum);
    model.refresh().expect("no overflow");
    assert_eq!(model.value(sum), Ok(Some(4 * i128::from(i64::MAX))));
    let square = model.expr(Expr::Mul(sum, sum)).expect("exists");
    assert_eq!(model.value(square), Err(ModelError::Overflow));
    assert_eq!(
        model.expr(Expr::Const(Some(i64::MIN))),
        Err(ModelError::Overflow)
    );
}

/// Runs a check with a mistake planted; true when the check catches it.
pub(crate) fn catches(plant: super::Plant, check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    super::PLANTED.with(|planted| planted.set(Some(plant)));
    let caught = std::panic::catch_unwind(check).is_err();
    super::PLANTED.with(|planted| planted.set(None));
    caught
}

#[test]
fn planted_mistakes_of_the_evaluation_are_caught() {
    assert!(catches(
        super::Plant::StaleSum,
        incremental_evaluation_agrees_with_the_definitions
    ));
    assert!(catches(
        super::Plant::ForgetfulUndo,
        undo_restores_everything
    ));
}
