//! Groups whose keys changed with a row: a node's capacity is part of its group's name.
//!
//! Groups are numbered, and rows are in buckets by number. A changed key gives a number another name: the bucket and
//! its rows stay, only the constants that its template reads are told. Where no name can be given on (a zone that
//! appears, or loses its last node) numbers are added, or stay unused; a template is idle on a group without rows, so
//! an unused number says nothing. A group with an expression of its own is one that goes and one that comes
//! ([`super::turnover`]).

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Compiler;
use super::constants::Stale;
use super::delta::{Of, rebuild};
use super::group::{Component, Dictionary, Grouping};
use super::join::{Bound, Frame};
use super::reads::Reads;
use super::resolved::{Block, RelationId};
use super::view::ViewOf;
use crate::error::Result;
use crate::tables::Value;

/// The key tuple that a changed row had, and the one that it has.
#[derive(Clone, Debug)]
pub(super) struct Rename {
    pub of: Of,
    pub component: usize,
    pub old: Box<[Value]>,
    pub new: Box<[Value]>,
    /// Whether rows of the bag come from rows of the source, and rely on the number.
    pub rowed: bool,
}

impl Compiler {
    /// The number of the only component that a source is by itself, where its rows have a key tuple of their own.
    pub(super) fn own_component(&self, of: Of, source: usize) -> Option<usize> {
        let components = &self.grouping_of_ref(of)?.components;
        let alone = |c: &Component| c.sources == 1 << source && !c.keys.is_empty();
        let number = components.iter().position(alone)?;
        let block = self.block_of(of);
        let conditioned = block
            .conditions
            .iter()
            .any(|c| !c.decision && c.sources >> source & 1 == 1);
        (!conditioned).then_some(number)
    }

    /// The key tuple of a row of a source that is a component by itself.
    pub(super) fn tuple_of(
        &mut self,
        of: Of,
        component: usize,
        source: usize,
        row: u32,
    ) -> Result<Option<Box<[Value]>>> {
        let block = self.block_of(of);
        let Some(grouping) = self.grouping_of_ref(of) else {
            return Ok(None);
        };
        let keys = grouping.components[component].keys.clone();
        let mut bound = vec![Bound::Unbound; block.sources.len()];
        bound[source] = Bound::Row(row);
        let frame = Frame {
            parent: None,
            block: &block,
            bound: &bound,
            folded: None,
        };
        let mut tuple = Vec::with_capacity(keys.len());
        for key in keys {
            match self.eval(&block.keys[key], &frame)? {
                super::Cell::Const(value) => tuple.push(value.key()),
                super::Cell::Map { .. } | super::Cell::Node(_) | super::Cell::Ratio { .. } => {
                    return Ok(None);
                }
            }
        }
        Ok(Some(tuple.into_boxed_slice()))
    }

    /// Brings the names of groups up to date; the (block, component) whose numbers changed.
    pub(super) fn regroup(&mut self, stale: &Stale) -> Result<BTreeSet<(usize, usize)>> {
        let mut changed = BTreeSet::new();
        for of in self.all_of() {
            let block = self.block_of(of);
            let Some(mut grouping) = self.grouping_of(of).take() else {
                if block.grouped && block.sources.iter().any(|s| is_stale(s.relation, stale)) {
                    return rebuild();
                }
                continue;
            };
            let result = self.regroup_one(of, &block, &mut grouping, stale, &mut changed);
            *self.grouping_of(of) = Some(grouping);
            result?;
        }
        self.admit_arrivals()?;
        Ok(changed)
    }

    fn regroup_one(
        &mut self,
        of: Of,
        block: &Rc<Block>,
        grouping: &mut Grouping,
        stale: &Stale,
        changed: &mut BTreeSet<(usize, usize)>,
    ) -> Result<()> {
        for (number, component) in grouping.components.clone().iter().enumerate() {
            if !self.is_stale(of, block, number, component, stale) {
                continue;
            }
            if component.keys.is_empty() {
                // Whether it has any row at all decides whether there are groups.
                return rebuild();
            }
            let name = (block.id, number);
            let Some(mut known) = self.tuples.remove(&name) else {
                return rebuild();
            };
            let filled = self.fill_dictionary(block, number, component);
            let fresh = self.tuples.remove(&name);
            let renamed = match (filled, fresh) {
                (Ok(true), Some(fresh)) => self.rename(of, number, &mut known, &fresh, stale),
                (Ok(_), _) => rebuild(),
                (Err(e), _) => Err(e),
            };
            let grown = known.tuples.len();
            self.tuples.insert(name, known);
            let renamed = renamed?;
            changed.insert(name);
            if renamed.is_empty() {
                continue;
            }
            let others = grouping.components.iter().filter(|c| c.keyed).count() > 1;
            if others && component.keyed && renamed.iter().any(|&n| n as usize + 1 == grown) {
                // Numbers of several components make one key, in a radix that may have grown.
                return rebuild();
            }
            match of {
                Of::Policy(policy) if self.policies[policy].template.is_some() => {
                    self.introduce_names(policy, grouping, number, &renamed)?;
                }
                Of::Policy(_) | Of::View(_) => {
                    self.replace_groups(of, block, grouping, number, &renamed)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the tuples of a component can have changed.
    fn is_stale(
        &self,
        of: Of,
        block: &Block,
        number: usize,
        component: &Component,
        stale: &Stale,
    ) -> bool {
        if stale
            .renames
            .iter()
            .any(|r| r.of == of && r.component == number)
        {
            return true;
        }
        if let Some((_, mirror, decision)) = component.decision {
            let domain = self.mirrors[mirror].decisions[decision].domain;
            return stale.values.iter().any(|(d, _)| *d == domain);
        }
        let bindings = self.bindings(block.id);
        let reads = self.reads_of(of);
        for source in (0..block.sources.len()).filter(|s| component.sources >> s & 1 == 1) {
            let mirror = match block.sources[source].relation {
                RelationId::Mirror(mirror) => mirror,
                // Keys that a view makes of decisions are columns over domains.
                RelationId::View(view) if component.keyed && self.view_is_stale(view, stale) => {
                    return true;
                }
                RelationId::View(_) => continue,
            };
            if component.keyed && self.lookups_are_stale(block, &reads, mirror, stale) {
                return true;
            }
            if bindings.rows >> source & 1 == 0
                && let Some(columns) = stale.mirrors.get(&mirror)
                && reads[source].any(columns)
            {
                return true;
            }
        }
        false
    }

    /// Whether what the decisions of a mirror look up, for a block, has changed.
    fn lookups_are_stale(
        &self,
        block: &Block,
        reads: &[Reads],
        mirror: usize,
        stale: &Stale,
    ) -> bool {
        self.mirrors[mirror].decisions.iter().any(|decision| {
            let over = RelationId::Mirror(decision.mirror);
            let read = |columns: &BTreeSet<usize>| {
                let mut sources = block.sources.iter().zip(reads);
                sources.any(|(s, reads)| s.relation == over && reads.any(columns))
                    || (decision.columns.iter()).any(|c| columns.contains(&c.domain_column))
            };
            stale.mirrors.get(&decision.mirror).is_some_and(read)
                || stale.values.iter().any(|(d, _)| *d == decision.domain)
        })
    }

    /// Whether what a view looks up by decisions has changed.
    fn view_is_stale(&self, view: usize, stale: &Stale) -> bool {
        let ViewOf { block, reads, .. } = &self.views[view];
        block.sources.iter().any(|source| match source.relation {
            RelationId::Mirror(mirror) => self.lookups_are_stale(block, reads, mirror, stale),
            RelationId::View(inner) => self.view_is_stale(inner, stale),
        })
    }

    /// Makes the known names those of `fresh`; the numbers that have another name now.
    fn rename(
        &mut self,
        of: Of,
        component: usize,
        known: &mut Dictionary,
        fresh: &Dictionary,
        stale: &Stale,
    ) -> Result<BTreeSet<u32>> {
        let mut renamed = BTreeSet::new();
        for rename in &stale.renames {
            if rename.of != of || rename.component != component || rename.old == rename.new {
                continue;
            }
            let gone = fresh.number(&rename.old).is_none();
            match known.number(&rename.old) {
                Some(number) if gone && known.number(&rename.new).is_none() => {
                    self.check_names(known, &rename.new)?;
                    known.rename(number, rename.new.clone());
                    renamed.insert(number);
                }
                Some(_) | None if rename.rowed => return rebuild(),
                Some(_) | None => {}
            }
        }
        let gone: Vec<u32> = (known.used())
            .filter(|&n| fresh.number(&known.tuples[n as usize]).is_none())
            .collect();
        for number in gone {
            known.retire(number);
            renamed.insert(number);
        }
        for tuple in &fresh.tuples {
            if known.number(tuple).is_none() {
                self.check_names(known, tuple)?;
                renamed.insert(known.reuse(tuple.clone()));
            }
        }
        for number in fresh.used() {
            if let Some(own) = known.number(&fresh.tuples[number as usize]) {
                known.set_count(own, fresh.count(number));
            }
        }
        Ok(renamed)
    }

    /// A key with a NULL, a 0 or a type that no key had before breaks what the template relied on.
    pub(super) fn check_names(&self, known: &Dictionary, tuple: &[Value]) -> Result<()> {
        for (position, value) in tuple.iter().enumerate() {
            let class = |value: &Value| match value {
                Value::Null => 0,
                Value::Integer(0) | Value::Decimal(0) => 1,
                Value::Integer(_) => 2,
                Value::Decimal(_) => 3,
                Value::Text(_) => 4,
            };
            let met = known
                .tuples
                .iter()
                .any(|t| class(&t[position]) == class(value));
            if !met {
                return rebuild();
            }
        }
        Ok(())
    }
}

fn is_stale(relation: RelationId, stale: &Stale) -> bool {
    match relation {
        RelationId::Mirror(mirror) => stale.mirrors.contains_key(&mirror),
        RelationId::View(_) => false,
    }
}
