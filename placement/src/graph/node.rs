//! The hash-consed expression nodes and who depends on whom.
//!
//! Equal expressions are one node. A node is *active* while something that is maintained incrementally reads it: a
//! root, a conditional row, or another active node; only then has it edges from its operands, and a value in the
//! state. The boolean structure of a hard root is read by the root itself, so it costs nothing while it is inactive.

use super::expr::{Agg, CmpOp, Expr};
use super::hash::FxMap;
use super::ids::{ExprId, MapId, SetId, VarId};
use super::model::{ModelError, narrow_one};
use super::value::{NULL_64, Val, widen};

/// End of a list.
pub(crate) const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// `a`, `b`: the low and the high half.
    Const,
    /// `a`: variable, `b`: map.
    Lookup,
    Neg,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Cmp(CmpOp),
    /// `a`: operand list.
    And,
    /// `a`: operand list.
    Or,
    Not,
    IsNull,
    /// `a`: condition, `b`: then, `c`: otherwise.
    Ite,
    /// `a`: operand, `b`: set.
    InSet,
    /// `a`: index into `aggs`.
    Agg,
    /// A collected node.
    Free,
}

impl Op {
    /// A number for each operator.
    pub(crate) fn code(self) -> u32 {
        match self {
            Op::Const => 0,
            Op::Lookup => 1,
            Op::Neg => 2,
            Op::Add => 3,
            Op::Sub => 4,
            Op::Mul => 5,
            Op::Div => 6,
            Op::Rem => 7,
            Op::And => 8,
            Op::Or => 9,
            Op::Not => 10,
            Op::IsNull => 11,
            Op::Ite => 12,
            Op::InSet => 13,
            Op::Agg => 14,
            Op::Free => 15,
            Op::Cmp(op) => 16 + op as u32,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub op: Op,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// Greater than the level of every operand.
    pub level: u32,
    /// Nodes, rows and roots that name this node.
    pub uses: u32,
    /// Edges that leave it; the node is active while there are any.
    pub live: u32,
    /// One more than the latest bag that it folds, directly or not.
    pub stratum: u32,
}

/// Who must be told when a node changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependent {
    Node(u32),
    Root(u32),
    Row(u32),
}

impl Dependent {
    const SHIFT: u32 = 30;

    fn pack(self) -> u32 {
        match self {
            Dependent::Node(n) => n,
            Dependent::Root(r) => (1 << Self::SHIFT) | r,
            Dependent::Row(r) => (2 << Self::SHIFT) | r,
        }
    }

    fn unpack(packed: u32) -> Dependent {
        let index = packed & ((1 << Self::SHIFT) - 1);
        match packed >> Self::SHIFT {
            0 => Dependent::Node(index),
            1 => Dependent::Root(index),
            _ => Dependent::Row(index),
        }
    }
}

/// Singly linked lists in one pool: most lists have one or two entries, and deltas add and drop entries all the time.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    pool: Vec<(u32, u32)>,
    free: u32,
}

impl Default for Lists {
    fn default() -> Lists {
        Lists {
            pool: Vec::new(),
            free: NIL,
        }
    }
}

impl Lists {
    pub(crate) fn push(&mut self, head: &mut u32, item: u32) {
        let cell = (item, *head);
        if self.free == NIL {
            *head = self.pool.len() as u32;
            self.pool.push(cell);
        } else {
            *head = self.free;
            self.free = self.pool[self.free as usize].1;
            self.pool[*head as usize] = cell;
        }
    }

    /// Drops one entry equal to `item`.
    pub(crate) fn remove(&mut self, head: &mut u32, item: u32) {
        let mut previous = NIL;
        let mut at = *head;
        while at != NIL {
            let (found, next) = self.pool[at as usize];
            if found == item {
                if previous == NIL {
                    *head = next;
                } else {
                    self.pool[previous as usize].1 = next;
                }
                self.pool[at as usize].1 = self.free;
                self.free = at;
                return;
            }
            previous = at;
            at = next;
        }
    }

    #[inline]
    pub(crate) fn iter(&self, head: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = head;
        std::iter::from_fn(move || {
            if at == NIL {
                return None;
            }
            let (item, next) = self.pool[at as usize];
            at = next;
            Some(item)
        })
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    pub node: Vec<Node>,
    pub aggs: Vec<Agg>,
    lists: Vec<Box<[u32]>>,
    list_ids: FxMap<Box<[u32]>, u32>,
    agg_ids: FxMap<Agg, u32>,
    ids: FxMap<(Op, u32, u32, u32), u32>,
    links: Lists,
    heads: Vec<u32>,
    /// Active lookups of each variable.
    var_lookups: Vec<u32>,
    /// Lookup nodes that exist for each variable, active or not.
    var_uses: Vec<u32>,
    free: Vec<u32>,
    /// Nodes whose last use went away; collected at the next refresh if nothing took them up again.
    unused: Vec<u32>,
    pub level_max: u32,
}

impl Nodes {
    pub(crate) fn add_var(&mut self) {
        self.var_lookups.push(NIL);
        self.var_uses.push(0);
    }

    pub(crate) fn var_in_use(&self, var: VarId) -> bool {
        self.var_uses[var.index()] > 0
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Node {
        self.node[id as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.node.len()
    }

    /// Nodes that are in use.
    pub(crate) fn count(&self) -> u64 {
        (self.node.len() - self.free.len()) as u64
    }

    pub(crate) fn operands(&self, list: u32) -> &[u32] {
        &self.lists[list as usize]
    }

    pub(crate) fn constant(&self, id: u32) -> Option<Val> {
        let node = self.get(id);
        (node.op == Op::Const).then(|| widen(constant_of(node)))
    }

    /// Calls back for each operand.
    pub(crate) fn for_operands(&self, id: u32, mut visit: impl FnMut(u32)) {
        let node = self.get(id);
        match node.op {
            Op::Const | Op::Lookup | Op::Agg | Op::Free => {}
            Op::Neg | Op::Not | Op::IsNull | Op::InSet => visit(node.a),
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem | Op::Cmp(_) => {
                visit(node.a);
                visit(node.b);
            }
            Op::Ite => {
                visit(node.a);
                visit(node.b);
                visit(node.c);
            }
            Op::And | Op::Or => self
                .operands(node.a)
                .iter()
                .for_each(|&operand| visit(operand)),
        }
    }

    #[inline]
    pub(crate) fn dependents(&self, id: u32) -> impl Iterator<Item = Dependent> + '_ {
        self.links
            .iter(self.heads[id as usize])
            .map(Dependent::unpack)
    }

    pub(crate) fn lookups(&self, var: VarId) -> impl Iterator<Item = u32> + '_ {
        self.links.iter(self.var_lookups[var.index()])
    }

    pub(crate) fn add_dependent(&mut self, id: u32, dependent: Dependent) {
        self.links
            .push(&mut self.heads[id as usize], dependent.pack());
        self.node[id as usize].live += 1;
    }

    pub(crate) fn remove_dependent(&mut self, id: u32, dependent: Dependent) {
        self.links
            .remove(&mut self.heads[id as usize], dependent.pack());
        self.node[id as usize].live -= 1;
    }

    pub(crate) fn add_lookup_edge(&mut self, id: u32) {
        let var = self.get(id).a as usize;
        self.links.push(&mut self.var_lookups[var], id);
    }

    pub(crate) fn remove_lookup_edge(&mut self, id: u32) {
        let var = self.get(id).a as usize;
        self.links.remove(&mut self.var_lookups[var], id);
    }

    pub(crate) fn acquire(&mut self, id: u32) {
        self.node[id as usize].uses += 1;
    }

    pub(crate) fn release(&mut self, id: u32) {
        let node = &mut self.node[id as usize];
        node.uses -= 1;
        if node.uses == 0 {
            self.unused.push(id);
        }
    }

    /// Frees nodes that nothing has named since their last use went away.
    pub(crate) fn collect(&mut self) {
        while let Some(id) = self.unused.pop() {
            let node = self.get(id);
            if node.uses > 0 || node.op == Op::Free {
                continue;
            }
            debug_assert_eq!(node.live, 0);
            self.ids.remove(&(node.op, node.a, node.b, node.c));
            if node.op == Op::Lookup {
                self.var_uses[node.a as usize] -= 1;
            }
            let mut operands = Vec::new();
            self.for_operands(id, |operand| operands.push(operand));
            self.node[id as usize].op = Op::Free;
            self.free.push(id);
            for operand in operands {
                self.release(operand);
            }
        }
    }

    fn intern(&mut self, op: Op, a: u32, b: u32, c: u32, level: u32) -> ExprId {
        if let Some(&id) = self.ids.get(&(op, a, b, c)) {
            return ExprId(id);
        }
        let node = Node {
            op,
            a,
            b,
            c,
            level,
            uses: 0,
            live: 0,
            stratum: 0,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.node[id as usize] = node;
                self.heads[id as usize] = NIL;
                id
            }
            None => {
                self.node.push(node);
                self.heads.push(NIL);
                self.node.len() as u32 - 1
            }
        };
        self.ids.insert((op, a, b, c), id);
        self.level_max = self.level_max.max(level);
        let mut operands = Vec::new();
        self.for_operands(id, |operand| operands.push(operand));
        let mut stratum = if op == Op::Agg {
            self.aggs[a as usize].bag.0 + 1
        } else {
            0
        };
        for operand in operands {
            self.acquire(operand);
            stratum = stratum.max(self.get(operand).stratum);
        }
        self.node[id as usize].stratum = stratum;
        if op == Op::Lookup {
            self.var_uses[a as usize] += 1;
        }
        // Nobody names it yet: a builder that changes its mind leaves garbage for the next collection.
        self.unused.push(id);
        ExprId(id)
    }

    pub(crate) fn intern_const(&mut self, value: i64) -> ExprId {
        let bits = value as u64;
        self.intern(Op::Const, bits as u32, (bits >> 32) as u32, 0, 0)
    }

    fn intern_list(&mut self, operands: Vec<u32>) -> u32 {
        let operands: Box<[u32]> = operands.into();
        if let Some(&id) = self.list_ids.get(&operands) {
            return id;
        }
        let id = self.lists.len() as u32;
        self.lists.push(operands.clone());
        self.list_ids.insert(operands, id);
        id
    }

    fn level(&self, id: ExprId) -> u32 {
        self.node[id.index()].level
    }

    fn binary(&mut self, op: Op, a: ExprId, b: ExprId) -> ExprId {
        let level = 1 + self.level(a).max(self.level(b));
        self.intern(op, a.0, b.0, 0, level)
    }

    fn unary(&mut self, op: Op, a: ExprId, b: u32) -> ExprId {
        let level = 1 + self.level(a);
        self.intern(op, a.0, b, 0, level)
    }

    /// Interns an expression whose operands exist. `agg_level` is the level of the bag that it folds, if it does.
    pub(crate) fn add(&mut self, expr: Expr, agg_level: u32) -> Result<ExprId, ModelError> {
        Ok(match expr {
            Expr::Const(value) => {
                let value = narrow_one(value)?;
                self.intern_const(value)
            }
            Expr::Lookup { var, map } => self.intern(Op::Lookup, var.0, map.0, 0, 0),
            Expr::Neg(a) => self.unary(Op::Neg, a, 0),
            Expr::Add(a, b) => self.binary(Op::Add, a, b),
            Expr::Sub(a, b) => self.binary(Op::Sub, a, b),
            Expr::Mul(a, b) => self.binary(Op::Mul, a, b),
            Expr::Div(a, b) => self.binary(Op::Div, a, b),
            Expr::Rem(a, b) => self.binary(Op::Rem, a, b),
            Expr::Cmp(op, a, b) => self.binary(Op::Cmp(op), a, b),
            Expr::Not(a) => self.unary(Op::Not, a, 0),
            Expr::IsNull(a) => self.unary(Op::IsNull, a, 0),
            Expr::InSet(a, SetId(set)) => self.unary(Op::InSet, a, set),
            Expr::And(operands) => self.junction(Op::And, operands),
            Expr::Or(operands) => self.junction(Op::Or, operands),
            Expr::Ite {
                cond,
                then,
                otherwise,
            } => {
                let level = 1 + self
                    .level(cond)
                    .max(self.level(then))
                    .max(self.level(otherwise));
                self.intern(Op::Ite, cond.0, then.0, otherwise.0, level)
            }
            Expr::Agg(agg) => {
                let index = match self.agg_ids.get(&agg) {
                    Some(&index) => index,
                    None => {
                        let index = self.aggs.len() as u32;
                        self.aggs.push(agg);
                        self.agg_ids.insert(agg, index);
                        index
                    }
                };
                self.intern(Op::Agg, index, 0, 0, agg_level)
            }
        })
    }

    fn junction(&mut self, op: Op, operands: Vec<ExprId>) -> ExprId {
        let level = 1 + operands.iter().map(|&id| self.level(id)).max().unwrap_or(0);
        let list = self.intern_list(operands.into_iter().map(|id| id.0).collect());
        self.intern(op, list, 0, 0, level)
    }

    /// The map and the variable of a lookup.
    pub(crate) fn lookup(&self, id: u32) -> Option<(VarId, MapId)> {
        let node = self.get(id);
        (node.op == Op::Lookup).then_some((VarId(node.a), MapId(node.b)))
    }
}

/// The constant of a `Const` node; [`NULL_64`] is NULL.
pub(crate) fn constant_of(node: Node) -> i64 {
    debug_assert_eq!(node.op, Op::Const);
    let value = (u64::from(node.b) << 32 | u64::from(node.a)) as i64;
    debug_assert!(value == NULL_64 || value != i64::MIN);
    value
}
