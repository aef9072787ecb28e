//! Select blocks after names are resolved and types checked: what the compiler runs.

use std::rc::Rc;

use crate::dialect::ast::{Aggregate, Infix, When};
use crate::error::Place;
use crate::tables::Value;

/// A relation: the mirror of a table (or of a constant query), or a view that depends on decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RelationId {
    Mirror(usize),
    View(usize),
}

/// The static type of an expression. SQLite's truth values are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A number that is known to be 0, 1 or NULL.
    Truth,
    Number,
    Text,
    /// Nothing but NULL is known.
    Any,
}

impl Type {
    pub(crate) fn is_numeric(self) -> bool {
        match self {
            Type::Truth | Type::Number | Type::Any => true,
            Type::Text => false,
        }
    }
}

/// An expression with names resolved.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub place: Place,
    pub ty: Type,
    /// Whether its value depends on a decision.
    pub decision: bool,
    /// The sources of its own block that it reads, as bits.
    pub sources: u64,
    /// Whether it reads rows of an enclosing block.
    pub outer: bool,
    pub node: Node,
}

/// Functions that the compiler knows; the graph or SQLite gives them their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operator {
    Negate,
    Not,
    /// A number read as a truth value.
    Truth,
    IsNull,
    /// TRUE or FALSE, never NULL.
    IsTrue,
    Same,
    Infix(Infix),
    /// condition, then, otherwise
    Choose,
    /// Membership of constant set number n; the set's NULL makes a miss NULL.
    InSet(u32),
    /// SQLite's function number n of [`super::fold::FUNCTIONS`].
    Call(u8),
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Const(Value),
    /// A column of a source, `level` blocks up.
    Column {
        level: u32,
        source: usize,
        column: usize,
    },
    /// A key of the group, `level` blocks up.
    Key {
        level: u32,
        key: usize,
    },
    /// An aggregate of the group.
    Aggregate(usize),
    Apply(Operator, Vec<Expr>),
    /// The value of a constant query, by its number.
    ConstantScalar(usize),
    InBlock(Box<Expr>, Rc<Block>),
    Exists(Rc<Block>),
    Scalar(Rc<Block>),
}

/// A source of a block.
#[derive(Clone, Debug)]
pub(crate) struct SourceOf {
    pub relation: RelationId,
    pub alias: String,
}

/// One aggregate of a block.
#[derive(Clone, Debug)]
pub(crate) struct AggregateOf {
    pub place: Place,
    pub function: Aggregate,
    pub argument: Option<Expr>,
    pub when: When,
}

/// A resolved select block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// A number of its own, for caches.
    pub id: usize,
    pub place: Place,
    pub sources: Vec<SourceOf>,
    pub conditions: Vec<Expr>,
    /// Whether rows are folded into groups.
    pub grouped: bool,
    pub keys: Vec<Expr>,
    pub key_names: Vec<String>,
    pub having: Option<Expr>,
    pub aggregates: Vec<AggregateOf>,
    pub outputs: Vec<(String, Expr)>,
    /// Whether it reads rows of enclosing blocks anywhere.
    pub correlated: bool,
    /// Whether which rows it has, or what they hold, depends on a decision.
    pub decision: bool,
    /// What its subqueries read.
    pub links: Vec<Link>,
}

/// A relation that a subquery reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub relation: RelationId,
    /// The equality that ties its rows to the rows around them: (its column, the outer source, the outer
    /// source's column).
    pub by: Option<(usize, usize, usize)>,
}

impl Expr {
    /// Whether two expressions are the same by structure (for GROUP BY keys).
    pub(crate) fn same(&self, other: &Expr) -> bool {
        match (&self.node, &other.node) {
            (Node::Const(a), Node::Const(b)) => a == b,
            (
                Node::Column {
                    level: a,
                    source: b,
                    column: c,
                },
                Node::Column {
                    level: x,
                    source: y,
                    column: z,
                },
            ) => (a, b, c) == (x, y, z),
            (Node::Apply(f, a), Node::Apply(g, b)) => {
                f == g && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Node::ConstantScalar(a), Node::ConstantScalar(b)) => a == b,
            (Node::Aggregate(a), Node::Aggregate(b)) => a == b,
            (Node::Key { level: a, key: b }, Node::Key { level: x, key: y }) => (a, b) == (x, y),
            (Node::Scalar(a), Node::Scalar(b)) => a.id == b.id,
            _ => false,
        }
    }
}
