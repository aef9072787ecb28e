//! What the buckets of a bag hold, and how it changes when a row moves.

use std::collections::BTreeMap;

use super::bag::{Cell, Key, Layout, bucket_name};
use super::bucket::Bucket;
use super::expr::{Fold, Template};
use super::hash::FxMap;
use super::model::{Graph, UNSET};
use super::node::NIL;
use super::root::{Avoid, RootKind, scaled};
use super::state::{Broken, Saved, State};
use super::template::bucket_constant;
use super::value::{self, NULL, Val, is_special, widen};
use super::{Plant, planted};
use crate::solve::Rng;

/// Terms from here on count as overflowed. A sum of fewer than a million smaller ones is always exact.
const TERM_MAX: u128 = 1 << 89;
/// What an overflowed term adds to a sum.
const POISON: Val = 1 << 110;
/// Sums from here on have an overflowed term.
const SUM_MAX: u128 = 1 << 109;
/// No such bucket.
const NO_SLOT: u32 = u32::MAX;

/// A tournament over the rows of a bucket: inner node `i` is the winner of `2i` and `2i + 1`, the root is 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tournament {
    pub nodes: Vec<Val>,
    /// Leaves start here; a power of two.
    pub width: u32,
}

/// Buckets of one bag. Numbers of a bucket lie together: row count, then for each cell that is summed its sum and how
/// many of its values are not NULL.
#[derive(Clone, Debug, Default)]
pub(crate) struct BagState {
    pub numbers: Vec<Val>,
    /// Numbers of one bucket.
    pub width: u32,
    /// Where each cell's sum stands among them.
    pub sum_at: Vec<u32>,
    /// Sparse layout: bucket name → slot.
    pub slots: FxMap<u64, u32>,
    pub slot_names: Vec<u64>,
    /// Values of each (slot, cell) in order, where rows move between buckets; also what COUNT DISTINCT counts.
    pub members: Vec<BTreeMap<Val, u32>>,
    /// Two for each (slot, cell), where rows do not: of the values, and of the negated values.
    pub trees: Vec<Tournament>,
    /// A maximum or minimum of expressions: the search wants to know how even they are.
    pub guided: bool,
    /// Low bits dropped before squaring.
    pub guide_shift: u32,
    /// Scale of each lazy policy of the bag.
    pub scales: Vec<f64>,
}

impl BagState {
    pub(super) fn add_member(&mut self, index: u32, value: Val) {
        *self.members[index as usize].entry(value).or_insert(0) += 1;
    }

    pub(super) fn drop_member(&mut self, index: u32, value: Val) {
        let members = &mut self.members[index as usize];
        if let Some(count) = members.get_mut(&value) {
            *count -= 1;
            if *count == 0 {
                members.remove(&value);
            }
        }
    }

    /// A convex function of a value that goes into a maximum.
    pub(super) fn potential(&self, value: Val) -> i128 {
        if is_special(value) {
            return 0;
        }
        let reduced = (value >> self.guide_shift).clamp(-(1 << 50), 1 << 50);
        reduced * reduced
    }
}

impl State {
    #[inline]
    fn slot(&self, graph: &Graph, bag: u32, part: u32, key: u32) -> u32 {
        match graph.bags.bag[bag as usize].layout {
            Layout::Scan => part,
            Layout::Dense { stride } => {
                if key < stride {
                    part * stride + key
                } else {
                    NO_SLOT
                }
            }
            Layout::Sparse => self.bags[bag as usize]
                .slots
                .get(&bucket_name(part, key))
                .copied()
                .unwrap_or(NO_SLOT),
        }
    }

    /// The slot of a bucket, made if there is none yet.
    fn touch_slot(&mut self, graph: &Graph, bag: u32, part: u32, key: u32) -> u32 {
        let found = self.slot(graph, bag, part, key);
        if found != NO_SLOT {
            return found;
        }
        let data = &graph.bags.bag[bag as usize];
        assert_eq!(
            data.layout,
            Layout::Sparse,
            "a dense bag has a slot for every bucket"
        );
        let entry = &mut self.bags[bag as usize];
        let slot = entry.slot_names.len() as u32;
        entry.slots.insert(bucket_name(part, key), slot);
        entry.slot_names.push(bucket_name(part, key));
        entry
            .numbers
            .resize(entry.numbers.len() + entry.width as usize, 0);
        if data.needs.iter().any(|needs| needs.order || needs.distinct) {
            let cells = data.cells as usize;
            entry
                .members
                .resize(entry.members.len() + cells, BTreeMap::new());
        }
        slot
    }

    /// The slot of a bucket that has rows.
    pub(crate) fn slot_of(&self, graph: &Graph, bag: u32, part: u32, key: u32) -> u32 {
        let slot = self.slot(graph, bag, part, key);
        assert_ne!(slot, NO_SLOT, "a bucket with rows has a slot");
        slot
    }

    /// The bucket that a lazy policy's slot stands for; the key is `None` where the slot is a whole part.
    pub(crate) fn slot_bucket(&self, graph: &Graph, bag: u32, slot: u32) -> (u32, Option<u32>) {
        match graph.bags.bag[bag as usize].layout {
            Layout::Scan => (slot, None),
            Layout::Dense { stride } => (slot / stride, Some(slot % stride)),
            Layout::Sparse => {
                let name = self.bags[bag as usize].slot_names[slot as usize];
                ((name >> 32) as u32, Some(name as u32))
            }
        }
    }

    /// The value of a row's cell.
    #[inline]
    pub(crate) fn cell(&self, graph: &Graph, cell: Cell) -> Val {
        match cell {
            Cell::Const(constant) => constant.map_or(NULL, i128::from),
            Cell::Lookup { var, map, times } => {
                let value = self.assignment[var.index()];
                if value == UNSET {
                    return NULL;
                }
                let image = widen(graph.maps[map.index()].image[value as usize]);
                if image == NULL {
                    NULL
                } else {
                    image * i128::from(times)
                }
            }
            Cell::Expr(id) => self.values[id.index()],
        }
    }

    /// A fold of a bucket.
    #[inline]
    pub(crate) fn fold(&self, graph: &Graph, bag: u32, part: u32, key: u32, fold: Fold) -> Val {
        let data = &graph.bags.bag[bag as usize];
        if data.layout == Layout::Scan {
            return self.scan(graph, bag, part, key, fold);
        }
        let slot = self.slot(graph, bag, part, key);
        let entry = &self.bags[bag as usize];
        if slot == NO_SLOT {
            return match fold {
                Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_) => 0,
                Fold::Sum(_) | Fold::Min(_) | Fold::Max(_) => NULL,
            };
        }
        let base = (slot * entry.width) as usize;
        let member = |cell: u8| (slot * u32::from(data.cells) + u32::from(cell)) as usize;
        match fold {
            Fold::CountRows => entry.numbers[base],
            Fold::Count(cell) => entry.numbers[base + entry.sum_at[cell as usize] as usize + 1],
            Fold::Sum(cell) => {
                let at = base + entry.sum_at[cell as usize] as usize;
                if entry.numbers[at + 1] == 0 {
                    NULL
                } else if entry.numbers[at].unsigned_abs() >= SUM_MAX {
                    value::OVERFLOW
                } else {
                    entry.numbers[at]
                }
            }
            Fold::Max(cell) if data.tournaments => entry.trees[2 * member(cell)].winner(),
            Fold::Min(cell) if data.tournaments => {
                value::neg(entry.trees[2 * member(cell) + 1].winner())
            }
            Fold::Max(cell) => entry.members[member(cell)]
                .last_key_value()
                .map_or(NULL, |(&value, _)| value),
            Fold::Min(cell) => entry.members[member(cell)]
                .first_key_value()
                .map_or(NULL, |(&value, _)| value),
            Fold::CountDistinct(cell) => entry.members[member(cell)].len() as Val,
        }
    }

    /// A fold of a bucket that is not stored.
    fn scan(&self, graph: &Graph, bag: u32, part: u32, key: u32, fold: Fold) -> Val {
        let Some(rows) = graph.bags.bag[bag as usize].parts.get(part as usize) else {
            return match fold {
                Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_) => 0,
                Fold::Sum(_) | Fold::Min(_) | Fold::Max(_) => NULL,
            };
        };
        let in_bucket = rows.iter().copied().filter(|&row| {
            graph.bags.rows[row as usize].alive && self.row_key(graph, row) == Some(key)
        });
        let cells = |index: u8| {
            in_bucket
                .clone()
                .map(move |row| self.cell(graph, graph.bags.cells_of(row)[index as usize]))
        };
        match fold {
            Fold::CountRows => in_bucket.count() as Val,
            Fold::Count(index) => cells(index).filter(|&value| value != NULL).count() as Val,
            Fold::Sum(index) => cells(index)
                .filter(|&value| value != NULL)
                .fold(NULL, |sum, value| {
                    if sum == NULL {
                        value
                    } else {
                        value::add(sum, value)
                    }
                })
                .bounded(),
            Fold::Max(index) => cells(index).max().unwrap_or(NULL),
            Fold::Min(index) => cells(index)
                .filter(|&value| value != NULL)
                .min()
                .unwrap_or(NULL),
            Fold::CountDistinct(index) => {
                let mut seen: Vec<Val> = cells(index).filter(|&value| value != NULL).collect();
                seen.sort_unstable();
                seen.dedup();
                seen.len() as Val
            }
        }
    }

    /// The row with the greatest cell of a bucket that keeps tournaments.
    pub(crate) fn tournament_winner(
        &self,
        graph: &Graph,
        bag: u32,
        part: u32,
        key: u32,
        cell: u8,
    ) -> Option<u32> {
        let data = &graph.bags.bag[bag as usize];
        let slot = self.slot(graph, bag, part, key);
        let tree = 2 * (slot * u32::from(data.cells) + u32::from(cell));
        let tree = self.bags[bag as usize].trees.get(tree as usize)?;
        let mut at = 1;
        while at < tree.width as usize {
            at *= 2;
            if tree.nodes[at] < tree.nodes[at + 1] {
                at += 1;
            }
        }
        self.row_at_leaf(graph, (bag, part, key), at as u32 - tree.width)
    }

    /// A row with one of the least cells of such a bucket: the walk takes a wrong turn now and then.
    pub(crate) fn tournament_loser(
        &self,
        graph: &Graph,
        bag: u32,
        (part, key): (u32, u32),
        cell: u8,
        rng: &mut Rng,
    ) -> Option<u32> {
        let data = &graph.bags.bag[bag as usize];
        let slot = self.slot(graph, bag, part, key);
        let tree = 2 * (slot * u32::from(data.cells) + u32::from(cell)) + 1;
        let tree = self.bags[bag as usize].trees.get(tree as usize)?;
        let mut at = 1;
        while at < tree.width as usize {
            at *= 2;
            let right = tree.nodes[at] < tree.nodes[at + 1];
            let stray = rng.below(6) == 0 && tree.nodes[at ^ 1] != NULL && tree.nodes[at] != NULL;
            if right != stray {
                at += 1;
            }
        }
        self.row_at_leaf(graph, (bag, part, key), at as u32 - tree.width)
    }

    fn row_at_leaf(
        &self,
        graph: &Graph,
        (bag, part, key): (u32, u32, u32),
        leaf: u32,
    ) -> Option<u32> {
        let rows = &graph.bags.bag[bag as usize].parts[part as usize];
        let is_it = |row: u32| {
            let data = &graph.bags.rows[row as usize];
            data.leaf == leaf && data.key == Key::Const(key)
        };
        // Leaves were numbered in the order of the part, so the first guess is right where it has one key.
        match rows.get(leaf as usize) {
            Some(&row) if is_it(row) => Some(row),
            Some(_) | None => rows.iter().copied().find(|&row| is_it(row)),
        }
    }

    /// Adds a row to the bucket that it is in, or takes it out (`sign` −1), at the present values.
    #[inline]
    pub(super) fn bump(&mut self, graph: &Graph, row: u32, sign: i128) {
        let Some(key) = self.row_key(graph, row) else {
            return;
        };
        let data = graph.bags.rows[row as usize];
        let bag = &graph.bags.bag[data.bag as usize];
        let slot = self.touch_slot(graph, data.bag, data.part, key);
        if !bag.lazies.is_empty() {
            self.add_lazies(graph, data.bag, data.part, key, slot, -1);
        }
        let width = self.bags[data.bag as usize].width;
        let base = slot * width;
        self.add_number(data.bag, base, sign);
        for (index, needs) in bag.needs.iter().enumerate() {
            if !(needs.sum || needs.order || needs.distinct) {
                continue;
            }
            let value = self.cell(graph, graph.bags.cells[data.cells as usize + index]);
            if value == NULL && !needs.order {
                continue;
            }
            if needs.sum && value != NULL && !(sign < 0 && planted(Plant::StaleSum)) {
                let at = base + self.bags[data.bag as usize].sum_at[index];
                let term = if value.unsigned_abs() < TERM_MAX {
                    value
                } else {
                    POISON
                };
                self.add_number(data.bag, at, term * sign);
                self.add_number(data.bag, at + 1, sign);
            }
            let member = slot * u32::from(bag.cells) + index as u32;
            if bag.tournaments && needs.order {
                let leaf = if sign > 0 { value } else { NULL };
                self.set_leaf(data.bag, 2 * member, data.leaf, leaf);
                self.set_leaf(data.bag, 2 * member + 1, data.leaf, value::neg(leaf));
            }
            if value != NULL && (needs.distinct || (needs.order && !bag.tournaments)) {
                if sign > 0 {
                    self.save(
                        Saved::Added {
                            bag: data.bag,
                            index: member,
                        },
                        value,
                    );
                    self.bags[data.bag as usize].add_member(member, value);
                } else {
                    self.save(
                        Saved::Dropped {
                            bag: data.bag,
                            index: member,
                        },
                        value,
                    );
                    self.bags[data.bag as usize].drop_member(member, value);
                }
            }
        }
        if !bag.lazies.is_empty() {
            self.add_lazies(graph, data.bag, data.part, key, slot, 1);
        }
        self.wake_folds(graph, data.bag, data.part, key, slot);
    }

    #[inline]
    fn add_number(&mut self, bag: u32, index: u32, delta: i128) {
        let slot = &mut self.bags[bag as usize].numbers[index as usize];
        let old = *slot;
        *slot = old.wrapping_add(delta);
        self.save(Saved::Num { bag, index }, old);
    }

    fn set_leaf(&mut self, bag: u32, tree: u32, leaf: u32, value: Val) {
        let entry = &mut self.bags[bag as usize].trees[tree as usize];
        let mut at = (entry.width + leaf) as usize;
        let mut new = value;
        loop {
            let old = std::mem::replace(&mut entry.nodes[at], new);
            if old == new {
                break;
            }
            if self.marks > 0 {
                self.trail.push((
                    Saved::Leaf {
                        bag,
                        tree,
                        node: at as u32,
                    },
                    old,
                ));
            }
            if at <= 1 {
                break;
            }
            new = new.max(entry.nodes[at ^ 1]);
            at /= 2;
        }
    }

    /// Queues the expressions that fold a bucket.
    #[inline]
    pub(super) fn wake_folds(&mut self, graph: &Graph, bag: u32, part: u32, key: u32, slot: u32) {
        let data = &graph.bags.bag[bag as usize];
        let head = match data.layout {
            Layout::Scan => data.part_folds.get(part as usize).copied().unwrap_or(NIL),
            Layout::Dense { .. } => data.slot_folds[slot as usize],
            Layout::Sparse => data
                .folds
                .get(&bucket_name(part, key))
                .copied()
                .unwrap_or(NIL),
        };
        for node in graph.bags.fold_links.iter(head) {
            if data.layout != Layout::Scan
                || graph.nodes.aggs[graph.nodes.get(node).a as usize].key == key
            {
                self.enqueue(graph, node);
            }
        }
    }

    /// Runs a change that rows of scanned parts can see. `set` puts the world after or before the change; it is left
    /// after it.
    pub(super) fn rescan(&mut self, graph: &Graph, rows: &[u32], set: impl Fn(&mut State, bool)) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.clear();
        self.note_buckets(graph, rows, &mut touched);
        set(self, true);
        self.note_buckets(graph, rows, &mut touched);
        for &(bag, part, key) in &touched {
            if !graph.bags.bag[bag as usize].lazies.is_empty() {
                self.add_lazies(graph, bag, part, key, part, 1);
            }
        }
        set(self, false);
        for &(bag, part, key) in &touched {
            if !graph.bags.bag[bag as usize].lazies.is_empty() {
                self.add_lazies(graph, bag, part, key, part, -1);
            }
        }
        set(self, true);
        for &(bag, part, key) in &touched {
            self.wake_folds(graph, bag, part, key, part);
        }
        self.touched = touched;
    }

    /// The change of a decision, for a row of a bag of which nothing but counts is asked: one look at the part instead
    /// of one for each bucket before and after.
    pub(super) fn recount(&mut self, graph: &Graph, row: u32, old: u32, new: u32) {
        let data = &graph.bags.rows[row as usize];
        let Key::Of(_, map) = data.key else { return };
        let image = &graph.maps[map.index()].image;
        let key_of = |value: u32| {
            if value == UNSET {
                -1
            } else {
                image[value as usize]
            }
        };
        let (from, to) = (key_of(old), key_of(new));
        if from == to {
            return;
        }
        let bag = &graph.bags.bag[data.bag as usize];
        let (mut at_from, mut at_to) = (0_i64, 0_i64);
        for &other in &bag.parts[data.part as usize] {
            if other == row {
                continue;
            }
            let other = &graph.bags.rows[other as usize];
            if let (Key::Of(var, map), true) = (other.key, other.alive) {
                let value = self.assignment[var.index()];
                if value != UNSET {
                    let key = graph.maps[map.index()].image[value as usize];
                    at_from += i64::from(key == from);
                    at_to += i64::from(key == to);
                }
            }
        }
        for (index, &lazy) in bag.lazies.iter().enumerate() {
            let Template::Cmp(op, _, limit) = &graph.bags.lazies[lazy.index()].template else {
                continue;
            };
            let scale = self.bags[data.bag as usize].scales[index];
            let amount = |count: i64, key: i64| -> i64 {
                let Ok(key) = u32::try_from(key) else {
                    return 0;
                };
                if count == 0 {
                    return 0;
                }
                let limit = match **limit {
                    Template::Const(limit) => limit.map_or(NULL, i128::from),
                    Template::Part(index) => bucket_constant(bag.part_constant(data.part, index)),
                    Template::Key(index) => bucket_constant(bag.key_constant(key, index)),
                    _ => NULL,
                };
                scaled(value::shortfall(*op, Val::from(count), limit), scale)
            };
            let delta = amount(at_from, from) - amount(at_from + 1, from) + amount(at_to + 1, to)
                - amount(at_to, to);
            if delta != 0 {
                self.add_lazy_hinge(lazy.0, data.part, delta);
            }
        }
    }

    fn note_buckets(&self, graph: &Graph, rows: &[u32], touched: &mut Vec<(u32, u32, u32)>) {
        for &row in rows {
            let data = &graph.bags.rows[row as usize];
            if !data.alive {
                continue;
            }
            if let Some(key) = self.row_key(graph, row) {
                let bucket = (data.bag, data.part, key);
                if !touched.contains(&bucket) {
                    touched.push(bucket);
                }
            }
        }
    }

    /// Adds what a bucket contributes to the totals through the lazy policies of its bag, or takes it away.
    pub(super) fn add_lazies(
        &mut self,
        graph: &Graph,
        bag: u32,
        part: u32,
        key: u32,
        slot: u32,
        sign: i64,
    ) {
        let rows = self.fold(graph, bag, part, key, Fold::CountRows);
        if rows == 0 {
            return;
        }
        let data = &graph.bags.bag[bag as usize];
        for (index, &lazy) in data.lazies.iter().enumerate() {
            let spec = &graph.bags.lazies[lazy.index()];
            let bucket = Bucket {
                state: self,
                graph,
                bag,
                part,
                key,
                rows,
            };
            match spec.kind {
                RootKind::Hard => {
                    let amount = bucket.hinge(&spec.template, Avoid::False);
                    if amount != 0 {
                        let scale = self.bags[bag as usize].scales[index];
                        self.add_lazy_hinge(lazy.0, slot, sign * scaled(amount, scale));
                    }
                }
                RootKind::Soft { tier, weight } => {
                    let value = bucket.value(&spec.template);
                    let tier = graph.roots.tier_index(tier);
                    if sign > 0 {
                        self.add_soft(tier, weight, NULL, value);
                    } else {
                        self.add_soft(tier, weight, value, NULL);
                    }
                }
            }
        }
    }

    fn add_lazy_hinge(&mut self, lazy: u32, slot: u32, delta: i64) {
        let entry = &mut self.lazy_hinge[lazy as usize];
        if entry.len() <= slot as usize {
            entry.resize(slot as usize + 1, 0);
        }
        let old = entry[slot as usize];
        entry[slot as usize] = old + delta;
        self.save(Saved::LazyHinge(lazy, slot), Val::from(old));
        self.broken
            .update(Broken::Lazy(lazy, slot), old, old + delta);
        self.add_hinge(delta);
    }
}

impl Tournament {
    pub(super) fn with_rows(rows: u32) -> Tournament {
        let width = rows.max(1).next_power_of_two();
        Tournament {
            nodes: vec![NULL; 2 * width as usize],
            width,
        }
    }

    /// Leaves for so many rows; those that are there keep theirs.
    pub(super) fn make_room(&mut self, rows: u32) {
        if rows <= self.width {
            return;
        }
        let mut wider = Tournament::with_rows(rows);
        let (old, new) = (self.width as usize, wider.width as usize);
        wider.nodes[new..new + old].copy_from_slice(&self.nodes[old..]);
        for at in (1..new).rev() {
            wider.nodes[at] = wider.nodes[2 * at].max(wider.nodes[2 * at + 1]);
        }
        *self = wider;
    }

    /// The greatest value; NULL before the first row.
    fn winner(&self) -> Val {
        self.nodes.get(1).copied().unwrap_or(NULL)
    }
}

/// Sums that stored buckets would report as overflowed are so when they are scanned.
trait Bounded {
    fn bounded(self) -> Val;
}

impl Bounded for Val {
    fn bounded(self) -> Val {
        if self != NULL && self.unsigned_abs() >= SUM_MAX {
            value::OVERFLOW
        } else {
            self
        }
    }
}
