//! The soft policies that a scope can change, when the scope is a small part of the model.
//!
//! A batch of 50 new replicas in a cluster of 100,000 shards must not pay for the other 300,000 rows: not for their
//! bounds, not for aiming at them. Walking up from the 50 finds what they can reach, once for each distinct candidate
//! set.

use super::candidates::Candidates;
use crate::graph::internal::{Dependent, FxMap, Graph, Key, Layout, NIL, Op, RootKind, UNSET};

/// Scopes below this share of all variables are walked; above it everything is reached anyway.
const SHARE: usize = 8;

/// Soft roots, in the order of their numbers.
pub(crate) fn soft_roots(graph: &Graph, candidates: &Candidates) -> Vec<u32> {
    let is_soft = |root: u32| {
        let root = &graph.roots.root[root as usize];
        root.alive && root.kind != RootKind::Hard
    };
    if candidates.vars.len() * SHARE >= graph.vars.alive.len() {
        return (0..graph.roots.root.len() as u32)
            .filter(|&root| is_soft(root))
            .collect();
    }
    let mut walk = Walk {
        graph,
        nodes: FxMap::default(),
        stack: Vec::new(),
    };
    let mut roots: FxMap<u32, ()> = FxMap::default();
    let mut rows: FxMap<u32, ()> = FxMap::default();
    let mut buckets: FxMap<(u32, u32, u64, u32), ()> = FxMap::default();
    for &var in &candidates.vars {
        for row in graph.bags.rows_of(var) {
            let data = &graph.bags.rows[row as usize];
            let map = match data.key {
                Key::Of(own, map) if own == var => 1 + map.index() as u64,
                Key::Of(_, _) | Key::Const(_) | Key::Expr(_) => 0,
            };
            // Rows of one candidate set and one column reach the same buckets.
            let shape = (data.bag, data.part, map, candidates.set_id(var));
            if map == 0 {
                walk.row(row, None);
            } else if buckets.insert(shape, ()).is_none() {
                walk.row(row, Some(candidates.of(var)));
            }
        }
        for node in graph.nodes.lookups(var) {
            walk.node(node);
        }
    }
    let mut found = Vec::new();
    while let Some(id) = walk.stack.pop() {
        for dependent in graph.nodes.dependents(id) {
            match dependent {
                Dependent::Node(parent) => walk.node(parent),
                Dependent::Root(root) => {
                    if roots.insert(root, ()).is_none() && is_soft(root) {
                        found.push(root);
                    }
                }
                Dependent::Row(row) => {
                    if rows.insert(row, ()).is_none() {
                        walk.row(row, None);
                    }
                }
            }
        }
    }
    found.sort_unstable();
    found
}

struct Walk<'a> {
    graph: &'a Graph,
    nodes: FxMap<u32, ()>,
    stack: Vec<u32>,
}

impl Walk<'_> {
    fn node(&mut self, id: u32) {
        if self.nodes.insert(id, ()).is_none() {
            self.stack.push(id);
        }
    }

    /// The folds of the buckets that a row can be in: those of the given values, or all of its part.
    fn row(&mut self, row: u32, values: Option<&[u32]>) {
        let graph = self.graph;
        let data = &graph.bags.rows[row as usize];
        let bag = &graph.bags.bag[data.bag as usize];
        match bag.layout {
            Layout::Scan => {
                let head = bag
                    .part_folds
                    .get(data.part as usize)
                    .copied()
                    .unwrap_or(NIL);
                graph
                    .bags
                    .fold_links
                    .iter(head)
                    .for_each(|node| self.node(node));
            }
            Layout::Dense { stride } => {
                let slot = |key: u32| data.part * stride + key;
                match (data.key, values) {
                    (Key::Const(key), _) => self.slot(data.bag, slot(key)),
                    (Key::Of(_, map), Some(values)) => {
                        for &value in values.iter().filter(|&&value| value != UNSET) {
                            if let Ok(key) = u32::try_from(graph.image(map, value))
                                && key < stride
                            {
                                self.slot(data.bag, slot(key));
                            }
                        }
                    }
                    (Key::Of(_, _) | Key::Expr(_), _) => {
                        (0..stride).for_each(|key| self.slot(data.bag, slot(key)));
                    }
                }
            }
            Layout::Sparse => {
                // No list by part: rare, and small enough to look through.
                for id in 0..graph.nodes.len() as u32 {
                    let node = graph.nodes.get(id);
                    if node.op == Op::Agg && node.live > 0 {
                        let agg = graph.nodes.aggs[node.a as usize];
                        if agg.bag.index() as u32 == data.bag && agg.part == data.part {
                            self.node(id);
                        }
                    }
                }
            }
        }
    }

    fn slot(&mut self, bag: u32, slot: u32) {
        let head = self.graph.bags.bag[bag as usize]
            .slot_folds
            .get(slot as usize);
        let links = &self.graph.bags.fold_links;
        for node in links.iter(head.copied().unwrap_or(NIL)) {
            if self.nodes.insert(node, ()).is_none() {
                self.stack.push(node);
            }
        }
    }
}
