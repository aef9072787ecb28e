//! How values are told apart: everything that rows ask of them, refined one question after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::super::bound::Sure;
use super::super::candidates::{Candidates, is_unary, sign};
use super::super::ties::is_injective;
use super::Hard;
use super::classes::{Classes, Soft};
use super::support::{Support, Supports};
use super::touched::Touched;
use crate::graph::internal::{FxMap, Graph, Key, NIL, Op, RootKind, State, Val, template_folds};
use crate::graph::{Cell, CmpOp, Fold, MapId, VarId};

/// Fixed rows of a part beyond which its occupied buckets are all told apart.
const FIXED_MAX: usize = 4_096;

/// What is asked of a part.
#[derive(Debug, Default)]
struct Asked {
    folds: BTreeSet<Fold>,
    /// Buckets that expressions name.
    keys: BTreeSet<u32>,
    /// Buckets that policies over all buckets judge; `None`: all of them.
    lazies: BTreeMap<u32, Option<BTreeSet<u32>>>,
    /// How many roots judge a bucket by itself, by form.
    forms: BTreeMap<Vec<u32>, BTreeMap<u32, u32>>,
}

/// Sorts values by what is asked of them.
pub(super) struct Sorter<'a> {
    graph: &'a Graph,
    state: &'a State,
    touched: &'a Touched,
    supports: Supports<'a>,
    pub classes: Classes,
    asked: BTreeMap<(u32, u32), Asked>,
    pending: Vec<(u32, u32)>,
    /// Rows that can change, by part.
    rows: BTreeMap<(u32, u32), Vec<u32>>,
    visited: BTreeSet<u32>,
    tabulated: BTreeSet<(usize, Vec<u32>)>,
    imaged: BTreeSet<u32>,
    injective: BTreeMap<u32, bool>,
}

impl<'a> Sorter<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        state: &'a State,
        candidates: &'a Candidates,
        touched: &'a Touched,
    ) -> Sorter<'a> {
        let mut sorter = Sorter {
            graph,
            state,
            touched,
            supports: Supports::new(graph, state, candidates, touched),
            classes: Classes::default(),
            asked: BTreeMap::new(),
            pending: Vec::new(),
            rows: BTreeMap::new(),
            visited: BTreeSet::new(),
            tabulated: BTreeSet::new(),
            imaged: BTreeSet::new(),
            injective: BTreeMap::new(),
        };
        for &row in &touched.rows {
            let data = &graph.bags.rows[row as usize];
            sorter
                .rows
                .entry((data.bag, data.part))
                .or_default()
                .push(row);
        }
        sorter
    }

    /// Sorts by what the hard rows ask, and the objectives where they count.
    pub(super) fn sort(&mut self, candidates: &Candidates, hard: &[Hard], soft: Soft) {
        self.begin(candidates);
        let (graph, state) = (self.graph, self.state);
        let mut sure = Sure::new(graph, state, candidates);
        for &row in hard {
            match row {
                Hard::Root(root) => self.root(root),
                Hard::Bucket { lazy, part, key } => {
                    let spec = &graph.bags.lazies[lazy as usize];
                    if sure.holds(spec.bag.0, (part, key), &spec.template) {
                        continue;
                    }
                    let asked = self.ask(spec.bag.0, part);
                    template_folds(&spec.template, &mut |fold| {
                        asked.folds.insert(fold);
                    });
                    let keys = asked
                        .lazies
                        .entry(lazy)
                        .or_insert_with(|| Some(BTreeSet::new()));
                    if let Some(keys) = keys {
                        keys.insert(key);
                    }
                }
            }
        }
        if soft == Soft::Counted {
            self.objectives();
        }
        while let Some((bag, part)) = self.pending.pop() {
            self.expressions(bag, part);
        }
        let parts: Vec<(u32, u32)> = self.asked.keys().copied().collect();
        for part in parts {
            self.part(part);
        }
    }

    /// Every choice by itself; values told apart by who may have them.
    fn begin(&mut self, candidates: &Candidates) {
        let mut sets: BTreeSet<(usize, u32)> = BTreeSet::new();
        for &var in &self.touched.free {
            let var = VarId(var);
            let head = self.supports.head(var);
            self.classes.component.insert(head, head);
            let domain = self.graph.vars.domain[var.index()].index();
            let len = self.graph.domains[domain].len as usize;
            self.classes
                .class
                .entry(domain)
                .or_insert_with(|| vec![0; len]);
            sets.insert((domain, candidates.set_id(var)));
        }
        for (domain, set) in sets {
            let values = candidates.set(set);
            self.refine(domain, |value| {
                Val::from(values.binary_search(&value).is_ok())
            });
        }
    }

    /// Tells values apart that differ in this.
    fn refine(&mut self, domain: usize, image: impl Fn(u32) -> Val) {
        let Some(class) = self.classes.class.get_mut(&domain) else {
            return;
        };
        let mut ids: FxMap<(u32, Val), u32> = FxMap::default();
        for (value, class) in (0..).zip(class.iter_mut()) {
            let next = ids.len() as u32;
            *class = *ids.entry((*class, image(value))).or_insert(next);
        }
    }

    /// Tells values apart by a column.
    fn image(&mut self, map: MapId) {
        if self.imaged.insert(map.0) {
            let graph = self.graph;
            let domain = graph.maps[map.index()].domain.index();
            self.refine(domain, |value| Val::from(graph.image(map, value)));
        }
    }

    fn is_injective(&mut self, map: MapId) -> bool {
        let graph = self.graph;
        *self
            .injective
            .entry(map.0)
            .or_insert_with(|| is_injective(graph, map))
    }

    fn ask(&mut self, bag: u32, part: u32) -> &mut Asked {
        if !self.asked.contains_key(&(bag, part)) {
            self.pending.push((bag, part));
        }
        self.asked.entry((bag, part)).or_default()
    }

    fn objectives(&mut self) {
        let graph = self.graph;
        for &root in &self.touched.roots {
            if graph.roots.root[root as usize].kind != RootKind::Hard {
                self.root(root);
            }
        }
        for (lazy, spec) in graph.bags.lazies.iter().enumerate() {
            if !spec.alive || spec.kind == RootKind::Hard {
                continue;
            }
            let parts = self
                .touched
                .parts
                .range((spec.bag.0, 0)..=(spec.bag.0, u32::MAX));
            for &(bag, part) in parts {
                let asked = self.ask(bag, part);
                template_folds(&spec.template, &mut |fold| {
                    asked.folds.insert(fold);
                });
                asked.lazies.insert(lazy as u32, None);
            }
        }
    }

    fn root(&mut self, root: u32) {
        let data = self.graph.roots.root[root as usize];
        let id = data.expr.0;
        if self.supports.of(id) == Support::Nothing {
            return;
        }
        let mut bucket = None;
        let mut form = match data.kind {
            RootKind::Hard => vec![0],
            RootKind::Soft { tier, weight } => {
                let weight = weight as u64;
                vec![1, tier, weight as u32, (weight >> 32) as u32]
            }
        };
        if !self.write_form(id, &mut bucket, &mut form) {
            self.visit(id);
            return;
        }
        let Some((bag, part, key)) = bucket else {
            return;
        };
        let mut folds = Vec::new();
        self.folds_below(id, &mut folds);
        let asked = self.ask(bag, part);
        asked.folds.extend(folds);
        *asked
            .forms
            .entry(form.clone())
            .or_default()
            .entry(key)
            .or_insert(0) += 1;
        let form = (bag, part, form);
        self.classes
            .by_form
            .entry((form.clone(), key))
            .or_default()
            .push(root);
        self.classes.forms.insert(root, (form, key));
    }

    /// Writes an expression over the folds of one bucket down without saying which bucket; false for any other.
    fn write_form(
        &self,
        id: u32,
        bucket: &mut Option<(u32, u32, u32)>,
        form: &mut Vec<u32>,
    ) -> bool {
        let node = self.graph.nodes.get(id);
        match node.op {
            Op::Const => form.extend([u32::MAX, id]),
            Op::Lookup | Op::Free => return false,
            Op::Agg => {
                let agg = self.graph.nodes.aggs[node.a as usize];
                let own = (agg.bag.0, agg.part, agg.key);
                if *bucket.get_or_insert(own) != own {
                    return false;
                }
                form.extend(fold_code(agg.fold));
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
            | Op::InSet => {
                form.push(node.op.code());
                if node.op == Op::InSet {
                    form.push(node.b);
                }
                let mut operands = Vec::new();
                self.graph
                    .nodes
                    .for_operands(id, |operand| operands.push(operand));
                form.push(operands.len() as u32);
                return operands
                    .into_iter()
                    .all(|operand| self.write_form(operand, bucket, form));
            }
        }
        true
    }

    fn folds_below(&self, id: u32, folds: &mut Vec<Fold>) {
        let node = self.graph.nodes.get(id);
        if node.op == Op::Agg {
            folds.push(self.graph.nodes.aggs[node.a as usize].fold);
        }
        let mut operands = Vec::new();
        self.graph
            .nodes
            .for_operands(id, |operand| operands.push(operand));
        operands
            .into_iter()
            .for_each(|operand| self.folds_below(operand, folds));
    }

    /// What an expression asks of the values of decisions.
    fn visit(&mut self, id: u32) {
        if !self.visited.insert(id) {
            return;
        }
        match self.supports.of(id) {
            Support::Nothing => {}
            Support::One(var) => self.tabulate(var, id),
            Support::Many => self.visit_several(id),
        }
    }

    fn visit_several(&mut self, id: u32) {
        let graph = self.graph;
        let node = graph.nodes.get(id);
        if node.op == Op::Agg {
            let agg = graph.nodes.aggs[node.a as usize];
            let asked = self.ask(agg.bag.0, agg.part);
            asked.keys.insert(agg.key);
            asked.folds.insert(agg.fold);
            return;
        }
        if matches!(node.op, Op::Cmp(CmpOp::Eq | CmpOp::Ne))
            && let (Some((a, map)), Some((b, same))) =
                (graph.nodes.lookup(node.a), graph.nodes.lookup(node.b))
            && map == same
        {
            let (a, b) = (self.supports.head(a), self.supports.head(b));
            if self.is_injective(map) {
                self.classes.unite(a, b);
            } else {
                self.image(map);
            }
            return;
        }
        let mut operands = Vec::new();
        graph
            .nodes
            .for_operands(id, |operand| operands.push(operand));
        operands.into_iter().for_each(|operand| self.visit(operand));
    }

    /// Tells values apart by an expression over one choice.
    fn tabulate(&mut self, var: VarId, id: u32) {
        let graph = self.graph;
        if let Some((_, map)) = graph.nodes.lookup(id) {
            self.image(map);
            return;
        }
        let domain = graph.vars.domain[var.index()].index();
        if is_unary(graph, id) {
            // Expressions that differ only in whose they are say the same of a value.
            let mut signature = Vec::new();
            sign(graph, id, &mut signature);
            if !self.tabulated.insert((domain, signature)) {
                return;
            }
        }
        let len = graph.domains[domain].len;
        let table: Vec<Val> = (0..len)
            .map(|value| self.supports.value_with(id, Some((var, value))))
            .collect();
        self.refine(domain, |value| table[value as usize]);
    }

    /// The expressions that place or fill the rows of a part.
    fn expressions(&mut self, bag: u32, part: u32) {
        for row in self.rows.get(&(bag, part)).cloned().unwrap_or_default() {
            for expr in self.graph.bags.exprs_of(row) {
                self.visit(expr);
            }
        }
    }

    /// What is asked of a part's buckets, and so of the values that name them.
    fn part(&mut self, name: (u32, u32)) {
        let Some(asked) = self.asked.remove(&name) else {
            return;
        };
        let graph = self.graph;
        let rows = self.rows.get(&name).cloned().unwrap_or_default();
        let mut maps: BTreeSet<MapId> = BTreeSet::new();
        let mut choices: BTreeSet<VarId> = BTreeSet::new();
        // Whether every row that can change goes where its own decision goes.
        let mut follows = true;
        for &row in &rows {
            match graph.bags.rows[row as usize].key {
                Key::Of(var, map) if self.touched.is_free(var) => {
                    maps.insert(map);
                    choices.insert(self.supports.head(var));
                }
                Key::Of(_, _) | Key::Const(_) | Key::Expr(_) => follows = false,
            }
        }
        let all = graph.bags.bag[name.0 as usize].parts.get(name.1 as usize);
        let fixed: Vec<u32> = all
            .into_iter()
            .flatten()
            .copied()
            .filter(|row| !self.touched.rows.contains(row))
            .collect();
        let only = maps.first().copied().filter(|_| maps.len() == 1 && follows);
        match only.filter(|&map| self.is_injective(map)) {
            Some(map) => {
                self.buckets_by_value(name, map, &asked, &fixed);
                self.join(&choices);
            }
            None => maps.into_iter().for_each(|map| self.image(map)),
        }
        self.cells(name.0, &asked, &rows, &fixed);
    }

    fn join(&mut self, choices: &BTreeSet<VarId>) {
        if let Some(&first) = choices.first() {
            choices
                .iter()
                .for_each(|&var| self.classes.unite(first, var));
        }
    }

    /// Values whose buckets have other limits, other contents or other names in policies are not alike.
    fn buckets_by_value(
        &mut self,
        (bag, part): (u32, u32),
        map: MapId,
        asked: &Asked,
        fixed: &[u32],
    ) {
        let graph = self.graph;
        let data = &graph.bags.bag[bag as usize];
        let domain = graph.maps[map.index()].domain.index();
        let key_of = |value: u32| u32::try_from(graph.image(map, value)).unwrap_or(NIL);
        self.classes.by_value.insert((bag, part), map);
        self.refine(domain, |value| match key_of(value) {
            key if asked.keys.contains(&key) => Val::from(key),
            _ => -1,
        });
        for keys in asked.lazies.values().flatten() {
            self.refine(domain, |value| Val::from(keys.contains(&key_of(value))));
        }
        if !asked.lazies.is_empty() {
            let width = data
                .key_constants
                .iter()
                .map(|row| row.len())
                .max()
                .unwrap_or(0);
            for index in 0..width as u8 {
                self.refine(domain, |value| {
                    let constant = data.key_constant(key_of(value), index);
                    constant.map_or(Val::MIN, Val::from)
                });
            }
        }
        for roots in asked.forms.values() {
            self.refine(domain, |value| {
                Val::from(roots.get(&key_of(value)).copied().unwrap_or(0))
            });
        }
        // What stays in a bucket, row by row.
        let mut contents: BTreeMap<u32, Vec<Vec<Val>>> = BTreeMap::new();
        for &row in fixed {
            let Some(key) = self.state.row_key(graph, row) else {
                continue;
            };
            let cells = graph.bags.cells_of(row).iter();
            let cells = if fixed.len() > FIXED_MAX {
                vec![Val::from(key)]
            } else {
                cells.map(|&cell| self.state.cell(graph, cell)).collect()
            };
            contents.entry(key).or_default().push(cells);
        }
        let mut ids: BTreeMap<Vec<Vec<Val>>, Val> = BTreeMap::new();
        let mut id_of: BTreeMap<u32, Val> = BTreeMap::new();
        for (key, mut cells) in contents {
            cells.sort_unstable();
            let next = ids.len() as Val;
            id_of.insert(key, *ids.entry(cells).or_insert(next));
        }
        self.refine(domain, |value| {
            id_of.get(&key_of(value)).copied().unwrap_or(-1)
        });
    }

    /// What the cells of rows say of values.
    fn cells(&mut self, bag: u32, asked: &Asked, rows: &[u32], fixed: &[u32]) {
        let graph = self.graph;
        for index in 0..graph.bags.bag[bag as usize].cells {
            let read = |fold: &Fold| match *fold {
                Fold::CountRows => false,
                Fold::Count(cell)
                | Fold::Sum(cell)
                | Fold::Min(cell)
                | Fold::Max(cell)
                | Fold::CountDistinct(cell) => cell == index,
            };
            let folds: Vec<Fold> = asked.folds.iter().copied().filter(read).collect();
            if folds.is_empty() {
                continue;
            }
            let cell = |row: u32| graph.bags.cells_of(row)[index as usize];
            let mut maps: BTreeSet<MapId> = BTreeSet::new();
            let mut choices: BTreeSet<VarId> = BTreeSet::new();
            let mut pure = folds == [Fold::CountDistinct(index)];
            for &row in rows {
                match cell(row) {
                    Cell::Lookup { var, map, times } if self.touched.is_free(var) => {
                        maps.insert(map);
                        choices.insert(self.supports.head(var));
                        pure &= times == 1;
                    }
                    Cell::Const(None) => {}
                    Cell::Lookup { .. } | Cell::Const(Some(_)) | Cell::Expr(_) => pure = false,
                }
            }
            let only = maps.first().copied().filter(|_| maps.len() == 1 && pure);
            match only.filter(|&map| self.is_injective(map)) {
                Some(map) => {
                    // Only whether they are the same matters, among each other and with what stays.
                    let values = fixed.iter().map(|&row| self.state.cell(graph, cell(row)));
                    let values: BTreeSet<Val> = values.collect();
                    let domain = graph.maps[map.index()].domain.index();
                    self.refine(domain, |value| {
                        let image = Val::from(graph.image(map, value));
                        if values.contains(&image) {
                            image
                        } else {
                            Val::MIN
                        }
                    });
                    self.join(&choices);
                }
                None => maps.into_iter().for_each(|map| self.image(map)),
            }
        }
    }
}

fn fold_code(fold: Fold) -> [u32; 3] {
    let (code, cell) = match fold {
        Fold::CountRows => (0, 0),
        Fold::Count(cell) => (1, cell),
        Fold::Sum(cell) => (2, cell),
        Fold::Min(cell) => (3, cell),
        Fold::Max(cell) => (4, cell),
        Fold::CountDistinct(cell) => (5, cell),
    };
    [u32::MAX - 1, code, u32::from(cell)]
}
