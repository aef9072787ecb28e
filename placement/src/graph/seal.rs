//! From declarations to a consistent state, and from small changes of the declarations to the next one.
//!
//! The first refresh lays the bags out and evaluates everything by levels. After that a change of a row, a root, a
//! constant or a present value updates what it touches; only what changes the layout itself (a new kind of fold, a
//! part that outgrew scanning) starts over.

use std::collections::BTreeMap;

use super::bag::{Bag, Layout, bucket_name};
use super::buckets::{BagState, Tournament};
use super::ids::{BagId, MapId, VarId};
use super::model::{Graph, Model, ModelError, UNSET, key_bound_of};
use super::node::{Lists, NIL, Op};
use super::root::RootKind;
use super::state::{Broken, OVERFLOW_WATCH, State, Totals};
use super::value::{self, NULL};

impl Graph {
    /// Recomputes the level of every node and bag, after a row made its bag depend on deeper expressions.
    fn relevel(&mut self) {
        // Bags are stratified by their numbers, so one pass over the bags, each after the nodes that its rows read,
        // settles all levels.
        let mut known = vec![false; self.nodes.len()];
        for bag in 0..self.bags.bag.len() {
            let rows: Vec<u32> = self.bags.bag[bag].parts.iter().flatten().copied().collect();
            let mut level = 1;
            for row in rows {
                for expr in self.bags.exprs_of(row) {
                    level = level.max(1 + self.settle_level(expr, &mut known));
                }
            }
            self.bags.bag[bag].level = level;
        }
        for id in 0..self.nodes.len() as u32 {
            self.settle_level(id, &mut known);
        }
        self.nodes.level_max = self
            .nodes
            .node
            .iter()
            .map(|node| node.level)
            .max()
            .unwrap_or(0);
        self.bags.levels_stale = false;
    }

    fn settle_level(&mut self, id: u32, known: &mut [bool]) -> u32 {
        // An explicit stack: expressions can be as deep as a policy is long.
        let mut stack = vec![id];
        while let Some(&top) = stack.last() {
            if known[top as usize] {
                stack.pop();
                continue;
            }
            let mut level = 0;
            let mut waiting = false;
            let mut operands = Vec::new();
            self.nodes
                .for_operands(top, |operand| operands.push(operand));
            for operand in operands {
                if known[operand as usize] {
                    level = level.max(1 + self.nodes.get(operand).level);
                } else {
                    waiting = true;
                    stack.push(operand);
                }
            }
            if waiting {
                continue;
            }
            let node = self.nodes.get(top);
            self.nodes.node[top as usize].level = match node.op {
                Op::Agg => self.bags.bag[self.nodes.aggs[node.a as usize].bag.index()].level,
                Op::And | Op::Or => level.max(1),
                Op::Const
                | Op::Lookup
                | Op::Neg
                | Op::Add
                | Op::Sub
                | Op::Mul
                | Op::Div
                | Op::Rem
                | Op::Cmp(_)
                | Op::Not
                | Op::IsNull
                | Op::Ite
                | Op::InSet
                | Op::Free => level,
            };
            known[top as usize] = true;
            stack.pop();
        }
        self.nodes.get(id).level
    }

    /// Chooses layouts and indexes the active folds by bucket.
    fn lay_out(&mut self) {
        for bag in 0..self.bags.bag.len() {
            let entry = &mut self.bags.bag[bag];
            entry.choose_layout();
            entry.folds.clear();
            entry.part_folds = vec![NIL; entry.parts.len()];
            entry.slot_folds = match entry.layout {
                Layout::Dense { stride } => vec![NIL; entry.parts.len() * stride as usize],
                Layout::Scan | Layout::Sparse => Vec::new(),
            };
            entry.tournaments = entry.fixed_keys
                && entry.needs.iter().any(|needs| needs.order)
                && matches!(entry.layout, Layout::Dense { .. });
            if entry.tournaments {
                self.number_leaves(bag);
            }
        }
        for bag in 0..self.bags.bag.len() {
            let data = &self.bags.bag[bag];
            let limits_only = data.lazies.iter().all(|lazy| {
                let lazy = &self.bags.lazies[lazy.index()];
                lazy.kind == RootKind::Hard && Bag::is_count_limit(&lazy.template)
            });
            let counts_only =
                data.layout == Layout::Scan && limits_only && self.bags.rows_are_simple(bag);
            self.bags.bag[bag].counts_only = counts_only;
        }
        self.bags.fold_links = Lists::default();
        for id in 0..self.nodes.len() as u32 {
            let node = self.nodes.get(id);
            if node.op == Op::Agg && node.live > 0 {
                self.add_fold_edge(id);
            }
        }
    }

    /// Gives each row its leaf in the tournament of its bucket.
    fn number_leaves(&mut self, bag: usize) {
        let mut next: BTreeMap<u64, u32> = BTreeMap::new();
        for &row in self.bags.bag[bag].parts.iter().flatten() {
            let data = &mut self.bags.rows[row as usize];
            if let super::bag::Key::Const(key) = data.key {
                let leaf = next.entry(bucket_name(data.part, key)).or_insert(0);
                data.leaf = *leaf;
                *leaf += 1;
            }
        }
    }

    /// The list that holds the folds of a node's bucket.
    fn fold_head(bag: &mut Bag, part: u32, key: u32) -> Option<&mut u32> {
        match bag.layout {
            Layout::Scan => bag.part_folds.get_mut(part as usize),
            Layout::Dense { stride } if key < stride => {
                bag.slot_folds.get_mut((part * stride + key) as usize)
            }
            Layout::Dense { .. } => None,
            Layout::Sparse => Some(bag.folds.entry(bucket_name(part, key)).or_insert(NIL)),
        }
    }

    /// The active folds of a bucket; those of its whole part, where buckets are not stored.
    pub(crate) fn folds_of(&self, bag: u32, part: u32, key: u32) -> impl Iterator<Item = u32> + '_ {
        let data = &self.bags.bag[bag as usize];
        let head = match data.layout {
            Layout::Scan => data.part_folds.get(part as usize),
            Layout::Dense { stride } if key < stride => {
                data.slot_folds.get((part * stride + key) as usize)
            }
            Layout::Dense { .. } => None,
            Layout::Sparse => data.folds.get(&bucket_name(part, key)),
        };
        self.bags.fold_links.iter(head.copied().unwrap_or(NIL))
    }

    pub(crate) fn add_fold_edge(&mut self, id: u32) {
        let agg = self.nodes.aggs[self.nodes.get(id).a as usize];
        let bag = &mut self.bags.bag[agg.bag.index()];
        bag.counts_only = false;
        if let Some(head) = Self::fold_head(bag, agg.part, agg.key) {
            self.bags.fold_links.push(head, id);
        }
    }

    pub(crate) fn remove_fold_edge(&mut self, id: u32) {
        let agg = self.nodes.aggs[self.nodes.get(id).a as usize];
        let bag = &mut self.bags.bag[agg.bag.index()];
        if let Some(head) = Self::fold_head(bag, agg.part, agg.key) {
            self.bags.fold_links.remove(head, id);
        }
    }
}

impl State {
    /// Evaluates everything at the present values.
    fn seal(&mut self, graph: &mut Graph) {
        if graph.bags.levels_stale {
            graph.relevel();
        }
        graph.lay_out();
        graph.rescale();
        self.assignment.copy_from_slice(&graph.vars.current);
        self.reset(graph);
        self.sealed = true;

        let mut nodes: Vec<Vec<u32>> = vec![Vec::new(); graph.nodes.level_max as usize + 2];
        for id in 0..graph.nodes.len() as u32 {
            if graph.nodes.get(id).live > 0 {
                nodes[graph.nodes.get(id).level as usize].push(id);
            }
        }
        for (level, nodes) in nodes.into_iter().enumerate() {
            for bag in 0..graph.bags.bag.len() {
                if graph.bags.bag[bag].level as usize == level {
                    self.fill(graph, bag as u32);
                }
            }
            for id in nodes {
                self.values[id as usize] = self.evaluate(graph, id);
            }
        }
        self.overflow_seen = (0..graph.nodes.len()).any(|id| {
            let value = self.values[id];
            graph.nodes.get(id as u32).live > 0
                && value != NULL
                && value.unsigned_abs() >= OVERFLOW_WATCH
        });
        // Bags above every node have only roots' templates above them.
        for bag in 0..graph.bags.bag.len() {
            if graph.bags.bag[bag].level > graph.nodes.level_max + 1 {
                self.fill(graph, bag as u32);
            }
        }
        for queue in &mut self.queues {
            queue.clear();
        }
        self.queued.fill(false);
        self.queue_low = usize::MAX;
        for root in 0..graph.roots.root.len() as u32 {
            if graph.roots.root[root as usize].alive {
                self.enter_root(graph, root);
            }
        }
    }

    /// Empty buckets, zero totals.
    fn reset(&mut self, graph: &Graph) {
        let nodes = graph.nodes.len();
        self.values.resize(nodes, NULL);
        self.queued = vec![false; nodes];
        self.queues
            .resize(graph.nodes.level_max as usize + 2, Vec::new());
        self.hinge = vec![0; graph.roots.root.len()];
        self.root_dirty = vec![false; graph.roots.root.len()];
        self.dirty_roots.clear();
        self.lazy_hinge = vec![Vec::new(); graph.bags.lazies.len()];
        self.totals = Totals {
            hinge: 0,
            tiers: vec![0; graph.roots.tiers.len()],
            guide: 0,
        };
        self.broken.clear();
        self.trail.clear();
        self.marks = 0;
        self.bags = graph
            .bags
            .bag
            .iter()
            .map(|bag| BagState::empty(graph, bag))
            .collect();
    }

    /// Puts the rows of a bag into their buckets.
    fn fill(&mut self, graph: &Graph, bag: u32) {
        let entry = &graph.bags.bag[bag as usize];
        self.set_guide(graph, bag);
        for (part, rows) in entry.parts.iter().enumerate() {
            if entry.layout != Layout::Scan {
                for &row in rows {
                    self.bump(graph, row, 1);
                }
            } else if !entry.lazies.is_empty() {
                let mut keys: Vec<u32> = rows
                    .iter()
                    .filter_map(|&row| self.row_key(graph, row))
                    .collect();
                keys.sort_unstable();
                keys.dedup();
                for key in keys {
                    self.add_lazies(graph, bag, part as u32, key, part as u32, 1);
                }
            }
        }
    }

    /// Whether and how the bag's evenness guides the search.
    fn set_guide(&mut self, graph: &Graph, bag: u32) {
        let entry = &graph.bags.bag[bag as usize];
        let ordered = entry.needs.iter().any(|needs| needs.order);
        if !(entry.fixed_keys && ordered) {
            return;
        }
        let mut cells = Vec::new();
        for &row in entry.parts.iter().flatten() {
            for expr in graph.bags.exprs_of(row) {
                cells.push(self.values[expr as usize]);
            }
        }
        let greatest = cells
            .iter()
            .filter(|&&value| !value::is_special(value))
            .map(|value| value.unsigned_abs())
            .max()
            .unwrap_or(0);
        let state = &mut self.bags[bag as usize];
        state.guided = true;
        state.guide_shift = (128 - greatest.leading_zeros()).saturating_sub(40);
        self.totals.guide += cells
            .iter()
            .map(|&value| state.potential(value))
            .sum::<i128>();
    }

    fn enter_root(&mut self, graph: &Graph, root: u32) {
        let data = graph.roots.root[root as usize];
        match data.kind {
            RootKind::Hard => self.rehinge(graph, root),
            RootKind::Soft { tier, weight } => {
                let value = self.values[data.expr.index()];
                self.add_soft(graph.roots.tier_index(tier), weight, NULL, value);
            }
        }
    }

    pub(crate) fn insert_root(&mut self, graph: &Graph, root: u32) {
        if self.hinge.len() <= root as usize {
            self.hinge.resize(root as usize + 1, 0);
            self.root_dirty.resize(root as usize + 1, false);
        }
        if self.sealed {
            self.propagate(graph);
            self.enter_root(graph, root);
        }
    }

    pub(crate) fn withdraw_root(&mut self, graph: &Graph, root: u32) {
        if !self.sealed {
            return;
        }
        self.propagate(graph);
        let data = graph.roots.root[root as usize];
        match data.kind {
            RootKind::Hard => {
                let old = std::mem::take(&mut self.hinge[root as usize]);
                self.broken.update(Broken::Root(root), old, 0);
                self.add_hinge(-old);
            }
            RootKind::Soft { tier, weight } => {
                let value = self.values[data.expr.index()];
                self.add_soft(graph.roots.tier_index(tier), weight, value, NULL);
            }
        }
    }

    /// A row was added to the declarations.
    pub(crate) fn insert_row(&mut self, graph: &mut Graph, row: u32) {
        if !self.sealed {
            return;
        }
        let data = graph.bags.rows[row as usize];
        match graph.bags.bag[data.bag as usize].layout {
            Layout::Scan => {
                graph.bags.rows[row as usize].alive = false;
                self.toggle_scanned(graph, row, false, true);
            }
            Layout::Dense { .. } => {
                self.make_room(graph, data.bag);
                self.seat(graph, row);
                self.bump(graph, row, 1);
            }
            Layout::Sparse => self.bump(graph, row, 1),
        }
        self.guide_row(graph, row, 1);
    }

    /// Room for the buckets of parts that came.
    pub(crate) fn make_room(&mut self, graph: &mut Graph, bag: u32) {
        let entry = &mut graph.bags.bag[bag as usize];
        if let (true, Layout::Dense { stride }) = (self.sealed, entry.layout) {
            let buckets = entry.parts.len() * stride as usize;
            entry
                .slot_folds
                .resize(buckets.max(entry.slot_folds.len()), NIL);
            self.bags[bag as usize].make_room(entry, buckets);
        }
    }

    /// Gives a new row a leaf of its own in the tournaments of its bucket.
    fn seat(&mut self, graph: &mut Graph, row: u32) {
        let data = graph.bags.rows[row as usize];
        let bag = &graph.bags.bag[data.bag as usize];
        let (true, super::bag::Key::Const(key)) = (bag.tournaments, data.key) else {
            return;
        };
        let others = &bag.parts[data.part as usize];
        let mut taken = vec![false; others.len()];
        for &other in others.iter().filter(|&&other| other != row) {
            let other = &graph.bags.rows[other as usize];
            if other.key == data.key
                && let Some(leaf) = taken.get_mut(other.leaf as usize)
            {
                *leaf = true;
            }
        }
        // They are one fewer than the leaves looked at.
        let leaf = taken.iter().position(|&taken| !taken).unwrap_or(0) as u32;
        let slot = self.slot_of(graph, data.bag, data.part, key) as usize;
        let cells = usize::from(bag.cells);
        for tree in 0..2 * cells {
            self.bags[data.bag as usize].trees[slot * 2 * cells + tree].make_room(leaf + 1);
        }
        graph.bags.rows[row as usize].leaf = leaf;
    }

    /// A row is about to be removed from the declarations.
    pub(crate) fn withdraw_row(&mut self, graph: &mut Graph, row: u32) {
        if !self.sealed {
            return;
        }
        let data = graph.bags.rows[row as usize];
        self.guide_row(graph, row, -1);
        if graph.bags.bag[data.bag as usize].layout == Layout::Scan {
            self.toggle_scanned(graph, row, true, false);
        } else {
            self.bump(graph, row, -1);
        }
    }

    fn guide_row(&mut self, graph: &Graph, row: u32, sign: i128) {
        let bag = graph.bags.rows[row as usize].bag as usize;
        if self.bags[bag].guided {
            for expr in graph.bags.exprs_of(row) {
                let value = self.values[expr as usize];
                self.totals.guide += sign * self.bags[bag].potential(value);
            }
        }
    }

    /// Makes a row of a scanned part visible or invisible.
    fn toggle_scanned(&mut self, graph: &mut Graph, row: u32, was: bool, is: bool) {
        let data = graph.bags.rows[row as usize];
        let Some(key) = self.row_key(graph, row) else {
            graph.bags.rows[row as usize].alive = is;
            return;
        };
        graph.bags.rows[row as usize].alive = was;
        self.add_lazies(graph, data.bag, data.part, key, data.part, -1);
        graph.bags.rows[row as usize].alive = is;
        self.add_lazies(graph, data.bag, data.part, key, data.part, 1);
        self.wake_folds(graph, data.bag, data.part, key, data.part);
    }

    /// One entry of a column changes: the variables that have the value now leave it and come back.
    pub(crate) fn change_map(
        &mut self,
        graph: &mut Graph,
        map: MapId,
        value: u32,
        image: i64,
        holders: &[VarId],
    ) {
        let bound = key_bound_of(image);
        if bound > graph.maps[map.index()].key_bound {
            // The column may name buckets: their arrays were laid out for smaller keys.
            graph.maps[map.index()].key_bound = bound;
            let mut named = false;
            for row in &graph.bags.rows {
                if row.alive && matches!(row.key, super::bag::Key::Of(_, key) if key == map) {
                    let bag = &mut graph.bags.bag[row.bag as usize];
                    bag.keys = bag.keys.max(bound);
                    named |= !bag.fits(row.part, bound);
                }
            }
            if named {
                self.unseal();
            }
        }
        if !self.sealed {
            graph.maps[map.index()].image[value as usize] = image;
            return;
        }
        for &var in holders {
            self.assign(graph, var, UNSET);
        }
        self.propagate(graph);
        graph.maps[map.index()].image[value as usize] = image;
        for &var in holders {
            self.assign(graph, var, value);
        }
    }

    /// Constants of a part or of a key change: the buckets that have rows are re-evaluated.
    pub(crate) fn change_bucket_constants(
        &mut self,
        graph: &mut Graph,
        bag: BagId,
        part: Option<u32>,
        key: Option<u32>,
        constants: Box<[i64]>,
    ) {
        let mut buckets = Vec::new();
        if self.sealed && !graph.bags.bag[bag.index()].lazies.is_empty() {
            self.propagate(graph);
            buckets = self.occupied(graph, bag.0, part, key);
        }
        for &(part, key) in &buckets {
            let slot = self.slot_of(graph, bag.0, part, key);
            self.add_lazies(graph, bag.0, part, key, slot, -1);
        }
        let entry = &mut graph.bags.bag[bag.index()];
        if let Some(part) = part {
            entry.part_constants[part as usize] = constants;
        } else if let Some(key) = key {
            entry.key_constants[key as usize] = constants;
        }
        for &(part, key) in &buckets {
            let slot = self.slot_of(graph, bag.0, part, key);
            self.add_lazies(graph, bag.0, part, key, slot, 1);
        }
    }

    /// The buckets with rows, of one part or of one key, or all.
    pub(crate) fn occupied(
        &self,
        graph: &Graph,
        bag: u32,
        part: Option<u32>,
        key: Option<u32>,
    ) -> Vec<(u32, u32)> {
        let entry = &graph.bags.bag[bag as usize];
        let parts = match part {
            Some(part) => part as usize..(part as usize + 1).min(entry.parts.len()),
            None => 0..entry.parts.len(),
        };
        let mut found = Vec::new();
        if let Layout::Dense { stride } = entry.layout {
            let state = &self.bags[bag as usize];
            let keys = match key {
                Some(key) => key..(key + 1).min(stride),
                None => 0..stride,
            };
            for part in parts {
                for key in keys.clone() {
                    let slot = part * stride as usize + key as usize;
                    let rows = state.numbers.get(slot * state.width as usize);
                    if rows.is_some_and(|&rows| rows != 0) {
                        found.push((part as u32, key));
                    }
                }
            }
            return found;
        }
        for part in parts {
            let from = found.len();
            for &row in &entry.parts[part] {
                if let Some(bucket) = self.row_key(graph, row)
                    && key.is_none_or(|key| key == bucket)
                {
                    found.push((part as u32, bucket));
                }
            }
            found[from..].sort_unstable();
        }
        found.dedup();
        found
    }
}

impl BagState {
    fn empty(graph: &Graph, bag: &Bag) -> BagState {
        let mut state = BagState {
            width: 1,
            ..BagState::default()
        };
        for needs in &bag.needs {
            state.sum_at.push(state.width);
            if needs.sum {
                state.width += 2;
            }
        }
        state.scales = bag
            .lazies
            .iter()
            .map(|lazy| graph.lazy_scale(&graph.bags.lazies[lazy.index()]))
            .collect();
        if let Layout::Dense { stride } = bag.layout {
            let buckets = bag.parts.len() * stride as usize;
            state.make_room(bag, buckets);
            if bag.tournaments {
                let mut rows = vec![0; buckets];
                for &row in bag.parts.iter().flatten() {
                    let data = graph.bags.rows[row as usize];
                    if let super::bag::Key::Const(key) = data.key {
                        rows[(data.part * stride + key) as usize] += 1;
                    }
                }
                let cells = usize::from(bag.cells);
                for (bucket, &rows) in rows.iter().enumerate() {
                    for tree in 0..2 * cells {
                        state.trees[bucket * 2 * cells + tree] = Tournament::with_rows(rows);
                    }
                }
            }
        }
        state
    }

    /// Room for this many buckets.
    fn make_room(&mut self, bag: &Bag, buckets: usize) {
        let numbers = buckets * self.width as usize;
        if self.numbers.len() < numbers {
            self.numbers.resize(numbers, 0);
        }
        let members = buckets * usize::from(bag.cells);
        if bag.needs.iter().any(|needs| needs.order || needs.distinct)
            && self.members.len() < members
        {
            self.members.resize(members, BTreeMap::new());
        }
        if bag.tournaments && self.trees.len() < 2 * members {
            self.trees.resize(2 * members, Tournament::default());
        }
    }
}

impl Model {
    /// Brings every expression up to date with the declarations and the present values.
    pub fn refresh(&mut self) -> Result<(), ModelError> {
        if self.state.sealed {
            self.state.propagate(&self.graph);
        } else {
            self.state.seal(&mut self.graph);
        }
        self.graph.nodes.collect();
        Ok(())
    }
}
