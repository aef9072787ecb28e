//! Groups with expressions of their own, and rows of views, that come and go with rows.
//!
//! Which groups there are follows from constants alone ([`super::components`]), so a changed row can give a group its
//! first row or take its last: the first node of a zone, the last shard of a tenant. A template need not know, for it
//! is idle on a group without rows; a group that a policy judges by an expression of its own, or that is a row of a
//! view, comes or goes with the tuple of its keys. How many rows of a component have each tuple is counted; a tuple
//! whose count leaves or reaches zero has *crossed*, and once the change is in the tables its groups are made or taken
//! away.
//!
//! A row of a view is a row like any other to what reads the view: it is joined when it comes, and takes what came of
//! it away when it goes. Rows that come wait until all blocks have met the changed row itself, and then come one by
//! one: so a row that joins both the changed row and a row of the view that follows from it is met once.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Compiler;
use super::delta::{Of, Reach, rebuild};
use super::eval::ConditionalRow;
use super::folded::Group;
use super::group::{Component, Dictionary, GROUPS_MAX, Grouping};
use super::join::Part;
use super::joined::Handle;
use super::resolved::{Block, RelationId};
use crate::error::Result;

/// Stands for a group whose row has not come to its view yet.
const WAITS: u32 = u32::MAX;

/// Where a row of a view comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// The rows joined, by source.
    Joined(Box<[u32]>),
    /// A group, by part and key.
    Group(u32, u32),
}

/// A row that is to come to a view.
#[derive(Debug)]
pub(super) struct Arrival {
    view: usize,
    row: ConditionalRow,
    origin: Origin,
}

impl Compiler {
    /// Whether the groups of a block have expressions of their own.
    pub(super) fn has_own_groups(&self, of: Of) -> bool {
        let template = match of {
            Of::Policy(policy) => self.policies[policy].template.is_some(),
            Of::View(_) => false,
        };
        (self.grouping_of_ref(of)).is_some_and(|grouping| grouping.keys > 0 && !template)
    }

    /// Whether the rows of a component can be counted as they come and go, one source at a time.
    pub(super) fn is_counted(&self, block: &Block, component: &Component) -> bool {
        let sources = (0..block.sources.len()).filter(|s| component.sources >> s & 1 == 1);
        let mut relations: Vec<RelationId> = sources.map(|s| block.sources[s].relation).collect();
        let count = relations.len();
        relations.sort_unstable();
        relations.dedup();
        let views = relations.iter().any(|r| matches!(r, RelationId::View(_)));
        relations.len() == count && (count == 1 || !views)
    }

    /// Takes away what came of a row that is about to change or go.
    pub(super) fn leave(&mut self, of: Of, source: usize, row: u32) -> Result<()> {
        self.recount(of, source, row, |count| count.checked_sub(1))?;
        self.take_away(of, source, row)
    }

    /// Adds what comes of a row that has changed or come. [`Compiler::turn_over`] follows.
    pub(super) fn enter(&mut self, of: Of, source: usize, row: u32) -> Result<()> {
        self.recount(of, source, row, |count| count.checked_add(1))?;
        self.name_groups(of, source, row)?;
        self.bring(of, source, row)
    }

    /// The key tuples that a row has, or may get by its decisions, in a component of a block; each with how often.
    fn tuples_of_row(
        &mut self,
        block: &Block,
        component: &Component,
        fixed: (usize, u32),
    ) -> Result<Dictionary> {
        let part = Part::Constants {
            sources: component.sources,
            limit: usize::MAX,
            fixed: Some(fixed),
        };
        let found = self.matches(block, None, part)?;
        let mut met = Dictionary::default();
        self.note_tuples(block, component, &found, &mut met)?;
        Ok(met)
    }

    /// Numbers the groups in which decisions may put a row that has come, where a template judges them.
    fn name_groups(&mut self, of: Of, source: usize, row: u32) -> Result<()> {
        let Of::Policy(policy) = of else {
            return Ok(());
        };
        if self.policies[policy].template.is_none() || !self.is_there(of, source, row) {
            return Ok(());
        }
        let block = self.block_of(of);
        let Some(grouping) = self.grouping_of(of).take() else {
            return Ok(());
        };
        let result = self.name_keyed_groups(policy, &block, &grouping, (source, row));
        *self.grouping_of(of) = Some(grouping);
        result
    }

    fn name_keyed_groups(
        &mut self,
        policy: usize,
        block: &Block,
        grouping: &Grouping,
        fixed: (usize, u32),
    ) -> Result<()> {
        for (number, component) in grouping.components.iter().enumerate() {
            let part_of_it = component.sources >> fixed.0 & 1 == 1;
            if !part_of_it || component.keys.is_empty() || !component.keyed {
                continue;
            }
            let name = (block.id, number);
            let met = self.tuples_of_row(block, component, fixed)?;
            let Some(mut known) = self.tuples.remove(&name) else {
                return rebuild();
            };
            let mut named = BTreeSet::new();
            let mut first = Vec::new();
            let mut result = Ok(());
            for tuple in &met.tuples {
                if known.number(tuple).is_none() {
                    result = result.and_then(|()| self.check_names(&known, tuple));
                    named.insert(known.add(tuple.clone()));
                    first.push(tuple.clone());
                }
            }
            self.tuples.insert(name, known);
            result?;
            self.number_entries(name, &first)?;
            if named.is_empty() {
                continue;
            }
            if grouping.components.iter().filter(|c| c.keyed).count() > 1 {
                // Numbers of several components make one key, in a radix that has grown.
                return rebuild();
            }
            self.introduce_names(policy, grouping, number, &named)?;
        }
        Ok(())
    }

    /// Counts the key tuples that a row brings, or takes away, where groups come and go with them.
    fn recount(
        &mut self,
        of: Of,
        source: usize,
        row: u32,
        step: impl Fn(u32) -> Option<u32>,
    ) -> Result<()> {
        if !self.has_own_groups(of) || !self.is_there(of, source, row) {
            return Ok(());
        }
        let block = self.block_of(of);
        let components = self.grouping_of_ref(of).map(|g| g.components.clone());
        for (number, component) in components.unwrap_or_default().iter().enumerate() {
            if component.sources >> source & 1 == 0 || component.keys.is_empty() {
                continue;
            }
            let met = self.tuples_of_row(&block, component, (source, row))?;
            let Some(known) = self.tuples.get_mut(&(block.id, number)) else {
                return rebuild();
            };
            let mut crossed = Vec::new();
            let mut first = Vec::new();
            for own in met.used() {
                let tuple = &met.tuples[own as usize];
                let of_tuple = known.reuse(tuple.clone());
                let before = known.count(of_tuple);
                if before == 0 {
                    first.push(tuple.clone());
                }
                let mut count = before;
                for _ in 0..met.count(own) {
                    let Some(next) = step(count) else {
                        return rebuild();
                    };
                    count = next;
                }
                known.set_count(of_tuple, count);
                if (before == 0) != (count == 0) {
                    crossed.push((of_tuple, before > 0));
                }
            }
            if component.keyed {
                self.number_entries((block.id, number), &first)?;
            }
            if let Some(grouping) = self.grouping_of(of) {
                for (tuple, had_rows) in crossed {
                    grouping.crossed.entry((number, tuple)).or_insert(had_rows);
                }
            }
        }
        Ok(())
    }

    fn is_there(&self, of: Of, source: usize, row: u32) -> bool {
        match self.block_of(of).sources[source].relation {
            RelationId::Mirror(mirror) => self.mirrors[mirror].mirror.row(row).is_some(),
            RelationId::View(view) => self.views[view].row(row).is_some(),
        }
    }

    /// Makes the groups whose keys have come, and takes away those whose keys have gone.
    pub(super) fn turn_over(&mut self, of: Of) -> Result<()> {
        let block = self.block_of(of);
        let own = self.has_own_groups(of);
        let Some(mut grouping) = self.grouping_of(of).take() else {
            return Ok(());
        };
        let result = self.turn_over_groups(of, &block, &mut grouping, own);
        *self.grouping_of(of) = Some(grouping);
        result
    }

    fn turn_over_groups(
        &mut self,
        of: Of,
        block: &Rc<Block>,
        grouping: &mut Grouping,
        own: bool,
    ) -> Result<()> {
        let unnamed = own && grouping.components.iter().any(|c| c.keys.is_empty());
        let certain = block.keys.is_empty() && grouping.cells.iter().any(|c| c.certain > 0);
        if (unnamed || certain) && self.model.row_count(grouping.bag) == 0 {
            // All groups went with the last row, or what was never NULL is now.
            return rebuild();
        }
        for ((component, number), had_rows) in std::mem::take(&mut grouping.crossed) {
            let name = (block.id, component);
            let has_rows = self.tuples.get(&name).is_some_and(|d| d.count(number) > 0);
            if !has_rows
                && let Some(dictionary) = self.tuples.get_mut(&name)
                && dictionary.is_used(number)
            {
                // Its groups are taken away by number, before anything else can get the number.
                let tuple = dictionary.tuples[number as usize].clone();
                dictionary.retire(number);
                if grouping.components[component].keyed {
                    self.number_entries(name, &[tuple])?;
                }
            }
            if had_rows == has_rows {
                continue;
            }
            let keyed: Vec<&Component> = grouping.components.iter().filter(|c| c.keyed).collect();
            if keyed.len() > 1 && grouping.components[component].keyed {
                return rebuild();
            }
            self.replace_groups(of, block, grouping, component, &BTreeSet::from([number]))?;
        }
        Ok(())
    }

    /// Takes away the groups of some numbers of a component, and makes those that have a name now.
    pub(super) fn replace_groups(
        &mut self,
        of: Of,
        block: &Rc<Block>,
        grouping: &mut Grouping,
        component: usize,
        numbers: &BTreeSet<u32>,
    ) -> Result<()> {
        for &number in numbers {
            let groups = self.groups_of_number(grouping, component, number)?;
            for (part, key) in &groups {
                match grouping.standing.remove(&(*part, *key)) {
                    Some(WAITS) => self.arrivals.retain(|a| match a.origin {
                        Origin::Group(p, k) => (Of::View(a.view), p, k) != (of, *part, *key),
                        Origin::Joined(_) => true,
                    }),
                    Some(row) => self.drop_row(of, row)?,
                    None => {}
                }
            }
            let used = self.tuples.get(&(block.id, component));
            if !used.is_some_and(|dictionary| dictionary.is_used(number)) {
                continue;
            }
            for (part, key) in groups {
                let (values, optional) = self.group_values(grouping, part, key);
                let group = Group {
                    part,
                    key,
                    values,
                    optional,
                };
                self.make_group(of, block, grouping, group)?;
            }
        }
        Ok(())
    }

    fn make_group(
        &mut self,
        of: Of,
        block: &Rc<Block>,
        grouping: &mut Grouping,
        group: Group,
    ) -> Result<()> {
        let (part, key) = (group.part, group.key);
        match of {
            Of::Policy(policy) => {
                let goal = Rc::clone(&self.policies[policy].goal);
                self.compile_group(policy, block, &goal, grouping, group)
            }
            Of::View(view) => {
                if let Some(row) = self.group_row(block, grouping, &group, None)? {
                    grouping.standing.insert((part, key), WAITS);
                    self.announce(view, row, Origin::Group(part, key));
                }
                Ok(())
            }
        }
    }

    /// The (part, key) of all groups whose tuple of a component has a number.
    fn groups_of_number(
        &self,
        grouping: &mut Grouping,
        component: usize,
        number: u32,
    ) -> Result<Vec<(u32, u32)>> {
        let mut parts: Vec<Vec<u32>> = vec![Vec::new()];
        let mut keys: Vec<u64> = vec![0];
        for (index, of) in grouping.components.iter().enumerate() {
            let Some(dictionary) = self.tuples.get(&(grouping.block, index)) else {
                return rebuild();
            };
            let numbers: Vec<u32> = match index == component {
                true => vec![number],
                false => dictionary.used().collect(),
            };
            let size = dictionary.tuples.len() as u64;
            if of.keyed {
                let next = |key: u64| numbers.iter().map(move |&n| key * size + u64::from(n));
                keys = keys.into_iter().flat_map(next).collect();
            } else {
                let next = |part: Vec<u32>| {
                    let longer = |&n: &u32| part.iter().copied().chain([n]).collect::<Vec<_>>();
                    numbers.iter().map(longer).collect::<Vec<_>>()
                };
                parts = parts.into_iter().flat_map(next).collect();
            }
            if (parts.len() as u64).saturating_mul(keys.len() as u64) > GROUPS_MAX {
                return rebuild();
            }
        }
        let mut groups = Vec::with_capacity(parts.len() * keys.len());
        for part in parts {
            let part = grouping.part_of(part.into_boxed_slice());
            let all = keys
                .iter()
                .map(|&key| u32::try_from(key).unwrap_or(u32::MAX));
            groups.extend(all.map(|key| (part, key)));
        }
        Ok(groups)
    }

    /// Takes a row away from a policy or from a view, and from all that reads the view.
    pub(super) fn drop_row(&mut self, of: Of, row: u32) -> Result<()> {
        match of {
            Of::Policy(policy) => {
                // A soft cell that still waits has no root yet to be removed by.
                if !self.softs.is_empty() && self.add_softs().is_err() {
                    return rebuild();
                }
                let of = &mut self.policies[policy];
                if let Some(root) = of.roots[row as usize].take() {
                    self.model.remove_root(root);
                }
                of.free_rows.push(row);
                Ok(())
            }
            Of::View(view) => self.drop_view_row(view, row),
        }
    }

    fn drop_view_row(&mut self, view: usize, row: u32) -> Result<()> {
        let readers = self.readers_of(view)?;
        for &(of, source) in &readers {
            self.leave(of, source, row)?;
        }
        if let Some(row) = self.views[view].remove(row) {
            self.release(&row);
        }
        self.turn_over_all(&readers)
    }

    /// Keeps the row of a view until it can come.
    pub(super) fn announce(&mut self, view: usize, row: ConditionalRow, origin: Origin) {
        self.keep(&row);
        self.arrivals.push_back(Arrival { view, row, origin });
    }

    /// Adds the rows of views that wait, and what comes of them.
    pub(super) fn admit_arrivals(&mut self) -> Result<()> {
        while let Some(Arrival { view, row, origin }) = self.arrivals.pop_front() {
            let number = self.views[view].insert(row);
            match origin {
                Origin::Joined(bound) => {
                    self.views[view].joined.add(&bound, Handle::Row(number));
                }
                Origin::Group(part, key) => {
                    if let Some(grouping) = &mut self.views[view].grouping {
                        grouping.standing.insert((part, key), number);
                    }
                }
            }
            let readers = self.readers_of(view)?;
            for &(of, source) in &readers {
                self.enter(of, source, number)?;
            }
            self.turn_over_all(&readers)?;
        }
        Ok(())
    }

    fn turn_over_all(&mut self, readers: &[(Of, usize)]) -> Result<()> {
        let all: BTreeSet<Of> = readers.iter().map(|&(of, _)| of).collect();
        all.into_iter().try_for_each(|of| self.turn_over(of))
    }

    /// The blocks that have a view among their sources, where they can follow its rows.
    fn readers_of(&self, view: usize) -> Result<Vec<(Of, usize)>> {
        let relation = RelationId::View(view);
        let mut readers = Vec::new();
        for of in self.all_of() {
            let block = self.block_of(of);
            if block.links.iter().any(|link| link.relation == relation) {
                return rebuild();
            }
            let sources =
                (0..block.sources.len()).filter(|&s| block.sources[s].relation == relation);
            let sources: Vec<usize> = sources.collect();
            match self.reach(of, &block, sources) {
                Reach::No => {}
                Reach::Rows(sources) => readers.extend(sources.into_iter().map(|s| (of, s))),
                Reach::Rebuild => return rebuild(),
            }
        }
        Ok(readers)
    }

    /// Keeps the nodes of a view's row: later rows are joined with cells that nothing may use yet.
    pub(super) fn keep(&mut self, row: &ConditionalRow) {
        for node in row.nodes() {
            self.model.keep(node.expr());
        }
    }

    fn release(&mut self, row: &ConditionalRow) {
        for node in row.nodes() {
            self.model.release(node.expr());
        }
    }
}
