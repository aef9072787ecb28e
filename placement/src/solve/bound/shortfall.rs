//! Proofs of infeasibility by counting: what must stand in a set of buckets is more than they have room for.
//!
//! The same cut that bounds a maximum. It is asked before the constraint solver, which counts badly: a dozen pieces
//! that are each larger than half a bucket keep it busy over eleven buckets until its budget ends.

use std::collections::BTreeMap;

use super::cut::{Cuts, Demand, Load, Weigh, at_most};
use super::prefix::{Apart, Prefix};
use crate::graph::internal::{
    Key, LazyData, NULL, Op, RootKind, UNSET, bucket_constant, is_special,
};
use crate::graph::{Cell, CmpOp, RowRef, Template};

/// More buckets than this are not ordered into prefixes one by one.
const STEPS_MAX: usize = 20_000;
/// A policy with more parts than this (a part for each shard) limits blocks, not buckets that many of them share.
const PARTS_MAX: usize = 8;
/// Sizes from which on pieces are counted.
const SIZES_MAX: usize = 16;

/// What a bucket may hold, and the row that says so.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    key: u32,
    most: i128,
    row: RowRef,
}

/// A proof that hard rows cannot all hold: the buckets of `rows` must carry `needed` and have room for `available`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    pub rows: Vec<RowRef>,
    pub needed: i128,
    pub available: i128,
}

impl Cuts<'_> {
    /// A proof that the hard rows which limit a sum per bucket cannot all hold, if a cut gives one.
    pub(crate) fn shortfall(&mut self) -> Option<Shortfall> {
        let mut capacities: BTreeMap<Load, Vec<Capacity>> = BTreeMap::new();
        for data in &self.graph.roots.root {
            if !data.alive || data.kind != RootKind::Hard {
                continue;
            }
            let node = self.graph.nodes.get(data.expr.0);
            let Op::Cmp(op) = node.op else { continue };
            let Some((sum, limit, less)) = at_most_sides(op, node.a, node.b) else {
                continue;
            };
            let Some(limit) = self.graph.nodes.constant(limit).filter(|&c| !is_special(c)) else {
                continue;
            };
            let Some(form) = self.form(sum) else { continue };
            let Some(most) = form.room(limit - less) else {
                continue;
            };
            let list = capacities.entry((form.bag, form.part, form.weigh));
            list.or_default().push(Capacity {
                key: form.key,
                most,
                row: RowRef::Root {
                    policy: data.policy,
                    row: data.row,
                },
            });
        }
        for lazy in &self.graph.bags.lazies {
            if lazy.alive && lazy.kind == RootKind::Hard {
                self.capacities_of(lazy, &lazy.template, &mut capacities);
            }
        }
        capacities.into_iter().find_map(|(load, mut list)| {
            // The tightest row of each bucket; the fullest buckets first.
            list.sort_by_key(|capacity| (capacity.key, capacity.most, capacity.row));
            list.dedup_by_key(|capacity| capacity.key);
            list.sort_by_cached_key(|capacity| {
                (capacity.most - self.load(load, capacity.key), capacity.key)
            });
            self.shortfall_of(load, &list)
                .or_else(|| self.whole_shortfall(load, &list))
        })
    }

    /// The limits of a policy that judges all buckets by one template.
    fn capacities_of(
        &self,
        lazy: &LazyData,
        template: &Template,
        capacities: &mut BTreeMap<Load, Vec<Capacity>>,
    ) {
        if let Template::And(all) = template {
            for each in all {
                self.capacities_of(lazy, each, capacities);
            }
            return;
        }
        let Template::Cmp(op, a, b) = template else {
            return;
        };
        let Some((sum, limit, less)) = at_most_sides(*op, &**a, &**b) else {
            return;
        };
        let Template::Fold(fold) = sum else { return };
        let Some(weigh) = Weigh::of(*fold) else {
            return;
        };
        let bag = &self.graph.bags.bag[lazy.bag.index()];
        if bag.parts.len() > PARTS_MAX || bag.keys as usize > STEPS_MAX {
            return;
        }
        for part in 0..bag.parts.len() as u32 {
            for key in 0..bag.keys {
                let limit = match limit {
                    Template::Const(limit) => limit.map_or(NULL, i128::from),
                    Template::Part(index) => bucket_constant(bag.part_constant(part, *index)),
                    Template::Key(index) => bucket_constant(bag.key_constant(key, *index)),
                    _ => return,
                };
                if is_special(limit) {
                    continue;
                }
                let list = capacities.entry((lazy.bag.0, part, weigh)).or_default();
                list.push(Capacity {
                    key,
                    most: limit - less,
                    row: RowRef::Lazy {
                        policy: lazy.policy,
                        part,
                        key,
                    },
                });
            }
        }
    }

    fn shortfall_of(&mut self, load: Load, capacities: &[Capacity]) -> Option<Shortfall> {
        let demand = self.demand(load)?;
        let mut prefix = Prefix::new(self.graph, self.candidates, &demand);
        let mut available = 0_i128;
        for (index, capacity) in capacities.iter().enumerate().take(STEPS_MAX) {
            prefix.include(capacity.key);
            prefix.fixed += self.fixed(load, capacity.key)?;
            available = available.checked_add(capacity.most.max(0))?;
            let needed = prefix.needed(Apart::Known);
            if needed > available {
                let inside = &capacities[..=index];
                let mut rows: Vec<RowRef> = inside.iter().map(|capacity| capacity.row).collect();
                rows.extend(self.confining_rows(&demand, &prefix));
                if prefix.needed(Apart::Ignored) <= available {
                    rows.extend(self.limiting_rows(load));
                }
                rows.sort_unstable();
                rows.dedup();
                return Some(Shortfall {
                    rows,
                    needed,
                    available,
                });
            }
        }
        None
    }

    /// The same for whole pieces: of those that are at least so large, a bucket takes a whole number, so that a dozen
    /// pieces of 6 do not fit into eleven buckets of 10.
    fn whole_shortfall(&mut self, load: Load, capacities: &[Capacity]) -> Option<Shortfall> {
        let (bag, part, Weigh::Cell(cell)) = load else {
            return None;
        };
        let rows = self.graph.bags.bag[bag as usize].parts.get(part as usize)?;
        let mut sizes: Vec<i128> = Vec::new();
        for &row in rows {
            let Cell::Const(size) = self.graph.bags.cells_of(row)[cell as usize] else {
                return None;
            };
            sizes.extend(size.map(i128::from).filter(|&size| size > 0));
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        sizes.into_iter().take(SIZES_MAX).find_map(|size| {
            let whole = |capacity: &Capacity| Capacity {
                most: capacity.most.div_euclid(size),
                ..*capacity
            };
            let capacities: Vec<Capacity> = capacities.iter().map(whole).collect();
            self.shortfall_of((bag, part, Weigh::AtLeast(cell, size)), &capacities)
        })
    }

    /// The rows that keep the members of blocks apart.
    fn limiting_rows(&self, (bag, part, _): Load) -> Vec<RowRef> {
        let graph = self.graph;
        let mut out = Vec::new();
        for &var in &self.candidates.vars {
            let carries = |row: u32| {
                let data = &graph.bags.rows[row as usize];
                data.bag == bag && data.part == part
            };
            if !graph.bags.rows_of(var).any(carries) {
                continue;
            }
            for row in graph.bags.rows_of(var) {
                let data = &graph.bags.rows[row as usize];
                let Key::Of(_, map) = data.key else { continue };
                let of = &graph.bags.bag[data.bag as usize];
                for lazy in &of.lazies {
                    let lazy = &graph.bags.lazies[lazy.index()];
                    let constants = of.part_constants.get(data.part as usize);
                    let limits = lazy.kind == RootKind::Hard
                        && at_most(&lazy.template, constants.map(|row| &**row)).is_some();
                    if !limits {
                        continue;
                    }
                    let values = self.candidates.of(var).iter().filter(|&&v| v != UNSET);
                    let keys = values.filter_map(|&v| u32::try_from(graph.image(map, v)).ok());
                    out.extend(keys.map(|key| RowRef::Lazy {
                        policy: lazy.policy,
                        part: data.part,
                        key,
                    }));
                }
            }
        }
        out
    }

    /// The rows over single decisions that keep them inside the prefix.
    fn confining_rows(&self, demand: &Demand, prefix: &Prefix<'_>) -> Vec<RowRef> {
        let confined: Vec<u32> = demand
            .classes
            .iter()
            .enumerate()
            .filter(|&(class, _)| prefix.must_stay(class, Apart::Known) > 0)
            .map(|(_, class)| class.set)
            .collect();
        let mut rows = Vec::new();
        for &var in &self.candidates.vars {
            if confined.contains(&self.candidates.set_id(var)) {
                for &root in self.candidates.unary_roots(var) {
                    let root = self.graph.roots.root[root as usize];
                    rows.push(RowRef::Root {
                        policy: root.policy,
                        row: root.row,
                    });
                }
            }
        }
        rows
    }
}

/// Of a comparison, what is limited, the limit, and how much less than that it must be.
fn at_most_sides<T>(op: CmpOp, a: T, b: T) -> Option<(T, T, i128)> {
    match op {
        CmpOp::Le => Some((a, b, 0)),
        CmpOp::Lt => Some((a, b, 1)),
        CmpOp::Ge => Some((b, a, 0)),
        CmpOp::Gt => Some((b, a, 1)),
        CmpOp::Eq | CmpOp::Ne => None,
    }
}
