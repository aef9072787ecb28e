//! The builder: domains, columns, decisions; and the errors of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bag::Bags;
use super::hash::FxMap;
use super::ids::{DomainId, ExprId, MapId, SetId, VarId};
use super::node::Nodes;
use super::root::Roots;
use super::state::State;
use super::value::NULL_64;

/// No value: not yet placed, or NULL where the column allows it.
pub(crate) const UNSET: u32 = u32::MAX;

/// Whether NULL is one of the values that a decision may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nullable {
    /// The decision must have a value.
    No,
    /// The decision may stay NULL.
    Yes,
}

/// A decision, as it is declared.
#[derive(Clone, Debug)]
pub struct VarSpec {
    /// Where its values come from.
    pub domain: DomainId,
    /// The values it may take, sorted; the whole domain where `None`. Equal lists are stored once.
    pub allowed: Option<Vec<u32>>,
    /// Whether it may be NULL.
    pub nullable: Nullable,
    /// The value it has now; `None` when it is not placed yet (or is NULL).
    pub current: Option<u32>,
    /// Variables that belong together (the replicas and the leader of one shard) share a number. Neighbourhoods and
    /// bounds work on whole blocks.
    pub block: u32,
}

/// What a model refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A value does not fit: a constant of −2⁶³, a folded constant beyond 64 bits, a computed value beyond 127 bits.
    #[error("integer overflow")]
    Overflow,
    /// A row of a bag uses a fold of the same bag, or of a later one.
    #[error("a group depends on itself")]
    Cycle,
    /// An identifier, a cell, a value or a bucket that does not exist.
    #[error("unknown {what} {index}")]
    Unknown {
        /// Its kind.
        what: &'static str,
        /// Its number.
        index: u64,
    },
    /// A variable cannot be removed while rows or roots use it.
    #[error("variable {0} is still in use")]
    InUse(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub len: u32,
    pub retired: Vec<bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub domain: DomainId,
    /// One entry per value of the domain; [`NULL_64`] is NULL.
    pub image: Vec<i64>,
    /// One more than the greatest entry that there ever was, as the key of a bucket.
    pub key_bound: u32,
}

/// The bound on keys that an entry implies.
pub(crate) fn key_bound_of(image: i64) -> u32 {
    u32::try_from(image.max(-1).saturating_add(1)).unwrap_or(u32::MAX)
}

/// Decisions, one array per attribute: the search reads one attribute of many variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vars {
    pub domain: Vec<DomainId>,
    /// Index into `value_sets`, [`UNSET`] for the whole domain.
    pub allowed: Vec<u32>,
    pub nullable: Vec<Nullable>,
    pub current: Vec<u32>,
    pub block: Vec<u32>,
    pub alive: Vec<bool>,
    /// For a shadow the variable whose present value it has, else [`UNSET`].
    pub shadow_of: Vec<u32>,
    /// The shadow of a variable, or [`UNSET`].
    pub shadow: Vec<u32>,
}

/// Everything that does not change while the search runs.
///
/// Invariants: every id stored anywhere is in range; `maps[m].image.len()` is the length of its domain; a node's
/// level is greater than those of its operands; a bag's level is greater than those of its rows' expressions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub domains: Vec<Domain>,
    pub maps: Vec<Map>,
    pub sets: Vec<Arc<[i64]>>,
    pub vars: Vars,
    pub value_sets: Vec<Arc<[u32]>>,
    value_set_ids: FxMap<Arc<[u32]>, u32>,
    /// Variables of each block, in the order of their creation.
    pub blocks: Vec<Vec<VarId>>,
    pub nodes: Nodes,
    pub bags: Bags,
    pub roots: Roots,
    /// Policies that plans may break on the way, sorted.
    pub deferrable: Vec<u32>,
    /// Raised by each change of a constant, so that whoever caches something derived from constants notices.
    pub version: u64,
}

/// A model: decisions, the expressions over them, and the state of all expressions at the current values.
///
/// Build it, or change it, in any order that respects the identifiers; [`refresh`](Model::refresh) brings every
/// expression up to date, at a cost proportional to what changed since the last one.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub(crate) graph: Graph,
    pub(crate) state: State,
}

impl Graph {
    pub(crate) fn intern_values(&mut self, values: Vec<u32>) -> u32 {
        let values: Arc<[u32]> = values.into();
        if let Some(&id) = self.value_set_ids.get(&values) {
            return id;
        }
        let id = self.value_sets.len() as u32;
        self.value_sets.push(Arc::clone(&values));
        self.value_set_ids.insert(values, id);
        id
    }

    pub(crate) fn image(&self, map: MapId, value: u32) -> i64 {
        self.maps[map.index()]
            .image
            .get(value as usize)
            .copied()
            .unwrap_or(NULL_64)
    }

    /// Whether the variable's declaration and its domain allow the value (policies aside).
    pub(crate) fn permits(&self, var: VarId, value: u32) -> bool {
        let v = var.index();
        if value == UNSET {
            return self.vars.nullable[v] == Nullable::Yes;
        }
        let domain = &self.domains[self.vars.domain[v].index()];
        if value >= domain.len || domain.retired[value as usize] {
            return false;
        }
        match self.vars.allowed[v] {
            UNSET => true,
            set => self.value_sets[set as usize].binary_search(&value).is_ok(),
        }
    }
}

fn narrow(constants: &[Option<i64>]) -> Result<Vec<i64>, ModelError> {
    constants
        .iter()
        .map(|&constant| narrow_one(constant))
        .collect()
}

pub(crate) fn narrow_one(constant: Option<i64>) -> Result<i64, ModelError> {
    match constant {
        None => Ok(NULL_64),
        Some(NULL_64) => Err(ModelError::Overflow),
        Some(value) => Ok(value),
    }
}

impl Model {
    /// An empty model.
    pub fn new() -> Model {
        Model::default()
    }

    /// A domain of the values 0..len.
    pub fn add_domain(&mut self, len: u32) -> DomainId {
        let id = DomainId(self.graph.domains.len() as u32);
        self.graph.domains.push(Domain {
            len,
            retired: vec![false; len as usize],
        });
        id
    }

    /// Adds values at the end. Columns over the domain are NULL there until they are set.
    pub fn grow_domain(&mut self, domain: DomainId, len: u32) {
        let entry = &mut self.graph.domains[domain.index()];
        if len > entry.len {
            entry.len = len;
            entry.retired.resize(len as usize, false);
            for map in self
                .graph
                .maps
                .iter_mut()
                .filter(|map| map.domain == domain)
            {
                map.image.resize(len as usize, NULL_64);
            }
            self.graph.version += 1;
        }
    }

    /// Nothing may choose the value any more; a variable that has it must be decided again.
    pub fn retire_value(&mut self, domain: DomainId, value: u32) {
        self.graph.domains[domain.index()].retired[value as usize] = true;
        self.graph.version += 1;
    }

    /// Undoes [`retire_value`](Model::retire_value).
    pub fn restore_value(&mut self, domain: DomainId, value: u32) {
        self.graph.domains[domain.index()].retired[value as usize] = false;
        self.graph.version += 1;
    }

    /// A column over a domain. A short column is NULL at the end.
    pub fn add_map(
        &mut self,
        domain: DomainId,
        image: Vec<Option<i64>>,
    ) -> Result<MapId, ModelError> {
        let mut image = narrow(&image)?;
        image.resize(self.graph.domains[domain.index()].len as usize, NULL_64);
        let id = MapId(self.graph.maps.len() as u32);
        let key_bound = image
            .iter()
            .map(|&entry| key_bound_of(entry))
            .max()
            .unwrap_or(0);
        self.graph.maps.push(Map {
            domain,
            image,
            key_bound,
        });
        Ok(id)
    }

    /// Changes entries of columns: (column, value, image). Cost: a look at every variable, once for all changes, and
    /// for each change the variables that have the value now and look the column up.
    pub fn set_maps(&mut self, changes: &[(MapId, u32, Option<i64>)]) -> Result<(), ModelError> {
        let mut changed = Vec::with_capacity(changes.len());
        let mut holders: BTreeMap<(DomainId, u32), Vec<VarId>> = BTreeMap::new();
        for &(map, value, image) in changes {
            let image = narrow_one(image)?;
            let entry = &self.graph.maps[map.index()];
            let Some(&old) = entry.image.get(value as usize) else {
                return Err(ModelError::Unknown {
                    what: "value",
                    index: u64::from(value),
                });
            };
            if old != image {
                holders.insert((entry.domain, value), Vec::new());
                changed.push((map, value, image));
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let vars = &self.graph.vars;
        for v in (0..vars.alive.len()).filter(|&v| vars.alive[v]) {
            if let Some(list) = holders.get_mut(&(vars.domain[v], self.state.assignment[v])) {
                list.push(VarId(v as u32));
            }
        }
        for (map, value, image) in changed {
            let domain = self.graph.maps[map.index()].domain;
            let holders = &holders[&(domain, value)];
            self.state
                .change_map(&mut self.graph, map, value, image, holders);
        }
        self.graph.version += 1;
        Ok(())
    }

    /// A set for [`Expr::InSet`](super::Expr::InSet).
    pub fn add_set(&mut self, mut members: Vec<i64>) -> SetId {
        members.sort_unstable();
        members.dedup();
        let id = SetId(self.graph.sets.len() as u32);
        self.graph.sets.push(members.into());
        id
    }

    /// A decision.
    pub fn add_var(&mut self, spec: VarSpec) -> VarId {
        let allowed = match spec.allowed {
            None => UNSET,
            Some(values) => {
                debug_assert!(values.is_sorted());
                self.graph.intern_values(values)
            }
        };
        let vars = &mut self.graph.vars;
        let id = VarId(vars.domain.len() as u32);
        vars.domain.push(spec.domain);
        vars.allowed.push(allowed);
        vars.nullable.push(spec.nullable);
        vars.current.push(spec.current.unwrap_or(UNSET));
        vars.block.push(spec.block);
        vars.alive.push(true);
        vars.shadow_of.push(UNSET);
        vars.shadow.push(UNSET);
        let block = spec.block as usize;
        if self.graph.blocks.len() <= block {
            self.graph.blocks.resize(block + 1, Vec::new());
        }
        self.graph.blocks[block].push(id);
        self.graph.nodes.add_var();
        self.graph.bags.add_var();
        self.state.add_var(spec.current.unwrap_or(UNSET));
        self.graph.version += 1;
        id
    }

    /// A variable that always has the present value of another one, and that nobody decides: what stands now, for
    /// policies that compare it with what is decided.
    pub fn shadow(&mut self, var: VarId) -> VarId {
        let vars = &mut self.graph.vars;
        let v = var.index();
        if vars.shadow[v] != UNSET {
            return VarId(vars.shadow[v]);
        }
        let id = vars.domain.len() as u32;
        vars.domain.push(vars.domain[v]);
        vars.allowed.push(vars.allowed[v]);
        vars.nullable.push(vars.nullable[v]);
        vars.current.push(vars.current[v]);
        vars.block.push(vars.block[v]);
        vars.alive.push(true);
        vars.shadow_of.push(var.0);
        vars.shadow.push(UNSET);
        vars.shadow[v] = id;
        let current = vars.current[v];
        self.graph.nodes.add_var();
        self.graph.bags.add_var();
        self.state.add_var(current);
        self.graph.version += 1;
        VarId(id)
    }

    /// Removes a decision that nothing uses any more.
    pub fn remove_var(&mut self, var: VarId) -> Result<(), ModelError> {
        let v = var.index();
        let shadow = self.graph.vars.shadow[v];
        for used in [var.0, shadow].into_iter().filter(|&used| used != UNSET) {
            let used = VarId(used);
            if self.graph.nodes.var_in_use(used) {
                // What has lost its last use since the last refresh is no use.
                self.graph.nodes.collect();
            }
            if self.graph.nodes.var_in_use(used) || self.graph.bags.var_in_use(used) {
                return Err(ModelError::InUse(used.0));
            }
        }
        if shadow != UNSET {
            self.graph.vars.alive[shadow as usize] = false;
        }
        self.graph.vars.alive[v] = false;
        let block = self.graph.vars.block[v] as usize;
        self.graph.blocks[block].retain(|&other| other != var);
        self.graph.version += 1;
        Ok(())
    }

    /// Changes the values that a variable may take.
    pub fn set_allowed(&mut self, var: VarId, allowed: Option<Vec<u32>>) {
        let allowed = match allowed {
            None => UNSET,
            Some(values) => self.graph.intern_values(values),
        };
        self.graph.vars.allowed[var.index()] = allowed;
        self.graph.version += 1;
    }

    /// Changes the present value of a variable, and everything that depends on it.
    pub fn set_current(&mut self, var: VarId, current: Option<u32>) {
        let current = current.unwrap_or(UNSET);
        self.graph.vars.current[var.index()] = current;
        self.state.assign(&self.graph, var, current);
        let shadow = self.graph.vars.shadow[var.index()];
        if shadow != UNSET {
            self.graph.vars.current[shadow as usize] = current;
            self.state.assign(&self.graph, VarId(shadow), current);
        }
    }

    /// Supposes that a variable had a value, for the expressions that are read next; its present value stays what it
    /// is, and whoever supposes takes it back.
    pub(crate) fn suppose(&mut self, var: VarId, value: Option<u32>) {
        self.state.assign(&self.graph, var, value.unwrap_or(UNSET));
    }

    /// The present value of a variable.
    pub fn current(&self, var: VarId) -> Option<u32> {
        match self.graph.vars.current[var.index()] {
            UNSET => None,
            value => Some(value),
        }
    }

    /// Keeps an expression that nothing uses yet across refreshes, until [`release`](Model::release).
    pub fn keep(&mut self, expr: ExprId) {
        self.graph.nodes.acquire(expr.0);
    }

    /// Undoes one [`keep`](Model::keep).
    pub fn release(&mut self, expr: ExprId) {
        self.graph.nodes.release(expr.0);
    }

    /// Expressions that exist now.
    pub fn expression_count(&self) -> u64 {
        self.graph.nodes.count()
    }

    /// Hard rows of this policy need to hold at the end of a plan only, not in its middle.
    pub fn set_deferrable(&mut self, policy: u32) {
        if let Err(index) = self.graph.deferrable.binary_search(&policy) {
            self.graph.deferrable.insert(index, policy);
        }
    }

    /// The domain of a variable.
    pub fn domain_of(&self, var: VarId) -> DomainId {
        self.graph.vars.domain[var.index()]
    }

    /// The variables of a variable's block.
    pub fn block_of(&self, var: VarId) -> &[VarId] {
        &self.graph.blocks[self.graph.vars.block[var.index()] as usize]
    }

    /// The values that a variable's declaration and its domain allow, policies aside.
    pub fn permitted_values(&self, var: VarId) -> Vec<u32> {
        let len = self.graph.domains[self.domain_of(var).index()].len;
        (0..len)
            .filter(|&value| self.graph.permits(var, value))
            .collect()
    }

    /// Live variables, in the order of their creation.
    pub fn vars(&self) -> impl Iterator<Item = VarId> + '_ {
        let vars = &self.graph.vars;
        (0..vars.alive.len())
            .filter(|&v| vars.alive[v] && vars.shadow_of[v] == UNSET)
            .map(|v| VarId(v as u32))
    }
}
