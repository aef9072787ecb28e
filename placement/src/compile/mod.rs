//! The compiler: from tables, views and constraints to the expression graph.
//!
//! 1. [`load`] and [`decisions`]: statements run or are kept; decision tables get their variables.
//! 2. [`blocks`], [`resolve`] and [`scope`]: names become positions, types are checked, constant subqueries become
//!    values.
//! 3. [`join`]: the rows of a block, decision joins factored into lookups.
//! 4. [`group`] and [`folded`]: rows are folded into bags; groups exist whatever is placed.
//! 5. [`policy`] and [`template`]: each constraint becomes hard rows or soft cells, of single rows, of groups, or of
//!    one template for all groups of a bag.
//!
//! [`cells`], [`operators`], [`fold`] and [`maps`] give operators their meaning; [`delta`] changes rows of a compiled
//! problem, and [`turnover`] the groups and rows of a [`view`] that come and go with them.
//!
//! What is built never depends on what is placed now, nor on other policies: presolve is the solvers' business.

mod blocks;
mod cells;
mod components;
mod constants;
mod decisions;
mod delta;
mod eval;
mod fold;
mod folded;
mod functions;
mod group;
mod join;
mod joined;
mod load;
mod maps;
mod operators;
mod policy;
mod present;
mod reads;
mod regroup;
mod remap;
mod resolve;
mod resolved;
mod rows;
mod scope;
mod template;
mod turnover;
mod view;
mod warnings;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

pub(crate) use cells::Cell;
use cells::Target;
pub use delta::{Change, Datum};
use eval::ConditionalRow;
use fold::Set;
use group::Dictionary;
pub(crate) use load::Goals;
use maps::{DomainRef, MapRef, Maps};
pub(crate) use policy::PolicyOf;
use resolved::RelationId;
use view::ViewOf;
pub use warnings::Warning;

use crate::dialect::ast;
use crate::error::Place;
use crate::graph;
use crate::tables::{Mirror, Symbols, Tables, Value};

/// The number of `contains` among functions.
const CONTAINS: u8 = u8::MAX;

/// Which types the values of a column have.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    text: bool,
    number: bool,
}

/// One column of a decision.
#[derive(Debug)]
pub(crate) struct DecisionColumnOf {
    /// In its own table.
    pub column: usize,
    /// In the domain's mirror.
    pub domain_column: usize,
    /// value → what the column holds.
    ids: MapRef,
}

/// A decision of a table: one column, or the columns of a composite foreign key decided together.
#[derive(Debug)]
pub(crate) struct DecisionOf {
    pub mirror: usize,
    domain: DomainRef,
    pub columns: Vec<DecisionColumnOf>,
    /// (own column, column of the domain's mirror) that must agree.
    constants: Vec<(usize, usize)>,
    nullable: bool,
    /// By slot.
    pub vars: Vec<Option<graph::VarId>>,
    place: Place,
}

/// A mirrored table, view of constants, or derived constant table.
#[derive(Debug)]
pub(crate) struct MirrorOf {
    pub mirror: Mirror,
    kinds: Vec<Kinds>,
    pub decisions: Vec<DecisionOf>,
}

impl MirrorOf {
    /// The decision that a column is part of, and its position there.
    fn decision_of(&self, column: usize) -> Option<(usize, usize)> {
        self.decisions
            .iter()
            .enumerate()
            .find_map(|(index, decision)| {
                let position = decision.columns.iter().position(|c| c.column == column)?;
                Some((index, position))
            })
    }
}

/// A domain: the rows of a mirror.
#[derive(Debug)]
struct DomainOf {
    mirror: usize,
    graph: graph::DomainId,
}

/// A decision variable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VariableOf {
    domain: DomainRef,
    nullable: bool,
    pub mirror: usize,
    pub decision: usize,
    pub slot: u32,
}

/// A compiled problem.
#[derive(Debug)]
pub(crate) struct Compiler {
    tables: Tables,
    pub symbols: Symbols,
    pub mirrors: Vec<MirrorOf>,
    by_name: BTreeMap<String, RelationId>,
    /// CREATE VIEW statements by lower-case name.
    view_statements: BTreeMap<String, ast::View>,
    constant_views: BTreeMap<String, bool>,
    opening: Vec<String>,
    decision_tables: BTreeMap<String, Vec<ast::DecisionColumn>>,
    views: Vec<ViewOf>,
    /// Rows that are to come to views ([`turnover`]).
    arrivals: VecDeque<turnover::Arrival>,
    domains: Vec<DomainOf>,
    pub variables: Vec<VariableOf>,
    blocks_of: BTreeMap<(String, Value), u32>,
    maps: Maps,
    /// Entries of columns that the graph is still to be told: (column, value, image).
    images: Vec<(graph::MapId, u32, Option<i64>)>,
    sets: Vec<Set>,
    set_numbers: BTreeMap<Set, u32>,
    /// Values of constant scalar subqueries.
    scalars: Vec<Value>,
    /// What SQLite has evaluated, to be evaluated again when its tables change.
    constants: Vec<constants::ConstantQuery>,
    /// Sets of constant queries that something other than a column over a domain was made of.
    baked_sets: BTreeSet<u32>,
    /// By block.
    bindings: Vec<reads::Bindings>,
    tuples: HashMap<(usize, usize), Dictionary>,
    subqueries: HashMap<usize, Rc<Vec<ConditionalRow>>>,
    shared_bags: HashMap<usize, (graph::BagId, u32)>,
    blocks: usize,
    target: Target,
    pub model: graph::Model,
    pub policies: Vec<PolicyOf>,
    constraints: Vec<ast::Constraint>,
    softs: Vec<policy::Soft>,
    pub warnings: Vec<Warning>,
    /// What the sums of each tier are multiples of: `1 / den`.
    pub tier_dens: BTreeMap<u32, i64>,
}
