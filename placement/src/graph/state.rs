//! The value of everything at one assignment, kept up to date as decisions change, with undo.
//!
//! A change of a decision runs through the graph once, by levels: first the rows that look the decision up move
//! between buckets, then the nodes above them are evaluated, each at most once. Every overwritten number goes to a
//! trail while a mark is set, so that the search can try a move, look at the totals and take it back; a try costs
//! what the move touches, not what the model is.

use super::bag::{Key, Layout};
use super::buckets::BagState;
use super::ids::VarId;
use super::model::{Graph, UNSET};
use super::node::{Dependent, NIL, Op};
use super::root::{Avoid, RootKind, hinge, scaled};
use super::value::{self, NULL, Val, is_special, widen};
use super::{Plant, planted};

/// A violated thing: a root, or (a part or a bucket of) a lazy policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Root(u32),
    /// Lazy policy and slot: the part where the bag is scanned, otherwise the bucket's slot.
    Lazy(u32, u32),
}

/// What one trail entry restores.
#[derive(Clone, Copy, Debug)]
pub(super) enum Saved {
    Var(u32),
    Node(u32),
    Hinge(u32),
    LazyHinge(u32, u32),
    Num {
        bag: u32,
        index: u32,
    },
    /// One occurrence of the value was added to (or, negated, dropped from) a multiset.
    Added {
        bag: u32,
        index: u32,
    },
    Dropped {
        bag: u32,
        index: u32,
    },
    Leaf {
        bag: u32,
        tree: u32,
        node: u32,
    },
    Tier(u32),
    Guide,
    Total,
}

/// The sums that decide which of two assignments is better.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Scaled amounts of all misses of hard policies; 0 exactly when all hold.
    pub hinge: i64,
    /// One sum for each declared tier.
    pub tiers: Vec<i128>,
    /// Sum of squares of what goes into maxima and minima: gives a plateau a slope. Never decides between tiers.
    pub guide: i128,
}

/// Invariants, while `sealed`:
/// - after `propagate`, `values[n]` is the value of every active node `n` at `assignment`;
/// - a bucket's numbers are those of its rows at `assignment` and `values`;
/// - `totals.hinge` is the sum of `hinge` and of all `lazy_hinge`; `totals.tiers` the weighted sum of soft values.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub assignment: Vec<u32>,
    pub values: Vec<Val>,
    pub bags: Vec<BagState>,
    pub hinge: Vec<i64>,
    /// For each lazy policy: amounts by slot.
    pub lazy_hinge: Vec<Vec<i64>>,
    pub totals: Totals,
    pub broken: BrokenSet,
    pub sealed: bool,
    pub(super) queues: Vec<Vec<u32>>,
    pub(super) queued: Vec<bool>,
    pub(super) queue_low: usize,
    pub(super) dirty_roots: Vec<u32>,
    pub(super) root_dirty: Vec<bool>,
    pub(super) trail: Vec<(Saved, Val)>,
    pub(super) marks: u32,
    /// Whether any value has overflowed since the state was sealed; most never do, and need no look at every root.
    pub(super) overflow_seen: bool,
    pub(super) touched: Vec<(u32, u32, u32)>,
    pub(super) scan_rows: Vec<u32>,
}

/// Members in no particular, but reproducible, order; constant time for all that the search does with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct BrokenSet {
    members: Vec<Broken>,
    root_position: Vec<u32>,
    lazy_position: Vec<Vec<u32>>,
}

impl BrokenSet {
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn get(&self, index: usize) -> Broken {
        self.members[index]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Broken> + '_ {
        self.members.iter().copied()
    }

    fn position(&mut self, member: Broken) -> &mut u32 {
        let (list, index) = match member {
            Broken::Root(root) => (&mut self.root_position, root as usize),
            Broken::Lazy(lazy, slot) => {
                let lazy = lazy as usize;
                if self.lazy_position.len() <= lazy {
                    self.lazy_position.resize(lazy + 1, Vec::new());
                }
                (&mut self.lazy_position[lazy], slot as usize)
            }
        };
        if list.len() <= index {
            list.resize(index + 1, NIL);
        }
        &mut list[index]
    }

    #[inline]
    pub(super) fn update(&mut self, member: Broken, was: i64, is: i64) {
        if (was > 0) == (is > 0) {
            return;
        }
        if is > 0 {
            let end = self.members.len() as u32;
            *self.position(member) = end;
            self.members.push(member);
        } else {
            let at = std::mem::replace(self.position(member), NIL);
            self.members.swap_remove(at as usize);
            if let Some(&moved) = self.members.get(at as usize) {
                *self.position(moved) = at;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = BrokenSet::default();
    }
}

/// A point to return to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

/// Values from here on may overflow when a weight of 64 bits multiplies them; so may the reserved ones.
pub(super) const OVERFLOW_WATCH: u128 = 1 << 63;

impl State {
    /// From here on changes are recorded, until the mark is undone or kept.
    pub(crate) fn mark(&mut self) -> Mark {
        debug_assert!(self.sealed);
        self.marks += 1;
        Mark(self.trail.len())
    }

    /// Keeps what happened since the mark.
    pub(crate) fn keep(&mut self, mark: Mark) {
        self.marks -= 1;
        if self.marks == 0 {
            debug_assert_eq!(mark.0, 0);
            self.trail.clear();
        }
    }

    /// Takes back what happened since the mark.
    pub(crate) fn undo(&mut self, mark: Mark) {
        while self.trail.len() > mark.0 {
            let Some((saved, old)) = self.trail.pop() else {
                break;
            };
            match saved {
                Saved::Var(var) => self.assignment[var as usize] = old as u32,
                Saved::Node(node) => self.values[node as usize] = old,
                Saved::Hinge(root) => {
                    let slot = &mut self.hinge[root as usize];
                    let was = std::mem::replace(slot, old as i64);
                    self.broken.update(Broken::Root(root), was, old as i64);
                }
                Saved::LazyHinge(lazy, index) => {
                    let slot = &mut self.lazy_hinge[lazy as usize][index as usize];
                    let was = std::mem::replace(slot, old as i64);
                    self.broken
                        .update(Broken::Lazy(lazy, index), was, old as i64);
                }
                Saved::Num { bag, index } => {
                    self.bags[bag as usize].numbers[index as usize] = old;
                }
                Saved::Added { bag, index } => self.bags[bag as usize].drop_member(index, old),
                Saved::Dropped { bag, index } => self.bags[bag as usize].add_member(index, old),
                Saved::Leaf { bag, tree, node } => {
                    self.bags[bag as usize].trees[tree as usize].nodes[node as usize] = old;
                }
                Saved::Tier(_) if planted(Plant::ForgetfulUndo) => {}
                Saved::Tier(tier) => self.totals.tiers[tier as usize] = old,
                Saved::Guide => self.totals.guide = old,
                Saved::Total => self.totals.hinge = old as i64,
            }
        }
        self.marks -= 1;
    }

    #[inline]
    pub(super) fn save(&mut self, saved: Saved, old: Val) {
        if self.marks > 0 {
            self.trail.push((saved, old));
        }
    }

    pub(crate) fn add_var(&mut self, current: u32) {
        self.assignment.push(current);
    }

    pub(crate) fn add_bag(&mut self) {
        self.bags.push(BagState::default());
        self.unseal();
    }

    /// Everything is evaluated from scratch at the next refresh.
    pub(crate) fn unseal(&mut self) {
        self.sealed = false;
    }

    pub(crate) fn add_node(&mut self, graph: &Graph, id: u32) {
        self.values.resize(graph.nodes.len(), NULL);
        self.queued.resize(graph.nodes.len(), false);
        self.reuse_node(graph, id);
    }

    pub(crate) fn reuse_node(&mut self, graph: &Graph, id: u32) {
        if let Some(value) = graph.nodes.constant(id) {
            self.values[id as usize] = value;
        }
    }

    /// A node got its first dependent: it needs a value.
    pub(crate) fn activate(&mut self, graph: &Graph, id: u32) {
        if self.sealed {
            self.values[id as usize] = self.evaluate(graph, id);
        }
    }

    #[inline]
    pub(crate) fn enqueue(&mut self, graph: &Graph, id: u32) {
        if !self.queued[id as usize] {
            self.queued[id as usize] = true;
            let level = graph.nodes.get(id).level as usize;
            if self.queues.len() <= level {
                self.queues.resize(level + 1, Vec::new());
            }
            self.queues[level].push(id);
            self.queue_low = self.queue_low.min(level);
        }
    }

    /// Gives a variable a value; the rows that look it up move at once, the nodes above at the next `propagate`.
    pub(crate) fn assign(&mut self, graph: &Graph, var: VarId, value: u32) {
        let old = self.assignment[var.index()];
        if old == value {
            return;
        }
        if !self.sealed {
            self.assignment[var.index()] = value;
            return;
        }
        self.save(Saved::Var(var.0), Val::from(old));
        let mut scanned = std::mem::take(&mut self.scan_rows);
        scanned.clear();
        for row in graph.bags.rows_of(var) {
            let bag = &graph.bags.bag[graph.bags.rows[row as usize].bag as usize];
            if bag.counts_only {
                self.recount(graph, row, old, value);
            } else if bag.layout == Layout::Scan {
                scanned.push(row);
            } else {
                self.bump(graph, row, -1);
            }
        }
        if scanned.is_empty() {
            self.assignment[var.index()] = value;
        } else {
            self.rescan(graph, &scanned, |state, after| {
                state.assignment[var.index()] = if after { value } else { old };
            });
        }
        self.scan_rows = scanned;
        for row in graph.bags.rows_of(var) {
            if graph.bags.bag[graph.bags.rows[row as usize].bag as usize].layout != Layout::Scan {
                self.bump(graph, row, 1);
            }
        }
        for node in graph.nodes.lookups(var) {
            self.enqueue(graph, node);
        }
    }

    /// Evaluates everything above what changed.
    pub(crate) fn propagate(&mut self, graph: &Graph) {
        let mut level = self.queue_low;
        while level < self.queues.len() {
            while let Some(id) = self.queues[level].pop() {
                self.queued[id as usize] = false;
                let new = self.evaluate(graph, id);
                let old = self.values[id as usize];
                if new != old {
                    self.overflow_seen |= new != NULL && new.unsigned_abs() >= OVERFLOW_WATCH;
                    self.write(graph, id, old, new);
                }
            }
            level += 1;
        }
        self.queue_low = usize::MAX;
        while let Some(root) = self.dirty_roots.pop() {
            self.root_dirty[root as usize] = false;
            self.rehinge(graph, root);
        }
    }

    /// Overwrites the value of a node and tells its dependents.
    fn write(&mut self, graph: &Graph, id: u32, old: Val, new: Val) {
        self.save(Saved::Node(id), old);
        let mut in_rows = false;
        for dependent in graph.nodes.dependents(id) {
            match dependent {
                Dependent::Node(parent) => self.enqueue(graph, parent),
                Dependent::Root(root) => match graph.roots.root[root as usize].kind {
                    RootKind::Hard => {
                        if !self.root_dirty[root as usize] {
                            self.root_dirty[root as usize] = true;
                            self.dirty_roots.push(root);
                        }
                    }
                    RootKind::Soft { tier, weight } => {
                        self.add_soft(graph.roots.tier_index(tier), weight, old, new);
                    }
                },
                Dependent::Row(_) => in_rows = true,
            }
        }
        if in_rows {
            self.write_in_rows(graph, id, old, new);
        } else {
            self.values[id as usize] = new;
        }
    }

    /// The part of `write` for nodes that are a condition, a key or a cell.
    fn write_in_rows(&mut self, graph: &Graph, id: u32, old: Val, new: Val) {
        let mut scanned = std::mem::take(&mut self.scan_rows);
        scanned.clear();
        for dependent in graph.nodes.dependents(id) {
            if let Dependent::Row(row) = dependent {
                let bag = graph.bags.rows[row as usize].bag as usize;
                if self.bags[bag].guided {
                    let delta = self.bags[bag].potential(new) - self.bags[bag].potential(old);
                    self.save(Saved::Guide, self.totals.guide);
                    self.totals.guide += delta;
                }
                if graph.bags.bag[bag].layout == Layout::Scan {
                    scanned.push(row);
                } else {
                    self.bump(graph, row, -1);
                }
            }
        }
        if scanned.is_empty() {
            self.values[id as usize] = new;
        } else {
            self.rescan(graph, &scanned, |state, after| {
                state.values[id as usize] = if after { new } else { old };
            });
        }
        self.scan_rows = scanned;
        for dependent in graph.nodes.dependents(id) {
            if let Dependent::Row(row) = dependent
                && graph.bags.bag[graph.bags.rows[row as usize].bag as usize].layout != Layout::Scan
            {
                self.bump(graph, row, 1);
            }
        }
    }

    /// Moves a tier's sum from one soft value to another.
    #[inline]
    pub(super) fn add_soft(&mut self, tier: usize, weight: i64, old: Val, new: Val) {
        let delta = soft_term(weight, new).wrapping_sub(soft_term(weight, old));
        if delta != 0 {
            self.save(Saved::Tier(tier as u32), self.totals.tiers[tier]);
            self.totals.tiers[tier] = self.totals.tiers[tier].wrapping_add(delta);
        }
    }

    #[inline]
    pub(super) fn add_hinge(&mut self, delta: i64) {
        if delta != 0 {
            self.save(Saved::Total, Val::from(self.totals.hinge));
            self.totals.hinge += delta;
        }
    }

    pub(super) fn rehinge(&mut self, graph: &Graph, root: u32) {
        let data = &graph.roots.root[root as usize];
        let amount = hinge(graph, &self.values, data.expr.0, Avoid::False);
        let new = scaled(amount, data.scale);
        let old = self.hinge[root as usize];
        if new != old {
            self.save(Saved::Hinge(root), Val::from(old));
            self.hinge[root as usize] = new;
            self.broken.update(Broken::Root(root), old, new);
            self.add_hinge(new - old);
        }
    }

    /// The value of a node from the values of its operands.
    #[inline]
    pub(crate) fn evaluate(&self, graph: &Graph, id: u32) -> Val {
        let node = graph.nodes.get(id);
        let of = |operand: u32| self.values[operand as usize];
        match node.op {
            Op::Const | Op::Free => of(id),
            Op::Lookup => {
                let value = self.assignment[node.a as usize];
                if value == UNSET {
                    NULL
                } else {
                    widen(graph.maps[node.b as usize].image[value as usize])
                }
            }
            Op::Neg => value::neg(of(node.a)),
            Op::Add => value::add(of(node.a), of(node.b)),
            Op::Sub => value::sub(of(node.a), of(node.b)),
            Op::Mul => value::mul(of(node.a), of(node.b)),
            Op::Div => value::div(of(node.a), of(node.b)),
            Op::Rem => value::rem(of(node.a), of(node.b)),
            Op::Cmp(op) => value::cmp(op, of(node.a), of(node.b)),
            Op::And => value::and(graph.nodes.operands(node.a).iter().map(|&o| of(o))),
            Op::Or => value::or(graph.nodes.operands(node.a).iter().map(|&o| of(o))),
            Op::Not => value::not(of(node.a)),
            Op::IsNull => value::is_null(of(node.a)),
            Op::Ite => {
                let cond = of(node.a);
                if cond == value::OVERFLOW {
                    cond
                } else if value::is_true(cond) {
                    of(node.b)
                } else {
                    of(node.c)
                }
            }
            Op::InSet => in_set(&graph.sets[node.b as usize], of(node.a)),
            Op::Agg => {
                let agg = graph.nodes.aggs[node.a as usize];
                self.fold(graph, agg.bag.0, agg.part, agg.key, agg.fold)
            }
        }
    }

    /// Whether any policy's value overflowed.
    pub(crate) fn overflowed(&self, graph: &Graph) -> bool {
        self.overflow_seen
            && graph.roots.root.iter().any(|root| {
                root.alive
                    && match root.kind {
                        RootKind::Soft { weight, .. } => {
                            let value = self.values[root.expr.index()];
                            value == value::OVERFLOW
                                || (!is_special(value)
                                    && value.checked_mul(i128::from(weight)).is_none())
                        }
                        RootKind::Hard => false,
                    }
            })
    }

    /// The key of the bucket that a row is in; `None` when it is in none.
    #[inline]
    pub(crate) fn row_key(&self, graph: &Graph, row: u32) -> Option<u32> {
        let data = &graph.bags.rows[row as usize];
        if data.cond != NIL && !value::is_true(self.values[data.cond as usize]) {
            return None;
        }
        match data.key {
            Key::Const(key) => Some(key),
            Key::Of(var, map) => {
                let value = self.assignment[var.index()];
                if value == UNSET {
                    return None;
                }
                let key = graph.maps[map.index()].image[value as usize];
                if key < 0 {
                    None
                } else {
                    u32::try_from(key).ok()
                }
            }
            Key::Expr(id) => u32::try_from(self.values[id.index()]).ok(),
        }
    }
}

pub(crate) fn in_set(set: &[i64], member: Val) -> Val {
    if is_special(member) {
        return member;
    }
    let found = i64::try_from(member).is_ok_and(|member| set.binary_search(&member).is_ok());
    Val::from(found)
}

/// What a soft value adds to its tier. Values and weights are far from 127 bits; where they are not, the sum wraps and
/// the read of the answer, which is exact, reports the overflow.
#[inline]
pub(crate) fn soft_term(weight: i64, value: Val) -> i128 {
    if is_special(value) {
        0
    } else {
        value.wrapping_mul(i128::from(weight))
    }
}
