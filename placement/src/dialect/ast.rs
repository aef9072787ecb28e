//! The dialect's own syntax tree.
//!
//! `sqlparser` accepts the SQL of many databases; this tree holds only what the dialect means something
//! by, every node with its place, so that the compiler has no arm for a construct it does not support:
//! those are refused, by name, where the tree is made ([`super::lower`]).

use crate::error::Place;

/// A literal of the dialect. A decimal is exact: `mantissa / 10^places`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Literal {
    /// NULL.
    Null,
    /// A 64-bit integer (TRUE is 1, FALSE is 0).
    Integer(i64),
    /// An exact decimal of at most six places, as millionths.
    Millionths(i64),
    /// Text.
    Text(String),
}

/// Prefix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// `-x`
    Negate,
    /// `NOT x`
    Not,
}

/// Infix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Infix {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Concat,
}

impl Infix {
    /// The operator as it is written.
    pub fn sql(self) -> &'static str {
        match self {
            Infix::Add => "+",
            Infix::Subtract => "-",
            Infix::Multiply => "*",
            Infix::Divide => "/",
            Infix::Modulo => "%",
            Infix::Equal => "=",
            Infix::NotEqual => "<>",
            Infix::Less => "<",
            Infix::LessOrEqual => "<=",
            Infix::Greater => ">",
            Infix::GreaterOrEqual => ">=",
            Infix::And => "AND",
            Infix::Or => "OR",
            Infix::Concat => "||",
        }
    }
}

/// Aggregate functions, `all_equal` and `all_different` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Aggregate {
    CountRows,
    Count,
    CountDistinct,
    Sum,
    Min,
    Max,
    Avg,
    AllEqual,
    AllDifferent,
}

/// Of which assignment an aggregate speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The one that is decided.
    Decided,
    /// What stands now: `present(sum(x))`. Decisions do not change it.
    Present,
}

/// An expression and where it stands.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub node: Node,
}

/// The kinds of expressions.
#[derive(Clone, Debug)]
pub enum Node {
    /// A constant of the text.
    Literal(Literal),
    /// `column` or `table.column`.
    Column {
        /// The qualifier, if written.
        table: Option<String>,
        /// The column.
        name: String,
    },
    /// A prefix operator.
    Prefix(Prefix, Box<Expr>),
    /// An infix operator.
    Infix(Infix, Box<Expr>, Box<Expr>),
    /// `x IS NULL`; IS NOT NULL is its negation.
    IsNull(Box<Expr>),
    /// `x IS TRUE`: never NULL.
    IsTrue(Box<Expr>),
    /// `a IS NOT DISTINCT FROM b`: equality that holds between NULLs.
    Same(Box<Expr>, Box<Expr>),
    /// `x IN (a, b, c)`.
    InList(Box<Expr>, Vec<Expr>),
    /// `x IN (SELECT …)`.
    InQuery(Box<Expr>, Box<Query>),
    /// `EXISTS (SELECT …)`.
    Exists(Box<Query>),
    /// `(SELECT …)` as a value.
    Scalar(Box<Query>),
    /// `CASE WHEN c THEN v … ELSE e END`; a CASE with an operand is rewritten to equalities.
    Case(Vec<(Expr, Expr)>, Option<Box<Expr>>),
    /// An aggregate over the group.
    Aggregate(Aggregate, Option<Box<Expr>>, When),
    /// Any other function, by its name in lower case. On constants it is SQLite's.
    Call(String, Vec<Expr>),
}

/// One item of a select list.
#[derive(Clone, Debug)]
pub enum Item {
    /// `*`
    All(Place),
    /// `t.*`
    AllOf(Place, String),
    /// An expression with its name (`AS name`, else the column's own, else its text).
    Expr(Expr, String),
}

/// What stands in a FROM clause.
#[derive(Clone, Debug)]
pub enum Relation {
    /// A table or view by name.
    Named(String),
    /// `(SELECT …)`.
    Derived(Box<Query>),
}

/// A relation with its alias.
#[derive(Clone, Debug)]
pub struct From {
    /// Where it stands.
    pub place: Place,
    /// The relation.
    pub relation: Relation,
    /// The name by which its columns are qualified.
    pub alias: String,
}

/// A subquery, or the query of a view: its text always, its tree if the dialect can hold it.
///
/// SQLite runs constant queries from the text, so those may use all of SQL; the refusal is raised only
/// when the query turns out to depend on decisions or on the rows around it.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where it starts.
    pub place: Place,
    /// Its text.
    pub sql: String,
    /// The tree, or why there is none.
    pub select: std::result::Result<Box<Select>, crate::error::Error>,
    /// The names of all relations that it mentions, at any depth, in lower case.
    pub relations: Vec<String>,
    /// Whether an identifier `controllable__*` stands in it.
    pub names_decision: bool,
    /// Whether a select list in it has a `*` outside of EXISTS.
    pub has_wildcard: bool,
}

/// A select block.
#[derive(Clone, Debug)]
pub struct Select {
    /// Where it starts.
    pub place: Place,
    /// The select list.
    pub items: Vec<Item>,
    /// FROM, all joins inner.
    pub from: Vec<From>,
    /// The conjuncts of ON and WHERE together.
    pub conditions: Vec<Expr>,
    /// GROUP BY; `None` if there is none.
    pub group_by: Option<Vec<Expr>>,
    /// HAVING.
    pub having: Option<Expr>,
}

/// How a constraint judges its rows.
#[derive(Clone, Debug)]
pub enum Goal {
    /// Must not be FALSE on any row.
    Check {
        /// The condition.
        expr: Expr,
        /// Checked only at the end of a plan, not in between (`DEFERRABLE`).
        deferrable: Deferral,
    },
    /// The sum over the rows is made as small, or as large, as possible.
    Objective {
        /// Which of the two.
        sense: Sense,
        /// The cell.
        expr: Expr,
        /// WEIGHT, at least 1.
        weight: i64,
        /// TIER, at least 0; lower tiers first.
        tier: u32,
    },
}

/// When a hard policy is checked in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferral {
    /// In every intermediate state.
    EachStep,
    /// In the last state only.
    AtEnd,
}

/// The direction of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// As small as possible.
    Minimize,
    /// As large as possible.
    Maximize,
}

/// `CREATE CONSTRAINT`.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// Its name.
    pub name: String,
    /// Where the statement starts.
    pub place: Place,
    /// Replaces one of the same name.
    pub or_replace: bool,
    /// The rows.
    pub query: Query,
    /// The judgement.
    pub goal: Goal,
}

/// `CREATE VIEW`.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Where the statement starts.
    pub place: Place,
    /// Names for the columns, if written.
    pub columns: Option<Vec<String>>,
    /// The query.
    pub query: Query,
    /// Where the query's text starts.
    pub query_place: Place,
}

/// A decision column as its CREATE TABLE declares it: what SQLite's own catalogue does not tell.
#[derive(Clone, Debug)]
pub struct DecisionColumn {
    /// The column, `controllable__*`.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Whether the word NULL allows the decision to be NULL.
    pub nullable: bool,
    /// The values of a CHECK (column IN (…)), if there is one.
    pub listed: Option<Vec<Literal>>,
}

/// One statement of a script.
#[derive(Clone, Debug)]
pub enum Statement {
    /// CREATE TABLE: SQLite runs it; the decision columns are noted.
    Table {
        /// Its name.
        name: String,
        /// Where the statement starts.
        place: Place,
        /// Its text.
        sql: String,
        /// Its decision columns.
        decisions: Vec<DecisionColumn>,
    },
    /// CREATE VIEW.
    View(View),
    /// CREATE CONSTRAINT.
    Constraint(Box<Constraint>),
    /// INSERT, UPDATE, DELETE, CREATE INDEX: SQLite's.
    Data {
        /// Where it starts.
        place: Place,
        /// Its text.
        sql: String,
    },
}
