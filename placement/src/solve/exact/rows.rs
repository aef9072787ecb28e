//! The hard rows of the part of the model that can change.

use std::collections::BTreeSet;

use pumpkin_solver::core::variables::Literal;

use super::encode::Encoder;
use super::folds;
use super::linear::TooWide;
use super::touched::Touched;
use crate::graph::RowRef;
use crate::graph::internal::{Broken, Graph, Layout, RootKind, State};

/// A hard row of the part of the model that can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hard {
    Root(u32),
    Bucket { lazy: u32, part: u32, key: u32 },
}

impl Hard {
    pub fn name(self, graph: &Graph) -> RowRef {
        match self {
            Hard::Root(root) => {
                let root = graph.roots.root[root as usize];
                RowRef::Root {
                    policy: root.policy,
                    row: root.row,
                }
            }
            Hard::Bucket { lazy, part, key } => RowRef::Lazy {
                policy: graph.bags.lazies[lazy as usize].policy,
                part,
                key,
            },
        }
    }
}

/// The hard rows that decisions in scope can change.
pub(super) fn hard_rows(encoder: &mut Encoder<'_>) -> Result<Vec<Hard>, TooWide> {
    let graph = encoder.graph;
    let mut rows: Vec<Hard> = encoder
        .touched
        .roots
        .iter()
        .filter(|&&root| folds::is_hard(graph.roots.root[root as usize].kind))
        .map(|&root| Hard::Root(root))
        .collect();
    for (lazy, spec) in graph.bags.lazies.iter().enumerate() {
        if !spec.alive || spec.kind != RootKind::Hard {
            continue;
        }
        let parts = encoder
            .touched
            .parts
            .range((spec.bag.0, 0)..=(spec.bag.0, u32::MAX));
        for (bag, part) in parts.copied().collect::<Vec<_>>() {
            for key in encoder.reachable(bag, part)? {
                rows.push(Hard::Bucket {
                    lazy: lazy as u32,
                    part,
                    key,
                });
            }
        }
    }
    Ok(rows)
}

/// The hard rows that are broken whatever is decided.
pub(super) fn broken_constants(
    graph: &Graph,
    state: &State,
    touched: &Touched,
    rows: &BTreeSet<Hard>,
) -> Vec<RowRef> {
    let broken = broken_now(graph, state).into_iter();
    let lost = broken.filter(|row| match row {
        Hard::Root(root) => !touched.roots.contains(root),
        Hard::Bucket { .. } => !rows.contains(row),
    });
    lost.map(|row| row.name(graph)).collect()
}

/// The hard rows that are broken where everything stands now.
pub(super) fn broken_now(graph: &Graph, state: &State) -> Vec<Hard> {
    let mut rows = Vec::new();
    for broken in state.broken.iter() {
        match broken {
            Broken::Root(root) => rows.push(Hard::Root(root)),
            Broken::Lazy(lazy, slot) => {
                let spec = &graph.bags.lazies[lazy as usize];
                let bag = spec.bag.0;
                let layout = graph.bags.bag[bag as usize].layout;
                let (part, key) = match layout {
                    Layout::Scan => (slot, None),
                    Layout::Dense { .. } | Layout::Sparse => state.slot_bucket(graph, bag, slot),
                };
                let keys = match key {
                    Some(key) => vec![key],
                    None => state
                        .occupied(graph, bag, Some(part), None)
                        .into_iter()
                        .map(|(_, key)| key)
                        .collect(),
                };
                for key in keys {
                    let hard = Hard::Bucket { lazy, part, key };
                    let rows_there =
                        state.fold(graph, bag, part, key, crate::graph::Fold::CountRows);
                    let bucket = crate::graph::internal::Bucket {
                        state,
                        graph,
                        bag,
                        part,
                        key,
                        rows: rows_there,
                    };
                    if rows_there > 0 && bucket.value(&spec.template) == 0 {
                        rows.push(hard);
                    }
                }
            }
        }
    }
    rows
}

/// Posts a hard row where the literal is true.
pub(super) fn post(encoder: &mut Encoder<'_>, when: Literal, hard: Hard) -> Result<(), TooWide> {
    let graph = encoder.graph;
    match hard {
        Hard::Root(root) => encoder.require(when, graph.roots.root[root as usize].expr.0),
        Hard::Bucket { lazy, part, key } => {
            let spec = &graph.bags.lazies[lazy as usize];
            encoder.require_template(when, spec.bag.0, part, key, &spec.template)
        }
    }
}
