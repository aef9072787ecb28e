//! What stands behind the fold: aggregates of a group as cells, groups as rows, and the template of all groups.

use super::Compiler;
use super::cells::{Cell, NodeRef, Target, Term};
use super::eval::ConditionalRow;
use super::group::{CellShape, GROUPS_MAX, Grouping};
use super::join::{Folded, Frame};
use super::maps::{denominator, integer};
use super::resolved::{Block, Operator};
use crate::dialect::ast::{Aggregate, Infix};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{self, CmpOp, Fold, Template};
use crate::tables::Value;

/// A group of a bag.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub part: u32,
    pub key: u32,
    /// The values of its keys.
    pub values: Box<[Value]>,
    /// Whether it exists only when it is not empty.
    pub optional: bool,
}

/// A key that a template reads, as a constant over `den` of the part or of the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyConstant {
    pub(super) key: usize,
    pub(super) den: i64,
    pub(super) keyed: bool,
}

impl Compiler {
    /// The cells of a group's aggregates; of the template's when there is no group.
    fn aggregate_cells(
        &mut self,
        block: &Block,
        grouping: &Grouping,
        group: Option<(u32, u32)>,
    ) -> Result<Vec<Cell>> {
        let mut cells = Vec::with_capacity(block.aggregates.len());
        for (index, aggregate) in block.aggregates.iter().enumerate() {
            let place = aggregate.place;
            let cell = grouping.cell_of[index].unwrap_or(0);
            let shape = grouping.cells.get(usize::from(cell)).copied();
            let shape = shape.unwrap_or(CellShape::NONE);
            let one_group = block.keys.is_empty();
            let fold = |this: &mut Compiler, fold: Fold| -> Result<NodeRef> {
                match (&mut this.target, group) {
                    (Target::Template(arena), _) => {
                        arena.push(Template::Fold(fold));
                        Ok(NodeRef(u32::try_from(arena.len() - 1).unwrap_or(u32::MAX)))
                    }
                    (Target::Graph, Some((part, key))) => {
                        let agg = graph::Agg {
                            bag: grouping.bag,
                            part,
                            key,
                            fold,
                        };
                        this.emit(graph::Expr::Agg(agg), place)
                    }
                    (Target::Graph, None) => {
                        Err(Error::at(ErrorKind::Unsupported, place, "an aggregate"))
                    }
                }
            };
            let count = |node| {
                Cell::Node(Term {
                    node,
                    den: 1,
                    real: false,
                    text: false,
                    nonzero: false,
                    never_null: true,
                })
            };
            let value = |node| Term {
                node,
                den: shape.den,
                real: shape.real,
                text: shape.text,
                nonzero: false,
                never_null: one_group && shape.certain > 0,
            };
            cells.push(match aggregate.function {
                Aggregate::CountRows => count(fold(self, grouping.rows_of(index))?),
                Aggregate::Count => count(fold(self, Fold::Count(cell))?),
                Aggregate::CountDistinct => count(fold(self, Fold::CountDistinct(cell))?),
                Aggregate::Sum => Cell::Node(value(fold(self, Fold::Sum(cell))?)),
                Aggregate::Min | Aggregate::Max if shape.text => {
                    let message = "MIN or MAX of texts over decisions";
                    return Err(Error::at(ErrorKind::Unsupported, place, message));
                }
                Aggregate::Min => Cell::Node(value(fold(self, Fold::Min(cell))?)),
                Aggregate::Max => Cell::Node(value(fold(self, Fold::Max(cell))?)),
                Aggregate::Avg => {
                    let sum = Term {
                        real: true,
                        ..value(fold(self, Fold::Sum(cell))?)
                    };
                    match shape.certain {
                        // All rows are certain: the count is a constant.
                        rows if one_group && rows > 0 && rows == grouping.rows => {
                            Cell::Node(Term {
                                den: shape.den.checked_mul(i64::from(rows)).ok_or_else(|| {
                                    Error::at(ErrorKind::Arithmetic, place, "AVG overflows")
                                })?,
                                ..sum
                            })
                        }
                        _ => Cell::Ratio {
                            sum,
                            count: fold(self, Fold::Count(cell))?,
                        },
                    }
                }
                Aggregate::AllEqual | Aggregate::AllDifferent => {
                    let distinct = fold(self, Fold::CountDistinct(cell))?;
                    let (op, other) = match aggregate.function {
                        Aggregate::AllEqual => (CmpOp::Le, self.const_node(Some(1), place)?),
                        _ => (CmpOp::Eq, fold(self, Fold::Count(cell))?),
                    };
                    let node = graph::Expr::Cmp(op, distinct.expr(), other.expr());
                    Cell::truth(self.emit(node, place)?)
                }
            });
        }
        Ok(cells)
    }

    fn groups(&self, grouping: &mut Grouping, place: Place) -> Result<Vec<Group>> {
        let unkeyed = self.sizes(grouping, false);
        let keyed = self.sizes(grouping, true);
        let parts: u64 = unkeyed.iter().product();
        let keys: u64 = keyed.iter().product();
        if parts.saturating_mul(keys) > GROUPS_MAX {
            let message = format!("more than {GROUPS_MAX} groups that each need an expression");
            return Err(Error::at(ErrorKind::Limit, place, message));
        }
        let digits = |mut n: u64, sizes: &[u64]| -> Box<[u32]> {
            let mut out = vec![0; sizes.len()];
            for (digit, size) in out.iter_mut().zip(sizes).rev() {
                *digit = u32::try_from(n % size).unwrap_or(u32::MAX);
                n /= size;
            }
            out.into_boxed_slice()
        };
        let mut out = Vec::new();
        for p in 0..parts {
            let tuple = digits(p, &unkeyed);
            let part = grouping.part_of(tuple);
            for k in 0..keys {
                let key = u32::try_from(k).unwrap_or(u32::MAX);
                let (values, optional) = self.group_values(grouping, part, key);
                out.push(Group {
                    part,
                    key,
                    values,
                    optional,
                });
            }
        }
        Ok(out)
    }

    /// The key values of a group, and whether it exists only when it is not empty.
    pub(super) fn group_values(
        &self,
        grouping: &Grouping,
        part: u32,
        key: u32,
    ) -> (Box<[Value]>, bool) {
        let mut values = vec![Value::Null; grouping.keys];
        let mut optional = false;
        let index = part.wrapping_sub(grouping.part_base) as usize;
        let unkeyed = grouping.parts.get(index).map_or(&[][..], |p| p);
        let mut unkeyed = unkeyed.iter();
        let keyed = self.sizes(grouping, true);
        let mut digits = Vec::with_capacity(keyed.len());
        let mut rest = u64::from(key);
        for size in keyed.iter().rev() {
            digits.push(u32::try_from(rest % size).unwrap_or(u32::MAX));
            rest /= size;
        }
        let mut digits = digits.into_iter().rev();
        for (number, component) in grouping.components.iter().enumerate() {
            let tuple = match component.keyed {
                true => digits.next().unwrap_or(0),
                false => unkeyed.next().copied().unwrap_or(0),
            };
            let Some(dictionary) = self.tuples.get(&(grouping.block, number)) else {
                continue;
            };
            optional |= dictionary.null == Some(tuple);
            for (&key, value) in component
                .keys
                .iter()
                .zip(&dictionary.tuples[tuple as usize])
            {
                values[key] = *value;
            }
        }
        (values.into_boxed_slice(), optional)
    }

    /// The cells of one group, for the expressions behind the fold.
    pub(super) fn folded(
        &mut self,
        block: &Block,
        grouping: &Grouping,
        part: u32,
        key: u32,
        values: &[Value],
    ) -> Result<Folded> {
        let keys = values.iter().map(|&v| Cell::Const(v)).collect();
        let aggregates = self.aggregate_cells(block, grouping, Some((part, key)))?;
        Ok(Folded { keys, aggregates })
    }

    /// The condition under which a group is there: HAVING, and not empty where that is asked.
    pub(super) fn group_condition(
        &mut self,
        block: &Block,
        grouping: &Grouping,
        frame: &Frame<'_>,
        group: (u32, u32),
        optional: bool,
    ) -> Result<Cell> {
        let mut condition = match &block.having {
            Some(having) => self.eval(having, frame)?,
            None => Cell::TRUE,
        };
        if optional {
            // A decision that may be NULL has no rows of the present (see `present`), so all rows count.
            let (part, key) = group;
            let agg = graph::Agg {
                bag: grouping.bag,
                part,
                key,
                fold: Fold::CountRows,
            };
            let count = self.emit(graph::Expr::Agg(agg), block.place)?;
            let zero = self.const_node(Some(0), block.place)?;
            let some = graph::Expr::Cmp(CmpOp::Gt, count.expr(), zero.expr());
            let some = Cell::truth(self.emit(some, block.place)?);
            condition = self.apply(Operator::Infix(Infix::And), &[condition, some], block.place)?;
        }
        Ok(condition)
    }

    /// The rows of a grouped subquery, one for each group.
    pub(super) fn grouped_rows(
        &mut self,
        block: &Block,
        parent: Option<&Frame<'_>>,
    ) -> Result<Vec<ConditionalRow>> {
        let Some(mut grouping) = self.grouping(block, parent)? else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        for group in self.all_groups(block, &mut grouping)? {
            rows.extend(self.group_row(block, &grouping, &group, parent)?);
        }
        Ok(rows)
    }

    /// All groups of a block; the only one, where there are no keys.
    pub(super) fn all_groups(&self, block: &Block, grouping: &mut Grouping) -> Result<Vec<Group>> {
        match block.keys.is_empty() {
            true => Ok(vec![grouping.only_group()]),
            false => self.groups(grouping, block.place),
        }
    }

    /// The row of a group; `None` if it is never there.
    pub(super) fn group_row(
        &mut self,
        block: &Block,
        grouping: &Grouping,
        group: &Group,
        parent: Option<&Frame<'_>>,
    ) -> Result<Option<ConditionalRow>> {
        let (part, key) = (group.part, group.key);
        let folded = self.folded(block, grouping, part, key, &group.values)?;
        let frame = Frame {
            parent,
            block,
            bound: &[],
            folded: Some(&folded),
        };
        let condition =
            self.group_condition(block, grouping, &frame, (part, key), group.optional)?;
        let condition = match condition {
            Cell::Const(value) if value.truth() == Some(true) => None,
            Cell::Const(_) => return Ok(None),
            cell => Some(self.condition_node(cell, block.place)?),
        };
        let mut cells = Vec::with_capacity(block.outputs.len());
        for (_, output) in &block.outputs {
            cells.push(self.eval(output, &frame)?);
        }
        Ok(Some(ConditionalRow {
            condition,
            cells: cells.into_boxed_slice(),
        }))
    }

    /// The cells of the template: keys are constants of parts and keys, which are handed to the graph.
    pub(super) fn template_folded(
        &mut self,
        block: &Block,
        grouping: &Grouping,
    ) -> Result<(Folded, Vec<KeyConstant>)> {
        let mut keys = vec![Cell::NULL; block.keys.len()];
        let mut constants = Vec::new();
        let (mut part_count, mut key_count) = (0u8, 0u8);
        for (number, component) in grouping.components.iter().enumerate() {
            for (position, &key) in component.keys.iter().enumerate() {
                let Some(dictionary) = self.tuples.get(&(grouping.block, number)) else {
                    continue;
                };
                let column: Vec<Value> = dictionary
                    .tuples
                    .iter()
                    .map(|tuple| tuple[position])
                    .collect();
                let den = denominator(&column);
                let text = column.iter().any(|v| matches!(v, Value::Text(_)));
                let slot = match component.keyed {
                    true => &mut key_count,
                    false => &mut part_count,
                };
                let template = match component.keyed {
                    true => Template::Key(*slot),
                    false => Template::Part(*slot),
                };
                *slot += 1;
                constants.push(KeyConstant {
                    key,
                    den,
                    keyed: component.keyed,
                });
                let Target::Template(arena) = &mut self.target else {
                    continue;
                };
                arena.push(template);
                let node = NodeRef(u32::try_from(arena.len() - 1).unwrap_or(u32::MAX));
                keys[key] = Cell::Node(Term {
                    node,
                    den,
                    real: column.iter().any(|v| matches!(v, Value::Decimal(_))),
                    text,
                    nonzero: column
                        .iter()
                        .all(|v| !matches!(v, Value::Integer(0) | Value::Null)),
                    never_null: column.iter().all(|v| !v.is_null()),
                });
            }
        }
        let aggregates = self.aggregate_cells(block, grouping, None)?;
        Ok((Folded { keys, aggregates }, constants))
    }

    /// The part and key constants of every group's halves that the graph must know.
    pub(super) fn half_constants(
        &self,
        grouping: &Grouping,
        constants: &[KeyConstant],
        part: u32,
        key: u32,
        keyed: bool,
        place: Place,
    ) -> Result<Vec<Option<i64>>> {
        let (values, _) = self.group_values(grouping, part, key);
        constants
            .iter()
            .filter(|c| c.keyed == keyed)
            .map(|c| integer(values[c.key], c.den, place))
            .collect()
    }

    /// Whether the constants of a half are whole over the denominators that the template was made with.
    pub(super) fn is_whole(
        &self,
        grouping: &Grouping,
        constants: &[KeyConstant],
        (part, key): (u32, u32),
        keyed: bool,
    ) -> bool {
        let (values, _) = self.group_values(grouping, part, key);
        constants
            .iter()
            .filter(|c| c.keyed == keyed)
            .all(|c| c.den % denominator(&[values[c.key]]) == 0)
    }

    /// How many keys (or parts) there are, and which number of a component each of them stands for.
    pub(super) fn digits<'a>(
        &self,
        grouping: &'a Grouping,
        component: usize,
    ) -> (u32, impl Fn(u32) -> u32 + use<'a>) {
        let keyed = grouping.components[component].keyed;
        let before = grouping.components[..component].iter();
        let position = before.filter(|c| c.keyed == keyed).count();
        let sizes = self.sizes(grouping, true);
        let count = match keyed {
            true => self.key_count(grouping),
            false => grouping.part_count(),
        };
        let below = sizes.iter().skip(position + 1).product::<u64>().max(1);
        let size = sizes.get(position).copied().unwrap_or(1).max(1);
        let digit = move |n: u32| match keyed {
            true => u32::try_from(u64::from(n) / below % size).unwrap_or(u32::MAX),
            false => grouping.parts[n as usize][position],
        };
        (count, digit)
    }

    /// The number of keys (of the keyed components together).
    pub(super) fn key_count(&self, grouping: &Grouping) -> u32 {
        let count = self.sizes(grouping, true).iter().product::<u64>();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Numbers every part there is, whether or not rows fall into it.
    pub(super) fn all_parts(&self, grouping: &mut Grouping, place: Place) -> Result<()> {
        let sizes = self.sizes(grouping, false);
        let parts: u64 = sizes.iter().product();
        if parts > GROUPS_MAX {
            let message = format!("more than {GROUPS_MAX} groups");
            return Err(Error::at(ErrorKind::Limit, place, message));
        }
        for p in 0..parts {
            let mut n = p;
            let mut tuple = vec![0; sizes.len()];
            for (digit, size) in tuple.iter_mut().zip(&sizes).rev() {
                *digit = u32::try_from(n % size).unwrap_or(u32::MAX);
                n /= size;
            }
            grouping.part_of(tuple.into_boxed_slice());
        }
        Ok(())
    }
}
