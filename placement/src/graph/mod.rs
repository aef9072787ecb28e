//! The expression graph over decisions: what the compiler builds, what both solvers search, what explanations read.
//!
//! A policy in SQL becomes, after everything constant has been evaluated by the tables, expressions over *decisions*.
//! Three shapes carry all of them:
//!
//! - scalar expressions ([`Expr`]), hash-consed, three-valued, over columns looked up at a decision's value
//!   ([`Expr::Lookup`]) and over folds of groups ([`Expr::Agg`]);
//! - [bags](Row): conditional rows in factored form, each of which falls into the bucket that its key names. A join on a
//!   decision is never multiplied out: a term is (constant part, column over the decision's domain, cells);
//! - roots: expressions that must not be FALSE, or that are summed in a tier. A policy over *all* groups of a bag is
//!   one [lazy template](LazySpec) rather than a root per group, and costs nothing for groups without rows.
//!
//! The same [`Model`] is evaluated in three independent ways, held equal by tests: incrementally with undo
//! (`state`), from scratch by the definitions of SQL ([`reference`](mod@reference)), and, encoded, by the exact solver.
//!
//! What the graph does not know: SQL, names, text, time, and what a shard is.

mod bag;
mod bucket;
mod buckets;
mod expr;
mod hash;
mod ids;
mod model;
mod node;
#[cfg(test)]
pub(crate) mod random;
mod read;
pub mod reference;
mod root;
mod seal;
mod state;
mod template;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod value;

pub use bag::{BagSpec, Cell, Key, LazySpec, Row};
pub use expr::{Agg, CmpOp, Expr, Fold, Template};
pub use ids::{BagId, DomainId, ExprId, LazyId, MapId, RootId, RowId, SetId, VarId};
pub use model::{Model, ModelError, Nullable, VarSpec};
pub(crate) use read::violations;
pub use read::{Probe, RowRef, Violation};
pub use root::RootKind;

/// Mistakes that tests plant, to see that their checks catch them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Undo forgets the tiers.
    ForgetfulUndo,
    /// A row leaves its bucket without being taken out of the sums.
    StaleSum,
    /// The exact solver's limits are one too large.
    LooseLimit,
    /// Cuts claim one more than they prove.
    BoldCut,
    /// What does not fit into the constraint solver's 32 bits goes there all the same.
    NarrowSums,
}

#[cfg(test)]
thread_local! {
    pub(crate) static PLANTED: std::cell::Cell<Option<Plant>> = const { std::cell::Cell::new(None) };
}

/// Whether a test has planted this mistake; never, outside of tests.
#[inline]
pub(crate) fn planted(plant: Plant) -> bool {
    #[cfg(test)]
    {
        PLANTED.with(|planted| planted.get() == Some(plant))
    }
    #[cfg(not(test))]
    {
        let _ = plant;
        false
    }
}

/// What the solvers see of the graph.
pub(crate) mod internal {
    pub(crate) use super::bag::{Key, Layout, LazyData};
    pub(crate) use super::bucket::Bucket;
    pub(crate) use super::hash::FxMap;
    pub(crate) use super::model::{Graph, UNSET};
    pub(crate) use super::node::{Dependent, NIL, Op};
    pub(crate) use super::root::RootKind;
    pub(crate) use super::state::{Broken, Mark, State, Totals, in_set, soft_term};
    pub(crate) use super::template::{bucket_constant, template_folds};
    pub(crate) use super::value::{NULL, Val, is_special, is_true, widen};
}
