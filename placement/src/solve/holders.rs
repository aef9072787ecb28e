//! Who stands where: for each value, the decisions in scope that have it. Swaps and targeted moves start here.

use super::candidates::Candidates;
use crate::graph::VarId;
use crate::graph::internal::{FxMap, Graph, UNSET};

/// Invariant: `lists[domain][value]` holds exactly the variables in scope with that value, each at `place`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holders {
    lists: Vec<Vec<Vec<VarId>>>,
    place: Vec<u32>,
    inverse: FxMap<u32, Vec<Vec<u32>>>,
}

impl Holders {
    pub(crate) fn new(graph: &Graph, candidates: &Candidates, assignment: &[u32]) -> Holders {
        let mut lists: Vec<Vec<Vec<VarId>>> = vec![Vec::new(); graph.domains.len()];
        let mut holders = Holders {
            lists: Vec::new(),
            place: vec![0; candidates.vars.len()],
            inverse: FxMap::default(),
        };
        for &var in &candidates.vars {
            let domain = graph.vars.domain[var.index()].index();
            if lists[domain].is_empty() {
                lists[domain] = vec![Vec::new(); graph.domains[domain].len as usize];
            }
        }
        holders.lists = lists;
        for (position, &var) in candidates.vars.iter().enumerate() {
            holders.insert(graph, position, var, assignment[var.index()]);
        }
        holders
    }

    fn insert(&mut self, graph: &Graph, position: usize, var: VarId, value: u32) {
        if value != UNSET {
            let list = &mut self.lists[graph.vars.domain[var.index()].index()][value as usize];
            self.place[position] = list.len() as u32;
            list.push(var);
        }
    }

    pub(crate) fn moved(
        &mut self,
        graph: &Graph,
        candidates: &Candidates,
        var: VarId,
        from: u32,
        to: u32,
    ) {
        let position = candidates.position(var);
        if from != UNSET {
            let list = &mut self.lists[graph.vars.domain[var.index()].index()][from as usize];
            let place = self.place[position] as usize;
            debug_assert_eq!(list[place], var);
            list.swap_remove(place);
            if let Some(&other) = list.get(place) {
                self.place[candidates.position(other)] = place as u32;
            }
        }
        self.insert(graph, position, var, to);
    }

    /// The variables in scope that have a value of a domain.
    #[inline]
    pub(crate) fn of(&self, domain: usize, value: u32) -> &[VarId] {
        self.lists[domain]
            .get(value as usize)
            .map_or(&[], |list| list.as_slice())
    }

    /// The values whose entry in a column is `key`.
    pub(crate) fn values_with(&mut self, graph: &Graph, map: usize, key: u32) -> &[u32] {
        let inverse = self.inverse.entry(map as u32).or_insert_with(|| {
            let mut inverse: Vec<Vec<u32>> = Vec::new();
            for (value, &image) in graph.maps[map].image.iter().enumerate() {
                if let Ok(image) = usize::try_from(image) {
                    if inverse.len() <= image {
                        inverse.resize(image + 1, Vec::new());
                    }
                    inverse[image].push(value as u32);
                }
            }
            inverse
        });
        inverse
            .get(key as usize)
            .map_or(&[], |list| list.as_slice())
    }
}
