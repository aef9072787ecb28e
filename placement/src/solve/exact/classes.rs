//! Values that nothing tells apart, counted instead of tried one by one.
//!
//! Of two hundred empty nodes in a zone it matters how many a shard uses, not which. Values are sorted into *classes*
//! by everything that the given rows ask of them: columns looked up, constants and fixed contents of their buckets,
//! rows that name them. Exchanging two values of a class in all decisions that have to do with each other turns an
//! assignment that satisfies the rows into another one. So of each class a few values stand for all, as many as there
//! are decisions that must be able to differ; a proof over those is a proof over all, and a core found over those is
//! one once the rows of the exchanged values are added.
//!
//! Decisions have to do with each other where a row cares which value it is: they share a bucket of its own (the
//! nodes of a shard are distinct), or are compared. What has only to do with what values are like (a zone, a disk)
//! joins nothing. A bucket that no assignment can overfill does not count: a shard whose nodes have room for it has
//! to do with itself alone. Where a capacity does bind, all that may stand there is joined, and classes help only
//! where they have more values than that.
//!
//! Sound whatever was overlooked in favour of telling values apart: every doubt makes a class smaller.

use std::collections::BTreeMap;

use super::super::candidates::Candidates;
use super::Hard;
use super::sorter::Sorter;
use super::touched::Touched;
use crate::graph::internal::{FxMap, Graph, State, UNSET};
use crate::graph::{MapId, VarId};

/// Whether objectives tell values apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Soft {
    Counted,
    Ignored,
}

/// A bucket of a bag, and how a root judges it.
pub(super) type Form = (u32, u32, Vec<u32>);

/// The classes of the values of each domain, and which choices must be able to differ.
///
/// Invariant: `class[d][v] == class[d][w]` only if exchanging `v` and `w` in all choices of a component maps the rows
/// that the classes were made for onto themselves.
#[derive(Debug, Default)]
pub(super) struct Classes {
    pub class: BTreeMap<usize, Vec<u32>>,
    /// The component of each choice, by one of its members.
    pub component: BTreeMap<VarId, VarId>,
    /// Parts whose buckets have one value each, with the column that names them.
    pub by_value: BTreeMap<(u32, u32), MapId>,
    /// Roots that judge one bucket alone.
    pub forms: BTreeMap<u32, (Form, u32)>,
    pub by_form: BTreeMap<(Form, u32), Vec<u32>>,
}

impl Classes {
    /// The classes for these hard rows, and for the objectives where they count.
    pub(super) fn new(
        graph: &Graph,
        state: &State,
        candidates: &Candidates,
        touched: &Touched,
        hard: &[Hard],
        soft: Soft,
    ) -> Classes {
        let mut sorter = Sorter::new(graph, state, candidates, touched);
        sorter.sort(candidates, hard, soft);
        sorter.classes
    }

    /// The same decisions with a few values of each class; `None` where that leaves all of them.
    pub(super) fn kernel(
        &self,
        graph: &Graph,
        candidates: &Candidates,
        assignment: &[u32],
    ) -> Option<Candidates> {
        let domain_of = |var: VarId| graph.vars.domain[var.index()].index();
        let mut members: BTreeMap<(VarId, usize), Vec<VarId>> = BTreeMap::new();
        for &var in self.component.keys() {
            let name = (self.component_of(var), domain_of(var));
            members.entry(name).or_default().push(var);
        }
        let mut kept: FxMap<(u32, usize), Vec<bool>> = FxMap::default();
        for ((component, domain), members) in members {
            let class = self.class.get(&domain)?;
            let mut keep = vec![false; class.len()];
            let mut room: FxMap<u32, usize> = FxMap::default();
            // Where decisions stand now comes first: what an answer need not move, it does not.
            let present = members
                .iter()
                .flat_map(|&member| tied(candidates, member))
                .map(|member| (member, assignment[member.index()]))
                .filter(|&(member, value)| candidates.permits(member, value))
                .map(|(_, value)| value);
            let all =
                (0..class.len() as u32).filter(|&v| !graph.domains[domain].retired[v as usize]);
            for value in present.chain(all).filter(|&value| value != UNSET) {
                let left = room.entry(class[value as usize]).or_insert(members.len());
                if *left > 0 && !keep[value as usize] {
                    *left -= 1;
                    keep[value as usize] = true;
                }
            }
            kept.insert((component.0, domain), keep);
        }
        let narrow = candidates.narrowed(|var, value| {
            let head = candidates.ties.head(var);
            let Some(&component) = self.component.get(&head) else {
                return true;
            };
            let component = self.root_of(component);
            let keep = kept.get(&(component.0, domain_of(var)));
            value == UNSET || keep.is_none_or(|keep| keep[value as usize])
        });
        (narrow.size() < candidates.size()).then_some(narrow)
    }

    /// The rows that a row becomes when values of a class are exchanged.
    pub(super) fn orbit(&self, graph: &Graph, row: Hard) -> Vec<Hard> {
        match row {
            Hard::Bucket { lazy, part, key } => {
                let bag = graph.bags.lazies[lazy as usize].bag.0;
                let keys = self.alike(graph, (bag, part), key);
                keys.map_or_else(
                    || vec![row],
                    |keys| {
                        let keys = keys.into_iter();
                        keys.map(|key| Hard::Bucket { lazy, part, key }).collect()
                    },
                )
            }
            Hard::Root(root) => {
                let Some((form, key)) = self.forms.get(&root) else {
                    return vec![row];
                };
                let Some(keys) = self.alike(graph, (form.0, form.1), *key) else {
                    return vec![row];
                };
                keys.into_iter()
                    .filter_map(|key| self.by_form.get(&(form.clone(), key)))
                    .flatten()
                    .map(|&root| Hard::Root(root))
                    .collect()
            }
        }
    }

    /// The buckets of a part whose values are alike.
    fn alike(&self, graph: &Graph, part: (u32, u32), key: u32) -> Option<Vec<u32>> {
        let map = *self.by_value.get(&part)?;
        let domain = graph.maps[map.index()].domain.index();
        let class = self.class.get(&domain)?;
        let retired = &graph.domains[domain].retired;
        let live = || (0..class.len() as u32).filter(|&v| !retired[v as usize]);
        let value = live().find(|&v| graph.image(map, v) == i64::from(key))?;
        let own = class[value as usize];
        let same = live().filter(|&v| class[v as usize] == own);
        Some(
            same.filter_map(|v| u32::try_from(graph.image(map, v)).ok())
                .collect(),
        )
    }

    fn component_of(&self, var: VarId) -> VarId {
        self.root_of(self.component.get(&var).copied().unwrap_or(var))
    }

    fn root_of(&self, var: VarId) -> VarId {
        let mut at = var;
        while let Some(&up) = self.component.get(&at) {
            if up == at {
                break;
            }
            at = up;
        }
        at
    }

    pub fn unite(&mut self, a: VarId, b: VarId) {
        let (a, b) = (self.component_of(a), self.component_of(b));
        self.component.insert(a.max(b), a.min(b));
    }
}

/// A choice with all that is contracted into it.
fn tied(candidates: &Candidates, head: VarId) -> Vec<VarId> {
    match candidates.ties.members(head) {
        [] => vec![head],
        members => members.to_vec(),
    }
}
