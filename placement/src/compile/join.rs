//! The joined rows of a block: nested loops over hash indexes, with decision joins factored into lookups.
//!
//! A source whose unique key equals a decision of the rows so far contributes no rows of its own: it is
//! *looked up*, and its cells are maps of the decision. Conditions on constants filter here and now; conditions
//! on decisions are gathered as the condition under which the joined row exists.

use super::Compiler;
use super::cells::{Cell, NodeRef};
use super::maps::{MapRef, Operand, Recipe};
use super::resolved::{Block, Expr, Node, Operator, RelationId};
use crate::dialect::ast::Infix;
use crate::error::{Error, ErrorKind, Result};
use crate::graph;
use crate::tables::Value;

/// The most joined rows of one block.
const MATCHES_MAX: usize = 8_000_000;
/// The most conditions of one block.
const CONDITIONS_MAX: usize = 128;

/// What a source of the block is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Unbound,
    /// A row: the slot of a mirror, or the number of a view's row.
    Row(u32),
    /// The row whose slot the map gives for the variable's value.
    Lookup {
        var: graph::VarId,
        slots: MapRef,
    },
}

/// A joined row and the condition under which it exists (`None`: always).
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub bound: Box<[Bound]>,
    pub condition: Option<NodeRef>,
}

impl Match {
    /// The rows joined, by source; `u32::MAX` for what a decision looks up.
    pub(crate) fn rows(&self) -> Box<[u32]> {
        let row = |bound: &Bound| match bound {
            Bound::Row(row) => *row,
            Bound::Lookup { .. } | Bound::Unbound => u32::MAX,
        };
        self.bound.iter().map(row).collect()
    }
}

/// The cells of a group, for expressions behind the fold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folded {
    pub keys: Vec<Cell>,
    pub aggregates: Vec<Cell>,
}

/// The rows in reach of an expression: its own block's, and those of the blocks around it.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub parent: Option<&'a Frame<'a>>,
    pub block: &'a Block,
    pub bound: &'a [Bound],
    pub folded: Option<&'a Folded>,
}

impl<'a> Frame<'a> {
    pub(crate) fn up(&self, level: u32) -> Option<&Frame<'a>> {
        let mut frame = self;
        for _ in 0..level {
            frame = frame.parent?;
        }
        Some(frame)
    }
}

/// Which part of a block is joined.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The sources of a mask under the conditions on constants alone: the groups that exist whatever is
    /// placed. At most so many matches are wanted; one source may be bound to one row.
    Constants {
        sources: u64,
        limit: usize,
        fixed: Option<(usize, u32)>,
    },
    /// All of it, with one source bound to one row: what an inserted row adds.
    Delta { source: usize, row: u32 },
}

impl Part {
    /// The source that is bound to one row, and the row.
    fn fixed(self) -> Option<(usize, u32)> {
        match self {
            Part::Delta { source, row } => Some((source, row)),
            Part::Constants { fixed, .. } => fixed,
            Part::Whole => None,
        }
    }
}

struct Joining<'a> {
    block: &'a Block,
    parent: Option<&'a Frame<'a>>,
    order: Vec<usize>,
    part: Part,
    out: Vec<Match>,
}

/// `column = other` of a condition, for the given source.
pub(super) fn equality(condition: &Expr, source: usize) -> Option<(usize, &Expr)> {
    let Node::Apply(Operator::Infix(Infix::Equal), args) = &condition.node else {
        return None;
    };
    let [a, b] = args.as_slice() else { return None };
    for (own, other) in [(a, b), (b, a)] {
        if let Node::Column {
            level: 0,
            source: s,
            column,
        } = own.node
            && s == source
            && other.sources & (1 << source) == 0
        {
            return Some((column, other));
        }
    }
    None
}

impl Compiler {
    /// The joined rows of a block.
    pub(super) fn matches(
        &mut self,
        block: &Block,
        parent: Option<&Frame<'_>>,
        part: Part,
    ) -> Result<Vec<Match>> {
        if block.conditions.len() > CONDITIONS_MAX {
            let message = format!("more than {CONDITIONS_MAX} conditions");
            return Err(Error::at(ErrorKind::Limit, block.place, message));
        }
        let order = self.join_order(block, part);
        let mut joining = Joining {
            block,
            parent,
            order,
            part,
            out: Vec::new(),
        };
        let mut bound = vec![Bound::Unbound; block.sources.len()];
        let mut done = 0u128;
        let mut conditions = Vec::new();
        if self.filter(&joining, &bound, 0, &mut done, &mut conditions)? {
            self.join(&mut joining, 0, 0, &mut bound, done, &mut conditions)?;
        }
        Ok(joining.out)
    }

    /// Whether rows of a block can reach a source through a decision only: by a unique column, and by nothing else.
    pub(super) fn is_looked_up_only(&self, block: &Block, source: usize) -> bool {
        let RelationId::Mirror(mirror) = block.sources[source].relation else {
            return false;
        };
        let entry = &self.mirrors[mirror];
        let by_decision = |condition: &Expr| {
            equality(condition, source).is_some_and(|(column, other)| {
                other.decision && other.sources != 0 && entry.mirror.is_unique(&[column])
            })
        };
        let mut tied = block.conditions.iter();
        entry.decisions.is_empty()
            && block.conditions.iter().any(by_decision)
            && !tied.any(|c| !c.decision && c.sources >> source & 1 == 1)
    }

    fn join_order(&self, block: &Block, part: Part) -> Vec<usize> {
        let wanted = match part {
            Part::Whole | Part::Delta { .. } => u64::MAX,
            Part::Constants { sources, .. } => sources,
        };
        let constants_only = matches!(part, Part::Constants { .. });
        let plain = |source: usize| match block.sources[source].relation {
            RelationId::Mirror(mirror) => self.mirrors[mirror].decisions.is_empty(),
            RelationId::View(_) => false,
        };
        let mut order: Vec<usize> = Vec::new();
        let mut mask = 0u64;
        if let Some((source, _)) = part.fixed() {
            order.push(source);
            mask |= 1 << source;
        }
        loop {
            let mut best: Option<(i32, usize)> = None;
            for source in 0..block.sources.len() {
                if mask >> source & 1 == 1 || wanted >> source & 1 == 0 {
                    continue;
                }
                let mut score = 1;
                for condition in &block.conditions {
                    if constants_only && condition.decision {
                        continue;
                    }
                    let Some((column, other)) = equality(condition, source) else {
                        continue;
                    };
                    let own_decision = match block.sources[source].relation {
                        RelationId::Mirror(m) => self.mirrors[m].decision_of(column).is_some(),
                        RelationId::View(v) => self.views[v].block.outputs[column].1.decision,
                    };
                    let bound = other.sources & !mask == 0;
                    if !own_decision && !other.decision && bound {
                        score = score.max(3);
                    } else if plain(source) && other.decision {
                        // To be looked up: never before the decision is bound.
                        score = if bound { score.max(2) } else { score.min(0) };
                    }
                }
                if best.is_none_or(|(s, _)| score > s) {
                    best = Some((score, source));
                }
            }
            let Some((_, source)) = best else {
                return order;
            };
            order.push(source);
            mask |= 1 << source;
        }
    }

    /// Evaluates the conditions that have become evaluable; `false` if the row is gone.
    fn filter(
        &mut self,
        joining: &Joining<'_>,
        bound: &[Bound],
        mask: u64,
        done: &mut u128,
        conditions: &mut Vec<NodeRef>,
    ) -> Result<bool> {
        let block = joining.block;
        let all = match block.sources.len() {
            64.. => u64::MAX,
            n => (1u64 << n) - 1,
        };
        let constants_only = matches!(joining.part, Part::Constants { .. });
        for (index, condition) in block.conditions.iter().enumerate() {
            let needs = condition.sources & all;
            if *done >> index & 1 == 1 || needs & !mask != 0 {
                continue;
            }
            *done |= 1 << index;
            if constants_only && condition.decision {
                continue;
            }
            let frame = Frame {
                parent: joining.parent,
                block,
                bound,
                folded: None,
            };
            match self.eval(condition, &frame)? {
                Cell::Const(value) => {
                    if value.truth() != Some(true) {
                        return Ok(false);
                    }
                }
                cell => conditions.push(self.condition_node(cell, condition.place)?),
            }
        }
        Ok(true)
    }

    fn join(
        &mut self,
        joining: &mut Joining<'_>,
        depth: usize,
        mask: u64,
        bound: &mut Vec<Bound>,
        done: u128,
        conditions: &mut Vec<NodeRef>,
    ) -> Result<()> {
        if let Part::Constants { limit, .. } = joining.part
            && joining.out.len() >= limit
        {
            return Ok(());
        }
        let Some(&source) = joining.order.get(depth) else {
            if joining.out.len() >= MATCHES_MAX {
                let message = format!("a join of more than {MATCHES_MAX} rows; join by keys");
                return Err(Error::at(ErrorKind::Limit, joining.block.place, message));
            }
            let condition = match conditions.as_slice() {
                [] => None,
                [one] => Some(*one),
                many => {
                    let all = many.iter().map(|n| n.expr()).collect();
                    Some(self.emit(graph::Expr::And(all), joining.block.place)?)
                }
            };
            joining.out.push(Match {
                bound: bound.clone().into_boxed_slice(),
                condition,
            });
            return Ok(());
        };
        let block = joining.block;
        let parent = joining.parent;
        let mask_after = mask | 1 << source;
        let relation = block.sources[source].relation;
        let constants_only = matches!(joining.part, Part::Constants { .. });
        // Equalities with what is bound already.
        let mut constants: Vec<(usize, Value, usize)> = Vec::new();
        let mut lookups: Vec<(usize, graph::VarId, MapRef, usize)> = Vec::new();
        for (index, condition) in block.conditions.iter().enumerate() {
            if done >> index & 1 == 1 || (constants_only && condition.decision) {
                continue;
            }
            let Some((column, other)) = equality(condition, source) else {
                continue;
            };
            if other.sources & !mask != 0 {
                continue;
            }
            let own_decision = match relation {
                RelationId::Mirror(mirror) => self.mirrors[mirror].decision_of(column).is_some(),
                RelationId::View(_) => false,
            };
            if own_decision {
                continue;
            }
            let frame = Frame {
                parent,
                block,
                bound: bound.as_slice(),
                folded: None,
            };
            match self.eval(other, &frame)? {
                Cell::Const(value) => constants.push((column, value, index)),
                Cell::Map { var, map } => lookups.push((column, var, map, index)),
                Cell::Node(_) | Cell::Ratio { .. } => {}
            }
        }
        if constants.iter().any(|(_, value, _)| value.is_null()) {
            return Ok(());
        }
        let fixed = (joining.part.fixed()).and_then(|(own, row)| (own == source).then_some(row));
        if let RelationId::Mirror(mirror) = relation
            && self.mirrors[mirror].decisions.is_empty()
            && fixed.is_none()
            && let Some((binding, consumed, exists)) =
                self.look_up(mirror, &constants, &lookups, block)?
        {
            let mut done = done | consumed;
            bound[source] = binding;
            self.note_binding(block.id, |bindings| bindings.lookups |= 1 << source);
            let kept = conditions.len();
            conditions.extend(exists);
            if self.filter(joining, bound, mask_after, &mut done, conditions)? {
                self.join(joining, depth + 1, mask_after, bound, done, conditions)?;
            }
            conditions.truncate(kept);
            bound[source] = Bound::Unbound;
            return Ok(());
        }
        let rowed = u64::from(!constants_only) << source;
        self.note_binding(block.id, |bindings| bindings.rows |= rowed);
        let (rows, consumed) = match fixed {
            Some(row) => (vec![row], 0),
            None => self.candidates(relation, &constants),
        };
        for row in rows {
            let mut done = done | consumed;
            bound[source] = Bound::Row(row);
            let kept = conditions.len();
            if let RelationId::View(view) = relation
                && !constants_only
                && let Some(condition) = self.views[view].row(row).and_then(|r| r.condition)
            {
                conditions.push(condition);
            }
            if self.filter(joining, bound, mask_after, &mut done, conditions)? {
                self.join(joining, depth + 1, mask_after, bound, done, conditions)?;
            }
            conditions.truncate(kept);
        }
        bound[source] = Bound::Unbound;
        Ok(())
    }

    /// Binds a plain table through a decision, if its key allows; with the conditions that are thereby met.
    #[allow(clippy::type_complexity)]
    fn look_up(
        &mut self,
        mirror: usize,
        constants: &[(usize, Value, usize)],
        lookups: &[(usize, graph::VarId, MapRef, usize)],
        block: &Block,
    ) -> Result<Option<(Bound, u128, Option<NodeRef>)>> {
        let Some(&(_, var, _, _)) = lookups.first() else {
            return Ok(None);
        };
        let mut keys: Vec<(usize, Operand)> = Vec::new();
        let mut consumed = 0u128;
        for &(column, other, map, index) in lookups {
            if other == var && keys.iter().all(|(c, _)| *c != column) {
                keys.push((column, Operand::Map(map)));
                consumed |= 1 << index;
            }
        }
        let columns = |keys: &[(usize, Operand)]| keys.iter().map(|(c, _)| *c).collect::<Vec<_>>();
        if !self.mirrors[mirror].mirror.is_unique(&columns(&keys)) {
            for &(column, value, index) in constants {
                if keys.iter().all(|(c, _)| *c != column) {
                    keys.push((column, Operand::Const(value.key())));
                    consumed |= 1 << index;
                }
            }
            if !self.mirrors[mirror].mirror.is_unique(&columns(&keys)) {
                return Ok(None);
            }
        }
        keys.sort_by_key(|(column, _)| *column);
        let recipe = Recipe::Find {
            mirror,
            columns: keys.iter().map(|(c, _)| *c).collect(),
            keys: keys.iter().map(|(_, k)| *k).collect(),
        };
        let slots = self.map(self.domain_of(var), recipe, block.place)?;
        let nullable = self.variables[var.index()].nullable;
        let exists = if nullable || self.maps.entry(slots).has_null {
            let (twin, _) = self.twin(slots)?;
            let slot = self.emit(graph::Expr::Lookup { var, map: twin }, block.place)?;
            let missing = self.emit(graph::Expr::IsNull(slot.expr()), block.place)?;
            Some(self.emit(graph::Expr::Not(missing.expr()), block.place)?)
        } else {
            None
        };
        Ok(Some((Bound::Lookup { var, slots }, consumed, exists)))
    }

    /// The rows of a relation that may meet constant equalities, and the conditions thereby met.
    fn candidates(
        &self,
        relation: RelationId,
        constants: &[(usize, Value, usize)],
    ) -> (Vec<u32>, u128) {
        match relation {
            RelationId::Mirror(mirror) => {
                let data = &self.mirrors[mirror].mirror;
                if constants.is_empty() {
                    return (data.occupied().collect(), 0);
                }
                let mut sorted: Vec<_> = constants.to_vec();
                sorted.sort_by_key(|(column, _, _)| *column);
                sorted.dedup_by_key(|(column, _, _)| *column);
                let columns: Vec<usize> = sorted.iter().map(|(c, _, _)| *c).collect();
                let key: Vec<Value> = sorted.iter().map(|(_, v, _)| *v).collect();
                let consumed = sorted.iter().fold(0u128, |bits, (_, _, i)| bits | 1 << i);
                (data.find(&columns, &key), consumed)
            }
            RelationId::View(view) => {
                let view = &self.views[view];
                for &(column, value, _) in constants {
                    if let Some(rows) = view.find(column, value) {
                        // Two texts or numbers under one key are equal, so the filter may be skipped;
                        // it is cheap, so it is not.
                        return (rows, 0);
                    }
                }
                (view.numbers().collect(), 0)
            }
        }
    }
}
