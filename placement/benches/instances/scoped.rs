//! A settled cluster to which small batches of replicas are added: the scoped decision.
//!
//! Ten shards for each node, three replicas each; distinct nodes, zone spread, two capacities, balance as excess over
//! a band, stickiness.

use synod_placement::graph::{
    Agg, BagId, BagSpec, Cell, CmpOp, Expr, ExprId, Fold, Key, LazySpec, MapId, Model, ModelError,
    Nullable, RootKind, Row, RowId, Template, VarId, VarSpec,
};

use super::Dice;

pub struct Cluster {
    pub model: Model,
    domain: synod_placement::graph::DomainId,
    identity: MapId,
    zone: MapId,
    distinct: BagId,
    spread: BagId,
    load: BagId,
    shards: u32,
    dice: Dice,
    /// The load rows, with their bytes and rates, for jitter.
    pub rows: Vec<(VarId, RowId, [i64; 2])>,
}

const ZONES: u32 = 5;

impl Cluster {
    pub fn new(nodes: u32, shards: u32) -> Result<Cluster, ModelError> {
        let mut model = Model::new();
        let domain = model.add_domain(nodes);
        let identity = model.add_map(domain, (0..nodes).map(|n| Some(i64::from(n))).collect())?;
        let zone = model.add_map(
            domain,
            (0..nodes).map(|n| Some(i64::from(n % ZONES))).collect(),
        )?;
        let distinct = model.add_bag(BagSpec { cells: 0 });
        let spread = model.add_bag(BagSpec { cells: 0 });
        let load = model.add_bag(BagSpec { cells: 2 });
        for (policy, bag) in [(0, distinct), (1, spread)] {
            let template = Template::Cmp(
                CmpOp::Le,
                Box::new(Template::Fold(Fold::CountRows)),
                Box::new(Template::Const(Some(1))),
            );
            model.add_lazy(
                bag,
                LazySpec {
                    policy,
                    kind: RootKind::Hard,
                    template,
                },
            )?;
        }
        let mut cluster = Cluster {
            model,
            domain,
            identity,
            zone,
            distinct,
            spread,
            load,
            shards: 0,
            dice: Dice::new(7),
            rows: Vec::new(),
        };
        // Settled: each shard's replicas on consecutive nodes, so that all nodes carry about the same.
        let mut next = 0;
        for _ in 0..shards {
            let at = [next % nodes, (next + 1) % nodes, (next + 2) % nodes];
            next += 3;
            cluster.add_shard(Some(at))?;
        }
        let mean = 3 * i64::from(shards) * 50 / i64::from(nodes);
        for node in 0..nodes {
            for resource in 0..2 {
                let sum = cluster.sum(node, resource)?;
                let capacity = cluster.constant(mean * 2)?;
                let fits = cluster.model.expr(Expr::Cmp(CmpOp::Le, sum, capacity))?;
                let policy = 2 + u32::from(resource);
                cluster
                    .model
                    .add_root(policy, u64::from(node), RootKind::Hard, fits);
            }
            let sum = cluster.sum(node, 0)?;
            let band = cluster.constant(mean * 13 / 10)?;
            let over = cluster.model.expr(Expr::Cmp(CmpOp::Gt, sum, band))?;
            let excess = cluster.model.expr(Expr::Sub(sum, band))?;
            let zero = cluster.constant(0)?;
            let cost = cluster.model.expr(Expr::Ite {
                cond: over,
                then: excess,
                otherwise: zero,
            })?;
            let kind = RootKind::Soft { tier: 0, weight: 1 };
            cluster.model.add_root(4, u64::from(node), kind, cost);
        }
        cluster.model.refresh()?;
        Ok(cluster)
    }

    fn constant(&mut self, value: i64) -> Result<ExprId, ModelError> {
        self.model.expr(Expr::Const(Some(value)))
    }

    fn sum(&mut self, node: u32, resource: u8) -> Result<ExprId, ModelError> {
        let fold = Fold::Sum(resource);
        self.model.expr(Expr::Agg(Agg {
            bag: self.load,
            part: 0,
            key: node,
            fold,
        }))
    }

    /// A shard of three replicas: at these nodes, or to be placed.
    pub fn add_shard(&mut self, at: Option<[u32; 3]>) -> Result<Vec<VarId>, ModelError> {
        let shard = self.shards;
        self.shards += 1;
        let demand = [
            1 + self.dice.below(100) as i64,
            1 + self.dice.below(100) as i64,
        ];
        let mut vars = Vec::new();
        for slot in 0..3 {
            let current = at.map(|at| at[slot]);
            let var = self.model.add_var(VarSpec {
                domain: self.domain,
                allowed: None,
                nullable: Nullable::No,
                current,
                block: shard,
            });
            let row = |part, map, cells| Row {
                part,
                key: Key::Of(var, map),
                cond: None,
                cells,
            };
            self.model
                .add_row(self.distinct, row(shard, self.identity, vec![]))?;
            self.model
                .add_row(self.spread, row(shard, self.zone, vec![]))?;
            let cells = demand
                .iter()
                .map(|&amount| Cell::Const(Some(amount)))
                .collect();
            let load = self
                .model
                .add_row(self.load, row(0, self.identity, cells))?;
            self.rows.push((var, load, demand));
            if let Some(current) = current {
                let is = self.model.expr(Expr::Lookup {
                    var,
                    map: self.identity,
                })?;
                let was = self.constant(i64::from(current))?;
                let moved = self.model.expr(Expr::Cmp(CmpOp::Ne, is, was))?;
                let kind = RootKind::Soft { tier: 1, weight: 1 };
                self.model
                    .add_root(5, u64::from(shard) * 3 + slot as u64, kind, moved);
            }
            vars.push(var);
        }
        Ok(vars)
    }

    /// Changes every load by up to five percent.
    #[allow(dead_code, reason = "each bench uses some")]
    pub fn jitter(&mut self) -> Result<(), ModelError> {
        for index in 0..self.rows.len() {
            let (var, row, demand) = self.rows[index];
            self.model.remove_row(row);
            let jittered = demand.map(|amount| {
                let percent = 95 + self.dice.below(11) as i64;
                (amount * percent + 50) / 100
            });
            let cells = jittered
                .iter()
                .map(|&amount| Cell::Const(Some(amount)))
                .collect();
            let row = Row {
                part: 0,
                key: Key::Of(var, self.identity),
                cond: None,
                cells,
            };
            self.rows[index].1 = self.model.add_row(self.load, row)?;
        }
        Ok(())
    }
}
