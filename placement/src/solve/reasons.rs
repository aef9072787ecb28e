//! Why nothing satisfies the policies: cuts where a count proves it, the constraint solver's cores elsewhere.
//!
//! The cheap proofs are asked first: a cut over whole resources, then the blocks around one broken row, which finds a
//! shard whose own policies conflict in a cluster of any size. The whole model goes to the constraint solver only
//! where it is small enough.

use super::bound::{Cuts, Demands};
use super::candidates::{Candidates, Unary, value_at};
use super::decide::{Case, PAIRS_MAX};
use super::exact::{self, Rows};
use super::{Core, Shortage};
use crate::graph::{RowRef, VarId};

/// Broken rows whose neighbourhoods are checked for a conflict of their own.
const LOCAL_TRIES: usize = 4;
/// Walks down from a broken row to the decisions around it.
const LOCAL_SAMPLES: usize = 24;
/// Decisions of such a neighbourhood.
const LOCAL_VARS_MAX: usize = 48;

impl Case<'_> {
    /// A count that proves it.
    pub(super) fn cut(&mut self) -> Option<Core> {
        let demands = &mut Demands::default();
        let mut cuts = Cuts::new(self.graph, self.state, self.candidates, demands);
        let shortfall = cuts.shortfall()?;
        Some(Core {
            rows: shortfall.rows,
            minimal: false,
            shortage: Some(Shortage {
                needed: shortfall.needed,
                available: shortfall.available,
            }),
        })
    }

    /// The core of what the constraint solver has proved, or a decision without candidates.
    pub(super) fn core(&mut self) -> Core {
        let declared = Candidates::new(self.graph, self.candidates.vars.clone(), Unary::Kept);
        // A decision without candidates is a whole core by itself.
        let blocked = self
            .candidates
            .vars
            .iter()
            .copied()
            .find(|&var| self.candidates.of(var).is_empty());
        if let Some(var) = blocked {
            return self.core_of_one(var, &declared);
        }
        self.exact_core(&declared, Rows::All)
            .unwrap_or_else(|| Core {
                // The proof stands, its reason was not found: everything that may have to do with it.
                rows: self.broken(),
                minimal: false,
                shortage: None,
            })
    }

    /// A proof of infeasibility from the blocks around one broken row: a shard whose own policies conflict is found
    /// in a cluster of any size.
    pub(super) fn local_core(&mut self) -> Option<Core> {
        let broken: Vec<_> = self.state.broken.iter().take(LOCAL_TRIES).collect();
        for broken in broken {
            let graph = self.graph;
            let candidates = self.candidates;
            let mut search = self.hand();
            let mut vars: Vec<VarId> = Vec::new();
            for _ in 0..LOCAL_SAMPLES {
                let Some(var) = search.aim_at_broken(broken) else {
                    continue;
                };
                let block = graph.vars.block[var.index()] as usize;
                for &member in &graph.blocks[block] {
                    if candidates.is_free(member) && !vars.contains(&member) {
                        vars.push(member);
                    }
                }
                if vars.len() > LOCAL_VARS_MAX {
                    break;
                }
            }
            vars.sort_unstable();
            let declared = Candidates::new(graph, vars, Unary::Kept);
            if declared.vars.is_empty() || declared.size() > PAIRS_MAX {
                continue;
            }
            let core = self.exact_core(&declared, Rows::Closed);
            if core.is_some() {
                return core;
            }
        }
        None
    }

    /// A core that is proved minimal, if the constraint solver finds one.
    pub(super) fn smallest_core(&mut self) -> Option<Core> {
        let declared = Candidates::new(self.graph, self.candidates.vars.clone(), Unary::Kept);
        self.exact_core(&declared, Rows::All)
            .filter(|core| core.minimal)
    }

    fn exact_core(&mut self, declared: &Candidates, rows: Rows) -> Option<Core> {
        let (graph, config) = (self.graph, self.config);
        let mut budget = exact::Budget::new(config, self.abort);
        exact::core(graph, self.state, declared, rows, &mut budget)
    }

    /// The rows over one decision that leave it nothing to choose, none of them in vain.
    fn core_of_one(&self, var: VarId, declared: &Candidates) -> Core {
        let mut roots = self.candidates.unary_roots(var).to_vec();
        let blocked = |roots: &[u32]| {
            declared.of(var).iter().all(|&value| {
                roots.iter().any(|&root| {
                    let expr = self.graph.roots.root[root as usize].expr;
                    value_at(self.graph, expr.index() as u32, value) == 0
                })
            })
        };
        let mut index = 0;
        while index < roots.len() {
            let root = roots.remove(index);
            if !blocked(&roots) {
                roots.insert(index, root);
                index += 1;
            }
        }
        let mut rows: Vec<RowRef> = roots
            .into_iter()
            .map(|root| {
                let root = self.graph.roots.root[root as usize];
                RowRef::Root {
                    policy: root.policy,
                    row: root.row,
                }
            })
            .collect();
        rows.sort_unstable();
        Core {
            rows,
            minimal: true,
            shortage: None,
        }
    }
}
