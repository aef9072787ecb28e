//! Constraints: hard rows and soft cells.
//!
//! A constraint over groups becomes one [template](super::template) for all groups of its bag where it can; otherwise
//! every group gets an expression.

use std::rc::Rc;

use super::Compiler;
use super::blocks::Wanted;
use super::cells::{Cell, NodeRef};
use super::folded::Group;
use super::group::Grouping;
use super::join::{Frame, Match, Part};
use super::joined::{Handle, Joined};
use super::reads::{Reads, reads_of};
use super::resolved::{Block, Expr, Operator, RelationId};
use crate::dialect::ast::{self, Deferral, Goal, Infix, Sense};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{self, RootKind, Template};
use crate::tables::Value;

/// What names a row of a policy.
#[derive(Clone, Debug)]
pub(crate) enum RowIdentity {
    /// The rows joined, by source; `u32::MAX` for what a decision looks up.
    Match(Box<[u32]>),
    /// The key of a group.
    Group(Box<[Value]>),
}

/// A compiled constraint.
#[derive(Debug)]
pub(crate) struct PolicyOf {
    pub name: String,
    pub block: Rc<Block>,
    pub goal: Rc<Expr>,
    /// What it reads of each source.
    pub reads: Rc<Vec<Reads>>,
    pub kind: Kind,
    pub rows: Vec<RowIdentity>,
    pub grouping: Option<Grouping>,
    /// What every group of the bag is judged by, where one template does.
    pub template: Option<Template>,
    /// Roots by row.
    pub roots: Vec<Option<graph::RootId>>,
    /// Rows whose roots were removed, for reuse.
    pub free_rows: Vec<u32>,
    /// Which joined row became which row of the policy, where it has no groups.
    pub joined: Joined,
}

impl PolicyOf {
    fn new(name: String, (block, goal): (&Rc<Block>, &Rc<Expr>), kind: Kind) -> PolicyOf {
        PolicyOf {
            name,
            block: Rc::clone(block),
            goal: Rc::clone(goal),
            reads: Rc::new(reads_of(block, Some(goal))),
            kind,
            rows: Vec::new(),
            grouping: None,
            template: None,
            roots: Vec::new(),
            free_rows: Vec::new(),
            joined: Joined::new(block.sources.len()),
        }
    }
}

/// Hard, or soft in a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hard,
    /// The weight is negative for MAXIMIZE.
    Soft {
        tier: u32,
        weight: i64,
    },
}

/// A soft cell that waits for its tier's common denominator.
#[derive(Debug)]
pub(super) struct Soft {
    pub policy: usize,
    pub tier: u32,
    pub weight: i64,
    pub den: i64,
    pub place: Place,
    pub cell: SoftCell,
}

/// What it is a cell of.
#[derive(Debug)]
pub(super) enum SoftCell {
    Row {
        row: u64,
        node: NodeRef,
    },
    Lazy {
        bag: graph::BagId,
        template: Template,
    },
}

pub(super) fn model_error(place: Place, e: &graph::ModelError) -> Error {
    Error::at(ErrorKind::Arithmetic, place, e.to_string())
}

impl Compiler {
    pub(super) fn compile_constraint(&mut self, constraint: &ast::Constraint) -> Result<()> {
        let select = constraint.query.select.as_ref().map_err(Clone::clone)?;
        let (expr, kind, deferrable) = match &constraint.goal {
            Goal::Check { expr, deferrable } => (expr, Kind::Hard, *deferrable),
            Goal::Objective {
                sense,
                expr,
                weight,
                tier,
            } => {
                let weight = match sense {
                    Sense::Minimize => *weight,
                    Sense::Maximize => -*weight,
                };
                (
                    expr,
                    Kind::Soft {
                        tier: *tier,
                        weight,
                    },
                    Deferral::EachStep,
                )
            }
        };
        let wanted = Wanted {
            items: false,
            goal: Some(expr),
        };
        let (block, goal) = self.resolve_block(select, &mut Vec::new(), &wanted)?;
        let Some(goal) = goal else { return Ok(()) };
        let goal = match kind {
            Kind::Hard => self.condition(goal)?,
            Kind::Soft { tier, .. } => {
                self.tier_dens.entry(tier).or_insert(1);
                if !goal.ty.is_numeric() {
                    let message = "an objective must be a number";
                    return Err(Error::at(ErrorKind::Type, goal.place, message));
                }
                goal
            }
        };
        if kind == Kind::Hard || !block.aggregates.is_empty() {
            self.warn(&block, &goal);
        }
        let policy = self.policies.len();
        let (block, goal) = (Rc::new(block), Rc::new(goal));
        if deferrable == Deferral::AtEnd {
            self.model
                .set_deferrable(u32::try_from(policy).unwrap_or(u32::MAX));
        }
        let name = constraint.name.clone();
        self.policies
            .push(PolicyOf::new(name, (&block, &goal), kind));
        if block.grouped {
            self.compile_groups(policy, &block, &goal)
        } else {
            for found in self.matches(&block, None, Part::Whole)? {
                self.compile_row(policy, &block, &goal, &found)?;
            }
            Ok(())
        }
    }

    /// One joined row of a policy without groups.
    pub(super) fn compile_row(
        &mut self,
        policy: usize,
        block: &Block,
        goal: &Expr,
        found: &Match,
    ) -> Result<()> {
        let frame = Frame {
            parent: None,
            block,
            bound: &found.bound,
            folded: None,
        };
        let condition = found.condition.map_or(Cell::TRUE, Cell::truth);
        let cell = match (found.condition, self.eval(goal, &frame)?) {
            (None, cell) => cell,
            (Some(_), cell) => self.under(policy, condition, cell, goal.place)?,
        };
        let bound = found.rows();
        let identity = RowIdentity::Match(bound.clone());
        if let Some(row) = self.add_cell(policy, identity, cell, goal.place)? {
            self.policies[policy].joined.add(&bound, Handle::Row(row));
        }
        Ok(())
    }

    /// The goal's cell where the row exists only under a condition.
    pub(super) fn under(
        &mut self,
        policy: usize,
        condition: Cell,
        cell: Cell,
        place: Place,
    ) -> Result<Cell> {
        match self.policies[policy].kind {
            Kind::Hard => {
                let absent = self.apply(Operator::Not, &[condition], place)?;
                self.apply(Operator::Infix(Infix::Or), &[absent, cell], place)
            }
            Kind::Soft { .. } => {
                self.apply(Operator::Choose, &[condition, cell, Cell::FALSE], place)
            }
        }
    }

    /// Adds the cell of one row or group to the model.
    fn add_cell(
        &mut self,
        policy: usize,
        identity: RowIdentity,
        cell: Cell,
        place: Place,
    ) -> Result<Option<u32>> {
        let kind = self.policies[policy].kind;
        // A constant that holds, or adds nothing, needs no expression.
        if let Cell::Const(value) = cell {
            let idle = match kind {
                Kind::Hard => value.truth() != Some(false),
                Kind::Soft { .. } => matches!(value, Value::Null | Value::Integer(0)),
            };
            if idle {
                return Ok(None);
            }
        }
        let term = self.term(cell, place)?;
        let of = &mut self.policies[policy];
        let index = match of.free_rows.pop() {
            Some(index) => {
                of.rows[index as usize] = identity;
                index
            }
            None => {
                of.rows.push(identity);
                of.roots.push(None);
                u32::try_from(of.rows.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let row = u64::from(index);
        match kind {
            Kind::Hard => {
                let number = u32::try_from(policy).unwrap_or(u32::MAX);
                let root = self
                    .model
                    .add_root(number, row, RootKind::Hard, term.node.expr());
                self.policies[policy].roots[index as usize] = Some(root);
                Ok(Some(index))
            }
            Kind::Soft { tier, weight } => {
                if term.text {
                    let message = "an objective must be a number";
                    return Err(Error::at(ErrorKind::Type, place, message));
                }
                let cell = SoftCell::Row {
                    row,
                    node: term.node,
                };
                self.softs.push(Soft {
                    policy,
                    tier,
                    weight,
                    den: term.den,
                    place,
                    cell,
                });
                Ok(Some(index))
            }
        }
    }

    fn compile_groups(&mut self, policy: usize, block: &Block, goal: &Expr) -> Result<()> {
        let Some(mut grouping) = self.grouping(block, None)? else {
            return Ok(());
        };
        if !block.keys.is_empty() && self.compile_template(policy, block, goal, &mut grouping)? {
            self.policies[policy].grouping = Some(grouping);
            return Ok(());
        }
        for group in self.all_groups(block, &mut grouping)? {
            self.compile_group(policy, block, goal, &mut grouping, group)?;
        }
        self.policies[policy].grouping = Some(grouping);
        Ok(())
    }

    /// The expression of one group of a policy.
    pub(super) fn compile_group(
        &mut self,
        policy: usize,
        block: &Block,
        goal: &Expr,
        grouping: &mut Grouping,
        group: Group,
    ) -> Result<()> {
        let (part, key) = (group.part, group.key);
        let folded = self.folded(block, grouping, part, key, &group.values)?;
        let frame = Frame {
            parent: None,
            block,
            bound: &[],
            folded: Some(&folded),
        };
        let condition =
            self.group_condition(block, grouping, &frame, (part, key), group.optional)?;
        if let Cell::Const(value) = condition
            && value.truth() != Some(true)
        {
            return Ok(());
        }
        let cell = self.eval(goal, &frame)?;
        let cell = match condition {
            Cell::Const(_) => cell,
            condition => self.under(policy, condition, cell, goal.place)?,
        };
        let identity = RowIdentity::Group(group.values);
        if let Some(row) = self.add_cell(policy, identity, cell, goal.place)? {
            grouping.standing.insert((part, key), row);
        }
        Ok(())
    }

    /// Gives every soft cell its weight over the common denominator of its tier.
    pub(super) fn finish_tiers(&mut self) -> Result<()> {
        for soft in &self.softs {
            let den = self.tier_dens.entry(soft.tier).or_insert(1);
            let (mut a, mut b) = (*den, soft.den);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            *den = (*den / a).checked_mul(soft.den).ok_or_else(|| {
                let message = "the common denominator of a tier overflows; use integers";
                Error::at(ErrorKind::Arithmetic, soft.place, message)
            })?;
        }
        // A tier exists as soon as it is declared, with the value 0.
        let zero = self.const_node(Some(0), Place::start(crate::error::Source::Policies))?;
        for &tier in self.tier_dens.keys() {
            let kind = RootKind::Soft { tier, weight: 1 };
            self.model
                .add_root(u32::MAX, u64::from(tier), kind, zero.expr());
        }
        self.add_softs()
    }

    /// Adds the soft cells that wait; their denominators must divide their tier's.
    pub(super) fn add_softs(&mut self) -> Result<()> {
        for soft in std::mem::take(&mut self.softs) {
            let den = self.tier_dens.get(&soft.tier).copied().unwrap_or(1);
            if den % soft.den != 0 {
                let message = "a decimal finer than its tier's";
                return Err(Error::at(ErrorKind::Arithmetic, soft.place, message));
            }
            let weight = soft
                .weight
                .checked_mul(den / soft.den)
                .ok_or_else(|| Error::at(ErrorKind::Arithmetic, soft.place, "WEIGHT overflows"))?;
            let kind = RootKind::Soft {
                tier: soft.tier,
                weight,
            };
            let policy = u32::try_from(soft.policy).unwrap_or(u32::MAX);
            match soft.cell {
                SoftCell::Row { row, node } => {
                    let root = self.model.add_root(policy, row, kind, node.expr());
                    let index = usize::try_from(row).unwrap_or(usize::MAX);
                    if let Some(slot) = self.policies[soft.policy].roots.get_mut(index) {
                        *slot = Some(root);
                    }
                }
                SoftCell::Lazy { bag, template } => {
                    let spec = graph::LazySpec {
                        policy,
                        kind,
                        template,
                    };
                    self.model
                        .add_lazy(bag, spec)
                        .map_err(|e| model_error(soft.place, &e))?;
                }
            }
        }
        Ok(())
    }

    /// The name of a policy row: (column, value) pairs.
    pub(crate) fn row_of(&self, source: graph::RowRef) -> (String, Vec<(String, Value)>) {
        let (policy, identity) = match source {
            graph::RowRef::Root { policy, row } => {
                let Some(of) = self.policies.get(policy as usize) else {
                    return (String::new(), Vec::new());
                };
                let index = usize::try_from(row).unwrap_or(usize::MAX);
                (of, of.rows.get(index).cloned())
            }
            graph::RowRef::Lazy { policy, part, key } => {
                let Some(of) = self.policies.get(policy as usize) else {
                    return (String::new(), Vec::new());
                };
                let values = of
                    .grouping
                    .as_ref()
                    .map(|g| self.group_values(g, part, key).0);
                (of, values.map(RowIdentity::Group))
            }
        };
        let mut row: Vec<(String, Value)> = Vec::new();
        let block = &policy.block;
        match identity {
            None => {}
            Some(RowIdentity::Group(values)) => {
                row.extend(block.key_names.iter().cloned().zip(values.iter().copied()));
            }
            Some(RowIdentity::Match(bound)) => {
                for (source, &slot) in block.sources.iter().zip(bound.iter()) {
                    if slot == u32::MAX {
                        continue;
                    }
                    for (name, value) in self.source_key(source.relation, slot) {
                        let taken = row.iter().any(|(n, _)| *n == name);
                        let name = if taken {
                            format!("{}.{name}", source.alias)
                        } else {
                            name
                        };
                        row.push((name, value));
                    }
                }
            }
        }
        (policy.name.clone(), row)
    }

    /// What names a row of a relation: a table's primary key, else its constant columns.
    fn source_key(&self, relation: RelationId, slot: u32) -> Vec<(String, Value)> {
        match relation {
            RelationId::Mirror(mirror) => {
                let entry = &self.mirrors[mirror];
                let schema = &entry.mirror.schema;
                let Some(row) = entry.mirror.row(slot) else {
                    return Vec::new();
                };
                let all: Vec<usize> = (0..schema.columns.len()).collect();
                let key = if schema.primary_key.is_empty() {
                    &all
                } else {
                    &schema.primary_key
                };
                key.iter()
                    .map(|&c| (schema.columns[c].name.clone(), row[c]))
                    .collect()
            }
            RelationId::View(view) => {
                let view = &self.views[view];
                let Some(row) = view.row(slot) else {
                    return Vec::new();
                };
                let outputs = view.block.outputs.iter().zip(row.cells.iter());
                outputs
                    .filter_map(|((name, _), cell)| match cell {
                        Cell::Const(value) => Some((name.clone(), *value)),
                        Cell::Map { .. } | Cell::Node(_) | Cell::Ratio { .. } => None,
                    })
                    .collect()
            }
        }
    }
}
