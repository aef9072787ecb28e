//! Decisions that hard policies join: equal ones are one choice, a leader chooses among the places of its replicas.
//!
//! A co-location group of forty replicas has one place, not forty. While its members are decisions of their own, no
//! move of a single one is ever right, and every solver pays for finding that out; contracted, the group is one
//! variable, whose values are those that all members may have. A leader that must stand on one of its replicas has
//! not a thousand nodes to choose from but three slots, and follows when the replica that it stands on goes
//! elsewhere.
//!
//! This is presolve: it is made for a scope and forgotten afterwards. The model keeps every decision and every policy
//! row, so plans, explanations and answers speak of rows of the state, and nothing here has to be right for an answer
//! to be checked. A core is found in the model without it, where the rows that tie are rows like others.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::internal::{FxMap, Graph, Key, NIL, NULL, Op, RootKind, UNSET};
use crate::graph::{Cell, CmpOp, Fold, MapId, Nullable, Template, VarId};

/// What joins the decisions of a scope.
///
/// Invariant: `heads` and `groups` know exactly the members of groups of two and more; the head is its group's first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ties {
    heads: FxMap<u32, VarId>,
    groups: FxMap<u32, Vec<VarId>>,
    /// The decisions on one of whose values another must stand.
    slots: FxMap<u32, Vec<VarId>>,
    /// The inverse: who stands among the slots that a decision is.
    seated: FxMap<u32, Vec<VarId>>,
}

/// A group as it is found: what is free of it, and the values of what is not.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub members: BTreeSet<VarId>,
    pub fixed: BTreeSet<u32>,
}

impl Ties {
    /// Whether nothing is joined.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.slots.is_empty()
    }

    /// Whether decisions were contracted.
    pub(crate) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The decision that stands for a variable's group.
    #[inline]
    pub(crate) fn head(&self, var: VarId) -> VarId {
        self.heads.get(&var.0).copied().unwrap_or(var)
    }

    /// The members of a variable's group; nobody, where it has none.
    #[inline]
    pub(crate) fn members(&self, var: VarId) -> &[VarId] {
        self.groups
            .get(&self.head(var).0)
            .map_or(&[], Vec::as_slice)
    }

    /// The slots that a decision chooses among.
    #[inline]
    pub(crate) fn slots(&self, var: VarId) -> &[VarId] {
        self.slots.get(&var.0).map_or(&[], Vec::as_slice)
    }

    /// The decisions that choose among slots of which this is one.
    #[inline]
    pub(crate) fn seated(&self, var: VarId) -> &[VarId] {
        self.seated.get(&var.0).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add_group(&mut self, members: Vec<VarId>) {
        let head = members[0];
        for &member in &members {
            self.heads.insert(member.0, head);
        }
        self.groups.insert(head.0, members);
    }

    fn add_slots(&mut self, var: VarId, slots: Vec<VarId>) {
        for &slot in &slots {
            self.seated.entry(slot.0).or_default().push(var);
        }
        self.slots.insert(var.0, slots);
    }
}

/// Finds what joins the decisions of a scope.
pub(super) struct Finder<'a> {
    graph: &'a Graph,
    is_free: &'a dyn Fn(VarId) -> bool,
    parent: BTreeMap<VarId, VarId>,
    injective: FxMap<u32, bool>,
    met_roots: BTreeSet<u32>,
    met_parts: BTreeSet<(u32, u32, u32, u8)>,
    slots: BTreeMap<VarId, Vec<VarId>>,
}

/// Two lookups of one column that are to be equal.
#[derive(Clone, Copy)]
struct Equality {
    a: VarId,
    b: VarId,
    map: MapId,
}

impl Equality {
    /// The other side of an equality about `var`.
    fn beside(self, var: VarId) -> Option<VarId> {
        if self.a == var {
            Some(self.b)
        } else if self.b == var {
            Some(self.a)
        } else {
            None
        }
    }
}

impl<'a> Finder<'a> {
    pub(super) fn new(graph: &'a Graph, is_free: &'a dyn Fn(VarId) -> bool) -> Finder<'a> {
        Finder {
            graph,
            is_free,
            parent: BTreeMap::new(),
            injective: FxMap::default(),
            met_roots: BTreeSet::new(),
            met_parts: BTreeSet::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Looks at the hard roots above a variable, and at the parts that compare it with others.
    pub(super) fn visit(&mut self, var: VarId, roots: &[u32]) {
        if self.graph.vars.nullable[var.index()] == Nullable::Yes {
            return;
        }
        for &root in roots {
            if self.met_roots.insert(root) {
                let mut wanted = Vec::new();
                let expr = self.graph.roots.root[root as usize].expr.0;
                equalities(self.graph, expr, &mut wanted);
                for one_of in wanted {
                    self.note(&one_of);
                }
            }
        }
        for row in self.graph.bags.rows_of(var) {
            self.visit_row(row);
        }
    }

    /// One of these equalities must hold.
    fn note(&mut self, one_of: &[Equality]) {
        let usable = |this: &mut Self, e: &Equality| {
            let vars = &this.graph.vars;
            e.a != e.b
                && vars.nullable[e.a.index()] == Nullable::No
                && vars.nullable[e.b.index()] == Nullable::No
                && this.is_injective(e.map)
        };
        if !one_of.iter().all(|e| usable(self, e)) {
            return;
        }
        match one_of {
            [] => {}
            [only] => self.unite(only.a, only.b),
            [first, ..] => {
                let common = [first.a, first.b]
                    .into_iter()
                    .find(|&var| one_of.iter().all(|e| e.beside(var).is_some()));
                let Some(var) = common.filter(|&var| (self.is_free)(var)) else {
                    return;
                };
                let mut slots: Vec<VarId> = one_of.iter().filter_map(|e| e.beside(var)).collect();
                slots.sort_unstable();
                slots.dedup();
                // Of two such rows the narrower says more.
                let known = self.slots.entry(var).or_insert_with(|| slots.clone());
                if slots.len() < known.len() {
                    *known = slots;
                }
            }
        }
    }

    /// The rows of a part whose values must all be the same.
    fn visit_row(&mut self, row: u32) {
        let graph = self.graph;
        let data = &graph.bags.rows[row as usize];
        let bag = &graph.bags.bag[data.bag as usize];
        let Key::Const(key) = data.key else { return };
        for (index, needs) in bag.needs.iter().enumerate() {
            let cell = index as u8;
            let Cell::Lookup { map, .. } = graph.bags.cells_of(row)[index] else {
                continue;
            };
            if !needs.distinct || !self.met_parts.insert((data.bag, data.part, key, cell)) {
                continue;
            }
            if !(self.is_injective(map) && self.are_equal(data.bag, data.part, key, cell)) {
                continue;
            }
            let mut first: Option<VarId> = None;
            for &other in &bag.parts[data.part as usize] {
                let own = &graph.bags.rows[other as usize];
                let of = match graph.bags.cells_of(other)[index] {
                    Cell::Lookup { var, map: own, .. } if own == map => var,
                    Cell::Lookup { .. } | Cell::Const(_) | Cell::Expr(_) => continue,
                };
                let there = own.key == Key::Const(key) && own.cond == NIL;
                if !there || graph.vars.nullable[of.index()] == Nullable::Yes {
                    continue;
                }
                match first {
                    None => first = Some(of),
                    Some(first) => self.unite(first, of),
                }
            }
        }
    }

    /// Whether a hard row wants at most one distinct value of a bucket's cell.
    fn are_equal(&self, bag: u32, part: u32, key: u32, cell: u8) -> bool {
        let graph = self.graph;
        let data = &graph.bags.bag[bag as usize];
        let wanted = Fold::CountDistinct(cell);
        let by_template = data.lazies.iter().any(|lazy| {
            let lazy = &graph.bags.lazies[lazy.index()];
            lazy.kind == RootKind::Hard && template_wants_one(&lazy.template, wanted)
        });
        by_template
            || graph.folds_of(bag, part, key).any(|node| {
                let agg = graph.nodes.aggs[graph.nodes.get(node).a as usize];
                agg.fold == wanted
                    && agg.key == key
                    && graph
                        .nodes
                        .dependents(node)
                        .any(|dependent| match dependent {
                            crate::graph::internal::Dependent::Root(root) => {
                                let root = &graph.roots.root[root as usize];
                                root.kind == RootKind::Hard && wants_one(graph, root.expr.0, node)
                            }
                            crate::graph::internal::Dependent::Node(_)
                            | crate::graph::internal::Dependent::Row(_) => false,
                        })
            })
    }

    /// Whether no two values that may be chosen have the same entry in a column, and none has NULL.
    fn is_injective(&mut self, map: MapId) -> bool {
        let graph = self.graph;
        *self
            .injective
            .entry(map.0)
            .or_insert_with(|| is_injective(graph, map))
    }

    fn root_of(&mut self, var: VarId) -> VarId {
        let mut at = var;
        while let Some(&up) = self.parent.get(&at) {
            if up == at {
                break;
            }
            at = up;
        }
        at
    }

    fn unite(&mut self, a: VarId, b: VarId) {
        if self.graph.vars.domain[a.index()] != self.graph.vars.domain[b.index()] {
            return;
        }
        let (a, b) = (self.root_of(a), self.root_of(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parent.insert(low, low);
        self.parent.insert(high, low);
    }

    /// What was found: groups with at least one free member, and slots.
    pub(super) fn finish(mut self) -> (Vec<Group>, Slots) {
        let mut groups: BTreeMap<VarId, Group> = BTreeMap::new();
        for var in self.parent.keys().copied().collect::<Vec<_>>() {
            let root = self.root_of(var);
            let group = groups.entry(root).or_default();
            if (self.is_free)(var) {
                group.members.insert(var);
            } else {
                group.fixed.insert(self.graph.vars.current[var.index()]);
            }
        }
        let groups = groups.into_values().filter(|g| !g.members.is_empty());
        (groups.collect(), Slots(self.slots))
    }
}

/// Who chooses among which slots.
pub(super) struct Slots(BTreeMap<VarId, Vec<VarId>>);

impl Slots {
    /// Adds what is still a choice once groups are contracted.
    pub(super) fn enter(self, ties: &mut Ties) {
        for (var, slots) in self.0 {
            // A member of a group goes where its group goes.
            if ties.members(var).is_empty() && !slots.contains(&var) {
                ties.add_slots(var, slots);
            }
        }
    }
}

/// Whether no two values that may be chosen have the same entry in a column, and none has NULL.
pub(crate) fn is_injective(graph: &Graph, map: MapId) -> bool {
    let map = &graph.maps[map.index()];
    let retired = &graph.domains[map.domain.index()].retired;
    let live = map
        .image
        .iter()
        .zip(retired)
        .filter(|(_, retired)| !**retired);
    let mut images: Vec<i64> = live.map(|(&image, _)| image).collect();
    let count = images.len();
    images.sort_unstable();
    images.dedup();
    images.len() == count
        && images
            .iter()
            .all(|&image| crate::graph::internal::widen(image) != NULL)
}

/// The sets of equalities of each of which a hard row wants one: `a = b`, and `EXISTS (… a = b …)`.
fn equalities(graph: &Graph, id: u32, wanted: &mut Vec<Vec<Equality>>) {
    let node = graph.nodes.get(id);
    match node.op {
        Op::And => {
            for &operand in graph.nodes.operands(node.a) {
                equalities(graph, operand, wanted);
            }
        }
        // `IS TRUE`: what is wanted of the condition is more than of a row by itself.
        Op::Ite
            if graph.nodes.constant(node.b) == Some(1)
                && graph.nodes.constant(node.c) == Some(0) =>
        {
            equalities(graph, node.a, wanted);
        }
        Op::Cmp(CmpOp::Eq) => wanted.extend(equality(graph, id).map(|e| vec![e])),
        Op::Or => {
            let operands = graph.nodes.operands(node.a).iter();
            let all: Option<Vec<Equality>> = operands.map(|&o| equality(graph, o)).collect();
            wanted.extend(all);
        }
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
        | Op::Agg
        | Op::Free => {}
    }
}

fn equality(graph: &Graph, id: u32) -> Option<Equality> {
    let node = graph.nodes.get(id);
    if node.op != Op::Cmp(CmpOp::Eq) {
        return None;
    }
    let ((a, map), (b, same)) = (graph.nodes.lookup(node.a)?, graph.nodes.lookup(node.b)?);
    (map == same).then_some(Equality { a, b, map })
}

/// Whether a hard expression wants a fold to be at most 1.
fn wants_one(graph: &Graph, id: u32, fold: u32) -> bool {
    let node = graph.nodes.get(id);
    match node.op {
        Op::And => graph
            .nodes
            .operands(node.a)
            .iter()
            .any(|&operand| wants_one(graph, operand, fold)),
        Op::Cmp(op) => {
            let limit = graph.nodes.constant(node.b);
            node.a == fold
                && matches!(
                    (op, limit),
                    (CmpOp::Le | CmpOp::Eq, Some(1)) | (CmpOp::Lt, Some(2))
                )
        }
        Op::Const
        | Op::Lookup
        | Op::Neg
        | Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Rem
        | Op::Or
        | Op::Not
        | Op::IsNull
        | Op::Ite
        | Op::InSet
        | Op::Agg
        | Op::Free => false,
    }
}

/// The same of a template.
fn template_wants_one(template: &Template, fold: Fold) -> bool {
    match template {
        Template::And(all) => all.iter().any(|t| template_wants_one(t, fold)),
        Template::Cmp(op, a, b) => {
            **a == Template::Fold(fold)
                && matches!(
                    (op, &**b),
                    (CmpOp::Le | CmpOp::Eq, Template::Const(Some(1)))
                        | (CmpOp::Lt, Template::Const(Some(2)))
                )
        }
        Template::Fold(_)
        | Template::Part(_)
        | Template::Key(_)
        | Template::Const(_)
        | Template::Neg(_)
        | Template::Add(_, _)
        | Template::Sub(_, _)
        | Template::Mul(_, _)
        | Template::Div(_, _)
        | Template::Rem(_, _)
        | Template::Or(_)
        | Template::Not(_)
        | Template::IsNull(_)
        | Template::Ite(_, _, _)
        | Template::InSet(_, _) => false,
    }
}

/// The value that most members of a group have, of those that all may have; the least of equals.
pub(super) fn commonest(values: impl Iterator<Item = u32>, permitted: &[u32]) -> Option<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for value in values.filter(|&v| v != UNSET && permitted.binary_search(&v).is_ok()) {
        *counts.entry(value).or_default() += 1;
    }
    let best = counts
        .into_iter()
        .max_by_key(|&(value, count)| (count, std::cmp::Reverse(value)));
    best.map(|(value, _)| value)
}
