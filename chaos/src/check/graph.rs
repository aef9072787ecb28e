//! The dependencies between operations, and the strongly connected parts of their graph.
//!
//! Real time alone would be a quadratic number of edges. Instead the answers, in order of time, form
//! a chain of nodes of their own: an operation leads to the node of its answer, and the last answer
//! before an operation's start leads to the operation.

use std::collections::BTreeSet;

use crate::history::Operation;

/// Why one operation comes before another (Adya's names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    /// It wrote the version before.
    WriteWrite,
    /// It wrote the version that the other read.
    WriteRead,
    /// It read the version before the one that the other wrote.
    ReadWrite,
    /// It was answered before the other was asked.
    RealTime,
}

/// A graph of operations, and of moments in time behind them.
#[derive(Debug)]
pub(super) struct Graph {
    operations: usize,
    edges: Vec<BTreeSet<(usize, Edge)>>,
}

impl Graph {
    /// The operations, ordered by real time only.
    pub(super) fn of_time(history: &[Operation]) -> Self {
        let mut ends: Vec<(u64, usize)> = history
            .iter()
            .enumerate()
            .filter_map(|(i, operation)| Some((operation.end_us?, i)))
            .collect();
        ends.sort_unstable();
        let operations = history.len();
        let mut graph = Self {
            operations,
            edges: vec![BTreeSet::new(); operations + ends.len()],
        };
        for (moment, (_, i)) in ends.iter().enumerate() {
            graph.add(*i, operations + moment, Edge::RealTime);
            if moment > 0 {
                graph.add(operations + moment - 1, operations + moment, Edge::RealTime);
            }
        }
        for (i, operation) in history.iter().enumerate() {
            let before = ends.partition_point(|(end_us, _)| *end_us < operation.start_us);
            if before > 0 {
                graph.add(operations + before - 1, i, Edge::RealTime);
            }
        }
        graph
    }

    /// Adds a dependency; one upon oneself is none.
    pub(super) fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges[from].insert((to, edge));
        }
    }

    /// Whether a node is an operation, and no moment in time.
    pub(super) fn is_operation(&self, node: usize) -> bool {
        node < self.operations
    }

    /// Where the edges of a node lead.
    pub(super) fn edges(&self, node: usize) -> impl Iterator<Item = (usize, Edge)> + '_ {
        self.edges[node].iter().copied()
    }

    /// The strongly connected parts of more than one node, the smallest first (Tarjan 1972, with
    /// a stack of its own instead of recursion).
    pub(super) fn components(&self) -> Vec<BTreeSet<usize>> {
        const NEW: usize = usize::MAX;
        let nodes = self.edges.len();
        let (mut index, mut low) = (vec![NEW; nodes], vec![NEW; nodes]);
        let mut on_stack = vec![false; nodes];
        let (mut stack, mut next) = (Vec::new(), 0);
        let mut components = Vec::new();
        let targets: Vec<Vec<usize>> = (0..nodes)
            .map(|node| self.edges(node).map(|(to, _)| to).collect())
            .collect();
        for root in 0..nodes {
            if index[root] != NEW {
                continue;
            }
            let mut work = vec![(root, 0)];
            while let Some((node, place)) = work.pop() {
                if place == 0 {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                if let Some(&to) = targets[node].get(place) {
                    work.push((node, place + 1));
                    if index[to] == NEW {
                        work.push((to, 0));
                    } else if on_stack[to] {
                        low[node] = low[node].min(index[to]);
                    }
                    continue;
                }
                if low[node] == index[node] {
                    let mut component = BTreeSet::new();
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        component.insert(member);
                        if member == node {
                            break;
                        }
                    }
                    if component.len() > 1 {
                        components.push(component);
                    }
                }
                if let Some((parent, _)) = work.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
            }
        }
        components.sort_by_key(BTreeSet::len);
        components
    }
}
