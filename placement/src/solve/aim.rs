//! From what hurts to a decision that can help: a walk from a root down to a variable.
//!
//! A node that is too full has a root; below it stands a sum, below that the replicas on the node. Picking decisions
//! at random from 30,000 would find one of those 600 in one try out of fifty; the walk finds one each time. Below a
//! maximum it takes the winner, below a sum of excesses one of the larger ones.

use super::search::Search;
use crate::graph::internal::{Broken, Graph, Key, Layout, NIL, Op, RootKind, Val, is_special};
use crate::graph::{Cell, Fold, VarId};

/// How deep a walk may go: policies are not deeper, and a walk that loops through bags must end.
const STEPS_MAX: usize = 48;
/// Rows looked at when one of many is chosen by its value.
const SAMPLE: usize = 6;

/// Which end of a maximum's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Hot,
    Cold,
}

/// The hot spots of each tier: soft roots, and bags with soft lazy policies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    pub roots: Vec<u32>,
    pub lazies: Vec<u32>,
    /// Whether one of them is a maximum or a minimum over expressions.
    pub guided: bool,
}

fn has_extremum(graph: &Graph, id: u32) -> bool {
    let node = graph.nodes.get(id);
    if node.op == Op::Agg {
        let agg = graph.nodes.aggs[node.a as usize];
        return matches!(agg.fold, Fold::Max(_) | Fold::Min(_))
            && graph.bags.bag[agg.bag.index()].tournaments;
    }
    let mut found = false;
    graph
        .nodes
        .for_operands(id, |operand| found = found || has_extremum(graph, operand));
    found
}

impl Search<'_> {
    /// The soft policies of each tier that the scope can change.
    pub(crate) fn targets(&self, tiers: usize) -> Vec<Targets> {
        let graph = self.graph;
        let mut targets = vec![Targets::default(); tiers];
        for &root in self.soft {
            let data = &graph.roots.root[root as usize];
            // A declared tier has a constant root of its own, which is nothing to aim at.
            let constant = graph.nodes.get(data.expr.0).op == Op::Const;
            if let (RootKind::Soft { tier, .. }, false) = (data.kind, constant) {
                let targets = &mut targets[graph.roots.tier_index(tier)];
                targets.roots.push(root);
                targets.guided = targets.guided || has_extremum(graph, data.expr.index() as u32);
            }
        }
        for (index, lazy) in graph.bags.lazies.iter().enumerate() {
            if let (true, RootKind::Soft { tier, .. }) = (lazy.alive, lazy.kind) {
                targets[graph.roots.tier_index(tier)]
                    .lazies
                    .push(index as u32);
            }
        }
        targets
    }

    /// A variable whose change can lower a tier.
    pub(crate) fn aim(&mut self, targets: &Targets) -> Option<VarId> {
        let roots = targets.roots.len();
        let lazies = targets.lazies.len();
        if roots + lazies == 0 {
            return None;
        }
        if self.rng.below(roots + lazies) >= roots {
            let lazy = targets.lazies[self.rng.below(lazies)];
            let bag = self.graph.bags.lazies[lazy as usize].bag.index();
            let parts = &self.graph.bags.bag[bag].parts;
            let part = self.rng.below(parts.len().max(1));
            let rows = parts.get(part).filter(|rows| !rows.is_empty())?;
            let row = rows[self.rng.below(rows.len())];
            return self.row_var(row);
        }
        let mut hottest: Option<(i128, u32)> = None;
        for _ in 0..SAMPLE.min(roots) {
            let root = targets.roots[self.rng.below(roots)];
            let data = self.graph.roots.root[root as usize];
            let value = self.state.values[data.expr.index()];
            let RootKind::Soft { weight, .. } = data.kind else {
                continue;
            };
            let cost = crate::graph::internal::soft_term(weight, value);
            if hottest.is_none_or(|(most, _)| cost > most) {
                hottest = Some((cost, root));
            }
        }
        let (_, root) = hottest?;
        self.descend(self.graph.roots.root[root as usize].expr.0)
    }

    /// A variable that a broken policy row depends on.
    pub(crate) fn aim_at_broken(&mut self, broken: Broken) -> Option<VarId> {
        match broken {
            Broken::Root(root) => self.descend(self.graph.roots.root[root as usize].expr.0),
            Broken::Lazy(lazy, slot) => {
                let bag = self.graph.bags.lazies[lazy as usize].bag.0;
                let (part, key) = self.state.slot_bucket(self.graph, bag, slot);
                match key {
                    Some(key) => self
                        .bucket_row(bag, part, key, None)
                        .and_then(|r| self.row_var(r)),
                    None => {
                        let rows = &self.graph.bags.bag[bag as usize].parts[part as usize];
                        if rows.is_empty() {
                            return None;
                        }
                        let row = rows[self.rng.below(rows.len())];
                        self.row_var(row)
                    }
                }
            }
        }
    }

    /// Walks from an expression to a free variable below it.
    fn descend(&mut self, id: u32) -> Option<VarId> {
        let mut at = id;
        for _ in 0..STEPS_MAX {
            let node = self.graph.nodes.get(at);
            match node.op {
                Op::Const | Op::Free => return None,
                Op::Lookup => return self.free(self.graph.nodes.lookup(at)?.0),
                Op::Agg => {
                    let agg = self.graph.nodes.aggs[node.a as usize];
                    let row = self.bucket_row(agg.bag.0, agg.part, agg.key, Some(agg.fold))?;
                    match self.row_step(row, agg.fold) {
                        Next::Var(var) => return self.free(var),
                        Next::Expr(id) => at = id,
                        Next::Nothing => return None,
                    }
                }
                Op::Neg
                | Op::Add
                | Op::Sub
                | Op::Mul
                | Op::Div
                | Op::Rem
                | Op::Cmp(_)
                | Op::And
                | Op::Or
                | Op::Not
                | Op::IsNull
                | Op::Ite
                | Op::InSet => at = self.random_operand(at)?,
            }
        }
        None
    }

    fn free(&self, var: VarId) -> Option<VarId> {
        let var = self.candidates.ties.head(var);
        self.candidates.is_free(var).then_some(var)
    }

    /// An operand that is not a constant.
    fn random_operand(&mut self, id: u32) -> Option<u32> {
        let graph = self.graph;
        let (mut chosen, mut seen) = (None, 0);
        let rng = &mut self.rng;
        graph.nodes.for_operands(id, |operand| {
            if graph.nodes.get(operand).op != Op::Const {
                seen += 1;
                if rng.below(seen) == 0 {
                    chosen = Some(operand);
                }
            }
        });
        chosen
    }

    /// A row of a bucket, by preference one that matters to the fold.
    fn bucket_row(&mut self, bag: u32, part: u32, key: u32, fold: Option<Fold>) -> Option<u32> {
        let graph = self.graph;
        let data = &graph.bags.bag[bag as usize];
        let rows = data.parts.get(part as usize)?;
        if data.layout == Layout::Scan {
            let inside: Vec<u32> = rows
                .iter()
                .copied()
                .filter(|&row| self.state.row_key(graph, row) == Some(key))
                .collect();
            return self.weightiest(&inside, fold);
        }
        if data.fixed_keys {
            if let (Some(Fold::Max(cell)), true) = (fold, data.tournaments) {
                return self.state.tournament_winner(graph, bag, part, key, cell);
            }
            let mut inside = Vec::new();
            for _ in 0..4 * SAMPLE {
                let row = rows[self.rng.below(rows.len())];
                if self.state.row_key(graph, row) == Some(key) {
                    inside.push(row);
                    if inside.len() == SAMPLE {
                        break;
                    }
                }
            }
            return self.weightiest(&inside, fold);
        }
        // Rows come and go with decisions: ask who stands on the values that name the bucket.
        let sample = rows[self
            .rng
            .below(rows.len().max(1))
            .min(rows.len().checked_sub(1)?)];
        if let Key::Of(var, map) = graph.bags.rows[sample as usize].key {
            let domain = graph.vars.domain[var.index()].index();
            let values = self.holders.values_with(graph, map.index(), key);
            if !values.is_empty() {
                let value = values[self.rng.below(values.len())];
                let holders = self.holders.of(domain, value);
                for _ in 0..4 {
                    if holders.is_empty() {
                        break;
                    }
                    let holder = holders[self.rng.below(holders.len())];
                    let own = graph.bags.rows_of(holder).find(|&row| {
                        let row = &graph.bags.rows[row as usize];
                        row.bag == bag && row.part == part
                    });
                    if own.is_some() {
                        return own;
                    }
                }
            }
        }
        for _ in 0..4 * SAMPLE {
            let row = rows[self.rng.below(rows.len())];
            if self.state.row_key(graph, row) == Some(key) {
                return Some(row);
            }
        }
        None
    }

    /// One of the rows: the largest of a few where the fold adds cells up, any otherwise.
    fn weightiest(&mut self, rows: &[u32], fold: Option<Fold>) -> Option<u32> {
        if rows.is_empty() {
            return None;
        }
        let cell = match fold {
            Some(Fold::Sum(cell) | Fold::Max(cell)) => cell,
            Some(Fold::CountRows | Fold::Count(_) | Fold::Min(_) | Fold::CountDistinct(_))
            | None => return Some(rows[self.rng.below(rows.len())]),
        };
        let mut best: Option<(Val, u32)> = None;
        for _ in 0..SAMPLE.min(rows.len()) {
            let row = rows[self.rng.below(rows.len())];
            let cell = self.graph.bags.cells_of(row)[cell as usize];
            let value = self.state.cell(self.graph, cell);
            if matches!(cell, Cell::Expr(_))
                && !is_special(value)
                && best.is_none_or(|(most, _)| value > most)
            {
                best = Some((value, row));
            }
        }
        Some(best.map_or_else(|| rows[self.rng.below(rows.len())], |(_, row)| row))
    }

    /// Where a walk goes on from a row.
    fn row_step(&mut self, row: u32, fold: Fold) -> Next {
        let data = self.graph.bags.rows[row as usize];
        let cell = match fold {
            Fold::CountRows => None,
            Fold::Count(cell)
            | Fold::Sum(cell)
            | Fold::Min(cell)
            | Fold::Max(cell)
            | Fold::CountDistinct(cell) => Some(self.graph.bags.cells_of(row)[cell as usize]),
        };
        let mut ways: Vec<Next> = Vec::new();
        match cell {
            Some(Cell::Expr(id)) if self.graph.nodes.get(id.0).op != Op::Const => {
                ways.push(Next::Expr(id.0));
            }
            Some(Cell::Lookup { var, .. }) => ways.push(Next::Var(var)),
            Some(Cell::Const(_) | Cell::Expr(_)) | None => {}
        }
        match data.key {
            Key::Of(var, _) => ways.push(Next::Var(var)),
            Key::Expr(id) => ways.push(Next::Expr(id.0)),
            Key::Const(_) => {}
        }
        if data.cond != NIL {
            ways.push(Next::Expr(data.cond));
        }
        if ways.is_empty() {
            return Next::Nothing;
        }
        ways[self.rng.below(ways.len())]
    }

    /// A free variable that a row depends on.
    fn row_var(&mut self, row: u32) -> Option<VarId> {
        match self.row_step(row, Fold::CountRows) {
            Next::Var(var) => self.free(var),
            Next::Expr(id) => self.descend(id),
            Next::Nothing => {
                // It is always there: what it brings is what can change.
                let cells = self.graph.bags.cells_of(row).iter();
                cells.copied().find_map(|cell| match cell {
                    Cell::Const(_) => None,
                    Cell::Lookup { var, .. } => self.free(var),
                    Cell::Expr(id) => self.descend(id.0),
                })
            }
        }
    }

    /// A value that a maximum has room for.
    pub(crate) fn cold_value(&mut self, targets: &Targets) -> Option<u32> {
        self.extreme_value(targets, End::Cold)
            .map(|(_, value)| value)
    }

    /// The domain and the value behind the greatest or the smallest row of a tier's maximum.
    pub(crate) fn extreme_value(&mut self, targets: &Targets, end: End) -> Option<(usize, u32)> {
        let &root = targets.roots.first()?;
        let mut at = self.graph.roots.root[root as usize].expr.0;
        for _ in 0..STEPS_MAX {
            let node = self.graph.nodes.get(at);
            match node.op {
                Op::Agg => {
                    let agg = self.graph.nodes.aggs[node.a as usize];
                    let data = &self.graph.bags.bag[agg.bag.index()];
                    if let (Fold::Max(cell), true) = (agg.fold, data.tournaments) {
                        let (graph, bag) = (self.graph, agg.bag.0);
                        let bucket = (agg.part, agg.key);
                        let row = match end {
                            End::Hot => self
                                .state
                                .tournament_winner(graph, bag, bucket.0, bucket.1, cell)?,
                            End::Cold => self.state.tournament_loser(
                                graph,
                                bag,
                                bucket,
                                cell,
                                &mut self.rng,
                            )?,
                        };
                        match self.graph.bags.cells_of(row)[cell as usize] {
                            Cell::Expr(id) => at = id.0,
                            Cell::Const(_) | Cell::Lookup { .. } => return None,
                        }
                        continue;
                    }
                    let &row = data.parts.get(agg.part as usize)?.first()?;
                    let Key::Of(_, map) = self.graph.bags.rows[row as usize].key else {
                        return None;
                    };
                    let values = self.holders.values_with(self.graph, map.index(), agg.key);
                    if values.is_empty() {
                        return None;
                    }
                    let value = values[self.rng.below(values.len())];
                    return Some((self.graph.maps[map.index()].domain.index(), value));
                }
                Op::Const | Op::Free | Op::Lookup => return None,
                Op::Neg
                | Op::Add
                | Op::Sub
                | Op::Mul
                | Op::Div
                | Op::Rem
                | Op::Cmp(_)
                | Op::And
                | Op::Or
                | Op::Not
                | Op::IsNull
                | Op::Ite
                | Op::InSet => at = self.random_operand(at)?,
            }
        }
        None
    }
}

#[derive(Clone, Copy)]
enum Next {
    Var(VarId),
    Expr(u32),
    Nothing,
}
