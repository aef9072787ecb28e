//! The language of the graph: SQL's scalar expressions after the compiler has taken SQL away.
//!
//! Every value is an integer or NULL; truth is 1, 0 or NULL (Kleene's three values, as in SQL). Terms that enter the
//! graph are 64 bits wide, what is computed is 128 bits wide, so a sum cannot wrap; a product that would is reported.

use super::ids::{BagId, ExprId, MapId, SetId, VarId};

/// The six comparisons. Each is NULL when an operand is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CmpOp {
    /// `=`
    Eq,
    /// `<>`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl CmpOp {
    /// The comparison that holds exactly where this one is FALSE (NULL stays NULL).
    pub fn negated(self) -> CmpOp {
        match self {
            CmpOp::Eq => CmpOp::Ne,
            CmpOp::Ne => CmpOp::Eq,
            CmpOp::Lt => CmpOp::Ge,
            CmpOp::Le => CmpOp::Gt,
            CmpOp::Gt => CmpOp::Le,
            CmpOp::Ge => CmpOp::Lt,
        }
    }

    /// Whether it holds between two integers.
    pub fn holds(self, left: i128, right: i128) -> bool {
        match self {
            CmpOp::Eq => left == right,
            CmpOp::Ne => left != right,
            CmpOp::Lt => left < right,
            CmpOp::Le => left <= right,
            CmpOp::Gt => left > right,
            CmpOp::Ge => left >= right,
        }
    }
}

/// What is asked of a bucket. Cells are numbered within their bag.
///
/// An empty bucket counts 0; its SUM, MIN and MAX are NULL, as are those of a bucket whose cells are all NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fold {
    /// `count(*)`: rows whose condition is TRUE.
    CountRows,
    /// `count(cell)`: of those, the rows whose cell is not NULL.
    Count(u8),
    /// `sum(cell)`
    Sum(u8),
    /// `min(cell)`
    Min(u8),
    /// `max(cell)`
    Max(u8),
    /// `count(distinct cell)`; NULL is not counted.
    CountDistinct(u8),
}

/// A fold of one bucket of a bag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agg {
    /// The bag.
    pub bag: BagId,
    /// Constant half of the bucket's name.
    pub part: u32,
    /// The other half: what a row's [`Key`](super::Key) evaluates to.
    pub key: u32,
    /// The fold.
    pub fold: Fold,
}

/// One expression over expressions that exist already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A constant.
    Const(Option<i64>),
    /// The column of the value that the variable has: `n.zone` where `n.node_id = r.controllable__node`.
    /// NULL while the variable has no value.
    Lookup {
        /// The decision.
        var: VarId,
        /// The column, over the variable's domain.
        map: MapId,
    },
    /// `-a`
    Neg(ExprId),
    /// `a + b`
    Add(ExprId, ExprId),
    /// `a - b`
    Sub(ExprId, ExprId),
    /// `a * b`
    Mul(ExprId, ExprId),
    /// `a / b`, truncating; NULL where `b` is 0.
    Div(ExprId, ExprId),
    /// `a % b`, with the sign of `a`; NULL where `b` is 0.
    Rem(ExprId, ExprId),
    /// A comparison.
    Cmp(CmpOp, ExprId, ExprId),
    /// Kleene's conjunction; TRUE when there are no operands.
    And(Vec<ExprId>),
    /// Kleene's disjunction; FALSE when there are no operands.
    Or(Vec<ExprId>),
    /// `NOT a`
    Not(ExprId),
    /// `a IS NULL`: never NULL itself.
    IsNull(ExprId),
    /// CASE: `then` where the condition is TRUE, else `otherwise`.
    Ite {
        /// Condition; NULL selects `otherwise`.
        cond: ExprId,
        /// Value where it is TRUE.
        then: ExprId,
        /// Value where it is FALSE or NULL.
        otherwise: ExprId,
    },
    /// Membership of a set without NULL; NULL where `a` is NULL.
    InSet(ExprId, SetId),
    /// A fold of a bucket.
    Agg(Agg),
}

/// An expression over one bucket, the same for all buckets of a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// A fold of the bucket.
    Fold(Fold),
    /// Constant number `i` of the bucket's part.
    Part(u8),
    /// Constant number `i` of the bucket's key.
    Key(u8),
    /// A constant.
    Const(Option<i64>),
    /// `-a`
    Neg(Box<Template>),
    /// `a + b`
    Add(Box<Template>, Box<Template>),
    /// `a - b`
    Sub(Box<Template>, Box<Template>),
    /// `a * b`
    Mul(Box<Template>, Box<Template>),
    /// `a / b`, truncating; NULL where `b` is 0.
    Div(Box<Template>, Box<Template>),
    /// `a % b`; NULL where `b` is 0.
    Rem(Box<Template>, Box<Template>),
    /// A comparison.
    Cmp(CmpOp, Box<Template>, Box<Template>),
    /// Conjunction.
    And(Vec<Template>),
    /// Disjunction.
    Or(Vec<Template>),
    /// `NOT a`
    Not(Box<Template>),
    /// `a IS NULL`
    IsNull(Box<Template>),
    /// CASE.
    Ite(Box<Template>, Box<Template>, Box<Template>),
    /// Membership.
    InSet(Box<Template>, SetId),
}
