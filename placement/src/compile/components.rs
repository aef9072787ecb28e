//! Which groups there are.
//!
//! That never depends on what is placed: the conditions that read decisions are dropped and every distinct tuple of the
//! keys in what remains is a group. Sources that no constant condition ties together are independent *components*, and
//! the groups are the product of each component's distinct tuples, so the product itself is not enumerated unless every
//! group needs an expression of its own.

use std::collections::HashMap;

use super::Compiler;
use super::cells::Cell;
use super::group::{Component, Dictionary, GROUPS_MAX};
use super::join::{Bound, Frame, Match, Part};
use super::maps::MapRef;
use super::resolved::{Block, Expr, Node, RelationId};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;
use crate::tables::Value;

/// What a cell of a key tuple is made of, as far as the tuples that it may become go.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Made {
    Const(Value),
    /// A column, by a decision: the first, the second, … of the tuple.
    Map(usize, MapRef),
    /// What no tuple is made of.
    Other,
}

fn made_of(cells: &[Cell]) -> Vec<Made> {
    let mut vars: Vec<graph::VarId> = Vec::new();
    let made = cells.iter().map(|cell| match *cell {
        Cell::Const(value) => Made::Const(value.key()),
        Cell::Map { var, map } => {
            let known = vars.iter().position(|&v| v == var);
            let position = known.unwrap_or_else(|| {
                vars.push(var);
                vars.len() - 1
            });
            Made::Map(position, map)
        }
        Cell::Node(_) | Cell::Ratio { .. } => Made::Other,
    });
    made.collect()
}

/// Visits the columns of the block's own sources that an expression reads.
fn visit_columns(expr: &Expr, visit: &mut impl FnMut(usize, usize)) -> bool {
    match &expr.node {
        Node::Column {
            level: 0,
            source,
            column,
        } => {
            visit(*source, *column);
            true
        }
        Node::Const(_) | Node::ConstantScalar(_) => true,
        Node::Apply(_, args) => {
            let mut plain = true;
            for arg in args {
                plain &= visit_columns(arg, visit);
            }
            plain
        }
        Node::Column { .. }
        | Node::Key { .. }
        | Node::Aggregate(_)
        | Node::InBlock(..)
        | Node::Exists(_)
        | Node::Scalar(_) => false,
    }
}

impl Compiler {
    /// The decision that all columns of a key are part of, if they are.
    fn decision_of_key(&self, block: &Block, key: &Expr) -> Option<(usize, usize, usize)> {
        let mut found: Option<(usize, usize, usize)> = None;
        let mut mixed = false;
        let plain = visit_columns(key, &mut |source, column| {
            let decision = match block.sources[source].relation {
                RelationId::Mirror(mirror) => self.mirrors[mirror]
                    .decision_of(column)
                    .map(|(d, _)| (source, mirror, d)),
                RelationId::View(_) => None,
            };
            match (decision, found) {
                (Some(d), None) => found = Some(d),
                (Some(d), Some(f)) if d == f => {}
                _ => mixed = true,
            }
        });
        if plain && !mixed { found } else { None }
    }

    /// Splits the sources and keys of a block into components.
    pub(super) fn components(&self, block: &Block) -> Vec<Component> {
        let count = block.sources.len();
        let mut parent: Vec<usize> = (0..count).collect();
        fn root(parent: &mut [usize], mut i: usize) -> usize {
            while parent[i] != i {
                parent[i] = parent[parent[i]];
                i = parent[i];
            }
            i
        }
        let mut unite = |mask: u64| {
            let mut first = None;
            for source in (0..count).filter(|s| mask >> s & 1 == 1) {
                let of_source = root(&mut parent, source);
                match first {
                    None => first = Some(of_source),
                    Some(f) => parent[of_source] = f,
                }
            }
        };
        for condition in block.conditions.iter().filter(|c| !c.decision) {
            unite(condition.sources);
        }
        let mut decisions = Vec::new();
        for key in &block.keys {
            let decision = self.decision_of_key(block, key);
            if decision.is_none() {
                unite(key.sources);
            }
            decisions.push(decision);
        }
        let mut components: Vec<Component> = Vec::new();
        let mut number_of = vec![usize::MAX; count];
        for source in 0..count {
            let r = root(&mut parent, source);
            if number_of[r] == usize::MAX {
                number_of[r] = components.len();
                components.push(Component {
                    sources: 0,
                    keys: Vec::new(),
                    decision: None,
                    keyed: false,
                });
            }
            number_of[source] = number_of[r];
            components[number_of[source]].sources |= 1 << source;
        }
        for (index, key) in block.keys.iter().enumerate() {
            match decisions[index] {
                Some(decision) => {
                    match components.iter_mut().find(|c| c.decision == Some(decision)) {
                        Some(component) => component.keys.push(index),
                        None => components.push(Component {
                            sources: 0,
                            keys: vec![index],
                            decision: Some(decision),
                            keyed: true,
                        }),
                    }
                }
                None => {
                    let source = (0..count).find(|s| key.sources >> s & 1 == 1);
                    match source {
                        Some(source) => components[number_of[source]].keys.push(index),
                        // A key that reads no source is one constant.
                        None => components.push(Component {
                            sources: 0,
                            keys: vec![index],
                            decision: None,
                            keyed: false,
                        }),
                    }
                }
            }
        }
        components
    }

    /// The distinct tuples of a component; `false` if it has no rows at all.
    pub(super) fn fill_dictionary(
        &mut self,
        block: &Block,
        number: usize,
        component: &Component,
    ) -> Result<bool> {
        let mut dictionary = Dictionary::default();
        if let Some((source, mirror, decision)) = component.decision {
            let decision = &self.mirrors[mirror].decisions[decision];
            let nullable = decision.nullable;
            // Any variable of the domain will do: what is read are the maps.
            let Some(var) = decision.vars.iter().copied().flatten().next() else {
                return Ok(false);
            };
            let slot = decision
                .vars
                .iter()
                .position(|v| *v == Some(var))
                .unwrap_or(0);
            let mut bound = vec![Bound::Unbound; block.sources.len()];
            bound[source] = Bound::Row(u32::try_from(slot).unwrap_or(u32::MAX));
            let frame = Frame {
                parent: None,
                block,
                bound: &bound,
                folded: None,
            };
            let mut cells = Vec::new();
            for &key in &component.keys {
                cells.push(self.eval(&block.keys[key], &frame)?);
            }
            self.add_tuples(&mut dictionary, &cells, 1, block.place)?;
            if nullable {
                let nulls = vec![Value::Null; component.keys.len()].into_boxed_slice();
                dictionary.null = Some(dictionary.add(nulls));
            }
            self.tuples.insert((block.id, number), dictionary);
            return Ok(true);
        }
        let limit = if component.keys.is_empty() {
            1
        } else {
            usize::MAX
        };
        let part = Part::Constants {
            sources: component.sources,
            limit,
            fixed: None,
        };
        let found = if component.sources == 0 {
            let bound = vec![Bound::Unbound; block.sources.len()].into_boxed_slice();
            vec![Match {
                bound,
                condition: None,
            }]
        } else {
            self.matches(block, None, part)?
        };
        self.note_tuples(block, component, &found, &mut dictionary)?;
        self.tuples.insert((block.id, number), dictionary);
        Ok(!found.is_empty())
    }

    /// Adds the key tuples of joined rows of a component. Rows whose keys are made alike of decisions may have the same
    /// tuples, whatever each decides: those are enumerated once.
    pub(super) fn note_tuples(
        &mut self,
        block: &Block,
        component: &Component,
        found: &[Match],
        dictionary: &mut Dictionary,
    ) -> Result<()> {
        let mut kinds: HashMap<Vec<Made>, usize> = HashMap::new();
        let mut met: Vec<(Vec<Cell>, u32)> = Vec::new();
        for row in found {
            let frame = Frame {
                parent: None,
                block,
                bound: &row.bound,
                folded: None,
            };
            let mut cells = Vec::with_capacity(component.keys.len());
            for &key in &component.keys {
                cells.push(self.eval(&block.keys[key], &frame)?);
            }
            if cells.iter().all(|cell| matches!(cell, Cell::Const(_))) {
                self.add_tuples(dictionary, &cells, 1, block.place)?;
                continue;
            }
            let next = met.len();
            let kind = *kinds.entry(made_of(&cells)).or_insert(next);
            match met.get_mut(kind) {
                Some((_, count)) => *count += 1,
                None => met.push((cells, 1)),
            }
        }
        for (cells, count) in met {
            self.add_tuples(dictionary, &cells, count, block.place)?;
        }
        Ok(())
    }

    /// Adds the tuple of `cells`, or all that it may become, for so many rows.
    fn add_tuples(
        &mut self,
        dictionary: &mut Dictionary,
        cells: &[Cell],
        rows: u32,
        place: Place,
    ) -> Result<()> {
        let mut vars: Vec<graph::VarId> = Vec::new();
        for cell in cells {
            match cell {
                Cell::Const(_) => {}
                Cell::Map { var, .. } => {
                    if !vars.contains(var) {
                        vars.push(*var);
                    }
                }
                Cell::Node(_) | Cell::Ratio { .. } => {
                    let message = "GROUP BY a value computed from several decisions";
                    return Err(Error::at(ErrorKind::Unsupported, place, message));
                }
            }
        }
        let mut tuples: Vec<Vec<Value>> = vec![vec![Value::Null; cells.len()]];
        for (index, cell) in cells.iter().enumerate() {
            if let Cell::Const(value) = cell {
                tuples[0][index] = value.key();
            }
        }
        for var in vars {
            let mirror = self.domains[self.domain_of(var).0 as usize].mirror;
            let live: Vec<u32> = self.mirrors[mirror].mirror.occupied().collect();
            let mut next = Vec::new();
            for tuple in &tuples {
                for &value in &live {
                    let mut tuple = tuple.clone();
                    for (index, cell) in cells.iter().enumerate() {
                        if let Cell::Map { var: v, map } = cell
                            && *v == var
                        {
                            tuple[index] = self.maps.entry(*map).values[value as usize].key();
                        }
                    }
                    next.push(tuple);
                }
                if next.len() as u64 > GROUPS_MAX {
                    let message = format!("more than {GROUPS_MAX} groups");
                    return Err(Error::at(ErrorKind::Limit, place, message));
                }
            }
            tuples = next;
        }
        for tuple in tuples {
            let number = dictionary.add(tuple.into_boxed_slice());
            dictionary.set_count(number, dictionary.count(number).saturating_add(rows));
        }
        Ok(())
    }
}
