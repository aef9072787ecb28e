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

type Tuple = Box<[Value]>;

/// The key tuple that a changed row had, and the one that it has, as the only row of a component.
#[derive(Clone, Debug)]
pub(super) struct Rename {
    pub of: Of,
    pub component: usize,
    /// `None` where the row has come.
    pub old: Option<Tuple>,
    /// `None` where it has gone.
    pub new: Option<Tuple>,
    /// Whether rows of the bag come from rows of the source, and rely on the number.
    pub rowed: bool,
}

/// What a component's numbers have become.
#[derive(Debug, Default)]
struct Renamed {
    /// The numbers that have another name now, or none.
    numbers: BTreeSet<u32>,
    /// Whether a row whose keys did not change may have another number.
    shifted: bool,
}

impl Compiler {
    /// The number of the only component that a source is by itself, where its rows have a key tuple of their own.
    pub(super) fn own_component(&self, of: Of, source: usize) -> Option<usize> {
        let components = &self.grouping_of_ref(of)?.components;
        let block = self.block_of(of);
        components.iter().position(|c| is_alone(&block, c, source))
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

    /// Brings the names of groups up to date; the (block, component) in which rows may have other numbers than their
    /// keys tell.
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
            let ours = |r: &&Rename| r.of == of && r.component == number && r.old != r.new;
            let renames: Vec<&Rename> = stale.renames.iter().filter(ours).collect();
            let again = self.is_stale(of, block, component, stale)
                || (!renames.is_empty() && !self.is_followed(block, component));
            if !again && renames.is_empty() {
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
            let renamed = match again {
                false => self.follow(&mut known, &renames),
                true => {
                    let filled = self.fill_dictionary(block, number, component);
                    match (filled, self.tuples.remove(&name)) {
                        (Ok(true), Some(fresh)) => self.rename(&mut known, &fresh, &renames),
                        (Ok(_), _) => rebuild(),
                        (Err(e), _) => Err(e),
                    }
                }
            };
            let grown = known.tuples.len();
            self.tuples.insert(name, known);
            let Renamed {
                numbers: renamed,
                shifted,
            } = renamed?;
            if shifted {
                changed.insert(name);
            }
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

    /// Whether all changes of a component's rows are told by the key tuples that they had and have.
    fn is_followed(&self, block: &Block, component: &Component) -> bool {
        let source = component.sources.trailing_zeros() as usize;
        is_alone(block, component, source) && self.looks_up(block, source)
    }

    /// Whether rows of a block reach a source through a decision.
    pub(super) fn looks_up(&self, block: &Block, source: usize) -> bool {
        let bindings = self.bindings(block.id);
        let met = bindings.lookups >> source & 1 == 1;
        let rowed = bindings.rows >> source & 1 == 1;
        met || (!rowed && self.is_looked_up_only(block, source))
    }

    /// Whether the tuples of a component can have changed in a way that only enumerating them can tell.
    fn is_stale(&self, of: Of, block: &Block, component: &Component, stale: &Stale) -> bool {
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
                && !self.is_followed(block, component)
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

    /// Counts the tuples that rows had and have, and names those that come, without looking at other rows.
    fn follow(&self, known: &mut Dictionary, renames: &[&Rename]) -> Result<Renamed> {
        let mut renamed = Renamed::default();
        for rename in renames {
            if let Some(old) = &rename.old {
                let number = known.number(old).filter(|&n| known.count(n) > 0);
                let Some(number) = number else {
                    return rebuild();
                };
                known.set_count(number, known.count(number) - 1);
                if known.count(number) == 0 {
                    renamed.numbers.insert(number);
                    match &rename.new {
                        Some(new) if known.number(new).is_none() => {
                            self.check_names(known, new)?;
                            known.rename(number, new.clone());
                        }
                        Some(_) | None => {
                            known.retire(number);
                            // Another change of the list may give the tuple, or the number, to someone else.
                            renamed.shifted |= renames.len() > 1;
                        }
                    }
                }
            }
            if let Some(new) = &rename.new {
                let number = match known.number(new) {
                    Some(number) => number,
                    None => {
                        self.check_names(known, new)?;
                        let number = known.reuse(new.clone());
                        renamed.numbers.insert(number);
                        number
                    }
                };
                known.set_count(number, known.count(number) + 1);
            }
        }
        Ok(renamed)
    }

    /// Makes the known names those of `fresh`.
    fn rename(
        &mut self,
        known: &mut Dictionary,
        fresh: &Dictionary,
        renames: &[&Rename],
    ) -> Result<Renamed> {
        let mut renamed = BTreeSet::new();
        for rename in renames {
            let (Some(old), Some(new)) = (&rename.old, &rename.new) else {
                continue;
            };
            let gone = fresh.number(old).is_none();
            match known.number(old) {
                Some(number) if gone && known.number(new).is_none() => {
                    self.check_names(known, new)?;
                    known.rename(number, new.clone());
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
        Ok(Renamed {
            numbers: renamed,
            shifted: true,
        })
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

/// Whether a source is a component by itself, with all of its rows.
fn is_alone(block: &Block, component: &Component, source: usize) -> bool {
    let mut conditions = block.conditions.iter();
    component.sources == 1 << source
        && !component.keys.is_empty()
        && !conditions.any(|c| !c.decision && c.sources >> source & 1 == 1)
}

fn is_stale(relation: RelationId, stale: &Stale) -> bool {
    match relation {
        RelationId::Mirror(mirror) => stale.mirrors.contains_key(&mirror),
        RelationId::View(_) => false,
    }
}
