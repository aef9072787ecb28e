//! Which values each decision in scope may take, once the policies about it alone are folded in.
//!
//! "The node is up", "in the home region", "on an SSD" are hard rows over one decision. The search never tries a value
//! that breaks one, and pays for that once per distinct set of such rows, not once per replica.

use std::sync::Arc;

use crate::graph::internal::{FxMap, Graph, NIL, NULL, Op, RootKind, UNSET, Val, is_true};
use crate::graph::internal::{in_set, widen};
use crate::graph::value as arithmetic;
use crate::graph::{Nullable, VarId};

/// The decisions in scope and their values.
///
/// Invariant: `local[v]` is the position of `v` in `vars`, or [`NIL`].
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    pub vars: Vec<VarId>,
    local: Vec<u32>,
    set: Vec<u32>,
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
            local,
            set: Vec::with_capacity(vars.len()),
            sets: Vec::new(),
            unary: Vec::with_capacity(vars.len()),
            vars: Vec::new(),
        };
        let mut known: FxMap<Vec<u32>, u32> = FxMap::default();
        for &var in &vars {
            let roots = match fold {
                Unary::Folded => unary_roots(graph, var),
                Unary::Kept => Vec::new(),
            };
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
        all
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

    /// How many (variable, value) pairs there are.
    pub(crate) fn size(&self) -> usize {
        self.vars.iter().map(|&var| self.of(var).len()).sum()
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

/// The hard roots that depend on this variable and nothing else.
fn unary_roots(graph: &Graph, var: VarId) -> Vec<u32> {
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
    roots.retain(|&root| {
        let data = &graph.roots.root[root as usize];
        data.kind == RootKind::Hard && is_unary(graph, data.expr.0)
    });
    roots
}

/// Whether an expression looks up one variable (the caller knows which) and folds nothing.
fn is_unary(graph: &Graph, root: u32) -> bool {
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
fn sign(graph: &Graph, id: u32, signature: &mut Vec<u32>) {
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
