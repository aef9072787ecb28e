//! What can change when the decisions in scope do: the part of the graph that must be encoded.
//!
//! Everything else is a constant, folded in at its present value. A scoped decision of 50 replicas in a cluster of
//! 100,000 shards encodes what those 50 can reach, found by walking up from them.

use std::collections::BTreeSet;

use super::super::candidates::Candidates;
use crate::graph::internal::{Dependent, Graph, Key, Layout, NIL, Op, UNSET};
use crate::graph::{Cell, VarId};

/// Sets by number; the graph's own arrays are too large to shadow for a scoped decision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    pub nodes: BTreeSet<u32>,
    pub rows: BTreeSet<u32>,
    pub roots: BTreeSet<u32>,
    /// (bag, part) with touched rows.
    pub parts: BTreeSet<(u32, u32)>,
    pub free: BTreeSet<u32>,
}

impl Touched {
    /// Walks up from the variables that have a choice.
    pub(crate) fn from(graph: &Graph, candidates: &Candidates, assignment: &[u32]) -> Touched {
        let mut touched = Touched::default();
        let mut stack = Vec::new();
        for &var in &candidates.vars {
            if candidates.of(var) == [assignment[var.index()]] {
                continue;
            }
            touched.free.insert(var.0);
            for row in graph.bags.rows_of(var) {
                touched.row(graph, candidates, assignment, row, &mut stack);
            }
            for node in graph.nodes.lookups(var) {
                touched.node(node, &mut stack);
            }
        }
        while let Some(id) = stack.pop() {
            for dependent in graph.nodes.dependents(id) {
                match dependent {
                    Dependent::Node(parent) => touched.node(parent, &mut stack),
                    Dependent::Root(root) => {
                        touched.roots.insert(root);
                    }
                    Dependent::Row(row) => {
                        touched.row(graph, candidates, assignment, row, &mut stack);
                    }
                }
            }
        }
        touched
    }

    fn node(&mut self, id: u32, stack: &mut Vec<u32>) {
        if self.nodes.insert(id) {
            stack.push(id);
        }
    }

    fn row(
        &mut self,
        graph: &Graph,
        candidates: &Candidates,
        assignment: &[u32],
        row: u32,
        stack: &mut Vec<u32>,
    ) {
        if !self.rows.insert(row) {
            return;
        }
        let data = &graph.bags.rows[row as usize];
        let bag = &graph.bags.bag[data.bag as usize];
        self.parts.insert((data.bag, data.part));
        let mut keys = possible_keys(graph, candidates, row);
        // The bucket where it stands now changes too, when that is no place for it any more.
        if let (Some(keys), Key::Of(var, map)) = (&mut keys, data.key)
            && assignment[var.index()] != UNSET
        {
            let here = graph.image(map, assignment[var.index()]);
            keys.extend(u32::try_from(here));
        }
        let may = |key: u32| keys.as_ref().is_none_or(|keys| keys.contains(&key));
        let mut folds = Vec::new();
        match bag.layout {
            Layout::Scan => {
                let head = bag
                    .part_folds
                    .get(data.part as usize)
                    .copied()
                    .unwrap_or(NIL);
                folds.extend(graph.bags.fold_links.iter(head));
            }
            Layout::Dense { stride } => {
                for key in (0..stride).filter(|&key| may(key)) {
                    let head = bag.slot_folds.get((data.part * stride + key) as usize);
                    folds.extend(graph.bags.fold_links.iter(head.copied().unwrap_or(NIL)));
                }
            }
            Layout::Sparse => {
                folds.extend((0..graph.nodes.len() as u32).filter(|&id| {
                    let node = graph.nodes.get(id);
                    node.op == Op::Agg && node.live > 0 && {
                        let agg = graph.nodes.aggs[node.a as usize];
                        agg.bag.0 == data.bag && agg.part == data.part
                    }
                }));
            }
        }
        for node in folds {
            if may(graph.nodes.aggs[graph.nodes.get(node).a as usize].key) {
                self.node(node, stack);
            }
        }
    }

    pub(crate) fn is_free(&self, var: VarId) -> bool {
        self.free.contains(&var.0)
    }

    /// Whether an expression, active or not, can change.
    pub(crate) fn reaches(&self, graph: &Graph, id: u32) -> bool {
        let node = graph.nodes.get(id);
        if node.live > 0 {
            return self.nodes.contains(&id);
        }
        if node.op == Op::Lookup {
            return self.free.contains(&node.a);
        }
        let mut found = false;
        graph
            .nodes
            .for_operands(id, |operand| found = found || self.reaches(graph, operand));
        found
    }
}

/// The keys that a row can have; `None` where they are not known without evaluating expressions.
pub(crate) fn possible_keys(
    graph: &Graph,
    candidates: &Candidates,
    row: u32,
) -> Option<BTreeSet<u32>> {
    match graph.bags.rows[row as usize].key {
        Key::Const(key) => Some(BTreeSet::from([key])),
        Key::Expr(_) => None,
        Key::Of(var, map) if candidates.is_free(var) => Some(
            candidates
                .of(var)
                .iter()
                .filter(|&&value| value != UNSET)
                .filter_map(|&value| u32::try_from(graph.image(map, value)).ok())
                .collect(),
        ),
        // A fixed decision: the key of its value, which the caller finds in the state.
        Key::Of(_, _) => None,
    }
}

/// Whether a cell can change.
pub(crate) fn cell_reaches(graph: &Graph, touched: &Touched, cell: Cell) -> bool {
    match cell {
        Cell::Const(_) => false,
        Cell::Lookup { var, .. } => touched.is_free(var),
        Cell::Expr(id) => touched.reaches(graph, id.0),
    }
}
