//! A cycle of dependencies is an anomaly: its shortest form, and its name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::graph::{Edge, Graph};
use super::{Anomaly, Verdict};
use crate::history::Operation;

/// Starts of a search for the shortest cycle; in a large component any short one will do.
const STARTS_MAX: usize = 200;

/// Fails with the shortest cycle of the graph, if it has one.
pub(super) fn check(history: &[Operation], graph: &Graph) -> Verdict {
    let Some(component) = graph.components().into_iter().next() else {
        return Ok(());
    };
    let shortest = component
        .iter()
        .filter(|node| graph.is_operation(**node))
        .take(STARTS_MAX)
        .filter_map(|node| cycle(graph, &component, *node))
        .min_by_key(|cycle| {
            cycle
                .iter()
                .filter(|(node, _)| graph.is_operation(*node))
                .count()
        });
    let Some(cycle) = shortest else {
        return Ok(());
    };
    let steps = operations(graph, &cycle);
    let what: Vec<String> = steps
        .iter()
        .enumerate()
        .map(|(i, (_, edge))| {
            format!(
                "T{} -{}-> T{}",
                i + 1,
                word(*edge),
                (i + 1) % steps.len() + 1
            )
        })
        .collect();
    let witness = steps.iter().map(|(node, _)| &history[*node]);
    Err(Anomaly::new(name(&steps), what.join(", "), witness))
}

/// The shortest way from a node back to itself: nodes, each with the edge that leaves it.
fn cycle(graph: &Graph, within: &BTreeSet<usize>, start: usize) -> Option<Vec<(usize, Edge)>> {
    let mut came: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for (to, edge) in graph.edges(node).filter(|(to, _)| within.contains(to)) {
            if to == start {
                let mut cycle = vec![(node, edge)];
                let mut at = node;
                while at != start {
                    let (before, edge) = came[&at];
                    cycle.push((before, edge));
                    at = before;
                }
                cycle.reverse();
                return Some(cycle);
            }
            came.entry(to).or_insert_with(|| {
                queue.push_back(to);
                (node, edge)
            });
        }
    }
    None
}

/// Leaves the moments of time out: what leads through them is one edge of real time.
fn operations(graph: &Graph, cycle: &[(usize, Edge)]) -> Vec<(usize, Edge)> {
    cycle
        .iter()
        .filter(|(node, _)| graph.is_operation(*node))
        .copied()
        .collect()
}

fn word(edge: Edge) -> &'static str {
    match edge {
        Edge::WriteWrite => "ww",
        Edge::WriteRead => "wr",
        Edge::ReadWrite => "rw",
        Edge::RealTime => "rt",
    }
}

/// The name of a cycle, after Adya and Elle.
fn name(steps: &[(usize, Edge)]) -> String {
    let count = |wanted: Edge| steps.iter().filter(|(_, edge)| *edge == wanted).count();
    let base = match (count(Edge::ReadWrite), count(Edge::WriteRead)) {
        (0, 0) => "G0",
        (0, _) => "G1c",
        (1, _) => "G-single",
        (_, _) => "G2",
    };
    match count(Edge::RealTime) {
        0 => base.to_owned(),
        _ => format!("{base}-realtime"),
    }
}
