//! Which values each decision in scope may take, once the policies about it alone are folded in.
//!
//! "The node is up", "in the home region", "on an SSD" are hard rows over one decision. The search never tries a value
//! that breaks one, and pays for that once per distinct set of such rows, not once per replica. Hard rows that make
//! decisions equal are folded in as well: see [`super::ties`].

use std::sync::Arc;

use super::ties::{Finder, Group, Ties};
use crate::graph::internal::{FxMap, Graph, NIL, NULL, Op, RootKind, UNSET, Val, is_true};
use crate::graph::internal::{in_set, widen};
use crate::graph::value as arithmetic;
use crate::graph::{Nullable, VarId};

/// The decisions in scope and their values.
///
/// Invariants: `local[v]` is the position of `v` in `vars`, or [`NIL`]; the members of a group have one set.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    pub vars: Vec<VarId>,
    /// One decision for each group of equal ones, and all others: what there is to choose.
    pub choices: Vec<VarId>,
    pub ties: Ties,
    local: Vec<u32>,
    set: Vec<u32>,
    /// The sets before groups were contracted.
    own_set: Vec<u32>,
    sets: Vec<Arc<[u32]>>,
    /// Hard roots over one variable, by position; the reason of an empty set.
    unary: Vec<Vec<u32>>,
}

/// What becomes of hard rows over one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    /// They shrink the candidate set.
    Folded,
    /// They stay rows: a core must be able to name them.
    Kept,
}

impl Candidates {
    /// Folds the unary hard roots of each variable in scope into its candidate set.
    pub(crate) fn new(graph: &Graph, vars: Vec<VarId>, fold: Unary) -> Candidates {
        let mut local = vec![NIL; graph.vars.alive.len()];
        for (position, var) in vars.iter().enumerate() {
            local[var.index()] = position as u32;
        }
        let mut all = Candidates {
            choices: Vec::new(),
            ties: Ties::default(),
            local,
            set: Vec::with_capacity(vars.len()),
            own_set: Vec::new(),
            sets: Vec::new(),
            unary: Vec::with_capacity(vars.len()),
            vars: Vec::new(),
        };
        let mut known: FxMap<Vec<u32>, u32> = FxMap::default();
        let mut joint: Vec<Vec<u32>> = Vec::new();
        for &var in &vars {
            let mut roots = match fold {
                Unary::Folded => hard_roots(graph, var),
                Unary::Kept => Vec::new(),
            };
            let mut several = Vec::new();
            roots.retain(|&root| {
                let unary = is_unary(graph, graph.roots.root[root as usize].expr.0);
                if !unary {
                    several.push(root);
                }
                unary
            });
            joint.push(several);
            let mut signature = vec![
                graph.vars.domain[var.index()].index() as u32,
                graph.vars.allowed[var.index()],
            ];
            signature.push(u32::from(graph.vars.nullable[var.index()] == Nullable::Yes));
            for &root in &roots {
                sign(
                    graph,
                    graph.roots.root[root as usize].expr.0,
                    &mut signature,
                );
            }
            let set = match known.get(&signature) {
                Some(&set) => set,
                None => {
                    let set = all.sets.len() as u32;
                    all.sets.push(permitted(graph, var, &roots).into());
                    known.insert(signature, set);
                    set
                }
            };
            all.set.push(set);
            all.unary.push(roots);
        }
        all.vars = vars;
        all.own_set = all.set.clone();
        all.choices = all.vars.clone();
        if fold == Unary::Folded {
            all.tie(graph, &joint);
        }
        all
    }

    /// Contracts what hard rows make equal; `joint` are the hard rows over several decisions, by position.
    fn tie(&mut self, graph: &Graph, joint: &[Vec<u32>]) {
        let (groups, slots) = {
            let is_free = |var| self.is_free(var);
            let mut finder = Finder::new(graph, &is_free);
            for (&var, roots) in self.vars.iter().zip(joint) {
                finder.visit(var, roots);
            }
            finder.finish()
        };
        for group in groups {
            self.contract(group);
        }
        slots.enter(&mut self.ties);
        if self.ties.has_groups() {
            let ties = &self.ties;
            self.choices.retain(|&var| ties.head(var) == var);
        }
    }

    /// Gives a group the values that all of its members may have. A group that has none stays apart: what is wrong with
    /// it is for the search and the core to tell.
    fn contract(&mut self, group: Group) {
        let members: Vec<VarId> = group.members.into_iter().collect();
        let mut values = self.of(members[0]).to_vec();
        for &member in &members[1..] {
            values.retain(|&value| self.permits(member, value));
        }
        if !group.fixed.is_empty() {
            values.retain(|value| group.fixed.len() == 1 && group.fixed.contains(value));
        }
        if values.is_empty() {
            return;
        }
        let same = members.iter().find(|&&m| self.of(m) == values.as_slice());
        let set = match same {
            Some(&member) => self.set_id(member),
            None => {
                self.sets.push(values.into());
                self.sets.len() as u32 - 1
            }
        };
        for &member in &members {
            let position = self.position(member);
            self.set[position] = set;
        }
        if members.len() > 1 {
            self.ties.add_group(members);
        }
    }

    /// The same decisions, each for itself; `None` where nothing was contracted.
    pub(crate) fn untied(&self) -> Option<Candidates> {
        (self.set != self.own_set || self.ties.has_groups()).then(|| Candidates {
            choices: self.vars.clone(),
            ties: Ties::default(),
            set: self.own_set.clone(),
            ..self.clone()
        })
    }

    /// The same decisions with fewer values each; `keep` says which.
    pub(crate) fn narrowed(&self, keep: impl Fn(VarId, u32) -> bool) -> Candidates {
        let mut narrow = self.clone();
        let mut known: FxMap<Vec<u32>, u32> = FxMap::default();
        for (position, &var) in self.vars.iter().enumerate() {
            let all = self.of(var).iter().copied();
            let values: Vec<u32> = all.filter(|&value| keep(var, value)).collect();
            let next = narrow.sets.len() as u32;
            let set = *known.entry(values.clone()).or_insert(next);
            if set == next {
                narrow.sets.push(values.into());
            }
            narrow.set[position] = set;
        }
        narrow.own_set = narrow.set.clone();
        narrow
    }

    /// Sorted; [`UNSET`] last, where the decision may be NULL.
    #[inline]
    pub(crate) fn of(&self, var: VarId) -> &[u32] {
        match self.local[var.index()] {
            NIL => &[],
            position => &self.sets[self.set[position as usize] as usize],
        }
    }

    #[inline]
    pub(crate) fn permits(&self, var: VarId, value: u32) -> bool {
        self.of(var).binary_search(&value).is_ok()
    }

    #[inline]
    pub(crate) fn is_free(&self, var: VarId) -> bool {
        self.local[var.index()] != NIL
    }

    /// The values of a candidate set.
    pub(crate) fn set(&self, id: u32) -> &[u32] {
        &self.sets[id as usize]
    }

    /// Position of a variable in scope.
    #[inline]
    pub(crate) fn position(&self, var: VarId) -> usize {
        self.local[var.index()] as usize
    }

    /// Number of the variable's candidate set: variables with equal sets share it.
    #[inline]
    pub(crate) fn set_id(&self, var: VarId) -> u32 {
        self.set[self.position(var)]
    }

    /// The hard roots over this variable alone.
    pub(crate) fn unary_roots(&self, var: VarId) -> &[u32] {
        &self.unary[self.position(var)]
    }

    /// How many pairs of a choice and a value there are.
    pub(crate) fn size(&self) -> usize {
        self.choices.iter().map(|&var| self.of(var).len()).sum()
    }
}

/// The values that the declaration and the given roots allow.
fn permitted(graph: &Graph, var: VarId, roots: &[u32]) -> Vec<u32> {
    let domain = &graph.domains[graph.vars.domain[var.index()].index()];
    let mut values: Vec<u32> = match graph.vars.allowed[var.index()] {
        UNSET => (0..domain.len).collect(),
        set => graph.value_sets[set as usize].to_vec(),
    };
    if graph.vars.nullable[var.index()] == Nullable::Yes {
        values.push(UNSET);
    }
    values.retain(|&value| {
        graph.permits(var, value)
            && roots
                .iter()
                .all(|&root| value_at(graph, graph.roots.root[root as usize].expr.0, value) != 0)
    });
    values
}

/// The hard roots that look this variable up, not counting those that fold it.
fn hard_roots(graph: &Graph, var: VarId) -> Vec<u32> {
    use crate::graph::internal::Dependent;
    let mut roots = Vec::new();
    let mut stack: Vec<u32> = graph.nodes.lookups(var).collect();
    let mut seen = stack.clone();
    while let Some(id) = stack.pop() {
        for dependent in graph.nodes.dependents(id) {
            match dependent {
                Dependent::Node(parent) => {
                    if !seen.contains(&parent) {
                        seen.push(parent);
                        stack.push(parent);
                    }
                }
                Dependent::Root(root) => roots.push(root),
                Dependent::Row(_) => {}
            }
        }
    }
    roots.sort_unstable();
    roots.dedup();
    roots.retain(|&root| graph.roots.root[root as usize].kind == RootKind::Hard);
    roots
}

/// Whether an expression looks up one variable (the caller knows which) and folds nothing.
pub(crate) fn is_unary(graph: &Graph, root: u32) -> bool {
    let mut stack = vec![root];
    let mut only = None;
    while let Some(id) = stack.pop() {
        let node = graph.nodes.get(id);
        let another = node.op == Op::Lookup && *only.get_or_insert(node.a) != node.a;
        if node.op == Op::Agg || another {
            return false;
        }
        graph.nodes.for_operands(id, |operand| stack.push(operand));
    }
    only.is_some()
}

/// Writes an expression down without saying which variable it is about.
pub(crate) fn sign(graph: &Graph, id: u32, signature: &mut Vec<u32>) {
    let node = graph.nodes.get(id);
    if node.op == Op::Lookup {
        signature.extend([u32::MAX, node.b]);
        return;
    }
    // A subexpression without the variable is one node for all, so its number says everything.
    let mut mentions = false;
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        mentions |= graph.nodes.get(id).op == Op::Lookup;
        graph.nodes.for_operands(id, |operand| stack.push(operand));
    }
    if !mentions {
        signature.push(id);
        return;
    }
    signature.push(node.op.code());
    if node.op == Op::InSet {
        signature.push(node.b);
    }
    let mut operands = Vec::new();
    graph
        .nodes
        .for_operands(id, |operand| operands.push(operand));
    signature.push(operands.len() as u32);
    for operand in operands {
        sign(graph, operand, signature);
    }
}

/// The value of an expression over one variable, at a value of that variable.
pub(crate) fn value_at(graph: &Graph, id: u32, value: u32) -> Val {
    let node = graph.nodes.get(id);
    let of = |operand: u32| value_at(graph, operand, value);
    match node.op {
        Op::Const => graph.nodes.constant(id).unwrap_or(NULL),
        Op::Agg | Op::Free => NULL,
        Op::Lookup => match value {
            UNSET => NULL,
            value => widen(graph.maps[node.b as usize].image[value as usize]),
        },
        Op::Neg => arithmetic::neg(of(node.a)),
        Op::Add => arithmetic::add(of(node.a), of(node.b)),
        Op::Sub => arithmetic::sub(of(node.a), of(node.b)),
        Op::Mul => arithmetic::mul(of(node.a), of(node.b)),
        Op::Div => arithmetic::div(of(node.a), of(node.b)),
        Op::Rem => arithmetic::rem(of(node.a), of(node.b)),
        Op::Cmp(op) => arithmetic::cmp(op, of(node.a), of(node.b)),
        Op::And => arithmetic::and(graph.nodes.operands(node.a).iter().map(|&o| of(o))),
        Op::Or => arithmetic::or(graph.nodes.operands(node.a).iter().map(|&o| of(o))),
        Op::Not => arithmetic::not(of(node.a)),
        Op::IsNull => arithmetic::is_null(of(node.a)),
        Op::Ite => {
            if is_true(of(node.a)) {
                of(node.b)
            } else {
                of(node.c)
            }
        }
        Op::InSet => in_set(&graph.sets[node.b as usize], of(node.a)),
    }
}
