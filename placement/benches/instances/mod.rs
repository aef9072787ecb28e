//! The instances of the whole-rebalance benchmark, built with the graph's own API.
//!
//! Shards of weight 1..100 with three replicas each, on nodes in five zones; replicas of a shard on distinct nodes and
//! in distinct zones; the greatest load of a node is minimised. Variants: a third of the shards domiciled in one
//! region; two opposed resources with hardly any free space.

pub mod scoped;

use synod_placement::graph::{
    Agg, BagSpec, Cell, CmpOp, Expr, Fold, Key, LazySpec, Model, ModelError, Nullable, RootKind,
    Row, Template, VarId, VarSpec,
};

/// What is built.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub shards: u32,
    pub nodes: u32,
    pub seed: u64,
    pub start: Start,
    pub shape: Shape,
}

/// Where replicas stand at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each bench uses some")]
pub enum Start {
    /// Nowhere.
    Unplaced,
    /// Anywhere.
    Random,
    /// Anywhere on the first half of the nodes.
    Half,
}

/// Which variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each bench uses some")]
pub enum Shape {
    /// Balance alone.
    Plain,
    /// A third of the shards may stand on the first third of the nodes only.
    Domiciled,
    /// Two opposed resources, this many thousandths of the space free; the maximum of the first is minimised.
    Tight(u32),
}

/// A small generator, so that instances do not depend on a library's version.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

pub struct Instance {
    pub model: Model,
    #[allow(dead_code, reason = "each bench uses some")]
    pub vars: Vec<VarId>,
}

pub fn build(spec: Spec) -> Result<Instance, ModelError> {
    let mut dice = Dice::new(spec.seed + 1);
    let mut model = Model::new();
    let nodes = spec.nodes;
    let zones = 5;
    let domain = model.add_domain(nodes);
    let identity = model.add_map(domain, (0..nodes).map(|n| Some(i64::from(n))).collect())?;
    let zone = model.add_map(
        domain,
        (0..nodes).map(|n| Some(i64::from(n % zones))).collect(),
    )?;
    let region = model.add_map(
        domain,
        (0..nodes).map(|n| Some(i64::from(n < nodes / 3))).collect(),
    )?;

    let distinct = model.add_bag(BagSpec { cells: 0 });
    let spread = model.add_bag(BagSpec { cells: 0 });
    let load = model.add_bag(BagSpec { cells: 2 });
    let over = model.add_bag(BagSpec { cells: 1 });
    let one = || Box::new(Template::Const(Some(1)));
    let at_most_one = Template::Cmp(CmpOp::Le, Box::new(Template::Fold(Fold::CountRows)), one());
    for (policy, bag) in [(0, distinct), (1, spread)] {
        let template = at_most_one.clone();
        model.add_lazy(
            bag,
            LazySpec {
                policy,
                kind: RootKind::Hard,
                template,
            },
        )?;
    }

    let mut vars = Vec::new();
    let mut totals = [0_i64; 2];
    for shard in 0..spec.shards {
        let weight = 1 + dice.below(100) as i64;
        let opposed = 101 - weight;
        let domiciled = spec.shape == Shape::Domiciled && shard % 3 == 0;
        let mut taken: Vec<u32> = Vec::new();
        for _ in 0..3 {
            let range = match spec.start {
                Start::Half => nodes / 2,
                Start::Unplaced | Start::Random => nodes,
            };
            let current = loop {
                let node = dice.below(u64::from(range)) as u32;
                if taken.iter().all(|&other| other % zones != node % zones) {
                    break node;
                }
            };
            taken.push(current);
            let var = model.add_var(VarSpec {
                domain,
                allowed: None,
                nullable: Nullable::No,
                current: (spec.start != Start::Unplaced).then_some(current),
                block: shard,
            });
            let row = |part, map, cells| Row {
                part,
                key: Key::Of(var, map),
                cond: None,
                cells,
            };
            model.add_row(distinct, row(shard, identity, vec![]))?;
            model.add_row(spread, row(shard, zone, vec![]))?;
            let cells = vec![Cell::Const(Some(weight)), Cell::Const(Some(opposed))];
            model.add_row(load, row(0, identity, cells))?;
            totals[0] += weight;
            totals[1] += opposed;
            if domiciled {
                let at = model.expr(Expr::Lookup { var, map: region })?;
                let home = model.expr(Expr::Const(Some(1)))?;
                let inside = model.expr(Expr::Cmp(CmpOp::Eq, at, home))?;
                model.add_root(2, vars.len() as u64, RootKind::Hard, inside);
            }
            vars.push(var);
        }
    }
    for node in 0..nodes {
        let fold = Fold::Sum(0);
        let sum = model.expr(Expr::Agg(Agg {
            bag: load,
            part: 0,
            key: node,
            fold,
        }))?;
        let cells = vec![Cell::Expr(sum)];
        model.add_row(
            over,
            Row {
                part: 0,
                key: Key::Const(0),
                cond: None,
                cells,
            },
        )?;
        if let Shape::Tight(free) = spec.shape {
            for (resource, total) in totals.into_iter().enumerate() {
                let fold = Fold::Sum(resource as u8);
                let sum = model.expr(Expr::Agg(Agg {
                    bag: load,
                    part: 0,
                    key: node,
                    fold,
                }))?;
                let capacity = total * (1000 + i64::from(free)) / 1000 / i64::from(nodes) + 1;
                let capacity = model.expr(Expr::Const(Some(capacity)))?;
                let fits = model.expr(Expr::Cmp(CmpOp::Le, sum, capacity))?;
                model.add_root(3 + resource as u32, u64::from(node), RootKind::Hard, fits);
            }
        }
    }
    let most = model.expr(Expr::Agg(Agg {
        bag: over,
        part: 0,
        key: 0,
        fold: Fold::Max(0),
    }))?;
    model.add_root(9, 0, RootKind::Soft { tier: 0, weight: 1 }, most);
    Ok(Instance { model, vars })
}
